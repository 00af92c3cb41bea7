"""The upstream without its sockets: what becomes of a request that is here as a whole.

Decides answer, commit and misbehaviour in one call. The order is the framework's: route, limits, key, validation;
a proxy's faults come before, the application's own after. A request without a valid key counts, like one whose
device cannot be told, against its address; it is recorded for its device all the same. Holds all a sandbox knows.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from typing import Literal, NamedTuple

import msgspec

from relay.runtime.clock import Clock
from relay.sandbox import limits, responses
from relay.sandbox.faults import Misbehaviour, Misbehaviours
from relay.sandbox.record import Kept, Record, Report
from relay.sandbox.responses import About, ScriptedResponse
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.validate import ParsedBody, Seen, read
from relay.sandbox.wire import Head, inflate


class Plan(NamedTuple):
    """What is to be done about a request."""

    answer: ScriptedResponse
    fault: Misbehaviour | None = None
    commit: Literal["never", "before", "late"] = "never"
    events: Sequence[Seen] | int = ()
    """What a commit commits: events, or how many if they are not parsed."""


_NOTHING = ParsedBody([], {"events": ["The events field is required."]}, None)


class Application:
    """Settings, record, faults and limits of one sandbox."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self.settings = settings
        self.record = Record(keep_requests=settings.keep_requests)
        self.faults = Misbehaviours(clock)
        self._clock = clock
        self._limits = limits.SandboxLimits(settings)

    def change(self, changes: dict[str, object]) -> None:
        """New values for some settings, all but the address and `keep_requests`. Raises ValueError.

        A change of a limit starts its windows anew.
        """
        if fixed := changes.keys() & {"host", "port", "keep_requests"}:
            raise ValueError(f"{', '.join(sorted(fixed))} cannot be changed while the sandbox runs")
        try:
            self.settings = msgspec.convert(msgspec.structs.asdict(self.settings) | changes, SandboxSettings)
        except msgspec.ValidationError as error:
            raise ValueError(str(error)) from error
        if changes.keys() & {"window_ms", "device_per_window", "ip_per_window", "ip_limit"}:
            self._limits = limits.SandboxLimits(self.settings)

    def report(self) -> Report:
        return self.record.report(self.settings.window_ms, dedupe=self.settings.dedupe)

    def plan(self, number: int, head: Head, raw: bytes, peer: str) -> Plan:
        """Of the request recorded as `number`, whose body came as `raw`. Counts it against its limits."""
        plan = self._plan(number, head, raw, peer)
        if any(name.lower() == "date" for name, _ in plan.answer.headers):
            return plan
        return plan._replace(
            answer=plan.answer.adding([("Date", formatdate(self._clock.wall_ms() / 1000, usegmt=True))])
        )

    def _plan(self, number: int, head: Head, raw: bytes, peer: str) -> Plan:
        body, found = self._read(head, raw)
        self.record.read(number, found.device, found.events, Kept(head.headers, body))
        early = self._before_application(head, raw)
        if early is not None:
            return Plan(early)
        fault = self.faults.pick("proxy", body)
        if fault is not None:
            return Plan(self._faulty(fault, responses.ACCEPTED, head, body), fault)
        right = self._judge(head, found, peer)
        if right.status != 202:
            return Plan(right)
        events = found.events if self.settings.validate else body.count(b'"event_id"')
        fault = self.faults.pick("application", body)
        if fault is None:
            return Plan(right, None, "before", events)
        if fault.answer == responses.PARTIAL and not isinstance(events, int):
            rejected = _about(body, fault.when).bad
            events = [event for index, event in enumerate(events) if index not in rejected]
        answer = self._faulty(fault, right, head, body)
        return Plan(answer, fault, fault.commits(answer.status), events)

    def commit(self, number: int, plan: Plan) -> None:
        if isinstance(plan.events, int):
            self.record.counted(number, plan.events)
        else:
            self.record.commit(number, plan.events)

    def _read(self, head: Head, raw: bytes) -> tuple[bytes, ParsedBody]:
        """The body with gzip undone, and what the application makes of it."""
        body = raw
        if head.headers.get("content-encoding", "identity").lower() == "gzip" and self.settings.inflate:
            body = inflate(raw, self.settings.max_body_bytes) or raw
        media_type = head.headers.get("content-type", "").lower()
        is_json = "/json" in media_type or "+json" in media_type
        return body, read(body) if is_json and self.settings.validate else _NOTHING

    def _before_application(self, head: Head, raw: bytes) -> ScriptedResponse | None:
        """Answers that need no look at the key: no such route, or larger than PHP takes."""
        if head.path not in (self.settings.path, f"{self.settings.path}/"):
            return responses.NOT_FOUND
        if head.method != "POST":
            return responses.NOT_ALLOWED
        if self.settings.max_body_bytes and len(raw) > self.settings.max_body_bytes:
            return responses.LARAVEL_TOO_LARGE
        return None

    def _judge(self, head: Head, found: ParsedBody, peer: str) -> ScriptedResponse:
        """The right answer, faults aside."""
        settings = self.settings
        has_key = not settings.api_key or head.headers.get("x-events-key") == settings.api_key
        device = found.device if has_key and settings.device_of == "first" else None
        admission = None
        if settings.validate or settings.ip_limit == "always":
            admission = self._limits.admit(device, peer, self._clock.monotonic_ms())
        if admission is not None and not admission.allowed:
            answer = responses.TOO_MANY
        elif not has_key:
            answer = responses.UNAUTHORIZED
        elif found.errors and settings.validate:
            answer = responses.invalid(found.errors)
        else:
            answer = responses.ACCEPTED
        if not wants_json(head):
            answer = responses.for_browser(answer)
        if admission is None or not settings.announce_limits:
            return answer
        return answer.adding(limits.headers(admission, self._clock.wall_ms()))

    def _faulty(self, fault: Misbehaviour, right: ScriptedResponse, head: Head, body: bytes) -> ScriptedResponse:
        """The answer `fault` gives instead of `right`, whose headers about limits stay if the application gives it."""
        answer = right
        if fault.replaces is not None:
            answer = responses.make(fault.replaces, _about(body, fault.when))
            if not answer.proxy:
                answer = answer if wants_json(head) else responses.for_browser(answer)
                answer = answer.adding([header for header in right.headers if header[0].startswith("X-RateLimit-")])
        if fault.body is not None:
            answer = answer._replace(body=fault.body.encode())
        headers = list(fault.headers.items())
        if fault.retry_after_date_s is not None:
            at_s = self._clock.wall_ms() / 1000 + fault.retry_after_date_s
            headers.append(("Retry-After", formatdate(at_s, usegmt=True)))
        return answer.adding(headers) if headers else answer


def wants_json(head: Head) -> bool:
    """As the framework's `wantsJson`: the media type the client likes best is a JSON one."""
    best = max(head.headers.get("accept", "").lower().split(","), key=_quality)
    return "/json" in best or "+json" in best


def _quality(media_range: str) -> float:
    _, found, weight = media_range.partition(";q=")
    try:
        return float(weight) if found else 1.0
    except ValueError:
        return 0.0


class _RawBody(msgspec.Struct):
    events: list[msgspec.Raw]


class _Named(msgspec.Struct):
    event_id: str = ""


def _about(body: bytes, when: str) -> About:
    """How many events a body has, and which of them have the text `when` in them; the first if none has."""
    try:
        events = msgspec.json.decode(body, type=_RawBody).events
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
        return About(1, (0,))
    text = when.encode()
    bad = [index for index, event in enumerate(events) if text and text in bytes(event)]
    bad = bad or [0]
    return About(len(events), bad, [msgspec.json.decode(events[index], type=_Named).event_id for index in bad])
