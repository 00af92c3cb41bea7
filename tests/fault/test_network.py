"""Without a network the relay tries often and cheaply, and at once when the network changes."""

from __future__ import annotations

import shutil
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from tests.e2e.harness import PATIENCE_S, environment, event, running, serving
from tests.fault.network_namespace import SHELL


def _in_namespace(*command: str) -> list[str]:
    return ["unshare", "--net", *command]


def _has_namespaces() -> bool:
    needed = shutil.which("unshare") and shutil.which("ip")
    return bool(needed) and subprocess.run(_in_namespace("true"), check=False, capture_output=True).returncode == 0


async def test_an_upstream_that_begins_to_listen_is_found_within_seconds(tmp_path: Path) -> None:
    """A refused connection costs the upstream nothing, so that the backoff is 15 s at most and not one hour."""
    with socket.socket() as reserved:
        reserved.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        reserved.bind(("127.0.0.1", 0))
        port = reserved.getsockname()[1]
        env = environment(f"http://127.0.0.1:{port}/v1/events", tmp_path, retry__initial="1h", retry__max="1h")
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            status = await relay.until(lambda status: status["upstreams"][0]["state"] == "backing_off")
            assert status["upstreams"][0]["last_error"].startswith("cannot connect")
            reserved.close()
            async with serving(port=port):
                await relay.until(lambda status: status["ledger"]["delivered"] == 1)


@pytest.mark.skipif(not _has_namespaces(), reason="needs ip and the right to create network namespaces")
def test_a_new_address_of_the_machine_ends_the_backoff(tmp_path: Path) -> None:
    shell = SHELL.format(python=sys.executable, directory=tmp_path)
    subprocess.run(_in_namespace("sh", "-c", shell), check=True, timeout=4 * PATIENCE_S)
