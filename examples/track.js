// Send the events of a web page to the relay, without relay.js.
const RELAY = "http://127.0.0.1:8080/v1/events";
const waiting = new Map();

function track(event_type, fields) {
  const source = { platform: "web", device_id: "A1B2C3D4-E5F6-7890-ABCD-EF1234567890" };
  const event = { event_id: crypto.randomUUID(), event_type, tenant_id: 2, source, ...fields };
  waiting.set(event.event_id, event);
  fetch(RELAY, { method: "POST", keepalive: true, body: JSON.stringify(event) })
    .then((response) => [408, 503].includes(response.status) || waiting.delete(event.event_id))
    .catch(() => {});
}

// When the page is hidden, send the events without a response again.
document.addEventListener("visibilitychange", () => {
  if (document.visibilityState === "hidden" && waiting.size) {
    navigator.sendBeacon(RELAY, JSON.stringify([...waiting.values()]));
  }
});

track("page.tracked");
