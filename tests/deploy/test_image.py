"""The image builds and runs like a container: without root, on a read-only root file system.

buildah builds it in a chroot on a base made of this machine (see base_image), and `unshare` runs it in mounts of
its own. Both need root; a registry or a container engine's daemon is not needed.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from relay.sandbox.server import Sandbox

from tests.deploy import base_image
from tests.e2e.harness import KEY, event, running
from tests.support.ports import free_port

ROOT = Path(__file__).parents[2]
BUILDAH = shutil.which("buildah")
BASE, IMAGE = "localhost/relay-test-base", "localhost/relay-test"

pytestmark = [
    pytest.mark.skipif(BUILDAH is None, reason="buildah is not installed"),
    pytest.mark.skipif(os.geteuid() != 0, reason="building and running an image without a daemon needs root"),
    pytest.mark.skipif(importlib.util.find_spec("pip") is None, reason="this Python has no pip to copy"),
    pytest.mark.timeout(600),
]


class Image(NamedTuple):
    """A built image: its configuration in the format of container engines, and its root file system."""

    config: dict[str, Any]
    root: Path

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


@pytest.fixture(scope="module")
def image(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Image]:
    directory = tmp_path_factory.mktemp("image")
    base_image.make(ROOT / "requirements.lock", directory / "base")
    (directory / "base.Dockerfile").write_text("FROM scratch\nCOPY . /\nENV PATH=/usr/local/bin:/usr/bin\n")
    buildah = Buildah(directory)
    buildah("bud", "--quiet", "-f", str(directory / "base.Dockerfile"), "-t", BASE, str(directory / "base"))
    built = ("--pull-never", "--format", "docker", "--build-arg", f"PYTHON={BASE}", "-t", IMAGE)
    buildah("bud", "--quiet", *built, str(ROOT))
    container = buildah("from", "--pull-never", IMAGE)
    config = json.loads(buildah("inspect", "--type", "image", IMAGE))["Docker"]["config"]
    yield Image(config, Path(buildah("mount", container)))
    buildah("umount", container)
    shutil.rmtree(directory)


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


def test_only_the_volume_can_be_written(image: Image, data: Path) -> None:
    touched = run(image, data, "touch", "/opt/event-relay/x", "/tmp/x", "/data/x", env=image.environment)

    assert touched.stderr.count("Read-only file system") == 2
    assert (data / "x").exists()


def test_all_code_is_compiled(image: Image, data: Path) -> None:
    """`relay run` imports only bytecode, because a read-only root cannot store new bytecode."""
    listing = (
        "import relay.app.run_service, importlib.util, os, sys\n"
        "files = [m.__file__ for m in sys.modules.values() if (getattr(m, '__file__', 0) or '').endswith('.py')]\n"
        "print(len(files), [f for f in files if not os.path.exists(importlib.util.cache_from_source(f))])"
    )
    listed = run(image, data, "/opt/event-relay/bin/python", "-c", listing, env=image.environment)

    modules, _, missing = listed.stdout.strip().partition(" ")
    assert int(modules) > 100, listed.stderr
    assert missing == "[]"


def test_the_image_contains_no_build_tools(image: Image) -> None:
    """The image contains no pip, sources, tests or lock, which reduces its attack surface."""
    installed = {path.name for path in (image.root / "opt/event-relay/lib").glob("python*/site-packages/*")}

    assert "relay" in installed
    assert not installed & {"pip", "setuptools", "tests"}
    assert not (image.root / "src").exists()
