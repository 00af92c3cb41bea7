// Event types: the number of changes of each, counted by the relay since its start (/event-types).

import { call } from "./call.js";
import { byId, element, fill, number, setText } from "./dom.js";
import { isShown, onView } from "./views.js";

const CHANGES = ["stored", "delivered", "rejected", "dead_lettered", "dropped"];

// Read the counts again if this view is open.
export async function showTypes() {
  if (!isShown("types")) return;
  const { success, types, further_types: further, complete, error } = await call("event-types");
  if (!success) return setText("types-note", error);
  const sampled = complete ? "" : ", from at most 1,000 changes in 5 seconds: more happened";
  setText("types-note", `Counted since the relay started${sampled}${further ? `, and ${number(further)} changes of further types` : ""}.`);
  byId("types-table").hidden = !types.length;
  fill(byId("type-rows"), JSON.stringify(types), () => types.map((one) => element("tr", {},
    element("th", { scope: "row", text: one.event_type || "(unknown)" }),
    ...CHANGES.map((change) => element("td", { className: "number", text: number(one[change]), "data-of": change.replace("_", "-") })),
    element("td", { text: one.problem ? `${one.problem_device_id || "unknown device"}: ${one.problem}` : "" }))));
}

onView(showTypes);
