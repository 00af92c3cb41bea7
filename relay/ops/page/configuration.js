// The configuration in effect, with secrets masked, and the source of each value.

import { call } from "./call.js";
import { byId, element, fill, setText } from "./dom.js";
import { onView } from "./views.js";

export async function showConfiguration() {
  const { success, settings, error } = await call("configuration");
  setText("configuration-result", success ? "" : error);
  byId("configuration-table").hidden = !success;
  if (!success) return;
  fill(byId("configuration-rows"), JSON.stringify(settings), () => Object.entries(settings).map(([name, { value, source }]) =>
    element("tr", {},
      element("th", { scope: "row", text: name }),
      element("td", { text: value === null ? "(none)" : JSON.stringify(value) }),
      element("td", { text: source }))));
}

onView((view) => { if (view === "configuration") showConfiguration(); });
