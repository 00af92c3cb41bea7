"""`relay demo` prints commands that work, also if the default ports are in use."""

from __future__ import annotations

import re
import shlex
import socket
import subprocess
import sys
from contextlib import suppress

from relay.cli.demo import HTTP_ADDRESS


def test_the_printed_commands_use_the_port_in_use_and_follow_the_event() -> None:
    host, _, port = HTTP_ADDRESS.rpartition(":")
    with socket.socket() as occupied:
        occupied.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        with suppress(OSError):  # Another program already uses the port.
            occupied.bind((host, int(port)))
            occupied.listen()
        command = [sys.executable, "-m", "relay", "demo", "--devices", "1", "--seconds", "1"]
        text = subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout

    found = re.search(rf"^{HTTP_ADDRESS} is in use, so the relay uses (127\.0\.0\.1:\d+)\.$", text, re.MULTILINE)
    assert found
    send, follow = (shlex.split(line) for line in text.splitlines() if line.startswith("  curl "))
    assert send[2] == f"http://{found[1]}/v1/events"
    event_id = re.search(r'"event_id": "([-0-9a-f]{36})"', send[-1])
    assert event_id
    assert follow[1] == f"{send[2]}/{event_id[1]}"
    assert HTTP_ADDRESS not in text.replace(found[0], "")
