"""The state of one device queue in the schedule: its pending events, position, pause and diagnosis.

A device queue has at most one request in flight, which contains its first events.
"""

from __future__ import annotations

from zlib import crc32

from relay.event.reader import DeviceKey
from relay.policy.class_turns import SPARSE_PART, DeviceClass
from relay.policy.diagnosis import (
    HEALTHY,
    BatchDelivered,
    Diagnosis,
    EventsNamed,
    LaterChosen,
    Outcome,
    ProbingLater,
    Remainder,
    RemainderEnded,
)
from relay.policy.limits import Limits
from relay.policy.omitted_events import Omitted
from relay.policy.pause import NO_PAUSE, Pause
from relay.policy.position import IDLE, InFlight, Lingering, Position, SlotUse
from relay.policy.rate_window import Window, is_free

_KNOWN = 1
_FREE = Window()
"""Shared by all device queues without a request, because most have none. It is never changed."""


class DeviceQueue:
    """The state of one device queue. Times are monotonic milliseconds."""

    __slots__ = (
        "_window",
        "body_bytes",
        "diagnosis",
        "events",
        "id",
        "is_known",
        "key",
        "pause",
        "position",
        "wake_at",
    )

    def __init__(self, queue_id: int, key: DeviceKey) -> None:
        self.id = queue_id
        self.key = key
        self._window = _FREE
        self.is_known = False  # Whether one of its events was delivered.
        self.events = 0  # Pending events, including events in flight.
        self.body_bytes = 0
        self.position: Position = IDLE
        self.pause = NO_PAUSE
        self.diagnosis = HEALTHY
        self.wake_at: int | None = None  # Expiry of its timer; set by Timers.

    def __repr__(self) -> str:
        return f"DeviceQueue({self.id}, {self.events} events, {self.position}, {self.pause}, {self.diagnosis})"

    # -- position ----------------------------------------------------------------------------------

    def arrive(self, due_at: int) -> None:
        """Let pending events linger until `due_at` at most."""
        self._move(self.position.arrived(due_at))

    def become_empty(self) -> None:
        self._move(self.position.emptied())

    def become_ready(self) -> None:
        self._move(self.position.freed())

    def postpone(self, now: int) -> None:
        """End a turn without a request, because of a pause, a full rate window or no events."""
        self._move(self.position.postponed(now if self.events else None))

    def reserve(self) -> None:
        """Reserve the first events for an exact request."""
        self._move(self.position.reserved())

    def end_reservation(self) -> None:
        self._move(self.position.unreserved())

    def send(self, events: int, slot: SlotUse, now: int) -> None:
        """Put the first `events` events in flight."""
        self._used_window().sent(now)
        self._move(self.position.chosen(slot, leftover=self.events > events))

    def cut(self) -> None:
        """Record that the request in flight contains fewer events than chosen, or did not deliver them."""
        self._in_flight().leftover = True

    def settle(self, now: int, limits: Limits, shared_phase: int | None) -> None:
        """End the request in flight.

        Events that remained pending are due now. Events that arrived during the request linger from their arrival.
        `shared_phase`: see `linger_end`.
        """
        position, due_at = self._in_flight(), None
        if not position.resend:
            self.end_remainder()
        if self.events:
            if position.leftover or position.grew_at is None or self.is_full(limits):
                due_at = now
            else:
                due_at = self.linger_end(position.grew_at, limits, shared_phase)
        self._move(position.settled(due_at))

    def use_slot(self, use: SlotUse) -> SlotUse:
        """Change how the request in flight uses its request slot. Return the use before."""
        position = self._in_flight()
        before, position.slot = position.slot, use
        return before

    def _in_flight(self) -> InFlight:
        assert isinstance(self.position, InFlight), self
        return self.position

    def _move(self, position: Position) -> None:
        self.position = position
        assert not self.events if position is IDLE else self.events or type(position) is not Lingering, self

    # -- pending events ----------------------------------------------------------------------------

    def set_backlog(self, events: int, body_bytes: int) -> None:
        """Set the pending events, including events in flight."""
        self.events, self.body_bytes = events, body_bytes

    def restore(self, packed: bytes, now: int, limit: int, shift_ms: int | None) -> None:
        """Replace the rate window and the knowledge of the device by what `pack` returned before a restart."""
        if _is_known(packed):
            self.is_known = True
            if overtaken := packed[-1] >> 1:
                self.diagnosis = Diagnosis(overtaken=overtaken)
            packed = packed[:-1]
        self._window = Window.unpack(packed, now, limit, shift_ms) if packed else _FREE

    def pack(self, now: int, span_ms: int) -> bytes:
        """Return the rate window for storage, with one more byte if the device is known: the overtaken events."""
        packed = self._window.pack(now, span_ms)
        return packed + bytes((_KNOWN | self.diagnosis.overtaken << 1,)) if self.is_known else packed

    def responded(self, now: int) -> None:
        """Record a response to a request, or the end of waiting for it."""
        self._used_window().responded(now)

    def owe(self, requests: int, now: int) -> None:
        """Reserve rate slots for requests of another relay that may still arrive."""
        if requests or self._window is not _FREE:
            self._used_window().owe(requests, now)

    def occupied(self, now: int, limits: Limits) -> int:
        """Return the number of rate slots that are not free."""
        return self._window.count(now, limits.window_ms)

    def _used_window(self) -> Window:
        if self._window is _FREE:
            self._window = Window()
        return self._window

    def free_at(self, now: int, limits: Limits) -> int:
        """Return the earliest time that pause and rate window permit; `now` or earlier if they permit a request now."""
        at = self._window.free_at(now, limits.device_per_window, limits.window_ms)
        paused_until = self.pause.until
        return at if at > paused_until else paused_until

    def max_events(self, limit: int) -> int:
        """Return the maximum number of events for the next request."""
        return limit if self.diagnosis is HEALTHY else self.diagnosis.max_events(limit)

    def needs_own_request(self) -> bool:
        """Return whether the queue must not share a request, because one of its events may be bad."""
        return self.diagnosis is not HEALTHY and self.diagnosis.needs_own_request()

    def start_pause(self, pause: Pause) -> None:
        self.pause = pause

    def end_pause(self) -> None:
        """End the pause, except the part that a server requested."""
        self.pause = self.pause.ended()

    def linger_end(self, arrived: int, limits: Limits, shared_phase: int | None) -> int:
        """Return the end of the linger time of events that arrived at `arrived`.

        `shared_phase`: the phase of all devices that share requests; None: each device has its own.
        """
        return linger_end(phase(self.key) if shared_phase is None else shared_phase, arrived, limits.linger_ms)

    def is_full(self, limits: Limits) -> bool:
        """Return whether the pending events fill a request, so that they need not linger."""
        return self.events >= limits.max_events or self.body_bytes >= limits.max_body_bytes

    def is_idle(self, now: int, limits: Limits) -> bool:
        """Return whether the queue has no pending events, occupied rate slots or pause."""
        return self.position is IDLE and self.pause.until <= now and not self.occupied(now, limits)

    def device_class(self, limits: Limits) -> DeviceClass:
        if self.diagnosis.failures:
            return DeviceClass.IN_DOUBT
        if not self.is_known:
            return DeviceClass.NEW
        has_few_events = self.events <= 1 or self.events * SPARSE_PART <= limits.max_events
        if has_few_events and self.body_bytes * SPARSE_PART <= limits.max_body_bytes:
            return DeviceClass.SPARSE
        return DeviceClass.BACKLOG if self.is_full(limits) else DeviceClass.QUIET

    def diagnose(self, outcome: Outcome) -> None:
        """Record the outcome of a request for the diagnosis of the first batch."""
        self.diagnosis = self.diagnosis.after(outcome)

    @property
    def omitted(self) -> Omitted:
        """The events that the next request omits."""
        state = self.diagnosis.state
        return state.omitted if isinstance(state, Remainder | ProbingLater) else ()

    def exact_events(self, events: int) -> int:
        """Return the number of events of an exact request that follows one with `events`, omitted ones included."""
        return len(self.omitted) + 1 if isinstance(self.diagnosis.state, ProbingLater) else events

    def resume(self, omitted: Omitted) -> None:
        """Restore the diagnosis of a request in flight at a crash that omits events."""
        is_later = any(event.cause is None for event in omitted)
        self.diagnose(LaterChosen(omitted) if is_later else EventsNamed(omitted))

    def end_remainder(self) -> None:
        """Record that the next request is not the remainder of the latest one."""
        if self.diagnosis is not HEALTHY:
            self.diagnose(RemainderEnded())

    def delivered(self, events: int, rejected: int) -> None:
        """Record that the first `events` events were delivered, except `rejected` ones of them, see BatchDelivered."""
        if rejected < events:
            self.is_known = True
        if self.diagnosis is not HEALTHY:
            self.diagnose(BatchDelivered(events))


def may_forget(packed: bytes, now: int, span_ms: int) -> bool:
    """Return whether what `pack` returned in this boot is of a new device with a free rate window."""
    return not _is_known(packed) and is_free(packed, now, span_ms)


def _is_known(packed: bytes) -> bool:
    return len(packed) % 4 != 0  # A packed window is a multiple of four bytes.


def linger_end(phase: int, arrived: int, linger_ms: int) -> int:
    """Return the end of the linger time of an event that arrived at `arrived`, at most `linger_ms` later.

    The linger times of a device end at its own phase, so that the devices of a site that power up together do not send
    at the same moment.
    """
    if linger_ms <= 0:
        return arrived
    return arrived + linger_ms - (arrived - phase) % linger_ms


def phase(key: DeviceKey) -> int:
    """Return the phase of a device, which is the same in every process."""
    return crc32(repr(key).encode("utf-8", "surrogatepass"))
