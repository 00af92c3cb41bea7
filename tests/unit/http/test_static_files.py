"""The files for apps over a listener: their headers, their ETags, and who may load them."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator

import pytest
from relay.http import static_files
from relay.http.request import Request
from relay.http.response import Response as HttpResponse
from relay.http.response import error_response
from relay.http.static_files import CLIENT_PATH, DESCRIPTION_PATH, StaticFile, StaticFiles

from tests.support.ingest_harness import Response, Served, request

ORIGIN = "https://kiosk.example"


class Making:
    """Counts how often the description is made."""

    def __init__(self) -> None:
        self.made = 0
        self.files = StaticFiles({CLIENT_PATH: static_files.client, DESCRIPTION_PATH: self._make}, self._others)

    def _make(self) -> StaticFile:
        self.made += 1
        return static_files.description({"made": self.made})

    def _others(self, _: Request) -> HttpResponse:
        return error_response(404, "not here")


@pytest.fixture
def making() -> Making:
    return Making()


@pytest.fixture
async def served(making: Making) -> AsyncIterator[Served]:
    async with Served(making.files.handle, allowed_origins=[ORIGIN]) as served:
        yield served


async def get(served: Served, path: str, *headers: str, method: str = "GET") -> Response:
    return await served.ask(request(f"{method} {path} HTTP/1.1", *headers), to_head=method == "HEAD")


async def test_the_client_is_served_as_javascript_without_sniffing(served: Served) -> None:
    response = await get(served, "/relay.js")
    assert (response.status, response.headers["content-type"]) == (200, "text/javascript; charset=utf-8")
    assert response.headers["x-content-type-options"] == "nosniff"
    assert response.headers["cache-control"] == "public, max-age=300"
    assert response.headers["vary"] == "Origin"
    assert b"relay.send" in response.body


async def test_head_has_the_headers_and_no_body(served: Served) -> None:
    whole, head = await get(served, "/relay.js"), await get(served, "/relay.js", method="HEAD")
    assert (head.status, head.headers) == (200, whole.headers)


@pytest.mark.parametrize("shown", ["{}", "W/{}", '"other", {}', "*"])
async def test_a_request_with_the_etag_gets_304_without_a_body(served: Served, shown: str) -> None:
    etag = (await get(served, "/relay.js")).headers["etag"]
    client = await served.connect()
    client.send(request("GET /relay.js HTTP/1.1", f"If-None-Match: {shown.format(etag)}", "Connection: close"))
    head, _, body = (await client.rest()).partition(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 304 Not Modified\r\n")
    assert etag.encode() in head and b"Content-Length" not in head
    assert body == b""


async def test_another_etag_gets_the_file(served: Served) -> None:
    assert (await get(served, "/relay.js", 'If-None-Match: "other"')).status == 200


async def test_a_file_is_created_at_the_first_request_and_again_after_a_reload(served: Served, making: Making) -> None:
    assert making.made == 0
    for _ in range(3):
        assert json.loads((await get(served, "/openapi.json")).body) == {"made": 1}
    before = (await get(served, "/openapi.json")).headers["etag"]
    making.files.forget()
    after = await get(served, "/openapi.json", f"If-None-Match: {before}")
    assert (after.status, json.loads(after.body)) == (200, {"made": 2})


@pytest.mark.parametrize("target", ["/relay.js?v=1", "http://localhost/relay.js"])
async def test_a_query_or_an_absolute_target_reaches_the_file(served: Served, target: str) -> None:
    assert (await get(served, target)).status == 200


async def test_other_methods_are_rejected_and_other_paths_passed_on(served: Served) -> None:
    response = await get(served, "/relay.js", method="DELETE")
    assert (response.status, response.headers["allow"]) == (405, "GET, HEAD")
    assert (await get(served, "/relay.jsx")).json["error"] == "not here"


async def test_pages_of_allowed_origins_may_load_and_read_it(served: Served) -> None:
    for headers in ((f"Origin: {ORIGIN}",), (f"Origin: {ORIGIN}", "Sec-Fetch-Site: cross-site")):
        response = await get(served, "/relay.js", *headers)
        assert (response.status, response.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert response.headers["access-control-expose-headers"] == "Relay-Event-Ids, Relay-Durability, Retry-After"


@pytest.mark.parametrize("path", ["/relay.js", "/openapi.json"])
@pytest.mark.parametrize(
    "headers", [("Origin: https://evil.example",), ("Origin: null",), ("Sec-Fetch-Site: cross-site",)], ids=str
)
async def test_pages_of_other_origins_may_not_load_it(served: Served, path: str, headers: tuple[str, ...]) -> None:
    assert (await get(served, path, *headers)).status == 403


@pytest.mark.parametrize("path", ["/relay.js", "/openapi.json"])
async def test_another_host_is_rejected(served: Served, path: str) -> None:
    assert (await served.ask(request(f"GET {path} HTTP/1.1", host="rebound.example"))).status == 403
