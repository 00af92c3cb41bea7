"""The disk has no room: another app filled the partition, or a quota was met. It heals, and nobody restarts the box."""

from __future__ import annotations

import json
import resource
from pathlib import Path

import pytest
from relay.sandbox.faults import Fault
from relay.sandbox.server import Sandbox

from tests.e2e.harness import RelayProcess, running
from tests.fault import mounts
from tests.fault.apps import Fleet, all_settled, ready, settings, stamped, until_ready

DEVICES = 5


async def test_a_partition_filled_by_somebody_else(sandbox: Sandbox, tmp_path: Path) -> None:
    """A log or a download of another app takes the last byte; it is deleted later."""
    mounts.needs("tmpfs")
    fleet = Fleet(DEVICES)
    with mounts.tmpfs(tmp_path, mib=4) as disk:
        async with running(settings(sandbox.url, disk)) as relay:
            fleet.address = relay.http
            async with fleet.sending():
                await fleet.until(kept=20)
                filler = mounts.fill(disk)
                await until_ready(relay, False)
                assert (await relay.request("GET", "/livez"))[0] == 200
                assert (await relay.request("POST", "/v1/events", b"{}"))[0] == 422, (
                    "what is no event is told so, disk or no disk"
                )
                filler.unlink()
                await until_ready(relay)
                await fleet.until(kept=20)
            assert fleet.answers.get(503)
            await all_settled(relay, sandbox, fleet)


async def test_a_limit_on_file_size_met_at_run_time(sandbox: Sandbox, tmp_path: Path) -> None:
    """A quota: no file of the relay may grow any more. Not root's privilege: this is how it is tried anywhere."""
    fleet = Fleet(DEVICES)
    async with running(settings(sandbox.url, tmp_path / "state")) as relay:
        fleet.address = relay.http
        async with fleet.sending():
            await fleet.until(kept=20)
            before = resource.prlimit(relay.pid, resource.RLIMIT_FSIZE)
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, (0, before[1]))
            await until_ready(relay, False)
            resource.prlimit(relay.pid, resource.RLIMIT_FSIZE, before)
            await until_ready(relay)
            await fleet.until(kept=20)
        assert fleet.answers.get(503)
        await all_settled(relay, sandbox, fleet)


async def test_the_relays_own_limit_pushes_out_nothing_accepted(sandbox: Sandbox, tmp_path: Path) -> None:
    """Days without network: the outbox meets `outbox.max_size`. Apps get 503; all that was kept is sent later."""
    sandbox.faults.add(Fault(answer=503))
    directory = tmp_path / "state"
    async with running(settings(sandbox.url, directory, outbox__max_size="1MiB")) as relay:
        kept = 0
        for events in (50, 1):
            while (answer := await post(relay, range(kept, kept + events)))[0] == 202:
                kept += events
        status, headers, _ = answer
        assert status == 503
        assert int(headers["retry-after"]) > 0
        assert not await ready(relay)
        assert sum(path.stat().st_size for path in directory.iterdir()) <= 1 << 20
        sandbox.faults.heal()
        await until_ready(relay)
        await relay.until(lambda status: status["ledger"]["pending"] == 0)
        report = sandbox.report()
        assert (report.distinct, report.order_breaks) == (kept, 0)


async def post(relay: RelayProcess, numbers: range) -> tuple[int, dict[str, str], bytes]:
    events = [stamped(n, "device-00") | {"context": {"n": n, "pad": "x" * 500}} for n in numbers]
    return await relay.request("POST", "/v1/events", json.dumps(events).encode())


def test_a_filled_disk_is_full(tmp_path: Path) -> None:
    """The filler of these tests leaves not one byte."""
    mounts.needs("tmpfs")
    with mounts.tmpfs(tmp_path, mib=4) as disk:
        mounts.fill(disk)
        with pytest.raises(OSError, match="No space"):
            (disk / "more").write_bytes(b"x" * 4096)
