"""deploy/compose.yaml, checked by docker-compose, and the environment of the relay, checked by the relay."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from relay.cli.sandbox import command as sandbox

from tests.deploy.environments import faults_of

ROOT = Path(__file__).parents[2]
FILE = ROOT / "deploy" / "compose.yaml"
SHARED = ROOT / "deploy" / "shared" / "compose.yaml"
COMPOSE = shutil.which("docker-compose")


def services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(FILE.read_text())["services"]
    return found


@pytest.mark.parametrize("file", [FILE, SHARED])
@pytest.mark.skipif(COMPOSE is None, reason="docker-compose is not installed")
def test_the_compose_file_is_valid(tmp_path: Path, file: Path) -> None:
    assert COMPOSE is not None
    environ = {name: value for name, value in os.environ.items() if not name.startswith("COMPOSE_")}
    done = subprocess.run(
        [COMPOSE, "-f", str(file), "--profile", "monitoring", "--profile", "sandbox", "config", "--quiet"],
        env=environ | {"HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )

    assert (done.returncode, done.stdout + done.stderr) == (0, "")


def test_monitoring_and_sandbox_start_only_on_request() -> None:
    by_default = {name for name, service in services().items() if "profiles" not in service}

    assert by_default == {"app", "relay"}


def test_the_relay_accepts_its_environment(tmp_path: Path) -> None:
    given = services()["relay"]["environment"] | {"RELAY__UPSTREAM__URL": "https://upstream.example/v1/events"}

    assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""


def test_the_sandbox_has_the_documented_address_and_key(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "run" / "deployment.md").read_text()
    [url] = re.findall(r"^RELAY_URL=(\S+) docker compose .* --profile sandbox ", page, re.MULTILINE)
    [key] = re.findall(r"^echo (\S+) \| install .* deploy/key$", page, re.MULTILINE)
    by_name = {option.name: option.default for option in sandbox.params}
    given = services()["relay"]["environment"] | {"RELAY__UPSTREAM__URL": url}

    assert services()["sandbox"]["command"] == ["sandbox"]
    assert services()["sandbox"]["network_mode"] == "service:relay"
    assert (url, key) == (f"http://{by_name['listen']}/v1/events", by_name["api_key"])
    assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""


def test_the_app_shares_the_relays_localhost() -> None:
    relay, app = services()["relay"], services()["app"]

    assert app["network_mode"] == "service:relay"
    assert relay["environment"]["RELAY__HTTP__LISTEN"] == "127.0.0.1:8080"
    assert "http://127.0.0.1:8080/v1/events" in " ".join(app["command"])


def test_the_relay_is_confined() -> None:
    relay = services()["relay"]

    assert relay["read_only"] is True
    assert relay["cap_drop"] == ["ALL"]
    assert relay["security_opt"] == ["no-new-privileges:true"]


def test_grafana_needs_a_password() -> None:
    grafana = services()["grafana"]

    assert not any("ANONYMOUS" in name for name in grafana["environment"])
    assert grafana["environment"]["GF_SECURITY_ADMIN_PASSWORD__FILE"] == f"/run/secrets/{grafana['secrets'][0]}"


def test_ports_are_published_on_loopback_only() -> None:
    published = [port for service in services().values() for port in service.get("ports", [])]

    assert published
    assert all(port.startswith("127.0.0.1:") for port in published)


def test_prometheus_scrapes_an_address_and_host_that_the_relay_serves() -> None:
    config = yaml.safe_load((FILE.parent / "prometheus" / "prometheus.yml").read_text())
    [target] = config["scrape_configs"][0]["static_configs"][0]["targets"]
    host, _, port = target.partition(":")
    given = services()["relay"]["environment"]

    assert host in services()
    assert given["RELAY__HTTP__ALLOWED_HOSTS"] == host
    assert given["RELAY__OPS__LISTEN"].endswith(f":{port}")


def test_mounted_files_exist() -> None:
    mounts = [mount.split(":")[0] for service in services().values() for mount in service.get("volumes", [])]

    assert [mount for mount in mounts if mount.startswith(".") and not (FILE.parent / mount).exists()] == []


def test_the_shared_relays_accept_their_environment(tmp_path: Path) -> None:
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    relays = [service for name, service in shared_services().items() if name.startswith("relay-")]
    url = tmp_path / "url"
    url.write_text("postgresql://relay:password@postgres/relay")
    url.chmod(0o600)

    assert len(relays) == 2
    for relay in relays:
        given = relay["environment"] | {
            "RELAY__UPSTREAM__URL": "https://upstream.example/v1/events",
            "RELAY__OUTBOX__URL_FILE": str(url),
        }
        assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""
        assert relay["restart"] == "unless-stopped"


def test_the_balancer_knows_every_shared_relay_and_repeats_no_sent_request() -> None:
    lines = [line.split() for line in (SHARED.parent / "haproxy.cfg").read_text().splitlines()]
    relays = {name for name in shared_services() if name.startswith("relay-")}

    assert {line[1] for line in lines if line[:1] == ["server"]} == relays
    assert ["retry-on", "conn-failure"] in lines
    assert ["option", "httpchk", "GET", "/readyz"] in lines


def shared_services() -> dict[str, dict[str, Any]]:
    found: dict[str, dict[str, Any]] = yaml.safe_load(SHARED.read_text())["services"]
    return found
