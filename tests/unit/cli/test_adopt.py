"""`relay adopt` and `relay prepare-image`: through a running relay, and on the outbox without one."""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from uuid import uuid4

import pytest
from relay.app import installation
from relay.cli.outbox_on_disk import NoHolder
from relay.config import OutboxSettings
from relay.event.reader import Event
from relay.outbox import Ledger
from relay.outbox.factory import create_outbox
from relay.runtime.clock import SystemClock
from relay.runtime.machine import MachineIds
from relay.runtime.metrics import Metrics
from relay.runtime.tasks import Tasks

from tests.unit.cli.harness import NotedRelay, answering, call

BOX, OTHER_BOX = MachineIds("a" * 32, ""), MachineIds("b" * 32, "")


async def opened(path: Path, ids: MachineIds | None, events: int = 0) -> tuple[Ledger, int]:
    """Open the outbox on a machine, append events, and close it. Return its ledger and its quarantined events."""
    tasks = Tasks()
    outbox = create_outbox(OutboxSettings(path=path), SystemClock(), Metrics(), tasks, ids=ids)
    await outbox.open()
    await outbox.load(NoHolder())
    if events:
        await outbox.append([Event(uuid4().bytes, (1, "tv", "tv-1"), b'{"n":%d}' % n) for n in range(events)])
    found = outbox.ledger(), outbox.gauges().quarantined
    await outbox.close()
    await tasks.cancel_all()
    return found


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Return the path of an outbox that quarantined three events of another machine."""
    path = tmp_path / "state" / "outbox.db"
    asyncio.run(opened(path, BOX, 3))
    assert asyncio.run(opened(path, OTHER_BOX)) == (Ledger(accepted=3, pending=3), 3)
    return path


@pytest.fixture
def environ(path: Path, absent_relay: dict[str, str]) -> dict[str, str]:
    return {**absent_relay, "RELAY__OUTBOX__PATH": str(path)}


def test_adopt_opens_the_outbox_if_no_relay_runs(environ: dict[str, str], path: Path) -> None:
    result = call("adopt", environ=environ)

    assert (result.exit_code, result.stdout) == (0, "3 events adopted\n")
    assert asyncio.run(opened(path, OTHER_BOX)) == (Ledger(accepted=3, pending=3), 0)


def test_discard_opens_the_outbox_if_no_relay_runs(environ: dict[str, str], path: Path) -> None:
    result = call("adopt", "--discard", "--json", environ=environ)

    assert json.loads(result.stdout) == {"discarded": 3}
    assert asyncio.run(opened(path, OTHER_BOX)) == (Ledger(accepted=3, dropped=3), 0)


@pytest.mark.parametrize(("options", "done"), [([], "adopted"), (["--discard"], "discarded")])
def test_adopt_calls_a_running_relay_until_no_event_is_quarantined(options: list[str], done: str) -> None:
    relay = NotedRelay()
    relay.outbox.state = relay.outbox.state._replace(quarantined=10_000)
    with answering(relay):
        result = call("adopt", *options, "--json", environ=relay.environ)

    assert json.loads(result.stdout) == {done: 10_000}
    assert relay.outbox.state.quarantined == 0


def test_an_image_is_not_prepared_while_a_relay_runs() -> None:
    relay = NotedRelay()
    with answering(relay):
        result = call("prepare-image", environ=relay.environ)

    assert result.exit_code == 75
    assert "stop it first" in result.stderr


def test_an_image_is_not_prepared_while_events_are_pending_and_nothing_changes(
    environ: dict[str, str], path: Path
) -> None:
    (path.parent / "device_id").write_text("x\n")

    result = call("prepare-image", environ=environ)

    assert result.exit_code == 1
    assert "3 events are pending" in result.stderr
    assert (path.parent / "device_id").exists()
    assert asyncio.run(opened(path, OTHER_BOX)) == (Ledger(accepted=3, pending=3), 3)


def test_a_prepared_image_has_no_pending_events_no_installation_and_no_machine(
    environ: dict[str, str], path: Path
) -> None:
    installation.identify(path.parent, OTHER_BOX, SystemClock().new_event_id)

    result = call("prepare-image", "--discard", environ=environ)

    assert result.stdout == "ready to be cloned: 3 events discarded, installation id removed\n"
    assert sorted(file.name for file in path.parent.iterdir() if "outbox" not in file.name) == []
    asyncio.run(opened(path, BOX, 2))
    assert asyncio.run(opened(path, BOX)) == (Ledger(accepted=5, dropped=3, pending=2), 0)


def test_an_image_without_an_outbox_is_prepared(absent_relay: dict[str, str], tmp_path: Path) -> None:
    result = call(
        "prepare-image", "--json", environ={**absent_relay, "RELAY__OUTBOX__PATH": str(tmp_path / "outbox.db")}
    )

    assert json.loads(result.stdout) == {"discarded": 0}


def test_an_image_is_not_prepared_if_the_outbox_cannot_be_looked_up(absent_relay: dict[str, str]) -> None:
    result = call("prepare-image", environ={**absent_relay, "RELAY__OUTBOX__PATH": f"/{'x' * 300}/outbox.db"})

    assert result.exit_code == 1
    assert "File name too long" in result.stderr
