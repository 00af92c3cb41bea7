"""The turns of the endpoints: which upstream origin, which class of devices and which endpoint the next request is for.

Rules:
- The order of classes counts for all endpoints of an origin, because they share its limit, and for all origins, because
  they share the request slots. Within a class, origins take turns, and so do the endpoints of an origin.
- An endpoint is listed in each class of its ready requests, at most once. If it may not send, its entries are removed
  one by one, and `list_all` adds them again.
- An endpoint that may not send some of its requests also waits until one of its requests in flight, or a trial, ends.
- An origin that must wait keeps its endpoints.
"""

from __future__ import annotations

from collections import deque
from typing import Literal, TypeAlias

from relay.policy.class_turns import CLASSES, ClassTurns, DeviceClass
from relay.policy.endpoint import Endpoint
from relay.policy.upstream_origin import UpstreamOrigin

_State: TypeAlias = Literal["empty", "active", "waiting"]
"""Without endpoints; with endpoints, one of which may be next; or waiting for the network, the limit or a response."""


class _OriginTurns:
    """The listed endpoints of one origin."""

    __slots__ = ("_endpoints", "_listed", "classes", "origin", "state")

    def __init__(self, origin: UpstreamOrigin) -> None:
        self.origin = origin
        self.state: _State = "empty"
        self.classes = ClassTurns()
        self._endpoints: tuple[deque[Endpoint], ...] = tuple(deque() for _ in CLASSES)
        self._listed: tuple[set[Endpoint], ...] = tuple(set() for _ in CLASSES)  # The same.

    def __repr__(self) -> str:
        return f"_OriginTurns({self.origin.name}, {self.state}, {[len(each) for each in self._endpoints]})"

    def list(self, endpoint: Endpoint, device_class: DeviceClass) -> None:
        listed = self._listed[device_class]
        if endpoint not in listed:
            listed.add(endpoint)
            self._endpoints[device_class].append(endpoint)

    def is_empty(self) -> bool:
        return not any(self._endpoints)

    def offer(self) -> DeviceClass:
        """Return the class of the next request. There is at least one."""
        return self.classes.choose([each for each in CLASSES if self._endpoints[each]])

    def take(self, device_class: DeviceClass) -> Endpoint:
        endpoint = self._endpoints[device_class].popleft()
        self._listed[device_class].remove(endpoint)
        return endpoint


class EndpointTurns:
    """The order in which endpoints may send. The caller decides whether they may send now."""

    __slots__ = ("_active", "_classes", "_for_request", "_origins")

    def __init__(self) -> None:
        self._origins: dict[str, _OriginTurns] = {}
        self._active: deque[_OriginTurns] = deque()
        self._classes = ClassTurns()  # Of the requests of all origins.
        self._for_request: dict[int | None, Endpoint] = {}  # Those that wait, by tenant, in turn.

    def __repr__(self) -> str:
        return f"EndpointTurns({list(self._origins.values())})"

    def clear(self) -> None:
        """Remove all endpoints, because they may have moved to other origins."""
        self._origins.clear()
        self._active.clear()
        self._for_request.clear()

    def list(self, endpoint: Endpoint, device_class: DeviceClass) -> None:
        """List an endpoint with ready requests of a class there."""
        turns = self._origins.get(endpoint.origin.name)
        if turns is None:
            turns = self._origins[endpoint.origin.name] = _OriginTurns(endpoint.origin)
        turns.list(endpoint, device_class)
        if turns.state == "empty":
            self._enter(turns)

    def list_all(self, endpoint: Endpoint, *, in_doubt: bool = True) -> None:
        """List an endpoint in each class of its ready requests; without `in_doubt`, only of those that are not."""
        for each in endpoint.ready.classes(in_doubt=in_doubt):
            self.list(endpoint, each)

    def wait_for_request(self, endpoint: Endpoint) -> None:
        """List an endpoint again when one of its requests, or any trial, ends."""
        self._for_request[endpoint.tenant_id] = endpoint

    def request_ended(self, endpoint: Endpoint, *, was_trial: bool) -> None:
        """List the endpoints again that wait for the end of this request of `endpoint`."""
        if was_trial:
            waiting, self._for_request = self._for_request, {}
            for each in waiting.values():
                self.list_all(each)
        elif endpoint.tenant_id in self._for_request:
            self.list_all(self._for_request.pop(endpoint.tenant_id))

    def next_origin(self) -> UpstreamOrigin | None:
        """Return the origin of the next request; None if no endpoint of an active origin is listed."""
        while self._active:
            turns = self._active[0] if len(self._active) == 1 else self._first_active()
            if not turns.is_empty():
                return turns.origin
            self._leave(turns, "empty")
        return None

    def take(self, origin: UpstreamOrigin) -> tuple[Endpoint, DeviceClass]:
        """Remove and return the endpoint of an active origin whose turn it is, and the class of its request."""
        turns = self._origins[origin.name]
        device_class = turns.offer()
        return turns.take(device_class), device_class

    def served(self, endpoint: Endpoint, device_class: DeviceClass) -> None:
        """Record a request of the class and of the endpoint that `take` returned, and list the endpoint again."""
        turns = self._origins[endpoint.origin.name]
        turns.classes.served(device_class)
        self._classes.served(device_class)
        if len(self._active) > 1:
            self._active.remove(turns)
            self._active.append(turns)
        if endpoint.ready.has(device_class):
            self.list(endpoint, device_class)

    def wait(self, origin: UpstreamOrigin) -> None:
        """Let an active origin wait until `wake`. Its endpoints stay listed."""
        self._leave(self._origins[origin.name], "waiting")

    def wake(self, origin: UpstreamOrigin) -> None:
        """Make an origin active again if it waits."""
        turns = self._origins.get(origin.name)
        if turns is not None and turns.state == "waiting":
            self._enter(turns)

    def _first_active(self) -> _OriginTurns:
        """Return the first active origin with the class whose turn it is."""
        offers = {each: each.offer() for each in self._active if not each.is_empty()}
        if not offers:
            return self._active[0]
        device_class = self._classes.choose(sorted(set(offers.values())))
        return next(each for each, offer in offers.items() if offer is device_class)

    def _enter(self, turns: _OriginTurns) -> None:
        assert turns.state != "active", turns
        turns.state = "active"
        self._active.append(turns)

    def _leave(self, turns: _OriginTurns, state: _State) -> None:
        assert turns.state == "active", turns
        turns.state = state
        self._active.remove(turns)
