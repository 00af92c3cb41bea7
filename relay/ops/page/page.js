// The status page: listens to /status/stream while somebody looks, and shows what it says. When the stream
// cannot be had (too many pages, a proxy), it asks for /status.json now and then. Nothing is asked of anybody else.

import { post } from "./call.js";
import { add, begin } from "./charts.js";
import { byId, bytes, duration, element, fill, fromNow, number, rate, say } from "./dom.js";
import { changed } from "./letters.js";
import "./moves.js";

const RETRY_MS = 5000;
const REFUSALS = {
  malformed: "not JSON", invalid: "a field wrong", too_large: "too large", media_type: "content type not served",
  forbidden: "Host or Origin not allowed", timeout: "too slow", full: "no room", unavailable: "disk failing or stopping",
  kernel: "lost before they were read", network: "network not allowed", truncated: "datagram too large",
};
let stream = null;
let retry = 0;
let question = new AbortController(); // a status that comes by the stream is newer than one asked for before

function listen() {
  clearTimeout(retry);
  stream?.close();
  stream = new EventSource("status/stream");
  stream.addEventListener("history", (event) => begin(JSON.parse(event.data)));
  stream.addEventListener("sample", (event) => add(JSON.parse(event.data)));
  stream.addEventListener("status", (event) => {
    question.abort();
    show(JSON.parse(event.data), "live");
  });
  stream.addEventListener("error", () => {
    if (stream.readyState !== EventSource.CLOSED) return lost();
    stream.close();
    ask();
    retry = setTimeout(listen, RETRY_MS);
  });
}

async function ask() {
  question.abort();
  const { signal } = (question = new AbortController());
  try {
    const answer = await fetch("status.json", { signal });
    if (!answer.ok) throw new Error(`${answer.status}`);
    show(await answer.json(), "not live: asked every 5 seconds");
  } catch {
    if (!signal.aborted) lost();
  }
}

function lost() {
  say("link", "The relay does not answer. What is shown is of before.");
  byId("link").className = "lost";
}

// Nobody looks: nothing is asked.
document.addEventListener("visibilitychange", () => {
  if (!document.hidden) return listen();
  clearTimeout(retry);
  stream?.close();
});

function show(status, link) {
  const { ledger, outbox, rates, summary } = status;
  say("link", link);
  byId("link").className = "";
  say("version", status.version);
  byId("summary").dataset.level = summary.level;
  say("summary-words", summary.words);
  say("summary-to-do", summary.to_do);
  say("in-rate", rate(rates.accepted_per_second));
  say("in-total", `${number(ledger.accepted)} in all`);
  say("out-rate", rate(rates.delivered_per_second));
  say("out-total", `${number(ledger.delivered)} in all`);
  say("waiting", number(ledger.pending));
  say("oldest", ledger.pending ? `the oldest for ${duration(outbox.oldest_age_seconds)}` : "nothing");
  say("dead-count", number(status.dead_letters.count));
  byId("dead-link").hidden = !status.dead_letters.count;
  document.title = summary.level === "ok" ? "Relay" : `${summary.level}: Relay`;
  upstreams(status);
  devices(status);
  keeping(status);
  refusals(status.refused);
  changed(status.dead_letters.count);
}

function upstreams({ upstreams: routes, upstreams_left_out: left, now, summary }) {
  const list = byId("upstreams");
  fill(list, JSON.stringify([routes, left, summary.to_do, routes.some((route) => route.state !== "ok") ? now : ""]), () =>
    routes.map((route) => {
      const others = routes.length > 1 ? "Every other tenant" : "Every tenant";
      const name = route.tenant === null ? others : `Tenant ${route.tenant}`;
      const lines = [
        element("h3", { text: `${name}: ${route.state.replace("_", " ")}` }),
        element("p", { text: route.words }),
      ];
      // what the summary above says already is not said again
      if (route.to_do && route.to_do !== summary.to_do) lines.push(element("p", { className: "to-do", text: route.to_do }));
      const facts = [`since ${new Date(route.since).toLocaleString()}`];
      if (route.next_attempt_at) facts.push(`next attempt ${fromNow(route.next_attempt_at, now)}`);
      lines.push(element("p", { className: "soft", text: facts.join(", ") }));
      if (route.last_error) {
        const when = route.state === "ok" ? "Last fault" : "It said";
        lines.push(element("p", { className: "soft", text: `${when}: ${route.last_error}` }));
      }
      return element("li", { "data-state": route.state }, ...lines);
    }).concat(left ? [element("li", { text: `and ${number(left)} more` })] : []));
}

function devices({ devices: shown, devices_waiting: waiting, devices_held: held, now }) {
  say("devices-counts", waiting
    ? `${number(waiting)} with events that wait, ${number(held)} of them held back by a limit or fault of their own.`
    : "No device has events that wait.");
  byId("devices").hidden = !shown.length;
  fill(byId("device-rows"), JSON.stringify([shown, shown.some((one) => one.held_until) ? now : ""]), () =>
    shown.map((one) => element("tr", {},
      element("th", { scope: "row" }, element("span", { text: one.device_id }), " ",
        element("span", { className: "soft", text: `${one.platform}, tenant ${one.tenant}` })),
      element("td", { className: "number", text: number(one.pending) }),
      element("td", { text: one.held_until ? `${one.words}; free ${fromNow(one.held_until, now)}` : one.words || "no" }))));
}

function refusals(refused) {
  const total = Object.values(refused).reduce((a, b) => a + b, 0);
  say("refused-total", total ? `, ${number(total)} refused` : "");
  byId("refused-fact").hidden = !total;
  const each = Object.entries(refused).map(([reason, count]) => `${number(count)} ${REFUSALS[reason] ?? reason}`);
  say("refused", `${each.join(", ")} (since the start; the log says more)`);
}

function keeping({ ledger, outbox, clock_skew_seconds: skew, uptime_seconds: uptime, started_at: started }) {
  say("ledger", `${number(ledger.accepted)} accepted + ${number(ledger.requeued)} requeued = `
    + `${number(ledger.delivered)} delivered + ${number(ledger.dead_lettered)} dead-lettered + `
    + `${number(ledger.dropped)} dropped + ${number(ledger.pending)} waiting`);
  const used = outbox.bytes / Math.max(1, outbox.max_bytes);
  byId("disk").value = used;
  const free = outbox.disk_free_bytes === null ? "" : `; ${bytes(outbox.disk_free_bytes)} free on the disk`;
  say("disk-words", `${bytes(outbox.bytes)} of ${bytes(outbox.max_bytes)} (${(100 * used).toFixed(1)} %)${free}`);
  say("writable", outbox.writable ? "yes" : `no: ${outbox.problem}`);
  const off = Math.abs(skew);
  say("clock", skew === null ? "not known yet" : off < 1 ? "agrees with the upstream’s" : `${duration(off)} ${skew > 0 ? "ahead of" : "behind"} the upstream’s`);
  say("running", `for ${duration(uptime)}, since ${new Date(started).toLocaleString()}`);
}

byId("flush").addEventListener("click", async () => {
  const said = await post("flush", {});
  say("flush-said", said.success ? `Asked to send ${number(said.pending)} events, as fast as the limits allow.` : said.error);
});

if (!document.hidden) listen();
