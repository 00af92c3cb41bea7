"""The error for the callers of a failed commit. Rule: it does not state that the events are not stored."""

from __future__ import annotations

from relay.outbox import OutboxError, OutboxFull, OutboxUnavailable


def failure_of(error: Exception) -> OutboxError:
    """Return the error for the callers of a failed call of a store. Its cause is `error`, or the cause of `error`."""
    if isinstance(error, OutboxFull | OutboxUnavailable):
        return error
    message = str(error) or type(error).__name__
    if not isinstance(error, OutboxError):
        message = f"the disk fails ({message}): whether the events were stored is unknown"
    failure = OutboxUnavailable(message)
    failure.__cause__ = error
    return failure
