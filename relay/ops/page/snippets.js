// The commands of the first run, and snippets for apps, with the addresses of this relay.

import { byId, element, fill } from "./dom.js";

const EVENT = {
  event_type: "video.play", tenant_id: 1, source: { platform: "tv", device_id: "my-box" }, subject: { type: "video", id: "42" },
};
const BODY = JSON.stringify(EVENT);

export function showSnippets({ ledger, listen }) {
  const app = `http://${listen.http[0] ?? location.host}`; // Operations may have a listener of their own.
  const url = `${app}/v1/events`;
  const [host, port] = splitAddress(listen.udp[0] ?? "127.0.0.1:8125");
  const curl = `curl -i ${url} -H 'Content-Type: application/json' -d '${BODY}'`;
  byId("first-run").hidden = ledger.accepted > 0;
  fill(byId("first-command"), curl, () => [curl]);
  byId("description-link").href = `${app}/openapi.json`;
  byId("client-link").href = `${app}/relay.js`;
  const snippets = [
    ["Shell", curl],
    ["UDP", `echo '${BODY}' | nc -u -w1 ${host} ${port}`],
    ["JavaScript", `await fetch("${url}", {\n  method: "POST",\n  headers: { "Content-Type": "application/json" },\n  body: JSON.stringify(${BODY}),\n});`],
    ["Python", `import json, urllib.request\n\nevent = ${BODY}\nurllib.request.urlopen(urllib.request.Request(\n    "${url}", json.dumps(event).encode(), {"Content-Type": "application/json"}))`],
  ];
  fill(byId("snippets"), JSON.stringify(snippets), () => snippets.flatMap(([name, text]) => {
    const id = `snippet-${name.toLowerCase()}`;
    return [
      element("h3", { text: name }),
      element("div", { className: "copyable" },
        element("pre", { id, text, tabindex: "0", role: "group", "aria-label": `${name} snippet` }),
        element("button", { type: "button", text: "Copy", "aria-label": `Copy ${name} snippet`, "data-copy": id })),
    ];
  }));
}

function splitAddress(address) {
  const at = address.lastIndexOf(":");
  return [address.slice(0, at).replace(/[[\]]/g, ""), address.slice(at + 1)];
}
