"""Writes and flushes that fail, sometimes or always, or are slow, under a running relay."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import running
from tests.fault import mounts
from tests.fault.apps import Fleet, all_settled, balanced, ready, settings, until_ready
from tests.fault.shim import ANY, SYNC, WRITE, Shim, needs_cc
from tests.fault.sizes import LONG_S, size, some

DEVICES = 5
pytestmark = pytest.mark.timeout(LONG_S)


@needs_cc
@pytest.mark.parametrize(
    ("which", "error"),
    some(
        [pytest.param(SYNC, errno.EIO, id="fsync-EIO"), pytest.param(WRITE, errno.ENOSPC, id="write-ENOSPC")],
        [pytest.param(WRITE, errno.EIO, id="write-EIO"), pytest.param(ANY, errno.EROFS, id="all-EROFS")],
    ),
)
async def test_a_disk_that_fails_for_a_while(sandbox: Sandbox, tmp_path: Path, which: int, error: int) -> None:
    """The relay sends no 202 meanwhile, and recovers by itself."""
    fleet, shim = Fleet(DEVICES), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=20)
            shim.fail(which, error)
            await until_ready(relay, False)
            stored = len(fleet.stored)
            assert await fleet.post_one() == 503
            assert len(fleet.stored) == stored, "the relay sent a 202 while it could not write"
            assert shim.hits
            shim.heal()
            await until_ready(relay)
            await fleet.until(stored=20)
        await all_settled(relay, sandbox, fleet, repeats=10)


@needs_cc
@pytest.mark.parametrize("which", [pytest.param(SYNC, id="fsync"), pytest.param(WRITE, id="write")])
async def test_the_nth_call_fails_once_for_every_n(sandbox: Sandbox, tmp_path: Path, which: int) -> None:
    """One call fails within an append, a journal entry, a settlement or a checkpoint.

    The first call fails, then the second in another round, and so on, until a round meets no fault.
    """
    fleet, shim = Fleet(1), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        nth, met = 1, True
        while met:
            shim.fail(which, first=nth, last=nth)
            async with fleet.sending():
                await fleet.until(stored=1)
            status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
            assert balanced(status)
            met = bool(shim.hits)
            nth += 1 if which == SYNC else size(3, 1)
        shim.heal()
        assert nth > 3
        await all_settled(relay, sandbox, fleet, repeats=nth)


@needs_cc
async def test_the_nth_call_of_a_start_fails_for_every_n(sandbox: Sandbox, tmp_path: Path) -> None:
    """The relay starts with a failing disk, and stores events once the disk works."""
    fleet, shim = Fleet(1), Shim(tmp_path / "orders")
    env = settings(sandbox.url, tmp_path / "state")
    nth, met = 1, True
    while met:
        shim.fail(ANY, first=nth)
        async with running(shim.around(env)) as relay:
            fleet.address = relay.http
            met = bool(shim.hits)
            assert (await relay.request("GET", "/livez"))[0] == 200
            shim.heal()
            await until_ready(relay)
            async with fleet.sending():
                await fleet.until(stored=1)
            await relay.until(lambda status: status["ledger"]["pending"] == 0)
            await relay.kill()
        nth += size(4, 1)
    async with running(env) as relay:
        await all_settled(relay, sandbox, fleet, repeats=nth)


@needs_cc
async def test_a_slow_disk(sandbox: Sandbox, tmp_path: Path) -> None:
    """Each flush takes 300 ms. The relay commits appends together, and responds to all with 202."""
    fleet, shim = Fleet(DEVICES), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        shim.slow(SYNC, delay_ms=300)
        async with fleet.sending():
            await fleet.until(stored=3 * DEVICES)
            assert await ready(relay)
            assert (await relay.request("GET", "/livez"))[0] == 200
        shim.heal()
        assert set(fleet.statuses) == {202}
        await all_settled(relay, sandbox, fleet)


async def test_a_file_system_that_turns_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    """The kernel remounts the file system read-only after an error (errors=remount-ro), as with a failing eMMC.

    Apps send meanwhile. The relay reports the problem and stores nothing more. After a repair and a restart, every
    event answered with 202 is stored. While ext4 aborts its journal, it may report a sync as successful and lose the
    new file size, so no commit changes a file's size (see relay.outbox.sqlite.wal).
    """
    mounts.needs("ext4")
    fleet = Fleet(DEVICES)
    with mounts.ext4(tmp_path, mib=16) as disk:
        trigger = Path("/sys/fs/ext4") / mounts.loop_device(disk) / "trigger_fs_error"
        if not trigger.exists():
            pytest.skip("this kernel has no trigger_fs_error")
        async with fleet.sending():
            async with running(settings(sandbox.url, disk)) as relay:
                fleet.address = relay.http
                await fleet.until(stored=20)
                trigger.write_text("1")
                await until_ready(relay, False)
                assert await fleet.post_one() == 503
                assert (await relay.request("GET", "/livez"))[0] == 200
            mounts.run("umount", str(disk))
            # The repair uses a copy: the kernel may still use the old read-only file system of the image.
            repaired = shutil.copy(tmp_path / "disk.img", tmp_path / "repaired.img")
            mounts.run("mount", "-o", "loop", str(repaired), str(disk))
            async with running(settings(sandbox.url, disk)) as relay:
                fleet.address = relay.http
                await fleet.until(stored=20)
                fleet.stop()
                await all_settled(relay, sandbox, fleet, repeats=20)
