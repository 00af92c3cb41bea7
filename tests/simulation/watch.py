"""Check the promises after each step of a run. The first broken promise ends the run.

The upstream receives events once (G3), in order and in one request at a time (G4), within the device limit (G5). An
event may come before an earlier one only alone, after an earlier one failed alone 10 times over at least 9 minutes.
Requests in flight at a crash are resent first and unchanged. The ledger balances (G2). Request slots
and connections are not exceeded (G6, G9).
"""

from __future__ import annotations

from collections import defaultdict, deque
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING

from relay.outbox import Ledger
from relay.policy.limits import Limits
from relay.policy.request_slots import CONNECTIONS_PER_SLOT

if TYPE_CHECKING:
    from tests.simulation.upstream import EventKey, Request

_ALONE, _ALONE_MS = 10, 540_000
_STALLED_MS = 5_000
"""A request of this age, without progress, no longer counts against `upstream.max_in_flight`."""
_RECENT_SUCCESS_MS = 600_000
"""An endpoint with an older success has a quarter of the connections."""


class Watch:
    def __init__(self, limits: Limits, ledger: Callable[[], Ledger]) -> None:
        self.in_doubt: set[int] = set()
        """Ids of requests with a response that the relay may have received but not stored before a crash."""
        self._limits = limits
        self._ledger = ledger
        self._open: dict[int, Request] = {}  # By device.
        self._in_flight: list[Request] = []
        self._served_at: dict[int, int] = {}
        """Time of the latest success of this relay, by tenant."""
        self._attempts: dict[str, set[int]] = {}
        """Ids of the requests in flight without a network, by upstream origin."""
        self._first: dict[int, list[EventKey]] = {}  # Events that must be sent first, by device.
        self._accepted: dict[EventKey, list[Request]] = defaultdict(list)
        self._latest: dict[int, int] = defaultdict(lambda: -1)
        self._alone: dict[int, dict[int, list[int]]] = defaultdict(lambda: defaultdict(list))
        """Arrivals of requests with one event, by device and number. Earlier ones than the latest delivery only."""
        self._overtakers: dict[int, int] = {}
        """The latest event that may come before earlier ones, by device."""
        self.reordered: set[EventKey] = set()
        """Events that were accepted after a later one of their device."""
        self._arrivals: dict[int, deque[int]] = defaultdict(lambda: deque(maxlen=limits.device_per_window))

    def started(self, unsettled: Sequence[list[EventKey]]) -> None:
        self._open.clear()
        self._in_flight.clear()
        self._served_at.clear()
        self._attempts.clear()
        self._first = {device: request for request in unsettled for device, _ in request}

    def sent(self, request: Request, origin: str) -> None:
        self._in_flight.append(request)
        if (attempts := self._attempts.get(origin)) is not None:
            assert not attempts, f"two attempts at a time without a network to {origin}"
            attempts.add(id(request))
        slots = self._limits.max_in_flight
        counted = [one for one in self._in_flight if request.sent_at - one.sent_at < _STALLED_MS]
        assert len(counted) <= slots, "more in flight than allowed"
        connections = CONNECTIONS_PER_SLOT * slots
        assert len(self._in_flight) <= connections, "more connections than allowed"
        served_at = self._served_at.get(request.tenant)
        if served_at is None or request.sent_at - served_at > _RECENT_SUCCESS_MS:
            own = [one for one in self._in_flight if one.tenant == request.tenant]
            assert len(own) <= max(1, connections // 4), f"tenant {request.tenant}: too many without a recent success"
        keys = request.keys
        for device in {device for device, _ in keys}:
            assert device not in self._open, f"device {device}: a second request in flight"
            self._open[device] = request
            first = self._first.pop(device, keys)
            assert first == keys, f"device {device}: other events were sent before the events in flight at the crash"

    def unreachable(self, origin: str) -> None:
        """Record that a request did not leave the machine, so that there is one attempt at a time for the origin."""
        self._attempts.setdefault(origin, set())

    def reachable(self, origin: str) -> None:
        """Record a response."""
        self._attempts.pop(origin, None)

    def responded(self, request: Request) -> None:
        self._in_flight.remove(request)
        if request.returned_at is not None and request.status < 300:
            self._served_at[request.tenant] = request.returned_at
        for attempts in self._attempts.values():
            attempts.discard(id(request))
        for device in {device for device, _ in request.keys}:
            self._open.pop(device, None)

    def arrived(self, request: Request) -> None:
        assert self._ledger().balanced
        if len(request.keys) == 1:
            device, n = request.keys[0]
            self._alone[device][n].append(request.at)
        for device in {device for device, _ in request.keys}:
            times = self._arrivals[device]
            if len(times) == self._limits.device_per_window:
                assert request.at - times[0] >= self._limits.window_ms, f"device {device}: too many since {times[0]} ms"
            times.append(request.at)

    def accepted(self, request: Request) -> None:
        for key in request.keys:
            before = self._accepted[key]
            if not before:
                self._accepted_first(*key, is_alone=len(request.keys) == 1)
            # A request of a crashed relay may arrive after the next relay has sent its events again.
            known = [
                one
                for one in before
                if one.returned_at is not None and one.returned_at <= request.sent_at and id(one) not in self.in_doubt
            ]
            assert not known, f"{key} was sent again after the relay received its response"
            before.append(request)

    def _accepted_first(self, device: int, n: int, *, is_alone: bool) -> None:
        latest = self._latest[device]
        if n < latest:
            assert latest == self._overtakers.get(device), f"device {device}: {n} after {latest}"
            self.reordered.add((device, n))
            return
        earlier = [at for one, at in self._alone[device].items() if one < n]
        if is_alone and any(len(at) >= _ALONE and at[-1] - at[0] >= _ALONE_MS for at in earlier):
            self._overtakers[device] = n
        self._latest[device] = n
