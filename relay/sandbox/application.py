"""The upstream without its sockets: it decides how a complete request is handled.

One call decides response, commit and fault. The order of checks is the framework's: route, limits, key, validation.
A proxy's faults apply before them, the application's faults after them. A request without a valid key counts against
its address, like a request without a readable device, but it is recorded for its device. `Application` owns the whole
state of a sandbox.
"""

from __future__ import annotations

from collections.abc import Sequence
from email.utils import formatdate
from typing import Literal, NamedTuple

import msgspec

from relay.runtime.clock import Clock
from relay.sandbox import limits, responses
from relay.sandbox.faults import FaultScript, Misbehaviour
from relay.sandbox.record import Record, Report, RequestContent
from relay.sandbox.responses import RequestEvents, ScriptedResponse
from relay.sandbox.settings import SandboxSettings
from relay.sandbox.validate import ParsedBody, ReceivedEvent, raw_events, read
from relay.sandbox.wire import Head, inflate


class ResponsePlan(NamedTuple):
    """The response to a request, its fault, and the events to commit."""

    response: ScriptedResponse
    fault: Misbehaviour | None = None
    commit: Literal["never", "before", "late"] = "never"
    events: Sequence[ReceivedEvent] | int = ()
    """The events to commit, or their number if the body is not parsed."""


_NOTHING = ParsedBody([], {"events": ["The events field is required."]}, None)


class Application:
    """Settings, record, faults and limits of one sandbox."""

    def __init__(self, settings: SandboxSettings, clock: Clock) -> None:
        self.settings = settings
        self.record = Record(keep_requests=settings.keep_requests)
        self.faults = FaultScript(clock)
        self._clock = clock
        self._limits = limits.SandboxLimits(settings)

    def change(self, changes: dict[str, object]) -> None:
        """Change settings. Raise ValueError for an invalid value, the address, or `keep_requests`.

        A change of a limit opens new windows for all limits.
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

    def plan(self, number: int, head: Head, raw: bytes, peer: str) -> ResponsePlan:
        """Return the plan for the request `number` with the body `raw`, and count the request against its limits."""
        plan = self._plan(number, head, raw, peer)
        if any(name.lower() == "date" for name, _ in plan.response.headers):
            return plan
        return plan._replace(
            response=plan.response.adding([("Date", formatdate(self._clock.wall_ms() / 1000, usegmt=True))])
        )

    def _plan(self, number: int, head: Head, raw: bytes, peer: str) -> ResponsePlan:
        body, found = self._read(head, raw)
        self.record.read(number, found.device, found.events, RequestContent(head.headers, body))
        early = self._before_application(head, raw)
        if early is not None:
            return ResponsePlan(early)
        fault = self.faults.pick("proxy", body)
        if fault is not None:
            return ResponsePlan(self._faulty(fault, responses.ACCEPTED, head, body), fault)
        correct = self._judge(head, found, peer)
        if correct.status != 202:
            return ResponsePlan(correct)
        events = found.events if self.settings.validate else body.count(b'"event_id"')
        fault = self.faults.pick("application", body)
        if fault is None:
            return ResponsePlan(correct, None, "before", events)
        if fault.answer == responses.PARTIAL and not isinstance(events, int):
            rejected = _request_events(body, fault.when).bad
            events = [event for index, event in enumerate(events) if index not in rejected]
        response = self._faulty(fault, correct, head, body)
        return ResponsePlan(response, fault, fault.commits(response.status), events)

    def commit(self, number: int, plan: ResponsePlan) -> None:
        if isinstance(plan.events, int):
            self.record.counted(number, plan.events)
        else:
            self.record.commit(number, plan.events)

    def _read(self, head: Head, raw: bytes) -> tuple[bytes, ParsedBody]:
        """Return the decompressed body, and the body as the application parses it."""
        body = raw
        if head.headers.get("content-encoding", "identity").lower() == "gzip" and self.settings.inflate:
            body = inflate(raw, self.settings.max_body_bytes) or raw
        media_type = head.headers.get("content-type", "").lower()
        is_json = "/json" in media_type or "+json" in media_type
        return body, read(body) if is_json and self.settings.validate else _NOTHING

    def _before_application(self, head: Head, raw: bytes) -> ScriptedResponse | None:
        """Return the response if the route is unknown or the body exceeds PHP's limit. No key is needed for these."""
        if head.path not in (self.settings.path, f"{self.settings.path}/"):
            return responses.NOT_FOUND
        if head.method != "POST":
            return responses.NOT_ALLOWED
        if self.settings.max_body_bytes and len(raw) > self.settings.max_body_bytes:
            return responses.LARAVEL_TOO_LARGE
        return None

    def _judge(self, head: Head, found: ParsedBody, peer: str) -> ScriptedResponse:
        """Return the correct response, without faults."""
        settings = self.settings
        has_key = not settings.api_key or head.headers.get("x-events-key") == settings.api_key
        device = found.device if has_key and settings.device_of == "first" else None
        admission = None
        if settings.validate or settings.ip_limit == "always":
            admission = self._limits.admit(device, peer, self._clock.monotonic_ms())
        if admission is not None and not admission.allowed:
            response = responses.TOO_MANY
        elif not has_key:
            response = responses.UNAUTHORIZED
        elif found.errors and settings.validate:
            response = responses.invalid(found.errors)
        else:
            response = responses.ACCEPTED
        if not wants_json(head):
            response = responses.for_browser(response)
        if admission is None or not settings.announce_limits:
            return response
        return response.adding(limits.headers(admission, self._clock.wall_ms()))

    def _faulty(self, fault: Misbehaviour, correct: ScriptedResponse, head: Head, body: bytes) -> ScriptedResponse:
        """Return the response with `fault` applied to `correct`.

        A response of the application keeps the rate-limit headers of `correct`.
        """
        response = correct
        if fault.replaces is not None:
            response = responses.make(fault.replaces, _request_events(body, fault.when))
            if not response.proxy:
                response = response if wants_json(head) else responses.for_browser(response)
                response = response.adding(
                    [header for header in correct.headers if header[0].startswith("X-RateLimit-")]
                )
        if fault.body is not None:
            response = response._replace(body=fault.body.encode())
        headers = list(fault.headers.items())
        if fault.retry_after_date_s is not None:
            at_s = self._clock.wall_ms() / 1000 + fault.retry_after_date_s
            headers.append(("Retry-After", formatdate(at_s, usegmt=True)))
        return response.adding(headers) if headers else response


def wants_json(head: Head) -> bool:
    """Return whether the client's preferred media type is JSON, like the framework's `wantsJson`."""
    best = max(head.headers.get("accept", "").lower().split(","), key=_quality)
    return "/json" in best or "+json" in best


def _quality(media_range: str) -> float:
    _, found, weight = media_range.partition(";q=")
    try:
        return float(weight) if found else 1.0
    except ValueError:
        return 0.0


class _Named(msgspec.Struct):
    event_id: str = ""


def _request_events(body: bytes, when: str) -> RequestEvents:
    """Return the number of events in a body and the events that contain `when`, or the first if none contains it."""
    events = raw_events(body)
    if not events:
        return RequestEvents(1, (0,))
    text = when.encode()
    bad = [index for index, event in enumerate(events) if text and text in bytes(event)]
    bad = bad or [0]
    return RequestEvents(len(events), bad, [msgspec.json.decode(events[index], type=_Named).event_id for index in bad])
