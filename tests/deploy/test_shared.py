"""deploy/shared: the services of the compose file as plain processes, and the objects for Kubernetes."""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import signal
import subprocess
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

from tests.deploy.environments import faults_of
from tests.deploy.test_kubernetes import VALIDATE, VERSIONS
from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, event, http, running, serving
from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

SHARED = Path(__file__).parents[2] / "deploy" / "shared"
HAPROXY = shutil.which("haproxy", path=f"{os.defpath}:/usr/sbin")


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load((SHARED / "compose.yaml").read_text())["services"]
    return found


@asynccontextmanager
async def balancer(directory: Path, ports: dict[str, int]) -> AsyncIterator[str]:
    """Run HAProxy with the configuration of the compose file. `ports`: those of the services."""
    port, configuration = free_port(), (SHARED / "haproxy.cfg").read_text()
    for name, listening in ports.items():
        assert f"server {name} {name}:8080\n" in configuration
        configuration = configuration.replace(f"{name}:8080", f"127.0.0.1:{listening}")
    file = directory / "haproxy.cfg"
    file.write_text(configuration.replace("bind :8080", f"bind 127.0.0.1:{port}"))
    assert HAPROXY is not None
    process = await asyncio.create_subprocess_exec(HAPROXY, "-db", "-f", str(file))
    try:
        yield f"127.0.0.1:{port}"
    finally:
        process.terminate()
        await process.wait()


async def until_stored(address: str, n: int) -> None:
    """Send an event again until it is stored, as apps do."""
    body = json.dumps(event(n)).encode()
    async with asyncio.timeout(PATIENCE_S):
        while await posted(address, body) != 202:
            await asyncio.sleep(0.05)


async def posted(address: str, body: bytes) -> int:
    try:
        status, _, _ = await http(address, "POST", "/v1/events", body)
    except (OSError, IndexError):  # HAProxy does not listen yet.
        return 0
    return status


@pytest.mark.slow
@pytest.mark.skipif(HAPROXY is None, reason="HAProxy is not installed")
async def test_the_services_of_the_compose_file(tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    """Events reach the upstream through HAProxy while one relay stops and comes back, each once."""
    url_file, key_file = tmp_path / "url", tmp_path / "key"
    url_file.write_text(postgres_cluster.create_database())
    key_file.write_text(KEY)
    names = [name for name in services() if name.startswith("relay-")]
    ports = {name: free_port() for name in names}
    async with serving() as sandbox:

        @asynccontextmanager
        async def relay(name: str) -> AsyncIterator[RelayProcess]:
            inherited = {name: value for name, value in os.environ.items() if not name.startswith("RELAY_")}
            given = (
                inherited
                | services()[name]["environment"]
                | {
                    "RELAY__UPSTREAM__URL": sandbox.url,
                    "RELAY__UPSTREAM__API_KEY_FILE": str(key_file),
                    "RELAY__OUTBOX__URL_FILE": str(url_file),
                    "RELAY__HTTP__LISTEN": f"127.0.0.1:{ports[name]}",
                    "RELAY__UDP__LISTEN": "127.0.0.1:0",
                    "RELAY__OUTBOX__PATH": str(tmp_path / name / "outbox.db"),
                    "RELAY__BATCH__LINGER": "100ms",
                    "RELAY__LOG__FORMAT": "json",
                }
            )
            (tmp_path / name).mkdir(exist_ok=True)
            async with running(given) as started:
                yield started

        one, two = names
        async with balancer(tmp_path, ports) as address, relay(one) as first:
            async with relay(two) as second:
                for n in range(20):
                    await until_stored(address, n)
                second.signal(signal.SIGTERM)
                for n in range(20, 40):
                    await until_stored(address, n)
                assert await second.ended() == 0
            async with relay(two) as second:
                first.signal(signal.SIGTERM)
                for n in range(40, 60):
                    await until_stored(address, n)
                assert await first.ended() == 0
                await second.until(lambda status: status["ledger"]["delivered"] == 60)
        assert len(sandbox.record.delivered()) == 60


def test_the_balancer_repeats_no_request_that_it_has_sent() -> None:
    configuration = (SHARED / "haproxy.cfg").read_text()
    assert re.findall(r"^\s*retry-on (.*)$", configuration, re.MULTILINE) == ["conn-failure"]
    [timeout_s] = re.findall(r"timeout server (\d+)s", configuration)
    assert int(timeout_s) > 8, "a relay waits 8 s for its database"


def objects() -> dict[str, Any]:
    found = yaml.safe_load_all((SHARED / "kubernetes" / "relay.yaml").read_text())
    return {each["kind"]: each for each in found}


def container() -> dict[str, Any]:
    [found] = objects()["Deployment"]["spec"]["template"]["spec"]["containers"]
    return dict(found)


def test_the_objects_belong_together() -> None:
    deployment, service, budget = (objects()[kind]["spec"] for kind in ("Deployment", "Service", "PodDisruptionBudget"))
    labels = deployment["template"]["metadata"]["labels"]
    assert deployment["selector"]["matchLabels"] == service["selector"] == budget["selector"]["matchLabels"] == labels
    assert deployment["replicas"] > 1
    assert budget["maxUnavailable"] == deployment["strategy"]["rollingUpdate"]["maxUnavailable"] == 1
    mounted = {each["name"] for each in container()["volumeMounts"]}
    assert mounted == {each["name"] for each in deployment["template"]["spec"]["volumes"]}


def test_only_readiness_depends_on_the_database() -> None:
    paths = {kind: container()[f"{kind}Probe"]["httpGet"]["path"] for kind in ("startup", "liveness", "readiness")}
    assert paths == {"startup": "/livez", "liveness": "/livez", "readiness": "/readyz"}


def test_a_relay_accepts_the_environment_of_the_deployment(tmp_path: Path) -> None:
    given = {each["name"]: each.get("value", "192.0.2.7") for each in container()["env"]}
    pod_ip = given.pop("POD_IP")
    url_file = tmp_path / "url"
    url_file.write_text("postgresql://relay:secret@database/relay")
    given = {name: value.replace("$(POD_IP)", pod_ip) for name, value in given.items()}
    given["RELAY__OUTBOX__URL_FILE"] = str(url_file)
    assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""


@pytest.mark.skipif(not VALIDATE.exists(), reason="kubernetes-validate is not installed: make tools")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_are_valid(version: str) -> None:
    command = [str(VALIDATE), "--strict", "-k", version, str(SHARED / "kubernetes" / "relay.yaml")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
