"""Every pair of assignment and input of a tenant."""

from __future__ import annotations

from itertools import product
from typing import get_args

import pytest
from relay.policy.tenant import Assignment, Tenant, TenantInput, after

EXPECTED: dict[tuple[Assignment, TenantInput], Assignment] = {
    ("idle", "pending"): "shared",
    ("idle", "entitled"): "own",
    ("idle", "tried"): "own",
    ("shared", "entitled"): "own",
    ("shared", "emptied"): "idle",
    ("own", "pending"): "own",
    ("own", "entitled"): "own",
    ("own", "emptied"): "own",
    ("own", "expired"): "idle",
}


@pytest.mark.parametrize(("assignment", "what"), [*product(get_args(Assignment), get_args(TenantInput))])
def test_every_pair_of_assignment_and_input(assignment: Assignment, what: TenantInput) -> None:
    if (assignment, what) in EXPECTED:
        assert after(assignment, what) == EXPECTED[assignment, what]
    else:
        with pytest.raises(AssertionError, match="impossible"):
            after(assignment, what)


def test_a_tenant_shares_an_endpoint_while_it_has_pending_events() -> None:
    tenant = Tenant()
    for _ in range(2):
        tenant.add_queue()
    tenant.add_first_pending(is_entitled=False)
    tenant.add_pending()
    assert repr(tenant) == "Tenant(shared, 2 of 2 device queues pending)"
    tenant.remove_pending(5)
    assert tenant.assignment == "shared"
    tenant.remove_pending(7)
    assert (tenant.assignment, tenant.idle_since) == ("idle", 7)


def test_an_own_endpoint_outlives_the_pending_events_until_it_expires() -> None:
    tenant = Tenant()
    tenant.add_queue()
    tenant.add_first_pending(is_entitled=False)
    tenant.serve()
    tenant.entitle()
    tenant.remove_pending(7)
    assert repr(tenant) == "Tenant(own, 0 of 1 device queues pending, served)"
    tenant.expire()
    assert tenant.assignment == "idle"
    with pytest.raises(AssertionError):
        tenant.entitle()
