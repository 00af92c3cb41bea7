// Events: the state of one event by its id, and what happens to events while this view or that of the types is open
// (/events/stream). The page keeps the latest 500 changes, and counts of 200 event types.

import { call } from "./call.js";
import { byId, element, number, setText } from "./dom.js";
import { onView } from "./views.js";

const MOST_LINES = 500;
const MOST_TYPES = 200;
const SHOWN = 100;
const RETRY_MS = 3000;
const CHANGES = ["stored", "delivered", "rejected", "dead_lettered", "dropped"];
let following = null; // AbortController of the stream
let retry = 0;
let changes = []; // newest first
const types = new Map();
let others = 0; // changes of further types
let drawn = 0; // handle of the next drawing

onView((view) => {
  const wanted = view === "events" || view === "types";
  if (wanted && !following) follow();
  if (!wanted) stop();
  if (wanted) draw();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop();
  else if (!byId("events").hidden || !byId("types").hidden) follow();
});

function stop() {
  clearTimeout(retry);
  following?.abort();
  following = null;
}

async function follow() {
  stop();
  const mine = (following = new AbortController());
  try {
    const response = await fetch("events/stream", { signal: mine.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    setText("events-link", "Following events as they happen.");
    await read(response.body.pipeThrough(new TextDecoderStream()).getReader());
    throw new Error("The relay ended the stream.");
  } catch (error) {
    if (mine.signal.aborted) return;
    setText("events-link", `Not following: ${error.message}`);
    retry = setTimeout(follow, RETRY_MS);
  }
}

async function read(reader) {
  let rest = "";
  for (;;) {
    const { value, done } = await reader.read();
    if (done) return;
    const lines = (rest + value).split("\n");
    rest = lines.pop();
    for (const line of lines.filter(Boolean)) add(JSON.parse(line));
    drawn ||= requestAnimationFrame(() => { drawn = 0; draw(); });
  }
}

function add(change) {
  if (!change.change) return; // the number of skipped lines, or the end
  changes = [change, ...changes.slice(0, MOST_LINES - 1)];
  const name = change.event_type;
  if (!types.has(name) && types.size >= MOST_TYPES) others += 1;
  else {
    const counts = types.get(name) ?? { device: "" };
    counts[change.change] = (counts[change.change] ?? 0) + 1;
    if (change.change === "rejected" || change.change === "dead_lettered") counts.device = `${change.device_id || "unknown device"}: ${change.message}`;
    types.set(name, counts);
  }
}

const matches = (wanted, value) => value.toLowerCase().includes(wanted);

function draw() {
  if (!byId("types").hidden) return drawTypes();
  const [id, device, type] = ["event-id", "event-device", "event-type"].map((each) => byId(each).value.trim().toLowerCase());
  const found = changes.filter((one) => matches(id, one.event_id) && matches(device, one.device_id) && matches(type, one.event_type));
  byId("events-table").hidden = !found.length;
  setText("events-count", `${number(Math.min(found.length, SHOWN))} of ${number(found.length)} matching changes, of the latest ${number(changes.length)}.`);
  byId("event-rows").replaceChildren(...found.slice(0, SHOWN).map((one) => element("tr", {},
    element("td", { className: "time", text: new Date(one.at).toLocaleTimeString() }),
    element("td", { className: one.change, text: one.change.replace("_", " ") }),
    element("th", { scope: "row", text: one.event_id }),
    element("td", { text: one.event_type }),
    element("td", { text: one.device_id }),
    element("td", { text: [one.reason, one.message].filter(Boolean).join(": ") }))));
}

function drawTypes() {
  const sorted = [...types].sort(([, a], [, b]) => (b.stored ?? 0) - (a.stored ?? 0));
  byId("types-table").hidden = !sorted.length;
  setText("types-note", `Counted since this page followed events${others ? `, and ${number(others)} changes of further types` : ""}.`);
  byId("type-rows").replaceChildren(...sorted.map(([name, counts]) => element("tr", {},
    element("th", { scope: "row", text: name || "(unknown)" }),
    ...CHANGES.map((change) => element("td", { className: "number", text: number(counts[change] ?? 0) })),
    element("td", { text: counts.device }))));
}

byId("events-filter").addEventListener("input", draw);
byId("events-filter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = byId("event-id").value.trim();
  if (!id) return setText("event-result", "Enter an event id.");
  const { state, reason, message, error } = await call(`v1/events/${encodeURIComponent(id)}`);
  setText("event-result", state ? [`Event ${id}: ${state.replace("_", " ")}`, reason, message].filter(Boolean).join(". ") : error);
});
