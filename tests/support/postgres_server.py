"""A private PostgreSQL server for tests: its own cluster in a temporary directory, on a free port of the loopback.

PostgreSQL does not run as root, so root runs it as the user postgres. `find_tools` returns None where it is missing.
"""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
import tempfile
from collections.abc import Sequence
from pathlib import Path

import psycopg

_SETTINGS = ("fsync=off", "listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200")


def find_tools() -> Path | None:
    """Return the directory of initdb and pg_ctl."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("initdb")
    places += [Path(found).resolve().parent] if found else []
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


class PostgresCluster:
    """One running server. Each test has a database of its own."""

    def __init__(self, tools: Path) -> None:
        self._tools = tools
        self._directory = Path(tempfile.mkdtemp(prefix="relay-postgres-"))
        self._data = str(self._directory / "data")
        self._databases = 0
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port: int = probe.getsockname()[1]

    def start(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self._directory, "postgres", "postgres")
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync", "-D", self._data)
        self._start()

    def kill_and_restart(self) -> None:
        """Kill all processes of the server, and start it again. It recovers every commit (the system keeps running)."""
        self._run("pg_ctl", "-m", "immediate", "-D", self._data, "stop")
        self._start()

    def _start(self) -> None:
        options = " ".join(f"-c {setting}" for setting in (*_SETTINGS, f"port={self.port}"))
        self._run("pg_ctl", "-w", "-D", self._data, "-l", str(self._directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        self._run("pg_ctl", "-m", "immediate", "-D", self._data, "stop")
        shutil.rmtree(self._directory, ignore_errors=True)  # A process of the server may still remove files.

    def create_database(self) -> str:
        """Return the URL of a new database."""
        self._databases += 1
        name = f"test{self._databases}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, tool: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._tools / tool), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)
