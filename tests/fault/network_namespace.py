"""A scenario in a network namespace of its own, so that changes of addresses do not affect the machine.

`python -m tests.fault.network_namespace DIRECTORY` must run in the namespace, see `test_network.py`.
"""

from __future__ import annotations

import asyncio
import subprocess
import sys
from pathlib import Path

from relay.sandbox.faults import Misbehaviour

from tests.e2e.harness import environment, event, running, serving

SHELL = "ip link set lo up && exec {python} -m tests.fault.network_namespace {directory}"
_ADDRESS = "198.51.100.7/32"


async def _a_change_of_the_addresses_ends_the_backoff(directory: Path) -> None:
    """The backoff after the 503 takes up to one hour. A new address of the machine ends it within seconds."""
    async with serving() as sandbox:
        env = environment(sandbox.url, directory, retry__initial="1h", retry__max="1h")
        sandbox.faults.add(Misbehaviour(answer=503))
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
            sandbox.faults.heal()
            subprocess.run(["ip", "address", "add", _ADDRESS, "dev", "lo"], check=True)
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            await relay.logged("the network changed")


if __name__ == "__main__":
    asyncio.run(_a_change_of_the_addresses_ends_the_backoff(Path(sys.argv[1])))
