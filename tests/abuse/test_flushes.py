"""An app that requests flushes in a loop does not make the relay probe a failing upstream as often."""

from __future__ import annotations

import time
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.record import Record
from relay.sandbox.server import Sandbox

from tests.abuse.box import connect
from tests.e2e.harness import environment, event, running
from tests.fault.sizes import size

FLUSH = b"POST /flush HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: 2\r\n\r\n{}"


def requests(record: Record) -> int:
    return sum(1 for _ in record.requests())


async def test_flushes_in_a_loop_probe_a_failing_upstream_once_a_second(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=503))
    env = environment(sandbox.url, tmp_path, retry__initial="1h", retry__max="1h")
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
        client = await connect(relay)
        began, before = time.monotonic(), requests(sandbox.record)
        flushes = 0
        while time.monotonic() - began < size(2, 60):
            client.send(FLUSH)
            response = await client.response()
            assert response.status == 200
            assert response.body == b'{"success":true,"pending":1}'
            flushes += 1
        client.writer.close()
        await sandbox.until(lambda record: requests(record) > before)
        probes = requests(sandbox.record) - before

        assert probes <= time.monotonic() - began + 2
        assert flushes > probes
        sandbox.faults.heal()
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
