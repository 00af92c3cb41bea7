"""The unit is valid, hardened, and permits everything that the relay needs."""

from __future__ import annotations

import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from relay.app.passed_sockets import PassedSockets
from relay.config import Http, Udp
from relay.sandbox.server import Sandbox

from tests.deploy.test_sockets import BUFFER_BYTES
from tests.e2e.harness import KEY, PATIENCE_S, environment, event, running

UNIT = Path(__file__).parents[2] / "deploy" / "systemd" / "event-relay.service"
SOCKET_UNITS = {name: UNIT.with_name(f"event-relay-{name}.socket") for name in ("http", "unix", "udp", "ops")}
ANALYZE, STRACE = shutil.which("systemd-analyze"), shutil.which("strace")
MAX_EXPOSURE = 1.5
PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN = 65, 1  # prctl(2)

needs_systemd = pytest.mark.skipif(ANALYZE is None, reason="systemd-analyze is not installed")


def settings(unit: Path = UNIT) -> dict[str, list[str]]:
    """Return the settings of a unit. A repeated setting has several values."""
    found: dict[str, list[str]] = {}
    for line in unit.read_text().splitlines():
        name, given, value = line.partition("=")
        if given and not line.startswith("#"):
            found.setdefault(name, []).append(value)
    return found


def analyze(*arguments: str) -> subprocess.CompletedProcess[str]:
    assert ANALYZE is not None
    return subprocess.run([ANALYZE, *arguments], capture_output=True, text=True, timeout=PATIENCE_S, check=False)


def installed(tmp_path: Path) -> Path:
    """Return a copy of the unit that starts the relay of this Python."""
    program = Path(sys.executable).with_name("relay")
    unit = tmp_path / UNIT.name
    unit.write_text(UNIT.read_text().replace("/opt/event-relay/bin/relay", str(program)))
    return unit


@needs_systemd
def test_systemd_reports_no_problem_of_the_unit(tmp_path: Path) -> None:
    analysis = analyze("verify", "--man=no", str(installed(tmp_path)))

    assert (analysis.returncode, analysis.stdout + analysis.stderr) == (0, "")


@needs_systemd
def test_systemd_reports_no_problem_of_the_socket_units(tmp_path: Path) -> None:
    installed(tmp_path)
    units = [str(shutil.copy(unit, tmp_path)) for unit in SOCKET_UNITS.values()]

    analysis = analyze("verify", "--man=no", *units)

    assert (analysis.returncode, analysis.stdout + analysis.stderr) == (0, "")


def test_each_socket_unit_has_the_name_and_the_default_address_of_its_listener() -> None:
    units = {name: settings(unit) for name, unit in SOCKET_UNITS.items()}

    assert {name: unit["FileDescriptorName"] for name, unit in units.items()} == {name: [name] for name in units}
    assert tuple(units) == PassedSockets._fields
    assert tuple(units["http"]["ListenStream"]) == Http().listen
    assert tuple(units["udp"]["ListenDatagram"]) == Udp().listen
    assert units["udp"]["ReceiveBuffer"] == [f"{BUFFER_BYTES >> 20}M"]
    assert {unit["Service"][0] for unit in units.values()} == {UNIT.name}


async def test_a_reload_by_the_unit_needs_a_shell_only(sandbox: Sandbox, tmp_path: Path) -> None:
    shell, option, script = shlex.split(settings()["ExecReload"][0])
    async with running(environment(sandbox.url, tmp_path)) as relay:
        env = {"MAINPID": str(relay.pid), "PATH": ""}
        subprocess.run([shell, option, script.replace("$$", "$")], env=env, check=True)
        await relay.logged("configuration applied")


@needs_systemd
def test_exposure_is_low(tmp_path: Path) -> None:
    analysis = analyze("security", "--offline=true", "--no-pager", str(installed(tmp_path)))
    if "unrecognized option" in analysis.stderr:
        pytest.skip("this systemd-analyze cannot check a unit that is not installed")

    exposure = re.search(r"Overall exposure level for event-relay\.service: ([0-9.]+)", analysis.stdout)

    assert exposure is not None, analysis.stderr
    assert float(exposure[1]) <= MAX_EXPOSURE


def test_the_unit_permits_everything_that_the_relay_needs() -> None:
    """The relay reads the boot id from /proc/sys, notifies a unix socket, reads netlink and has a state directory."""
    unit = settings()

    assert "ProcSubset" not in unit
    assert {"AF_UNIX", "AF_NETLINK"} <= set(unit["RestrictAddressFamilies"][0].split())
    assert unit["StateDirectory"] == ["event-relay"]
    assert unit["LoadCredential"] == ["upstream.api_key:/etc/event-relay/key"]


def test_the_unit_does_not_start_beside_an_outbox_of_the_earlier_unit() -> None:
    assert settings()["AssertPathExists"] == ["!/var/lib/private/relay/outbox.db"]


@needs_systemd
@pytest.mark.skipif(STRACE is None, reason="strace is not installed")
async def test_the_unit_allows_all_system_calls_of_the_relay(sandbox: Sandbox, tmp_path: Path) -> None:
    """A start by the unit's settings, a delivery, a reload and a stop use no call that SystemCallFilter forbids."""
    trace = tmp_path / "trace"
    assert STRACE is not None
    tracer = [STRACE, "-D", "-f", "-qq", "-o", str(trace)]
    env = environment(sandbox.url, tmp_path) | as_systemd_starts_it(tmp_path)
    del env["RELAY__OUTBOX__PATH"], env["RELAY__UPSTREAM__API_KEY"]
    async with running(env, *tracer, sys.executable, "-m", "relay", "run") as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        relay.signal(signal.SIGHUP)
        await relay.logged("configuration applied")
        relay.signal(signal.SIGTERM)
        assert await relay.ended() == 0

    called = set(re.findall(r"^\d+ +(\w+)\(", trace.read_text(errors="replace"), re.MULTILINE))

    assert {"fdatasync", "sendto"} <= called
    as_root = {"fchown"} if os.geteuid() == 0 else set()  # SQLite calls it only as root, unlike under DynamicUser.
    assert called - allowed() - as_root == set()
    assert (tmp_path / "state" / "outbox.db").stat().st_mode & 0o777 == 0o600


async def test_the_relay_runs_without_writable_code(sandbox: Sandbox, tmp_path: Path) -> None:
    """The kernel's prctl(2) for it (Linux 6.3) replaces MemoryDenyWriteExecute=."""
    forbid = (
        "import ctypes, os, sys\n"
        f"ctypes.CDLL(None).prctl({PR_SET_MDWE}, {PR_MDWE_REFUSE_EXEC_GAIN}, 0, 0, 0) and sys.exit(77)\n"
        "os.execv(sys.executable, [sys.executable, '-m', 'relay', 'run'])"
    )
    if (
        subprocess.run([sys.executable, "-c", forbid, "probe"], env={}, check=False, capture_output=True).returncode
        == 77
    ):
        pytest.skip("this kernel has no PR_SET_MDWE")
    async with running(environment(sandbox.url, tmp_path), sys.executable, "-c", forbid) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)


def as_systemd_starts_it(tmp_path: Path) -> dict[str, str]:
    """Return the environment that systemd sets: credential, state directory and notification socket."""
    credentials = tmp_path / "credentials"
    credentials.mkdir()
    (credentials / "upstream.api_key").write_text(KEY)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as manager:
        manager.bind(str(tmp_path / "notify"))
    return {
        "CREDENTIALS_DIRECTORY": str(credentials),
        "STATE_DIRECTORY": str(tmp_path / "state"),
        "NOTIFY_SOCKET": str(tmp_path / "notify"),
        "WATCHDOG_USEC": "120000000",
    }


def allowed() -> set[str]:
    """Return the system calls that SystemCallFilter allows, by the tables of the installed systemd."""
    first, *rest = settings()["SystemCallFilter"]
    calls = expanded(first)
    for more in rest:
        assert more.startswith("~")
        for group in more.removeprefix("~").split():
            calls -= expanded(group)
    return calls


def expanded(group: str) -> set[str]:
    lines = [line.strip() for line in analyze("syscall-filter", "--no-pager", group).stdout.splitlines()]
    names = [line for line in lines if line and not line.startswith("#") and line != group]
    return set().union(*(expanded(name) if name.startswith("@") else {name} for name in names))
