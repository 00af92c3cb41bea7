"""The scenarios by name, in the order in which they run. Each is a function from a Bench to rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.report import Row
from bench.scenarios import accept, batch, drain, idle, limits, policy, start, udp, waiting, wear
from bench.setup import Bench

Scenario = Callable[[Bench], Iterator[Row]]

SCENARIOS: dict[str, Scenario] = {
    "accept": accept.accept,
    "batch": batch.batch,
    "udp": udp.udp,
    "drain": drain.drain,
    "waiting": waiting.waiting,
    "wear": wear.wear,
    "memory": idle.memory,
    "start": start.start,
    "idle": idle.idle,
    "limits": limits.limits,
    "ceiling": limits.ceiling,
    "policy": policy.policy,
}
