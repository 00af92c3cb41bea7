"""Log each change of the state of an endpoint. Apps choose the tenants, so the lines are limited."""

from __future__ import annotations

from collections.abc import Callable

import structlog

from relay.policy.endpoint import Endpoint
from relay.runtime.log import Gate
from relay.runtime.metrics import Metrics

log = structlog.get_logger("relay.forward")

_LINE_MS, _LINES = 10_000, 16
"""One line per endpoint and state in this time, and the number of endpoints with a line in it."""


class StateLog:
    def __init__(self, metrics: Metrics) -> None:
        self._states: dict[int | None, str] = {}
        """The logged states other than "ok", by tenant."""
        self._gate = Gate(metrics.log_lines_suppressed, per_ms=_LINE_MS, max_keys=_LINES)

    def note(self, endpoint: Endpoint, now: int) -> None:
        """Log the state of an endpoint if it has changed."""
        tenant_id, state = endpoint.tenant_id, endpoint.state()
        before = self._states.get(tenant_id, "ok")
        if state in (before, "untested"):
            return
        self._states[tenant_id] = state
        if state == "ok":
            del self._states[tenant_id]
        if self._gate.admit((tenant_id, state), now) is None:
            return
        write = log.info if state == "ok" else log.warning
        message = endpoint.last_error.message if endpoint.last_error else ""
        write("upstream state", tenant_id=tenant_id, state=state, was=before, message=message)

    def forget(self, exists: Callable[[int | None], bool]) -> None:
        """Forget the states of endpoints that were freed."""
        self._states = {tenant_id: state for tenant_id, state in self._states.items() if exists(tenant_id)}
