"""The verdict on each response of the upstream, in the formats of real servers."""

from __future__ import annotations

import gzip
import os
import time
import zlib
from collections.abc import Iterator, Mapping

import msgspec
import pytest
from relay.policy.response_body import MAX_BYTES
from relay.policy.verdict import (
    MESSAGE_MAX_CHARS,
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    NoResponse,
    NothingLeft,
    RateLimited,
    Resend,
    Unauthorized,
    UpstreamResponse,
    Verdict,
    clean,
    is_from_api,
    server_date_ms,
    verdict,
)

EVENTS = 10
WALL_1970_MS = 3_600_000
SERVER_DATE = "Mon, 23 Nov 2026 08:00:00 GMT"
SERVER_DATE_S = 1_795_420_800


def verdict_of(
    status: int, body: object = b"", headers: Mapping[str, str] | None = None, wall_ms: int = SERVER_DATE_S * 1000
) -> Verdict:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return verdict(UpstreamResponse(status, headers or {}, content, wall_ms), EVENTS)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"success": true}'),
        (201, b""),
        (202, b'{"success": true}'),
        (202, b'{"success": true, "error": null, "errors": []}'),
        (202, b'{"success": true, "error": "", "errors": {}, "rejected": 0}'),
        (202, b'{"success": true, "accepted": 3, "rejected": []}'),
        (202, b" \n"),
        (204, b""),
        (202, b'\xef\xbb\xbf{"success": true}'),
        (202, '{"success": true}'.encode("utf-16")),
        (202, b'{"success": true, "echo": "' + b"x" * 70_000),
    ],
)
def test_success_of_the_api_is_delivered(status: int, body: bytes) -> None:
    assert verdict_of(status, body[: 64 << 10]) == Delivered(status)


@pytest.mark.parametrize("coding", ["gzip", "x-gzip", "deflate", "GZIP", "identity, gzip"])
def test_the_content_encoding_is_decoded_first(coding: str) -> None:
    compress = zlib.compress if coding == "deflate" else gzip.compress
    headers = {"content-encoding": coding}

    assert verdict_of(202, compress(b'{"success": true}'), headers) == Delivered(202)
    assert isinstance(verdict_of(200, compress(b'{"success": false}'), headers), Failing)


@pytest.mark.parametrize(
    "body",
    [
        b'{"success": false, "error": "queue is down"}',
        b'\xef\xbb\xbf{"success": false, "error": "queue is down"}',
        '{"success": false, "error": "queue is down"}'.encode("utf-16"),
        b'{"success": "false", "error": "queue is down"}',
        b'{"success": "true", "error": "queue is down"}',
        b'{"success": 0, "error": "queue is down"}',
        b'{"success": 1, "error": "queue is down"}',
        b'{"success": null, "error": "queue is down"}',
        b'{"success": true, "error": "queue is down"}',
        b'{"error": "queue is down"}',
    ],
)
@pytest.mark.parametrize("status", [200, 202, 207])
def test_2xx_without_success_true_or_with_an_error_is_treated_as_5xx(status: int, body: bytes) -> None:
    assert verdict_of(status, body) == Failing(f"{status} but success is false: queue is down", None, status)


@pytest.mark.parametrize("success", [False, None, 0, 1, "false", "true", {}, []])
@pytest.mark.parametrize("status", [200, 201, 202, 207])
def test_2xx_whose_success_is_not_true_is_treated_as_5xx_also_without_an_error(status: int, success: object) -> None:
    found = verdict_of(status, {"success": success})
    assert isinstance(found, Failing)
    assert found.status == status


def test_2xx_with_an_error_object_is_treated_as_5xx() -> None:
    assert isinstance(verdict_of(200, {"success": True, "errors": {"events.3.id": ["x"]}}), Failing)
    assert isinstance(verdict_of(200, {"error": {"code": 500}}), Failing)
    assert isinstance(verdict_of(200, {"success": True, "error": 0}), Failing)


def test_a_page_after_a_success_is_not_the_apis_response_however_long() -> None:
    for padding in (b"<html>", b"<html>" + b"x" * MAX_BYTES):
        assert isinstance(verdict_of(200, b'{"success": true}' + padding), Misconfigured)
    assert verdict_of(200, b'{"success": true}' + b" " * MAX_BYTES) == Delivered(200)
    assert verdict_of(200, b'{"success": true, "padding": "' + b"x" * MAX_BYTES) == Delivered(200)


@pytest.mark.parametrize(
    ("status", "body", "quoted"),
    [
        (200, b"<!DOCTYPE html><html><head><title>Guest WiFi - Sign in</title></head></html>", "Guest WiFi - Sign in"),
        (202, b"<html>fine</html>", "fine"),
        (200, b"<br />\n<b>Fatal error</b>: memory exhausted", "memory exhausted"),
        (200, b'<br /><b>Warning</b>: x<br />{"success": true}', "Warning"),
        (200, b"", "an empty body"),
        (200, b"null", "null"),
        (200, b"true", "true"),
        (202, b"[]", "[]"),
        (202, b'[{"success": true}]', "success"),
        (202, b"OK", "OK"),
        (200, b'{"status": "error", "message": "no such tenant"}', "no such tenant"),
        (200, b"{}", "{}"),
        (203, b'{"success": true}', "success"),
        (206, b'{"success": true}', "success"),
        (207, b'{"success": true, "results": [{"index": 0, "status": 500}]}', "results"),
        (206, b"", "an empty body"),
        (299, b"\xff\xfe", "299"),
    ],
)
def test_any_other_2xx_is_not_a_response_of_the_api(status: int, body: bytes, quoted: str) -> None:
    """The response is from a captive portal, a firewall or a web page, so the events are not delivered."""
    found = verdict_of(status, body)

    assert isinstance(found, Misconfigured)
    assert "is not a response of the API" in found.message
    assert quoted in found.message


@pytest.mark.parametrize(
    ("extra", "rejected"),
    [
        ({"accepted": 8, "rejected": [{"index": 3, "reason": "old"}, {"index": 9}]}, {3: "old", 9: '{"index":9}'}),
        ({"rejected": [{"index": 3, "error": "old"}], "rejected_count": 1}, {3: "old"}),
        ({"rejected": [3, 4]}, {3: "rejected without a reason", 4: "rejected without a reason"}),
        ({"failed": {"3": "old"}}, {3: "old"}),
        ({"invalid": {"events.3": ["old"]}}, {3: '["old"]'}),
        ({"failed_events": [{"event_index": 0, "message": "old"}]}, {0: "old"}),
        ({"results": [{"index": 3, "status": 422, "error": "old"}, {"index": 1, "status": 201}]}, {3: "old"}),
        ({"results": [{"status": "ok"}] * 9 + [{"status": "failed", "message": "old"}]}, {9: "old"}),
        ({"items": [{"index": 3, "success": False, "errors": ["old"]}]}, {3: '["old"]'}),
    ],
)
def test_rejected_events_that_a_success_names_are_settled_one_by_one(
    extra: dict[str, object], rejected: dict[int, str]
) -> None:
    assert verdict_of(202, {"success": True} | extra) == Delivered(202, rejected)


def test_a_success_that_names_every_event_as_rejected_delivers_none() -> None:
    found = verdict_of(202, {"success": True, "rejected": list(range(EVENTS))})

    assert isinstance(found, EventsRejected)
    assert sorted(found.named) == list(range(EVENTS))


@pytest.mark.parametrize(
    "extra",
    [
        {"accepted": 7, "duplicates": 3},
        {"rejected": 0, "failed": [], "invalid": False, "failed_count": "0"},
        {"results": [{"index": 0, "status": 201}, {"index": 1, "status": "ok", "error": None}]},
    ],
)
def test_a_success_that_counts_no_rejected_event_is_delivered(extra: dict[str, object]) -> None:
    assert verdict_of(202, {"success": True} | extra) == Delivered(202)


@pytest.mark.parametrize(
    "extra",
    [
        {"rejected": 1},
        {"rejected_count": 2},
        {"invalid_count": "2"},
        {"accepted": 0},
        {"accepted": 9},
        {"failed": True},
        {"failed": [{"event_id": "550e8400-e29b-41d4-a716-446655440000"}]},
        {"rejected": [{"index": 3}, {"event_id": "550e8400-e29b-41d4-a716-446655440000"}]},
        {"rejected": [{"index": 3}], "rejected_count": 2},
        {"rejected": [{"index": 3}, {"index": EVENTS}]},
        {"rejected": [{"index": True}]},
        {"results": [{"status": 500}]},
    ],
)
def test_unnamed_rejected_events_of_a_success_are_found_as_after_a_422(extra: dict[str, object]) -> None:
    found = verdict_of(202, {"success": True} | extra)

    assert isinstance(found, EventsRejected)
    assert (found.status, found.named, found.about_events) == (202, {}, True)


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_never_followed_and_means_a_wrong_url(status: int) -> None:
    found = verdict_of(status, b"", {"location": "https://portal.example:8443/login?back=SECRET"})
    assert isinstance(found, Misconfigured)
    assert "redirects to https://portal.example" in found.message
    assert "SECRET" not in found.message


def test_511_of_a_captive_portal_is_misconfigured() -> None:
    assert isinstance(verdict_of(511, b"<html>Network Authentication Required</html>"), Misconfigured)


@pytest.mark.parametrize("status", [401, 403, 407])
@pytest.mark.parametrize("body", [b'{"message":"Unauthenticated."}', b"<html><h1>403</h1></html>", b""])
def test_401_403_and_407_are_unauthorized(status: int, body: bytes) -> None:
    assert isinstance(verdict_of(status, body), Unauthorized)


@pytest.mark.parametrize(
    "status", [402, 404, 405, 406, 409, 410, 411, 412, 415, 417, 418, 419, 421, 423, 424, 426, 428, 431, 451, 501]
)
def test_a_missing_path_or_method_is_misconfigured(status: int) -> None:
    assert verdict_of(status, {"message": "Not Found"}) == Misconfigured(f"{status} Not Found", status)


def test_a_400_in_html_is_misconfigured() -> None:
    page = b"<html>The plain HTTP request was sent to HTTPS port</html>"
    assert isinstance(verdict_of(400, page), Misconfigured)


@pytest.mark.parametrize("status", [408, 425, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530, 599])
def test_temporary_failures_are_failing(status: int) -> None:
    assert verdict_of(status, b"<html><body>Bad gateway</body></html>") == Failing(
        f"{status} Bad gateway", None, status
    )


def test_an_informational_or_unknown_status_is_failing() -> None:
    assert verdict_of(101) == Failing("101", None, 101)
    assert verdict_of(999) == Failing("999", None, 999)


def test_no_response_is_failing_without_a_status() -> None:
    assert verdict(NoResponse("connection closed before the answer"), EVENTS) == Failing(
        "connection closed before the answer", None, None
    )


def test_a_request_that_did_not_leave_the_machine_says_nothing_about_the_upstream() -> None:
    unsent = NoResponse("cannot connect: Network is unreachable", never_sent=True, is_unreachable=True)
    assert verdict(unsent, EVENTS) == NothingLeft("cannot connect: Network is unreachable")
    certificate = NoResponse("certificate not accepted", never_sent=True)
    assert verdict(certificate, EVENTS) == Failing("certificate not accepted")


def test_a_kept_connection_that_closes_is_not_a_missing_network() -> None:
    assert verdict(NoResponse("closed", True, True, lost_kept_connection=True), EVENTS) == Resend("closed")


def test_a_maintenance_response_retains_its_retry_after() -> None:
    assert verdict_of(503, {"message": "Service Unavailable"}, {"retry-after": "60"}) == Failing(
        "503 Service Unavailable", 60_000, 503
    )


def test_413_is_too_large() -> None:
    assert verdict_of(413, b"<html><h1>413 Request Entity Too Large</h1></html>") == BatchTooLarge(
        413, "413 Request Entity Too Large"
    )


@pytest.mark.parametrize(
    ("headers", "retry_after_ms"),
    [
        ({}, None),
        ({"retry-after": "17"}, 17_000),
        ({"retry-after": " 17 "}, 17_000),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "999999999"}, 999_999_999_000),
        ({"retry-after": "30.0"}, 30_000),
        ({"retry-after": "29.57"}, 29_570),
        ({"retry-after": "30s"}, 30_000),
        ({"retry-after": "+30"}, 30_000),
        ({"retry-after": "30, 60"}, 30_000),
        ({"retry-after": "2026-11-23T08:00:30Z", "date": SERVER_DATE}, 30_000),
        ({"retry-after": "2026-11-23 09:00:30+01:00", "date": SERVER_DATE}, 30_000),
        ({"retry-after": str(SERVER_DATE_S + 30), "date": SERVER_DATE}, 30_000),
        ({"ratelimit-reset": "30"}, 30_000),
        ({"ratelimit": "limit=20, remaining=0, reset=30"}, 30_000),
        ({"ratelimit": '"default";r=0;t=30'}, 30_000),
        ({"ratelimit": '"default";r=0', "x-ratelimit-reset": "7"}, 7_000),
        ({"x-ratelimit-reset": str((SERVER_DATE_S + 30) * 1000), "date": SERVER_DATE}, 30_000),
        ({"x-ratelimit-reset": f"{SERVER_DATE_S + 30}.5", "date": SERVER_DATE}, 30_500),
        ({"x-ratelimit-reset": "Mon, 23 Nov 2026 08:00:30 GMT", "date": SERVER_DATE}, 30_000),
        ({"x-rate-limit-reset": "30"}, 30_000),
        ({"retry-after-ms": "30000"}, 30_000),
        ({"retry-after-ms": "5", "ratelimit-reset": "30"}, 30_000),
        ({"retry-after": "1e9"}, None),
        ({"retry-after": "soon"}, None),
        ({"retry-after": "١٧"}, None),
        ({"retry-after": "9" * 400}, None),
        ({"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT", "date": SERVER_DATE}, 30_000),
        ({"retry-after": "Mon, 23 Nov 2026 07:00:00 GMT", "date": SERVER_DATE}, 0),
        ({"retry-after": "Monday, 23-Nov-26 08:00:30 GMT", "date": SERVER_DATE}, 30_000),
        ({"retry-after": "Mon Nov 23 08:00:30 2026", "date": SERVER_DATE}, 30_000),
        ({"retry-after": "Mon, 23 Nov 2026 08:61:30 GMT", "date": SERVER_DATE}, None),
        ({"x-ratelimit-reset": str(SERVER_DATE_S + 42), "date": SERVER_DATE}, 42_000),
        ({"x-ratelimit-reset": str(SERVER_DATE_S - 42), "date": SERVER_DATE}, 0),
        ({"x-ratelimit-reset": "42"}, 42_000),
        ({"x-ratelimit-reset": "-42"}, 0),
        ({"x-ratelimit-reset": "later"}, None),
        ({"retry-after": "soon", "x-ratelimit-reset": "42"}, 42_000),
        ({"retry-after": "7", "x-ratelimit-reset": "42"}, 7_000),
    ],
)
@pytest.mark.parametrize("wall_ms", [WALL_1970_MS, SERVER_DATE_S * 1000])
def test_the_delay_that_a_429_requests(headers: dict[str, str], retry_after_ms: int | None, wall_ms: int) -> None:
    """A requested time is relative to the Date of the server, so the wall clock has no effect."""
    found = verdict_of(429, {"message": "Too Many Attempts."}, headers, wall_ms)
    assert found == RateLimited("429 Too Many Attempts.", retry_after_ms, None)


def test_a_requested_time_without_a_date_header_uses_the_clock_of_this_machine() -> None:
    found = verdict_of(429, b"", {"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT"})
    assert isinstance(found, RateLimited)
    assert found.retry_after_ms == 30_000


@pytest.mark.parametrize(
    ("header", "limit"),
    [("120", 120), ("20", 20), ("0", None), ("-20", None), ("lots", None), ("20, 20;w=60", None)],
)
def test_the_limit_that_a_429_names(header: str, limit: int | None) -> None:
    found = verdict_of(429, b"", {"x-ratelimit-limit": header, "x-ratelimit-remaining": "0"})
    assert isinstance(found, RateLimited)
    assert found.limit == limit


@pytest.fixture
def _far_from_utc() -> Iterator[None]:
    before = os.environ.get("TZ")
    os.environ["TZ"] = "Pacific/Kiritimati"
    time.tzset()
    yield
    if before is None:
        del os.environ["TZ"]
    else:
        os.environ["TZ"] = before
    time.tzset()


@pytest.mark.usefixtures("_far_from_utc")
@pytest.mark.parametrize("date", [SERVER_DATE, "Mon Nov 23 08:00:00 2026", "Mon, 23 Nov 2026 08:00:00 -0000"])
def test_a_date_without_a_time_zone_is_utc(date: str) -> None:
    assert server_date_ms({"date": date}) == SERVER_DATE_S * 1000


def test_a_missing_or_invalid_date_is_none() -> None:
    assert server_date_ms({}) is None
    assert server_date_ms({"date": "yesterday"}) is None


FIELD_REQUIRED = "The events.3.source.platform field is required."


@pytest.mark.parametrize("status", [400, 416, 422])
@pytest.mark.parametrize(
    ("body", "named"),
    [
        pytest.param(
            {"message": FIELD_REQUIRED, "errors": {"events.3.source.platform": [FIELD_REQUIRED]}},
            {3: FIELD_REQUIRED},
            id="laravel",
        ),
        pytest.param(
            {"errors": {"events.0.name": ["a", "b"], "events.0.id": ["c"], "events.9.id": ["d"]}},
            {0: "a b; c", 9: "d"},
            id="several errors of several events",
        ),
        pytest.param({"errors": {"events.3.id": "not a list"}}, {3: "not a list"}, id="a message without a list"),
        pytest.param({"errors": {"events[3].id": ["x"], "body.events.4": ["y"]}}, {3: "x", 4: "y"}, id="other paths"),
        pytest.param({"errors": {"events.3.id": ["x"], "events": ["y"]}}, {3: "x"}, id="one named, one not"),
        pytest.param({"errors": [FIELD_REQUIRED]}, {3: FIELD_REQUIRED}, id="list of sentences"),
        pytest.param(
            {"errors": [{"field": "events.3.id", "message": "no"}]},
            {3: '{"field":"events.3.id","message":"no"}'},
            id="list of objects",
        ),
        pytest.param(
            {"detail": [{"loc": ["body", "events", 3, "source"], "msg": "Field required"}]},
            {3: '{"loc":["body","events",3,"source"],"msg":"Field required"}'},
            id="FastAPI",
        ),
        pytest.param({"errors": {"events": ["The events field is required."]}}, {}, id="events alone"),
        pytest.param({"errors": {"events.*.id": ["required"]}}, {}, id="a literal star"),
        pytest.param({"errors": {"events.10.id": ["required"]}}, {}, id="index out of range"),
        pytest.param(
            {"errors": {"events.3.id": ["x"], "events.10.id": ["y"]}}, {}, id="one in range, one out: all ignored"
        ),
        pytest.param({"errors": {"events." + "9" * 5000: ["x"], "events.3": ["y"]}}, {}, id="very large index"),
        pytest.param({"errors": {"events.-1.id": ["x"]}}, {}, id="negative index"),
        pytest.param({"errors": {"my_events_3": ["x"]}}, {}, id="not a path"),
        pytest.param({"errors": {"context.3.x": ["x"]}}, {}, id="another list"),
        pytest.param({"errors": "events.3.id"}, {}, id="errors as one sentence"),
        pytest.param({"errors": 7}, {}, id="errors as a number"),
        pytest.param({"message": "The given data was invalid."}, {}, id="message alone"),
        pytest.param([{"events.3": "x"}], {}, id="a list at the top"),
        pytest.param(b"", {}, id="empty"),
        pytest.param(b'{"errors":{"events.3', {}, id="cut short"),
        pytest.param(b"[" * 60_000, {}, id="nested too deeply"),
        pytest.param(b"\xff\xfe\x00", {}, id="not UTF-8"),
    ],
)
def test_the_events_that_a_rejection_names(status: int, body: object, named: dict[int, str]) -> None:
    found = verdict_of(status, body)
    assert isinstance(found, EventsRejected)
    assert (found.status, found.named) == (status, named)


def test_a_thousand_named_events_are_all_named() -> None:
    body = {"errors": {f"events.{i}.id": ["x"] for i in range(1000)}}
    found = verdict(UpstreamResponse(422, {}, msgspec.json.encode(body), 0), 1000)
    assert isinstance(found, EventsRejected)
    assert sorted(found.named) == list(range(1000))


@pytest.mark.parametrize(
    ("status", "body", "about_events"),
    [
        (400, b'{"message":"bad"}', True),
        (400, b"", True),
        (422, b'{"message":"bad"}', True),
        (422, b"<html>bad</html>", True),
        *((status, b"", False) for status in (414, 416, 420, 430, 450, 498)),
    ],
)
def test_only_400_and_422_are_about_events(status: int, body: bytes, about_events: bool) -> None:
    found = verdict_of(status, body)
    assert isinstance(found, EventsRejected)
    assert found.about_events is about_events


@pytest.mark.parametrize(
    ("body", "message"),
    [
        (b'{"success":false,"error":"Too many requests"}', "500 Too many requests"),
        (b'{"message":"Server Error","error":{"code":1}}', "500 Server Error"),
        (b"<html><style>p{color:red}</style><h1>Oops</h1>\n<script>x()</script>sorry</html>", "500 Oops; sorry"),
        (b'{"message":"500 Server Error"}', "500 Server Error"),
        (b"500: Server Error", "500 Server Error"),
        (b"5000 errors, 500 of mine", "500 5000 errors, 500 of mine"),
        (b"plain\r\ntext\x1b[31m", "500 plain text [31m"),
        (b"\xff", "500 \ufffd"),
        (b"", "500"),
    ],
)
def test_a_message_is_one_printable_line(body: bytes, message: str) -> None:
    assert verdict_of(500, body) == Failing(message, None, 500)


def test_a_message_from_html_contains_each_text_once() -> None:
    page = b"<html><title>403 Forbidden</title><h1>403 Forbidden</h1><hr>nginx</html>"

    assert verdict_of(403, page) == Unauthorized("403 Forbidden; nginx", 403)


def test_messages_are_cut() -> None:
    assert clean("x" * 10_000) == "x" * (MESSAGE_MAX_CHARS - 1) + "…"
    assert len(clean("x" * MESSAGE_MAX_CHARS)) == MESSAGE_MAX_CHARS


def test_a_closed_reused_connection_means_resend() -> None:
    assert verdict(NoResponse("closed", lost_kept_connection=True), EVENTS) == Resend("closed")


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (407, Unauthorized),
        (302, Misconfigured),
        (404, Misconfigured),
        (402, Misconfigured),
        (405, Misconfigured),
        (406, Misconfigured),
        (511, Misconfigured),
        (400, Failing),
        (422, Failing),
        (413, Failing),
        (429, Failing),
        (502, Failing),
        (503, Failing),
    ],
)
def test_a_status_of_the_proxy_never_concerns_an_event(status: int, meaning: type) -> None:
    assert verdict(NoResponse("the proxy", True, proxy_status=status), EVENTS) == meaning("the proxy")


@pytest.mark.parametrize(
    ("location", "target"),
    [
        ("https://portal.example/login?token=x#y", " redirects to https://portal.example"),
        ("http://user:pw@[2001:db8::1]:8080/", " redirects to http://2001:db8::1"),
        ("//portal.example/", " redirects to the same scheme://portal.example"),
        ("/v2/events?token=x", " redirects to another path of the same host"),
        ("https://[", ""),
        ("", ""),
    ],
)
def test_a_redirect_is_described_by_scheme_and_host_of_its_target(location: str, target: str) -> None:
    judgement = verdict_of(302, b"moved", {"location": location})
    assert isinstance(judgement, Misconfigured)
    assert judgement.message.startswith(f"302{target} moved (")
    assert "token" not in judgement.message and "pw" not in judgement.message


@pytest.mark.parametrize(
    ("status", "body", "is_the_apis"),
    [
        (202, {"success": True}, True),
        (202, {"success": False}, False),
        (202, {"success": True, "rejected": 1}, True),
        (204, b"", True),
        (401, {"success": False, "error": "Invalid or missing API key"}, True),
        (422, {"errors": {}}, True),
        (429, {"message": "Too Many Attempts."}, True),
        (200, b"<html>portal</html>", False),
        (302, b"", False),
        (401, b"<html>401</html>", False),
        (407, {"message": "Proxy Authentication Required"}, False),
        (422, [], False),
        (429, b"", False),
        (500, {"message": "Server Error"}, False),
        (503, {"message": "Service Unavailable"}, False),
    ],
)
def test_only_dates_of_the_api_are_trusted(status: int, body: object, is_the_apis: bool) -> None:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    assert is_from_api(UpstreamResponse(status, {}, content, 0)) is is_the_apis


def test_a_cache_adds_the_age_of_its_response() -> None:
    assert server_date_ms({"date": SERVER_DATE, "age": "86400"}) == (SERVER_DATE_S + 86_400) * 1000
    assert server_date_ms({"date": SERVER_DATE, "age": "-1"}) == SERVER_DATE_S * 1000
