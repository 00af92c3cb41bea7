"""The sandbox over its socket: the behaviour of the documented upstream, and each fault."""

from __future__ import annotations

import asyncio
import gzip
import json
from collections.abc import Awaitable, Callable
from email.utils import parsedate_to_datetime
from typing import Any

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.record import RECENT_BYTES, Record
from relay.sandbox.server import Sandbox

from tests.unit.sandbox.harness import DEVICE, Client, HandClock, Reply, body, event

Start = Callable[..., Awaitable[Sandbox]]
Connect = Callable[[], Awaitable[Client]]


# --- the documented upstream ---------------------------------------------------------------------------------


async def test_a_valid_request_is_accepted_and_recorded(sandbox: Sandbox, client: Client) -> None:
    reply = await client.ask(body(event(1, n=1), event(2, n=2)))
    assert (reply.status, reply.value) == (202, {"success": True})
    assert (reply.headers["x-ratelimit-limit"], reply.headers["x-ratelimit-remaining"]) == ("120", "119")
    report = sandbox.report()
    assert (report.requests, report.events, report.devices, report.by_status) == (1, 2, 1, {"202": 1})


@pytest.mark.parametrize("key", [None, "", "sandbox-kez"])
async def test_a_wrong_key_is_401_and_commits_nothing(sandbox: Sandbox, client: Client, key: str | None) -> None:
    reply = await client.ask(body(event()), {"X-Events-Key": key})
    assert (reply.status, reply.value) == (401, {"success": False, "error": "Invalid or missing API key"})
    assert (sandbox.report().events, sandbox.report().devices) == (0, 1)


async def test_one_invalid_event_rejects_the_request(sandbox: Sandbox, client: Client) -> None:
    reply = await client.ask(body(event(0), event(1, tenant_id=None)))
    message = "The events.1.tenant_id field is required."
    assert (reply.status, reply.value) == (422, {"message": message, "errors": {"events.1.tenant_id": [message]}})
    assert sandbox.report().events == 0


@pytest.mark.parametrize(
    ("headers", "location"), [({}, "/"), ({"X-Events-Key": "wrong"}, "/login")], ids=["validation", "key"]
)
@pytest.mark.parametrize("accept", [None, "*/*", "text/html, application/json", "text/html;q=1,application/json;q=0.9"])
async def test_without_accept_json_a_rejection_is_a_redirect(
    client: Client, headers: dict[str, str], location: str, accept: str | None
) -> None:
    reply = await client.ask(b"{}", {**headers, "Accept": accept})
    assert (reply.status, reply.headers["location"]) == (302, location)


async def test_without_accept_json_a_valid_request_is_accepted(client: Client) -> None:
    assert (await client.ask(body(event()), {"Accept": None})).status == 202


@pytest.mark.parametrize("content_type", [None, "text/plain", "application/x-www-form-urlencoded"])
async def test_a_body_with_another_content_type_has_no_events(client: Client, content_type: str | None) -> None:
    reply = await client.ask(body(event()), {"Content-Type": content_type})
    assert reply.value["errors"] == {"events": ["The events field is required."]}


async def test_the_120th_request_of_a_device_is_its_last_in_the_window(
    sandbox: Sandbox, client: Client, clock: HandClock
) -> None:
    for number in range(120):
        assert (await client.ask(body(event(number)))).status == 202
    clock.now_ms += 59_000
    rejected = await client.ask(body(event(120)))
    assert (rejected.status, rejected.value) == (429, {"success": False, "error": "Too many requests"})
    assert (rejected.headers["retry-after"], rejected.headers["x-ratelimit-remaining"]) == ("1", "0")
    assert rejected.headers["x-ratelimit-reset"] == str(clock.wall_ms() // 1000 + 1)
    assert (await client.ask(body(event(121, device_id="another")))).status == 202
    clock.now_ms += 1_000
    assert (await client.ask(body(event(120)))).status == 202
    report = sandbox.report()
    assert (report.most_of_device, report.rate_limited, report.duplicates) == (121, 1, 0)


async def test_the_same_device_of_another_tenant_or_platform_is_another(client: Client) -> None:
    source = {"platform": "tv", "device_id": DEVICE}
    for other in (event(0), event(1, tenant_id=2), event(2, source=source)):
        assert (await client.ask(body(other))).headers["x-ratelimit-remaining"] == "119"


async def test_requests_without_a_readable_device_share_20_per_address(client: Client) -> None:
    for _ in range(20):
        assert (await client.ask(b"{")).status == 422
    assert (await client.ask(body(event()), {"X-Events-Key": "wrong"})).status == 429
    assert (await client.ask(body(event()))).status == 202


async def test_always_limits_the_address_too(start: Start) -> None:
    sandbox = await start(ip_limit="always")
    client = await Client.open(sandbox.url)
    statuses = [(await client.ask(body(event(n, device_id=str(n))))).status for n in range(21)]
    assert statuses == [202] * 20 + [429]
    client.close()


async def test_without_a_device_the_fallback_limits_all(start: Start) -> None:
    sandbox = await start(device_of="none", ip_per_window=1)
    client = await Client.open(sandbox.url)
    assert [(await client.ask(body(event(n)))).status for n in range(2)] == [202, 429]
    client.close()


async def test_limits_need_not_be_announced(start: Start) -> None:
    sandbox = await start(announce_limits=False, device_per_window=1)
    client = await Client.open(sandbox.url)
    replies = [await client.ask(body(event(n))) for n in range(2)]
    assert [reply.status for reply in replies] == [202, 429]
    assert [reply.headers.keys() for reply in replies] == [{"content-type", "date", "content-length"}] * 2
    client.close()


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/v2/events", 404), ("GET", "/v1/events", 405)])
async def test_other_routes_do_not_exist(client: Client, method: str, path: str, status: int) -> None:
    assert (await client.ask(b"", method=method, path=path)).status == status


async def test_gzip_is_decompressed(sandbox: Sandbox, client: Client) -> None:
    assert (await client.ask(gzip.compress(body(event())), {"Content-Encoding": "gzip"})).status == 202
    assert (await client.ask(gzip.compress(body(event()))[:-9], {"Content-Encoding": "gzip"})).status == 422
    sandbox.change(inflate=False)
    assert (await client.ask(gzip.compress(body(event())), {"Content-Encoding": "gzip"})).status == 422


async def test_chunked_bodies_and_expect_are_understood(client: Client) -> None:
    chunks = b"".join(b"%x;ext=1\r\n%s\r\n" % (len(part), part) for part in (body(event())[:9], body(event())[9:]))
    client.send(
        chunks + b"0\r\nTrailer: x\r\n\r\n",
        {"Content-Length": None, "Transfer-Encoding": "chunked", "Expect": "100-continue"},
    )
    assert (await client.reply()).status == 100
    assert (await client.reply()).status == 202


async def test_a_body_above_the_limit_is_rejected_before_it_is_read(start: Start) -> None:
    sandbox = await start(max_body_bytes=1000)
    client = await Client.open(sandbox.url)
    client.send(b"", length=1001)
    reply = await client.reply()
    assert (reply.status, reply.headers["connection"], reply.headers["server"]) == (413, "close", "nginx")
    client.close()


async def test_a_client_that_continues_to_send_can_read_the_rejection(start: Start) -> None:
    sandbox = await start(max_body_bytes=1000)
    client = await Client.open(sandbox.url)
    client.send(bytes(8 << 20))
    await client.writer.drain()
    assert (await client.reply()).status == 413
    client.close()


async def test_a_body_above_the_limit_can_be_reset_or_rejected_by_the_application(start: Start) -> None:
    sandbox = await start(max_body_bytes=1000, too_large="reset")
    client = await Client.open(sandbox.url)
    client.send(b"", length=1001)
    with pytest.raises(ConnectionResetError):
        await client.rest()
    sandbox.change(too_large="laravel")
    client = await Client.open(sandbox.url)
    assert (await client.ask(bytes(1001))).value == {"message": "The POST data is too large."}
    client.close()


@pytest.mark.parametrize(
    "raw",
    [
        b"\x16\x03\x01 hello\r\n\r\n",
        b"\r\n\r\n",
        b"POST /v1/events\r\n\r\n",
        b"POST /v1/events HTTP/2.0\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nno colon\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: -1\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: \xb2\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nContent-Length: " + b"9" * 5000 + b"\r\n\r\n",
        b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\n",
        b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n0x5\r\n",
        b"POST /v1/events HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n" + b"1" * (1 << 21) + b"\r\n",
        b"POST /v1/events HTTP/1.1\r\nX: " + b"x" * (1 << 21) + b"\r\n\r\n",
    ],
)
async def test_invalid_http_is_400_and_ends_the_connection(client: Client, raw: bytes) -> None:
    client.writer.write(raw)
    assert (await client.reply()).status == 400
    client.writer.write_eof()
    assert await client.rest() == b""


async def test_unparsed_requests_are_counted(start: Start) -> None:
    sandbox = await start(validate=False, ip_per_window=1)
    client = await Client.open(sandbox.url)
    for _ in range(3):
        assert (await client.ask(body(event(), event(), {}))).status == 202
    assert (sandbox.report().events, sandbox.report().devices) == (6, 0)
    client.close()


async def test_complete_requests_can_be_stored(start: Start) -> None:
    sandbox = await start(keep_requests=True)
    client = await Client.open(sandbox.url)
    raw = body(event()).replace(b" ", b"  ")
    await client.ask(gzip.compress(raw), {"Content-Encoding": "gzip"})
    assert sandbox.record.contents[0].body == raw
    assert sandbox.record.contents[0].headers["x-events-key"] == "sandbox-key"
    client.close()


# --- answers on command --------------------------------------------------------------------------------------


@pytest.mark.parametrize("status", [200, 201, 204, "202_html", "202_empty"])
async def test_every_2xx_commits(sandbox: Sandbox, client: Client, status: int | str) -> None:
    sandbox.faults.add(Misbehaviour(answer=status, count=1))
    reply = await client.ask(body(event(1)))
    assert (reply.status, sandbox.record.events) == (int(str(status)[:3]), 1)
    assert (await client.ask(body(event(2)))).value == {"success": True}


@pytest.mark.parametrize("status", [307, 401, 403, 404, 410, 415, 419, 422, 429, 500, 502, 503, 504, 520, 530])
async def test_other_responses_do_not_commit(sandbox: Sandbox, client: Client, status: int) -> None:
    sandbox.faults.add(Misbehaviour(answer=status, count=1))
    assert (await client.ask(body(event()))).status == status
    assert sandbox.record.events == 0
    assert (await client.ask(body(event()))).status == 202


async def test_a_gateways_timeout_may_hide_a_commit(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Misbehaviour(answer=504, commit="before", count=1))
    assert (await client.ask(body(event()))).status == 504
    assert (await client.ask(body(event()))).status == 202
    assert sandbox.report().duplicates == 1


async def test_headers_and_body_of_a_response_can_be_given(sandbox: Sandbox, client: Client, clock: HandClock) -> None:
    sandbox.faults.add(
        Misbehaviour(answer=503, count=1, headers={"Retry-After": "-1"}, body="<h1>"),
        Misbehaviour(answer=307, count=1, headers={"Location": "http://other.example/"}),
        Misbehaviour(answer=429, count=1, retry_after_date_s=30),
    )
    first, second, third = [await client.ask(body(event())) for _ in range(3)]
    assert (first.headers["retry-after"], first.body) == ("-1", b"<h1>")
    assert second.headers["location"] == "http://other.example/"
    assert parsedate_to_datetime(third.headers["retry-after"]).timestamp() == clock.wall_ms() // 1000 + 30


async def test_a_proxys_response_does_not_count_against_the_limits(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Misbehaviour(answer=502, count=5))
    for _ in range(5):
        await client.ask(body(event()))
    assert (await client.ask(body(event()))).headers["x-ratelimit-remaining"] == "119"
    assert sandbox.report().most_of_device == 6


async def test_a_poisoned_event_fails_its_request_only(sandbox: Sandbox, client: Client) -> None:
    poison, wine = event(1), event(2)
    sandbox.faults.add(Misbehaviour(when=poison["event_id"]))
    failed = await client.ask(body(wine, poison))
    assert (failed.value, failed.headers["x-ratelimit-remaining"]) == ({"message": "Server Error"}, "119")
    assert (await client.ask(body(wine))).status == 202
    assert (await client.ask(body(poison))).status == 500


async def test_a_poisoned_event_is_named(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Misbehaviour(when=event(7)["event_id"], answer=422))
    reply = await client.ask(body(event(1), event(2), event(7)))
    assert list(reply.value["errors"]) == ["events.2.context"]


async def test_a_partial_response_names_the_events_that_it_does_not_commit(sandbox: Sandbox, client: Client) -> None:
    poison = event(7)["event_id"]
    sandbox.faults.add(Misbehaviour(when=poison, answer="202_partial"))
    reply = await client.ask(body(event(1), event(7), event(3)))
    assert (reply.status, reply.value["accepted"], sandbox.record.events) == (202, 2, 2)
    assert [(it["index"], it["event_id"]) for it in reply.value["rejected"]] == [(1, poison)]


async def test_a_fault_for_valid_requests_ignores_invalid_requests(sandbox: Sandbox, client: Client) -> None:
    sandbox.faults.add(Misbehaviour(answer=500, count=1))
    assert (await client.ask(b"{}")).status == 422
    assert (await client.ask(body(event()))).status == 500


async def test_slow_recovery_is_a_share_of_503_for_a_while(sandbox: Sandbox, client: Client, clock: HandClock) -> None:
    sandbox.faults.add(Misbehaviour(answer=503, share=0.5, for_ms=30_000))
    clock.chances = [0.1, 0.9, 0.1]
    assert [(await client.ask(body(event()))).status for _ in range(3)] == [503, 202, 503]
    clock.now_ms += 30_000
    assert (await client.ask(body(event()))).status == 202


# --- transports ----------------------------------------------------------------------------------------------


def ill(sandbox: Sandbox, action: Any, **more: Any) -> None:
    sandbox.faults.add(Misbehaviour(action=action, count=1, **more))


async def everything(client: Client) -> bytes:
    client.send(body(event()))
    return await client.rest()


@pytest.mark.parametrize(
    ("action", "committed"),
    [("reset_at_accept", 0), ("reset_mid_request", 0), ("reset_before_commit", 0), ("reset_after_commit", 1)],
)
async def test_resets(sandbox: Sandbox, connect: Connect, action: str, committed: int) -> None:
    ill(sandbox, action)
    with pytest.raises(ConnectionError):
        await everything(await connect())
    assert sandbox.record.events == committed
    assert (await (await connect()).ask(body(event()))).status == 202


@pytest.mark.parametrize(
    ("action", "committed"),
    [("close_at_accept", 0), ("close_mid_request", 0), ("close_before_commit", 0), ("close_after_commit", 1)],
)
async def test_closes_without_a_response(sandbox: Sandbox, connect: Connect, action: str, committed: int) -> None:
    ill(sandbox, action)
    try:
        assert await everything(await connect()) == b""
    except ConnectionResetError:
        assert action in (
            "close_at_accept",
            "close_mid_request",
        )  # The kernel resets the connection because of unread data.
    assert sandbox.record.events == committed


@pytest.mark.parametrize("action", ["silence_at_accept", "silence"])
async def test_silence_lasts_until_the_client_closes(sandbox: Sandbox, client: Client, action: str) -> None:
    ill(sandbox, action)
    speaker = await Client.open(sandbox.url) if action == "silence_at_accept" else client
    speaker.send(body(event()))
    speaker.writer.write_eof()
    assert await speaker.rest() == b""
    assert sandbox.record.events == 0
    speaker.close()


async def test_late_commits_after_the_client_closed(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "silence", commit="late")
    client.send(body(event()))
    await asyncio.wait_for(sandbox_has(sandbox, 1), 30)
    assert sandbox.record.events == 0
    client.close()
    await asyncio.wait_for(sandbox.until(lambda record: record.events == 1), 30)
    assert sandbox.report().by_status == {"none": 1}


async def sandbox_has(sandbox: Sandbox, requests: int) -> None:
    """Wait until the sandbox has this number of requests, with or without a response."""
    while len(list(sandbox.record.requests())) < requests or sandbox.record.report(1).devices < 1:
        await asyncio.sleep(0)


async def test_continue_then_silence(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "continue_then_silence")
    client.send(b"", {"Expect": "100-continue"}, length=10)
    assert (await client.reply()).status == 100
    client.writer.write_eof()
    assert await client.rest() == b""


@pytest.mark.parametrize(
    ("action", "sent"),
    [
        ("garbage", b"\x16\x03\x01\x00\x00 220 mail.example ESMTP\r\n\xff\xfe\x00\r\n\r\n"),
        ("cut_body", b'Content-Length: 116\r\n\r\n{"success":true}'),
        ("cut_chunked", b'Transfer-Encoding: chunked\r\n\r\n10\r\n{"success":true}\r\n'),
        ("bad_chunk", b'Transfer-Encoding: chunked\r\n\r\nzz\r\n{"success":true}'),
        ("http_1_0", b'{"success":true}'),
        ("connection_close", b'Content-Length: 16\r\nConnection: close\r\n\r\n{"success":true}'),
        ("close_after_answer", b'Content-Length: 16\r\n\r\n{"success":true}'),
    ],
)
async def test_broken_responses_end_the_connection(sandbox: Sandbox, client: Client, action: str, sent: bytes) -> None:
    ill(sandbox, action)
    got = await everything(client)
    assert got.endswith(sent)
    assert got.startswith(b"HTTP/1.0 202" if action == "http_1_0" else b"HTTP/1.1 202" if action != "garbage" else sent)
    assert sandbox.record.events == (action != "garbage")


async def test_a_reset_in_mid_body_follows_the_head(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "reset_mid_body", pause_ms=200)
    client.send(body(event()))
    head = await client.reader.readuntil(b"\r\n\r\n")
    assert head.startswith(b"HTTP/1.1 202")
    with pytest.raises(ConnectionResetError):
        await client.rest()


async def test_a_body_shorter_than_promised_stalls(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "long_length")
    client.send(body(event()))
    await client.reader.readuntil(b'{"success":true}')
    client.writer.write_eof()
    assert await client.rest() == b""


async def test_a_body_may_be_longer_than_its_content_length(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "short_length")
    assert (await client.ask(body(event()))).body == b'{"succes'
    assert await client.reader.readexactly(8) == b's":true}'


@pytest.mark.parametrize("action", ["trickle_head", "trickle_body", "slow_answer"])
async def test_slow_responses_are_complete(sandbox: Sandbox, client: Client, action: str) -> None:
    ill(sandbox, action, pause_ms=1)
    assert (await client.ask(body(event()))).value == {"success": True}
    assert (await client.ask(body(event()))).status == 202


async def test_an_endless_body_exceeds_every_sensible_limit(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "endless_body")
    client.send(body(event()))
    await client.reader.readexactly(4 << 20)
    client.close()
    await asyncio.wait_for(sandbox.until(lambda record: record.report(1).by_status == {"none": 1}), 30)


async def test_a_gzip_bomb_is_small_and_becomes_large(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "gzip_bomb")
    reply = await client.ask(body(event()))
    assert (reply.headers["content-encoding"], len(reply.body) < 1 << 20) == ("gzip", True)
    assert len(gzip.decompress(reply.body)) == 64 << 20


async def test_a_huge_header_two_responses_and_early_hints(sandbox: Sandbox, client: Client) -> None:
    for action in ("huge_header", "two_answers", "early_hints"):
        ill(sandbox, action)
    client.reader._limit = 1 << 20  # type: ignore[attr-defined]
    assert len((await client.ask(body(event()))).headers["x-filler"]) == 100_000
    assert [(await client.ask(body(event()))).status, (await client.reply()).status] == [202, 202]
    assert [(await client.ask(body(event()))).status, (await client.reply()).status] == [103, 202]


async def test_an_action_works_on_any_response(sandbox: Sandbox, client: Client) -> None:
    ill(sandbox, "cut_body", answer=503)
    assert (await everything(client)).startswith(b"HTTP/1.1 503")
    assert sandbox.report().by_status == {"503": 1}


async def test_a_closed_port_rejects_connections_and_reopens_at_the_same_port(
    sandbox: Sandbox, connect: Connect
) -> None:
    sandbox.close_port()
    with pytest.raises(ConnectionRefusedError):
        await connect()
    await sandbox.open_port()
    assert (await (await connect()).ask(body(event()))).status == 202


async def test_a_client_that_closes_in_the_middle_of_a_body_causes_no_commit(sandbox: Sandbox, client: Client) -> None:
    client.send(b"half", length=100)
    client.close()

    def arrived(record: Record) -> bool:
        return record.report(1).requests == 1

    await asyncio.wait_for(sandbox.until(arrived), 30)
    assert sandbox.report().by_status == {"none": 1}


# --- control -------------------------------------------------------------------------------------------------


async def control(client: Client, method: str, what: str, value: object = None) -> Reply:
    raw = b"" if value is None else json.dumps(value).encode()
    return await client.ask(raw, method=method, path=f"/_sandbox/{what}")


async def test_faults_are_set_seen_and_healed_over_the_port(client: Client) -> None:
    assert (await control(client, "POST", "faults", {"answer": 503, "count": 2})).status == 200
    assert (await control(client, "POST", "faults", [{"when": "x"}])).value == [
        {"answer": 503, "count": 2},
        {"when": "x"},
    ]
    assert (await client.ask(body(event()))).status == 503
    assert (await control(client, "DELETE", "faults")).value == []
    assert (await client.ask(body(event()))).status == 202


async def test_settings_change_over_the_port(client: Client) -> None:
    assert (await control(client, "PATCH", "settings", {"api_key": "new", "device_per_window": 7})).status == 200
    assert (await client.ask(body(event()))).status == 401
    assert (await client.ask(body(event()), {"X-Events-Key": "new"})).headers["x-ratelimit-limit"] == "7"


@pytest.mark.parametrize("wrong", [{"port": 1}, {"latency_ms": -1}, {"nonsense": 1}, {"ip_limit": "never"}, [1]])
async def test_invalid_settings_change_nothing(sandbox: Sandbox, client: Client, wrong: object) -> None:
    before = sandbox.settings
    reply = await control(client, "PATCH", "settings", wrong)
    assert reply.status == 422
    assert reply.value["error"]
    assert sandbox.settings == before


async def test_the_record_is_available_over_the_port(client: Client) -> None:
    await client.ask(body(event(1)))
    assert (await control(client, "GET", "report")).value["events"] == 1
    assert (await control(client, "GET", "delivered")).body.decode() == event(1)["event_id"] + "\n"
    assert (await control(client, "GET", "requests")).value == [
        [1_000_000, "127.0.0.1", [1, "ios", DEVICE], 1, 202, True]
    ]
    assert (await control(client, "GET", "events")).value == [{"status": 202, "event": event(1)}]
    assert (await control(client, "GET", "nothing")).status == 404


async def test_the_latest_events_are_kept_up_to_a_size(sandbox: Sandbox, client: Client) -> None:
    sandbox.change(max_body_bytes=0)
    padding = "x" * (RECENT_BYTES // 2)
    for number in range(3):
        await client.ask(body(event(number, context={"padding": padding})))
    await client.ask(body(event(9, tenant_id="none")))
    await client.ask(b"not JSON")

    kept = (await control(client, "GET", "events")).value
    assert [(each["status"], each["event"]["event_id"]) for each in kept] == [
        (202, event(2)["event_id"]),
        (422, event(9)["event_id"]),
    ]
