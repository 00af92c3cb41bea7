"""Choose the fault of each request from a script of rules. The oldest matching rule applies.

A fault has an `answer` that replaces the right response, an `action` of the connection during the response, or both.
Without either, the response is a 500 (a poisoned event). Rules: a used or expired fault is forgotten; this module
uses no connection. Randomness and time are the clock's.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from relay.runtime.clock import Clock
from relay.sandbox import responses
from relay.sandbox.settings import Count, Positive

Stage = Literal["accept", "head", "proxy", "application"]
"""The stage of a request at which its fault applies. At "proxy" a proxy responds (or breaks off) in the application's
place, without a check of key or limits. Faults of "application" apply to valid requests. A 401 or 403 to every request
is a rejected key, so that it applies at "proxy", too."""

AtAccept = Literal["reset_at_accept", "close_at_accept", "silence_at_accept"]
"""When the connection opens, before any request. Open connections are not affected."""

AtHead = Literal["reset_mid_request", "close_mid_request", "continue_then_silence"]
"""After the request's head, before its body is read. `continue_then_silence` first sends 100 Continue."""

AtAnswer = Literal[
    # no response
    "reset_before_commit",
    "close_before_commit",
    "reset_after_commit",
    "close_after_commit",
    "silence",  # until the client disconnects
    "garbage",  # bytes that are not HTTP
    # incomplete responses
    "cut_body",  # fewer bytes than Content-Length, then FIN
    "reset_mid_body",
    "long_length",  # fewer bytes than Content-Length, then nothing
    "cut_chunked",  # FIN before the last chunk
    "bad_chunk",  # an invalid chunk size
    # slow or huge responses
    "slow_answer",  # after pause_ms
    "trickle_head",  # a byte every pause_ms
    "trickle_body",
    "endless_body",
    "gzip_bomb",  # 64 MiB of zeros
    "huge_header",  # 100 kB
    # unusual responses
    "short_length",  # more bytes than Content-Length
    "two_answers",
    "early_hints",  # a 103 first
    "http_1_0",
    "connection_close",
    "close_after_answer",  # closes in spite of keep-alive
]

_AT_ACCEPT = frozenset(get_args(AtAccept))
_AT_HEAD = frozenset(get_args(AtHead))
_UNCOMMITTED = frozenset({"reset_before_commit", "close_before_commit", "silence", "garbage"})
_UNANSWERED = _UNCOMMITTED | {"reset_after_commit", "close_after_commit"}


class Misbehaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """A rule of the script. Raise ValueError for an impossible combination."""

    answer: int | str | None = None
    """A status, or a name of `answers.VARIANTS`."""
    action: AtAccept | AtHead | AtAnswer | None = None
    headers: dict[str, str] = {}
    """Headers added to the response, e.g. {"Retry-After": "-1"} or {"Location": "http://other.example/"}."""
    retry_after_date_s: int | None = None
    """Seconds from now, on the sandbox's wall clock; added to the response as Retry-After with an HTTP date."""
    body: str | None = None
    """Replaces the value of the response."""
    commit: Literal["never", "before", "late"] | None = None
    """When a valid request is committed: never, before the response, or after the client disconnected (with "silence").

    Default: before a 2xx response, but never with silence, garbage and `*_before_commit`."""

    when: str = ""
    """Applies only to bodies with this text: an event id, a device id, a marker. The response names these events."""
    count: Positive | None = None
    """Number of requests (of connections, at accept). Default: until healed."""
    skip: Count = 0
    """Number of matching requests that pass first."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Probability for each matching request."""
    for_ms: Positive | None = None
    """Duration from now, in milliseconds."""
    pause_ms: Count = 100
    """Milliseconds between single bytes, before a slow response, or before a break inside the body."""

    def __post_init__(self) -> None:
        if self.answer is not None and not responses.known(self.answer):
            raise ValueError(f"answer {self.answer!r} is neither a status nor one of {', '.join(responses.VARIANTS)}")
        if self.stage in ("accept", "head") and (self.when or self.answer is not None):
            raise ValueError(
                f"{self.action} applies before the body is read: `when` and `answer` are not allowed with it"
            )
        if self.answer is None and self.action is None and not self.when:
            raise ValueError("a fault needs `answer`, `action` or `when`")
        if self.commit == "late" and self.action != "silence":
            raise ValueError('`commit` "late" is for the action "silence"')

    @property
    def stage(self) -> Stage:
        if self.action in _AT_ACCEPT:
            return "accept"
        if self.action in _AT_HEAD:
            return "head"
        if self.commit in ("before", "late"):
            return "application"
        given_by_proxy = self.answer is not None and responses.is_proxys(self.answer)
        rejects_key = self.answer in (401, 403) and not self.when
        return "proxy" if given_by_proxy or rejects_key or self.action in _UNCOMMITTED else "application"

    @property
    def gives_status(self) -> bool:
        """Return whether the client receives a status."""
        return self.action not in _UNANSWERED

    @property
    def replaces(self) -> int | str | None:
        """Return the response that replaces the right one, or None."""
        return 500 if self.answer is None and self.action is None else self.answer

    def commits(self, status: int) -> Literal["never", "before", "late"]:
        """Return when a valid request with the response `status` is committed."""
        if self.commit is not None:
            return self.commit
        return "before" if 200 <= status < 300 and self.action not in _UNCOMMITTED else "never"


class _ActiveFault:
    """A fault of the script and its remaining uses."""

    __slots__ = ("fault", "left", "skip", "until_ms")

    def __init__(self, fault: Misbehaviour, now_ms: int) -> None:
        self.fault = fault
        self.left = fault.count
        self.skip = fault.skip
        self.until_ms = None if fault.for_ms is None else now_ms + fault.for_ms


class FaultScript:
    """The script of faults. It may change at any time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._script: list[_ActiveFault] = []

    def add(self, *faults: Misbehaviour) -> None:
        now_ms = self._clock.monotonic_ms()
        self._script += [_ActiveFault(fault, now_ms) for fault in faults]

    def heal(self) -> None:
        """Forget all faults. Running requests keep theirs."""
        self._script.clear()

    def live(self) -> list[Misbehaviour]:
        """Return the unused faults, oldest first."""
        self._forget_past()
        return [live.fault for live in self._script]

    def pick(self, stage: Stage, body: bytes = b"") -> Misbehaviour | None:
        """Return the fault of this connection or request, or None, and count one use."""
        if not self._script:
            return None
        self._forget_past()
        for live in self._script:
            fault = live.fault
            if fault.stage != stage or (fault.when and fault.when.encode() not in body):
                continue
            if live.skip:
                live.skip -= 1
                continue
            if fault.share < 1 and self._clock.chance() >= fault.share:
                continue
            if live.left is not None:
                live.left -= 1
            return fault
        return None

    def _forget_past(self) -> None:
        now_ms = self._clock.monotonic_ms()
        self._script = [
            live for live in self._script if live.left != 0 and (live.until_ms is None or now_ms < live.until_ms)
        ]
