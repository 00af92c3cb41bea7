// What every part of the page uses to write to it. Text is set as text, never as markup: device ids, events
// and the upstream's words are written by others. What is unchanged is left alone, so that a screen reader
// does not repeat it and a selection stays.

export const byId = (id) => document.getElementById(id);

export function element(name, { className = "", text = "", ...attributes } = {}, ...children) {
  const made = document.createElement(name);
  if (className) made.className = className;
  if (text !== "") made.textContent = text;
  for (const [key, value] of Object.entries(attributes)) made.setAttribute(key, value);
  made.append(...children);
  return made;
}

export function say(id, text) {
  const place = byId(id);
  if (place.textContent !== text) place.textContent = text;
}

// Replaces children only if what would be shown differs.
export function fill(place, key, makeChildren) {
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  place.replaceChildren(...makeChildren());
}

export const number = (value) => value.toLocaleString("en");

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${Number(count.toPrecision(4))} ${units[unit]}`;
}

// The two largest units; a number does not part from its own.
export function duration(seconds) {
  let left = Math.max(0, Math.round(seconds));
  const parts = [];
  for (const [unit, length] of [["d", 86400], ["h", 3600], ["min", 60], ["s", 1]]) {
    const count = Math.floor(left / length);
    left -= count * length;
    if (count || (unit === "s" && !parts.length)) parts.push(`${count}\u00a0${unit}`);
  }
  return parts.slice(0, 2).join(" ");
}

export function rate(perSecond) {
  if (perSecond === null) return "…";
  return `${Number(perSecond.toPrecision(3)).toLocaleString("en")}/s`;
}

// A time to come of the relay's clock, as far from its now; the clock of whoever looks may be wrong.
export function fromNow(text, now) {
  const seconds = (Date.parse(text) - Date.parse(now)) / 1000;
  return seconds < 1 ? "now" : `in ${duration(seconds)}`;
}
