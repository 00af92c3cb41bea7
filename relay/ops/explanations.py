"""Messages and advice for each state of the relay. Pure.

The status page and `relay status` show the same texts. Rules: one message describes the state. The advice names what
to do, or is empty if no action is needed. The texts require no knowledge of the relay.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple

from relay.ops.last_hour import Kind
from relay.outbox import Gauges
from relay.policy.upstream_origin import EndpointState

Level = Literal["ok", "slow", "trouble"]


ENDPOINT_MESSAGES: Mapping[EndpointState, str] = {
    "untested": "The upstream has not responded yet.",
    "ok": "The upstream accepts events.",
    "backing_off": "The upstream does not respond, or responds with an error. The relay retries with growing pauses.",
    "rate_limited": "The upstream allows fewer requests than documented. The relay has reduced its rate.",
    "unauthorized": "The upstream rejects the key. The relay stores all events.",
    "misconfigured": "Another server responds in place of the events API, or the URL redirects. "
    "The relay stores all events.",
}
_RATE_LIMITED_ADVICE = (
    "No action, unless pending events grow. In that case, check whether several relays share one public address."
)


class ConfiguredUpstream(NamedTuple):
    """An upstream as configured: its URL without secrets, and where URL and key are set.

    A source is one of `Settings.sources`.
    """

    url: str
    url_key: str
    url_source: str
    api_key_key: str
    api_key_source: str


def advice(state: EndpointState, upstream: ConfiguredUpstream) -> str:
    """Return what to do about the state of an endpoint, or "" if no action is needed."""
    match state:
        case "unauthorized":
            return _correction(upstream.api_key_key, upstream.api_key_source)
        case "misconfigured":
            url = _correction(upstream.url_key, upstream.url_source)
            return f"Check the last error. Sign in to the network, or correct the URL: {url[0].lower()}{url[1:]}"
        case "backing_off":
            return "Check the network, then ask the upstream's operators. The relay stores events and sends them later."
        case "rate_limited":
            return _RATE_LIMITED_ADVICE
    return ""


def _correction(key: str, source: str) -> str:
    """Return how to correct the value of `key` where it is set, and what applies the change."""
    kind, _, place = source.partition(" ")
    if " named by " in place:
        return f"Write the right value to {place.partition(' named by ')[0]}. The relay applies it within 5 seconds."
    match kind:
        case "file":
            return f"Correct {key} in {place} and reload (systemctl reload event-relay, or SIGHUP)."
        case "environment":
            return f"Correct the environment variable {place} and restart the relay."
        case "credential":
            return f"Replace the systemd credential {place} and restart the relay."
    return f"Set {key} and restart the relay."


PAUSE_REASONS: Mapping[str, str] = {
    "": "",
    "limit": "has used all requests of the rate window",
    "outbox": "waits for the outbox",
    "backing_off": "is retried after a failure",
    "rate_limited": "waits because the upstream sent 429",
    "unauthorized": "the upstream rejects the key",
    "misconfigured": "another server responds in place of the upstream",
}
ENDPOINT_PAUSED = "waits for its upstream"


_PROBLEMS: Mapping[EndpointState, tuple[str, str]] = {
    "unauthorized": ("rejects the key", "reject the key"),
    "misconfigured": ("is not the events API", "are not the events API"),
    "backing_off": ("does not respond", "do not respond"),
}
"""The predicate of the summary for one upstream, and for several."""


REJECTION_REASONS: Mapping[str, str] = {
    "malformed": "not JSON",
    "invalid": "invalid field",
    "too_large": "too large",
    "media_type": "unsupported content type",
    "forbidden": "Host or Origin not allowed",
    "timeout": "too slow",
    "full": "outbox full",
    "max_devices": "beyond outbox.max_devices",
    "unavailable": "disk failing or relay stopping",
    "kernel": "dropped by the kernel",
    "network": "network not allowed",
    "truncated": "datagram too large",
    "backlog": "received faster than stored",
}
DEAD_LETTER_REASONS: Mapping[str, str] = {
    "refused": "rejected by the upstream",
    "too_large": "too large for the upstream",
    "poison": "made the upstream fail",
    "corrupt": "altered by the disk",
}
DROP_REASONS: Mapping[str, str] = {
    "age": "older than outbox.max_age",
    "size": "displaced by newer events",
    "discarded": "discarded by an operator",
}
_DEAD_ADVICE = "Run `relay dead list` for the upstream's messages."
_DROP_ADVICE = "Find the cause of the backlog, or raise outbox.max_age or outbox.max_size."
_APP_ADVICE = "Inform the app's developers: the response to the app names the field and the value."


class Summary(NamedTuple):
    """The state of the whole relay. The field names are those of /status.json."""

    level: Level
    message: str
    advice: str


class Conditions(NamedTuple):
    """What the summary depends on."""

    gauges: Gauges
    pending: int
    """Number of pending events."""
    states: Mapping[EndpointState, int]
    """Number of upstreams by state."""
    waiting_states: Mapping[EndpointState, int]
    """Number of upstreams with pending events, by state."""
    undelivered_states: Mapping[EndpointState, int]
    """Number of upstreams that no event was delivered to since the start, by state."""
    limited_devices: int
    """Number of devices with pending events that wait for their own limit."""
    only_tenant: Mapping[EndpointState, str]
    """The tenant of the upstream that alone is in a state, for people."""
    last_hour: Mapping[tuple[Kind, str], int]
    """What happened to events within the last hour: their number by kind and reason."""


def tenant_text(tenant_id: int, names: Mapping[int, str]) -> str:
    """Return a tenant for people: "tenant 2 (PlayTV)"."""
    name = names.get(tenant_id, "")
    return f"tenant {tenant_id} ({name})" if name else f"tenant {tenant_id}"


def summary(now: Conditions, advice_for: Callable[[EndpointState], str]) -> Summary:
    """Return the first condition that applies. `advice_for` returns the advice for an upstream in a failing state."""
    for condition in (_not_writable, _failing, _lost, _slow, _undelivered):
        if found := condition(now, advice_for):
            return found
    if now.states.get("untested", 0) == sum(now.states.values()):
        return Summary("slow", "Nothing delivered yet: the upstream has not responded.", "")
    if now.pending:
        return Summary("ok", "The relay receives and sends events. Pending events are combined into batches.", "")
    return Summary("ok", "No events are pending.", "")


def _not_writable(now: Conditions, _: Callable[[EndpointState], str]) -> Summary | None:
    if now.gauges.writable:
        return None
    return Summary(
        "trouble",
        f"Events cannot be stored: {now.gauges.problem or 'the outbox is not open yet'}.",
        "Apps receive 503 and must retry. Free disk space, or raise outbox.max_size.",
    )


def _failing(now: Conditions, advice_for: Callable[[EndpointState], str]) -> Summary | None:
    for state in _PROBLEMS:
        if count := now.waiting_states.get(state, 0):
            whose = "its" if count == 1 else "their"
            message = f"{_problem(now, state, count)}: {whose} events are pending."
            return Summary("trouble", message, advice_for(state))
    return None


def _undelivered(now: Conditions, advice_for: Callable[[EndpointState], str]) -> Summary | None:
    for state in _PROBLEMS:
        if count := now.undelivered_states.get(state, 0):
            problem = _problem(now, state, count)
            message = f"Nothing delivered yet: {problem[0].lower()}{problem[1:]}. No events are pending there."
            return Summary("slow", message, advice_for(state))
    return None


def _problem(now: Conditions, state: EndpointState, count: int) -> str:
    """Return a sentence about `count` failing upstreams."""
    one, several = _PROBLEMS[state]
    upstreams = sum(now.states.values())
    if upstreams > 1 and (tenant := now.only_tenant.get(state)):
        return f"The upstream of {tenant} {one}"
    if count == upstreams == 1:
        return f"The upstream {one}"
    return f"One of {upstreams} upstreams {one}" if count == 1 else f"{count} of {upstreams} upstreams {several}"


def _lost(now: Conditions, _: Callable[[EndpointState], str]) -> Summary | None:
    if quarantined := now.gauges.quarantined:
        return Summary(
            "trouble",
            f"{quarantined:,} events were stored by another machine and are not sent: "
            "this installation is a copy, or its disk was moved.",
            "Run `relay adopt` to send them, or `relay adopt --discard` if the original machine sends them.",
        )
    dead, dead_reasons = _of_kind(now, "dead_lettered", DEAD_LETTER_REASONS)
    dropped, drop_reasons = _of_kind(now, "dropped", DROP_REASONS)
    messages = []
    if dead:
        messages.append(f"{_events(dead)} became dead letters within the last hour{dead_reasons}.")
    if dropped:
        messages.append(f"{_events_were(dropped)} dropped within the last hour{drop_reasons}.")
    if not messages:
        return None
    return Summary("trouble", " ".join(messages), _DEAD_ADVICE if dead else _DROP_ADVICE)


def _slow(now: Conditions, _: Callable[[EndpointState], str]) -> Summary | None:
    gauges = now.gauges
    if gauges.devices >= gauges.max_devices:
        return Summary(
            "slow",
            f"The relay remembers {gauges.devices:,} devices and accepts no further ones (outbox.max_devices is "
            f"{gauges.max_devices:,}). It serves the devices that it remembers.",
            "Find the app that sends changing device ids, or raise outbox.max_devices.",
        )
    rejected, reasons = _of_kind(now, "rejected", REJECTION_REASONS)
    if rejected:
        return Summary("slow", f"{_events_were(rejected)} rejected within the last hour{reasons}.", _APP_ADVICE)
    if now.states.get("rate_limited", 0):
        return Summary("slow", "The upstream limits the relay, which sends as fast as allowed.", _RATE_LIMITED_ADVICE)
    if devices := now.limited_devices:
        who = "One device waits" if devices == 1 else f"{devices:,} devices wait"
        return Summary("slow", f"{who} for the next rate window. The relay serves the other devices.", "")
    return None


def _of_kind(now: Conditions, kind: Kind, texts: Mapping[str, str]) -> tuple[int, str]:
    """Return the number of events of a kind in the last hour, and their reasons as text."""
    counts = {reason: count for (each, reason), count in now.last_hour.items() if each == kind and count}
    reasons = [f"{texts.get(reason, reason)} {count:,}" for reason, count in counts.items() if reason]
    return sum(counts.values()), f" ({', '.join(reasons)})" if reasons else ""


def _events(count: int) -> str:
    return "1 event" if count == 1 else f"{count:,} events"


def _events_were(count: int) -> str:
    return "1 event was" if count == 1 else f"{count:,} events were"
