"""A small HTTP load generator: one process with several connections, each with one request in flight.

It is used without wrk, and for exact counts, steady rates and gzip. The program's only argument is an Order as JSON. It
prints an Outcome as JSON.
"""

from __future__ import annotations

import gzip
import json
import select
import socket
import sys
import time
from array import array
from collections import deque
from dataclasses import asdict, dataclass
from typing import Literal

from bench.events import event, templates

Form = Literal["json", "ndjson", "gzip"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Order:
    """The load that one process has to generate."""

    address: str
    run: str
    first: int = 0
    """Number of the first event."""
    seconds: float | None = None
    requests: int | None = None
    requests_per_s: float = 0.0
    """Rate of requests; 0: as fast as the responses are received."""
    connections: int = 64
    devices: int = 1000
    event_bytes: int = 400
    events_per_request: int = 1
    form: Form = "json"
    consecutive: int = 1
    """Number of successive events of the same device."""


@dataclass(slots=True)
class Outcome:
    requests: int = 0
    duration_us: int = 0
    rejected: int = 0
    broken: int = 0
    p50_us: int = 0
    p99_us: int = 0
    max_us: int = 0


class _Connection:
    __slots__ = ("buffer", "sent_at", "socket")

    def __init__(self, address: tuple[str, int]) -> None:
        self.socket = socket.create_connection(address)
        self.socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.buffer = b""
        self.sent_at = 0.0


class Client:
    def __init__(self, order: Order) -> None:
        self._order = order
        self._templates = templates(order.run, order.devices, order.event_bytes)
        self._number = order.first
        self._head = self._make_head()
        self._latency_us = array("I")
        self._outcome = Outcome()

    def run(self) -> Outcome:
        """Send until a bound of the order is reached, and receive the response to every request."""
        order = self._order
        host, _, port = order.address.rpartition(":")
        connections = [_Connection((host, int(port))) for _ in range(order.connections)]
        by_fd = {each.socket.fileno(): each for each in connections}
        poll = select.epoll()
        for fd in by_fd:
            poll.register(fd, select.EPOLLIN)
        idle, in_flight, sent = deque(connections), 0, 0
        began = time.monotonic()
        while True:
            elapsed = time.monotonic() - began
            finished = order.seconds is not None and elapsed >= order.seconds
            while idle and not finished and (order.requests is None or sent < order.requests):
                if order.requests_per_s and sent > elapsed * order.requests_per_s:
                    break
                self._send(idle.popleft())
                sent += 1
                in_flight += 1
            if not in_flight and (finished or sent == order.requests):
                break
            for fd, _ in poll.poll(0.001 if order.requests_per_s else 1):
                if self._receive(by_fd[fd]):
                    idle.append(by_fd[fd])
                    in_flight -= 1
        self._summarize(time.monotonic() - began)
        for each in connections:
            each.socket.close()
        return self._outcome

    def _send(self, connection: _Connection) -> None:
        body = self._body()
        connection.sent_at = time.monotonic()
        connection.socket.sendall(b"%s%d\r\n\r\n%s" % (self._head, len(body), body))

    def _receive(self, connection: _Connection) -> bool:
        """Read once. Return whether the response is complete."""
        data = connection.buffer + connection.socket.recv(65_536)
        if not data:
            raise RuntimeError("the server closed a connection")
        head, end, rest = data.partition(b"\r\n\r\n")
        if not end or len(rest) < int(head.lower().partition(b"content-length:")[2].partition(b"\r\n")[0]):
            connection.buffer = data
            return False
        connection.buffer = b""
        self._latency_us.append(int((time.monotonic() - connection.sent_at) * 1e6))
        self._outcome.requests += 1
        if data[9:10] != b"2":
            self._outcome.rejected += 1
        return True

    def _body(self) -> bytes:
        order, made, first = self._order, self._templates, self._number
        self._number += order.events_per_request
        events = [event(made[number // order.consecutive % len(made)], number) for number in range(first, self._number)]
        if order.form == "ndjson":
            return b"\n".join(events)
        body = events[0] if len(events) == 1 else b'{"events":[%s]}' % b",".join(events)
        return gzip.compress(body, 1) if order.form == "gzip" else body

    def _make_head(self) -> bytes:
        kind = "application/x-ndjson" if self._order.form == "ndjson" else "application/json"
        coding = "Content-Encoding: gzip\r\n" if self._order.form == "gzip" else ""
        return (
            f"POST /v1/events HTTP/1.1\r\nHost: {self._order.address}\r\nContent-Type: {kind}\r\n"
            f"{coding}Content-Length: "
        ).encode()

    def _summarize(self, elapsed_s: float) -> None:
        self._outcome.duration_us = int(elapsed_s * 1e6)
        if self._latency_us:
            ordered = sorted(self._latency_us)
            self._outcome.p50_us = ordered[len(ordered) // 2]
            self._outcome.p99_us = ordered[len(ordered) * 99 // 100]
            self._outcome.max_us = ordered[-1]


if __name__ == "__main__":
    print(json.dumps(asdict(Client(Order(**json.loads(sys.argv[1]))).run())))
