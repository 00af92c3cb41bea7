"""The scenarios by name, in the order in which they run. A scenario is a function from a Bench to rows.

HEAVY scenarios use the whole machine and run alone. LIGHT scenarios mostly wait for time to pass and run concurrently.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from bench.report import Row
from bench.scenarios import (
    accept,
    account,
    batch,
    boxes,
    devices,
    drain,
    forms,
    growth,
    idle,
    limits,
    outage,
    peers,
    policy,
    shared,
    slow,
    soak,
    start,
    udp,
    waiting,
    wear,
)
from bench.setup import Bench

Scenario = Callable[[Bench], Iterator[Row]]

HEAVY: dict[str, Scenario] = {
    "accept": accept.accept,
    "batch": batch.batch,
    "udp": udp.udp,
    "drain": drain.drain,
    "waiting": waiting.waiting,
    "wear": wear.wear,
    "account": account.account,
    "start": start.start,
    "memory": idle.memory,
    "devices": devices.devices,
    "many_devices": boxes.many_devices,
    "policy": policy.policy,
    "slow": slow.slow,
    "box": boxes.box,
    "outage": outage.outage,
    "growth": growth.growth,
    "soak": soak.soak,
    "shared_appends": shared.appends,
    "shared_life": shared.life,
    "shared_single": shared.single,
    "shared_files": shared.files,
    "loops": accept.loops,
    "forms": forms.forms,
    "peers": peers.peers,
}
LIGHT: dict[str, Scenario] = {
    "lonely": wear.lonely,
    "idle": idle.idle,
    "limits": limits.limits,
    "ceiling": limits.shared_limit,
}
SCENARIOS: dict[str, Scenario] = HEAVY | LIGHT
