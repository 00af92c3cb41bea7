// relay.js in worlds made by hand: clock, network and storage do as the test says, and nothing is waited for.
// Run by tests/e2e/test_browser_client.py, or: node --test tests/e2e/clients/relay.test.cjs
"use strict";

const assert = require("node:assert/strict");
const { readFileSync } = require("node:fs");
const { join } = require("node:path");
const test = require("node:test");
const vm = require("node:vm");

const SOURCE = readFileSync(join(__dirname, "../../../relay/clients/relay.js"), "utf8");
const UUID4 = /^[0-9a-f]{8}-[0-9a-f]{4}-4[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$/;

class Storage {
  constructor(items = {}) { this.items = new Map(Object.entries(items)); }
  get length() { return this.items.size; }
  key(i) { return [...this.items.keys()][i] ?? null; }
  getItem(key) { return this.items.get(key) ?? null; }
  setItem(key, value) { this.items.set(key, String(value)); }
  removeItem(key) { this.items.delete(key); }
}

// A page: `answer` is the status of a request, or a function of its body; 0 breaks the connection, null never answers.
class World {
  constructor({ answer = 202, tag = {}, without = [], ...globals } = {}) {
    this.now = 0;
    this.timers = [];
    this.requests = [];
    this.beacons = [];
    this.listeners = {};
    this.warnings = [];
    this.answer = answer;
    const listen = (name, act) => { (this.listeners[name] ??= []).push(act); };
    const script = { src: "http://127.0.0.1:8080/relay.js", getAttribute: (name) => tag[name] ?? null };
    const world = {
      setTimeout: (act, ms) => this.timers.push({ at: this.now + ms, act, on: true }),
      clearTimeout: (id) => { if (id) this.timers[id - 1].on = false; },
      fetch: (url, request) => this.fetch(url, request),
      crypto: globalThis.crypto,
      AbortController: globalThis.AbortController,
      localStorage: new Storage(),
      navigator: { sendBeacon: (url, blob) => { this.beacons.push({ url, blob }); return true; } },
      document: { currentScript: script, visibilityState: "visible", addEventListener: listen },
      addEventListener: listen,
      console: { warn: (words) => this.warnings.push(words) },
      Blob: globalThis.Blob,
      ...globals,
    };
    for (const name of without) delete world[name];
    this.globals = world;
    vm.runInNewContext(SOURCE, world);
    this.relay = world.relay;
  }

  async fetch(url, request) {
    this.requests.push({ url, ...request });
    const status = typeof this.answer === "function" ? this.answer(request.body) : this.answer;
    if (status === null) return new Promise(() => {});
    if (status === 0) throw new TypeError("Failed to fetch");
    const text = JSON.stringify(this.body ?? { success: status < 300 });
    return { status, headers: { get: () => null }, text: async () => text };
  }

  // Let time pass until nothing is due within it.
  async pass(ms) {
    const end = this.now + ms;
    for (;;) {
      await new Promise(setImmediate);
      const due = this.timers.filter((each) => each.on && each.at <= end).sort((a, b) => a.at - b.at)[0];
      if (!due) break;
      due.on = false;
      this.now = Math.max(this.now, due.at);
      due.act();
    }
    this.now = end;
  }

  happen(name) { for (const act of this.listeners[name] ?? []) act(); }
  sent() { return this.requests.map((request) => JSON.parse(request.body).events.map((event) => event.event_type)); }
}

test("the client has no syntax that an old TV's browser cannot read", () => {
  const code = SOURCE.replace(/\/\*[^]*?\*\/|\/\/.*/g, "");
  assert.doesNotMatch(code, /=>|`|\.\.\.|\?\.|\?\?|\b(const|let|class|async|await|for\s*\([^)]* of)\b/);
});

test("events of one moment travel in one request, in order, with what the tag says", async () => {
  const world = new World({ tag: { "data-event": '{"tenant_id": 2, "source": {"platform": "web", "device_id": "d"}}' } });
  const ids = ["a", "b"].map((type) => world.relay.send(type, { source: { app_version: "1" }, subject: { id: "7" } }));
  await world.pass(1000);
  assert.deepEqual(world.sent(), [["a", "b"]]);
  const [request] = world.requests;
  assert.equal(request.url, "http://127.0.0.1:8080/v1/events");
  assert.equal(request.headers["Content-Type"], "text/plain;charset=UTF-8");
  assert.equal(request.keepalive, true);
  const [event] = JSON.parse(request.body).events;
  assert.deepEqual(event.source, { platform: "web", device_id: "d", app_version: "1" });
  assert.equal(event.tenant_id, 2);
  assert.equal("occurred_at" in event, false);
  assert.match(ids[0], UUID4);
  assert.equal(event.event_id, ids[0]);
  assert.equal(world.relay.pending, 0);
  assert.equal(world.globals.localStorage.length, 0);
});

for (const status of [0, 408, 503, 500, 403, 404, null]) {
  test(`an event stays until it is taken: first ${status}`, async () => {
    const world = new World({ answer: status });
    const id = world.relay.send("a");
    await world.pass(200_000);
    assert.equal(world.relay.pending, 1);
    assert.equal(world.globals.localStorage.length, 1);
    const before = world.requests.length;
    assert.ok(before >= 3 && before < 200, `${before} requests in 200 s`);
    world.answer = 202;
    await world.pass(200_000);
    assert.equal(world.relay.pending, 0);
    assert.equal(world.relay.dropped, 0);
    assert.ok(world.requests.every((request) => JSON.parse(request.body).events[0].event_id === id));
  });
}

test("a refused event is found by halving and given up; the others arrive once", async () => {
  const world = new World({ answer: (body) => (body.includes('"bad"') ? 422 : 202) });
  for (let i = 0; i < 20; i++) world.relay.send(i === 13 ? "bad" : `good ${i}`);
  await world.pass(10_000);
  const taken = world.sent().filter((types) => !types.includes("bad")).flat();
  assert.deepEqual(taken, [...Array(20).keys()].filter((i) => i !== 13).map((i) => `good ${i}`));
  assert.equal(world.relay.dropped, 1);
  assert.equal(world.relay.pending, 0);
  assert.equal(world.warnings.length, 1);
});

test("what earlier pages left is sent first", async () => {
  const storage = new Storage({ other: "x" });
  const before = new World({ answer: 0, localStorage: storage });
  before.relay.send("left");
  const world = new World({ localStorage: storage });
  world.relay.send("fresh");
  await world.pass(1000);
  assert.deepEqual(world.sent(), [["left", "fresh"]]);
  assert.deepEqual([...storage.items.keys()], ["other"]);
});

test("memory and storage are bounded, the oldest go first and are counted", async () => {
  const world = new World({ answer: 0 });
  for (let i = 0; i < 1200; i++) world.relay.send(`event ${i}`);
  assert.equal(world.relay.pending, 1000);
  assert.equal(world.relay.dropped, 200);
  assert.equal(world.globals.localStorage.length, 1000);
  await world.pass(50);
  assert.equal(world.sent()[0][0], "event 200");
  for (let i = 0; i < 100; i++) world.relay.send("large", { context: { text: "x".repeat(50_000) } });
  const held = [...world.globals.localStorage.items.values()].reduce((sum, body) => sum + body.length, 0);
  assert.ok(held <= 1_000_000, `${held} characters`);
});

test("storage is bounded for all pages of an origin together, and the oldest of all go first", async () => {
  const storage = new Storage({ "the page's own": "x".repeat(2_000_000) });
  const pages = Array.from({ length: 6 }, () => new World({ answer: 0, localStorage: storage }));
  for (let i = 0; i < 25; i++) {
    for (const page of pages) page.relay.send(`large ${i}`, { context: { text: "x".repeat(39_000) } });
  }
  const stored = () => [...storage.items].filter(([key]) => key.startsWith("relay.event.")).map(([, body]) => body);
  assert.ok(stored().join("").length <= 1_000_000 + 6 * 50_000);
  assert.ok(stored().length >= 24 && stored().every((body) => /"large 2\d"/.test(body)), `${stored().length} left`);
  assert.equal(storage.getItem("the page's own").length, 2_000_000);
  assert.deepEqual(pages.map((page) => [page.relay.pending, page.relay.dropped]), pages.map(() => [25, 0]));

  for (let i = 0; i < 300; i++) for (const page of pages) page.relay.send("small");
  assert.ok(stored().length >= 1000 && stored().length <= 1000 + 6 * 50, `${stored().length} left`);
});

test("what is being sent is not dropped for what comes after it", async () => {
  const world = new World({ answer: null });
  for (let i = 0; i < 100; i++) world.relay.send(`first ${i}`);
  await world.pass(100);
  world.answer = 202;
  for (let i = 0; i < 1000; i++) world.relay.send(`more ${i}`);
  assert.equal(world.relay.dropped, 100);
  await world.pass(200_000);
  const taken = world.sent().slice(1).flat();
  assert.deepEqual(taken.slice(0, 101), [...Array(100).keys()].map((i) => `first ${i}`).concat("more 100"));
  assert.equal(taken.length, 1000);
  assert.equal(world.relay.dropped, 100);
});

for (const wrong of ['{"tenant_id": 2', '"text"', "null"]) {
  test(`a data-event that is no object is told, and costs no other option: ${wrong}`, async () => {
    const world = new World({ tag: { "data-url": "http://10.0.0.5:9000/v1/events", "data-event": wrong } });
    world.relay.send("a");
    await world.pass(1000);
    assert.deepEqual(world.requests.map((request) => request.url), ["http://10.0.0.5:9000/v1/events"]);
    assert.equal(JSON.parse(world.requests[0].body).events[0][0], undefined);
    assert.equal(world.warnings.length, 1);
    assert.match(world.warnings[0], /data-event/);
  });
}

test("a request that takes too long is ended", async () => {
  const world = new World({ answer: null });
  world.relay.send("a");
  await world.pass(200_000);
  const ended = world.requests.map((request) => request.signal.aborted);
  assert.ok(ended.length >= 3);
  assert.deepEqual(ended.slice(0, -1), ended.slice(0, -1).map(() => true));
});

test("a request stays below what browsers keep alive", async () => {
  const world = new World();
  for (let i = 0; i < 300; i++) world.relay.send("é".repeat(200));
  await world.pass(10_000);
  assert.ok(world.requests.length >= 3);
  for (const request of world.requests) assert.ok(Buffer.byteLength(request.body) < 64 << 10);
  assert.equal(world.relay.pending, 0);
});

for (const leaving of ["pagehide", "visibilitychange"]) {
  test(`what waits goes out by sendBeacon on ${leaving}, and stays until it is answered for`, async () => {
    const world = new World({ answer: 0 });
    world.relay.send("a");
    await world.pass(100);
    world.globals.document.visibilityState = "hidden";
    world.happen(leaving);
    const [beacon] = world.beacons;
    assert.equal(beacon.url, "http://127.0.0.1:8080/v1/events");
    assert.equal(beacon.blob.type.toLowerCase(), "text/plain;charset=utf-8");
    assert.equal(JSON.parse(await beacon.blob.text()).events[0].event_type, "a");
    assert.equal(world.relay.pending, 1);
  });
}

test("what is in flight goes out by sendBeacon too", async () => {
  const world = new World({ answer: null });
  world.relay.send("in flight");
  await world.pass(100);
  world.relay.send("waiting");
  world.happen("pagehide");
  const events = JSON.parse(await world.beacons[0].blob.text()).events;
  assert.deepEqual(events.map((event) => event.event_type), ["in flight", "waiting"]);
});

test("a page that becomes visible sends no beacon", () => {
  const world = new World({ answer: 0 });
  world.relay.send("a");
  world.happen("visibilitychange");
  assert.equal(world.beacons.length, 0);
});

test("ids are UUIDs of version 4 without crypto.randomUUID and without crypto", () => {
  const getRandomValues = (bytes) => globalThis.crypto.getRandomValues(bytes);
  for (const crypto of [{ getRandomValues }, undefined]) {
    const world = new World({ crypto });
    const ids = new Set(Array.from({ length: 200 }, () => world.relay.send("a")));
    assert.equal(ids.size, 200);
    for (const id of ids) assert.match(id, UUID4);
  }
});

test("an old browser without fetch sends by XMLHttpRequest", async () => {
  const sent = [];
  class XMLHttpRequest {
    open(method, url) { this.target = `${method} ${url}`; }
    setRequestHeader(name, value) { this.header = `${name}: ${value}`; }
    send(body) {
      sent.push([this.target, this.header, JSON.parse(body).events.length]);
      this.status = 202;
      setImmediate(() => this.onloadend());
    }
  }
  const world = new World({ without: ["fetch"], XMLHttpRequest });
  world.relay.send("a");
  await world.pass(1000);
  assert.deepEqual(sent, [["POST http://127.0.0.1:8080/v1/events", "Content-Type: text/plain;charset=UTF-8", 1]]);
  assert.equal(world.relay.pending, 0);
});

test("an old browser's request that takes too long is ended, too", async () => {
  const requests = [];
  class XMLHttpRequest {
    constructor() { requests.push(this); }
    open() {}
    setRequestHeader() {}
    send() {}
    abort() { this.aborted = true; this.status = 0; this.onloadend(); }
  }
  const world = new World({ without: ["fetch", "AbortController"], XMLHttpRequest });
  world.relay.send("a");
  await world.pass(200_000);
  assert.ok(requests.length >= 3);
  assert.ok(requests.slice(0, -1).every((request) => request.aborted));
  assert.equal(world.relay.pending, 1);
});

test("nothing throws, whatever it is called with", async () => {
  const circle = {};
  circle.self = circle;
  const trap = new Proxy({}, { get() { throw new Error("get"); }, ownKeys() { throw new Error("keys"); } });
  const world = new World();
  const bad = [circle, trap, { event_id: 7 }, { context: "x".repeat(100_000) }];
  for (const fields of bad) assert.equal(world.relay.send("a", fields), null);
  assert.equal(world.relay.dropped, bad.length);
  for (const fields of [null, undefined, 1, "text", [], () => 0]) world.relay.send(undefined, fields);
  for (const options of [null, trap, 1, { url: 7 }, { event: trap }]) world.relay.configure(options).send("b");
  world.relay.flush();
  await world.pass(10_000);
});

test("nothing throws, whatever the browser lacks or refuses", async () => {
  const thrower = () => { throw new Error("refused"); };
  const broken = new Proxy({}, { get: thrower });
  const names = ["fetch", "crypto", "localStorage", "navigator", "document", "console", "Blob", "addEventListener",
    "AbortController"];
  for (const name of names) {
    for (const world of [new World({ without: [name] }), new World({ [name]: name === "fetch" ? thrower : broken })]) {
      world.relay.send("a");
      world.relay.flush();
      await world.pass(5_000);
      world.globals.document && safely(() => { world.globals.document.visibilityState = "hidden"; });
      world.happen("pagehide");
      world.happen("visibilitychange");
      world.happen("online");
    }
  }
});

function safely(act) { try { act(); } catch { /* the broken world's own */ } }

test("a full localStorage costs nothing but the next visit", async () => {
  const full = new Storage();
  full.setItem = () => { throw new DOMException("full", "QuotaExceededError"); };
  const world = new World({ localStorage: full });
  world.relay.send("a");
  await world.pass(1000);
  assert.deepEqual(world.sent(), [["a"]]);
});

const MENDED = [
  ["half an emoji at the end", "Movie night \ud83d", "Movie night \ufffd"],
  ["half an emoji at the start", "\ude00 x", "\ufffd x"],
  ["two halves in the wrong order", "\ude00\ud83d", "\ufffd\ufffd"],
  ["a whole emoji", "x \u{1F600}", "x \u{1F600}"],
  ["U+0000", "a\u0000b", "a\ufffdb"],
  ["2**64", 2 ** 64, "18446744073709552000"],
  ["2**63", 2 ** 63, "9223372036854776000"],
  ["-(2**63), which JavaScript writes with more digits", -(2 ** 63), "-9223372036854776000"],
  ["a small BigInt", 5n, 5],
  ["a large BigInt", 2n ** 63n, "9223372036854775808"],
  ["a fraction", 0.5, 0.5],
  ["1e300", 1e300, 1e300],
];
for (const [name, given, sent] of MENDED) {
  test(`a value that the relay rejects is mended: ${name}`, async () => {
    const world = new World();
    assert.match(world.relay.send("a", { context: { x: given, deep: [{ y: given }] } }), UUID4);
    await world.pass(1000);
    const [event] = JSON.parse(world.requests[0].body).events;
    assert.deepEqual(event.context, { x: sent, deep: [{ y: sent }] });
    assert.equal(world.relay.dropped, 0);
  });
}

test("a name with half an emoji is mended", async () => {
  const world = new World();
  world.relay.send("a", { context: { "x\ud83d": 1 } });
  await world.pass(1000);
  assert.deepEqual(JSON.parse(world.requests[0].body).events[0].context, { "x\ufffd": 1 });
});

test("an event that cannot be sent is counted and reported with the reason", () => {
  const world = new World();
  const reasons = [];
  world.relay.configure({ onerror: (reason) => { reasons.push(reason); throw new Error("the page's bug"); } });
  const cyclic = {};
  cyclic.self = cyclic;
  assert.equal(world.relay.send("a", { context: cyclic }), null);
  assert.equal(world.relay.send("a", { context: { x: "\u20ac".repeat(20_001) } }), null);
  assert.equal(world.relay.send("a", { event_id: 7 }), null);
  assert.equal(world.relay.dropped, 3);
  assert.match(reasons[0], /cannot be written as JSON/);
  assert.match(reasons[1], /the event has 60\d\d\d bytes; the limit is 60000/);
  assert.match(reasons[2], /event_id/);
  assert.equal(world.warnings.length, 3);
});

test("the reason of a 422 is reported", async () => {
  const world = new World({ answer: 422 });
  world.body = { success: false, error: "1 event is invalid", errors: { "events.0.event_type": ["is required"] } };
  const reports = [];
  world.relay.configure({ onerror: (reason, body) => reports.push([reason, JSON.parse(body).event_type]) });
  world.relay.send("a");
  await world.pass(1000);
  assert.equal(world.relay.dropped, 1);
  assert.deepEqual(reports, [
    ['the relay rejected it with 422: 1 event is invalid {"events.0.event_type":["is required"]}', "a"],
  ]);
});

test("the page's own occurred_at is sent as it is", async () => {
  const world = new World();
  world.relay.send("a", { occurred_at: "2026-01-01T00:00:00Z" });
  await world.pass(1000);
  assert.equal(JSON.parse(world.requests[0].body).events[0].occurred_at, "2026-01-01T00:00:00Z");
});
