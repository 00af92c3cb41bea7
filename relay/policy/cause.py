"""The search for the cause of a failure that one device meets: the content of an event, or the whole endpoint.

A 403, a redirect or a reset can have either cause. The search first sends a batch without events: if the API responds
to it, name, TLS, URL and key are right. Then known devices that were served recently are the witnesses: while one of
them remains that did not fail since, the failing devices are at fault, unless too many of them fail in a row.

| state    | meaning                                     |
|----------|---------------------------------------------|
| `idle`   | no batch without events is to be sent       |
| `asking` | one is to be sent or is in flight           |

`CauseSearch.after` is the only transition.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal, NamedTuple, TypeAlias

from relay.policy.endpoint_health import Failure

Finding: TypeAlias = Literal["none", "unknown", "api", "endpoint"]
"""What the latest batch without events showed: none was sent, nothing, the API responds, the endpoint is at fault."""
Cause: TypeAlias = Literal["device", "endpoint", "undecided"]

_ASK_AFTER_MS = 30_000
_ASK_A_FAILING_ENDPOINT_AFTER_MS = 600_000
FAILED_MAX = 25
"""Devices that fail in a row, before the endpoint is at fault although the API responds to a batch without events."""
_FAILED_MAX_UNKNOWN = 3
_FAILED_MAX_WITHOUT_WITNESS = 8


class Suspicion(NamedTuple):
    """A failure whose cause is not known yet."""

    failure: Failure
    message: str
    retry_after_ms: int | None
    may_be_content: bool = False

    @property
    def shown(self) -> Failure:
        """The state to show if the API responds to a batch without events: the key is not the reason of a 403."""
        return "backing_off" if self.may_be_content and self.failure == "unauthorized" else self.failure


@dataclass(frozen=True, slots=True)
class Suspected:
    """A request of a device queue failed at `now`."""

    queue_id: int
    is_known: bool
    """Whether the device was served. Apps can invent new devices, so that their failures do not count while the API
    responds to a batch without events."""
    is_failing: bool
    """Whether the endpoint is failing already, so that its probes show more; never for an event that is isolated."""
    suspicion: Suspicion
    now: int


@dataclass(frozen=True, slots=True)
class Asked:
    """A batch without events is sent at `now`."""

    now: int


@dataclass(frozen=True, slots=True)
class Answered:
    """The upstream responded to a batch without events, or nothing did."""

    finding: Finding


@dataclass(frozen=True, slots=True)
class EventsDelivered:
    """The upstream accepted events of any device of the endpoint."""


@dataclass(frozen=True, slots=True)
class ConfigurationChanged:
    """URL, key or network may have changed, so that the finding is outdated."""


SearchInput: TypeAlias = Suspected | Asked | Answered | EventsDelivered | ConfigurationChanged


@dataclass(frozen=True, slots=True)
class CauseSearch:
    """Times are monotonic milliseconds."""

    state: Literal["idle", "asking"] = "idle"
    finding: Finding = "none"
    asked_at: int | None = None
    """Time of the latest question."""
    failed: frozenset[int] = frozenset()
    """Device queues whose failure counts, since the latest delivery; at most `FAILED_MAX`."""
    suspicion: Suspicion | None = None
    """The latest failure that waits for the answer."""
    api_since: int | None = None
    """Time of the first question since which the API responded to each."""

    def __post_init__(self) -> None:
        assert self.state == "idle" or self.asked_at is not None, self
        assert self.suspicion is None or self.state == "asking", self
        assert len(self.failed) <= FAILED_MAX, self
        assert self.api_since is None or self.finding == "api", self

    @property
    def is_asking(self) -> bool:
        return self.state == "asking"

    @property
    def is_open(self) -> bool:
        """Whether a delivery would show something new."""
        return bool(self.failed) or self.suspicion is not None or self.finding == "endpoint"

    @property
    def trusts_witnesses(self) -> bool:
        """Whether a known device without failures may still be served although other devices fail."""
        failed_max = _FAILED_MAX_UNKNOWN if self.finding == "unknown" else FAILED_MAX
        return self.finding != "endpoint" and len(self.failed) < failed_max

    def found_api_since(self, at: int) -> bool:
        """Return whether the API responded to all batches without events since then, and to one before."""
        return self.api_since is not None and self.api_since <= at

    def cause(self, *, has_witness: bool) -> Cause:
        """Return the cause of a failure. `has_witness`: another known device was served recently, and did not fail."""
        assert self.finding != "none" or self.is_asking, self
        if has_witness:
            return "device" if self.trusts_witnesses else "endpoint"
        if self.finding == "api":
            return "device" if len(self.failed) < _FAILED_MAX_WITHOUT_WITNESS else "endpoint"
        return "undecided" if self.finding == "none" else "endpoint"

    def after(self, what: SearchInput) -> CauseSearch:
        """Return the search after an input."""
        match what:
            case Suspected():
                return self._suspected(what)
            case Asked(now):
                return replace(self, state="asking", asked_at=now)
            case Answered(finding):
                failed = frozenset() if (self.finding, finding) == ("endpoint", "api") else self.failed
                since = None
                if finding == "api":
                    since = self.asked_at if self.api_since is None else self.api_since
                return CauseSearch("idle", finding, self.asked_at, failed, api_since=since)
            case EventsDelivered():
                finding = "unknown" if self.finding == "endpoint" else self.finding
                return replace(self, finding=finding, failed=frozenset(), suspicion=None)
            case ConfigurationChanged():
                return replace(self, finding="unknown", suspicion=None, api_since=None)

    def _suspected(self, what: Suspected) -> CauseSearch:
        failed = self.failed
        if (what.is_known or self.finding != "api") and len(failed) < FAILED_MAX:
            failed |= {what.queue_id}
        if self.is_asking:
            return replace(self, failed=failed, suspicion=what.suspicion)
        after_ms = _ASK_A_FAILING_ENDPOINT_AFTER_MS if what.is_failing else _ASK_AFTER_MS
        if self.asked_at is not None and what.now - self.asked_at < after_ms:
            return replace(self, failed=failed)
        return replace(self, state="asking", asked_at=what.now, failed=failed, suspicion=what.suspicion)


NO_SEARCH = CauseSearch()
EVENTS_DELIVERED = EventsDelivered()
CONFIGURATION_CHANGED = ConfigurationChanged()
