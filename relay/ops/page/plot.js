// One chart: curves or stacked bars over time, with axes, the state of the upstream as a band at the top, and a cursor
// that pointer, touch and arrow keys move. The chart keeps its elements, so that an update does not take the focus.

import { duration, element } from "./dom.js";

const SVG = "http://www.w3.org/2000/svg";
const GOOD = ["ok", "untested"];
const STEPS = { ArrowLeft: -1, ArrowRight: 1, PageUp: -12, PageDown: 12, Home: -Infinity, End: Infinity };
const POINTS = 180; // in a period
const TICKS = { 900_000: [15, 10, 5], 3_600_000: [60, 40, 20], 86_400_000: [24, 16, 8] };

export class Chart {
  // `series` has {kind, name, value}; `value` returns the value of a point. `move` receives the time of the point to
  // show, or null. `isWhole`: the values are numbers of the moment, and not means.
  constructor({ title, unit, series, format, move, isStacked = false, isWhole = false }) {
    Object.assign(this, { unit, series, format, move, isStacked, isWhole, points: [], spanMs: 1 });
    this.readout = element("span", { className: "soft readout" });
    this.unitText = element("span", { className: "soft", text: unit });
    this.plot = shape("svg", { class: "plot", tabindex: "0", role: "slider", "aria-label": `${title}, ${unit}`, "aria-valuemin": 0 });
    this.cursor = shape("g", { class: "cursor" });
    const key = element("ul", { className: "key" }, ...series.map(({ kind, name }) =>
      element("li", {}, element("span", { className: `swatch ${kind}` }), element("span", { text: name }))));
    this.figure = element("figure", {},
      element("figcaption", {}, element("h3", { text: title }), this.unitText, this.readout),
      this.plot, ...(series.length > 1 ? [key] : []));
    this.plot.addEventListener("pointermove", (event) => this.point(event));
    this.plot.addEventListener("pointerdown", (event) => this.point(event));
    this.plot.addEventListener("pointerleave", () => move(null));
    this.plot.addEventListener("focus", () => { if (this.plot.matches(":focus-visible")) this.step(0); });
    this.plot.addEventListener("blur", () => move(null));
    this.plot.addEventListener("keydown", (event) => {
      if (!(event.key in STEPS)) return;
      event.preventDefault();
      this.step(STEPS[event.key]);
    });
  }

  draw(points, spanMs) {
    Object.assign(this, { points, spanMs });
    if (!this.isWhole) this.unitText.textContent = `${this.unit}, mean of ${duration(spanMs / POINTS / 1000)}`;
    const { clientWidth: width, clientHeight: height } = this.plot;
    const rem = parseFloat(getComputedStyle(document.documentElement).fontSize);
    this.box = { left: 3.4 * rem, right: width - 0.6 * rem, top: 0.6 * rem, bottom: height - 1.4 * rem };
    const stacks = points.map((point) => this.series.map(({ value }) => value(point)));
    const highest = Math.max(0, ...stacks.map((values) => (this.isStacked ? sum(values) : Math.max(...values))));
    const ticks = ticksTo(highest, this.isWhole || this.isStacked);
    this.top = ticks.at(-1);
    this.plot.setAttribute("viewBox", `0 0 ${width} ${height}`);
    this.plot.replaceChildren(...this.axes(ticks), ...(this.isStacked ? this.bars(stacks) : this.curves(stacks)), ...this.states(), this.cursor);
  }

  // Show the values of the point at this time; null: of the last point.
  showAt(at) {
    this.cursor.replaceChildren();
    this.at = null;
    const { points, plot } = this;
    if (!points.length) {
      this.readout.textContent = "no data yet";
      return plot.setAttribute("aria-valuetext", "no data yet");
    }
    const index = at === null ? points.length - 1 : this.nearest(at);
    const point = points[index];
    const values = this.series.map(({ name, value }) => [name, value(point)]);
    const shown = this.isStacked ? values.filter(([, value]) => value) : values;
    const ago = at === null || index === points.length - 1 ? "now" : `${duration((points.at(-1).at_ms - point.at_ms) / 1000)} ago`;
    const state = GOOD.includes(point.state) ? "" : `; ${point.state.replaceAll("_", " ")}`;
    const text = `${ago}: ${shown.map(([name, value]) => `${this.format(value)} ${name}`).join(", ") || "none"}${state}`;
    this.readout.textContent = text;
    plot.setAttribute("aria-valuemax", points.length - 1);
    plot.setAttribute("aria-valuenow", index);
    plot.setAttribute("aria-valuetext", text);
    if (at === null) return;
    this.at = point.at_ms;
    const x = this.x(point.at_ms);
    this.cursor.append(shape("line", { x1: x, x2: x, y1: this.box.top, y2: this.box.bottom }));
    if (this.isStacked) return;
    this.cursor.append(...this.series.map(({ kind, value }) => shape("circle", { class: kind, cx: x, cy: this.y(value(point)), r: 3.5 })));
  }

  point({ clientX }) {
    if (!this.points.length) return;
    const { left, right } = this.box;
    const share = (clientX - this.plot.getBoundingClientRect().left - left) / (right - left);
    this.move(this.points[this.nearest(this.points.at(-1).at_ms - (1 - share) * this.spanMs)].at_ms);
  }

  step(by) {
    if (!this.points.length) return;
    const last = this.points.length - 1;
    const index = (this.at === null ? last : this.nearest(this.at)) + by;
    this.move(this.points[Math.min(last, Math.max(0, index))].at_ms);
  }

  nearest(at) {
    let best = 0;
    this.points.forEach((point, i) => {
      if (Math.abs(point.at_ms - at) <= Math.abs(this.points[best].at_ms - at)) best = i;
    });
    return best;
  }

  x(at) {
    const { left, right } = this.box;
    return Math.max(left, right - ((right - left) * (this.points.at(-1).at_ms - at)) / this.spanMs);
  }

  y(value) {
    return this.box.bottom - ((this.box.bottom - this.box.top) * value) / this.top;
  }

  axes(ticks) {
    const { left, right, bottom } = this.box;
    const [minutes, unit] = this.spanMs > 3_600_000 ? [60, "h"] : [1, "min"];
    const times = TICKS[this.spanMs].map((count) => [`−${count} ${unit}`, (count * minutes * 60_000) / this.spanMs]);
    return [
      ...ticks.flatMap((tick) => [
        shape("line", { class: "grid", x1: left, x2: right, y1: this.y(tick), y2: this.y(tick) }),
        label(tick.toLocaleString("en"), { x: left - 5, y: this.y(tick), "text-anchor": "end", "dominant-baseline": "middle" }),
      ]),
      ...[...times, ["now", 0]].map(([text, share]) => label(text, {
        x: right - share * (right - left), y: bottom + 4, "dominant-baseline": "hanging",
        "text-anchor": share === 1 ? "start" : share ? "middle" : "end",
      })),
    ];
  }

  curves(stacks) {
    if (!stacks.length) return [];
    const { bottom } = this.box;
    return this.series.flatMap(({ kind }, i) => {
      // A point covers the period before it: steps, not slopes.
      const steps = stacks.flatMap((values, n) => {
        const { at_ms: at, span_ms: span } = this.points[n];
        return [at - span, at].map((each) => `${this.x(each).toFixed(1)},${this.y(values[i]).toFixed(1)}`);
      });
      const area = `M${steps[0].split(",")[0]},${bottom}L${steps.join("L")}L${steps.at(-1).split(",")[0]},${bottom}Z`;
      return [shape("path", { class: `area ${kind}`, d: area }), shape("path", { class: `curve ${kind}`, d: `M${steps.join("L")}` })];
    });
  }

  bars(stacks) {
    return stacks.flatMap((values, n) => {
      let floor = this.box.bottom;
      const { at_ms: at, span_ms: span } = this.points[n];
      const [from, until] = [this.x(at - span), this.x(at)];
      return values.flatMap((value, i) => {
        if (!value) return [];
        const height = this.box.bottom - this.y(value);
        floor -= height;
        return [shape("rect", {
          class: this.series[i].kind, x: from.toFixed(1), y: floor.toFixed(1),
          width: Math.max(1, until - from - 0.6).toFixed(1), height: height.toFixed(1),
        })];
      });
    });
  }

  // Mark the times with a state other than ok by a band, and each change by a line.
  states() {
    const shown = ({ state }) => (GOOD.includes(state) ? "" : state);
    return this.points.flatMap((point, i) => {
      const [from, until] = [this.x(point.at_ms - point.span_ms), this.x(point.at_ms)];
      const marks = [];
      if (shown(point)) marks.push(shape("rect", { class: `state ${point.state}`, x: from, y: 0, width: Math.max(1, until - from), height: 4 }));
      if (i && shown(point) !== shown(this.points[i - 1])) marks.push(shape("line", { class: "change", x1: from, x2: from, y1: 0, y2: this.box.bottom }));
      return marks;
    });
  }
}

function shape(name, attributes, ...children) {
  const made = document.createElementNS(SVG, name);
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

const label = (text, attributes) => shape("text", { class: "tick", ...attributes }, text);
const sum = (values) => values.reduce((a, b) => a + b, 0);

// Return about three round numbers from 0 to at least the highest value.
function ticksTo(highest, isWhole) {
  const rough = Math.max(highest / 2.5, isWhole ? 1 : 0.4);
  const unit = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 2.5, 5, 10].map((factor) => factor * unit).find((each) => each >= rough && (!isWhole || Number.isInteger(each)));
  const count = Math.max(2, Math.ceil(highest / step));
  return Array.from({ length: count + 1 }, (_, i) => Number((i * step).toPrecision(6)));
}
