"""An upstream origin (scheme, host, port), and what its endpoints share: the limit and the request slots.

The upstream counts requests by IP address and not by tenant, so that all tenants of an origin have one shared limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from typing import Literal, TypeAlias

from relay.policy.endpoint_health import Failure, Health
from relay.policy.request_slots import RequestSlots
from relay.policy.shared_limit import SharedLimit

EndpointState: TypeAlias = Literal["ok", "rate_limited"] | Failure


class UpstreamOrigin:
    """Times are monotonic milliseconds."""

    __slots__ = ("_healthy_or_failing", "limit", "name", "slots", "wake_at")

    def __init__(self, name: str, now: int, slots: RequestSlots) -> None:
        """Create the state of a new origin. `slots`: the requests of all origins."""
        self.name = name
        self.limit = SharedLimit(now)
        self.slots = RequestSlots(slots)
        self.wake_at: int | None = None  # Expiry of its timer; set by Timers.
        self._healthy_or_failing: Counter[Literal["ok"] | Failure] = Counter()  # Number of endpoints.

    def __repr__(self) -> str:
        return f"UpstreamOrigin({self.name}, {self.limit}, {self.slots})"

    def state_of(self, health: Health) -> EndpointState:
        """Return the state of an endpoint for people."""
        state = _health_state(health)
        return "rate_limited" if state == "ok" and self.limit.is_limited else state

    def states(self) -> Mapping[EndpointState, int]:
        """Return the number of endpoints by state."""
        return {
            "rate_limited" if state == "ok" and self.limit.is_limited else state: count
            for state, count in self._healthy_or_failing.items()
        }

    @property
    def endpoints(self) -> int:
        """The number of endpoints of this origin."""
        return self._healthy_or_failing.total()

    def count(self, before: Health | None, after: Health | None) -> None:
        """Count an endpoint whose health changes. None: before it is added, after it is removed."""
        if before is not None:
            self._healthy_or_failing[_health_state(before)] -= 1
            assert self._healthy_or_failing[_health_state(before)] >= 0, self
        if after is not None:
            self._healthy_or_failing[_health_state(after)] += 1

    def has_room(self, request_slots: int) -> bool:
        """Return whether the shared limit permits one more request in flight."""
        return self.slots.in_flight < self.limit.max_in_flight(request_slots) if self.limit.is_limited else True

    def free_at(self, now: int, span_ms: int) -> int:
        """Return the earliest time that the shared limit permits. `span_ms`: length of the rate window."""
        return self.limit.free_at(now, self.slots.in_flight, span_ms)


def _health_state(health: Health) -> Literal["ok"] | Failure:
    """Return the state of an endpoint without its limit. An endpoint without a response is shown as "ok"."""
    match health.state:
        case "untested" | "ok":
            return "ok"
        case failure:
            return failure
