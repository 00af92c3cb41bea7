"""The image builds and runs like a container: without root, on a read-only root file system.

buildah builds it in a chroot on a bare Debian with its Python, and `unshare` runs it in mounts of its own. The build
has no package index, only the locked wheels. A container registry or a container engine's daemon is not needed.
"""

from __future__ import annotations

import json
import os
import platform
import re
import shutil
import signal
import socket
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from relay import __version__
from relay.sandbox.server import Sandbox

from tests.deploy.debian import bootstrap, needs_mmdebstrap
from tests.e2e.harness import KEY, event, running
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
BUILDAH = shutil.which("buildah")
BASE, IMAGE, REVISION = "localhost/relay-test-base", "localhost/relay-test", "0123456789abcdef"
LOCKS = ("requirements.lock", "requirements-build.lock")
GLIBC = ("manylinux2014", "manylinux_2_28")

needs_buildah = pytest.mark.skipif(BUILDAH is None, reason="buildah is not installed")
pytestmark = pytest.mark.timeout(600)


class Image(NamedTuple):
    """A built image."""

    config: dict[str, Any]
    """Its configuration in the format of container engines."""
    layers: list[str]
    """The digests of its layers."""
    root: Path
    """Its root file system."""

    @property
    def command(self) -> list[str]:
        return [*self.config["Entrypoint"], *self.config["Cmd"]]

    @property
    def environment(self) -> dict[str, str]:
        return dict(entry.split("=", 1) for entry in self.config["Env"])


class Buildah:
    """buildah with a separate storage."""

    def __init__(self, storage: Path) -> None:
        assert BUILDAH is not None
        self._command = [
            BUILDAH,
            "--storage-driver",
            "vfs",
            "--root",
            str(storage / "store"),
            "--runroot",
            str(storage / "run"),
        ]
        self._environment = os.environ | {"BUILDAH_ISOLATION": "chroot"}

    def __call__(self, *arguments: str) -> str:
        command = [*self._command, *arguments]
        done = subprocess.run(command, env=self._environment, capture_output=True, text=True, timeout=500, check=False)
        assert done.returncode == 0, done.stderr[-4000:]
        return done.stdout.strip()


class Builder:
    """Builds the image on a bare Debian."""

    def __init__(self, directory: Path) -> None:
        self.buildah = Buildah(directory)
        self._wheels = directory / "wheels"
        container = self.buildah("from", "scratch")
        root = Path(self.buildah("mount", container))
        bootstrap(root, "python3", "python3-venv", "ca-certificates", variant="essential")
        for node in (root / "dev").iterdir():
            shutil.rmtree(node) if node.is_dir() and not node.is_symlink() else node.unlink()
        [python] = [path.name for path in (root / "usr/bin").iterdir() if re.fullmatch(r"python3\.\d+", path.name)]
        fetch_wheels(self._wheels, python.removeprefix("python"))
        self.buildah("config", "--env", "PIP_NO_INDEX=1", "--env", "PIP_FIND_LINKS=/locked", container)
        self.buildah("commit", "--quiet", "--rm", container, BASE)

    def image(self, context: Path, name: str) -> Image:
        """Build the image without the cache of another build. All its files have the same time, as in a release."""
        given = ("--build-arg", f"PYTHON={BASE}", "--build-arg", f"REVISION={REVISION}", "--timestamp=0")
        kind = ("--no-cache", "--pull-never", "--format=docker", f"--volume={self._wheels}:/locked:ro")
        self.buildah("bud", "--quiet", *kind, *given, "-t", name, str(context))
        config = json.loads(self.buildah("inspect", "--type", "image", name))["Docker"]
        container = self.buildah("from", "--pull-never", name)
        return Image(config["config"], config["rootfs"]["diff_ids"], Path(self.buildah("mount", container)))


def fetch_wheels(wheels: Path, python: str) -> None:
    """Download the locked wheels for a version of Python."""
    platforms = [f"--platform={libc}_{platform.machine()}" for libc in GLIBC]
    kind = [f"--python-version={python}", "--only-binary=:all:", "--no-deps", "--require-hashes"]
    locks = [argument for lock in LOCKS for argument in ("-r", str(ROOT / lock))]
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--disable-pip-version-check", "--dest", str(wheels)]
    subprocess.run([*pip, *platforms, *kind, *locks], check=True, capture_output=True)


@pytest.fixture(scope="module")
def builder(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Builder]:
    directory = tmp_path_factory.mktemp("image")
    builder = Builder(directory)
    yield builder
    builder.buildah("umount", "--all")
    shutil.rmtree(directory)


@pytest.fixture(scope="module")
def image(builder: Builder) -> Image:
    return builder.image(ROOT, IMAGE)


def contained(image: Image, data: Path, *command: str) -> list[str]:
    """Return a command that runs in the image as its user, with a read-only root, a writable /data, /proc and /dev."""
    mounts = (
        'mount --bind "$0" "$0" && mount --bind "$1" "$0/data" && mount --rbind /proc "$0/proc"'
        ' && mount --rbind /dev "$0/dev" && mount -o remount,bind,ro "$0"'
        " && root=$0 && user=$2 && shift 2"
        ' && exec setpriv --no-new-privs /usr/sbin/chroot --userspec="$user" "$root" "$@"'
    )
    inside = ["sh", "-c", mounts, str(image.root), str(data), image.config["User"], *command]
    return ["unshare", "--mount", *inside]


def run(image: Image, data: Path, *command: str, env: Mapping[str, str]) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        contained(image, data, *command), env=dict(env), capture_output=True, text=True, timeout=60, check=False
    )


@pytest.fixture
def data(tmp_path: Path, image: Image) -> Path:
    """Create a volume as container engines do: with the owner and mode of /data in the image."""
    volume = tmp_path / "data"
    volume.mkdir()
    inside = (image.root / "data").stat()
    os.chown(volume, inside.st_uid, inside.st_gid)
    volume.chmod(inside.st_mode & 0o7777)
    for parent in volume.parents:
        if parent.stat().st_uid == os.geteuid() and parent != Path("/") and not parent.stat().st_mode & 0o001:
            parent.chmod(parent.stat().st_mode | 0o011)
    return volume


@needs_buildah
@needs_mmdebstrap
async def test_the_image_stores_and_forwards_on_a_read_only_root(image: Image, data: Path, sandbox: Sandbox) -> None:
    """The test uses the command, user and health check of the image. SIGTERM ends the process with exit code 0."""
    port = free_port()
    env = image.environment | {
        "RELAY__UPSTREAM__URL": sandbox.url,
        "RELAY__UPSTREAM__API_KEY": KEY,
        "RELAY__HTTP__LISTEN": f"0.0.0.0:{port}",
        "RELAY__UDP__LISTEN": f"0.0.0.0:{free_port(socket.SOCK_DGRAM)}",
        "RELAY__BATCH__LINGER": "100ms",
    }
    kind, *check = image.config["Healthcheck"]["Test"]
    assert kind == "CMD"
    assert run(image, data, *check, env=env).returncode == 1
    async with running(env, *contained(image, data, *image.command)) as relay:
        relay.http = f"127.0.0.1:{port}"
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert run(image, data, *check, env=env).stdout == "fine\n"
        assert Path(f"/proc/{relay.pid}/status").read_text().split("Uid:")[1].split()[0] == "65532"
        relay.signal(signal.Signals[image.config["StopSignal"]])
        assert await relay.ended() == 0

    assert (data / "outbox.db").stat().st_uid == 65532


@needs_buildah
@needs_mmdebstrap
async def test_the_file_overrides_the_image_for_every_command(image: Image, data: Path, sandbox: Sandbox) -> None:
    """`run` with RELAY_CONFIG, its health check and `relay status` use the listener of the file."""
    port = free_port()
    (data / "config.toml").write_text(f'[http]\nlisten = "0.0.0.0:{port}"\n[udp]\nlisten = ""\n')
    given = {"RELAY__UPSTREAM__URL": sandbox.url, "RELAY__UPSTREAM__API_KEY": KEY, "RELAY_CONFIG": "/data/config.toml"}
    env = image.environment | given
    async with running(env, *contained(image, data, *image.command)) as relay:
        relay.http = f"127.0.0.1:{port}"
        assert await relay.post(event(1)) == 202
        checked = run(image, data, *image.config["Healthcheck"]["Test"][1:], env=env)
        status = run(image, data, "relay", "status", "--json", env=env)

    assert checked.stdout == "fine\n"
    assert json.loads(status.stdout)["ledger"]["accepted"] == 1
    assert (data / "outbox.db").exists()


@needs_buildah
@needs_mmdebstrap
def test_only_the_volume_can_be_written(image: Image, data: Path) -> None:
    touched = run(image, data, "touch", "/opt/event-relay/x", "/tmp/x", "/data/x", env=image.environment)

    assert touched.stderr.count("Read-only file system") == 2
    assert (data / "x").exists()


@needs_buildah
@needs_mmdebstrap
def test_all_code_is_compiled(image: Image, data: Path) -> None:
    """`relay run` imports only bytecode that is not compared with its source: a read-only root can store no other."""
    listing = (
        "import relay.app.run_service, importlib.util, sys\n"
        "sources = [m.__file__ for m in sys.modules.values() if (getattr(m, '__file__', 0) or '').endswith('.py')]\n"
        "flags = {s: open(importlib.util.cache_from_source(s), 'rb').read(8)[4:] for s in sources}\n"
        "print(len(flags), [s for s in sources if flags[s] != bytes([1, 0, 0, 0])])"
    )
    listed = run(image, data, "/opt/event-relay/bin/python", "-c", listing, env=image.environment)

    modules, _, others = listed.stdout.strip().partition(" ")
    assert listed.stderr == ""
    assert int(modules) > 100
    assert others == "[]"


@needs_buildah
@needs_mmdebstrap
def test_the_image_contains_no_build_tools(image: Image) -> None:
    """No layer contains pip, its sources, tests or locks, which reduces the attack surface."""
    names = {path.name for path in image.root.rglob("*") if "dpkg" not in path.parts}

    assert len(image.layers) == 1
    assert "aiohttp" in names
    assert not names & {"pip", "pip3", "ensurepip", "setuptools", "requirements.lock", "test_image.py"}
    assert [name for name in names if re.fullmatch(r"(pip|setuptools)-.*", name)] == []
    assert not (image.root / "src").exists()


@needs_buildah
@needs_mmdebstrap
def test_the_image_names_its_version_and_commit(image: Image) -> None:
    prefix = "org.opencontainers.image."

    assert image.config["Labels"][f"{prefix}version"] == __version__
    assert image.config["Labels"][f"{prefix}revision"] == REVISION


@needs_buildah
@needs_mmdebstrap
def test_the_same_sources_make_the_same_image(image: Image, builder: Builder, tmp_path: Path) -> None:
    """The second build is that of another clone, whose files have other times."""
    for name in re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE):
        copy = shutil.copytree if (ROOT / name).is_dir() else shutil.copy
        copy(ROOT / name, tmp_path / name, **({"copy_function": shutil.copy} if copy is shutil.copytree else {}))
    for name in ("Dockerfile", ".dockerignore"):
        shutil.copy(ROOT / name, tmp_path / name)

    assert builder.image(tmp_path, f"{IMAGE}-again").layers == image.layers


def test_the_image_contains_only_locked_packages() -> None:
    """Each call of pip checks hashes, or has no index, or builds the relay with the locked tools."""
    text = re.sub(r"^\s*#.*$", "", (ROOT / "Dockerfile").read_text(), flags=re.MULTILINE)
    calls = re.findall(r"\bpip (?:--python \S+ )?(?:install|wheel)\b[^&\n]*", text.replace("\\\n", " "))

    assert len(calls) == 4
    for call in calls:
        assert any(
            option in call for option in ("--require-hashes", "--no-index", "--no-build-isolation --no-deps .")
        ), call
        assert "wheel " not in call.split("--")[0] or "--no-build-isolation" in call, call
