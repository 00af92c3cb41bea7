// Requeues and discards dead letters.
//
// Rules: one move at a time, from the button until the list shows what came of it. What is to be moved is named by
// id and found out first: what the upstream refuses a second time is a new dead letter, and must not go round for
// ever. What a request without an answer did is not known, and told so.

import { post } from "./call.js";
import { byId, number, say } from "./dom.js";
import { changed, chosen, everyId, goOn, pause } from "./letters.js";

const AT_ONCE = 100;
const DONE = { requeue: "requeued", discard: "discarded" };
let busy = false;

async function move(verb, find) {
  if (busy) return;
  setBusy(true);
  pause();
  let words = null;
  try {
    const ids = await find();
    if (!ids.length) words = "There are none any more.";
    else if (verb === "requeue" || (await confirmed(ids.length))) words = await carryOut(verb, ids);
    else say("letters-said", `Nothing was ${DONE[verb]}.`);
  } catch (error) {
    words = `Nothing was ${DONE[verb]}. ${error.message}`;
  } finally {
    if (words !== null) byId("letters-title").focus();
    await goOn(words).finally(() => setBusy(false));
  }
}

// Not `disabled`, which would take the focus from the button that was pressed.
function setBusy(now) {
  busy = now;
  const buttons = byId("letters").querySelectorAll("#letters-tools button, #letters-list button, #letters-more");
  for (const button of buttons) button.setAttribute("aria-disabled", now);
}

function everyOne() {
  say("letters-said", "Looking for all of them …");
  return everyId();
}

// What came of it, in words.
async function carryOut(verb, ids) {
  const progress = byId("letters-progress");
  Object.assign(progress, { hidden: ids.length <= AT_ONCE, max: ids.length, value: 0 });
  let [moved, failed] = [0, null];
  for (let first = 0; first < ids.length && !failed; first += AT_ONCE) {
    const data = await post(`dead-letters/${verb}`, { ids: ids.slice(first, first + AT_ONCE) });
    progress.value = first + AT_ONCE;
    if (!data.success) failed = data;
    else {
      moved += data[DONE[verb]];
      changed(data.remaining);
    }
  }
  progress.hidden = true;
  return told(DONE[verb], moved, ids.length, failed);
}

function told(done, moved, total, failed) {
  if (!failed) return `${number(moved)} of ${number(total)} ${done}.`;
  if (failed.status) return `${number(moved)} of ${number(total)} ${done}. ${failed.error}`;
  const what = total === 1 ? "whether it was" : `how many of ${number(total)} were`;
  const least = moved ? `, at least ${number(moved)}` : "";
  return `It is not known ${what} ${done}${least}. ${failed.error}`;
}

function confirmed(many) {
  const dialog = byId("confirm");
  say("confirm-words", `Discard ${many === 1 ? "this event" : `these ${number(many)} events`}? Nobody can bring ${many === 1 ? "it" : "them"} back.`);
  dialog.returnValue = "";
  dialog.showModal();
  byId("confirm-no").focus();
  return new Promise((resolve) => dialog.addEventListener("close", () => resolve(dialog.returnValue === "yes"), { once: true }));
}

byId("confirm-yes").addEventListener("click", () => byId("confirm").close("yes"));
byId("confirm-no").addEventListener("click", () => byId("confirm").close(""));
byId("letters-list").addEventListener("click", ({ target }) => {
  if (target.dataset.verb) move(target.dataset.verb, () => [Number(target.value)]);
});
for (const verb of Object.keys(DONE)) {
  byId(`${verb}-chosen`).addEventListener("click", () => move(verb, chosen));
  byId(`${verb}-all`).addEventListener("click", () => move(verb, everyOne));
}
