"""Responses, access control and input checks of the operations interface."""

from __future__ import annotations

import asyncio
import base64
import json
from html.parser import HTMLParser
from io import StringIO
from pathlib import Path

import pytest
import structlog
from aiohttp import ClientSession, UnixConnector
from multidict import CIMultiDict, CIMultiDictProxy
from prometheus_client.openmetrics.parser import text_string_to_metric_families as read_openmetrics
from prometheus_client.parser import text_string_to_metric_families as read_text
from relay.config import Http, Log
from relay.http.guard import HostGuard
from relay.http.listener import Listener
from relay.http.request import Request
from relay.http.response import Response
from relay.ops.dead_letters import MAX_SEARCHED, Query, found
from relay.outbox import Gauges, Selection
from relay.policy.endpoint import SeenError
from relay.policy.overview import EndpointView
from relay.runtime import log
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.secret import MASK, Secret
from yarl import URL

from tests.support.ops_harness import Served, dead_letter

GUARDED = [
    ("POST", "/flush"),
    ("GET", "/log"),
    ("GET", "/configuration"),
    ("GET", "/dead-letters"),
    ("GET", "/dead-letters/1"),
    ("POST", "/dead-letters/requeue"),
    ("POST", "/dead-letters/discard"),
]
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"
UNKNOWN_ACCEPTS = [
    "text/plain; version=abc",
    "application/openmetrics-text; version=abc",
    "application/openmetrics-text; version=9999999999.\t0",
]
OPEN = [
    "/livez",
    "/readyz",
    "/metrics",
    "/status.json",
    "/status/stream",
    "/events/stream",
    "/",
    "/page.js",
    "/page.css",
]


async def guarded_call(served: Served, method: str, path: str, **headers: str) -> int:
    if method == "POST":
        return (await served.post(path, {"all": True}, **headers)).status
    return (await served.call(path, headers=headers)).status


class TestHealth:
    async def test_livez_is_200_while_the_relay_runs(self, served: Served) -> None:
        assert (await served.call("/livez")).status == 200

    async def test_readyz_is_200_while_events_can_be_stored_with_any_state_of_the_upstream(
        self, served: Served
    ) -> None:
        served.schedule.shown_endpoints = [EndpointView(1, "backing_off", 0, 60_000, SeenError("no response", 0), None)]

        response = await served.call("/readyz")

        assert response.status == 200
        assert response.json() == {"ready": True, "problem": ""}

    @pytest.mark.parametrize(("problem", "shown"), [("disk full", "disk full"), ("", "the outbox is not open yet")])
    async def test_readyz_is_503_with_the_reason_if_events_cannot_be_stored(
        self, served: Served, problem: str, shown: str
    ) -> None:
        served.outbox.state = Gauges(
            0, 1, 0, writable=False, dead_letters=0, problem=problem, devices=3, max_devices=50_000
        )

        response = await served.call("/readyz")

        assert response.status == 503
        assert response.json() == {"ready": False, "problem": shown}
        assert (await served.call("/livez")).status == 200


def names(text: bytes) -> set[str]:
    """Return the names of the metric families."""
    return {family.name for family in read_text(text.decode())}


class TestMetrics:
    async def test_the_default_is_prometheus_text_with_current_gauges(self, served: Served) -> None:
        response = await served.call("/metrics")

        families = {family.name: family for family in read_text(response.body.decode())}
        assert response.headers["Content-Type"].startswith("text/plain")
        assert families["relay_outbox_max_bytes"].samples[0].value == 1 << 20
        assert served.refreshed == 1

    async def test_openmetrics_is_returned_on_request(self, served: Served) -> None:
        response = await served.call("/metrics", headers={"Accept": "application/openmetrics-text; version=1.0.0"})

        assert response.headers["Content-Type"].startswith("application/openmetrics-text")
        assert "relay_events_accepted" in {family.name for family in read_openmetrics(response.body.decode())}

    async def test_an_unknown_accept_header_selects_plain_text(self, served: Served) -> None:
        for accept in UNKNOWN_ACCEPTS:
            response = await served.call("/metrics", headers={"Accept": accept})

            assert (response.status, response.headers["Content-Type"]) == (200, PLAIN_TEXT), accept

    async def test_gzip_is_returned_on_request_and_contains_the_same_series(self, served: Served) -> None:
        plain = await served.call("/metrics", headers={"Accept-Encoding": "identity"})
        compressed = await served.call("/metrics", headers={"Accept-Encoding": "gzip"})

        assert "Content-Encoding" not in plain.headers
        assert compressed.headers["Content-Encoding"] == "gzip"
        # The client has undone the coding. Its own length is that of the compressed body.
        assert int(compressed.headers["Content-Length"]) < len(plain.body) / 3
        assert names(compressed.body) == names(plain.body)

    async def test_the_standard_metrics_of_the_process_are_exported(self, served: Served) -> None:
        response = await served.call("/metrics")

        expected = (
            "resident_memory_bytes",
            "virtual_memory_bytes",
            "start_time_seconds",
            "cpu_seconds",
            "open_fds",
            "max_fds",
        )
        assert {f"process_{name}" for name in expected} <= names(response.body)

    async def test_there_are_fewer_than_300_series(self, served: Served) -> None:
        served.metrics.build_info("1", "3", "3")
        for code in (*range(200, 206), *range(400, 430), *range(500, 505), "error"):
            served.metrics.upstream_requests.labels(str(code))

        response = await served.call("/metrics")

        series = [sample for family in read_text(response.body.decode()) for sample in family.samples]
        assert len(series) < 300


class TestPage:
    async def test_the_relay_serves_every_file_of_the_page(self, served: Served) -> None:
        named: list[str] = []

        class Links(HTMLParser):
            def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
                named.extend(value or "" for name, value in attrs if name in ("src", "href") and value != "data:,")

        page = await served.call("/")
        Links().feed(page.body.decode())

        assert {"page.css", "page.js"} <= set(named)
        assert [(await served.call(f"/{path}")).status for path in named] == [200] * len(named)

    @pytest.mark.parametrize("path", ["/", "/page.css", "/page.js"])
    async def test_the_page_has_no_external_links_and_no_inline_code(self, served: Served, path: str) -> None:
        text = (await served.call(path)).body.decode()

        assert "://" not in text
        assert " style=" not in text
        assert "<script>" not in text
        assert " onclick=" not in text

    @pytest.mark.parametrize("path", [*OPEN, "/dead-letters", "/log", "/nothing"])
    async def test_every_response_has_the_security_headers(self, served: Served, path: str) -> None:
        headers = (await served.call(path, "HEAD")).headers

        assert headers["Content-Security-Policy"].startswith("default-src 'none';")
        assert "unsafe" not in headers["Content-Security-Policy"]
        assert "require-trusted-types-for 'script'" in headers["Content-Security-Policy"]
        assert headers["X-Content-Type-Options"] == "nosniff"
        assert headers["Cache-Control"] == "no-store"
        assert headers["Cross-Origin-Resource-Policy"] == "same-origin"
        assert "Access-Control-Allow-Origin" not in headers


class TestRoutes:
    @pytest.mark.parametrize("path", OPEN)
    async def test_head_returns_the_status_of_get_without_a_body(self, served: Served, path: str) -> None:
        response = await served.call(path, "HEAD")

        assert response.status == 200
        assert response.body == b""

    @pytest.mark.parametrize("path", ["/nothing", "/page", "/../server.py", "/page.js/", "/livez/"])
    async def test_unknown_paths_are_404(self, served: Served, path: str) -> None:
        response = await served.call(path)

        assert response.status == 404
        assert response.json()["success"] is False

    @pytest.mark.parametrize(
        ("method", "path", "allowed"),
        [
            ("POST", "/livez", "GET, HEAD"),
            ("DELETE", "/dead-letters/1", "GET, HEAD"),
            ("GET", "/flush", "POST"),
            ("TRACE", "/", "GET, HEAD"),
            ("OPTIONS", "/flush", "POST"),
        ],
    )
    async def test_other_methods_are_405_with_the_allowed_methods(
        self, served: Served, method: str, path: str, allowed: str
    ) -> None:
        response = await served.call(path, method)

        assert response.status == 405
        assert response.headers["Allow"] == allowed


class TestAccess:
    @pytest.mark.parametrize(("method", "path"), GUARDED)
    async def test_without_a_token_peers_on_this_machine_have_access(
        self, served: Served, method: str, path: str
    ) -> None:
        served.outbox.letters = {1: dead_letter(1)}

        assert await guarded_call(served, method, path) == 200

    @pytest.mark.parametrize(("method", "path"), GUARDED)
    async def test_with_a_token_only_requests_with_the_token_have_access(
        self, served: Served, method: str, path: str
    ) -> None:
        served.outbox.letters = {1: dead_letter(1)}
        served.ops.token = Secret("s3cret")

        assert await guarded_call(served, method, path) == 401
        assert await guarded_call(served, method, path, Authorization="Bearer s3cre") == 401
        assert await guarded_call(served, method, path, Authorization="Bearer é") == 401
        assert await guarded_call(served, method, path, Authorization="Basic s3cret") == 401
        assert await guarded_call(served, method, path, Authorization="Bearer s3cret") == 200

    async def test_401_contains_the_scheme_and_not_the_token(self, served: Served) -> None:
        served.ops.token = Secret("s3cret")

        response = await served.post("/flush", {})

        assert response.headers["WWW-Authenticate"] == "Bearer"
        assert b"s3cret" not in response.body
        assert served.control.flushes == 0

    @pytest.mark.parametrize("path", OPEN)
    async def test_open_paths_need_no_token(self, served: Served, path: str) -> None:
        served.ops.token = Secret("s3cret")

        assert (await served.call(path, "HEAD")).status == 200

    async def test_a_unix_socket_counts_as_this_machine(self, served: Served, tmp_path: Path) -> None:
        path = str(tmp_path / "relay.sock")
        settings = Http(listen="", unix_socket=path)
        listener = Listener(served.ops.handle, settings, HostGuard(), Metrics(), SystemClock())
        await listener.start()
        connector = UnixConnector(path)

        async with (
            ClientSession(connector=connector) as session,
            session.post("http://localhost/flush", json={}) as response,
        ):
            assert response.status == 200
        await listener.stop(within_ms=2_000)

    async def test_without_a_token_other_machines_have_no_access(self, served: Served) -> None:
        headers = CIMultiDictProxy(CIMultiDict({"Content-Type": "application/json"}))
        response = served.ops.handle(Request("POST", URL("/flush"), headers, ("192.168.1.7", 50_000)))

        assert isinstance(response, Response)
        assert response.status == 403
        assert served.control.flushes == 0

    @pytest.mark.parametrize(
        "content_type", ["text/plain", "application/x-www-form-urlencoded", "multipart/form-data; boundary=x", ""]
    )
    async def test_content_types_of_forms_are_rejected(self, served: Served, content_type: str) -> None:
        response = await served.call("/flush", "POST", data=b"{}", headers={"Content-Type": content_type})

        assert response.status == 415
        assert served.control.flushes == 0


class TestFlush:
    async def test_a_flush_calls_the_service_once(self, served: Served) -> None:
        response = await served.post("/flush", {})

        assert response.json() == {"success": True, "pending": 0}
        assert served.control.flushes == 1


class TestLog:
    async def test_the_log_returns_the_last_lines_as_written(self, served: Served) -> None:
        log.configure(Log(format="json"), [Secret("s3cret-k3y")], stream=StringIO())
        structlog.get_logger("relay").info("one of many", key="s3cret-k3y")

        response = await served.call("/log")

        assert response.headers["Content-Type"].startswith("text/plain")
        last = json.loads(response.body.decode().splitlines()[-1])
        assert (last["message"], last["key"]) == ("one of many", MASK)
        structlog.reset_defaults()


class TestDeadLetters:
    @pytest.fixture(autouse=True)
    def letters(self, served: Served) -> None:
        kinds = [("tv-1", "refused"), ("tv-1", "poison"), ("tv-2", "refused")]
        served.outbox.letters = {
            n: dead_letter(n, device=device, reason=reason) for n, (device, reason) in enumerate(kinds, start=1)
        }

    @pytest.mark.parametrize(
        ("query", "ids"),
        [
            ("", [1, 2, 3]),
            ("?device=tv-1", [1, 2]),
            ("?reason=refused", [1, 3]),
            ("?device=tv-1&reason=refused", [1]),
            ("?after=1", [2, 3]),
            ("?device=unknown", []),
        ],
    )
    async def test_matching_letters_are_listed_by_id(self, served: Served, query: str, ids: list[int]) -> None:
        response = await served.call(f"/dead-letters{query}")

        assert [letter["id"] for letter in response.json()["dead_letters"]] == ids

    @pytest.mark.parametrize(
        ("text", "ids"),
        [("KÄSE", [4]), ("tv-2", [3]), ("poison", [2]), ("id-1", [1]), ("422", [1, 2, 3, 4]), ("wrong", [1, 2, 3, 4])],
    )
    async def test_a_search_covers_every_field_of_a_letter(self, served: Served, text: str, ids: list[int]) -> None:
        served.outbox.letters[4] = dead_letter(4, device="tv-3", body='{"title":"Käse"}'.encode())

        response = await served.call("/dead-letters", params={"search": text})

        assert [letter["id"] for letter in response.json()["dead_letters"]] == ids

    async def test_one_request_searches_a_limited_number_of_letters(self, served: Served) -> None:
        served.outbox.letters = {n: dead_letter(n, device=f"box-{n}") for n in range(1, 1_501)}

        first = (await served.call("/dead-letters?search=box-1400&limit=100")).json()
        second = (await served.call(f"/dead-letters?search=box-1400&limit=100&after={first['next_after']}")).json()

        assert (first["dead_letters"], first["next_after"]) == ([], MAX_SEARCHED)
        assert [letter["id"] for letter in second["dead_letters"]] == [1_400]
        assert second["next_after"] is None

    async def test_bodies_can_be_omitted(self, served: Served) -> None:
        letters = (await served.call("/dead-letters?bodies=false")).json()["dead_letters"]

        assert [letter["id"] for letter in letters] == [1, 2, 3]
        assert not any("body" in letter for letter in letters)

    async def test_a_page_of_long_bodies_ends_early(self, served: Served) -> None:
        served.outbox.letters = {n: dead_letter(n, body=b"x" * (600 << 10)) for n in range(1, 6)}

        pages, after = [], 0
        while after is not None:
            page = (await served.call(f"/dead-letters?after={after}")).json()
            pages.append([letter["id"] for letter in page["dead_letters"]])
            after = page["next_after"]

        assert pages == [[1, 2], [3, 4], [5]]

    async def test_a_search_yields_to_other_tasks(self, served: Served) -> None:
        served.outbox.letters = {n: dead_letter(n, body=b"x" * (64 << 10)) for n in range(1, 51)}
        turns = 0

        async def count() -> None:
            nonlocal turns
            while True:
                await asyncio.sleep(0)
                turns += 1

        counting = asyncio.create_task(count())
        found_none = await found(served.outbox, Query(Selection((), None, None, True), "y", 100, 0, True))
        counting.cancel()

        assert found_none == ([], None)
        assert turns >= 20

    async def test_pages_contain_the_id_of_the_next_page_until_the_end(self, served: Served) -> None:
        first = (await served.call("/dead-letters?limit=2")).json()
        second = (await served.call(f"/dead-letters?limit=2&after={first['next_after']}")).json()

        assert first["next_after"] == 2
        assert [letter["id"] for letter in second["dead_letters"]] == [3]
        assert second["next_after"] is None

        newest = (await served.call("/dead-letters?newest=true&limit=2")).json()
        oldest = (await served.call(f"/dead-letters?newest=true&limit=2&after={newest['next_after']}")).json()
        assert [letter["id"] for letter in newest["dead_letters"]] == [3, 2]
        assert ([letter["id"] for letter in oldest["dead_letters"]], oldest["next_after"]) == ([1], None)

    async def test_a_letter_contains_its_event_as_it_was_sent(self, served: Served) -> None:
        body = '{"event_type": "video.play", "context": {"title":"Käse"} }'
        served.outbox.letters[7] = dead_letter(7, body=body.encode())

        letter = (await served.call("/dead-letters/7")).json()["dead_letter"]

        assert letter == {
            "id": 7,
            "event_id": "id-7",
            "event_type": "video.play",
            "tenant": 1,
            "platform": "tv",
            "device_id": "tv-1",
            "reason": "refused",
            "status": 422,
            "message": "wrong",
            "dead_at": "2026-11-23T08:00:00.000Z",
            "body": body,
        }

    async def test_an_event_that_is_not_utf_8_is_returned_as_base64(self, served: Served) -> None:
        served.outbox.letters[7] = dead_letter(7, reason="corrupt", body=b"\xff\x00")

        letter = (await served.call("/dead-letters/7")).json()["dead_letter"]

        assert base64.b64decode(letter["body_base64"]) == b"\xff\x00"
        assert "body" not in letter

    @pytest.mark.parametrize("wrong", ["9", "0", "-1", "abc", "9" * 40, "%C2%B2"])
    async def test_an_unknown_id_is_404(self, served: Served, wrong: str) -> None:
        assert (await served.call(f"/dead-letters/{wrong}")).status == 404

    @pytest.mark.parametrize(
        "query",
        [
            "?limit=0",
            "?limit=101",
            "?limit=x",
            "?after=-1",
            "?reason=bad",
            "?devcie=tv-1",
            "?bodies=no",
            "?search=" + "x" * 201,
            "?after=" + "9" * 30,
        ],
    )
    async def test_an_invalid_query_is_400(self, served: Served, query: str) -> None:
        assert (await served.call(f"/dead-letters{query}")).status == 400

    @pytest.mark.parametrize(
        ("choice", "left"),
        [
            ({"ids": [1, 3]}, [2]),
            ({"device": "tv-1"}, [3]),
            ({"reason": "poison"}, [1, 3]),
            ({"all": True}, []),
            ({"all": True, "limit": 2}, [3]),
            ({"ids": [1, 2], "reason": "poison"}, [1, 3]),
        ],
    )
    async def test_a_requeue_moves_the_selected_letters_and_returns_the_remaining_number(
        self, served: Served, choice: dict[str, object], left: list[int]
    ) -> None:
        response = await served.post("/dead-letters/requeue", choice)

        assert response.json() == {"success": True, "requeued": 3 - len(left), "remaining": len(left)}
        assert list(served.outbox.letters) == left
        assert len(served.outbox.requeued) == 3 - len(left)

    async def test_a_discard_deletes_the_selected_letters(self, served: Served) -> None:
        response = await served.post("/dead-letters/discard", {"ids": [2]})

        assert response.json() == {"success": True, "discarded": 1, "remaining": 2}
        assert list(served.outbox.letters) == [1, 3]
        assert served.outbox.requeued == []

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"[]",
            b"{}",
            b'{"all":false}',
            b'{"ids":[]}',
            b'{"ids":[0]}',
            b'{"ids":[9223372036854775808]}',
            b'{"devcie":"tv-1"}',
            b'{"device":"tv-1","reasn":"poison"}',
            b'{"reason":"bad"}',
            b'{"all":true,"device":"tv-1"}',
            b'{"all":true,"limit":0}',
            b'{"device":"\xff"}',
            b'{"device":"\\ud800"}',
            b"[" * 20_000,
            b'{"ids":["1"]}',
            b'{"all":true',
        ],
    )
    async def test_an_invalid_selection_is_400_and_changes_nothing(self, served: Served, body: bytes) -> None:
        for path in ("/dead-letters/discard", "/dead-letters/requeue"):
            response = await served.post(path, body)

            assert (response.status, response.json()["success"]) == (400, False)
        assert list(served.outbox.letters) == [1, 2, 3]

    async def test_a_body_that_is_too_large_or_encoded_is_rejected(self, served: Served) -> None:
        large = await served.post("/dead-letters/discard", b'{"all":true}' + b" " * 65_536)
        gzipped = await served.post("/dead-letters/discard", b"\x1f\x8b", **{"Content-Encoding": "gzip"})

        assert (large.status, gzipped.status) == (413, 415)
        assert list(served.outbox.letters) == [1, 2, 3]

    async def test_a_failing_outbox_is_503_with_its_message(self, served: Served) -> None:
        served.outbox.fails = True

        response = await served.post("/dead-letters/requeue", {"all": True})

        assert response.status == 503
        assert response.json()["error"] == "the outbox is full: raise outbox.max_size"
        assert "Retry-After" in response.headers
