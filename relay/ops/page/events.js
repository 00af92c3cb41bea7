// Events: the state of one event by its id, and the latest 500 changes of events, which the page follows while this view
// is open (/events/stream).

import { call } from "./call.js";
import { byId, element, number, setText } from "./dom.js";
import { isShown, onView } from "./views.js";

const MOST_LINES = 500;
const SHOWN = 100;
const RETRY_MS = 3000;
let following = null; // AbortController of the stream
let retry = 0;
let changes = []; // newest first
let drawn = 0; // handle of the next drawing

onView((view) => {
  if (view !== "events") stop();
  else if (!following) follow();
});
document.addEventListener("visibilitychange", () => {
  if (document.hidden) stop();
  else if (isShown("events")) follow();
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
    const response = await fetch("events/stream?recent=true", { signal: mine.signal });
    if (!response.ok) throw new Error((await response.json()).error);
    changes = [];
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
  if (change.change) changes = [change, ...changes.slice(0, MOST_LINES - 1)]; // else the number of skipped lines, or the end
}

const matches = (wanted, value) => value.toLowerCase().includes(wanted);

function draw() {
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

byId("events-filter").addEventListener("input", draw);
byId("events-filter").addEventListener("submit", async (event) => {
  event.preventDefault();
  const id = byId("event-id").value.trim();
  if (!id) return setText("event-result", "Enter an event id.");
  const { state, reason, message, error } = await call(`v1/events/${encodeURIComponent(id)}`);
  setText("event-result", state ? [`Event ${id}: ${state.replace("_", " ")}`, reason, message].filter(Boolean).join(". ") : error);
});
