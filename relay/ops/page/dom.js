// Functions that write to the page. They set text as text and never as markup, because device ids, events and
// messages of the upstream contain arbitrary characters. They leave unchanged text alone, so that a screen reader
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

export function setText(id, text) {
  const place = byId(id);
  if (place.textContent !== text) place.textContent = text;
}

// Replace the children only if `key` differs from the previous call.
export function fill(place, key, makeChildren) {
  if (place.dataset.shown === key) return;
  place.dataset.shown = key;
  place.replaceChildren(...makeChildren());
}

let tenantNames = {};
export function nameTenants(names) { tenantNames = names; }

export function tenant(id) {
  const name = tenantNames[id];
  return name ? `tenant ${id} (${name})` : `tenant ${id}`;
}

export const number = (value) => value.toLocaleString("en");

export function bytes(count) {
  const units = ["B", "KiB", "MiB", "GiB"];
  let unit = 0;
  while (count >= 1024 && unit < units.length - 1) { count /= 1024; unit += 1; }
  return `${Number(count.toPrecision(4))} ${units[unit]}`;
}

// Return a duration in its two largest units. A non-breaking space joins a number and its unit.
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

// Return a future time as a distance from the relay's `now`, because the browser's clock may be wrong.
export function fromNow(text, now) {
  const seconds = (Date.parse(text) - Date.parse(now)) / 1000;
  return seconds < 1 ? "now" : `in ${duration(seconds)}`;
}
