"""What each answer of the upstream means: the rows of the contract's section 7, with the shapes seen in the wild."""

from __future__ import annotations

import os
import time
from collections.abc import Iterator, Mapping

import msgspec
import pytest
from relay.policy.verdict import (
    WORDS_MAX_CHARS,
    Again,
    Answer,
    Delivered,
    Failing,
    Misconfigured,
    NoAnswer,
    RateLimited,
    Refused,
    TooLarge,
    Unauthorized,
    Verdict,
    clean,
    server_date_ms,
    verdict,
)

EVENTS = 10
WALL_1970_MS = 3_600_000
SERVER_DATE = "Mon, 23 Nov 2026 08:00:00 GMT"
SERVER_DATE_S = 1_795_420_800


def judged(
    status: int, body: object = b"", headers: Mapping[str, str] | None = None, wall_ms: int = SERVER_DATE_S * 1000
) -> Verdict:
    content = body if isinstance(body, bytes) else msgspec.json.encode(body)
    return verdict(Answer(status, headers or {}, content, wall_ms), EVENTS)


@pytest.mark.parametrize(
    ("status", "body"),
    [
        (200, b'{"success": true}'),
        (201, b""),
        (202, b'{"success": true}'),
        (202, b"<html>fine</html>"),
        (202, b'{"success": "maybe"}'),
        (202, b'[{"success": false}]'),
        (204, b""),
        (299, b"\xff\xfe"),
    ],
)
def test_any_2xx_is_delivered(status: int, body: bytes) -> None:
    assert judged(status, body) == Delivered()


def test_a_2xx_that_says_success_false_is_treated_as_5xx() -> None:
    assert judged(202, {"success": False, "error": "queue is down"}) == Failing(
        "202 but success is false: queue is down", None, 202
    )


@pytest.mark.parametrize("status", [300, 301, 302, 303, 304, 307, 308])
def test_a_redirect_is_never_followed_and_means_a_wrong_url(status: int) -> None:
    found = judged(status, b"", {"location": "https://elsewhere.example/"})
    assert isinstance(found, Misconfigured)
    assert "redirects are not followed" in found.words


@pytest.mark.parametrize("status", [401, 403])
@pytest.mark.parametrize("body", [b'{"message":"Unauthenticated."}', b"<html><h1>403</h1></html>", b""])
def test_401_and_403_are_about_the_key(status: int, body: bytes) -> None:
    assert isinstance(judged(status, body), Unauthorized)


@pytest.mark.parametrize("status", [404, 405, 410, 501])
def test_a_route_that_is_not_there_is_misconfigured(status: int) -> None:
    assert judged(status, {"message": "Not Found"}) == Misconfigured(f"{status} Not Found")


@pytest.mark.parametrize("status", [408, 425, 499, 500, 502, 503, 504, 520, 521, 522, 523, 524, 525, 526, 530, 599])
def test_what_heals_by_itself_is_failing(status: int) -> None:
    assert judged(status, b"<html><body>Bad gateway</body></html>") == Failing(f"{status} Bad gateway", None, status)


def test_an_informational_answer_and_a_status_beyond_http_are_failing() -> None:
    assert judged(101) == Failing("101", None, 101)
    assert judged(999) == Failing("999", None, 999)


def test_no_answer_is_failing_without_a_status() -> None:
    assert verdict(NoAnswer("connection closed before the answer"), EVENTS) == Failing(
        "connection closed before the answer", None, None
    )


def test_a_maintenance_answer_keeps_its_retry_after() -> None:
    assert judged(503, {"message": "Service Unavailable"}, {"retry-after": "60"}) == Failing(
        "503 Service Unavailable", 60_000, 503
    )


def test_413_is_too_large() -> None:
    assert judged(413, b"<html><h1>413 Request Entity Too Large</h1></html>") == TooLarge(
        413, "413 Request Entity Too Large"
    )


@pytest.mark.parametrize(
    ("headers", "asked_ms"),
    [
        ({}, None),
        ({"retry-after": "17"}, 17_000),
        ({"retry-after": " 17 "}, 17_000),
        ({"retry-after": "0"}, 0),
        ({"retry-after": "-5"}, 0),
        ({"retry-after": "99999999999"}, 99_999_999_999_000),
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
        ({"x-ratelimit-reset": "-42"}, None),
        ({"x-ratelimit-reset": "later"}, None),
        ({"retry-after": "soon", "x-ratelimit-reset": "42"}, 42_000),
        ({"retry-after": "7", "x-ratelimit-reset": "42"}, 7_000),
    ],
)
@pytest.mark.parametrize("wall_ms", [WALL_1970_MS, SERVER_DATE_S * 1000])
def test_how_long_a_429_asks_to_wait(headers: dict[str, str], asked_ms: int | None, wall_ms: int) -> None:
    """Dates count from the server's own Date: the same result whatever our clock says."""
    found = judged(429, {"message": "Too Many Attempts."}, headers, wall_ms)
    assert found == RateLimited("429 Too Many Attempts.", asked_ms, None)


def test_a_date_without_the_servers_own_is_taken_by_our_clock() -> None:
    found = judged(429, b"", {"retry-after": "Mon, 23 Nov 2026 08:00:30 GMT"})
    assert isinstance(found, RateLimited)
    assert found.asked_ms == 30_000


@pytest.mark.parametrize(
    ("said", "limit"),
    [("120", 120), ("20", 20), ("0", None), ("-20", None), ("lots", None), ("20, 20;w=60", None)],
)
def test_the_limit_that_a_429_names(said: str, limit: int | None) -> None:
    found = judged(429, b"", {"x-ratelimit-limit": said, "x-ratelimit-remaining": "0"})
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
def test_a_date_that_names_no_zone_is_utc_wherever_the_box_stands(date: str) -> None:
    assert server_date_ms({"date": date}) == SERVER_DATE_S * 1000


def test_no_date_and_a_garbled_one_are_none() -> None:
    assert server_date_ms({}) is None
    assert server_date_ms({"date": "yesterday"}) is None


FIELD_REQUIRED = "The events.3.source.platform field is required."


@pytest.mark.parametrize("status", [400, 409, 422])
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
            id="several faults of several events",
        ),
        pytest.param({"errors": {"events.3.id": "not a list"}}, {3: "not a list"}, id="words without a list"),
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
            {"errors": {"events.3.id": ["x"], "events.10.id": ["y"]}}, {}, id="one in range, one out: none is believed"
        ),
        pytest.param({"errors": {"events." + "9" * 5000: ["x"], "events.3": ["y"]}}, {}, id="index beyond any"),
        pytest.param({"errors": {"events.-1.id": ["x"]}}, {}, id="negative index"),
        pytest.param({"errors": {"my_events_3": ["x"]}}, {}, id="not a path"),
        pytest.param({"errors": {"context.3.x": ["x"]}}, {}, id="some other list"),
        pytest.param({"errors": "events.3.id"}, {}, id="errors as one sentence"),
        pytest.param({"errors": 7}, {}, id="errors as a number"),
        pytest.param({"message": "The given data was invalid."}, {}, id="message alone"),
        pytest.param([{"events.3": "x"}], {}, id="a list at the top"),
        pytest.param(b"", {}, id="empty"),
        pytest.param(b'{"errors":{"events.3', {}, id="cut short"),
        pytest.param(b"[" * 60_000, {}, id="nested without end"),
        pytest.param(b"\xff\xfe\x00", {}, id="not UTF-8"),
    ],
)
def test_which_events_a_refusal_names(status: int, body: object, named: dict[int, str]) -> None:
    found = judged(status, body)
    assert isinstance(found, Refused)
    assert (found.status, found.named) == (status, named)


def test_a_thousand_named_events_are_all_named() -> None:
    body = {"errors": {f"events.{i}.id": ["x"] for i in range(1000)}}
    found = verdict(Answer(422, {}, msgspec.json.encode(body), 0), 1000)
    assert isinstance(found, Refused)
    assert sorted(found.named) == list(range(1000))


@pytest.mark.parametrize(
    ("status", "body", "about_events"),
    [
        (400, b'{"message":"bad"}', True),
        (400, b"", True),
        (400, b"<html>The plain HTTP request was sent to HTTPS port</html>", False),
        (422, b'{"message":"bad"}', True),
        (422, b"<html>bad</html>", True),
        *(
            (status, b"", False)
            for status in (402, 406, 407, 409, 411, 414, 415, 416, 418, 419, 421, 424, 426, 431, 451)
        ),
    ],
)
def test_only_400_and_422_are_surely_about_events(status: int, body: bytes, about_events: bool) -> None:
    found = judged(status, body)
    assert isinstance(found, Refused)
    assert found.about_events is about_events


@pytest.mark.parametrize(
    ("body", "words"),
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
def test_the_upstreams_words_become_one_printable_line(body: bytes, words: str) -> None:
    assert judged(500, body) == Failing(words, None, 500)


def test_a_page_of_html_says_each_thing_once_whether_in_words_or_as_a_refusal() -> None:
    page = b"<html><title>403 Forbidden</title><h1>403 Forbidden</h1><hr>nginx</html>"

    assert judged(403, page) == Unauthorized("403 Forbidden; nginx")


def test_words_are_cut() -> None:
    assert clean("x" * 10_000) == "x" * (WORDS_MAX_CHARS - 1) + "…"
    assert len(clean("x" * WORDS_MAX_CHARS)) == WORDS_MAX_CHARS


def test_a_kept_connection_that_closed_means_the_same_request_again() -> None:
    assert verdict(NoAnswer("closed", lost_kept_connection=True), EVENTS) == Again("closed")


@pytest.mark.parametrize(
    ("status", "meaning"),
    [
        (401, Unauthorized),
        (403, Unauthorized),
        (407, Unauthorized),
        (302, Misconfigured),
        (404, Misconfigured),
        (405, Misconfigured),
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
    assert verdict(NoAnswer("the proxy", True, proxy_status=status), EVENTS) == meaning("the proxy")


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
    judgement = judged(302, b"moved", {"location": location})
    assert isinstance(judgement, Misconfigured)
    assert judgement.words.startswith(f"302{target} moved (")
    assert "token" not in judgement.words and "pw" not in judgement.words
