// The connection to the relay. While the page is visible, it receives the events of /status/stream. If the stream is
// unavailable (too many pages, a proxy), it requests /status.json every 5 seconds. A hidden page sends no requests.

const RETRY_MS = 5000;
const SILENT_MS = 10_000; // A stream sends a status every two seconds.
let stream = null;
let retry = 0;
let silence = 0;
let pending = new AbortController(); // Aborts a request for the status: a status of the stream is newer.
let handlers = null;

// Call `history` and `sample` with points of the charts, `status` with a status and the kind of the connection, and
// `lost` when the relay does not respond.
export function connect(given) {
  handlers = given;
  document.addEventListener("visibilitychange", () => {
    if (!document.hidden) return listen();
    clearTimeout(retry);
    clearTimeout(silence);
    stream?.close();
  });
  if (!document.hidden) listen();
}

function listen() {
  clearTimeout(retry);
  stream?.close();
  stream = new EventSource("status/stream");
  for (const name of ["history", "sample"]) {
    stream.addEventListener(name, (event) => handlers[name](JSON.parse(event.data)));
  }
  stream.addEventListener("status", (event) => {
    pending.abort();
    clearTimeout(silence);
    silence = setTimeout(handlers.lost, SILENT_MS);
    handlers.status(JSON.parse(event.data), "Live");
  });
  stream.addEventListener("error", () => {
    clearTimeout(silence);
    if (stream.readyState !== EventSource.CLOSED) return handlers.lost();
    stream.close();
    poll();
    retry = setTimeout(listen, RETRY_MS);
  });
}

async function poll() {
  pending.abort();
  const { signal } = (pending = new AbortController());
  try {
    const response = await fetch("status.json", { signal });
    if (!response.ok) throw new Error(`${response.status}`);
    handlers.status(await response.json(), "Updated every 5 seconds");
  } catch {
    if (!signal.aborted) handlers.lost();
  }
}
