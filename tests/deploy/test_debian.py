"""The Debian package, installed, upgraded and removed in a new Debian system. RELAY_NIGHTLY=1 runs it (minutes)."""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import pytest
from relay import __version__

ROOT = Path(__file__).parents[2]
DEBIAN = ROOT / "deploy" / "debian"
SOURCES = Path("/etc/apt/sources.list.d/debian.sources")
SYSTEM = "python3,systemd-standalone-sysusers"
KEY = "key-of-a-test"
EVENT_ID = "550e8400-e29b-41d4-a716-446655440000"
NEXT = "99.0.0"
CONFIG = """
[upstream]
url = "http://127.0.0.1:9/v1/events"
[http]
listen = "127.0.0.1:8080"
[udp]
listen = ""
"""
SYSTEMCTL = """#!/bin/sh
echo "$@" >> /systemctl.log
case "$*" in *is-enabled*) echo enabled ;; esac
"""
"""Records what maintainer scripts ask of systemd, which does not run here."""
SESSION = """
set -e
event-relay run 2>/dev/null & relay=$!
for attempt in $(seq 600); do event-relay healthcheck >/dev/null 2>&1 && break; sleep 0.1; done
"$@"
event-relay status --json
kill -TERM $relay
wait $relay
"""
MISSING = [name for name in ("mmdebstrap", "dpkg-deb", "unshare") if shutil.which(name) is None]


def script() -> ModuleType:
    """Return the module of deploy/debian/build.py."""
    spec = importlib.util.spec_from_file_location("build_debian", DEBIAN / "build.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def wheel(path: Path, files: dict[str, bytes]) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, content in files.items():
            archive.writestr(name, content)
    return path


def test_wheels_for_several_pythons_share_one_directory(tmp_path: Path) -> None:
    """Compiled modules stand side by side. A module that differs ends the build. Sources and records are left out."""
    unpack, library = script().unpack, tmp_path / "library"
    for tag in ("311", "313"):
        files = {f"a/_c.cpython-{tag}.so": tag.encode(), "a/__init__.py": b"1", "a/_c.pyx": tag.encode()}
        unpack(wheel(tmp_path / f"a-{tag}.whl", files | {"a-1.dist-info/RECORD": tag.encode()}), library)

    assert sorted(str(path.relative_to(library)) for path in library.rglob("*") if path.is_file()) == [
        "a/__init__.py",
        "a/_c.cpython-311.so",
        "a/_c.cpython-313.so",
    ]
    with pytest.raises(ValueError, match=r"b\.whl: a/__init__\.py differs from that of another wheel"):
        unpack(wheel(tmp_path / "b.whl", {"a/__init__.py": b"2"}), library)


@pytest.mark.parametrize(
    ("arch", "left_out"), [("amd64", []), ("arm64", []), ("armhf", ["msgspec", "uvloop"])], ids=str
)
def test_each_architecture_has_all_locked_dependencies(arch: str, left_out: list[str]) -> None:
    names = [line.split("==")[0] for line in script().locked(arch).splitlines() if line[0].isalpha()]
    everything = [
        line.split("==")[0] for line in (ROOT / "requirements.lock").read_text().splitlines() if line[0].isalpha()
    ]

    assert [name for name in everything if name not in names] == left_out


@pytest.mark.skipif(shutil.which("dpkg-deb") is None, reason="dpkg-deb is not installed")
@pytest.mark.parametrize("arch", ["amd64", "arm64", "armhf"])
def test_the_package_contains_units_configuration_and_control_files(arch: str, tmp_path: Path) -> None:
    """Everything except the wheels. The same files of another time make the same bytes."""
    packages = []
    for name in ("first", "second"):
        library = tmp_path / name / "usr/lib/event-relay"
        library.mkdir(parents=True)
        script().unpack(wheel(tmp_path / f"{name}.whl", {"relay/__init__.py": b""}), library)
        packages.append(script().pack(tmp_path / name, arch, "1.2.3", tmp_path / f"{name}-dist"))

    def asked(*question: str) -> str:
        return subprocess.run(["dpkg-deb", *question], check=True, capture_output=True, text=True).stdout

    entries = [line.split(maxsplit=5) for line in asked("--contents", str(packages[0])).splitlines()]
    modes = {entry[5].removeprefix("./"): entry[0] for entry in entries}
    fields = asked("--field", str(packages[0]), "Package", "Version", "Architecture", "Depends")
    assert packages[0].read_bytes() == packages[1].read_bytes()
    assert {entry[1] for entry in entries} == {"root/root"}
    assert modes["usr/bin/event-relay"] == "-rwxr-xr-x"
    assert modes["usr/lib/event-relay/relay/__init__.py"] == "-rw-r--r--"
    assert "usr/bin/relay -> event-relay" in modes
    units = {name for name in modes if name.startswith("usr/lib/systemd/system/")}
    assert {f"usr/lib/systemd/system/event-relay{kind}" for kind in (".service", "-http.socket")} <= units
    assert f"Package: event-relay\nVersion: 1.2.3\nArchitecture: {arch}\n" in fields
    assert "python3 (>= 3.11), python3 (<< 3.15)" in fields
    assert asked("--info", str(packages[0]), "conffiles") == "/etc/event-relay/config.toml\n"
    assert "  usr/bin/event-relay\n" in asked("--info", str(packages[0]), "md5sums")


@pytest.mark.parametrize("name", ["postinst", "prerm", "postrm", "rtupdate", "compile-armhf"])
def test_scripts_have_no_syntax_error(name: str) -> None:
    subprocess.run(["sh", "-n", DEBIAN / name], check=True)


class System:
    """A new Debian system in a directory."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def run(self, *command: str, **env: str) -> str:
        """Run a command that must succeed, without a network but loopback, and return its output."""
        inside = ["unshare", "--mount", "--net", "--pid", "--fork", "--kill-child", "sh", "-euc"]
        prepare = 'ip link set lo up; mount -t proc proc "$0/proc"; mount --rbind /dev "$0/dev"; exec chroot "$0" "$@"'
        environ = {"PATH": "/usr/sbin:/usr/bin:/sbin:/bin", "DEBIAN_FRONTEND": "noninteractive", "LC_ALL": "C.UTF-8"}
        done = subprocess.run(
            [*inside, prepare, str(self.root), *command],
            env=environ | env, capture_output=True, text=True, timeout=300, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def as_user(self, *command: str) -> str:
        key = "RELAY__UPSTREAM__API_KEY_FILE=/etc/event-relay/key"
        return self.run("runuser", "-u", "event-relay", "--", "env", key, *command)

    def install(self, package: Path) -> str:
        shutil.copy(package, self.root / "package.deb")
        return self.run("dpkg", "--install", "/package.deb")


def built(to: Path) -> Path:
    """Build the package for amd64."""
    source = to / "source"
    shutil.copytree(ROOT / "relay", source / "relay", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    pip = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--wheel-dir", str(to)]
    subprocess.run([*pip, str(source)], check=True, capture_output=True)
    [packed] = to.glob("*.whl")
    command = [sys.executable, DEBIAN / "build.py", "--arch", "amd64", "--wheel", packed, "--to", to]
    subprocess.run(command, check=True)
    return to / f"event-relay_{__version__}_amd64.deb"


def as_next(package: Path, to: Path) -> Path:
    """Return the same package as version `NEXT`."""
    root, newer = to / "newer", to / "newer.deb"
    subprocess.run(["dpkg-deb", "--raw-extract", package, root], check=True)
    for name in ("DEBIAN/control", "usr/lib/event-relay/relay/__init__.py"):
        text = (root / name).read_text()
        (root / name).write_text(text.replace(__version__, NEXT, 1))
    command = ["dpkg-deb", "--root-owner-group", "-Znone", "--build", root, newer]
    subprocess.run(command, check=True, capture_output=True)
    return newer


def suite() -> str:
    """Return the name of this machine's Debian release."""
    release = dict(line.split("=", 1) for line in Path("/etc/os-release").read_text().splitlines() if "=" in line)
    return release["VERSION_CODENAME"]


def session(system: System, *command: str) -> dict[str, Any]:
    """Start the relay as its user, run a command, read the status, and stop the relay. Return the status."""
    output = system.as_user("sh", "-c", SESSION, "session", *command)
    status: dict[str, Any] = json.loads(output.splitlines()[-1])
    return status


def life_of_a_package(system: System, package: Path, newer: Path) -> None:
    """Install, run, upgrade, run, remove and purge."""
    asked, outbox = system.root / "systemctl.log", system.root / "var/lib/event-relay/outbox.db"
    stub = system.root / "usr/bin/systemctl"
    stub.write_text(SYSTEMCTL)
    stub.chmod(0o755)
    (system.root / "run/systemd/system").mkdir(parents=True)

    message = system.install(package)
    assert "set upstream.url in /etc/event-relay/config.toml" in message
    assert "start event-relay.service" not in asked.read_text()
    assert "--preset-mode=enable-only preset event-relay.service" in asked.read_text()
    assert outbox.parent.stat().st_mode & 0o777 == 0o700
    assert list((system.root / "usr/lib/event-relay/relay/__pycache__").glob("*.pyc"))

    (system.root / "etc/event-relay/config.toml").write_text(CONFIG)
    (system.root / "etc/event-relay/key").write_text(KEY)
    system.run("chown", "event-relay", "/etc/event-relay/key")
    first = session(system, "relay", "send", "post.view", "--event-id", EVENT_ID)
    assert (first["version"], first["ledger"]["pending"]) == (__version__, 1)

    system.run("chown", "nobody", "/var/lib/event-relay")
    system.install(newer)
    assert system.run("stat", "--format=%U", "/var/lib/event-relay") == "nobody\n"  # systemd changes all files at once.
    system.run("chown", "event-relay", "/var/lib/event-relay")
    assert "restart event-relay.service" in asked.read_text()
    assert (system.root / "etc/event-relay/config.toml").read_text() == CONFIG
    second = session(system, "relay", "event", EVENT_ID)
    assert (second["version"], second["ledger"]["pending"], second["ledger"]["accepted"]) == (NEXT, 1, 1)

    enabled = system.root / "etc/systemd/system/sockets.target.wants/event-relay-http.socket"
    enabled.parent.mkdir(parents=True)
    enabled.symlink_to("/usr/lib/systemd/system/event-relay-http.socket")
    units = sorted(
        path.name for path in (system.root / "usr/lib/systemd/system").glob("event-relay*.s*") if path.is_file()
    )
    system.run("dpkg", "--remove", "event-relay")
    stopped = [line.split() for line in asked.read_text().splitlines() if "stop" in line.split()]
    assert sorted(name for words in stopped for name in words if name.startswith("event-relay")) == units
    assert not (system.root / "usr/lib/event-relay").exists()
    assert outbox.exists()

    system.run("dpkg", "--purge", "event-relay")
    assert not outbox.parent.exists()
    assert not (system.root / "etc/event-relay").exists()
    assert not enabled.is_symlink()


@pytest.mark.skipif(os.environ.get("RELAY_NIGHTLY") != "1", reason="takes minutes: RELAY_NIGHTLY=1")
@pytest.mark.skipif(bool(MISSING), reason=f"not installed: {', '.join(MISSING)}")
@pytest.mark.skipif(not SOURCES.exists(), reason="this is no Debian with its package sources")
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root for chroot")
@pytest.mark.timeout(2400)
def test_an_event_survives_an_upgrade_of_the_package(tmp_path: Path) -> None:
    package = built(tmp_path)
    newer = as_next(package, tmp_path)
    with TemporaryDirectory() as root:  # In no directory that the other user cannot enter.
        Path(root).chmod(0o755)
        command = ["mmdebstrap", "--quiet", "--variant=minbase", f"--include={SYSTEM}", suite(), root, str(SOURCES)]
        subprocess.run(command, check=True, capture_output=True)
        life_of_a_package(System(Path(root)), package, newer)
