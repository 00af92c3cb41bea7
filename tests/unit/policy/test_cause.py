"""The search for the cause of a failure: its transitions, its questions and its conclusions."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise

import pytest
from relay.policy.cause import (
    CONFIGURATION_CHANGED,
    EVENTS_DELIVERED,
    FAILED_MAX,
    NO_SEARCH,
    Answered,
    Asked,
    Cause,
    CauseSearch,
    Finding,
    SearchInput,
    Suspected,
    Suspicion,
)
from relay.policy.endpoint import SeenError
from relay.policy.verdict import (
    BatchTooLarge,
    Delivered,
    EventsRejected,
    Failing,
    Misconfigured,
    RateLimited,
    Unauthorized,
    Verdict,
)

from tests.unit.policy.harness import DELIVERED, FAILING, REJECTED, Claimed, Harness, queues, restarted

NOW = 1_000_000
SUSPICION = Suspicion("unauthorized", "403 Forbidden", None)
EARLIER = Suspicion("backing_off", "503", 7)
FAILED = frozenset({1})


def suspected(queue_id: int = 1, now: int = NOW, *, is_known: bool = True, is_failing: bool = False) -> Suspected:
    return Suspected(queue_id, is_known, is_failing, SUSPICION, now)


EARLY = NOW - 90_000
IDLE = CauseSearch("idle", "api", NOW - 30_000, api_since=EARLY)
FRESH = CauseSearch("idle", "unknown", NOW - 29_999)
BLAMED = CauseSearch("idle", "endpoint", NOW - 29_999, FAILED)
ASKING = CauseSearch("asking", "api", NOW - 5, FAILED, EARLIER, EARLY)
STATES = [NO_SEARCH, IDLE, FRESH, BLAMED, ASKING]
TABLE: list[tuple[SearchInput, list[CauseSearch]]] = [
    # The searches after each input, in the order of STATES.
    (
        suspected(),
        [
            CauseSearch("asking", "none", NOW, FAILED, SUSPICION),
            CauseSearch("asking", "api", NOW, FAILED, SUSPICION, EARLY),
            replace(FRESH, failed=FAILED),
            BLAMED,
            replace(ASKING, suspicion=SUSPICION),
        ],
    ),
    (
        suspected(2, is_known=False),
        [
            CauseSearch("asking", "none", NOW, frozenset({2}), SUSPICION),
            CauseSearch("asking", "api", NOW, frozenset(), SUSPICION, EARLY),
            replace(FRESH, failed=frozenset({2})),
            replace(BLAMED, failed=frozenset({1, 2})),
            replace(ASKING, suspicion=SUSPICION),
        ],
    ),
    (
        Answered("api"),
        [
            CauseSearch("idle", "api"),
            IDLE,
            replace(FRESH, finding="api", api_since=FRESH.asked_at),
            CauseSearch("idle", "api", BLAMED.asked_at, api_since=BLAMED.asked_at),
            CauseSearch("idle", "api", NOW - 5, FAILED, api_since=EARLY),
        ],
    ),
    (
        Answered("unknown"),
        [
            CauseSearch("idle", "unknown"),
            CauseSearch("idle", "unknown", NOW - 30_000),
            FRESH,
            replace(BLAMED, finding="unknown"),
            CauseSearch("idle", "unknown", NOW - 5, FAILED),
        ],
    ),
    (
        Asked(NOW),
        [
            CauseSearch("asking", "none", NOW),
            CauseSearch("asking", "api", NOW, api_since=EARLY),
            CauseSearch("asking", "unknown", NOW),
            CauseSearch("asking", "endpoint", NOW, FAILED),
            replace(ASKING, asked_at=NOW),
        ],
    ),
    (
        EVENTS_DELIVERED,
        [
            NO_SEARCH,
            IDLE,
            FRESH,
            CauseSearch("idle", "unknown", NOW - 29_999),
            CauseSearch("asking", "api", NOW - 5, api_since=EARLY),
        ],
    ),
    (
        CONFIGURATION_CHANGED,
        [
            CauseSearch("idle", "unknown"),
            CauseSearch("idle", "unknown", NOW - 30_000),
            FRESH,
            replace(BLAMED, finding="unknown"),
            CauseSearch("asking", "unknown", NOW - 5, FAILED),
        ],
    ),
]


@pytest.mark.parametrize(
    ("before", "what", "after"),
    [(before, what, after) for what, row in TABLE for before, after in zip(STATES, row, strict=True)],
    ids=repr,
)
def test_each_search_after_each_input(before: CauseSearch, what: SearchInput, after: CauseSearch) -> None:
    assert before.after(what) == after


def test_the_next_question_follows_after_30_s_or_10_min_for_a_failing_endpoint() -> None:
    assert FRESH.after(suspected(now=NOW + 1)).is_asking
    assert not IDLE.after(suspected(now=NOW + 569_999, is_failing=True)).is_asking
    assert IDLE.after(suspected(now=NOW + 570_000, is_failing=True)).is_asking


@pytest.mark.parametrize(
    ("finding", "failed", "has_witness", "cause"),
    [
        ("unknown", 2, True, "device"),
        ("unknown", 3, True, "endpoint"),
        ("api", 24, True, "device"),
        ("api", 25, True, "endpoint"),
        ("endpoint", 0, True, "endpoint"),
        ("unknown", 0, False, "endpoint"),
        ("api", 7, False, "device"),
        ("api", 8, False, "endpoint"),
        ("endpoint", 0, False, "endpoint"),
    ],
)
def test_the_cause_follows_from_the_answer_and_from_the_known_devices(
    finding: Finding, failed: int, has_witness: bool, cause: Cause
) -> None:
    search = CauseSearch("idle", finding, NOW, frozenset(range(failed)))
    assert search.cause(has_witness=has_witness) == cause


def test_without_a_witness_the_cause_is_undecided_until_the_first_answer() -> None:
    search = NO_SEARCH.after(suspected())
    assert search.cause(has_witness=False) == "undecided"
    assert search.cause(has_witness=True) == "device"


def test_the_number_of_remembered_devices_is_bounded() -> None:
    search = NO_SEARCH
    for queue_id in range(1_000):
        search = search.after(suspected(queue_id))
    assert len(search.failed) == FAILED_MAX


@pytest.mark.parametrize(
    "impossible",
    [
        lambda: CauseSearch("asking"),
        lambda: CauseSearch("idle", suspicion=SUSPICION),
        lambda: CauseSearch(failed=frozenset(range(FAILED_MAX + 1))),
        lambda: CauseSearch("idle", "unknown", NOW, api_since=NOW),
    ],
)
def test_an_impossible_search_is_rejected(impossible) -> None:
    with pytest.raises(AssertionError):
        impossible()


# -- in the schedule

TOO_LARGE = BatchTooLarge(413, "413 too large")
FORBIDDEN = Unauthorized("403 blocked", 403)
CONTENT: list[Verdict] = [
    FORBIDDEN,
    Misconfigured("404", 404),
    Misconfigured("302", 302),
    Misconfigured("200", 200),
    Failing("500", None, 500),
    Failing("connection failed"),
]


def bad(verdict: Verdict, *numbers: int, queue_id: int = 1):
    """Return an upstream that responds in this way to some events of a device queue."""

    def response(claimed: Claimed) -> Verdict:
        return verdict if set(numbers) & set(claimed.get(queue_id, ())) else DELIVERED

    return response


def state(harness: Harness) -> str:
    return harness.endpoint(1).state


@pytest.mark.parametrize("verdict", CONTENT, ids=str)
def test_a_bad_event_is_found_and_its_endpoint_stays_ok(verdict: Verdict) -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(2)
    harness.round()
    harness.offer(1, 100)
    alone_at: list[int] = []
    while not harness.drained(1):
        claimed = harness.round(bad(verdict, 30))
        assert state(harness) == "ok"
        if claimed.get(1) == [30]:
            alone_at.append(harness.now)
        harness.offer(2)
    (cause,) = harness.dead_letters[1].values()
    assert cause.message.startswith("rejected because of its content: ")
    assert harness.delivered[1] == [n for n in range(100) if n != 30]
    assert len(alone_at) >= 10
    assert alone_at[-1] - alone_at[0] >= (600_000 if isinstance(verdict, Failing) else 540_000)
    isolated = [later - earlier for earlier, later in pairwise(alone_at)]
    assert all(54_000 <= gap <= 66_100 for gap in isolated)


@pytest.mark.parametrize("verdict", [Unauthorized("401", 401), Unauthorized("407", 407)], ids=str)
def test_a_401_or_407_is_never_caused_by_content(verdict: Verdict) -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 3)
    harness.offer(2)
    for _ in range(1_000):
        claimed = harness.round(bad(verdict, 0))
        assert claimed.get(1) in (None, [0, 1, 2]), "no halving"
        harness.offer(2)
    assert not harness.dead_letters


@pytest.mark.parametrize("answer", [Unauthorized("401", 401), Misconfigured("404", 404)], ids=str)
def test_an_answer_that_is_not_the_apis_blames_the_endpoint_at_once(answer: Verdict) -> None:
    harness = Harness()
    harness.answer = answer
    harness.offer(2)
    harness.round()
    harness.offer(1)
    harness.round(FORBIDDEN)
    assert state(harness) == ("unauthorized" if isinstance(answer, Unauthorized) else "misconfigured")
    assert harness.endpoint(1).last_error == SeenError(answer.message, harness.now)


def test_a_429_to_a_batch_without_events_starts_no_shared_limit() -> None:
    harness = Harness()
    harness.answer = RateLimited("429", 60_000, None)
    harness.offer(1)
    harness.round(FORBIDDEN)
    assert state(harness) == "unauthorized"
    assert harness.asked_at


def test_a_429_to_a_batch_without_events_changes_no_finding() -> None:
    harness = Harness()
    harness.offer(1)
    for answer in (REJECTED, RateLimited("429", None, None)):
        harness.answer = answer
        asked = len(harness.asked_at)
        while len(harness.asked_at) == asked:
            harness.round(FORBIDDEN)
    harness.round(FORBIDDEN)
    assert state(harness) == "backing_off", "the key is right"


def test_without_another_device_the_endpoint_is_shown_as_failing_and_not_paused() -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1)
    harness.round(FORBIDDEN)
    assert state(harness) == "backing_off", "the key is right"
    harness.round(FORBIDDEN)
    assert state(harness) == "backing_off"
    harness.offer(2)
    assert queues(harness.send()) == [2], "another device need not wait"


def test_batches_without_events_are_30_s_apart_and_their_answer_is_shared() -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(0)
    harness.round()
    for queue_id in range(1, 100):
        harness.offer(queue_id)
        harness.respond(harness.send(), DELIVERED if queue_id % 10 == 0 else FORBIDDEN)
        harness.pass_time(1_000)
    assert len(harness.asked_at) >= 3
    gaps = [later - earlier for earlier, later in pairwise(harness.asked_at)]
    assert min(gaps) >= 30_000


def test_a_known_device_ends_the_pause_of_too_many_rejections() -> None:
    """Made-up devices send bad events. The known device must not wait for the next probe."""
    harness = Harness()
    harness.offer(0)
    harness.round()
    harness.pass_time(11_000)
    for queue_id in range(1, 21):
        harness.offer(queue_id)
    while state(harness) != "misconfigured":
        harness.round(REJECTED)
    harness.offer(0)
    harness.offer(50)
    harness.pass_time(harness.limits.linger_ms)
    (send,) = harness.sends()
    assert queues(send) == [0]
    harness.respond(send)
    assert state(harness) == "ok"


def test_a_flaky_upstream_is_no_evidence_against_an_event() -> None:
    """One of two requests of the other devices fails at first, so that the upstream is at fault."""
    harness = Harness()
    harness.answer = REJECTED
    began, tries = harness.now, 0
    harness.offer(0)
    while harness.now < began + 3_600_000:
        harness.offer(1)
        send = harness.send()
        tries += 1
        harness.respond(send, FAILING if queues(send) == [0] or tries % 2 else DELIVERED)
    assert not harness.dead_letters


def test_an_api_that_works_again_ends_the_pause() -> None:
    harness = Harness()
    harness.answer = FORBIDDEN
    harness.offer(1)
    harness.round(FORBIDDEN)
    assert state(harness) == "unauthorized"
    harness.answer = EventsRejected(422, "422")
    began = harness.now
    while harness.now < began + 1_200_000 and len(harness.asked_at) == 1:
        harness.round(FORBIDDEN)
    assert harness.endpoint(1).next_attempt_ms is None


# -- without another device


def only_device(
    harness: Harness, answer: Callable[[Claimed], Verdict], ms: int = 7_200_000
) -> list[tuple[int, Claimed]]:
    """Return the requests of the only device, with their times, until it has drained."""
    began, requests = harness.now, []
    while not harness.drained(1) and harness.now < began + ms:
        claimed = harness.round(answer)
        requests.append((harness.now, {queue_id: list(numbers) for queue_id, numbers in claimed.items()}))
    return requests


@pytest.mark.parametrize("verdict", CONTENT, ids=str)
def test_without_another_device_a_later_event_shows_that_the_first_one_is_bad(verdict: Verdict) -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 4)
    requests = only_device(harness, bad(verdict, 0))
    assert harness.delivered[1] == [1, 2, 3]
    assert list(harness.dead_letters[1]) == [0]
    alone_at = [at for at, claimed in requests if claimed == {1: [0]}]
    assert [claimed[1] for _, claimed in requests[-4:]] == [[0], [1], [0], [2, 3]]
    assert alone_at[-2] - alone_at[0] >= 540_000
    assert alone_at[-1] - alone_at[0] >= 600_000
    gaps = [later - earlier for earlier, later in pairwise(alone_at)]
    assert all(54_000 <= gap <= 66_100 for gap in gaps[1:])
    assert min(later - earlier for earlier, later in pairwise(harness.asked_at)) >= 30_000


@pytest.mark.parametrize("verdict", [REJECTED, TOO_LARGE, Delivered(207, {0: "bad"}), *CONTENT], ids=str)
def test_a_later_event_that_fails_too_is_passed_over_and_found_when_it_is_the_first(verdict: Verdict) -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 4)

    def respond(claimed: Claimed) -> Verdict:
        return FORBIDDEN if 0 in claimed[1] else verdict if 1 in claimed[1] else DELIVERED

    requests = [claimed[1] for _, claimed in only_device(harness, respond)]
    assert harness.delivered[1] == [2, 3]
    assert list(harness.dead_letters[1]) == [0, 1]
    at = requests.index([1])
    assert requests[at - 1 : at + 5] == [[0], [1], [0], [2], [0], [1]]


def test_a_first_event_that_fails_in_another_way_after_the_later_one_is_no_bad_event() -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 3)
    after = iter([Misconfigured("404", 404), FORBIDDEN, DELIVERED])

    def respond(claimed: Claimed) -> Verdict:
        if 0 not in claimed[1]:
            return DELIVERED
        return next(after) if harness.delivered else FORBIDDEN

    only_device(harness, respond)
    assert not harness.dead_letters
    assert harness.delivered[1] == [1, 2, 0]


@pytest.mark.parametrize("answers", ["api", "brownout", "unknown"])
def test_only_if_the_api_responds_to_all_batches_without_events_a_later_event_is_sent(answers: str) -> None:
    harness = Harness()
    harness.offer(1, 3)
    for _ in range(200):
        is_api = answers == "api" or (answers == "brownout" and len(harness.asked_at) % 5 == 0)
        harness.answer = REJECTED if is_api else FAILING
        if harness.drained(1):
            break
        harness.round(bad(FAILING, 0))
    assert harness.drained(1) is (answers == "api")
    assert (harness.delivered == {}) is (answers != "api")


def test_while_another_device_is_served_no_event_overtakes_another() -> None:
    """The other device fails at times, so that it does not show the cause either."""
    harness = Harness()
    harness.answer = REJECTED
    harness.know(2)
    harness.offer(1, 3)
    began, tries = harness.now, 0
    while harness.now < began + 3_600_000:
        harness.offer(2)
        send = harness.send()
        tries += 1
        harness.respond(send, FORBIDDEN if queues(send) == [1] or tries % 2 else DELIVERED)
    assert harness.pending[1] == [0, 1, 2]


@pytest.mark.parametrize("failures", [0, 3])
def test_failures_of_a_delivered_event_show_a_brownout_for_15_minutes(failures: int) -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1)
    for verdict in [*[FAILING] * failures, DELIVERED]:
        harness.round(verdict)
    began = harness.now
    harness.offer(1, 3)
    requests = only_device(harness, bad(FORBIDDEN, 1))
    assert list(harness.dead_letters[1]) == [1]
    overtaken_at = next(at for at, claimed in requests if claimed == {1: [2]})
    assert (overtaken_at - began >= 14 * 60_000) is (failures > 0)


def test_failures_of_a_delivered_event_outweigh_a_later_event() -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 3)
    while not harness.delivered.get(1):
        harness.round(bad(FORBIDDEN, 0))
    harness.offer(2)
    for verdict in (FAILING, FAILING, DELIVERED):
        send = harness.send()
        assert queues(send) == [2]
        harness.respond(send, verdict)
    assert harness.round(FORBIDDEN) == {1: [0]}
    assert not harness.dead_letters
    requests = only_device(harness, bad(FORBIDDEN, 0))
    assert list(harness.dead_letters[1]) == [0]
    assert requests[-1][0] - requests[0][0] >= 12 * 60_000


def test_a_later_event_in_flight_at_a_crash_is_sent_again_alone() -> None:
    harness = Harness()
    harness.answer = REJECTED
    harness.offer(1, 4)
    while not (send := harness.send()).shares[0].omitted:
        harness.respond(send, FORBIDDEN)
    assert harness.claimed(send) == {1: [1]}
    for verdict, pending in ((DELIVERED, [0, 2, 3]), (FORBIDDEN, [0, 1, 2, 3])):
        harness.pending[1] = [0, 1, 2, 3]
        after = restarted(harness, unsettled=[send.shares])
        after.answer = REJECTED
        assert after.round(verdict) == {1: [1]}
        assert after.pending[1] == pending
        assert after.round() == {1: pending}
