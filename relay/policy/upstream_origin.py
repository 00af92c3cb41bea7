"""An upstream origin (scheme, host, port), and what its endpoints share: the network, the limit and the request slots.

The upstream counts requests by IP address and not by tenant, so that all tenants of an origin have one shared limit.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Collection, Mapping
from typing import Literal, TypeAlias

from relay.policy import network
from relay.policy.endpoint_health import Failure, Health, HealthState
from relay.policy.network import REACHABLE, AttemptStarted, Network, NetworkInput, Responded, TryNow, Unreachable
from relay.policy.request_slots import RequestSlots
from relay.policy.shared_limit import SharedLimit

EndpointState: TypeAlias = Literal["untested", "ok", "rate_limited"] | Failure
"""The state of an endpoint for people: "ok" or "untested" is shown as "rate_limited" if the origin is limited."""
HEALTHY: Collection[EndpointState] = ("ok", "untested")


class UpstreamOrigin:
    """Times are monotonic milliseconds."""

    __slots__ = ("_health_states", "limit", "linger_phase", "name", "network", "slots", "wake_at")

    def __init__(self, name: str, now: int, slots: RequestSlots) -> None:
        """Create the state of a new origin. `slots`: the requests of all origins."""
        self.name = name
        self.limit = SharedLimit(now)
        self.network: Network = REACHABLE
        self.linger_phase = now  # If devices always share requests: differs from relay to relay.
        self.slots = RequestSlots(slots)
        self.wake_at: int | None = None  # Expiry of its timer; set by Timers.
        self._health_states: Counter[HealthState] = Counter()  # Number of endpoints by state.

    def __repr__(self) -> str:
        return f"UpstreamOrigin({self.name}, {self.limit}, {self.slots}, {self.network})"

    def state_of(self, health: Health) -> EndpointState:
        """Return the state of an endpoint for people."""
        return self._shown(health.state)

    def states(self) -> Mapping[EndpointState, int]:
        """Return the number of endpoints by state."""
        shown: Counter[EndpointState] = Counter()
        for state, count in self._health_states.items():
            shown[self._shown(state)] += count
        return shown

    def since(self) -> int:
        """Return the beginning of the state that all healthy endpoints share."""
        return self.network.since if isinstance(self.network, Unreachable) else self.limit.since

    @property
    def endpoints(self) -> int:
        """The number of endpoints of this origin."""
        return self._health_states.total()

    def count(self, before: Health | None, after: Health | None) -> None:
        """Count an endpoint whose health changes. None: before it is added, after it is removed."""
        if before is not None:
            self._health_states[before.state] -= 1
            assert self._health_states[before.state] >= 0, self
        if after is not None:
            self._health_states[after.state] += 1

    def left(self, now: int) -> UpstreamOrigin:
        """Return an origin with the same limit, for the requests in flight of an endpoint that left this one."""
        left = UpstreamOrigin(self.name, now, RequestSlots())
        left.limit = self.limit
        return left

    def has_room(self) -> bool:
        """Return whether network and shared limit permit one more request in flight."""
        in_flight = self.slots.in_flight
        return (self.network is REACHABLE or network.has_room(self.network, in_flight)) and self.limit.has_room(
            in_flight
        )

    def free_at(self, now: int, span_ms: int) -> int:
        """Return the earliest time that network and shared limit permit. `span_ms`: length of the rate window."""
        at = self.limit.free_at(now, self.slots.in_flight, span_ms)
        return at if self.network is REACHABLE else max(at, network.free_at(self.network))

    def sent(self, now: int) -> None:
        """Record that a request is sent."""
        self.limit.sent(now)
        if self.network is not REACHABLE:
            self.change_network(AttemptStarted(now))

    def responded(self) -> None:
        """Record that a response was received, or that the network is not the reason if there was none."""
        if self.network is not REACHABLE:
            self.change_network(Responded())

    def end_pauses(self) -> None:
        """End every pause, except the part that a server requested. The limit stays."""
        self.limit.end_pause()
        self.change_network(TryNow())

    def change_network(self, what: NetworkInput) -> None:
        """Apply what a request or a change of the machine shows about the network."""
        self.network = network.after(self.network, what)

    def _shown(self, state: HealthState) -> EndpointState:
        if state in ("backing_off", "unauthorized", "misconfigured"):
            return state
        if isinstance(self.network, Unreachable):
            return "backing_off"
        return "rate_limited" if self.limit.is_limited else state
