"""Changes of the state of endpoints in the log."""

from __future__ import annotations

from relay.forward.state_log import StateLog
from relay.policy.endpoint import SeenError
from relay.policy.overview import EndpointView
from relay.policy.upstream_origin import EndpointState
from relay.runtime.metrics import Metrics
from structlog.testing import capture_logs


def view(tenant_id: int | None, state: EndpointState) -> EndpointView:
    return EndpointView(tenant_id, state, 0, None, SeenError("503 down", 0), None)


def test_each_change_is_logged_once() -> None:
    states = StateLog(Metrics())
    with capture_logs() as lines:
        for state in ("untested", "backing_off", "backing_off", "ok", "ok"):
            states.note(view(None, state), 0)
    assert [(line["log_level"], line["was"], line["state"], line["tenant_id"]) for line in lines] == [
        ("warning", "ok", "backing_off", None),
        ("info", "backing_off", "ok", None),
    ]
    assert lines[0]["message"] == "503 down"


def test_a_freed_endpoint_starts_again_as_ok() -> None:
    states = StateLog(Metrics())
    with capture_logs() as lines:
        for now, tenant_id in ((0, 1), (0, 2)):
            states.note(view(tenant_id, "unauthorized"), now)
        states.forget({2}.__contains__)
        for tenant_id in (1, 2):
            states.note(view(tenant_id, "unauthorized"), 60_000)
    assert [line["tenant_id"] for line in lines] == [1, 2, 1]
