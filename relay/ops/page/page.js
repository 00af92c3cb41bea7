// The status page: the header, the connection and the parts that show a status. It sends requests to the relay only.

import { begin, add } from "./charts.js";
import { connect } from "./connection.js";
import { byId, nameTenants, setText } from "./dom.js";
import "./configuration.js";
import "./events.js";
import { countChanged } from "./letters.js";
import "./moves.js";
import { showDevices, showOverview } from "./overview.js";
import { showSnippets } from "./snippets.js";
import { showTypes } from "./types.js";
import { start } from "./views.js";

let last = null; // the last status
let lostAt = 0; // when the relay stopped responding, by the browser's clock

function show(status, link) {
  last = status;
  lostAt = 0;
  document.body.classList.remove("lost");
  byId("banner").hidden = true;
  setText("link", link);
  setText("data-at", `· data of ${time(status.now)}`);
  setText("host", `on ${status.host}`);
  setText("version", status.version);
  const [first] = status.upstreams;
  setText("upstream-url", `to ${first.url}${isLocal(first.url) ? " (this machine)" : ""}`);
  document.title = `${status.summary.level}: Relay on ${status.host}`;
  setText("letters-count", status.dead_letters.count ? status.dead_letters.count.toLocaleString("en") : "");
  nameTenants(status.tenant_names ?? {});
  showOverview(status);
  showDevices(status);
  showSnippets(status);
  countChanged(status.dead_letters.count);
  showTypes();
}

function lost() {
  lostAt ||= Date.now();
  document.body.classList.add("lost");
  document.title = `no response: Relay${last ? ` on ${last.host}` : ""}`;
  setText("link", "No response");
  byId("banner").hidden = false;
  const age = last ? ` The data below is of ${time(last.now)}, not of now.` : "";
  setText("banner", `The relay does not respond since ${new Date(lostAt).toLocaleTimeString()}.${age} The page tries again.`);
}

const time = (text) => new Date(text).toLocaleTimeString();

function isLocal(url) {
  const { hostname } = new URL(url);
  return hostname === "localhost" || hostname === "[::1]" || hostname.startsWith("127.");
}

// The clipboard's own interface exists for secure origins only, and a page of another machine has none.
document.addEventListener("click", ({ target }) => {
  if (!target.dataset.copy) return;
  getSelection().selectAllChildren(byId(target.dataset.copy));
  target.textContent = document.execCommand("copy") ? "Copied" : "Selected";
});

start();
connect({ history: begin, sample: add, status: show, lost });
