// The dead letters: shown, searched, requeued and discarded. What is to be moved is named by id and found out
// first: what the upstream refuses a second time is a new dead letter, and must not go round for ever.
// The token stays in this page's memory.

import { byId, element, number, say } from "./dom.js";

const AT_ONCE = 100;
const SHOWN_AT_ONCE = 20;
const DONE = { requeue: "requeued", discard: "discarded" };
const REASONS = new Map([...byId("letters-reason").options].map((option) => [option.value, option.textContent]));
let token = "";
let nextAfter = 0;
let busy = false;
let count = null;
let asked = 0; // how often the list was; an answer that is not to the last question is dropped

async function call(path, options = {}) {
  const headers = { ...options.headers };
  if (token) headers.Authorization = `Bearer ${token}`;
  let data;
  try {
    const answer = await fetch(path, { ...options, headers });
    data = await answer.json();
    byId("token-form").hidden = answer.status !== 401;
  } catch {
    data = { success: false, error: "The relay does not answer." };
  }
  return data;
}

export const post = (path, data) =>
  call(path, { method: "POST", headers: { "Content-Type": "application/json" }, body: JSON.stringify(data) });

// The status says how many there are. The list follows by itself only while nobody works in it.
export function changed(now) {
  const [before] = [count, (count = now)];
  if (before === now || busy) return;
  const working = byId("letters-list").querySelector("details[open], :checked, :focus")
    || byId("letters").contains(document.activeElement);
  if (before !== null && working) return say("letters-news", `There are ${number(now)} now.`);
  if (now || before) showFirst();
}

function query(after, more = {}) {
  const wanted = new URLSearchParams({ after, ...more });
  const [reason, search] = [byId("letters-reason").value, byId("letters-search").value.trim()];
  if (reason) wanted.set("reason", reason);
  if (search) wanted.set("search", search);
  return `dead-letters?${wanted}`;
}

async function showFirst() {
  byId("letters-list").replaceChildren();
  say("letters-news", "");
  nextAfter = 0;
  await showMore();
}

async function showMore() {
  const list = byId("letters-list");
  const question = ++asked;
  let found = 0;
  do {
    const data = await call(query(nextAfter, { limit: SHOWN_AT_ONCE }));
    if (question !== asked) return;
    if (!data.success) return say("letters-said", data.error);
    list.append(...data.dead_letters.map(row));
    found += data.dead_letters.length;
    nextAfter = data.next_after;
  } while (nextAfter !== null && !found);
  byId("letters-more").hidden = nextAfter === null;
  byId("letters-tools").hidden = !list.children.length;
  byId("letters-every").checked = false;
  const narrowed = byId("letters-reason").value || byId("letters-search").value.trim();
  const some = nextAfter === null ? "" : "The oldest ";
  say("letters-said", list.children.length
    ? `${some}${number(list.children.length)} ${narrowed ? "found" : "shown"}.`
    : narrowed ? "None found." : "There are none.");
  byId("requeue-all").textContent = narrowed ? "Requeue all that are found" : "Requeue all";
  byId("discard-all").textContent = narrowed ? "Discard all that are found" : "Discard all";
  chosenChanged();
}

function row(letter) {
  const name = `letter ${letter.id} of ${letter.device_id}`;
  const box = element("input", { type: "checkbox", "aria-label": `Choose ${name}`, value: letter.id });
  const words = letter.words || (letter.status ? `Answered ${letter.status} without a word` : "Never sent");
  const body = letter.body ?? `(not text any more, in base64) ${letter.body_base64}`;
  const act = (text, verb, className = "") => {
    const button = element("button", { type: "button", text, className, "aria-label": `${text} ${name}` });
    button.addEventListener("click", () => move(verb, [letter.id]));
    return button;
  };
  return element("li", {}, box, element("div", {},
    element("p", { className: "words", text: words }),
    element("p", { text: `${REASONS.get(letter.reason) ?? letter.reason}, ${new Date(letter.dead_at).toLocaleString()}` }),
    element("p", { className: "soft", text: `${letter.device_id}, ${letter.platform}, tenant ${letter.tenant}` }),
    element("details", {}, element("summary", { text: `Event ${letter.event_id}` }),
      element("pre", { text: body, tabindex: "0", role: "group", "aria-label": `Event of ${name}` })),
    element("div", { className: "acts" }, act("Requeue", "requeue"), act("Discard", "discard", "grave"))));
}

const boxes = () => [...byId("letters-list").querySelectorAll("input[type=checkbox]")];
const chosen = () => boxes().filter((box) => box.checked).map((box) => Number(box.value));

function chosenChanged() {
  const any = chosen().length > 0;
  byId("requeue-chosen").disabled = byId("discard-chosen").disabled = !any || busy;
  byId("requeue-all").disabled = byId("discard-all").disabled = busy;
}

// Every id that matches, as there are now.
async function everyId() {
  const ids = [];
  let after = 0;
  while (after !== null) {
    const data = await call(query(after, { limit: AT_ONCE, bodies: "false" }));
    if (!data.success) throw new Error(data.error);
    ids.push(...data.dead_letters.map((letter) => letter.id));
    after = data.next_after;
  }
  return ids;
}

async function move(verb, ids) {
  if (busy || (verb === "discard" && !(await confirmed(ids.length)))) return;
  busy = true;
  chosenChanged();
  const progress = byId("letters-progress");
  Object.assign(progress, { hidden: ids.length <= AT_ONCE, max: ids.length, value: 0 });
  let [moved, problem] = [0, ""];
  for (let first = 0; first < ids.length && !problem; first += AT_ONCE) {
    const data = await post(`dead-letters/${verb}`, { ids: ids.slice(first, first + AT_ONCE) });
    if (data.success) moved += data[DONE[verb]];
    else problem = ` ${data.error}`;
    progress.value = first + AT_ONCE;
  }
  progress.hidden = true;
  await showFirst();
  busy = false;
  chosenChanged();
  say("letters-said", `${number(moved)} of ${number(ids.length)} ${DONE[verb]}.${problem}`);
  byId("letters-title").focus();
}

async function moveAll(verb) {
  try {
    await move(verb, await everyId());
  } catch (error) {
    say("letters-said", error.message);
  }
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
byId("letters-list").addEventListener("change", chosenChanged);
byId("letters-every").addEventListener("change", (event) => {
  for (const box of boxes()) box.checked = event.target.checked;
  chosenChanged();
});
byId("requeue-chosen").addEventListener("click", () => move("requeue", chosen()));
byId("discard-chosen").addEventListener("click", () => move("discard", chosen()));
byId("requeue-all").addEventListener("click", () => moveAll("requeue"));
byId("discard-all").addEventListener("click", () => moveAll("discard"));
byId("letters-more").addEventListener("click", showMore);
byId("letters-filter").addEventListener("submit", (event) => { event.preventDefault(); showFirst(); });
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  token = byId("token").value.trim();
  byId("token").value = "";
  showFirst();
});
