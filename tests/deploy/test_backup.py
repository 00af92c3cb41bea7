"""docs/run/upgrade.md: the copies of an outbox that contain every event answered with 202."""

from __future__ import annotations

import shutil
import signal
from pathlib import Path

from tests.e2e.harness import RelayProcess, environment, event, launch, running

NOBODY = "http://127.0.0.1:1/v1/events"
EVENTS = 20


async def post_some(relay: RelayProcess) -> None:
    for n in range(EVENTS):
        assert await relay.post(event(n)) == 202


async def pending_in(directory: Path) -> int:
    async with running(environment(NOBODY, directory)) as relay:
        pending: int = (await relay.status())["ledger"]["pending"]
        return pending


def copy(here: Path, there: Path, *names: str) -> None:
    there.mkdir()
    for name in names:
        if (here / name).exists():
            shutil.copy(here / name, there / name)


async def test_the_files_of_a_stopped_relay_are_a_backup(tmp_path: Path) -> None:
    async with running(environment(NOBODY, tmp_path / "old", shutdown__drain="0s")) as relay:
        await post_some(relay)
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0

    copy(tmp_path / "old", tmp_path / "new", "outbox.db", "outbox.db-wal")

    assert await pending_in(tmp_path / "new") == EVENTS


async def test_a_snapshot_of_a_running_relays_files_is_a_backup(tmp_path: Path) -> None:
    """The process is stopped (SIGSTOP) while both files are copied."""
    async with running(environment(NOBODY, tmp_path / "old", shutdown__drain="0s")) as relay:
        await post_some(relay)
        relay.signal(signal.SIGSTOP)
        copy(tmp_path / "old", tmp_path / "new", "outbox.db", "outbox.db-wal")
        relay.signal(signal.SIGCONT)

    assert await pending_in(tmp_path / "new") == EVENTS


async def test_an_outbox_of_a_newer_schema_is_rejected_and_unchanged(tmp_path: Path) -> None:
    async with running(environment(NOBODY, tmp_path, shutdown__drain="0s")) as relay:
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0
    outbox = tmp_path / "outbox.db"
    # user_version: https://www.sqlite.org/fileformat.html#the_database_header
    newer = outbox.read_bytes()[:60] + (1000).to_bytes(4, "big") + outbox.read_bytes()[64:]
    outbox.write_bytes(newer)

    relay = await launch(environment(NOBODY, tmp_path))

    assert await relay.ended() == 1
    assert "newer relay" in relay.log[-1]["message"]
    assert outbox.read_bytes() == newer
