// Shows /status.json every two seconds while somebody looks. Text is set as text, never as markup:
// device ids and the upstream's words are written by others. The token stays in this page's memory.
"use strict";

const POLL_MS = 2000;
const SHOWN_DEAD_LETTERS = 20;
const MOVED_AT_ONCE = 100;
const byId = (id) => document.getElementById(id);
const number = (value) => value.toLocaleString("en");
const time = (text) => (text ? new Date(text).toLocaleString() : "");
let token = "";
let last = null;

function cell(value, className = "") {
  const td = document.createElement("td");
  td.textContent = value ?? "";
  td.className = className;
  return td;
}

function fill(id, rows, whenEmpty) {
  const lines = rows.map((cells) => {
    const tr = document.createElement("tr");
    tr.append(...cells);
    return tr;
  });
  if (!lines.length) {
    const td = cell(whenEmpty);
    td.colSpan = 99;
    lines.push(document.createElement("tr"));
    lines[0].append(td);
  }
  byId(id).replaceChildren(...lines);
}

function tiles(id, entries) {
  byId(id).replaceChildren(...entries.map(([name, value]) => {
    const div = document.createElement("div");
    const [dt, dd] = [document.createElement("dt"), document.createElement("dd")];
    dt.textContent = name;
    dd.textContent = value;
    div.append(dt, dd);
    return div;
  }));
}

function health(text, good) {
  byId("health").textContent = text;
  byId("health").className = good ? "good" : "bad";
}

// Events per second since the answer before.
function rate(status, name) {
  if (!last) return "";
  const seconds = (status.at - last.at) / 1000;
  return `${((status.ledger[name] - last.ledger[name]) / seconds).toFixed(1)}/s`;
}

function show(status) {
  const { ledger, outbox } = status;
  byId("version").textContent = status.version;
  health(outbox.writable ? "events can be stored" : `events cannot be stored: ${outbox.problem}`, outbox.writable);
  tiles("ledger", [
    ["coming in", rate(status, "accepted")],
    ["going out", rate(status, "delivered")],
    ...Object.entries(ledger).map(([name, value]) => [name.replace("_", " "), number(value)]),
  ]);
  tiles("outbox", [
    ["disk used", `${(100 * outbox.bytes / Math.max(1, outbox.max_bytes)).toFixed(1)} %`],
    ["oldest waits", `${Math.round(outbox.oldest_age_seconds)} s`],
    ["devices waiting", number(status.devices_waiting)],
    ["devices held back", number(status.devices_held)],
    ["clock ahead by", `${status.clock_skew_seconds.toFixed(1)} s`],
    ["started", time(status.started_at)],
  ]);
  fill("upstreams", status.upstreams.map((route) => [
    cell(route.tenant), cell(route.state.replace("_", " "), route.state === "ok" ? "good" : "bad"),
    cell(time(route.since)), cell(time(route.next_attempt_at)), cell(route.last_error),
  ]), "nothing sent yet");
  fill("devices", status.devices.map((device) => [
    cell(device.tenant), cell(device.platform), cell(device.device_id), cell(number(device.pending)),
    cell(time(device.held_until)), cell(device.why.replace("_", " ")),
  ]), "nothing waits");
  byId("dead-count").textContent = number(status.dead_letters.count);
  last = status;
}

async function poll() {
  if (!document.hidden) {
    try {
      const answer = await fetch("status.json");
      if (!answer.ok) throw new Error(`status ${answer.status}`);
      show({ ...(await answer.json()), at: performance.now() });
    } catch (error) {
      health(`no answer from the relay: ${error.message}`, false);
    }
  }
  setTimeout(poll, POLL_MS);
}

// Resolves to the answer's JSON; an error is shown and thrown on, a missing token asked for.
async function call(path, body) {
  const headers = token ? { Authorization: `Bearer ${token}` } : {};
  const options = body === undefined
    ? { headers }
    : { method: "POST", headers: { ...headers, "Content-Type": "application/json" }, body: JSON.stringify(body) };
  const answer = await fetch(path, options);
  const data = await answer.json();
  byId("token-form").hidden = answer.status !== 401;
  if (!data.success) throw new Error(data.error);
  return data;
}

function action(work) {
  return async () => {
    byId("message").textContent = "";
    try {
      byId("message").textContent = (await work()) ?? "";
    } catch (error) {
      byId("message").textContent = error.message;
    }
  };
}

async function showDead() {
  const data = await call(`dead-letters?limit=${SHOWN_DEAD_LETTERS}`);
  byId("dead-table").hidden = false;
  fill("dead", data.dead_letters.map((letter) => {
    const again = document.createElement("button");
    again.type = "button";
    again.textContent = "Requeue";
    again.onclick = action(() => requeue({ ids: [letter.id] }));
    const end = cell("");
    end.append(again);
    return [
      cell(letter.id), cell(letter.device_id), cell(letter.reason), cell(letter.status), cell(letter.words),
      cell(time(letter.dead_at)), end,
    ];
  }), "none");
}

async function requeue(choice) {
  const { requeued } = await call("dead-letters/requeue", choice);
  await showDead();
  return `${number(requeued)} requeued`;
}

// No more than there were at first: what the upstream refuses again comes back as a new dead letter.
async function requeueAll() {
  const wanted = last ? last.dead_letters.count : 0;
  let done = 0;
  while (done < wanted) {
    const limit = Math.min(MOVED_AT_ONCE, wanted - done);
    const { requeued } = await call("dead-letters/requeue", { all: true, limit });
    if (!requeued) break;
    done += requeued;
    byId("message").textContent = `${number(done)} of ${number(wanted)} requeued`;
  }
  await showDead();
  return `${number(done)} requeued`;
}

byId("flush").onclick = action(async () => (await call("flush", {})) && "asked to send");
byId("dead-show").onclick = action(showDead);
byId("dead-requeue").onclick = action(requeueAll);
byId("token-form").onsubmit = (event) => {
  event.preventDefault();
  token = byId("token").value;
  byId("token-form").hidden = true;
  byId("message").textContent = "token taken; try again";
};
poll();
