"""The kustomize component, rendered onto its example and checked against Kubernetes' own schemas."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import yaml
from jsonschema import Draft202012Validator

from tests.deploy.environments import faults_of
from tests.deploy.prometheus_rule import SOURCES, TARGET, text

ROOT = Path(__file__).parents[2]
KUBERNETES = ROOT / "deploy" / "kubernetes"
VALIDATE = ROOT / ".venv-tools" / "bin" / "kubernetes-validate"
VERSIONS = ("1.29", "1.37")
"""The first version with native sidecars, and the newest version that the validator knows."""
TEXT = {"type": "string"}
POD_MONITOR = {
    "apiVersion": {"const": "monitoring.coreos.com/v1"},
    "kind": {"const": "PodMonitor"},
    "metadata": {"name": TEXT, "namespace": TEXT, "labels": {"type": "object"}},
    "spec": {
        "selector": {"matchLabels": {"type": "object", "additionalProperties": TEXT}},
        "podMetricsEndpoints": [
            {
                "port": TEXT,
                "path": TEXT,
                "interval": {
                    "pattern": "^(0|(([0-9]+)y)?(([0-9]+)w)?(([0-9]+)d)?(([0-9]+)h)?(([0-9]+)m)?(([0-9]+)s)?)$"
                },
                "relabelings": [{"sourceLabels": [TEXT], "targetLabel": TEXT, "replacement": TEXT}],
            }
        ],
    },
}
"""The fields that our PodMonitor uses, a subset of its definition (prometheus-operator,
example/prometheus-operator-crd/monitoring.coreos.com_podmonitors.yaml)."""


@cache
def kustomize() -> list[str]:
    """Return the command that renders a directory. kubectl includes kustomize, with components since 1.21."""
    if shutil.which("kustomize"):
        return ["kustomize", "build"]
    if shutil.which("kubectl"):
        version = subprocess.run(["kubectl", "version", "--client"], capture_output=True, text=True, check=False).stdout
        if "Kustomize Version: v5" in version or "Kustomize Version: v4" in version:
            return ["kubectl", "kustomize"]
    return []


@pytest.fixture(scope="module")
def rendered() -> list[dict[str, Any]]:
    if not kustomize():
        pytest.skip("neither kustomize nor a kubectl that has it is installed")
    done = render(KUBERNETES / "example")
    assert (done.returncode, done.stderr) == (0, "")
    return list(yaml.safe_load_all(done.stdout))


def render(directory: Path) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*kustomize(), str(directory)], capture_output=True, text=True, timeout=60, check=False)


def app(kind: str, **pod_settings: Any) -> dict[str, Any]:
    """Return an object of an app with the label for which the component adds the relay."""
    api = "batch/v1" if kind in ("Job", "CronJob") else "v1" if kind == "Pod" else "apps/v1"
    spec = {"containers": [{"name": "app", "image": "app"}], "securityContext": {"fsGroup": 2000}, **pod_settings}
    template = {"metadata": {"labels": {"app": "app"}}, "spec": spec}
    return {
        "apiVersion": api,
        "kind": kind,
        "metadata": {"name": "app", "labels": {"relay": "sidecar"}},
        "spec": {"selector": {"matchLabels": {"app": "app"}}, "template": template},
    }


def with_relay(directory: Path, given: dict[str, Any]) -> subprocess.CompletedProcess[str]:
    """Render an object of an app with the component."""
    if not kustomize():
        pytest.skip("neither kustomize nor a kubectl that has it is installed")
    (directory / "app.yaml").write_text(yaml.safe_dump(given))
    component = os.path.relpath(KUBERNETES / "sidecar", directory)
    (directory / "kustomization.yaml").write_text(
        yaml.safe_dump({"resources": ["app.yaml"], "components": [component]})
    )
    return render(directory)


@pytest.mark.parametrize("kind", ["Deployment", "DaemonSet", "Job", "StatefulSet"])
def test_the_component_adds_the_relay_and_changes_no_setting_of_the_pod(tmp_path: Path, kind: str) -> None:
    given = app(kind, terminationGracePeriodSeconds=7, volumes=[{"name": "relay-data", "emptyDir": {}}])
    if kind == "StatefulSet":
        given["spec"]["volumeClaimTemplates"] = [{"metadata": {"name": "other"}}]

    done = with_relay(tmp_path, given)

    assert (done.returncode, done.stderr) == (0, "")
    template = yaml.safe_load(done.stdout)["spec"]["template"]
    [relay] = template["spec"].pop("initContainers")
    added = [each for each in template["spec"]["volumes"] if each["name"] == "relay-upstream"]
    template["spec"]["volumes"].remove(*added)
    assert relay["name"] == "relay"
    assert template["metadata"]["labels"].pop("relay") == "sidecar"
    assert template == given["spec"]["template"]


@pytest.mark.parametrize(
    ("given", "reason"),
    [
        (app("Deployment", securityContext={}), "nonexistent key: fsGroup"),
        (app("StatefulSet"), "nonexistent key: volumeClaimTemplates"),
        (app("CronJob"), "/kind failed"),
        (app("Pod"), "/kind failed"),
    ],
    ids=["no group for its files", "no claim of a volume", "CronJob", "Pod"],
)
def test_a_labelled_object_that_cannot_have_a_relay_fails(tmp_path: Path, given: dict[str, Any], reason: str) -> None:
    done = with_relay(tmp_path, given)

    assert done.returncode != 0
    assert reason in done.stderr


def test_a_start_may_take_as_long_as_under_systemd(rendered: list[dict[str, Any]]) -> None:
    """A start salvages a broken outbox row by row before the relay is ready."""
    [unit] = (ROOT / "deploy" / "systemd").glob("*.service")
    [minutes] = re.findall(r"^TimeoutStartSec=(\d+)min$", unit.read_text(), re.MULTILINE)
    probe = relay_of(rendered)["startupProbe"]

    assert probe["periodSeconds"] * probe["failureThreshold"] == int(minutes) * 60


def pod(objects: list[dict[str, Any]]) -> dict[str, Any]:
    [stateful_set] = [each for each in objects if each["kind"] == "StatefulSet"]
    template: dict[str, Any] = stateful_set["spec"]["template"]
    return template


def relay_of(objects: list[dict[str, Any]]) -> dict[str, Any]:
    [container] = pod(objects)["spec"]["initContainers"]
    assert container["name"] == "relay"
    found: dict[str, Any] = container
    return found


@pytest.mark.skipif(not VALIDATE.exists(), reason="kubernetes-validate is not installed: make tools")
@pytest.mark.parametrize("version", VERSIONS)
def test_the_objects_are_valid(rendered: list[dict[str, Any]], version: str, tmp_path: Path) -> None:
    """Check all objects except those of the Prometheus operator, which has their schemas."""
    ours = [each for each in rendered if each["kind"] not in ("PodMonitor", "PrometheusRule")]
    file = tmp_path / "objects.yaml"
    file.write_text(yaml.safe_dump_all(ours))

    done = subprocess.run(
        [str(VALIDATE), "--strict", "-k", version, str(file)], capture_output=True, text=True, timeout=60, check=False
    )

    assert done.returncode == 0, done.stdout + done.stderr


def test_the_pod_monitor_has_only_known_fields(rendered: list[dict[str, Any]]) -> None:
    """A cluster silently drops unknown fields."""
    [monitor] = [each for each in rendered if each["kind"] == "PodMonitor"]
    mistyped = json.loads(json.dumps(monitor).replace('"targetLabel"', '"targetlabel"'))

    faults = [list(Draft202012Validator(schema_of(POD_MONITOR)).iter_errors(each)) for each in (monitor, mistyped)]

    assert faults[0] == []
    assert {fault.validator for fault in faults[1]} == {"additionalProperties"}


def test_the_prometheus_rule_has_the_alerts_and_counts_of_prometheus(rendered: list[dict[str, Any]]) -> None:
    """`make rules` writes it. promtool checks the groups at their source."""
    [rule] = [each for each in rendered if each["kind"] == "PrometheusRule"]
    groups = [group for source in SOURCES for group in yaml.safe_load(source.read_text())["groups"]]

    assert TARGET.read_text() == text()
    assert rule["spec"] == {"groups": groups}


def schema_of(known: dict[str, Any] | list[Any]) -> dict[str, Any]:
    """Return the JSON schema of an object with only these fields, or of a list with one type of items."""
    if isinstance(known, list):
        return {"type": "array", "minItems": 1, "items": schema_of(known[0])}
    if known.keys() & {"type", "const", "pattern"}:
        return known
    return {
        "type": "object",
        "properties": {name: schema_of(each) for name, each in known.items()},
        "additionalProperties": False,
    }


def test_the_relay_accepts_its_environment(rendered: list[dict[str, Any]], tmp_path: Path) -> None:
    given = {each["name"]: each.get("value", "10.0.0.7") for each in relay_of(rendered)["env"]}
    given = {name: value.replace("$(POD_IP)", given["POD_IP"]) for name, value in given.items()}

    assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""


def test_the_relay_accepts_the_documented_ipv6_environment(rendered: list[dict[str, Any]], tmp_path: Path) -> None:
    page = (ROOT / "docs" / "run" / "deployment.md").read_text()
    [instead] = [block.split("```")[0] for block in page.split("```yaml\n")[1:]]
    given = {
        each["name"]: each.get("value", "fd00::7") for each in [*relay_of(rendered)["env"], *yaml.safe_load(instead)]
    }
    given = {name: value.replace("$(POD_IP)", given["POD_IP"]) for name, value in given.items()}
    as_for_ipv4 = given | {"RELAY__HTTP__ALLOWED_HOSTS": given["POD_IP"]}

    assert faults_of(given, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE") == ""
    assert "http.allowed_hosts" in faults_of(as_for_ipv4, tmp_path, key_file="RELAY__UPSTREAM__API_KEY_FILE")


def test_it_is_a_sidecar_that_starts_before_the_app(rendered: list[dict[str, Any]]) -> None:
    assert relay_of(rendered)["restartPolicy"] == "Always"
    assert [each["name"] for each in pod(rendered)["spec"]["containers"]] == ["app"]


def test_a_full_disk_of_the_relay_does_not_make_the_pod_unready(rendered: list[dict[str, Any]]) -> None:
    assert "readinessProbe" not in relay_of(rendered)


def test_the_sidecar_meets_the_restricted_pod_security_standard(rendered: list[dict[str, Any]]) -> None:
    """https://kubernetes.io/docs/concepts/security/pod-security-standards/#restricted, and a read-only root."""
    context = relay_of(rendered)["securityContext"]

    assert context["runAsNonRoot"] is True
    assert context["allowPrivilegeEscalation"] is False
    assert context["readOnlyRootFilesystem"] is True
    assert context["capabilities"] == {"drop": ["ALL"]}
    assert context["seccompProfile"] == {"type": "RuntimeDefault"}


def test_the_sidecar_has_the_user_of_the_image(rendered: list[dict[str, Any]]) -> None:
    user = relay_of(rendered)["securityContext"]["runAsUser"]

    assert f"USER {user}:{user}" in (ROOT / "Dockerfile").read_text()


def test_every_mounted_volume_exists(rendered: list[dict[str, Any]]) -> None:
    [stateful_set] = [each for each in rendered if each["kind"] == "StatefulSet"]
    claims = [each["metadata"]["name"] for each in stateful_set["spec"]["volumeClaimTemplates"]]
    volumes = [each["name"] for each in pod(rendered)["spec"]["volumes"]]

    assert {each["name"] for each in relay_of(rendered)["volumeMounts"]} == {*claims, *volumes}


def test_probes_and_scrapes_use_the_listening_port(rendered: list[dict[str, Any]]) -> None:
    relay = relay_of(rendered)
    listen = {each["name"]: each.get("value", "") for each in relay["env"]}["RELAY__OPS__LISTEN"]
    [port] = relay["ports"]
    [monitor] = [each for each in rendered if each["kind"] == "PodMonitor"]
    [endpoint] = monitor["spec"]["podMetricsEndpoints"]

    assert listen == f"0.0.0.0:{port['containerPort']}"
    assert {relay[probe]["httpGet"]["port"] for probe in ("startupProbe", "livenessProbe")} == {port["name"]}
    assert endpoint["port"] == port["name"]
    assert monitor["spec"]["selector"]["matchLabels"].items() <= pod(rendered)["metadata"]["labels"].items()


def test_the_alerts_use_the_job_of_the_pod_monitor() -> None:
    monitor = yaml.safe_load((KUBERNETES / "monitoring" / "podmonitor.yaml").read_text())
    relabelings = monitor["spec"]["podMetricsEndpoints"][0]["relabelings"]

    assert {"targetLabel": "job", "replacement": "relay"} in relabelings
    assert 'up{job="relay"}' in (ROOT / "deploy" / "prometheus" / "alerts.yml").read_text()
