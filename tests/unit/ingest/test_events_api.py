"""What POST /v1/events and its neighbours answer, to the letter of the contract."""

from __future__ import annotations

import asyncio
import json
import zlib
from typing import get_args
from uuid import UUID

import pytest
from relay.ingest.events_api import MAX_EVENT_IDS
from relay.outbox import DeadLetter, Durability, OutboxFull, OutboxUnavailable

from tests.support import framework_table
from tests.support.event_loop import turns
from tests.support.ingest_harness import BODY, EVENT, EVENT_ID, STORED, Served, gzipped, post, request

OTHER_ID = "550e8400-e29b-41d4-a716-446655440001"
TWO = [EVENT, {**EVENT, "event_id": OTHER_ID}]
ORIGIN = "http://app.example"

# --- bodies that are taken


@pytest.mark.parametrize(
    "content_type",
    [
        None, "", "application/json", "Application/JSON; charset=UTF-8", 'application/json; charset="utf-8"',
        "text/plain", "text/plain;charset=UTF-8", "application/json; profile=x",
    ],
)  # fmt: skip
async def test_an_event_is_stored_and_gets_202(content_type: str | None) -> None:
    async with Served() as served:
        headers = [] if content_type is None else [f"Content-Type: {content_type}"]
        response = await served.post(BODY, *headers)
        assert (response.status, response.body) == (202, b'{"success": true}')
        assert response.headers["content-type"] == "application/json"
        assert response.headers["relay-durability"] == "full"
        assert len(served.outbox.stored) == 1


@pytest.mark.parametrize(
    ("body", "content_type"),
    [
        (json.dumps({"events": TWO}), "application/json"),
        (json.dumps(TWO), "text/plain"),
        ("\n".join(map(json.dumps, TWO)) + "\n", "application/x-ndjson"),
        ("\n".join(map(json.dumps, TWO)), "application/x-ndjson; charset=utf-8"),
    ],
)
async def test_a_batch_is_stored_whole(body: str, content_type: str) -> None:
    async with Served() as served:
        response = await served.post(body.encode(), f"Content-Type: {content_type}")
        assert response.status == 202
        assert [event.event_id[-1] for event in served.outbox.stored] == [0x00, 0x01]
        assert served.count("events_received_total", transport="http") == 2
        assert served.count("events_accepted_total", transport="http") == 2


@pytest.mark.parametrize(
    ("coding", "body"),
    [
        ("gzip", gzipped(BODY)),
        ("GZIP", gzipped(BODY)),
        ("deflate", zlib.compress(BODY)),
        ("identity", BODY),
    ],
)
async def test_a_compressed_body_is_read(coding: str, body: bytes) -> None:
    async with Served() as served:
        response = await served.post(body, f"Content-Encoding: {coding}")
        assert response.status == 202
        assert len(served.outbox.stored) == 1


async def test_a_chunked_body_is_read() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked"))
        for start in range(0, len(BODY), 10):
            piece = BODY[start : start + 10]
            client.send(b"%x\r\n%s\r\n" % (len(piece), piece))
        client.send(b"0\r\n\r\n")
        assert (await client.response()).status == 202


async def test_a_query_or_an_absolute_target_reaches_the_same_path() -> None:
    async with Served() as served:
        for target in ("/v1/events?source=app", "http://localhost/v1/events"):
            client = await served.connect()
            client.send(post().replace(b"/v1/events", target.encode(), 1))
            assert (await client.response()).status == 202


async def test_a_key_and_other_headers_of_the_app_are_ignored() -> None:
    async with Served() as served:
        response = await served.post(BODY, "X-Events-Key: CANARY", "Authorization: Bearer CANARY", "Cookie: a=CANARY")
        assert response.status == 202
        assert b"CANARY" not in served.outbox.stored[0].body


@pytest.mark.parametrize("durability", get_args(Durability))
async def test_the_response_has_the_durability_of_the_commit(durability: Durability) -> None:
    async with Served() as served:
        served.outbox.durability = durability
        assert (await served.post(BODY)).headers["relay-durability"] == durability


async def test_generated_ids_are_in_the_response() -> None:
    with_id, without_id = EVENT, {name: value for name, value in EVENT.items() if name != "event_id"}
    async with Served() as served:
        response = await served.post(json.dumps({"events": [without_id, with_id, without_id]}).encode())
        stored = [str(UUID(bytes=event.event_id)) for event in served.outbox.stored]
        assert response.headers["relay-event-ids"] == f"{stored[0]}, {stored[2]}"
        assert response.headers["relay-durability"] == "full"

        response = await served.post(json.dumps([without_id] * (MAX_EVENT_IDS + 1)).encode())
        assert len(response.headers["relay-event-ids"].split(", ")) == MAX_EVENT_IDS

        assert "relay-event-ids" not in (await served.post(json.dumps(with_id).encode())).headers


async def test_a_duplicate_gets_202_and_is_counted() -> None:
    async with Served() as served:
        served.outbox.duplicates = 1
        assert (await served.post(json.dumps(TWO).encode())).status == 202
        assert served.count("events_duplicate_total", transport="http") == 1
        assert served.count("events_accepted_total", transport="http") == 1


async def test_no_response_is_sent_before_the_commit() -> None:
    async with Served() as served:
        served.outbox.waits = True
        client = await served.connect()
        client.send(post())
        response = asyncio.ensure_future(client.response())
        while not served.outbox.appends:
            await asyncio.sleep(0)
        await turns(20)
        assert not response.done()
        served.outbox.appends[0].set_result(STORED)
        assert (await response).status == 202


# --- bodies that are refused


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (b"", 400), (b"{", 400), (b"[]", 400), (b'{"events": []}', 400), (b"\xff\xfe{\x00}\x00", 400), (b"NaN", 400),
        (b"[" * 100_000, 400), (b"\xef\xbb\xbf" + BODY, 400), (b"form=1&b=2", 400), (b"\x00", 400),
        (b'{"event_type": "x"}', 422), (b"[1]", 422), (b'"x"', 422),
    ],
)  # fmt: skip
async def test_a_body_without_valid_events_is_rejected(body: bytes, status: int) -> None:
    async with Served() as served:
        response = await served.post(body)
        assert response.status == status
        assert response.json["success"] is False
        assert response.json["error"]
        assert ("errors" in response.json) == (status == 422)
        assert served.outbox.appends == []
        assert served.rejected("invalid" if status == 422 else "malformed") == 1
        assert served.count("events_received_total", transport="http") == 1


async def test_an_invalid_event_rejects_its_batch_and_is_named_by_path() -> None:
    async with Served() as served:
        bad = {**EVENT, "source": {"platform": "fridge", "device_id": "x"}}
        response = await served.post(json.dumps({"events": [EVENT, bad]}).encode())
        assert response.status == 422
        assert list(response.json["errors"]) == ["events.1.source.platform"]
        assert served.outbox.appends == []


@pytest.mark.parametrize("content_type", [*framework_table.JSON_TYPES, *framework_table.OTHER_JSON_TYPES])
@pytest.mark.parametrize("headers", [(), ("Connection: close",)])
async def test_every_json_type_is_accepted(content_type: str, headers: tuple[str, ...]) -> None:
    async with Served() as served:
        for _ in range(2):  # The second request takes the short way of a known head.
            assert (await served.post(BODY, f"Content-Type: {content_type}", *headers)).status == 202


@pytest.mark.parametrize("content_type", framework_table.LINE_TYPES)
async def test_every_type_for_lines_is_accepted(content_type: str) -> None:
    async with Served() as served:
        for _ in range(2):
            body = "\n".join(map(json.dumps, TWO)).encode()
            assert (await served.post(body, f"Content-Type: {content_type}")).status == 202
        assert len(served.outbox.stored) == 4


@pytest.mark.parametrize("content_type", framework_table.NO_TYPES)
async def test_other_content_types_forms_included_are_415(content_type: str) -> None:
    async with Served() as served:
        response = await served.post(BODY, f"Content-Type: {content_type}")
        assert response.status == 415
        assert served.rejected("media_type") == 1
        assert served.outbox.appends == []


@pytest.mark.parametrize(
    ("content_type", "shown"),
    [
        ("text/html", '"text/html"'),
        ('text/html; a="b"', '"text/html; a="b""'),
        ("x/" + "y" * 500, '"x/' + "y" * 78 + '..."'),
        ("text/\u00a0", r'"text/\xa0"'),
    ],
)
async def test_a_415_names_the_received_type_cut_and_sanitized(content_type: str, shown: str) -> None:
    async with Served() as served:
        response = await served.post(BODY, f"Content-Type: {content_type}")
        assert response.status == 415
        assert response.json["error"].startswith(f"Content-Type {shown} is not accepted. Send application/json")


@pytest.mark.parametrize("charset", ["utf-16", "iso-8859-1", "windows-1252", "x"])
@pytest.mark.parametrize("coding", ["", "gzip"])
async def test_another_charset_requires_an_ascii_body(charset: str, coding: str) -> None:
    content_type = f"Content-Type: application/json; charset={charset}"
    long = json.dumps({"events": [EVENT] * 200}).encode()
    accented = json.dumps({**EVENT, "event_type": "\u00e9"}, ensure_ascii=False).encode()
    headers = [content_type, f"Content-Encoding: {coding}"] if coding else [content_type]
    packed = gzipped if coding else bytes
    async with Served() as served:
        assert (await served.post(packed(BODY), *headers)).status == 202
        assert (await served.post(packed(long), *headers)).status == 202
        response = await served.post(packed(accented), *headers)
        assert response.status == 415
        assert f"charset={charset}" in response.json["error"]
        assert "UTF-8" in response.json["error"]
        assert served.rejected("media_type") == 1
        assert (
            await served.post(packed(accented), "Content-Type: application/json; charset=us-ascii", *headers[1:])
        ).status == 202


@pytest.mark.parametrize("coding", ["x-gzip", "X-GZip", "identity, gzip", " gzip ,", "gzip, identity"])
async def test_gzip_is_inflated_under_each_of_its_names(coding: str) -> None:
    async with Served() as served:
        assert (await served.post(gzipped(BODY), f"Content-Encoding: {coding}")).status == 202


@pytest.mark.parametrize("coding", ["identity", "", "identity, identity", ","])
async def test_identity_is_accepted_as_no_coding(coding: str) -> None:
    async with Served() as served:
        assert (await served.post(BODY, f"Content-Encoding: {coding}")).status == 202


async def test_a_415_names_the_received_coding() -> None:
    async with Served() as served:
        response = await served.post(BODY, "Content-Encoding: br")
        assert response.json["error"].startswith('Content-Encoding "br" is not accepted. Send one of gzip, deflate')


@pytest.mark.parametrize("coding", ["br", "compress", "gzip, gzip", "gzip,deflate", "x", "\xff"])
async def test_other_content_encodings_get_415_with_the_accepted_ones(coding: str) -> None:
    async with Served() as served:
        response = await served.post(BODY, f"Content-Encoding: {coding}")
        assert response.status == 415
        assert response.headers["accept-encoding"].startswith("gzip, deflate")


async def test_two_content_encoding_lines_are_two_encodings() -> None:
    async with Served() as served:
        response = await served.post(gzipped(BODY), "Content-Encoding: gzip", "Content-Encoding: deflate")
        assert response.status == 415


@pytest.mark.parametrize(
    ("body", "status"),
    [
        (gzipped(BODY)[:-1], 400),
        (gzipped(BODY) + b"x", 400),
        (BODY, 400),
        (gzipped(b"") * 20_000, 400),
        (gzipped(bytes(30 << 20)), 413),
    ],
    ids=["truncated", "trailing", "plain", "20000 empty members", "bomb"],
)
async def test_hostile_gzip_is_rejected(body: bytes, status: int) -> None:
    async with Served() as served:
        assert (await served.post(body, "Content-Encoding: gzip")).status == status


async def test_a_body_over_the_limit_is_rejected_by_its_content_length() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /v1/events HTTP/1.1", f"Content-Length: {(1 << 20) + 1}"))
        response = await client.response()
        assert response.status == 413
        assert response.headers["connection"] == "close"
        assert served.rejected("too_large") == 1


@pytest.mark.parametrize("whole", [True, False])
async def test_a_body_over_the_limit_is_rejected_while_it_is_received(whole: bool) -> None:
    async with Served(max_body_bytes=len(BODY) - 1) as served:
        client = await served.connect()
        client.send(request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked"))
        client.send(b"%x\r\n%s\r\n" % (len(BODY), BODY) + (b"0\r\n\r\n" if whole else b"ffff\r\n"))
        assert (await client.response()).status == 413


async def test_a_body_of_exactly_the_limit_is_accepted() -> None:
    async with Served(max_body_bytes=len(BODY)) as served:
        assert (await served.post()).status == 202


def many(events: int) -> bytes:
    body = json.dumps({name: value for name, value in EVENT.items() if name != "event_id"}).encode()
    return b"[%b]" % b",".join([body] * events)


@pytest.mark.parametrize("caches_heads", [True, False])
@pytest.mark.parametrize(("body", "status"), [(many(300), 202), (many(300)[:-1], 400), (many(5_000), 202)])
async def test_a_long_body_is_read_in_steps_and_gets_the_same_response(
    caches_heads: bool, body: bytes, status: int
) -> None:
    async with Served(caches_heads=caches_heads) as served:
        client = await served.connect()
        for _ in range(3):  # the first teaches the head
            client.send(post(body))
            assert (await client.response()).status == status
        assert len(served.outbox.stored) == (3 * body.count(b"event_type") if status == 202 else 0)


@pytest.mark.parametrize(
    ("body", "status"), [(many(300), 202), (many(300)[:-1], 400), (many(3_000), 202), (bytes(1 << 20) + b"x", 413)]
)
async def test_a_long_compressed_body_gets_the_same_response(body: bytes, status: int) -> None:
    async with Served() as served:
        assert (await served.post(gzipped(body), "Content-Encoding: gzip")).status == status
        assert len(served.outbox.stored) == (body.count(b"event_type") if status == 202 else 0)


async def test_a_gzip_of_a_hundred_members_is_one_body() -> None:
    members = b"".join(gzipped(line + b"\n") for line in many(100)[1:-1].replace(b"},{", b"}\n{").split(b"\n"))
    async with Served() as served:
        response = await served.post(members, "Content-Encoding: gzip", "Content-Type: application/x-ndjson")
        assert response.status == 202
        assert len(served.outbox.stored) == 100


async def test_an_event_over_its_own_limit_is_413() -> None:
    async with Served(max_event_bytes=len(BODY) - 1) as served:
        assert (await served.post()).status == 413


async def test_a_malformed_chunked_body_gets_400() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("POST /v1/events HTTP/1.1", "Transfer-Encoding: chunked") + b"5\r\nabcde\r\n")
        await turns(20)
        client.send(b"not a size\r\n")
        response = await client.response()
        assert response.status == 400
        assert await client.rest() == b""


# --- when the outbox does not keep it


@pytest.mark.parametrize(
    ("error", "reason"),
    [(OutboxFull("the outbox is full"), "full"), (OutboxUnavailable("the disk fails"), "unavailable")],
)
async def test_a_failed_append_causes_503_with_retry_after(error: Exception, reason: str) -> None:
    async with Served() as served:
        served.outbox.error = error
        response = await served.post(json.dumps(TWO).encode())
        assert response.status == 503
        assert response.json == {"success": False, "error": str(error)}
        assert int(response.headers["retry-after"]) > 0
        assert served.rejected(reason) == 2


# --- other methods and paths


@pytest.mark.parametrize(
    ("line", "allow"),
    [
        ("GET /v1/events", "POST, OPTIONS"), ("HEAD /v1/events", "POST, OPTIONS"), ("PUT /v1/events", "POST, OPTIONS"),
        ("TRACE /v1/events", "POST, OPTIONS"), (f"DELETE /v1/events/{EVENT_ID}", "GET, HEAD, OPTIONS"),
        (f"POST /v1/events/{EVENT_ID}", "GET, HEAD, OPTIONS"),
    ],
)  # fmt: skip
async def test_another_method_gets_405_with_the_allowed_ones(line: str, allow: str) -> None:
    async with Served() as served:
        response = await served.ask(request(f"{line} HTTP/1.1"), to_head=line.startswith("HEAD"))
        assert response.status == 405
        assert response.headers["allow"] == allow


@pytest.mark.parametrize("path", ["/", "/v1", "/v1/event", "/v1/eventsx", "/v1/../v1/events", "//v1/events", "*"])
async def test_another_path_is_404(path: str) -> None:
    async with Served() as served:
        line = f"OPTIONS {path}" if path == "*" else f"GET {path}"
        response = await served.ask(request(f"{line} HTTP/1.1"))
        assert response.status == 404
        assert response.json["success"] is False


@pytest.mark.parametrize("asked", [EVENT_ID, EVENT_ID.upper()])
async def test_a_known_event_returns_its_state(asked: str) -> None:
    async with Served() as served:
        served.outbox.states[bytes.fromhex(EVENT_ID.replace("-", ""))] = "delivered"
        response = await served.ask(request(f"GET /v1/events/{asked} HTTP/1.1"))
        assert response.status == 200
        assert response.json == {"event_id": EVENT_ID, "state": "delivered"}
        head = await served.ask(request(f"HEAD /v1/events/{asked} HTTP/1.1"), to_head=True)
        assert (head.status, head.headers["content-length"]) == (200, response.headers["content-length"])


async def test_an_event_that_was_not_delivered_has_reason_and_message() -> None:
    letter = DeadLetter(7, EVENT_ID, (1, "tv", "d"), "refused", 422, '422 no "type"', "2026-11-23T08:00:00.000Z", BODY)
    packed_id = bytes.fromhex(EVENT_ID.replace("-", ""))
    async with Served() as served:
        served.outbox.states[packed_id] = "dead_lettered"
        served.outbox.letters = [letter]
        get = request(f"GET /v1/events/{EVENT_ID} HTTP/1.1")
        assert (await served.ask(get)).json == {
            "event_id": EVENT_ID,
            "state": "dead_lettered",
            "reason": "refused",
            "message": '422 no "type"',
        }
        del served.outbox.states[packed_id]  # It has left the dedupe window.
        assert (await served.ask(get)).json["message"] == '422 no "type"'
        served.outbox.letters = []
        response = await served.ask(get)
        assert (response.status, response.json["error"][:50]) == (404, f'unknown event "{EVENT_ID}"'[:50])
        served.outbox.states[packed_id] = "dead_lettered"
        assert (await served.ask(get)).json["reason"] == "discarded"

        served.outbox.error = OutboxUnavailable("the disk fails")
        response = await served.ask(get)
        assert (response.status, response.headers["retry-after"]) == (503, "5")

        served.outbox.states[packed_id] = "dropped"
        response = await served.ask(get)
        assert (response.json["state"], response.json["reason"]) == ("dropped", "dropped")
        assert response.json["message"].endswith("The event may be sent again.")


@pytest.mark.parametrize(
    ("line", "headers", "body", "error"),
    [
        ("POST /v1/event", (), BODY, 'unknown path "/v1/event"; send events with POST /v1/events'),
        (
            "POST /v1/events/x",
            (),
            BODY,
            'this path accepts GET, HEAD, OPTIONS, not "POST"; send events with POST /v1/e',
        ),
        ("GET /v1/events", (), b"", 'this path accepts POST, OPTIONS, not "GET"'),
        ("GET /v1/events/x", (), b"", 'unknown event "x": it was never stored, or it has left outbox.dedupe_window'),
        ("POST /v1/events", ("Content-Encoding: gzip",), BODY, "truncated or corrupt, or not gzip as Content-Encoding"),
        ("POST /v1/events", (), b" " * (2 << 20), "the body is larger than http.max_body, which is 1048576 bytes"),
    ],
)
async def test_an_error_names_the_received_value_and_what_is_allowed(
    line: str, headers: tuple[str, ...], body: bytes, error: str
) -> None:
    async with Served() as served:
        raw = request(f"{line} HTTP/1.1", f"Content-Length: {len(body)}", *headers) + body
        assert error in (await served.ask(raw)).json["error"]


async def test_a_head_request_gets_no_body() -> None:
    async with Served() as served:
        client = await served.connect()
        client.send(request("HEAD /v1/events/x HTTP/1.1") + request("GET /v1/events/x HTTP/1.1"))
        assert (await client.response(to_head=True)).status == 404
        assert (await client.response()).json["success"] is False


@pytest.mark.parametrize("asked", [OTHER_ID, "x", EVENT_ID + "0", "../../etc/passwd", "%00", EVENT_ID.replace("-", "")])
async def test_an_unknown_event_is_404(asked: str) -> None:
    async with Served() as served:
        served.outbox.states[bytes.fromhex(EVENT_ID.replace("-", ""))] = "pending"
        response = await served.ask(request(f"GET /v1/events/{asked} HTTP/1.1"))
        assert response.status == 404
        assert response.json["success"] is False


# --- browsers


@pytest.mark.parametrize(
    ("requested", "allowed"),
    [
        ("content-type", "content-type"),
        ("baggage,content-type,sentry-trace,traceparent", "baggage,content-type,sentry-trace,traceparent"),
        ("Authorization, X-Requested-With", "Authorization, X-Requested-With"),
        ("", "content-type, content-encoding, x-events-key"),
        ("a b", "content-type, content-encoding, x-events-key"),
        ("a,,b", "content-type, content-encoding, x-events-key"),
    ],
)
async def test_a_preflight_allows_the_requested_headers(requested: str, allowed: str) -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        asked = ["Access-Control-Request-Method: POST", f"Access-Control-Request-Headers: {requested}"]
        response = await served.ask(request("OPTIONS /v1/events HTTP/1.1", f"Origin: {ORIGIN}", *asked))
        assert (response.status, response.headers["access-control-allow-headers"]) == (204, allowed)


@pytest.mark.parametrize("origin", [ORIGIN, "null", "file://", "app://.", "capacitor://localhost"])
@pytest.mark.parametrize("line", ["OPTIONS /v1/events", "POST /v1/events", f"GET /v1/events/{OTHER_ID}"])
async def test_every_response_to_an_allowed_origin_may_be_read_with_credentials(origin: str, line: str) -> None:
    async with Served(allowed_origins=[origin]) as served:
        response = await served.ask(request(f"{line} HTTP/1.1", f"Origin: {origin}", "Cookie: s=1"))
    assert response.headers["access-control-allow-origin"] == origin
    assert response.headers["access-control-allow-credentials"] == "true"
    assert response.headers["access-control-expose-headers"] == "Relay-Event-Ids, Relay-Durability, Retry-After"
    assert response.headers["vary"] == "Origin"


async def test_a_response_to_another_origin_may_not_be_read() -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        response = await served.ask(request("POST /v1/events HTTP/1.1", "Origin: https://evil.example"))
    assert response.status == 403
    assert not [name for name in response.headers if name.startswith("access-control")]


async def test_a_preflight_of_an_allowed_origin_is_granted() -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        asked = ["Access-Control-Request-Method: POST", "Access-Control-Request-Headers: content-type"]
        networks = ["Access-Control-Request-Private-Network: true", "Access-Control-Request-Local-Network: true"]
        line = "OPTIONS /v1/events HTTP/1.1"
        response = await served.ask(request(line, f"Origin: {ORIGIN}", *asked, *networks))
        assert (response.status, response.body) == (204, b"")
        assert "content-length" not in response.headers
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["vary"] == "Origin"
        assert "POST" in response.headers["access-control-allow-methods"]
        assert response.headers["access-control-allow-headers"] == "content-type"
        assert response.headers["access-control-allow-credentials"] == "true"
        assert int(response.headers["access-control-max-age"]) > 0
        assert response.headers["access-control-allow-private-network"] == "true"
        assert response.headers["access-control-allow-local-network"] == "true"
        plain = await served.ask(request(line, f"Origin: {ORIGIN}", *asked))
        assert not any("network" in name for name in plain.headers)


@pytest.mark.parametrize("headers", [[], ["Origin: http://evil.example"], ["Origin: null"]])
async def test_other_preflights_are_403(headers: list[str]) -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        response = await served.ask(request("OPTIONS /v1/events HTTP/1.1", *headers))
        assert response.status == 403
        assert "access-control-allow-origin" not in response.headers


@pytest.mark.parametrize("body", [BODY, b"{"])
async def test_an_allowed_origin_can_read_every_response(body: bytes) -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        response = await served.post(body, f"Origin: {ORIGIN}", "Sec-Fetch-Site: cross-site")
        assert response.status == (202 if body is BODY else 400)
        assert response.headers["access-control-allow-origin"] == ORIGIN
        assert response.headers["vary"] == "Origin"


@pytest.mark.parametrize("headers", [["Origin: http://evil.example"], ["Origin: null"], ["Sec-Fetch-Site: cross-site"]])
async def test_a_foreign_page_stores_nothing(headers: list[str]) -> None:
    async with Served(allowed_origins=[ORIGIN]) as served:
        response = await served.post(BODY, "Content-Type: text/plain", *headers)
        assert response.status == 403
        assert response.json["success"] is False
        assert served.outbox.appends == []
        assert served.rejected("forbidden") == 1
