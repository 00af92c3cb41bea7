"""What the relay's state means in words, and what a person should do about it. Pure.

Shown by the status page and by `relay status`, so that both say the same. Rules: a sentence says what
happens, a second what to do; where there is nothing to do it is empty. A reader is in a hurry and may
not know the relay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from relay.outbox import Gauges
from relay.policy.endpoint import EndpointState

Level = Literal["ok", "slow", "trouble"]


class Meaning(NamedTuple):
    words: str
    to_do: str


ROUTE: Mapping[EndpointState, Meaning] = {
    "ok": Meaning("It takes events.", ""),
    "backing_off": Meaning(
        "It does not answer, or answers that it has failed. It is tried again with growing pauses.",
        "Look at the network, then ask the upstream's operators. Events are kept, and leave when it answers.",
    ),
    "rate_limited": Meaning(
        "It allows fewer requests than its documentation says. The relay has slowed down until it fits.",
        "Nothing, unless more and more waits: then see whether several relays share one public address.",
    ),
    "unauthorized": Meaning(
        "It does not take the key. Everything is kept.",
        "Put the right key into upstream.api_key_file; it is noticed within 5 seconds.",
    ),
    "misconfigured": Meaning(
        "Something else responds in the place of the events API, or the URL redirects. All events stay in the outbox.",
        "Look at last_error. Sign in to the network, or correct upstream.url and reload (systemctl reload relay).",
    ),
}
LANE: Mapping[str, str] = {
    "": "",
    "limit": "has used up its requests of this window",
    "outbox": "waits for the disk",
    "backing_off": "failed, and is tried again",
    "rate_limited": "the upstream asked it to wait",
    "unauthorized": "the upstream does not take the key",
    "misconfigured": "something else responds in the upstream's place",
}
ENDPOINT_PAUSED = "waits with its upstream"


class Summary(NamedTuple):
    """One look."""

    level: Level
    words: str
    to_do: str


def summary(gauges: Gauges, pending: int, held: int, states: Mapping[EndpointState, int]) -> Summary:
    """The worst thing first.

    `held`: devices with pending events that may not send yet; `states`: how many upstreams are in which.
    """
    upstreams = sum(states.values())
    if not gauges.writable:
        return Summary(
            "trouble",
            f"Events cannot be stored: {gauges.problem or 'the outbox is not open yet'}.",
            "Apps get 503 and keep what they have to say. Free space on the disk, or raise outbox.max_size.",
        )
    for state in ("unauthorized", "misconfigured", "backing_off"):
        if count := states.get(state, 0):
            which = "The upstream" if count == upstreams else f"One upstream of {upstreams}"
            if 1 < count < upstreams:
                which = f"{count} upstreams of {upstreams}"
            said = {
                "unauthorized": "refuses the key: nothing can be sent",
                "misconfigured": "is not what responds at upstream.url: nothing can be sent",
                "backing_off": "does not answer: events wait",
            }[state]
            return Summary("trouble", f"{which} {said}.", ROUTE[state].to_do)
    if gauges.quarantined:
        return Summary(
            "trouble",
            f"{gauges.quarantined:,} events were stored by another machine and are not sent: "
            "this installation is a copy, or its disk was moved.",
            "Run `relay adopt` to send them, or `relay adopt --discard` if the original machine sends them.",
        )
    if not pending:
        return Summary("ok", "Nothing waits: what came in has gone out.", "")
    if states.get("rate_limited", 0):
        return Summary("slow", "Events go out as fast as the upstream allows; some wait.", ROUTE["rate_limited"].to_do)
    if held:
        devices = "One device waits" if held == 1 else f"{held:,} devices wait"
        return Summary("slow", f"{devices} for a free place within the limit of requests; the others are served.", "")
    return Summary("ok", "Events come in and go out; what waits is being gathered into batches.", "")
