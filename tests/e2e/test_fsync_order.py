"""G1: the relay syncs the WAL (fdatasync) before it sends the 202 of an event.

strace records the system calls of the whole process, and the test reads them in order.
"""

from __future__ import annotations

import asyncio
import re
import shutil
import sys
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, environment, event, running

STRACE = shutil.which("strace")
_FINISHED_SYNC = re.compile(r"(fdatasync\(\d+<[^>]*-wal>\)|<\.\.\. fdatasync resumed>\)?).*= 0")
_WAL_WRITE = re.compile(r"pwrite64\(\d+<[^>]*-wal>")
_ACCEPTED = re.compile(r"(sendto|sendmsg|write|writev)\(\d+<[^>]*>.*HTTP/1\.1 202")


@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
async def test_the_wal_is_synced_before_each_202(sandbox: Sandbox, tmp_path: Path) -> None:
    trace = tmp_path / "trace"
    assert STRACE is not None
    calls = "trace=fdatasync,fsync,pwrite64,sendto,sendmsg,write,writev"
    tracer = [STRACE, "-D", "-f", "-y", "-s", "40", "--seccomp-bpf", "-e", calls, "-o", str(trace)]
    env = environment(sandbox.url, tmp_path, batch__linger="1s")
    async with running(env, *tracer, sys.executable, "-m", "relay", "run") as relay:
        for n in range(50):
            assert await relay.post(event(n)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 50)
    accepted, unsynced = count_responses_before_sync(await finished(trace, relay.pid))
    assert accepted == 50
    assert unsynced == 0


async def finished(trace: Path, pid: int) -> list[str]:
    """Return the lines of the complete trace. strace still writes after the process has ended."""
    end = re.compile(rf"^{pid} +\+\+\+ (killed|exited)", re.MULTILINE)
    async with asyncio.timeout(PATIENCE_S):
        while not end.search(text := trace.read_text(errors="replace")):
            await asyncio.sleep(0.02)
    return text.splitlines()


def count_responses_before_sync(trace: list[str]) -> tuple[int, int]:
    """Return the number of 202 responses, and the number of those without a finished sync of the WAL before them.

    The test sends the events one after the other, so each 202 needs its own sync.
    """
    accepted = unsynced = 0
    written = synced = False
    for line in trace:
        if _WAL_WRITE.search(line):
            written, synced = True, False
        elif _FINISHED_SYNC.search(line):
            synced = written
        elif _ACCEPTED.search(line):
            accepted += 1
            unsynced += not (written and synced)
            written = synced = False
    return accepted, unsynced


def test_the_trace_reader_detects_a_response_before_the_sync() -> None:
    write = '7 pwrite64(9</d/outbox.db-wal>, "7"..., 4096, 32) = 4096'
    sync = "7 fdatasync(9</d/outbox.db-wal>) = 0"
    response = '6 sendto(12<TCP:[1]>, "HTTP/1.1 202 Accepted"..., 200, 0, NULL, 0) = 200'
    assert count_responses_before_sync([write, sync, response]) == (1, 0)
    assert count_responses_before_sync([write, response, sync]) == (1, 1)
    assert count_responses_before_sync([write, sync, response, response]) == (2, 1)
