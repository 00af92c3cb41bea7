// Send one event to the relay over HTTP. Needs Node 18 or newer.
import { randomUUID } from "node:crypto";
import { setTimeout as sleep } from "node:timers/promises";

// Return whether the event is stored. Throw if it is rejected.
async function send(eventType, fields = {}) {
  const source = { platform: "tv", device_id: "A1B2C3D4-E5F6-7890-ABCD-EF1234567890" };
  const body = JSON.stringify({ event_id: randomUUID(), event_type: eventType, tenant_id: 2, source, ...fields });
  for (let attempt = 0; attempt < 6; attempt++) {
    const request = { method: "POST", headers: { "Content-Type": "application/json" }, body };
    const response = await fetch("http://127.0.0.1:8080/v1/events", request).catch(() => null);
    if (response?.status === 202) return true;
    if (response && ![408, 503].includes(response.status)) throw new Error(await response.text());
    await sleep(1000 * 2 ** attempt);
  }
  return false;
}

await send("node.sent", { context: { answer: 42 } });
