"""Child processes, and the kernel's figures about them.

Rules: each process that this module starts is ended here by its pid. Its output is written to a file, so that it never
blocks on a full pipe. Figures are read from /proc, so that they do not depend on the measured program.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

PATIENCE_S = 120.0
"""Timeout of every wait. It is far above the time that a slow machine needs, and only a broken program reaches it."""
_TICKS_PER_S = os.sysconf("SC_CLK_TCK")
_POLL_S = 0.002


class Child:
    """A running program. The context manager ends it."""

    def __init__(self, command: Sequence[str], log: Path, env: Mapping[str, str] | None = None) -> None:
        self.started_at = time.monotonic()
        self._log = log
        with log.open("wb") as output:
            self._process = subprocess.Popen(
                command, stdout=output, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, env=env
            )
        self.pid = self._process.pid

    def __enter__(self) -> Child:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def wait_for_line(self, key: str) -> dict[str, Any]:
        """Wait for the first JSON line of the output that has this key, and return it."""
        deadline = time.monotonic() + PATIENCE_S
        while True:
            ended = self.ended()
            for line in self.lines():
                if key in line:
                    return line
            if ended or time.monotonic() > deadline:
                raise RuntimeError(
                    f"{self._process.args} did not print a JSON line with {key!r}:\n{self._log.read_text()[-2000:]}"
                )
            time.sleep(_POLL_S)

    def lines(self) -> list[dict[str, Any]]:
        """Return the lines of the output that are JSON objects."""
        found = []
        for line in self._log.read_text(errors="replace").splitlines():
            try:
                value = json.loads(line)
            except ValueError:
                continue
            if isinstance(value, dict):
                found.append(value)
        return found

    def ended(self) -> bool:
        return self._process.poll() is not None

    def wait(self) -> None:
        """Wait until the program has ended by itself."""
        if self._process.wait(PATIENCE_S * 5):
            raise RuntimeError(f"{self._process.args} failed:\n{self._log.read_text()[-2000:]}")

    def stop(self) -> int:
        """Send SIGTERM, then SIGKILL after 30 seconds. Return the exit code."""
        if self._process.poll() is None:
            self._process.send_signal(signal.SIGTERM)
            try:
                self._process.wait(30)
            except subprocess.TimeoutExpired:
                self.kill()
        return self._process.wait()

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()

    # -- figures of the kernel

    def cpu_s(self) -> float:
        """Return user and system time of all threads in seconds, with the resolution of a clock tick."""
        fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(") ")[2].split()
        return (int(fields[11]) + int(fields[12])) / _TICKS_PER_S

    def rss_bytes(self) -> int:
        return self._status_kib("VmRSS") * 1024

    def peak_bytes(self) -> int:
        return self._status_kib("VmHWM") * 1024

    def written_bytes(self) -> int:
        """Return the bytes that the process caused to be written to the disk, counted as dirty pages (proc(5))."""
        lines = Path(f"/proc/{self.pid}/io").read_text().splitlines()
        return int(dict(line.split(": ") for line in lines)["write_bytes"])

    def descriptors(self) -> int:
        return len(os.listdir(f"/proc/{self.pid}/fd"))

    def _status_kib(self, name: str) -> int:
        for line in Path(f"/proc/{self.pid}/status").read_text().splitlines():
            if line.startswith(f"{name}:"):
                return int(line.split()[1])
        raise RuntimeError(f"no {name} for process {self.pid}")


def python(module: str, *arguments: str, interpreter: str = sys.executable) -> list[str]:
    return [interpreter, "-m", module, *arguments]
