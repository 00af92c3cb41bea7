"""The operations interface: health, metrics, status, the status page and the operator's actions.

One table contains all routes. An error response is {"success": false, "error": "..."}. Every client that reaches the
listener may read totals and states. A route that changes state or returns event bodies is `guarded` (see `access`). No
request waits for the upstream.

This module does not depend on sockets, `ingest` or `forward`. The listener's guard checks Host and Origin first.
"""

from __future__ import annotations

import gzip
import json
from collections.abc import Awaitable, Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import NamedTuple, Protocol

from aiohttp import hdrs

from relay.http.request import BodyError, BodyHandler, Reply, Request
from relay.http.response import Response, Stream
from relay.ops import exposition
from relay.ops.access import require_allowed
from relay.ops.dead_letters import found, read_choice, read_id, read_query, shown
from relay.ops.live import Live
from relay.ops.response import RequestRejected, bytes_response, error_response, json_response
from relay.ops.status import Status
from relay.ops.tail import PATH as TAIL_PATH
from relay.ops.tail import Tail
from relay.outbox import Outbox, OutboxError
from relay.runtime import log
from relay.runtime.metrics import Metrics
from relay.runtime.secret import Secret

DEAD_LETTERS = "/dead-letters"
QUARANTINE = "/quarantine"
ADOPTED_AT_ONCE = 4096
"""Maximum number of quarantined events that one request adopts or discards."""
MAX_REQUEST_BYTES = 64 << 10
PAGE = Path(__file__).parent / "page"
PAGE_TYPES = {".html": "text/html", ".css": "text/css", ".js": "text/javascript"}


class Control(Protocol):
    """Actions of the running service that an operator may start."""

    def flush(self) -> None:
        """Send pending events now, within the limits, and probe paused endpoints, at most once a second."""


class Route(NamedTuple):
    """The method and the handler of a path; `guarded` routes are subject to `access`."""

    method: str
    handler: Callable[[Request], Awaitable[Response | Stream]]
    guarded: bool = False


class Ops:
    """The handler of all operations requests of a service. A reload of the configuration may replace `token`."""

    def __init__(
        self,
        *,
        status: Status,
        live: Live,
        tail: Tail,
        outbox: Outbox,
        control: Control,
        token: Secret | None,
        metrics: Metrics,
        refresh: Callable[[], None],
        configuration: Callable[[], Mapping[str, object]],
    ) -> None:
        """Serve these parts.

        - `refresh` is called before each scrape. It sets the gauges that outbox and schedule do not supply.
        - `configuration` returns the value of each key with secrets masked, and its source.
        """
        self.token = token
        self._status = status
        self._outbox = outbox
        self._control = control
        self._metrics = metrics
        self._refresh = refresh
        self._configuration = configuration
        self._page = _read_page()
        get, post = hdrs.METH_GET, hdrs.METH_POST
        self._routes = {
            "/livez": Route(get, self._livez),
            "/readyz": Route(get, self._readyz),
            "/metrics": Route(get, self._scrape),
            "/status.json": Route(get, self._show_status),
            "/status/stream": Route(get, live.stream),
            TAIL_PATH: Route(get, tail.stream),
            "/event-types": Route(get, tail.types),
            "/log": Route(get, self._show_log, guarded=True),
            "/configuration": Route(get, self._show_configuration, guarded=True),
            "/flush": Route(post, self._flush, guarded=True),
            DEAD_LETTERS: Route(get, self._list_dead, guarded=True),
            f"{DEAD_LETTERS}/requeue": Route(post, self._requeue, guarded=True),
            f"{DEAD_LETTERS}/discard": Route(post, self._discard, guarded=True),
            f"{QUARANTINE}/adopt": Route(post, self._adopt, guarded=True),
            f"{QUARANTINE}/discard": Route(post, self._discard_quarantined, guarded=True),
            **dict.fromkeys(self._page, Route(get, self._file)),
        }
        self._one_dead = Route(get, self._show_dead, guarded=True)

    @property
    def routes(self) -> Mapping[str, Route]:
        """All routes by path, with the paths as written in the API description."""
        return {**self._routes, f"{DEAD_LETTERS}/{{id}}": self._one_dead}

    def handle(self, request: Request) -> BodyHandler | Response:
        """Return the handler of a request, or the response that rejects it."""
        try:
            route = self._find(request)
            if route.guarded:
                require_allowed(request, self.token)
        except RequestRejected as rejected:
            return error_response(rejected.status, rejected.error, rejected.headers)
        return BodyHandler(partial(self._respond, route, request), MAX_REQUEST_BYTES, _reject_body)

    async def _respond(self, route: Route, request: Request, body: bytes, reply: Reply) -> None:
        """Reply to a request with the route's response, or with 503 if the outbox fails."""
        try:
            response = await route.handler(request._replace(body=body))
        except RequestRejected as rejected:
            response = error_response(rejected.status, rejected.error, rejected.headers)
        except OutboxError as error:
            response = error_response(503, str(error), {hdrs.RETRY_AFTER: "5"})
        reply(response)

    def _find(self, request: Request) -> Route:
        path = request.url.path
        route = self._routes.get(path)
        if route is None and path.startswith(f"{DEAD_LETTERS}/"):
            route = self._one_dead
        if route is None:
            raise RequestRejected(404, f"unknown path {json.dumps(path[:60])}{_meant(path, self._routes)}")
        method = hdrs.METH_GET if request.method == hdrs.METH_HEAD else request.method
        if method != route.method:
            allowed = "GET, HEAD" if route.method == hdrs.METH_GET else route.method
            raise RequestRejected(405, f"this path allows {allowed}, not {request.method[:20]}", {hdrs.ALLOW: allowed})
        return route

    async def _livez(self, _: Request) -> Response:
        return json_response({"alive": True})

    async def _readyz(self, _: Request) -> Response:
        problem = self._status.problem()
        return json_response({"ready": not problem, "problem": problem}, 503 if problem else 200)

    async def _scrape(self, request: Request) -> Response:
        self._status.export(self._metrics)
        self._refresh()
        encode, content_type = exposition.chosen(request.headers.get(hdrs.ACCEPT, ""))
        text = encode(self._metrics.registry)
        if not exposition.accepts_gzip(request.headers.get(hdrs.ACCEPT_ENCODING, "")):
            return bytes_response(text, content_type)
        return bytes_response(gzip.compress(text, mtime=0), content_type, headers={hdrs.CONTENT_ENCODING: "gzip"})

    async def _show_status(self, _: Request) -> Response:
        return json_response(self._status.data())

    async def _show_log(self, _: Request) -> Response:
        return bytes_response("".join(f"{line}\n" for line in log.last_lines()).encode(), "text/plain; charset=utf-8")

    async def _show_configuration(self, _: Request) -> Response:
        return json_response({"success": True, "settings": self._configuration()})

    async def _file(self, request: Request) -> Response:
        body, content_type = self._page[request.url.path]
        return bytes_response(body, content_type)

    async def _flush(self, _: Request) -> Response:
        self._control.flush()
        return json_response({"success": True, "pending": self._outbox.ledger().pending})

    async def _list_dead(self, request: Request) -> Response:
        query = read_query(request)
        letters, next_after = await found(self._outbox, query)
        data = [shown(letter, with_body=query.with_bodies) for letter in letters]
        return json_response({"success": True, "dead_letters": data, "next_after": next_after})

    async def _show_dead(self, request: Request) -> Response:
        text = request.url.path.removeprefix(f"{DEAD_LETTERS}/")
        letters = await self._outbox.dead_letters(read_id(text), 1)
        if not letters:
            raise RequestRejected(404, f"no dead letter has the id {text}")
        return json_response({"success": True, "dead_letter": shown(letters[0])})

    async def _requeue(self, request: Request) -> Response:
        selection, limit = read_choice(request)
        requeued = await self._outbox.requeue(selection, limit)
        return json_response({"success": True, "requeued": requeued, "remaining": self._outbox.gauges().dead_letters})

    async def _discard(self, request: Request) -> Response:
        selection, limit = read_choice(request)
        discarded = await self._outbox.discard(selection, limit)
        return json_response({"success": True, "discarded": discarded, "remaining": self._outbox.gauges().dead_letters})

    async def _adopt(self, _: Request) -> Response:
        adopted = await self._outbox.adopt(ADOPTED_AT_ONCE)
        return json_response({"success": True, "adopted": adopted, "remaining": self._outbox.gauges().quarantined})

    async def _discard_quarantined(self, _: Request) -> Response:
        discarded = await self._outbox.discard_quarantined(ADOPTED_AT_ONCE)
        return json_response({"success": True, "discarded": discarded, "remaining": self._outbox.gauges().quarantined})


def _meant(path: str, known: Iterable[str]) -> str:
    """Return the most similar known path as a question, or where all paths are."""
    from difflib import get_close_matches  # noqa: PLC0415 - slow to import, needed after a typing error only

    near = get_close_matches(path[:80], (*known, "/v1/events"), n=1)
    return f"; did you mean {near[0]}?" if near else "; /openapi.json lists all paths"


def _reject_body(error: BodyError) -> Response:
    if error == "too_large":
        return error_response(413, f"the body is larger than {MAX_REQUEST_BYTES} bytes")
    return error_response(400, "the body is truncated or corrupt")


def _read_page() -> dict[str, tuple[bytes, str]]:
    """Read the page's files. Return (bytes, content type) by path."""
    files = {
        f"/{file.name}": (file.read_bytes(), f"{PAGE_TYPES[file.suffix]}; charset=utf-8")
        for file in sorted(PAGE.iterdir())
        if file.suffix in PAGE_TYPES
    }
    return {"/": files.pop("/index.html"), **files}
