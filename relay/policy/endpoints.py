"""Which endpoint serves a tenant. Apps can invent tenants, so the number of endpoints is bounded.

A tenant has its own endpoint if it has a URL or key of its own, or if one of its events was delivered. So have 64 of
the other tenants. The rest share one endpoint, with the default URL and key. An endpoint is freed after one window
without pending events.

On the way from the shared endpoint to its own, a tenant takes its ready device queues and exact requests along, in
order. Positions and pauses belong to the device queues and do not change. A request in flight counts for the endpoint
that sent it until it is settled.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence, Set

from relay.policy.endpoint import Endpoint
from relay.policy.request_slots import RequestSlots
from relay.policy.requests import Reply
from relay.policy.tenant import Assignment, Tenant
from relay.policy.upstream_origin import EndpointState, UpstreamOrigin
from relay.policy.verdict import Failing, Misconfigured, Resend, Unauthorized, Verdict

MAX_UNPROVEN = 64
"""Largest number of own endpoints of tenants that were never served and have no URL or key of their own."""


class Endpoints:
    """The endpoints by tenant, and their upstream origins. The configuration bounds the number of origins.

    The tenants that share an endpoint count as one tenant, None.
    """

    __slots__ = (
        "_activate",
        "_by_tenant",
        "_configured",
        "_configured_at",
        "_configured_now",
        "_expiring",
        "_freed",
        "_origin_of",
        "_origins",
        "_tenants",
        "_unproven",
        "slots",
    )

    def __init__(
        self,
        origin_of: Callable[[int], str],
        configured: Callable[[], Collection[int]],
        activate: Callable[[Endpoint], None],
    ) -> None:
        """Create an empty registry.

        `origin_of` returns the upstream origin of a tenant; no tenant has the id 0. `configured` returns the tenants
        with a URL or key of their own. `activate` is called for an endpoint with moved requests.
        """
        self.slots = RequestSlots()  # The requests of all origins.
        self._origin_of = origin_of
        self._configured_now = configured
        self._activate = activate
        self._configured: Set[int] = frozenset(configured())
        self._configured_at = -1
        self._origins: dict[str, UpstreamOrigin] = {}
        self._by_tenant: dict[int | None, Endpoint] = {}
        self._freed: dict[int | None, Endpoint] = {}  # The last ones that delivered or worked, for people.
        self._tenants: dict[int | None, Tenant] = {}
        self._unproven: set[int | None] = set()  # The tenants of which there are at most MAX_UNPROVEN.
        # Tenants that lost their pending events, and when.
        self._expiring: OrderedDict[int | None, int] = OrderedDict()

    def __len__(self) -> int:
        return len(self._by_tenant)

    def __iter__(self) -> Iterator[Endpoint]:
        return iter(self._by_tenant.values())

    def __contains__(self, tenant_id: int | None) -> bool:
        return tenant_id in self._by_tenant

    def includes(self, endpoint: Endpoint) -> bool:
        """Return whether an endpoint was not freed and not replaced since it was created."""
        return self._by_tenant.get(endpoint.tenant_id) is endpoint

    def verdict(self, reply: Reply) -> Verdict:
        """Return the verdict of a response. A failure of a request from before the latest configuration is none."""
        verdict = reply.verdict
        if reply.sent_at <= self._configured_at and isinstance(verdict, Failing | Misconfigured | Unauthorized):
            return Resend(verdict.message)
        return verdict

    def __repr__(self) -> str:
        return f"Endpoints({len(self)} for {len(self._tenants)} tenants, {len(self._unproven)} unproven)"

    def of(self, tenant_id: int) -> Endpoint:
        """Return the endpoint of a tenant with pending events."""
        return self._by_tenant.get(tenant_id) or self._by_tenant[None]

    # -- device queues -----------------------------------------------------------------------------

    def add_queue(self, tenant_id: int) -> None:
        """Count a new device queue without pending events."""
        if tenant_id not in self._tenants:
            self._tenants[tenant_id] = Tenant()
        self._tenants[tenant_id].add_queue()

    def remove_queue(self, tenant_id: int) -> None:
        """Remove a device queue without pending events, and a tenant without any device queue."""
        tenant = self._tenants[tenant_id]
        tenant.remove_queue()
        if tenant.queues == 0 and not (tenant.assignment == "own" and self._by_tenant[tenant_id].is_in_use()):
            if tenant.assignment == "own":
                self._free(tenant_id, tenant)
            del self._tenants[tenant_id]

    def add_pending(self, tenant_id: int | None, now: int) -> None:
        """Record that one more device queue of a tenant has pending events."""
        tenant = self._tenants[tenant_id]
        if tenant.pending:
            tenant.add_pending()
            return
        before = tenant.assignment
        if before == "own" and (endpoint := self._by_tenant[tenant_id]).health.state == "backing_off":
            endpoint.end_pause()  # It was tried without events.
        is_entitled = self._is_proven(tenant_id, tenant) or len(self._unproven) < MAX_UNPROVEN
        tenant.add_first_pending(is_entitled=is_entitled)
        self._follow(tenant_id, tenant, before, now)

    def remove_pending(self, tenant_id: int | None, now: int) -> None:
        """Record that one device queue of a tenant has no more pending events."""
        tenant = self._tenants[tenant_id]
        before = tenant.assignment
        tenant.remove_pending(now)
        if tenant.pending:
            return
        self._follow(tenant_id, tenant, before, now)
        if tenant.assignment == "own":
            self._expiring.setdefault(tenant_id, now)

    def is_served(self, tenant_id: int) -> bool:
        """Return whether an event of a tenant was delivered. If so, it shares no endpoint."""
        return self._tenants[tenant_id].is_served

    def served(self, tenant_id: int, queue_ids: Sequence[int], now: int) -> None:
        """Record that events of these device queues of a tenant were delivered; of none of them since a restart."""
        tenant = self._tenants[tenant_id]
        tenant.serve()
        self._unproven.discard(tenant_id)
        if tenant.assignment == "shared":
            self._entitle(tenant_id, tenant, now)
            if queue_ids:
                self._by_tenant[tenant_id].inherit_success(queue_ids, now)

    def free_expired(self, now: int, window_ms: int, limit: int) -> None:
        """Free up to `limit` endpoints without pending events for one window."""
        for _ in range(min(limit, len(self._expiring))):
            tenant_id, since = next(iter(self._expiring.items()))
            if since + window_ms > now:
                return
            del self._expiring[tenant_id]
            tenant = self._tenants.get(tenant_id)
            if tenant is None or tenant.pending or tenant.assignment != "own":
                continue
            if self._by_tenant[tenant_id].is_in_use():
                self._expiring[tenant_id] = now
            elif tenant.idle_since + window_ms > now:
                self._expiring[tenant_id] = tenant.idle_since
            else:
                self._free(tenant_id, tenant)
                if tenant.queues == 0:
                    del self._tenants[tenant_id]

    def untried(self, tenants: Collection[int | None], now: int) -> Sequence[Endpoint]:
        """Create and return the endpoints of those configured tenants that have none yet; None: all others."""
        known = {tenant_id if tenant_id in self._configured else None for tenant_id in self._by_tenant} | {*self._freed}
        chosen = [tenant_id for tenant_id in tenants if tenant_id is None or tenant_id in self._configured]
        return [self._try(tenant_id, now) for tenant_id in chosen if tenant_id not in known]

    def is_idle(self, endpoint: Endpoint) -> bool:
        """Return whether a configured endpoint has no pending events."""
        tenant_id = endpoint.tenant_id
        return (tenant_id is None or tenant_id in self._configured) and not self._tenants[tenant_id].pending

    # -- configuration -----------------------------------------------------------------------------

    def configure(self, now: int) -> None:
        """Apply the configured tenants and the upstream origins."""
        self._configured = frozenset(self._configured_now())
        self._configured_at = now
        for configured_id in self._configured:
            tenant = self._tenants.get(configured_id)
            if tenant and tenant.assignment == "shared":
                self._entitle(configured_id, tenant, now)
        self._unproven = {
            tenant_id for tenant_id in self._by_tenant if not self._is_proven(tenant_id, self._tenants[tenant_id])
        }
        for tenant_id, endpoint in self._by_tenant.items():
            if endpoint.origin.name != self._origin_of(tenant_id or 0):
                self._by_tenant[tenant_id] = Endpoint(tenant_id, now, self.origin(tenant_id, now))
                self._by_tenant[tenant_id].succeed(endpoint, now)
        self._freed = {
            tenant_id: endpoint
            for tenant_id, endpoint in self._freed.items()
            if endpoint.evidence.success_at is not None
            and (not tenant_id or tenant_id in self._configured)
            and endpoint.origin.name == self._origin_of(tenant_id or 0)
        }
        in_use = {self._origin_of(tenant_id) for tenant_id in (0, *self._configured)}
        self._origins = {name: origin for name, origin in self._origins.items() if name in in_use}

    # -- views -------------------------------------------------------------------------------------

    def freed(self) -> Mapping[int | None, Endpoint]:
        """Return the last freed endpoint that delivered or at least worked, by configured tenant; None: all others."""
        return self._freed

    def pending(self) -> Iterator[Endpoint]:
        """Return the endpoints with pending events."""
        return (endpoint for tenant_id, endpoint in self._by_tenant.items() if self._tenants[tenant_id].pending)

    def origins(self) -> Collection[UpstreamOrigin]:
        return self._origins.values()

    def origin(self, tenant_id: int | None, now: int) -> UpstreamOrigin:
        """Return the upstream origin of a tenant."""
        name = self._origin_of(tenant_id or 0)
        if name not in self._origins:
            self._origins[name] = UpstreamOrigin(name, now, self.slots)
        return self._origins[name]

    def states(self) -> Mapping[EndpointState, int]:
        """Return the number of endpoints by state, counted at each change because apps can invent tenants."""
        return sum((Counter(origin.states()) for origin in self._origins.values()), Counter[EndpointState]())

    # -- internals ---------------------------------------------------------------------------------

    def _is_proven(self, tenant_id: int | None, tenant: Tenant) -> bool:
        return tenant.is_served or tenant_id is None or tenant_id in self._configured

    def _try(self, tenant_id: int | None, now: int) -> Endpoint:
        tenant = self._tenants.setdefault(tenant_id, Tenant())
        tenant.try_endpoint(now)
        self._create(tenant_id, tenant, now)
        self._expiring.setdefault(tenant_id, now)
        return self._by_tenant[tenant_id]

    def _entitle(self, tenant_id: int | None, tenant: Tenant, now: int) -> None:
        before = tenant.assignment
        tenant.entitle()
        self._follow(tenant_id, tenant, before, now)

    def _follow(self, tenant_id: int | None, tenant: Tenant, before: Assignment, now: int) -> None:
        """Create the endpoint that a tenant needs after a change, and count the tenants that share one."""
        if tenant.assignment == before:
            return
        if tenant.assignment == "shared":
            self._tenants.setdefault(None, Tenant()).add_queue()
            self.add_pending(None, now)
        elif tenant.assignment == "own":
            self._create(tenant_id, tenant, now)
        if before == "shared":
            self.remove_pending(None, now)
            self._tenants[None].remove_queue()

    def _create(self, tenant_id: int | None, tenant: Tenant, now: int) -> None:
        endpoint = self._by_tenant[tenant_id] = Endpoint(tenant_id, now, self.origin(tenant_id, now))
        if not self._is_proven(tenant_id, tenant):
            self._unproven.add(tenant_id)
        shared = self._by_tenant.get(None)
        is_tried = shared is not None and not self._tenants[None].queues and shared.is_in_use()
        if shared and is_tried and tenant_id not in self._configured:
            # The events of this tenant show more about the default URL and key than a batch without events.
            shared.ready.take_empty_batch(())
            self._free(None, self._tenants.pop(None))
        elif shared and tenant_id is not None and endpoint.ready.take_tenant(shared.ready, tenant_id):
            self._activate(endpoint)

    def _free(self, tenant_id: int | None, tenant: Tenant) -> None:
        tenant.expire()
        self._unproven.discard(tenant_id)
        endpoint = self._by_tenant.pop(tenant_id)
        endpoint.removed()
        shown_id = tenant_id if tenant_id in self._configured else None
        if endpoint.evidence.success_at is not None:
            self._freed[shown_id] = endpoint
        elif endpoint.health.state == "ok":
            self._freed.setdefault(shown_id, endpoint)
