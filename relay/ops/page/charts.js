// The charts of the last 15 minutes, hour or day, and their table. The data are the points of the relay's history, by
// resolution ({at_ms, span_ms, accepted, delivered, pending, bytes, state, responses}); all times are monotonic.

import { byId, duration, element, fill, number, rate, setText } from "./dom.js";
import { Chart } from "./plot.js";
import { isShown, onView } from "./views.js";

const PERIODS = [["15 minutes", 900_000], ["hour", 3_600_000], ["24 hours", 86_400_000]];
const ROWS = 15;
// Kinds of responses in the order of `responses`, from the bottom of the chart up.
const KINDS = [
  ["accepted", "accepted (2xx)"], ["slower", "too many requests (429)"], ["redirected", "redirected (3xx)"],
  ["rejected", "rejected (4xx)"], ["failed", "failed (5xx)"], ["silent", "no response"],
];

const perSecond = (name) => (point) => (1000 * point[name]) / point.span_ms;
const perMinute = (kind) => (point) => (60_000 * point.responses[kind]) / point.span_ms;
const charts = [
  new Chart({
    title: "Received and sent", unit: "events per second", format: rate, move,
    series: [
      { kind: "in", name: "received", value: perSecond("accepted") },
      { kind: "out", name: "sent", value: perSecond("delivered") },
    ],
  }),
  new Chart({
    title: "Pending", unit: "events", format: whole, isWhole: true, move,
    series: [{ kind: "pending", name: "pending", value: (point) => point.pending }],
  }),
  new Chart({
    title: "Responses", unit: "per minute", format: whole, isStacked: true, move,
    series: KINDS.map(([kind, name], i) => ({ kind, name, value: perMinute(i) })),
  }),
];
byId("charts").append(...charts.map((chart) => chart.figure));

let rings = PERIODS.map(() => []);
let period = 0;
let cursorAt = null; // Time of the point under the pointer or the keyboard's cursor, in all charts.

export function begin(history) {
  rings = history;
  draw();
}

export function add(news) {
  rings = rings.map((ring, i) => [...ring, ...news[i]].filter((point) => point.at_ms > news[0].at(-1).at_ms - PERIODS[i][1]));
  draw();
}

// Return the points of a resolution, with finer ones for the time after its last point.
function pointsOf(resolution) {
  const own = rings[resolution];
  if (!resolution) return own;
  const until = own.at(-1)?.at_ms ?? -1;
  return [...own, ...pointsOf(resolution - 1).filter((point) => point.at_ms > until)];
}

function draw() {
  if (!isShown("overview")) return;
  const points = pointsOf(period);
  const [name, spanMs] = PERIODS[period];
  setText("charts-title", `Last ${name}`);
  for (const chart of charts) chart.draw(points, spanMs);
  move(cursorAt);
  if (byId("points").open) table(points, spanMs / ROWS);
}

// Show the values of the point at this time in every chart; null: of the last point.
function move(at) {
  cursorAt = at;
  for (const chart of charts) chart.showAt(at);
}

function table(points, bucketMs) {
  const rows = new Map();
  for (const point of points) {
    const bucket = Math.floor((points.at(-1).at_ms - point.at_ms) / bucketMs);
    const sum = rows.get(bucket) ?? { accepted: 0, delivered: 0, responses: KINDS.map(() => 0), states: new Set() };
    sum.accepted += point.accepted;
    sum.delivered += point.delivered;
    sum.pending = point.pending;
    sum.responses = sum.responses.map((count, i) => count + point.responses[i]);
    sum.states.add(point.state);
    rows.set(bucket, sum);
  }
  const sorted = [...rows].sort(([a], [b]) => a - b).map(([bucket, sum]) => [bucket, { ...sum, states: [...sum.states] }]);
  fill(byId("point-rows"), JSON.stringify([bucketMs, sorted]), () => sorted.map(([bucket, sum]) =>
    element("tr", {},
      element("th", { scope: "row", text: bucket === 0 ? "now" : `${duration((bucket * bucketMs) / 1000)} ago` }),
      ...[sum.accepted, sum.delivered, sum.pending].map((value) => element("td", { className: "number", text: number(value) })),
      element("td", { text: KINDS.map(([, name], i) => [name, sum.responses[i]]).filter(([, count]) => count)
        .map(([name, count]) => `${name}: ${number(count)}`).join(", ") }),
      element("td", { text: sum.states.join(", ").replaceAll("_", " ") }))));
}

function whole(value) {
  return number(value < 10 ? Number(value.toFixed(1)) : Math.round(value));
}

byId("points").addEventListener("toggle", draw);
byId("periods").addEventListener("click", ({ target }) => {
  if (!target.value) return;
  period = Number(target.value);
  cursorAt = null;
  for (const button of byId("periods").children) button.setAttribute("aria-pressed", button === target);
  draw();
});
addEventListener("resize", draw);
onView(draw);
