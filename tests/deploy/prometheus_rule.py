"""Write the rules of deploy/prometheus as an object of the Prometheus operator: `make rules`.

Prometheus and the operator read the same groups, but neither reads the other's file.
"""

from __future__ import annotations

from pathlib import Path

import yaml

DEPLOY = Path(__file__).parents[2] / "deploy"
SOURCES = [DEPLOY / "prometheus" / name for name in ("alerts.yml", "fleet.yml")]
TARGET = DEPLOY / "kubernetes" / "monitoring" / "prometheusrule.yaml"


def text() -> str:
    """Return the content of the file."""
    groups = [group for source in SOURCES for group in yaml.safe_load(source.read_text())["groups"]]
    rule = {
        "apiVersion": "monitoring.coreos.com/v1",
        "kind": "PrometheusRule",
        "metadata": {"name": "relay"},
        "spec": {"groups": groups},
    }
    return "# Made by `make rules` from deploy/prometheus.\n" + yaml.safe_dump(rule, sort_keys=False, width=120)


if __name__ == "__main__":
    TARGET.write_text(text())
