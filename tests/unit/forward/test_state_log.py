"""Changes of the state of endpoints in the log."""

from __future__ import annotations

from relay.forward.state_log import StateLog
from relay.policy.endpoint import Endpoint
from relay.policy.request_slots import RequestSlots
from relay.policy.upstream_origin import UpstreamOrigin
from relay.runtime.metrics import Metrics
from structlog.testing import capture_logs


def new_endpoint(tenant_id: int | None) -> Endpoint:
    return Endpoint(tenant_id, 0, UpstreamOrigin("http://localhost", 0, RequestSlots()))


def test_each_change_is_logged_once() -> None:
    states, endpoint = StateLog(Metrics()), new_endpoint(None)
    with capture_logs() as lines:
        states.note(endpoint, 0)
        endpoint.failed("backing_off", "503 down", 0, 0)
        states.note(endpoint, 0)
        states.note(endpoint, 0)
        endpoint.responded(0)
        states.note(endpoint, 0)
        states.note(endpoint, 0)
    assert [(line["log_level"], line["was"], line["state"], line["tenant_id"]) for line in lines] == [
        ("warning", "ok", "backing_off", None),
        ("info", "backing_off", "ok", None),
    ]
    assert lines[0]["message"] == "503 down"


def test_a_freed_endpoint_starts_again_as_ok() -> None:
    states, endpoints = StateLog(Metrics()), [new_endpoint(tenant_id) for tenant_id in (1, 2)]
    with capture_logs() as lines:
        for endpoint in endpoints:
            endpoint.failed("unauthorized", "401", 0, 0)
            states.note(endpoint, 0)
        states.forget({2}.__contains__)
        for endpoint in endpoints:
            states.note(endpoint, 60_000)
    assert [line["tenant_id"] for line in lines] == [1, 2, 1]
