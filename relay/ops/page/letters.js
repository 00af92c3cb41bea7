// The list of dead letters: search, selection and updates.
//
// Rules: the shown list stays until its replacement has arrived, and buttons apply to the shown list, not to text in
// the search field. One request at a time: an action of the user aborts the pending request, and a change of the
// number of dead letters waits for it. A hidden list sends no request. The list follows that number only while the user does not work in it. After a
// failure, the next status triggers another request.

import { call, useToken } from "./call.js";
import { showConfiguration } from "./configuration.js";
import { byId, element, number, setText, tenant } from "./dom.js";
import { showGroups } from "./groups.js";
import { pretty } from "./pretty.js";
import { isShown, onView } from "./views.js";

const SHOWN_AT_ONCE = 20;
const ALL_AT_ONCE = 100;
const REASONS = new Map([...byId("letters-reason").options].map((option) => [option.value, option.textContent]));
let count = null; // the number of dead letters in the last status; null before the first one
let listed = null; // the number when the shown list was requested; null without a list or if a later request failed
let wanted = null; // the last submitted filter
let shown = null; // {filter, nextAfter} of the shown rows
let owed = null; // message to show with the list that the user has requested; null without such a request
let pending = null; // AbortController of the pending request
let paused = false;

export function countChanged(now) {
  count = now;
  follow();
}

// Do not change the rows until `resume`: a move is in progress.
export function pause() {
  paused = true;
  pending?.abort();
  pending = null;
}

// `message` is the result of the move; null without a move.
export async function resume(message) {
  paused = false;
  if (message === null) follow();
  else await show(message);
}

// Load the list after an action of the user, and show `message` with it.
async function show(message) {
  owed = message;
  byId("requeue-all").disabled = byId("discard-all").disabled = true;
  setText("letters-result", message || "Searching …");
  if (!paused) await load();
}

export const selectedIds = () => boxes().filter((box) => box.checked).map((box) => Number(box.value));

// Return the ids of all dead letters that match the filter of the shown list. Throws Error.
export async function allIds() {
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
  if (paused || pending || count === null || !isShown("letters")) return;
  if (owed === null) {
    if (!byId("token-form").hidden) return;
    if (count === listed) return setText("letters-news", "");
    if (shown && working()) return setText("letters-news", `Now ${number(count)} dead letters.`);
  }
  load();
}

function working() {
  return byId("letters-list").querySelector("details[open], :checked") || byId("letters").contains(document.activeElement);
}

async function load() {
  const asked = count;
  const filter = (wanted ??= typed());
  const data = await request(filter, 0);
  if (!data) return;
  if (!data.success) return failed(data);
  if (owed === null && shown && working()) return follow();
  listed = asked;
  const message = owed;
  owed = null;
  byId("letters-list").replaceChildren();
  setText("letters-news", "");
  add(filter, data, message);
  showGroups(count, (reason) => REASONS.get(reason) ?? reason, choose);
  follow();
}

// Show the dead letters of a group.
function choose(reason, search) {
  byId("letters-reason").value = reason;
  byId("letters-search").value = search;
  byId("letters-filter").requestSubmit();
}

function failed({ status, error }) {
  listed = null;
  setText("letters-result", owed && !owed.includes(error) ? `${owed} ${error}` : owed || error);
  if (status === 401) owed = null; // Submitting the token requests the list again.
}

async function showMore() {
  if (paused) return;
  const data = await request(shown.filter, shown.nextAfter);
  if (!data) return;
  if (data.success) add(shown.filter, data, "");
  else setText("letters-result", data.error);
  follow();
}

// Return the next page of a filter, or null if another action aborted the request.
async function request(filter, after) {
  pending?.abort();
  const mine = (pending = new AbortController());
  let data;
  do {
    data = await call(query(filter, after, { limit: SHOWN_AT_ONCE }), { signal: mine.signal });
    after = data.next_after;
  } while (data.success && !data.dead_letters.length && after !== null);
  if (pending !== mine) return null;
  pending = null;
  return data;
}

const query = (filter, after, more) => `dead-letters?${new URLSearchParams({ newest: true, after, ...more, ...filter })}`;

function typed() {
  const fields = { reason: byId("letters-reason").value, search: byId("letters-search").value.trim() };
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value));
}

function add(filter, data, message) {
  const list = byId("letters-list");
  const narrowed = Object.keys(filter).length > 0;
  shown = { filter, nextAfter: data.next_after };
  list.append(...data.dead_letters.map(row));
  const rows = list.children.length;
  byId("letters-more").hidden = shown.nextAfter === null;
  byId("letters-tools").hidden = !rows;
  byId("letters-every").checked = false;
  byId("requeue-all").disabled = byId("discard-all").disabled = owed !== null;
  byId("requeue-all").textContent = narrowed ? "Requeue all found" : "Requeue all";
  byId("discard-all").textContent = narrowed ? "Discard all found" : "Discard all";
  const some = shown.nextAfter === null ? "" : "The newest ";
  const none = narrowed ? "No dead letters found." : "No dead letters.";
  setText("letters-result", message || (rows ? `${some}${number(rows)} ${narrowed ? "found" : "shown"}.` : none));
  selectionChanged();
}

function row(letter) {
  const name = `letter ${letter.id} of ${letter.device_id}`;
  const box = element("input", { type: "checkbox", "aria-label": `Select ${name}`, value: letter.id });
  const message = letter.message || (letter.status ? `Status ${letter.status} without a message` : "Never sent");
  const body = letter.body !== undefined ? pretty(letter.body) : `(not UTF-8, shown as base64) ${letter.body_base64}`;
  const act = (text, verb, className = "") =>
    element("button", { type: "button", text, className, "aria-label": `${text} ${name}`, "data-verb": verb, value: letter.id });
  return element("li", {}, box, element("div", {},
    element("p", { className: "message", text: message }),
    element("p", { text: `${REASONS.get(letter.reason) ?? letter.reason}, ${new Date(letter.dead_at).toLocaleString()}` }),
    element("p", { className: "soft", text: `${letter.device_id}, ${letter.platform}, ${tenant(letter.tenant)}` }),
    element("details", {}, element("summary", { text: `${letter.event_type} ${letter.event_id}` }),
      element("pre", { id: `letter-${letter.id}`, text: body, tabindex: "0", role: "group", "aria-label": `Event of ${name}` }),
      element("button", { type: "button", text: "Copy", "aria-label": `Copy event of ${name}`, "data-copy": `letter-${letter.id}` })),
    element("div", { className: "acts" }, act("Requeue", "requeue"), act("Discard", "discard", "danger"))));
}

onView(follow);

const boxes = () => [...byId("letters-list").querySelectorAll("input[type=checkbox]")];

function selectionChanged() {
  byId("requeue-selected").disabled = byId("discard-selected").disabled = !selectedIds().length;
}

byId("letters-list").addEventListener("change", selectionChanged);
byId("letters-every").addEventListener("change", (event) => {
  for (const box of boxes()) box.checked = event.target.checked;
  selectionChanged();
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
  if (isShown("configuration")) showConfiguration();
  if (isShown("letters")) show("");
});
