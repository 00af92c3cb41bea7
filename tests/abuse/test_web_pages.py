"""A hostile page in the kiosk's browser: rebound names, foreign origins, forms and preflights, on every route."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.abuse.box import ask
from tests.e2e.harness import RelayProcess, environment, event, running

GOOD_ORIGIN = "https://app.example"
ROUTES = [
    ("GET", "/"), ("GET", "/livez"), ("GET", "/readyz"), ("GET", "/metrics"), ("GET", "/status.json"),
    ("GET", "/dead-letters"), ("GET", "/dead-letters/1"), ("POST", "/flush"), ("POST", "/dead-letters/requeue"),
    ("POST", "/dead-letters/discard"), ("GET", "/openapi.json"), ("POST", "/v1/events"), ("OPTIONS", "/v1/events"),
    ("GET", "/v1/events/550e8400-e29b-41d4-a716-446655440000"), ("GET", "/nothing"), ("PUT", "/v1/events"),
    ("TRACE", "/"), ("DELETE", "/dead-letters/1"),
]  # fmt: skip
EVENT = json.dumps(event(1))


@pytest.fixture
async def relay(sandbox: Sandbox, tmp_path: Path) -> AsyncIterator[RelayProcess]:
    env = environment(sandbox.url, tmp_path, http__allowed_origins=json.dumps([GOOD_ORIGIN]))
    async with running(env) as process:
        yield process


def request(method: str, path: str, *headers: str, body: str = "", host: str = "localhost") -> bytes:
    lines = [
        f"{method} {path} HTTP/1.1",
        f"Host: {host}",
        f"Content-Length: {len(body)}",
        "Connection: close",
        *headers,
    ]
    return ("\r\n".join(lines) + "\r\n\r\n" + body).encode()


def as_seen_by(page: str) -> Iterator[bytes]:
    """Yield the requests that a page of this kind makes a browser send, one for each route."""
    for method, path in ROUTES:
        body = EVENT if method == "POST" else ""
        match page:
            case "rebound name":
                yield request(method, path, body=body, host="evil.example")
            case "rebound name and its origin":
                yield request(method, path, "Origin: http://evil.example:8080", body=body, host="evil.example:8080")
            case "0.0.0.0":
                yield request(method, path, "Origin: http://evil.example", body=body, host="0.0.0.0:8080")
            case "its address in decimal":
                yield request(method, path, body=body, host="2130706433")
            case "foreign origin":
                yield request(method, path, "Origin: https://evil.example", body=body)
            case "sandboxed frame":
                yield request(method, path, "Origin: null", body=body)
            case "an origin that begins like ours":
                yield request(method, path, "Origin: http://localhost.evil.example", body=body)
            case "an origin that ends like an allowed one":
                yield request(method, path, "Origin: https://evil-app.example", body=body)
            case "a link without origin":
                yield request(method, path, "Sec-Fetch-Site: cross-site", "Sec-Fetch-Mode: no-cors", body=body)
            case "a proxy's target":
                yield request(method, f"http://evil.example{path}", body=body)


@pytest.mark.parametrize(
    "page",
    [
        "rebound name", "rebound name and its origin", "0.0.0.0", "its address in decimal", "foreign origin",
        "sandboxed frame", "an origin that begins like ours", "an origin that ends like an allowed one",
        "a link without origin", "a proxy's target",
    ],
)  # fmt: skip
async def test_a_hostile_page_gets_403_from_every_route_and_stores_nothing(relay: RelayProcess, page: str) -> None:
    for raw in as_seen_by(page):
        status, response = await ask(relay, raw)
        assert status in (403, 405), raw
        assert b"access-control-allow" not in response.lower(), raw
    assert (await relay.status())["ledger"]["accepted"] == 0


async def test_content_types_of_forms_are_rejected_on_every_route(relay: RelayProcess) -> None:
    """Older browsers send forms without Origin and Sec-Fetch-Site, so the relay checks the content type."""
    for path in (path for method, path in ROUTES if method == "POST"):
        for type_ in ("application/x-www-form-urlencoded", "multipart/form-data; boundary=x"):
            status, _ = await ask(relay, request("POST", path, f"Content-Type: {type_}", body=EVENT))
            assert status == 415, (path, type_)
    for path in ("/flush", "/dead-letters/requeue", "/dead-letters/discard"):
        status, _ = await ask(relay, request("POST", path, "Content-Type: text/plain", body='{"all":true}'))
        assert status == 415, path
    assert (await relay.status())["ledger"]["accepted"] == 0


async def test_an_allowed_origin_may_only_post_events_and_read_the_documentation(relay: RelayProcess) -> None:
    origin = f"Origin: {GOOD_ORIGIN}"
    status, response = await ask(relay, request("POST", "/v1/events", origin, body=EVENT))
    assert (status, f"Access-Control-Allow-Origin: {GOOD_ORIGIN}".encode() in response) == (202, True)
    preflight = ("Access-Control-Request-Method: POST", "Access-Control-Request-Private-Network: true")
    status, response = await ask(relay, request("OPTIONS", "/v1/events", origin, *preflight))
    assert (status, b"Access-Control-Allow-Private-Network: true" in response) == (204, True)
    for method, path in ROUTES:
        if not path.startswith(("/v1/", "/openapi.json")):
            status, response = await ask(relay, request(method, path, origin))
            assert status in (403, 405), path
            assert b"access-control-allow" not in response.lower()


async def test_preflights_of_other_origins_are_rejected(relay: RelayProcess) -> None:
    for origin in ("https://evil.example", "null", GOOD_ORIGIN.upper() + ".evil", GOOD_ORIGIN.replace("https", "http")):
        requested = ("Access-Control-Request-Method: POST", "Access-Control-Request-Local-Network: true")
        status, response = await ask(relay, request("OPTIONS", "/v1/events", f"Origin: {origin}", *requested))
        assert status == 403
        assert b"access-control" not in response.lower()
