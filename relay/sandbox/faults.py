"""Which request gets which fault: a script of rules, of those that match the oldest first.

A fault has an `answer` given instead of the right one, an `action` (how the connection misbehaves while the
answer is given), or both; with neither it is a 500 (a poisoned event). Rules: a fault that is used up or past
its time is forgotten; nothing here touches a connection. Chance and time are the clock's.
"""

from __future__ import annotations

from typing import Annotated, Literal, get_args

import msgspec

from relay.runtime.clock import Clock
from relay.sandbox import responses
from relay.sandbox.settings import Count, Positive

Stage = Literal["accept", "head", "proxy", "application"]
"""How far a request comes before its fault: the first two say themselves; a proxy answers (or breaks off) in the
application's place, so that neither key nor limits are looked at; the application's faults are for valid requests."""

AtAccept = Literal["reset_at_accept", "close_at_accept", "silence_at_accept"]
"""As the connection opens, whatever it would ask. Open connections stay."""

AtHead = Literal["reset_mid_request", "close_mid_request", "continue_then_silence"]
"""After the request's head, its body unread (the last one first says 100 Continue)."""

AtAnswer = Literal[
    # instead of an answer
    "reset_before_commit",
    "close_before_commit",
    "reset_after_commit",
    "close_after_commit",
    "silence",  # until the client leaves
    "garbage",  # bytes that are not HTTP
    # an answer that breaks off
    "cut_body",  # fewer bytes than Content-Length, then FIN
    "reset_mid_body",
    "long_length",  # fewer bytes than Content-Length, then nothing
    "cut_chunked",  # FIN before the last chunk
    "bad_chunk",  # a chunk size that is no number
    # an answer that is too slow or too much
    "slow_answer",  # after pause_ms
    "trickle_head",  # a byte every pause_ms
    "trickle_body",
    "endless_body",
    "gzip_bomb",  # 64 MiB of zeros
    "huge_header",  # 100 kB
    # an answer that is odd
    "short_length",  # more bytes than Content-Length
    "two_answers",
    "early_hints",  # a 103 first
    "http_1_0",
    "connection_close",
    "close_after_answer",  # promises to stay open, and closes
]

_AT_ACCEPT = frozenset(get_args(AtAccept))
_AT_HEAD = frozenset(get_args(AtHead))
_UNCOMMITTED = frozenset({"reset_before_commit", "close_before_commit", "silence", "garbage"})
_UNANSWERED = _UNCOMMITTED | {"reset_after_commit", "close_after_commit"}


class Misbehaviour(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True, omit_defaults=True):
    """One rule of the script. Raises ValueError for one that makes no sense."""

    answer: int | str | None = None
    """A status, or a name of `answers.VARIANTS`."""
    action: AtAccept | AtHead | AtAnswer | None = None
    headers: dict[str, str] = {}
    """Added to the answer, e.g. {"Retry-After": "-1"} or {"Location": "http://other.example/"}."""
    retry_after_date_s: int | None = None
    """Adds Retry-After as an HTTP date, so many seconds from now on the sandbox's wall clock."""
    body: str | None = None
    """Replaces the answer's."""
    commit: Literal["never", "before", "late"] | None = None
    """When what is valid is committed: not, before the answer, after the client left (with "silence").

    Default: before the answer if that is a 2xx, but never with silence, garbage and `*_before_commit`."""

    when: str = ""
    """Only requests whose body has this text: an event's id, a device's, a marker. The answer names these events."""
    count: Positive | None = None
    """So many requests (connections, at accept); default: until healed."""
    skip: Count = 0
    """Let so many pass first."""
    share: Annotated[float, msgspec.Meta(gt=0, le=1)] = 1.0
    """Of the requests that match, by chance."""
    for_ms: Positive | None = None
    """Only so long from now."""
    pause_ms: Count = 100
    """Between trickled bytes; before a slow answer; before a break in mid-body."""

    def __post_init__(self) -> None:
        if self.answer is not None and not responses.known(self.answer):
            raise ValueError(f"answer {self.answer!r} is neither a status nor one of {', '.join(responses.VARIANTS)}")
        if self.stage in ("accept", "head") and (self.when or self.answer is not None):
            raise ValueError(
                f"{self.action} comes before the body and the answer: it takes neither `when` nor `answer`"
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
        return "proxy" if given_by_proxy or self.action in _UNCOMMITTED else "application"

    @property
    def gives_status(self) -> bool:
        """Whether the client is sent a status at all."""
        return self.action not in _UNANSWERED

    @property
    def replaces(self) -> int | str | None:
        """The answer given instead of the right one, if any."""
        return 500 if self.answer is None and self.action is None else self.answer

    def commits(self, status: int) -> Literal["never", "before", "late"]:
        """When a valid request is committed that is to be answered with `status`."""
        if self.commit is not None:
            return self.commit
        return "before" if 200 <= status < 300 and self.action not in _UNCOMMITTED else "never"


class _Live:
    """A fault of the script, and what is left of it."""

    __slots__ = ("fault", "left", "skip", "until_ms")

    def __init__(self, fault: Misbehaviour, now_ms: int) -> None:
        self.fault = fault
        self.left = fault.count
        self.skip = fault.skip
        self.until_ms = None if fault.for_ms is None else now_ms + fault.for_ms


class Misbehaviours:
    """The script; changed at any time."""

    def __init__(self, clock: Clock) -> None:
        self._clock = clock
        self._script: list[_Live] = []

    def add(self, *faults: Misbehaviour) -> None:
        now_ms = self._clock.monotonic_ms()
        self._script += [_Live(fault, now_ms) for fault in faults]

    def heal(self) -> None:
        """Forget all of them; what is under way goes on."""
        self._script.clear()

    def live(self) -> list[Misbehaviour]:
        """Those not used up, oldest first."""
        self._forget_past()
        return [live.fault for live in self._script]

    def pick(self, stage: Stage, body: bytes = b"") -> Misbehaviour | None:
        """The fault of this connection or request, if any; uses it up by one."""
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
