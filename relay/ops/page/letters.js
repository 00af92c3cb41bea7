// The list of dead letters: searched, shown, chosen from, and brought up to date.
//
// Rules: what is shown stays until what comes after it is there, and buttons mean what is shown, not what is being
// typed. One question at a time: the user's ends the one before, a change of their number waits for it. The list
// follows that number by itself only while nobody works in it, and tries again what failed with the next status.

import { call, useToken } from "./call.js";
import { byId, element, number, say } from "./dom.js";

const SHOWN_AT_ONCE = 20;
const ALL_AT_ONCE = 100;
const REASONS = new Map([...byId("letters-reason").options].map((option) => [option.value, option.textContent]));
let count = 0; // as the status says
let listed = 0; // as it was when the list shown was asked for; null if a later one failed
let wanted = null; // the filter submitted last
let shown = null; // {filter, nextAfter} of the rows
let owed = null; // words to go with a list that the user waits for; null: waits for none
let question = null; // what would abort the one under way
let paused = false;

export function changed(now) {
  count = now;
  follow();
}

// Until `goOn` no row goes and none comes: some are being moved.
export function pause() {
  paused = true;
  question?.abort();
  question = null;
}

// `words` say what was done; null: nothing was.
export async function goOn(words) {
  paused = false;
  if (words === null) follow();
  else await show(words);
}

// The list anew, because the user did something; `words` go with it.
async function show(words) {
  owed = words;
  byId("requeue-all").disabled = byId("discard-all").disabled = true;
  say("letters-said", words || "Looking …");
  if (!paused) await load();
}

export const chosen = () => boxes().filter((box) => box.checked).map((box) => Number(box.value));

// Every id that the filter of what is shown finds, as there are now. Raises Error.
export async function everyId() {
  const ids = [];
  let after = 0;
  while (after !== null) {
    const data = await call(query(shown.filter, after, { limit: ALL_AT_ONCE, bodies: "false" }));
    if (!data.success) throw new Error(data.error);
    ids.push(...data.dead_letters.map((letter) => letter.id));
    after = data.next_after;
  }
  return ids;
}

function follow() {
  if (paused || question) return;
  if (owed === null) {
    if (!byId("token-form").hidden) return;
    if (count === listed) return say("letters-news", "");
    if (shown && working()) return say("letters-news", `There are ${number(count)} now.`);
  }
  load();
}

function working() {
  return byId("letters-list").querySelector("details[open], :checked") || byId("letters").contains(document.activeElement);
}

async function load() {
  const asked = count;
  const filter = (wanted ??= typed());
  const data = await ask(filter, 0);
  if (!data) return;
  if (!data.success) return failed(data);
  if (owed === null && shown && working()) return follow();
  listed = asked;
  const words = owed;
  owed = null;
  byId("letters-list").replaceChildren();
  say("letters-news", "");
  add(filter, data, words);
  follow();
}

function failed({ status, error }) {
  listed = null;
  say("letters-said", owed && !owed.includes(error) ? `${owed} ${error}` : owed || error);
  if (status === 401) owed = null; // only the token helps, which asks again
}

async function showMore() {
  if (paused) return;
  const data = await ask(shown.filter, shown.nextAfter);
  if (!data) return;
  if (data.success) add(shown.filter, data, "");
  else say("letters-said", data.error);
  follow();
}

// The next that a filter finds; null if something else was done before they came.
async function ask(filter, after) {
  question?.abort();
  const mine = (question = new AbortController());
  let data;
  do {
    data = await call(query(filter, after, { limit: SHOWN_AT_ONCE }), { signal: mine.signal });
    after = data.next_after;
  } while (data.success && !data.dead_letters.length && after !== null);
  if (question !== mine) return null;
  question = null;
  return data;
}

const query = (filter, after, more) => `dead-letters?${new URLSearchParams({ after, ...more, ...filter })}`;

function typed() {
  const fields = { reason: byId("letters-reason").value, search: byId("letters-search").value.trim() };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
}

function add(filter, data, words) {
  const list = byId("letters-list");
  const narrowed = Object.keys(filter).length > 0;
  shown = { filter, nextAfter: data.next_after };
  list.append(...data.dead_letters.map(row));
  const rows = list.children.length;
  byId("letters-more").hidden = shown.nextAfter === null;
  byId("letters-tools").hidden = !rows;
  byId("letters-every").checked = false;
  byId("requeue-all").disabled = byId("discard-all").disabled = owed !== null;
  byId("requeue-all").textContent = narrowed ? "Requeue all that are found" : "Requeue all";
  byId("discard-all").textContent = narrowed ? "Discard all that are found" : "Discard all";
  const some = shown.nextAfter === null ? "" : "The oldest ";
  const none = narrowed ? "None found." : "There are none.";
  say("letters-said", words || (rows ? `${some}${number(rows)} ${narrowed ? "found" : "shown"}.` : none));
  choiceChanged();
}

function row(letter) {
  const name = `letter ${letter.id} of ${letter.device_id}`;
  const box = element("input", { type: "checkbox", "aria-label": `Choose ${name}`, value: letter.id });
  const words = letter.words || (letter.status ? `Answered ${letter.status} without a word` : "Never sent");
  const body = letter.body ?? `(not text any more, in base64) ${letter.body_base64}`;
  const act = (text, verb, className = "") =>
    element("button", { type: "button", text, className, "aria-label": `${text} ${name}`, "data-verb": verb, value: letter.id });
  return element("li", {}, box, element("div", {},
    element("p", { className: "words", text: words }),
    element("p", { text: `${REASONS.get(letter.reason) ?? letter.reason}, ${new Date(letter.dead_at).toLocaleString()}` }),
    element("p", { className: "soft", text: `${letter.device_id}, ${letter.platform}, tenant ${letter.tenant}` }),
    element("details", {}, element("summary", { text: `Event ${letter.event_id}` }),
      element("pre", { text: body, tabindex: "0", role: "group", "aria-label": `Event of ${name}` })),
    element("div", { className: "acts" }, act("Requeue", "requeue"), act("Discard", "discard", "grave"))));
}

const boxes = () => [...byId("letters-list").querySelectorAll("input[type=checkbox]")];

function choiceChanged() {
  byId("requeue-chosen").disabled = byId("discard-chosen").disabled = !chosen().length;
}

byId("letters-list").addEventListener("change", choiceChanged);
byId("letters-every").addEventListener("change", (event) => {
  for (const box of boxes()) box.checked = event.target.checked;
  choiceChanged();
});
byId("letters-more").addEventListener("click", showMore);
byId("letters-filter").addEventListener("submit", (event) => {
  event.preventDefault();
  wanted = typed();
  show("");
});
byId("token-form").addEventListener("submit", (event) => {
  event.preventDefault();
  useToken(byId("token").value.trim());
  byId("token").value = "";
  show("");
});
