"""docs/run/operations.md and relay/runtime/metrics.py list the same metrics, and every metric of the contract."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

import pytest
from prometheus_client import CollectorRegistry
from prometheus_client.metrics import MetricWrapperBase
from relay.runtime import metrics as source
from relay.runtime.metrics import Metrics, OptionalGauge

DOCS = Path(__file__).parents[2] / "docs" / "run" / "operations.md"
CONTRACT = """
events_received_total{transport} events_accepted_total{transport} events_rejected_total{transport,reason}
events_duplicate_total{transport} events_delivered_total events_dead_lettered_total{reason}
events_dropped_total{reason} events_requeued_total outbox_events outbox_bytes outbox_max_bytes
outbox_oldest_event_age_seconds outbox_written_bytes_total outbox_commits_total outbox_commit_duration_seconds
dead_letters upstream_requests_total{code} upstream_request_duration_seconds upstream_batch_events
upstream_batch_bytes upstream_state{state} upstream_in_flight devices_waiting devices_held
udp_datagrams_dropped_total{reason} udp_receive_buffer_bytes clock_skew_seconds config_last_reload_successful build_info
devices max_devices
"""
FIXED_VALUES = {
    ("relay_events_rejected_total", "reason"): source.REJECT_REASONS,
    ("relay_events_dead_lettered_total", "reason"): source.DEAD_REASONS,
    ("relay_events_dropped_total", "reason"): source.DROP_REASONS,
    ("relay_udp_datagrams_dropped_total", "reason"): source.UDP_DROP_REASONS,
    ("relay_upstream_state", "state"): source.UPSTREAM_STATES,
}


class Row(NamedTuple):
    """A metric of the page or the code."""

    kind: str
    labels: tuple[str, ...]


def exported() -> dict[str, Row]:
    """Return every metric of the code by its name in a query. Histograms have no suffix."""
    rows = {}
    for metric in vars(Metrics()).values():
        if isinstance(metric, MetricWrapperBase):
            family = metric.describe()[0]
            suffix = "_total" if family.type == "counter" else ""
            rows[family.name + suffix] = Row(family.type, metric._labelnames)
        elif isinstance(metric, OptionalGauge):
            (family,) = metric.collect()
            rows[family.name] = Row(family.type, ())
    return rows


def documented() -> dict[str, list[str]]:
    """Return for each name on the page: type, unit, labels, meaning. A name may contain its type or its unit."""
    entries = {}
    text = re.sub(r"\n +", " ", DOCS.read_text())
    for name, notes, meaning in re.findall(r"^- `(relay_\w+)`(?: \((.*?)\))?: (.*)$", text, re.MULTILINE):
        parts = notes.split("; ") if notes else []
        kind = "histogram" if parts[:1] == ["histogram"] else "counter" if name.endswith("_total") else "gauge"
        in_name = re.search(r"_(seconds|bytes)(_total)?$", name)
        parts = parts[kind == "histogram" :]
        unit = in_name[1] if in_name else parts.pop(0)
        entries[name] = [kind, unit, "; ".join(parts), meaning]
    return entries


def labels_of(cell: str) -> dict[str, list[str]]:
    """Parse "`name`: `value`, `value`; `name`, `name`" into values by name. A name may have no values."""
    labels: dict[str, list[str]] = {}
    for part in filter(None, cell.split("; ")):
        names, _, values = part.partition(": ")
        for name in re.findall(r"`(\w+)`", names):
            labels[name] = re.findall(r"`(\w+)`", values)
    return labels


EXPORTED, DOCUMENTED = exported(), documented()


def test_the_code_has_metrics_and_each_attribute_is_registered() -> None:
    registry: CollectorRegistry = Metrics().registry

    found = {family.name for family in registry.collect() if not family.name.startswith("process_")}
    assert found == {name.removesuffix("_total") for name in EXPORTED}
    assert len(EXPORTED) > 30


def test_the_page_lists_exactly_the_exported_metrics() -> None:
    assert sorted(DOCUMENTED) == sorted(EXPORTED)


@pytest.mark.parametrize("name", sorted(EXPORTED))
def test_the_page_has_type_unit_labels_and_meaning(name: str) -> None:
    kind, unit, labels, meaning = DOCUMENTED[name]

    assert kind == EXPORTED[name].kind
    assert tuple(labels_of(labels)) == EXPORTED[name].labels
    assert meaning.endswith(".") and len(meaning) > 10
    in_name = re.search(r"_(seconds|bytes)(_total)?$", name)
    assert unit == in_name[1] if in_name else unit not in ("", "seconds", "bytes")


@pytest.mark.parametrize(("name", "label"), sorted(FIXED_VALUES))
def test_the_page_names_every_value_of_a_fixed_label(name: str, label: str) -> None:
    assert tuple(labels_of(DOCUMENTED[name][2])[label]) == FIXED_VALUES[name, label]


@pytest.mark.parametrize("promised", CONTRACT.split())
def test_every_name_of_the_contract_is_exported_with_its_labels(promised: str) -> None:
    name, _, labels = promised.rstrip("}").partition("{")

    row = EXPORTED[f"relay_{name}"]
    if labels:
        assert row.labels == tuple(labels.split(","))


def test_every_metric_named_on_the_page_exists() -> None:
    watched = set(re.findall(r"relay_\w+", DOCS.read_text()))

    assert watched - {"relay_"} <= set(EXPORTED)
