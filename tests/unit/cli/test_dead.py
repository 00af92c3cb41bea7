"""`relay dead` through a running relay: every command and every selection."""

from __future__ import annotations

import contextlib
import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from relay.ops.dead_letters import MAX_SEARCH_CHARS, MAX_SEARCHED

from tests.support.ops_harness import dead_letter
from tests.unit.cli.harness import NotedRelay, call


@pytest.fixture
def letters(relay: NotedRelay) -> NotedRelay:
    """Three dead letters: two of tv-1, two rejected."""
    kinds = [("tv-1", "refused"), ("tv-1", "poison"), ("tv-2", "refused")]
    relay.outbox.letters = {
        n: dead_letter(n, device=device, reason=reason, body=b'{"event_type":"view"}')
        for n, (device, reason) in enumerate(kinds, start=1)
    }
    return relay


@pytest.fixture
def many(relay: NotedRelay) -> NotedRelay:
    """More dead letters than one response contains."""
    relay.outbox.letters = {n: dead_letter(n) for n in range(1, 251)}
    return relay


class TestList:
    def test_the_list_has_id_reason_device_time_and_message(self, letters: NotedRelay) -> None:
        lines = call("dead", "list", environ=letters.environ).stdout.splitlines()

        assert lines[0].split() == ["id", "tenant", "type", "reason", "platform", "device", "since", "message"]
        assert lines[1].split() == ["1", "1", "view", "refused", "tv", "tv-1", "2026-11-23T08:00:00.000Z", "wrong"]
        assert len(lines) == 4

    @pytest.mark.parametrize(
        ("options", "ids"),
        [
            ([], [1, 2, 3]),
            (["--device", "tv-1"], [1, 2]),
            (["--reason", "refused"], [1, 3]),
            (["--search", "TV-2"], [3]),
            (["--search", "id-2", "--device", "tv-1"], [2]),
            (["--search", "nowhere in any"], []),
        ],
    )
    def test_json_contains_the_matching_letters(self, letters: NotedRelay, options: list[str], ids: list[int]) -> None:
        data = json.loads(call("dead", "list", "--json", *options, environ=letters.environ).stdout)

        assert [letter["id"] for letter in data["dead_letters"]] == ids
        assert data["more"] is False

    def test_the_list_continues_over_pages_up_to_the_limit(self, many: NotedRelay) -> None:
        result = call("dead", "list", "--json", "--limit", "220", environ=many.environ)

        data = json.loads(result.stdout)
        assert [letter["id"] for letter in data["dead_letters"]] == list(range(1, 221))
        assert data["more"] is True

    def test_a_search_continues_after_a_page_without_matches(self, relay: NotedRelay) -> None:
        last = MAX_SEARCHED + 1
        relay.outbox.letters = {n: dead_letter(n, body=b'"needle"' if n == last else b"{}") for n in range(1, last + 1)}

        data = json.loads(call("dead", "list", "--json", "--search", "Needle", environ=relay.environ).stdout)

        assert [letter["id"] for letter in data["dead_letters"]] == [last]

    def test_a_search_text_that_is_too_long_is_reported(self, letters: NotedRelay) -> None:
        result = call("dead", "list", "--search", "x" * (MAX_SEARCH_CHARS + 1), environ=letters.environ)

        assert result.exit_code == 1
        assert f"more than {MAX_SEARCH_CHARS}" in result.stderr

    @pytest.mark.parametrize("option", ["--search", "--device"])
    def test_an_empty_selection_is_a_usage_error(self, letters: NotedRelay, option: str) -> None:
        before = dict(letters.outbox.letters)

        result = call("dead", "discard", "--reason", "refused", option, "", environ=letters.environ)

        assert result.exit_code == 2
        assert "is empty" in result.stderr
        assert letters.outbox.letters == before

    @pytest.mark.parametrize("option", ["--search", "--device"])
    def test_a_text_that_is_not_utf_8_is_a_usage_error(self, letters: NotedRelay, option: str) -> None:
        result = call("dead", "list", option, "\udcff", environ=letters.environ)

        assert result.exit_code == 2
        assert "is not UTF-8" in result.stderr

    def test_an_empty_list_is_printed_as_none(self, relay: NotedRelay) -> None:
        assert call("dead", "list", environ=relay.environ).stdout == "no dead letters\n"

    def test_groups_have_count_type_reason_and_times(self, letters: NotedRelay) -> None:
        first, last = letters.outbox.letters[1], letters.outbox.letters[3]
        letters.outbox.letters[3] = replace(last, dead_at="2026-11-24T08:00:00.000Z")
        result = call("dead", "list", "--group", environ=letters.environ)

        assert [line.split() for line in result.stdout.splitlines()] == [
            ["count", "type", "reason", "first", "last", "message"],
            ["2", "view", "refused", first.dead_at, "2026-11-24T08:00:00.000Z", "wrong"],
            ["1", "view", "poison", first.dead_at, first.dead_at, "wrong"],
        ]

    def test_groups_count_every_page_and_the_selection(self, many: NotedRelay) -> None:
        many.outbox.letters[251] = dead_letter(251, device="tv-2")
        result = call("dead", "list", "--group", "--json", "--device", "tv-1", environ=many.environ)

        (cause,) = json.loads(result.stdout)["causes"]
        assert (cause["count"], cause["reason"], cause["message"]) == (250, "refused", "wrong")

    def test_no_groups_are_printed_as_none(self, relay: NotedRelay) -> None:
        assert call("dead", "list", "--group", environ=relay.environ).stdout == "no dead letters\n"


class TestShow:
    def test_show_has_the_event_as_it_was_sent(self, letters: NotedRelay) -> None:
        letters.outbox.letters[7] = dead_letter(7, body='{"title":"Käse"}'.encode())

        assert 'body        {"title":"Käse"}' in call("dead", "show", "7", environ=letters.environ).stdout.splitlines()
        assert json.loads(call("dead", "show", "7", "--json", environ=letters.environ).stdout)["id"] == 7

    def test_an_unknown_letter_is_a_failure(self, letters: NotedRelay) -> None:
        result = call("dead", "show", "9", environ=letters.environ)

        assert result.exit_code == 1
        assert "no dead letter has the id 9" in result.stderr


class TestRequeueAndDiscard:
    @pytest.mark.parametrize(
        ("choice", "left"),
        [
            (["1", "3"], [2]),
            (["--device", "tv-1"], [3]),
            (["--reason", "poison"], [1, 3]),
            (["--device", "tv-1", "--reason", "refused"], [2, 3]),
            (["--search", "poison"], [1, 3]),
            (["--search", "tv-", "--reason", "refused"], [2]),
            (["--all"], []),
        ],
    )
    def test_only_the_selected_letters_are_moved(self, letters: NotedRelay, choice: list[str], left: list[int]) -> None:
        result = call("dead", "requeue", *choice, "--json", environ=letters.environ)

        assert json.loads(result.stdout) == {"requeued": 3 - len(left)}
        assert list(letters.outbox.letters) == left
        assert len(letters.outbox.requeued) == 3 - len(left)

    @pytest.mark.parametrize(
        "choice",
        [
            [],
            ["--search", ""],
            ["--all", "1"],
            ["--all", "--device", "tv-1"],
            ["--all", "--search", "tv-1"],
            ["1", "--reason", "poison"],
            ["1", "--search", "poison"],
        ],
    )
    @pytest.mark.parametrize("verb", ["requeue", "discard"])
    def test_an_ambiguous_selection_is_a_usage_error(self, letters: NotedRelay, verb: str, choice: list[str]) -> None:
        assert call("dead", verb, *choice, environ=letters.environ).exit_code == 2
        assert len(letters.outbox.letters) == 3

    def test_many_letters_are_moved_in_pages(self, many: NotedRelay) -> None:
        result = call("dead", "requeue", "--all", environ=many.environ)

        assert result.stdout == "250 requeued\n"
        assert many.outbox.requeued == list(range(1, 251))

    def test_a_letter_that_is_rejected_again_is_not_moved_again(self, many: NotedRelay) -> None:
        letters, move = many.outbox.letters, many.outbox.requeue

        async def requeue_and_reject_again(*args: object) -> int:
            count = await move(*args)  # type: ignore[arg-type]
            newest = max([*many.outbox.requeued, *letters]) + 1
            letters.update({n: dead_letter(n) for n in range(newest, newest + count)})
            return count

        many.outbox.requeue = requeue_and_reject_again  # type: ignore[method-assign,assignment]

        assert call("dead", "requeue", "--all", environ=many.environ).stdout == "250 requeued\n"
        assert len(letters) == 250

    def test_an_unknown_id_is_reported_after_the_others_are_moved(self, letters: NotedRelay) -> None:
        result = call("dead", "discard", "1", "9", environ=letters.environ)

        assert (result.exit_code, result.stdout) == (1, "1 discarded\n")
        assert list(letters.outbox.letters) == [2, 3]

    @pytest.mark.parametrize(("typed", "left"), [("n\n", 3), ("", 3), ("y\n", 0)])
    def test_all_are_discarded_only_after_a_confirmation(self, letters: NotedRelay, typed: str, left: int) -> None:
        result = call("dead", "discard", "--all", environ=letters.environ, typed=typed)

        assert result.exit_code == (1 if left else 0)
        assert len(letters.outbox.letters) == left

    def test_the_option_yes_confirms(self, letters: NotedRelay) -> None:
        assert call("dead", "discard", "--all", "--yes", environ=letters.environ).exit_code == 0
        assert letters.outbox.letters == {}

    def test_a_failure_reports_the_number_moved_before(self, many: NotedRelay) -> None:
        move = many.outbox.requeue

        async def requeue_and_fail(*args: object) -> int:
            many.outbox.fails = len(many.outbox.requeued) == 200
            return await move(*args)  # type: ignore[arg-type]

        many.outbox.requeue = requeue_and_fail  # type: ignore[method-assign,assignment]
        result = call("dead", "requeue", "--all", environ=many.environ)

        assert (result.exit_code, result.stdout) == (1, "")
        assert "the outbox is full" in result.stderr
        assert result.stderr.endswith("\nrequeued so far: 200 of 250\n")

    def test_a_full_outbox_is_reported(self, letters: NotedRelay) -> None:
        letters.outbox.fails = True

        result = call("dead", "requeue", "--all", environ=letters.environ)

        assert result.exit_code == 1
        assert "the outbox is full: raise outbox.max_size" in result.stderr


class TestExport:
    def test_an_export_prints_one_line_per_letter(self, many: NotedRelay) -> None:
        result = call("dead", "export", environ=many.environ)

        assert [json.loads(line)["id"] for line in result.stdout.splitlines()] == list(range(1, 251))
        assert result.stderr == "250 exported\n"
        assert len(many.outbox.letters) == 250

    @pytest.mark.parametrize(
        ("choice", "ids"),
        [(["3", "1"], [3, 1]), (["--device", "tv-2"], [3]), (["--search", "TV-1"], [1, 2]), (["--all"], [1, 2, 3])],
    )
    def test_an_export_contains_the_selected_letters(
        self, letters: NotedRelay, choice: list[str], ids: list[int]
    ) -> None:
        lines = call("dead", "export", *choice, environ=letters.environ).stdout.splitlines()

        assert [json.loads(line)["id"] for line in lines] == ids

    def test_json_prints_the_count_beside_the_letters(self, letters: NotedRelay) -> None:
        beside = call("dead", "export", "--json", "-o", "out.ndjson", environ=letters.environ)
        mixed = call("dead", "export", "--json", environ=letters.environ)

        assert (json.loads(beside.stdout), beside.stderr) == ({"exported": 3}, "")
        assert (len(mixed.stdout.splitlines()), json.loads(mixed.stderr)) == (3, {"exported": 3})

    def test_an_exported_file_is_private(self, letters: NotedRelay, tmp_path: Path) -> None:
        call("dead", "export", "-o", "out.ndjson", environ=letters.environ)

        file = tmp_path / "out.ndjson"
        assert file.stat().st_mode & 0o777 == 0o600
        assert [json.loads(line)["body"] for line in file.read_text().splitlines()] == ['{"event_type":"view"}'] * 3

    def test_an_existing_file_is_not_replaced(self, letters: NotedRelay, tmp_path: Path) -> None:
        (tmp_path / "out.ndjson").write_text("precious")

        result = call("dead", "export", "-o", "out.ndjson", environ=letters.environ)

        assert result.exit_code == 1
        assert "out.ndjson" in result.stderr
        assert (tmp_path / "out.ndjson").read_text() == "precious"


class TestProgress:
    """A terminal shows the progress. Scripts receive no extra output."""

    def on_a_terminal(self, *args: str, environ: dict[str, str]) -> str:
        """Return the terminal output on standard error."""
        ours, theirs = os.openpty()
        with subprocess.Popen(
            [sys.executable, "-m", "relay", *args],
            env={**os.environ, "TERM": "xterm", **environ},
            stdout=subprocess.DEVNULL,
            stderr=theirs,
        ) as process:
            os.close(theirs)
            seen = b""
            with contextlib.suppress(OSError):  # A terminal reports its end as an error.
                while part := os.read(ours, 4096):
                    seen += part
        os.close(ours)
        assert process.returncode == 0
        return seen.decode()

    def test_a_move_shows_its_progress(self, many: NotedRelay) -> None:
        seen = self.on_a_terminal("dead", "requeue", "--all", environ=many.environ)

        assert "searching" in seen
        assert "requeued" in seen
        assert "40%" in seen
        assert "100%" in seen

    def test_an_export_shows_its_progress(self, many: NotedRelay, tmp_path: Path) -> None:
        seen = self.on_a_terminal("dead", "export", "-o", str(tmp_path / "all.ndjson"), environ=many.environ)

        assert "exporting" in seen
        assert "250 exported" in seen

    def test_no_progress_is_shown_without_a_terminal(self, many: NotedRelay) -> None:
        assert call("dead", "requeue", "--all", environ=many.environ).stderr == ""
