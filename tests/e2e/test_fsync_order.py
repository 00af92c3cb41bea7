"""G1, mechanically: the WAL's fdatasync comes before the 202 of every event leaves.

strace sees the system calls of the whole process; the test reads them in order.
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
    accepted, unsynced = answers_before_sync(await finished(trace, relay.pid))
    assert accepted == 50
    assert unsynced == 0


async def finished(trace: Path, pid: int) -> list[str]:
    """The lines of the trace once it ends: strace writes on after the process is gone."""
    end = re.compile(rf"^{pid} +\+\+\+ (killed|exited)", re.MULTILINE)
    async with asyncio.timeout(PATIENCE_S):
        while not end.search(text := trace.read_text(errors="replace")):
            await asyncio.sleep(0.02)
    return text.splitlines()


def answers_before_sync(trace: list[str]) -> tuple[int, int]:
    """How many 202s left, and how many of them with no finished sync of the WAL since the 202 before.

    The events come one after the other here: each 202 needs a sync of its own.
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


def test_the_reader_of_traces_sees_an_answer_that_came_too_early() -> None:
    write = '7 pwrite64(9</d/outbox.db-wal>, "7"..., 4096, 32) = 4096'
    sync = "7 fdatasync(9</d/outbox.db-wal>) = 0"
    answer = '6 sendto(12<TCP:[1]>, "HTTP/1.1 202 Accepted"..., 200, 0, NULL, 0) = 200'
    assert answers_before_sync([write, sync, answer]) == (1, 0)
    assert answers_before_sync([write, answer, sync]) == (1, 1)
    assert answers_before_sync([write, sync, answer, answer]) == (2, 1)
