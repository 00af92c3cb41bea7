/* The relay's client for web pages: relay.send("video.play", {context: {...}})
 *
 * Rules:
 * 1. No function throws into the page, with any argument and in any browser.
 * 2. An event stays in memory, and in localStorage if available, until the relay has stored or rejected it. Both are
 *    limited; the limit of localStorage applies to all pages of an origin together. The client drops the oldest events
 *    first, except those in flight. `relay.dropped` counts the events dropped from memory, and `onerror` receives the
 *    reason.
 * 3. Every event has an id, and the relay stores an id only once. The client may therefore send an event again.
 * 4. When the page is hidden or closed, the client sends pending events by sendBeacon. sendBeacon does not report
 *    success, so that the events also stay in localStorage for the next visit.
 * The file has no dependency, no build step, and only ES5 syntax, because TV browsers are old.
 */
(function (root) {
  "use strict";

  var MAX_EVENTS = 1000;
  var MAX_CHARS = 1000000; // of all pending events; localStorage holds 5 MB for the whole origin
  var LOOK_CHARS = 50000; // new characters (or 50 events) after which a page checks the total of all pages
  var MAX_EVENT_BYTES = 60000; // the relay accepts 64 KiB
  var MAX_REASON_CHARS = 2000; // of all errors of one event
  var TWO_63 = 9223372036854775808;
  var MAX_BATCH_EVENTS = 100;
  var MAX_BATCH_BYTES = 60000; // browsers complete at most 64 KiB of requests after the page is closed
  var LINGER_MS = 50;
  var TIMEOUT_MS = 30000;
  var RETRY_FIRST_MS = 1000;
  var RETRY_MAX_MS = 60000;
  var PREFIX = "relay.event.";
  var TYPE = "text/plain;charset=UTF-8"; // avoids a preflight request, and equals the type of sendBeacon

  function Relay(options) {
    this.pending = 0; // events that the relay has neither stored nor rejected
    this.dropped = 0; // dropped events: queue full, rejected, too large, or not expressible in JSON
    this._options = {};
    this._queue = []; // elements {key, body, bytes}, oldest first
    this._chars = 0;
    this._count = 0;
    this._unseen = LOOK_CHARS; // characters stored since the last check of the total
    this._most = MAX_BATCH_EVENTS;
    this._failures = 0;
    this._timer = null;
    this._sending = [];
    this.configure(options);
    var relay = this;
    safely(function () { relay._load(); });
    safely(function () { relay._watch(); });
  }

  // Options: `url` of the events API; `event`, fields of every event, such as tenant_id and source; `onerror`, a
  // function (reason, body) that is called for each dropped event. `body` is its JSON, or null.
  Relay.prototype.configure = function (options) {
    var mine = this._options;
    safely(function () {
      for (var name in options || {}) mine[name] = options[name];
    });
    return this;
  };

  // Return the event's id, or null if the event cannot be sent. `fields` are added to the event. Values that the relay
  // rejects are replaced (see `repaired`). Without `occurred_at`, the relay adds the time of receipt.
  Relay.prototype.send = function (eventType, fields) {
    var relay = this;
    var reason = "the event cannot be sent";
    var id = null;
    var body = null;
    try {
      var event = { event_id: newId(), event_type: eventType };
      merge(event, relay._options.event);
      merge(event, fields);
      body = JSON.stringify(event, repaired);
      if (typeof event.event_id !== "string") reason = "event_id is not a string";
      else if (byteLength(body) > MAX_EVENT_BYTES) {
        reason = "the event has " + byteLength(body) + " bytes; the limit is " + MAX_EVENT_BYTES;
      } else {
        relay._keep(body);
        id = event.event_id;
        relay._wake(LINGER_MS);
      }
    } catch (error) {
      reason = "the event cannot be written as JSON: " + (safely(function () { return error.message; }) || "unknown");
    }
    if (!id) this._drop(reason, body);
    return id;
  };

  Relay.prototype._drop = function (reason, body) {
    var relay = this;
    this.dropped += 1;
    warn("event dropped: " + reason);
    safely(function () {
      if (relay._options.onerror) relay._options.onerror(reason, body);
    });
  };

  // Send pending events now, without the pause after a failure.
  Relay.prototype.flush = function () {
    var relay = this;
    safely(function () { relay._wake(0, true); });
    return this;
  };

  Relay.prototype._keep = function (body) {
    this._count += 1;
    var order = ("0000000000" + Date.now().toString(36)).slice(-10) + ("00000" + this._count.toString(36)).slice(-6);
    this._add({ key: PREFIX + order + newId().slice(0, 8), body: body, bytes: byteLength(body) });
    var item = this._queue[this._queue.length - 1];
    this._unseen += Math.max(body.length, LOOK_CHARS / 50);
    if (this._unseen > LOOK_CHARS) {
      this._unseen = 0;
      safely(function () { makeRoom(body.length); });
    }
    safely(function () { root.localStorage.setItem(item.key, item.body); });
  };

  Relay.prototype._add = function (item) {
    this._queue.push(item);
    this._chars += item.body.length;
    while (this._queue.length > MAX_EVENTS || this._chars > MAX_CHARS) {
      var oldest = this._queue[this._sending.length]; // Events in flight are before it.
      this._remove(oldest);
      this._drop("the queue is full", oldest.body);
    }
    this.pending = this._queue.length;
  };

  Relay.prototype._remove = function (item) {
    var at = this._queue.indexOf(item);
    if (at >= 0) {
      this._queue.splice(at, 1);
      this._chars -= item.body.length;
    }
    this.pending = this._queue.length;
    safely(function () { root.localStorage.removeItem(item.key); });
  };

  // Load the pending events of earlier pages.
  Relay.prototype._load = function () {
    if (!root.localStorage) return;
    var keys = storedKeys();
    for (var i = 0; i < keys.length; i++) {
      var body = root.localStorage.getItem(keys[i]);
      if (body) this._add({ key: keys[i], body: body, bytes: byteLength(body) });
    }
    if (this._queue.length) this._wake(LINGER_MS);
  };

  Relay.prototype._watch = function () {
    if (!root.addEventListener) return;
    var relay = this;
    function leave() { safely(function () { relay._beacon(); }); }
    root.addEventListener("pagehide", leave);
    root.addEventListener("online", function () { relay.flush(); });
    root.document.addEventListener("visibilitychange", function () {
      if (root.document.visibilityState === "hidden") leave();
    });
  };

  Relay.prototype._wake = function (ms, anew) {
    var relay = this;
    if (this._timer !== null && anew) {
      clearTimeout(this._timer);
      this._timer = null;
    }
    if (this._timer !== null || this._sending.length || !this._queue.length) return;
    this._timer = setTimeout(function () {
      relay._timer = null;
      safely(function () { relay._send(); });
    }, ms);
  };

  // Return the oldest events that fit into one request.
  Relay.prototype._batch = function (from) {
    var batch = [];
    var bytes = 0;
    for (var i = from; i < this._queue.length && batch.length < this._most; i++) {
      bytes += this._queue[i].bytes + 1;
      if (batch.length && bytes > MAX_BATCH_BYTES) break;
      batch.push(this._queue[i]);
    }
    return batch;
  };

  Relay.prototype._send = function () {
    var relay = this;
    var batch = (this._sending = this._batch(0));
    if (!batch.length) return;
    var settled = false;
    function settle(status, retryAfter, text) {
      if (settled) return;
      settled = true;
      clearTimeout(timeout);
      relay._sending = [];
      safely(function () { relay._settle(batch, status, retryAfter, text); });
    }
    var abort = null;
    var timeout = setTimeout(function () {
      settle(0);
      safely(abort);
    }, TIMEOUT_MS);
    try {
      abort = post(this._url(), bodyOf(batch), settle);
    } catch (error) {
      settle(0);
    }
  };

  Relay.prototype._settle = function (batch, status, retryAfter, text) {
    if (status >= 200 && status < 300) {
      for (var i = 0; i < batch.length; i++) this._remove(batch[i]);
      this._failures = 0;
      this._most = Math.min(this._most * 2, MAX_BATCH_EVENTS);
      this._wake(0);
    } else if (status === 400 || status === 413 || status === 415 || status === 422) {
      // The relay would reject the same bytes again. Halve the batch to find the invalid event, and drop only that one.
      if (batch.length === 1) {
        this._remove(batch[0]);
        this._drop("the relay rejected it with " + status + ": " + reasonIn(text), batch[0].body);
      }
      this._most = Math.max(1, Math.floor(batch.length / 2));
      this._wake(0);
    } else {
      this._failures += 1;
      if (this._failures === 1 && status) warn("the relay responded with " + status + "; events are pending");
      var maxPause = Math.min(RETRY_MAX_MS, RETRY_FIRST_MS * Math.pow(2, Math.min(this._failures - 1, 10)));
      this._wake(Math.max(Math.random() * maxPause, Math.min(RETRY_MAX_MS, (Number(retryAfter) || 0) * 1000), 100));
    }
  };

  // Send all pending events by sendBeacon, in bodies that the browser accepts. They stay pending. Events in flight are
  // included, because an old browser may abort a fetch when the page is closed.
  Relay.prototype._beacon = function () {
    var navigator = root.navigator;
    if (!navigator || !navigator.sendBeacon) return;
    var from = 0;
    while (from < this._queue.length) {
      var batch = this._batch(from);
      if (!navigator.sendBeacon(this._url(), new Blob([bodyOf(batch)], { type: TYPE }))) return;
      from += batch.length;
    }
  };

  Relay.prototype._url = function () {
    return this._options.url || "http://127.0.0.1:8080/v1/events";
  };

  function bodyOf(batch) {
    var bodies = [];
    for (var i = 0; i < batch.length; i++) bodies.push(batch[i].body);
    return '{"events":[' + bodies.join(",") + "]}";
  }

  // Return the keys of the events stored by all pages of this origin, oldest first.
  function storedKeys() {
    var storage = root.localStorage;
    var keys = [];
    for (var i = 0; i < storage.length; i++) {
      var key = storage.key(i);
      if (key && key.indexOf(PREFIX) === 0) keys.push(key);
    }
    return keys.sort();
  }

  // Remove the oldest stored events to make room for one event. An open page still has its own events in memory.
  function makeRoom(chars) {
    var storage = root.localStorage;
    var keys = storedKeys();
    for (var i = keys.length - 1; i >= 0; i--) {
      chars += (storage.getItem(keys[i]) || "").length;
      if (chars > MAX_CHARS || keys.length - i >= MAX_EVENTS) storage.removeItem(keys[i]);
    }
  }

  // Send a request. Return a function that aborts it.
  function post(url, body, settle) {
    if (root.fetch) {
      var controller = safely(function () { return new root.AbortController(); });
      root
        .fetch(url, {
          method: "POST",
          body: body,
          headers: { "Content-Type": TYPE },
          keepalive: byteLength(body) <= MAX_BATCH_BYTES + 100,
          signal: controller && controller.signal,
        })
        .then(
          function (response) {
            var retryAfter = response.headers.get("Retry-After");
            if (response.status < 400 || !response.text) return settle(response.status, retryAfter);
            function read(text) { settle(response.status, retryAfter, text); }
            response.text().then(read, function () { read(""); });
          },
          function () { settle(0); }
        );
      return function () { controller.abort(); };
    }
    var request = new root.XMLHttpRequest();
    request.open("POST", url);
    request.setRequestHeader("Content-Type", TYPE);
    request.onloadend = function () {
      settle(request.status, safely(function () { return request.getResponseHeader("Retry-After"); }), request.responseText);
    };
    request.send(body);
    return function () { request.abort(); };
  }

  function newId() {
    var crypto = root.crypto;
    if (crypto && crypto.randomUUID) return crypto.randomUUID(); // in secure contexts only
    var bytes = [];
    if (crypto && crypto.getRandomValues) bytes = crypto.getRandomValues(new Uint8Array(16));
    else for (var i = 0; i < 16; i++) bytes.push(Math.floor(Math.random() * 256));
    var hex = "";
    for (var j = 0; j < 16; j++) {
      var byte = j === 6 ? (bytes[j] & 15) | 64 : j === 8 ? (bytes[j] & 63) | 128 : bytes[j];
      hex += (byte + 256).toString(16).slice(1) + (j === 3 || j === 5 || j === 7 || j === 9 ? "-" : "");
    }
    return hex;
  }

  // Add fields to an object. The fields of `source` are merged: {source: {app_version: "2"}} keeps source.platform.
  function merge(into, fields) {
    for (var name in fields || {}) {
      var value = fields[name];
      if (value === undefined) continue;
      into[name] = isPlain(value) && name === "source" ? merge(merge({}, into[name]), value) : value;
    }
    return into;
  }

  // A replacer for JSON.stringify: a lone surrogate and U+0000 become U+FFFD, and an integer beyond 64 bits becomes a
  // string. The relay rejects such values, because one of them would make the upstream reject a whole batch.
  function repaired(key, value) {
    if (typeof value === "string") return repairedText(value);
    if (typeof value === "bigint") return Math.abs(Number(value)) <= 9007199254740991 ? Number(value) : String(value);
    if (typeof value === "number" && Math.floor(value) === value && Math.abs(value) < 1e21) {
      return Math.abs(value) >= TWO_63 ? String(value) : value;
    }
    if (!isPlain(value)) return value;
    var names = Object.keys(value);
    for (var i = 0; i < names.length; i++) if (repairedText(names[i]) !== names[i]) return withRepairedNames(value, names);
    return value;
  }

  function withRepairedNames(value, names) {
    var copy = {};
    for (var i = 0; i < names.length; i++) copy[repairedText(names[i])] = value[names[i]];
    return copy;
  }

  function repairedText(text) {
    return text.replace(/[\uD800-\uDBFF][\uDC00-\uDFFF]|[\u0000\uD800-\uDFFF]/g, function (found) {
      return found.length === 2 ? found : "\uFFFD";
    });
  }

  // Return the error message in the body of a response, with every error of a 422.
  function reasonIn(text) {
    var data = safely(function () { return JSON.parse(text); }) || {};
    var reason = data.error || String(text || "no reason given");
    if (data.errors) reason += " " + JSON.stringify(data.errors);
    return reason.slice(0, MAX_REASON_CHARS);
  }

  function isPlain(value) {
    return Object.prototype.toString.call(value) === "[object Object]";
  }

  function byteLength(text) {
    var bytes = text.length;
    for (var i = 0; i < text.length; i++) {
      var code = text.charCodeAt(i);
      if (code > 127) bytes += code > 2047 && (code < 0xd800 || code > 0xdfff) ? 2 : 1;
    }
    return bytes;
  }

  function safely(act) {
    try {
      return act();
    } catch (error) {
      return undefined;
    }
  }

  function warn(message) {
    safely(function () { root.console.warn("relay: " + message); });
  }

  // Return the options of the script tag: <script src="http://127.0.0.1:8080/relay.js" crossorigin data-event='{...}'>
  function fromTag() {
    var tag = root.document && root.document.currentScript;
    var options = {};
    if (tag && tag.src) options.url = tag.src.replace(/\/relay\.js.*$/, "/v1/events");
    if (tag && tag.getAttribute("data-url")) options.url = tag.getAttribute("data-url");
    var event = tag && tag.getAttribute("data-event");
    if (event) options.event = safely(function () { return JSON.parse(event); });
    if (event && !isPlain(options.event)) {
      warn("data-event is not a JSON object and is ignored: " + event.slice(0, 200));
      delete options.event;
    }
    return options;
  }

  var relay = new Relay(safely(fromTag));
  if (typeof module === "object" && module.exports) module.exports = relay;
  else root.relay = relay;
})(typeof globalThis === "object" ? globalThis : typeof window === "object" ? window : this);
