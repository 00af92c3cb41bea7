// The dead letters by cause: reason, status, message and event type, with number, first and last time. The groups cover
// the newest 1,000 dead letters, which the page reads without bodies in requests of 100.

import { call } from "./call.js";
import { byId, element, fill, number, setText } from "./dom.js";

const MOST = 1000;
const AT_ONCE = 100;
let reading = 0; // Number of the latest reading. An earlier one stops.

// Read the groups again. `choose` receives the filter of the group that the user selects, and `reasonText` names a reason.
export async function showGroups(total, reasonText, choose) {
  const mine = (reading += 1);
  const letters = [];
  for (let after = 0; after !== null && letters.length < MOST;) {
    const data = await call(`dead-letters?${new URLSearchParams({ newest: true, bodies: false, limit: AT_ONCE, after })}`);
    if (mine !== reading || !data.success) return;
    letters.push(...data.dead_letters);
    after = data.next_after;
  }
  const groups = new Map();
  for (const letter of letters) {
    const cause = letter.message.replace(/(?<=\D)\d+/g, "#") || (letter.status ? `status ${letter.status}` : "never sent");
    const key = JSON.stringify([letter.reason, letter.status, cause, letter.event_type]);
    const group = groups.get(key) ?? { letter, cause, count: 0, last: letter.dead_at };
    group.count += 1;
    group.first = letter.dead_at;
    groups.set(key, group);
  }
  const sorted = [...groups.values()].sort((a, b) => b.count - a.count);
  byId("groups-table").hidden = !sorted.length;
  setText("groups-note", letters.length < total ? `Causes of the newest ${number(letters.length)} of ${number(total)}:` : "");
  fill(byId("group-rows"), JSON.stringify(sorted), () => sorted.map((group) => {
    const show = element("button", { type: "button", text: "Show", "aria-label": `Show dead letters: ${group.cause}, ${group.letter.event_type}` });
    show.addEventListener("click", () => choose(group.letter.reason, longestText(group)));
    return element("tr", {},
      element("th", { scope: "row" }, element("span", { text: group.cause }), " ", element("span", { className: "soft", text: reasonText(group.letter.reason) })),
      element("td", { text: group.letter.event_type }),
      element("td", { className: "number", text: number(group.count), "data-of": group.count === 1 ? "event" : "events" }),
      element("td", { className: "time", text: new Date(group.first).toLocaleString(), "data-of": "first" }),
      element("td", { className: "time", text: new Date(group.last).toLocaleString(), "data-of": "last" }),
      element("td", {}, show));
  }));
}

// Return the longest part of the cause without a number, because the relay searches for one text.
const longestText = ({ letter, cause }) =>
  letter.message ? cause.split("#").reduce((a, b) => (b.length > a.length ? b : a)).trim().slice(0, 200) : letter.event_type;
