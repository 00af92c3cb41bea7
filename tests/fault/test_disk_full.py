"""A full disk: another process filled the partition, or a quota is reached. The relay recovers without a restart."""

from __future__ import annotations

import errno
import json
import resource
import signal
from pathlib import Path

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, running
from tests.fault import mounts
from tests.fault.apps import Fleet, all_settled, flush, ready, settings, timed_event, until_ready
from tests.fault.shim import WRITE, Shim, needs_cc

DEVICES = 5


async def test_a_partition_filled_by_another_process(sandbox: Sandbox, tmp_path: Path) -> None:
    """A file of another process takes the last byte and is deleted later."""
    mounts.needs("tmpfs")
    fleet = Fleet(DEVICES)
    with mounts.tmpfs(tmp_path, mib=4) as disk:
        async with running(settings(sandbox.url, disk)) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await fleet.until(stored=20)
                filler = mounts.fill(disk)
                await until_ready(relay, False)
                assert (await relay.request("GET", "/livez"))[0] == 200
                assert (await relay.request("POST", "/v1/events", b"{}"))[0] == 422, (
                    "an invalid event must be rejected with 422 also while the disk is full"
                )
                filler.unlink()
                await until_ready(relay)
                await fleet.until(stored=20)
            assert fleet.statuses.get(503)
            await all_settled(relay, sandbox, fleet)


async def test_a_partition_whose_inodes_are_used_up(sandbox: Sandbox, tmp_path: Path) -> None:
    """A start cannot create its -wal, although bytes are free."""
    mounts.needs("tmpfs")
    fleet = Fleet(DEVICES)
    with mounts.tmpfs(tmp_path, mib=32, inodes=16) as disk:
        env = settings(sandbox.url, disk)
        async with running(env) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await fleet.until(stored=20)
            relay.process.send_signal(signal.SIGTERM)
            assert await relay.ended() == 0  # A clean stop deletes the -wal.
        small = use_up_inodes(disk)
        async with running(env) as relay:
            fleet.address = relay.http
            assert not await ready(relay)
            assert "the disk is full: the file system has no inode left" in await problem(relay)
            assert await fleet.post_one() == 503
            assert (await relay.request("GET", "/livez"))[0] == 200
            for each in small:
                each.unlink()
            await until_ready(relay)
            async with fleet.sending():
                await fleet.until(stored=20)
            await all_settled(relay, sandbox, fleet)


@needs_cc
@pytest.mark.parametrize("number", [errno.EDQUOT, errno.ENOSPC, errno.EFBIG], ids=errno.errorcode.get)
async def test_a_quota_is_reported_as_a_full_disk(sandbox: Sandbox, tmp_path: Path, number: int) -> None:
    """SQLite reports an exceeded quota as a disk I/O error; the relay reports a full disk."""
    fleet, shim = Fleet(DEVICES), Shim(tmp_path / "orders")
    async with running(shim.around(settings(sandbox.url, tmp_path / "state"))) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=20)
            shim.fail(WRITE, number)
            await until_ready(relay, False)
            assert "the disk is full" in await problem(relay)
            assert await fleet.post_one() == 503
            shim.heal()
            await until_ready(relay)
            await fleet.until(stored=20)
        await all_settled(relay, sandbox, fleet, repeats=10)


async def test_a_partition_filled_after_the_wal_grew(sandbox: Sandbox, tmp_path: Path) -> None:
    """The -wal has free space, the database file cannot grow: stored events stay and are delivered later."""
    mounts.needs("tmpfs")
    sandbox.faults.add(Misbehaviour(answer=503))
    with mounts.tmpfs(tmp_path, mib=32) as disk:
        async with running(settings(sandbox.url, disk)) as relay:
            stored = 0
            while (disk / "outbox.db-wal").stat().st_size < 2 << 20:
                assert (await post(relay, range(stored, stored + 1_000)))[0] == 202
                stored += 1_000
            filler = mounts.fill(disk)
            while (await post(relay, range(stored, stored + 1_000)))[0] == 202:
                stored += 1_000
            assert "the disk is full" in await problem(relay)
            filler.unlink()
            await until_ready(relay)
            sandbox.faults.heal()
            await flush(relay)
            await relay.until(lambda status: status["ledger"]["pending"] == 0)
            report = sandbox.report()
            assert report.order_breaks == 0
            assert report.distinct - stored in (0, 1_000), "the events of the request answered with 503 may be stored"


async def test_a_file_size_limit_set_at_run_time(sandbox: Sandbox, tmp_path: Path) -> None:
    """No file of the relay may grow any more. This test needs no root."""
    fleet = Fleet(DEVICES)
    async with running(settings(sandbox.url, tmp_path / "state")) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(stored=20)
            before = resource.prlimit(relay.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (0, before[1]))
            await until_ready(relay, False)
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, before)
            await until_ready(relay)
            await fleet.until(stored=20)
        assert fleet.statuses.get(503)
        await all_settled(relay, sandbox, fleet)


async def test_a_full_outbox_drops_no_accepted_event(sandbox: Sandbox, tmp_path: Path) -> None:
    """The outbox reaches `outbox.max_size`: apps get 503, and the relay delivers every stored event later."""
    sandbox.faults.add(Misbehaviour(answer=503))
    directory = tmp_path / "state"
    async with running(settings(sandbox.url, directory, outbox__max_size="1MiB")) as relay:
        stored = 0
        for events in (50, 1):
            while (response := await post(relay, range(stored, stored + events)))[0] == 202:
                stored += events
        status, headers, _ = response
        assert status == 503
        assert int(headers["retry-after"]) > 0
        assert not await ready(relay)
        assert sum(path.stat().st_size for path in directory.iterdir()) <= 1 << 20
        sandbox.faults.heal()
        await until_ready(relay)
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
        report = sandbox.report()
        assert (report.distinct, report.order_breaks) == (stored, 0)


async def post(relay: RelayProcess, numbers: range) -> tuple[int, dict[str, str], bytes]:
    events = [timed_event(n, "device-00") | {"context": {"n": n, "pad": "x" * 500}} for n in numbers]
    return await relay.request("POST", "/v1/events", json.dumps(events).encode())


async def problem(relay: RelayProcess) -> str:
    """Return the problem that /readyz reports."""
    _, _, body = await relay.request("GET", "/readyz")
    return str(json.loads(body)["problem"])


def use_up_inodes(directory: Path) -> list[Path]:
    """Create empty files until no inode is free, and return them. Remove them to free the inodes."""
    made: list[Path] = []
    try:
        while len(made) < 100:
            made.append(directory / f"small-{len(made)}")
            made[-1].touch()
    except OSError:
        return made[:-1]
    raise AssertionError("100 files did not use up the inodes")


def test_a_filled_disk_is_full(tmp_path: Path) -> None:
    """`fill` leaves no free byte."""
    mounts.needs("tmpfs")
    with mounts.tmpfs(tmp_path, mib=4) as disk:
        mounts.fill(disk)
        with pytest.raises(OSError, match="No space"):
            (disk / "more").write_bytes(b"x" * 4096)
