"""Which promises are broken on purpose, how, and which test finds out.

A mutant is one mistake somebody could make, as replacements in the source; each text to be replaced is there once.
"""

from __future__ import annotations

from typing import NamedTuple


class Edit(NamedTuple):
    file: str
    before: str
    after: str


class Mutant(NamedTuple):
    name: str
    breaks: str
    edits: tuple[Edit, ...]
    caught_by: str
    """A test's id for pytest."""


def _mutant(name: str, breaks: str, caught_by: str, *edits: tuple[str, str, str]) -> Mutant:
    return Mutant(name, breaks, tuple(Edit(*edit) for edit in edits), caught_by)


_FSYNC = "tests/e2e/test_fsync_order.py::test_the_wal_is_synced_before_each_202"
_SQLITE = "relay/outbox/sqlite"
_CONTRACT = "tests/contract/test_outbox.py"

MUTANTS = (
    _mutant(
        "synchronous=NORMAL",
        "G1",
        _FSYNC,
        (f"{_SQLITE}/connection.py", 'f"synchronous={durability}"', '"synchronous=NORMAL"'),
    ),
    _mutant(
        "synchronous=NORMAL, by a power cut",
        "G1",
        "tests/fault/test_power_cut.py::test_a_power_cut_at_random_instants_loses_nothing",
        (f"{_SQLITE}/connection.py", 'f"synchronous={durability}"', '"synchronous=NORMAL"'),
    ),
    _mutant(
        "answer before commit",
        "G1",
        _FSYNC,
        (
            f"{_SQLITE}/outbox.py",
            "            self._owner.enqueue(append)\n",
            "            self._owner.enqueue(append)\n            answer.set_result(0)\n",
        ),
    ),
    _mutant(
        "a failed commit answered as stored",
        "G1",
        "tests/unit/outbox/test_failure.py::test_writes_that_fail_are_told_and_forgotten_once_the_disk_heals",
        (
            f"{_SQLITE}/draft.py",
            "        for answer in (*(append.answer for append in self.appends), *(op.answer for op in self.ops)):\n",
            "        for append in self.appends:\n            _answer(append.answer, 0)\n"
            "        for answer in (op.answer for op in self.ops):\n",
        ),
    ),
    _mutant(
        "delete before the 2xx",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_an_upstream_down_for_a_while_backs_off_and_recovers[503]",
        (
            "relay/forward/forwarder.py",
            "        answer = await self._post(send.tenant_id, request, len(bodies))\n",
            "        await self._settle([Settled(n, True, {}, self._schedule.window_of(n, sent_at)) for n in taken])\n"
            "        answer = await self._post(send.tenant_id, request, len(bodies))\n",
        ),
        ("relay/forward/forwarder.py", "        if settled:\n", "        if not settled:\n"),
    ),
    _mutant(
        "no answer taken for a yes",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_an_upstream_down_for_a_while_backs_off_and_recovers[silence]",
        ("relay/policy/verdict.py", "        return Failing(answer.words)\n", "        return Delivered()\n"),
    ),
    _mutant(
        "an answer nobody asked for believed",
        "G1",
        "tests/fault/test_upstream_transport.py::test_an_answer_nobody_asked_for_is_not_believed",
        ("relay/forward/upstream.py", "conn.protocol.should_close:", "not conn.protocol:"),
    ),
    _mutant(
        "a wrong key's events given up",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_a_wrong_key_keeps_everything_and_delivery_resumes_when_the_key_file_changes",
        (
            "relay/policy/verdict.py",
            "            return Unauthorized(words)\n",
            "            return Refused(status, words)\n",
        ),
    ),
    _mutant(
        "poison after one failure",
        "G1",
        "tests/fault/test_upstream_answers.py::test_an_event_that_brings_the_upstream_down_delays_nobody_else",
        ("relay/policy/lane.py", "POISON_TRIES = 10\nPOISON_MS = 600_000\n", "POISON_TRIES = 1\nPOISON_MS = 0\n"),
    ),
    _mutant(
        "files deleted unnoticed",
        "G1",
        "tests/fault/test_broken_files.py::test_a_directory_deleted_under_the_running_relay",
        (f"{_SQLITE}/owner.py", "        self._blocked = self.store.problem()\n", '        self._blocked = ""\n'),
    ),
    _mutant(
        "age by the wall clock",
        "G1",
        f"{_CONTRACT}::TestAge::test_a_jump_of_the_wall_clock_drops_nothing",
        (
            "relay/outbox/age.py",
            "        return self._clock.monotonic_ms() + self._ahead_ms\n",
            "        return self._clock.wall_ms()\n",
        ),
    ),
    _mutant(
        "delivered not counted",
        "G2",
        f"{_CONTRACT}::TestSettle::test_it_survives_a_kill",
        (f"{_SQLITE}/transactions.py", "delivered = delivered + ?, window", "delivered = delivered + 0 * ?, window"),
    ),
    _mutant(
        "no dedupe",
        "G3",
        f"{_CONTRACT}::TestDedupe::test_a_known_id_is_answered_and_not_stored",
        (
            f"{_SQLITE}/draft.py",
            "            if event_id in known or event_id in fresh:\n",
            "            if not event_id:\n",
        ),
        (f"{_SQLITE}/outbox.py", "        return book is not None and all(", "        return book is None and all("),
    ),
    _mutant(
        "no journal",
        "G3",
        f"{_CONTRACT}::TestJournal::test_after_a_kill_the_same_requests_are_named_with_the_same_bytes",
        (
            f"{_SQLITE}/transactions.py",
            "    database.executemany(_JOURNAL, journal)\n",
            "    database.executemany(_JOURNAL, journal[:0])\n",
        ),
    ),
    _mutant(
        "two requests of a device in flight",
        "G4",
        "tests/unit/policy/test_schedule.py::test_a_lane_has_one_request_in_flight",
        (
            "relay/policy/schedule.py",
            "        if lane.in_flight or lane.queued or lane.reserved",
            "        if lane.queued or lane.reserved",
        ),
        (
            "relay/policy/schedule.py",
            "if not lane.events or lane.in_flight or lane.reserved:",
            "if not lane.events or lane.reserved:",
        ),
        (
            "relay/policy/schedule.py",
            "        if lane.in_flight:\n            if events > before",
            "        if lane.in_flight and events < before:\n            if events > before",
        ),
    ),
    _mutant(
        "window in memory only",
        "G5",
        "tests/fault/test_kills.py::test_a_kill_does_not_free_the_window",
        ("relay/forward/forwarder.py", "lane.key, lane.window, now", 'lane.key, b"", now'),
    ),
    _mutant(
        "slot freed at send",
        "G5",
        "tests/unit/policy/test_schedule.py::test_a_slot_is_free_one_window_after_the_answer_not_after_the_send",
        (
            "relay/policy/schedule.py",
            "                lane.window.answered(now)\n                lanes",
            "                lane.window.answered(reply.sent_at)\n                lanes",
        ),
    ),
    _mutant(
        "what was in flight at a kill not counted",
        "G5",
        "tests/unit/policy/test_schedule.py::test_what_was_in_flight_at_a_crash_counts_as_sent",
        (
            "relay/policy/schedule.py",
            "            for lane, _ in lanes:\n                lane.window.answered(now)\n            if lanes:",
            "            if lanes:",
        ),
    ),
    _mutant(
        "no backoff",
        "G5",
        "tests/unit/policy/test_backoff.py",
        ("relay/policy/backoff.py", "    return int(u * min(", "    return 0 * int(u * min("),
    ),
    _mutant(
        "Retry-After not obeyed",
        "G5",
        "tests/fault/test_upstream_answers.py::test_maintenance_is_waited_for_as_long_as_it_says",
        (
            "relay/policy/backoff.py",
            "    return max(jitter_ms, min(asked_ms or 0, SERVER_WISH_MAX_MS))",
            "    return jitter_ms",
        ),
    ),
    _mutant(
        "hold per batch instead of per device",
        "G6",
        "tests/unit/policy/test_schedule.py::test_a_held_lane_lets_the_others_pass",
        (
            "relay/policy/lane.py",
            "        return at if at > self.hold else self.hold\n",
            "        return at\n",
        ),
    ),
    _mutant(
        "key in the log",
        "G7",
        "tests/unit/test_log.py",
        (
            "relay/log.py",
            "    return _shared.in_line.sub(MASK, line) if _shared.in_line is not None else line\n",
            "    return line\n",
        ),
        (
            "relay/log.py",
            "def _clean(text: str, max_chars: int) -> str:\n    if _shared.in_text is not None:",
            "def _clean(text: str, max_chars: int) -> str:\n    if _shared.in_text is not None and not text:",
        ),
    ),
    _mutant(
        "the upstream's echo of the key shown",
        "G7",
        "tests/e2e/test_secret.py",
        (
            "relay/forward/upstream.py",
            "    return lambda text: in_text.sub(MASK, text)\n",
            "    return lambda text: text if in_text else MASK\n",
        ),
    ),
    _mutant(
        "redirects followed",
        "G7",
        "tests/e2e/test_upstream_trouble.py::test_a_redirect_is_not_followed",
        ("relay/forward/upstream.py", "allow_redirects=False", "allow_redirects=True"),
    ),
    _mutant(
        "CRC unchecked",
        "G8",
        f"{_CONTRACT}::TestCorrupt::test_a_changed_body_becomes_a_dead_letter_and_is_not_handed_out",
        (
            "relay/outbox/checksum.py",
            "    return True if crc32(body, _STAMPED) == crc else None\n",
            "    return True if crc32(body, _STAMPED) == crc else False\n",
        ),
    ),
    _mutant(
        "no limit of size",
        "G9",
        f"{_CONTRACT}::TestFull::test_reject_refuses_drains_and_takes_again_and_again",
        (
            f"{_SQLITE}/book.py",
            "        return self.limits.append_bytes - self.used_bytes\n",
            "        return 1 << 40\n",
        ),
    ),
    _mutant(
        "an answer read to its end, whatever its size",
        "G9",
        "tests/fault/test_upstream_transport.py::test_an_answer_that_is_odd_but_a_yes[endless_body]",
        ("relay/forward/upstream.py", "            room -= len(chunk)\n", "            room -= 0\n"),
    ),
    _mutant(
        "ready though nothing can be stored",
        "contract 6",
        "tests/fault/test_disk_full.py::test_the_relays_own_limit_pushes_out_nothing_accepted",
        ("relay/ops/status.py", '        return "" if gauges.writable else', '        return "" if gauges else'),
    ),
)
