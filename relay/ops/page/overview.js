// The overview and the devices of a status.

import { post } from "./call.js";
import { byId, bytes, duration, element, fill, fromNow, number, rate, setText, tenant } from "./dom.js";

const REJECTIONS = {
  malformed: "not JSON", invalid: "invalid field", too_large: "too large", media_type: "unsupported content type",
  forbidden: "Host or Origin not allowed", timeout: "too slow", full: "outbox full", max_devices: "too many devices", unavailable: "disk failing or relay stopping",
  kernel: "dropped by the kernel", network: "network not allowed", truncated: "datagram too large", backlog: "received faster than stored",
};
const DAY_S = 86400;

export function showOverview(status) {
  const { ledger, outbox, rates, summary } = status;
  byId("summary").dataset.level = summary.level;
  setText("summary-message", summary.message);
  setText("summary-advice", summary.advice);
  const interval = rates.interval_seconds ? `in ${duration(Math.min(60, rates.interval_seconds))}` : "";
  setText("in-rate", rate(rates.accepted_per_second));
  setText("in-total", `${interval}, ${number(ledger.accepted)} in total`.replace(/^, /, ""));
  setText("out-rate", rate(rates.delivered_per_second));
  setText("out-total", `${interval}, ${number(ledger.delivered)} in total`.replace(/^, /, ""));
  setText("pending", number(ledger.pending));
  setText("oldest", ledger.pending ? `the oldest for ${duration(outbox.oldest_age_seconds)}` : "");
  setText("dead-count", number(status.dead_letters.count));
  byId("dead-link").hidden = !status.dead_letters.count;
  upstreams(status);
  storage(status);
  rejections(status.rejected);
}

function upstreams({ upstreams: endpoints, upstreams_left_out: left, now, summary, limits }) {
  const list = byId("upstreams");
  fill(list, JSON.stringify([endpoints, left, summary.advice, endpoints.some((endpoint) => endpoint.state !== "ok") ? now : ""]), () =>
    endpoints.map((endpoint) => {
      const others = endpoints.length > 1 ? "Every other tenant" : "Every tenant";
      const name = endpoint.tenant === null ? others : tenant(endpoint.tenant).replace("t", "T");
      const lines = [
        element("h3", { text: `${name}: ${endpoint.state.replace("_", " ")}` }),
        element("p", { className: "soft", text: endpoint.url }),
        element("p", { text: endpoint.message }),
      ];
      // The summary may already show the same advice.
      if (endpoint.advice && endpoint.advice !== summary.advice) lines.push(element("p", { className: "advice", text: endpoint.advice }));
      const facts = [`since ${new Date(endpoint.since).toLocaleString()}`];
      if (endpoint.last_delivered_at) facts.push(`last delivery ${new Date(endpoint.last_delivered_at).toLocaleString()}`);
      if (endpoint.next_attempt_at) facts.push(`next attempt ${fromNow(endpoint.next_attempt_at, now)}`);
      lines.push(element("p", { className: "soft", text: facts.join(", ") }));
      const limit = endpoint.shared_limit === null ? ", no shared limit known" : ` of ${number(endpoint.shared_limit)} that the shared limit allows`;
      lines.push(element("p", { className: "soft", text: `${number(endpoint.requests_in_window)} requests in ${duration(limits.window_seconds)}${limit}` }));
      if (endpoint.last_error) {
        const at = new Date(endpoint.last_error_at).toLocaleString();
        lines.push(element("p", { className: "soft", text: `Last error, ${at}: ${endpoint.last_error}` }));
      }
      return element("li", { "data-state": endpoint.state }, ...lines);
    }).concat(left ? [element("li", { text: `and ${number(left)} more` })] : []));
}

export function showDevices({ devices: shown, devices_waiting: waiting, devices_held: held, now, limits }) {
  setText("devices-counts", waiting
    ? `${number(waiting)} with pending events, ${number(held)} of them paused by a limit or a failure of their own.`
    : "No device has pending events.");
  byId("devices-table").hidden = !shown.length;
  setText("requests-title", `Requests in ${duration(limits.window_seconds)}`);
  fill(byId("device-rows"), JSON.stringify([shown, shown.some((one) => one.paused_until) ? now : ""]), () =>
    shown.map((one) => element("tr", {},
      element("th", { scope: "row" }, element("span", { text: one.device_id }), " ",
        element("span", { className: "soft", text: `${one.platform}, ${tenant(one.tenant)}` })),
      element("td", { className: "number", text: number(one.pending) }),
      element("td", { className: "number", text: `${number(one.requests_in_window)} of ${number(limits.device_per_window)}` }),
      element("td", { text: one.paused_until ? `${one.message}; ends ${fromNow(one.paused_until, now)}` : one.message || "no" }))));
}

function rejections(rejected) {
  const total = Object.values(rejected).reduce((a, b) => a + b, 0);
  setText("rejected-total", total ? `, ${number(total)} rejected` : "");
  byId("rejected-fact").hidden = !total;
  const each = Object.entries(rejected).map(([reason, count]) => `${number(count)} ${REJECTIONS[reason] ?? reason}`);
  setText("rejected", `${each.join(", ")} (since the start; the log has details)`);
}

function storage({ ledger, outbox, replicas, clock_skew_seconds: skew, uptime_seconds: uptime, started_at: started }) {
  setText("ledger", `${number(ledger.accepted)} accepted + ${number(ledger.requeued)} requeued = `
    + `${number(ledger.delivered)} delivered + ${number(ledger.dead_lettered)} dead-lettered + `
    + `${number(ledger.dropped)} dropped + ${number(ledger.pending)} pending`);
  const used = outbox.bytes / Math.max(1, outbox.max_bytes);
  byId("disk").value = used;
  const free = outbox.disk_free_bytes === null ? "" : `; ${bytes(outbox.disk_free_bytes)} free on the disk`;
  setText("disk-text", `${bytes(outbox.bytes)} of ${bytes(outbox.max_bytes)} (${(100 * used).toFixed(1)} %)${free}`);
  setText("forecast", forecast(ledger, outbox));
  setText("writable", outbox.writable ? `yes, durability ${outbox.durability}` : `no: ${outbox.problem}`);
  byId("relays-fact").hidden = !replicas.length;
  const owed = outbox.owed_requests ? [`${number(outbox.owed_requests)} rate slots reserved for requests of ended relays`] : [];
  setText("relays", [...replicas.map((each) => `${each.name}${each.self ? " (this one)" : ""}: ${number(each.pending)} pending, `
    + `${each.slots} of 256 groups, seen ${duration(each.beat_age_seconds)} ago`), ...owed].join("; "));
  const off = Math.abs(skew);
  setText("clock", skew === null ? "unknown" : off < 1 ? "same as the upstream’s" : `${duration(off)} ${skew > 0 ? "ahead of" : "behind"} the upstream’s`);
  setText("running", `for ${duration(uptime)}, since ${new Date(started).toLocaleString()}`);
}

// The rate is that of the last 15 minutes.
function forecast({ pending }, { writable, full_in_seconds: full, oldest_dropped_in_seconds: dropped }) {
  if (!pending) return "No event is pending.";
  const later = full === null || full > 365 * DAY_S ? "The outbox does not fill up" : `Full in ${duration(full)}`;
  const size = writable ? `${later} at the rate of the last 15 minutes` : "No event can be stored now";
  return `${size}. The oldest event is dropped in ${duration(dropped)}, unless it is sent.`;
}

byId("flush").addEventListener("click", async () => {
  const response = await post("flush", {});
  setText("flush-result", response.success ? `Sending ${number(response.pending)} events, as fast as the limits allow.` : response.error);
});
