"""A worn flash chip under a running relay: writes and flushes fail, now and then or for good, or take their time."""

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
    """Bad blocks, a controller that resets: no 202 is given, and it goes on by itself once the disk does."""
    fleet, shim = Fleet(DEVICES), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(kept=20)
            shim.fail(which, error)
            await until_ready(relay, False)
            kept = len(fleet.kept)
            assert await fleet.post_one() == 503
            assert len(fleet.kept) == kept, "a 202 while nothing can be written"
            assert shim.hits
            shim.heal()
            await until_ready(relay)
            await fleet.until(kept=20)
        await all_settled(relay, sandbox, fleet, repeats=10)


@needs_cc
@pytest.mark.parametrize("which", [pytest.param(SYNC, id="fsync"), pytest.param(WRITE, id="write")])
async def test_the_nth_call_fails_once_for_every_n(sandbox: Sandbox, tmp_path: Path, which: int) -> None:
    """One bad block, met at any step: of an append, of the journal, of a settlement, of a checkpoint.

    The first call fails, then the second in another round, and so on, until a whole round meets no fault.
    """
    fleet, shim = Fleet(1), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        nth, met = 1, True
        while met:
            shim.fail(which, first=nth, last=nth)
            async with fleet.sending():
                await fleet.until(kept=1)
            status = await relay.until(lambda status: status["ledger"]["pending"] == 0)
            assert balanced(status)
            met = bool(shim.hits)
            nth += 1 if which == SYNC else size(3, 1)
        shim.heal()
        assert nth > 3
        await all_settled(relay, sandbox, fleet, repeats=nth)


@needs_cc
async def test_the_nth_call_of_a_start_fails_for_every_n(sandbox: Sandbox, tmp_path: Path) -> None:
    """A bad block that is met while the box boots: the relay starts all the same, and works once the disk does."""
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
                await fleet.until(kept=1)
            await relay.until(lambda status: status["ledger"]["pending"] == 0)
            await relay.kill()
        nth += size(4, 1)
    async with running(env) as relay:
        await all_settled(relay, sandbox, fleet, repeats=nth)


@needs_cc
async def test_a_disk_that_takes_its_time(sandbox: Sandbox, tmp_path: Path) -> None:
    """A flash chip that collects its garbage: each flush takes 300 ms. Everybody is answered, together, and in time."""
    fleet, shim = Fleet(DEVICES), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        shim.slow(SYNC, delay_ms=300)
        async with fleet.sending():
            await fleet.until(kept=3 * DEVICES)
            assert await ready(relay)
            assert (await relay.request("GET", "/livez"))[0] == 200
        shim.heal()
        assert set(fleet.answers) == {202}
        await all_settled(relay, sandbox, fleet)


async def test_a_file_system_that_turns_read_only(sandbox: Sandbox, tmp_path: Path) -> None:
    """What a dying eMMC does: the kernel meets an error and remounts read-only (errors=remount-ro). For good.

    Apps send at that moment. The relay reports it, and stores nothing more. After a repair and a restart every event
    that got a 202 is there: while ext4 aborts its journal it may report a sync as successful whose new file size is
    lost, so no commit changes a file's size (see relay.outbox.sqlite.wal).
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
                await fleet.until(kept=20)
                trigger.write_text("1")
                await until_ready(relay, False)
                assert await fleet.post_one() == 503
                assert (await relay.request("GET", "/livez"))[0] == 200
            mounts.run("umount", str(disk))
            # a copy, as a repair makes it: the kernel may still hold the old file system, read-only, for that image
            repaired = shutil.copy(tmp_path / "disk.img", tmp_path / "repaired.img")
            mounts.run("mount", "-o", "loop", str(repaired), str(disk))
            async with running(settings(sandbox.url, disk)) as relay:
                fleet.address = relay.http
                await fleet.until(kept=20)
                fleet.stop()
                await all_settled(relay, sandbox, fleet, repeats=20)
