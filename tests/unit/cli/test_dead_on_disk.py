"""`relay dead` without a running relay opens the outbox itself, and holds its lock."""

from __future__ import annotations

import asyncio
import json
import os
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from uuid import UUID

import pytest
from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import Backlog, ClaimPart, Dead, Gauges, Ledger, RestoredState, Settled
from relay.outbox.factory import create_outbox
from relay.runtime.clock import SystemClock
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.unit.cli.harness import call

BODIES = [b'{"n":1}', b'{"n":2}', b'{"n":3}']
HOLD = """
import asyncio, pathlib, sys
from tests.unit.cli.test_dead_on_disk import hold
asyncio.run(hold(pathlib.Path(sys.argv[1])))
"""


class Opened:
    """An outbox that is open during the block, and the holder of its device queues."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self.queues: list[int] = []

    async def __aenter__(self) -> Opened:
        self._tasks = Tasks()
        self.outbox = create_outbox(OutboxSettings(path=self._path), SystemClock(), Metrics(), self._tasks)
        await self.outbox.open()
        await self.outbox.load(self)
        return self

    def pending(self, backlogs: Sequence[Backlog]) -> None:
        self.queues += [queue_id for queue_id, *_ in backlogs]

    def granted(self, restored: RestoredState) -> None: ...

    async def __aexit__(self, *_: object) -> None:
        await self.outbox.close()
        await self._tasks.cancel_all()


async def keep_dead_letters(path: Path) -> None:
    async with Opened(path) as opened:
        events = [Event(UUID(int=n).bytes, (1, "tv", "tv-1"), body) for n, body in enumerate(BODIES)]
        await opened.outbox.append(events)
        queue_id = opened.queues[0]
        await opened.outbox.claim([ClaimPart(queue_id, 3)])
        dead = {n: Dead("refused", 422, "wrong") for n in range(3)}
        await opened.outbox.settle([Settled(queue_id, delivered=True, dead=dead, window=b"")])


async def hold(path: Path) -> None:
    async with Opened(path):
        sys.stdout.write("held\n")
        sys.stdout.flush()
        sys.stdin.read()


async def figures(path: Path) -> tuple[Ledger, Gauges]:
    async with Opened(path) as opened:
        return opened.outbox.ledger(), opened.outbox.gauges()


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """The path of an outbox with three dead letters of one device."""
    path = tmp_path / "outbox.db"
    asyncio.run(keep_dead_letters(path))
    return path


@pytest.fixture
def environ(path: Path, absent_relay: dict[str, str]) -> dict[str, str]:
    return {**absent_relay, "RELAY__OUTBOX__PATH": str(path)}


def test_letters_are_listed_shown_and_exported(environ: dict[str, str]) -> None:
    listed = json.loads(call("dead", "list", "--json", environ=environ).stdout)["dead_letters"]
    shown = json.loads(call("dead", "show", str(listed[1]["id"]), "--json", environ=environ).stdout)
    exported = call("dead", "export", environ=environ).stdout.splitlines()

    assert [letter["body"].encode() for letter in listed] == BODIES
    assert shown == listed[1]
    assert [json.loads(line) for line in exported] == listed


def test_a_text_is_found(environ: dict[str, str]) -> None:
    found = json.loads(call("dead", "list", "--json", "--search", '"N":2', environ=environ).stdout)["dead_letters"]

    assert [letter["body"].encode() for letter in found] == BODIES[1:2]


def test_requeued_letters_are_pending_for_the_next_relay(environ: dict[str, str], path: Path) -> None:
    result = call("dead", "requeue", "--device", "tv-1", environ=environ)
    ledger, gauges = asyncio.run(figures(path))

    assert (result.exit_code, result.stdout) == (0, "3 requeued\n")
    assert ledger == Ledger(accepted=3, requeued=3, dead_lettered=3, pending=3)
    assert gauges.dead_letters == 0


def test_letters_are_discarded(environ: dict[str, str], path: Path) -> None:
    result = call("dead", "discard", "--reason", "refused", environ=environ)

    assert (result.exit_code, result.stdout) == (0, "3 discarded\n")
    assert asyncio.run(figures(path))[1].dead_letters == 0


def test_the_outbox_is_opened_if_the_relay_has_no_http_listener(path: Path) -> None:
    environ = {"RELAY__HTTP__LISTEN": "", "RELAY__OUTBOX__PATH": str(path)}

    assert len(json.loads(call("dead", "list", "--json", environ=environ).stdout)["dead_letters"]) == 3


@pytest.mark.parametrize("args", [["dead", "list"], ["run"]])
def test_an_outbox_in_use_by_another_process_is_75(environ: dict[str, str], path: Path, args: list[str]) -> None:
    upstream = {
        "RELAY__UPSTREAM__URL": "http://127.0.0.1:9/v1/events",
        "RELAY__UPSTREAM__API_KEY": "key-of-nobody",
    }
    root = Path(__file__).parents[3]
    command = [sys.executable, "-c", HOLD, str(path)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=root) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        result = subprocess.run(
            [sys.executable, "-m", "relay", *args],
            env={**os.environ, "PYTHONPATH": str(root), **environ, **upstream},
            check=False,
            capture_output=True,
            text=True,
        )
        holder.communicate("")

    assert result.returncode == 75
    assert f"another relay, or a `relay dead` command, holds {path} (its lock: {path}.lock)" in result.stderr


def test_a_missing_outbox_is_reported_and_not_created(absent_relay: dict[str, str], tmp_path: Path) -> None:
    result = call("dead", "list", environ={**absent_relay, "RELAY__OUTBOX__PATH": str(tmp_path / "none.db")})

    assert result.exit_code == 1
    assert "none.db" in result.stderr
    assert not (tmp_path / "none.db").exists()


def test_the_message_does_not_suggest_config_if_it_was_given(absent_relay: dict[str, str], tmp_path: Path) -> None:
    environ = {**absent_relay, "RELAY__OUTBOX__PATH": str(tmp_path / "none.db")}
    (tmp_path / "named.toml").write_text("")

    unnamed = call("dead", "list", environ=environ)
    named = call("dead", "list", "--config", "named.toml", environ=environ)

    assert "name the relay's configuration with --config" in unnamed.stderr
    assert "--config" not in named.stderr
    assert "STATE_DIRECTORY" in named.stderr


def test_the_outbox_of_the_systemd_unit_is_found_by_its_state_directory(
    path: Path, absent_relay: dict[str, str]
) -> None:
    result = call("dead", "list", "--json", environ={**absent_relay, "STATE_DIRECTORY": str(path.parent)})

    assert len(json.loads(result.stdout)["dead_letters"]) == 3


def a_symbolic_link(path: Path) -> None:
    path.rename(path.with_name("elsewhere.db"))
    path.symlink_to(path.with_name("elsewhere.db"))


def a_link_to_nothing(path: Path) -> None:
    path.unlink()
    path.symlink_to(path.with_name("none.db"))


def a_directory(path: Path) -> None:
    path.unlink()
    path.mkdir()


def of_a_newer_relay(path: Path) -> None:
    with closing(sqlite3.connect(path)) as database:
        database.execute("PRAGMA user_version=9999")


@pytest.mark.parametrize(
    ("put_there", "message"),
    [
        (a_symbolic_link, "is a symbolic link"),
        (a_link_to_nothing, "is a symbolic link"),
        (a_directory, "is no regular file"),
        (of_a_newer_relay, "newer relay (schema 9999"),
    ],
)
def test_a_file_that_is_not_an_outbox_is_reported(
    environ: dict[str, str], path: Path, put_there: Callable[[Path], None], message: str
) -> None:
    put_there(path)

    result = call("dead", "list", "--json", environ=environ)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{path} " in result.stderr
    assert message in result.stderr


@contextmanager
def another_user() -> Iterator[None]:
    """Run the block as a user without access, because root can open every file."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


@pytest.mark.parametrize("closed", ["state", "state/outbox.db", "state/outbox.db.lock"])
def test_an_outbox_of_another_user_is_reported(absent_relay: dict[str, str], tmp_path: Path, closed: str) -> None:
    asyncio.run(keep_dead_letters(tmp_path / "state" / "outbox.db"))
    for directory in (tmp_path, tmp_path / "state"):
        directory.chmod(0o777)
    (tmp_path / closed).chmod(0)

    with another_user():
        # A relative path, because other users cannot enter the parent directories of pytest.
        result = call("dead", "list", "--json", environ={**absent_relay, "RELAY__OUTBOX__PATH": "state/outbox.db"})
    (tmp_path / closed).chmod(0o700)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "state/outbox.db: Permission denied" in result.stderr
    assert "as the user of the relay" in result.stderr


def test_a_failing_disk_is_reported_at_once(environ: dict[str, str], path: Path) -> None:
    with closing(sqlite3.connect(path)) as another:
        another.execute("BEGIN IMMEDIATE")
        result = call("dead", "list", "--json", environ=environ)

    assert (result.exit_code, result.stdout) == (1, "")
    assert "another program has the outbox's file open" in result.stderr


def no_database(path: Path) -> None:
    path.write_bytes(b"this is no database, and it is longer than a header of one hundred bytes. " * 99)


def a_lost_row(path: Path) -> None:
    """Delete an event that the ledger counts. No check of SQLite finds this corruption."""
    with closing(sqlite3.connect(path)) as database:
        database.execute("DELETE FROM log WHERE seq = (SELECT min(seq) FROM log)")
        database.commit()


@pytest.mark.parametrize("damage", [no_database, a_lost_row])
def test_a_broken_outbox_is_not_changed(environ: dict[str, str], path: Path, damage: Callable[[Path], None]) -> None:
    call("dead", "requeue", "--all", environ=environ)
    damage(path)
    before = path.stat().st_ino

    result = call("dead", "list", "--json", environ=environ)

    assert (result.exit_code, result.stdout) == (1, "")
    assert f"{path} is broken" in result.stderr
    assert "start the relay" in result.stderr
    assert path.stat().st_ino == before
    assert list(path.parent.glob("*.broken-*")) == []
    assert asyncio.run(figures(path))[1].writable


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
class TestAsRoot:
    """The relay's user must be able to open every file that root created."""

    @pytest.fixture(autouse=True)
    def of_the_relays_user(self, path: Path) -> None:
        path.with_name("outbox.db.lock").unlink()
        for each in (path.parent, path):
            os.chown(each, 65533, 65532)

    def owners(self, path: Path) -> dict[str, tuple[int, int]]:
        return {each.name: (each.stat().st_uid, each.stat().st_gid) for each in path.parent.glob("outbox.db*")}

    def test_new_files_beside_the_outbox_belong_to_the_relay(self, environ: dict[str, str], path: Path) -> None:
        os.chown(path.parent, 0, 0)

        assert call("dead", "list", environ=environ).exit_code == 0
        assert self.owners(path) == dict.fromkeys(["outbox.db", "outbox.db.lock"], (65533, 65532))

    def test_the_log_of_a_killed_command_belongs_to_the_relay(self, path: Path) -> None:
        root = Path(__file__).parents[3]
        command = [sys.executable, "-c", HOLD, str(path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, cwd=root) as holder:
            assert holder.stdout is not None
            assert holder.stdout.readline() == b"held\n"
            holder.kill()

        assert self.owners(path)["outbox.db-wal"] == (65533, 65532)

    def test_a_new_or_replaced_outbox_belongs_to_the_relay(self, path: Path) -> None:
        asyncio.run(figures(path.with_name("outbox.db-2")))
        no_database(path)
        os.chown(path.parent, 0, 0)
        asyncio.run(figures(path))

        assert self.owners(path).keys() > {"outbox.db", "outbox.db-2", "outbox.db.broken-1"}
        assert set(self.owners(path).values()) == {(65533, 65532)}

    def test_the_owner_of_existing_files_does_not_change(
        self, environ: dict[str, str], path: Path, tmp_path: Path
    ) -> None:
        (tmp_path / "of root").touch()
        path.with_name("outbox.db.lock").hardlink_to(tmp_path / "of root")

        assert call("dead", "list", environ=environ).exit_code == 0
        assert (tmp_path / "of root").stat().st_uid == 0
