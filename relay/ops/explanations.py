"""Messages and advice for each state of the relay. Pure.

The status page and `relay status` show the same texts. Rules: one message describes the state. The advice names what
to do, or is empty if no action is needed. The texts require no knowledge of the relay.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal, NamedTuple

from relay.outbox import Gauges
from relay.policy.upstream_origin import EndpointState

Level = Literal["ok", "slow", "trouble"]


class Explanation(NamedTuple):
    """The texts for a state. The field names are those of /status.json."""

    message: str
    advice: str


ENDPOINT_STATES: Mapping[EndpointState, Explanation] = {
    "ok": Explanation("The upstream accepts events.", ""),
    "backing_off": Explanation(
        "The upstream does not respond, or responds with an error. The relay retries with growing pauses.",
        "Check the network, then ask the upstream's operators. The relay stores events and sends them later.",
    ),
    "rate_limited": Explanation(
        "The upstream allows fewer requests than documented. The relay has reduced its rate.",
        "No action, unless pending events grow. In that case, check whether several relays share one public address.",
    ),
    "unauthorized": Explanation(
        "The upstream rejects the key. The relay stores all events.",
        "Write the right key to upstream.api_key_file. The relay applies it within 5 seconds.",
    ),
    "misconfigured": Explanation(
        "Another server responds in place of the events API, or the URL redirects. The relay stores all events.",
        "Check last_error. Sign in to the network, or correct upstream.url and reload (systemctl reload relay).",
    ),
}
PAUSE_REASONS: Mapping[str, str] = {
    "": "",
    "limit": "has used all requests of the rate window",
    "outbox": "waits for the outbox's disk",
    "backing_off": "is retried after a failure",
    "rate_limited": "waits because the upstream sent 429",
    "unauthorized": "the upstream rejects the key",
    "misconfigured": "another server responds in place of the upstream",
}
ENDPOINT_PAUSED = "waits for its upstream"


_PROBLEMS: Mapping[EndpointState, tuple[str, str]] = {
    "unauthorized": ("rejects the key: its events are pending", "reject the key: their events are pending"),
    "misconfigured": (
        "is not the events API: its events are pending",
        "are not the events API: their events are pending",
    ),
    "backing_off": ("does not respond: its events are pending", "do not respond: their events are pending"),
}
"""The predicate of the summary for one upstream, and for several."""


class Summary(NamedTuple):
    """The state of the whole relay. The field names are those of /status.json."""

    level: Level
    message: str
    advice: str


def summary(gauges: Gauges, pending: int, paused: int, states: Mapping[EndpointState, int]) -> Summary:
    """Return the summary of the most serious condition.

    `paused` is the number of devices that may not send their pending events yet. `states` is the number of upstreams
    per state.
    """
    upstreams = sum(states.values())
    if not gauges.writable:
        return Summary(
            "trouble",
            f"Events cannot be stored: {gauges.problem or 'the outbox is not open yet'}.",
            "Apps receive 503 and must retry. Free disk space, or raise outbox.max_size.",
        )
    for state in _PROBLEMS:
        if count := states.get(state, 0):
            one, several = _PROBLEMS[state]
            if count == upstreams == 1:
                message = f"The upstream {one}"
            elif count == 1:
                message = f"One of {upstreams} upstreams {one}"
            else:
                message = f"{count} of {upstreams} upstreams {several}"
            return Summary("trouble", f"{message}.", ENDPOINT_STATES[state].advice)
    if gauges.quarantined:
        return Summary(
            "trouble",
            f"{gauges.quarantined:,} events were stored by another machine and are not sent: "
            "this installation is a copy, or its disk was moved.",
            "Run `relay adopt` to send them, or `relay adopt --discard` if the original machine sends them.",
        )
    if gauges.devices >= gauges.max_devices:
        return Summary(
            "slow",
            f"The relay remembers {gauges.devices:,} devices and accepts no further ones (outbox.max_devices is "
            f"{gauges.max_devices:,}). It serves the devices that it remembers.",
            "Find the app that sends changing device ids, or raise outbox.max_devices.",
        )
    if not pending:
        return Summary("ok", "All received events are delivered.", "")
    if states.get("rate_limited", 0):
        return Summary(
            "slow",
            "The relay sends events as fast as the upstream allows. Some are pending.",
            ENDPOINT_STATES["rate_limited"].advice,
        )
    if paused:
        devices = "One device waits" if paused == 1 else f"{paused:,} devices wait"
        return Summary("slow", f"{devices} for the next rate window. The relay serves the other devices.", "")
    return Summary("ok", "The relay receives and sends events. Pending events are combined into batches.", "")
