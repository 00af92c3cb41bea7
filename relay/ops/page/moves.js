// Requeue and discard dead letters.
//
// Rules: one move at a time, from the button until the list shows the result. A move first collects the ids of its
// dead letters: an event that the upstream rejects again becomes a new dead letter, which the same move must not
// requeue in an endless loop. If a request gets no response, the page reports that the result is unknown.

import { post } from "./call.js";
import { byId, number, setText } from "./dom.js";
import { allIds, countChanged, pause, resume, selectedIds } from "./letters.js";

const BATCH = 100;
const DONE = { requeue: "requeued", discard: "discarded" };
const CONFIRM = {
  requeue: ["Requeue", "The relay sends them again, within the limits.", "Requeue"],
  discard: ["Discard", "This cannot be undone.", "Discard permanently"],
};
let busy = false;

async function move(verb, find) {
  if (busy) return;
  setBusy(true);
  pause();
  let message = null;
  try {
    const ids = await find();
    if (!ids.length) message = "No dead letters left.";
    else if ((verb === "requeue" && ids.length === 1) || (await confirmed(verb, ids.length))) message = await carryOut(verb, ids);
    else setText("letters-result", `Nothing was ${DONE[verb]}.`);
  } catch (error) {
    message = `Nothing was ${DONE[verb]}. ${error.message}`;
  } finally {
    if (message !== null) byId("letters-title").focus();
    await resume(message).finally(() => setBusy(false));
  }
}

// The attribute `disabled` would take the focus from the pressed button.
function setBusy(now) {
  busy = now;
  const buttons = byId("letters").querySelectorAll("#letters-tools button, #letters-list button, #letters-more");
  for (const button of buttons) button.setAttribute("aria-disabled", now);
}

function findAll() {
  setText("letters-result", "Searching all dead letters …");
  return allIds();
}

// Move the dead letters in batches. Return a message with the result.
async function carryOut(verb, ids) {
  const progress = byId("letters-progress");
  Object.assign(progress, { hidden: ids.length <= BATCH, max: ids.length, value: 0 });
  let [moved, failed] = [0, null];
  for (let first = 0; first < ids.length && !failed; first += BATCH) {
    const data = await post(`dead-letters/${verb}`, { ids: ids.slice(first, first + BATCH) });
    progress.value = first + BATCH;
    if (!data.success) failed = data;
    else {
      moved += data[DONE[verb]];
      countChanged(data.remaining);
    }
  }
  progress.hidden = true;
  return resultText(DONE[verb], moved, ids.length, failed);
}

function resultText(done, moved, total, failed) {
  if (!failed) return `${number(moved)} of ${number(total)} ${done}.`;
  if (failed.status) return `${number(moved)} of ${number(total)} ${done}. ${failed.error}`;
  const what = total === 1 ? "whether it was" : `how many of ${number(total)} were`;
  const least = moved ? `, at least ${number(moved)}` : "";
  return `It is unknown ${what} ${done}${least}. ${failed.error}`;
}

function confirmed(verb, many) {
  const dialog = byId("confirm");
  const [asked, effect, button] = CONFIRM[verb];
  setText("confirm-text", `${asked} ${many === 1 ? "this event" : `these ${number(many)} events`}? ${effect}`);
  setText("confirm-yes", button);
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
  byId(`${verb}-selected`).addEventListener("click", () => move(verb, selectedIds));
  byId(`${verb}-all`).addEventListener("click", () => move(verb, findAll));
}
