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
from typing import Any

import psycopg

_SETTINGS = ("listen_addresses=127.0.0.1", "unix_socket_directories=", "max_connections=200")


def find_tools() -> Path | None:
    """Return the directory of initdb and pg_ctl."""
    places = [*Path("/usr/lib/postgresql").glob("*/bin")]
    found = shutil.which("initdb")
    places += [Path(found).resolve().parent] if found else []
    return next((place for place in places if (place / "initdb").exists() and (place / "pg_ctl").exists()), None)


class PostgresCluster:
    """One running server. Each test has a database of its own."""

    def __init__(self, tools: Path, *settings: str, directory: Path | None = None, port: int = 0) -> None:
        """`directory`: where the files are; None: in a new temporary directory. `port`: 0 selects a free one."""
        self._tools = tools
        self._settings = (*_SETTINGS, *(settings or ("fsync=off",)))
        self._directory = directory or Path(tempfile.mkdtemp(prefix="relay-postgres-"))
        self._data = str(self._directory / "data")
        self._databases = 0
        with socket.socket() as probe:
            probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            probe.bind(("127.0.0.1", port))
            self.port: int = probe.getsockname()[1]

    def start(self) -> None:
        self._own()
        self._run("initdb", "-A", "trust", "-U", "postgres", "-E", "UTF8", "--no-locale", "--no-sync", "-D", self._data)
        self._start()

    def beside(self, *settings: str, directory: Path | None = None) -> PostgresCluster:
        """Return another server, with other settings."""
        return PostgresCluster(self._tools, *settings, directory=directory)

    def start_standby(self, port: int = 0) -> PostgresCluster:
        """Return a new server that replicates this one, and let every commit wait for it."""
        standby = PostgresCluster(self._tools, *self._settings, port=port)
        standby._own()
        source = f"host=127.0.0.1 port={self.port} user=postgres application_name=standby"
        standby._run("pg_basebackup", "-R", "--no-sync", "-c", "fast", "-D", standby._data, "-d", source)
        standby._start()
        self.execute("ALTER SYSTEM SET synchronous_standby_names = 'standby'", "SELECT pg_reload_conf()")
        return standby

    def promote(self) -> None:
        """Make this standby the primary. It has no standby of its own."""
        self._run("pg_ctl", "-w", "-D", self._data, "promote")

    def execute(self, *statements: str) -> list[tuple[Any, ...]]:
        """Execute statements, and return the rows of the last one."""
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            for statement in statements:
                cursor = connection.execute(statement.encode())
            return cursor.fetchall() if cursor.description else []

    def kill(self) -> None:
        """Kill all processes of the server."""
        self._run("pg_ctl", "-m", "immediate", "-D", self._data, "stop")

    def kill_and_restart(self) -> None:
        """Kill the server, and start it again. It recovers every commit (the system keeps running)."""
        self.kill()
        self._start()

    def _own(self) -> None:
        if os.getuid() == 0:
            shutil.chown(self._directory, "postgres", "postgres")

    def _start(self) -> None:
        options = " ".join(f"-c {setting}" for setting in (*self._settings, f"port={self.port}"))
        self._run("pg_ctl", "-w", "-D", self._data, "-l", str(self._directory / "log"), "-o", options, "start")

    def stop(self) -> None:
        self.kill()
        self.remove()

    def remove(self) -> None:
        shutil.rmtree(self._directory)

    @property
    def pid(self) -> int:
        return int(Path(self._data, "postmaster.pid").read_text().splitlines()[0])

    def create_database(self, options: str = "") -> str:
        """Return the URL of a new database."""
        self._databases += 1
        name = f"test{self._databases}"
        self.execute(f"CREATE DATABASE {name} {options}")
        return self.url(name)

    def url(self, database: str) -> str:
        return f"postgresql://postgres@127.0.0.1:{self.port}/{database}"

    def _run(self, tool: str, *arguments: str) -> None:
        command: Sequence[str] = [str(self._tools / tool), *arguments]
        if os.getuid() == 0:
            command = ["setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", *command]
        subprocess.run(command, check=True, capture_output=True, cwd="/", timeout=60)
