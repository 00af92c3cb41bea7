"""The events that a request omits because a response named them as bad. They stay pending at their place."""

from __future__ import annotations

from typing import Literal, NamedTuple, TypeAlias


class DeadLetterCause(NamedTuple):
    """Why an event becomes a dead letter, with the status and message of the upstream."""

    reason: Literal["refused", "too_large", "poison", "corrupt"]
    status: int | None
    message: str


class OmittedEvent(NamedTuple):
    seq: int
    """The number of the event in the outbox."""
    cause: DeadLetterCause | None
    """Why it becomes a dead letter when the request is delivered; None: it stays pending."""


Omitted: TypeAlias = tuple[OmittedEvent, ...]
