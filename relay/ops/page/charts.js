// The last 15 minutes as four charts and a table. The data are samples ({at_ms, span_ms, accepted, delivered, pending,
// responses}). Each sample redraws the charts.

import { byId, element, fill, number, rate } from "./dom.js";

const SPAN_MS = 15 * 60 * 1000;
const [WIDTH, HEIGHT] = [900, 100];
const SVG = "http://www.w3.org/2000/svg";
// Kinds of responses, in drawing order from the bottom up.
const KINDS = [
  ["accepted", "accepted (2xx)", (code) => code.startsWith("2")],
  ["slower", "too many requests (429)", (code) => code === "429"],
  ["rejected", "rejected (3xx, 4xx)", (code) => code.startsWith("3") || code.startsWith("4")],
  ["failed", "failed (5xx)", (code) => code.startsWith("5")],
  ["silent", "no response", () => true],
];

let samples = [];

export function begin(history) {
  samples = history;
  draw();
}

export function add(news) {
  samples = [...samples, ...news].filter((one) => one.at_ms > news.at(-1).at_ms - SPAN_MS);
  draw();
}

function draw() {
  const charts = byId("charts");
  charts.replaceChildren(
    curve("in", "Received", samples.map(perSecond("accepted")), rate),
    curve("out", "Sent", samples.map(perSecond("delivered")), rate),
    curve("pending", "Pending", samples.map((one) => one.pending), number),
    responses(),
  );
  if (byId("minutes").open) table();
}

byId("minutes").addEventListener("toggle", () => { if (byId("minutes").open) table(); });

const perSecond = (name) => (one) => (1000 * one[name]) / one.span_ms;
const x = (at_ms) => WIDTH - (WIDTH * (samples.at(-1).at_ms - at_ms)) / SPAN_MS;

function shape(name, attributes) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  return made;
}

function plot(label, ...shapes) {
  const svg = shape("svg", {
    class: "plot", viewBox: `0 0 ${WIDTH} ${HEIGHT}`, preserveAspectRatio: "none", role: "img", "aria-label": label,
  });
  svg.append(...shapes);
  return svg;
}

function framed(title, now, svg, top, ...more) {
  return element("figure", {},
    element("figcaption", {}, element("h3", { text: title }), element("span", { className: "soft", text: now })),
    svg,
    element("div", { className: "scale" },
      element("span", { text: "15 minutes ago" }), element("span", { text: `scale to ${top}` }), element("span", { text: "now" })),
    ...more);
}

// Return a round number of at least the largest value, as the height of the chart.
function roundUp(value) {
  if (value <= 0) return 1;
  const unit = 10 ** Math.floor(Math.log10(value));
  return [1, 1.5, 2, 3, 4, 5, 6, 8, 10].map((factor) => factor * unit).find((step) => step >= value);
}

function curve(kind, title, values, format) {
  if (!samples.length) return framed(title, "", plot(`${title}: no data yet`), "–");
  const [top, last] = [roundUp(Math.max(...values)), values.at(-1)];
  // A sample covers the period before it: steps, not slopes.
  const points = values.flatMap((value, i) => {
    const { at_ms, span_ms } = samples[i];
    return [at_ms - span_ms, at_ms].map((at) => `${x(at).toFixed(1)},${(HEIGHT - (HEIGHT * value) / top).toFixed(1)}`);
  });
  const first = points[0].split(",")[0];
  const label = `${title}: ${format(last)} now, between ${format(Math.min(...values))} and ${format(Math.max(...values))} in the last 15 minutes`;
  return framed(title, `${format(last)} now, ${format(Math.max(...values))} maximum`,
    plot(label,
      shape("path", { class: `area ${kind}`, d: `M${first},${HEIGHT}L${points.join("L")}L${WIDTH},${HEIGHT}Z` }),
      shape("path", { class: `curve ${kind}`, d: `M${points.join("L")}` })),
    format(top));
}

function kindOf(code) {
  return KINDS.findIndex(([, , matches]) => matches(code));
}

function responses() {
  const counts = samples.map((one) => {
    const byKind = KINDS.map(() => 0);
    for (const [code, count] of Object.entries(one.responses)) byKind[kindOf(code)] += count;
    return byKind;
  });
  const top = roundUp(Math.max(0, ...counts.map((each) => each.reduce((a, b) => a + b, 0))));
  const bars = counts.flatMap((byKind, i) => {
    let floor = HEIGHT;
    return byKind.flatMap((count, kind) => {
      if (!count) return [];
      const [width, height] = [(WIDTH * samples[i].span_ms) / SPAN_MS, (HEIGHT * count) / top];
      floor -= height;
      return [shape("rect", {
        class: KINDS[kind][0], x: (x(samples[i].at_ms) - width).toFixed(1), y: floor.toFixed(1),
        width: Math.max(1, width - 0.8).toFixed(1), height: height.toFixed(1),
      })];
    });
  });
  const totals = KINDS.map((_, kind) => counts.reduce((sum, byKind) => sum + byKind[kind], 0));
  const all = totals.reduce((a, b) => a + b, 0);
  const legend = KINDS.map(([, name], kind) => `${name} ${number(totals[kind])}`);
  const key = element("ul", { className: "key" }, ...KINDS.map(([kind], i) =>
    element("li", {}, element("span", { className: `swatch ${kind}` }), element("span", { text: legend[i] }))));
  return framed("Responses of the upstream", `${number(all)} in 15 minutes`,
    plot(`Responses of the upstream in the last 15 minutes: ${legend.join(", ")}`, ...bars), `${number(top)} in 5 s`, key);
}

function table() {
  const minutes = new Map();
  for (const one of samples) {
    const minute = Math.floor((samples.at(-1).at_ms - one.at_ms) / 60000);
    const sum = minutes.get(minute) ?? { accepted: 0, delivered: 0, pending: 0, responses: {} };
    sum.accepted += one.accepted;
    sum.delivered += one.delivered;
    sum.pending = one.pending;
    for (const [code, count] of Object.entries(one.responses)) sum.responses[code] = (sum.responses[code] ?? 0) + count;
    minutes.set(minute, sum);
  }
  const rows = [...minutes].sort(([a], [b]) => a - b);
  fill(byId("minute-rows"), JSON.stringify(rows), () => rows.map(([minute, sum]) =>
    element("tr", {},
      element("th", { scope: "row", text: minute === 0 ? "this minute" : `${minute}` }),
      ...[sum.accepted, sum.delivered, sum.pending].map((value) => element("td", { className: "number", text: number(value) })),
      element("td", { text: Object.entries(sum.responses).map(([code, count]) => `${code}: ${number(count)}`).join(", ") }))));
}
