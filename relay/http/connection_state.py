"""The states of a connection, and the inputs that change them. `Connection` alone applies them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

State = Literal["new", "idle", "receiving", "handling", "discarding", "writing", "closing", "closed"]
"""new: no byte was received.
idle: no request is in progress.
receiving: a request was received in part.
handling: a complete request waits for its response.
discarding: the response was sent early, and the rest of the request is received and ignored.
writing: the client has not read the response.
closing: the last response is being sent.
closed: the socket is closed."""
Input = Literal["began", "completed", "responded", "ended", "stalled", "drained", "closed", "lost"]
"""began, completed: the first or the last byte of a request was received.
responded: a response was written before the end of its request.
ended, stalled: a request and its response ended, and the client reads or does not read the response.
drained: the client has read the response.
closed: the relay sends nothing more.
lost: the socket was closed."""

_ENDS: Mapping[Input, State] = {"closed": "closing", "lost": "closed"}
_STARTS: Mapping[Input, State] = {"began": "receiving", "completed": "handling", **_ENDS}
NEXT: Mapping[State, Mapping[Input, State]] = {
    "new": _STARTS,
    "idle": _STARTS,
    "receiving": {"completed": "handling", "responded": "discarding", **_ENDS},
    "handling": {"ended": "idle", "stalled": "writing", **_ENDS},
    "discarding": {"ended": "idle", "stalled": "writing", **_ENDS},
    "writing": {"drained": "idle", **_ENDS},
    "closing": {"lost": "closed"},
    "closed": {},
}
"""The next state by state and input. An input that is absent from a state is a bug in this state."""
READS = frozenset[State]({"new", "idle", "receiving", "discarding"})
"""States in which received data is read at once."""
PARTS: Mapping[State, tuple[bool, bool, bool]] = {
    "new": (False, False, True),
    "idle": (False, False, True),
    "receiving": (True, False, True),
    "handling": (False, True, True),
    "discarding": (True, True, True),
    "writing": (False, False, True),
    "closing": (False, False, True),
    "closed": (False, False, False),
}
"""Whether a connection has a reader, a plan and a transport, by state."""
