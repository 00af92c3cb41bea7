// The views of the page. The address after "#" selects one, so that the browser's history and bookmarks work.

import { byId } from "./dom.js";

const views = [...document.querySelectorAll(".view")];
const listeners = [];

export const isShown = (view) => !byId(view).hidden;

// Call `shown` with the name of each view that becomes visible.
export function onView(shown) {
  listeners.push(shown);
}

export function start() {
  addEventListener("hashchange", select);
  select();
}

function select() {
  const wanted = location.hash.slice(1);
  if (wanted === "main") return; // The link that skips the header does not change the view.
  const current = views.find((view) => view.id === wanted) ?? views[0];
  for (const view of views) view.hidden = view !== current;
  for (const link of document.querySelectorAll("nav a")) {
    link.removeAttribute("aria-current");
    if (link.hash !== `#${current.id}`) continue;
    link.setAttribute("aria-current", "page");
    link.scrollIntoView({ block: "nearest", inline: "nearest" }); // A phone does not show all links.
  }
  scrollTo(0, 0);
  for (const shown of listeners) shown(current.id);
}
