"""The responses to datagrams, and the datagrams without a response."""

from __future__ import annotations

import json
import socket
import uuid
from collections.abc import Iterator
from contextlib import contextmanager

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.event.reader import Event
from relay.ingest.udp.read_batch import ReadBatch, ReceivedDatagram
from relay.ingest.udp.responses import Responses, error_response, is_response, stored_response

ids = st.lists(st.binary(min_size=16, max_size=16), min_size=1, max_size=40)


@given(ids, st.integers(0, 2_000))
def test_a_response_lists_or_counts_the_stored_events_and_is_smaller_than_the_datagram(
    event_ids: list[bytes], size: int
) -> None:
    full = {"stored": [str(uuid.UUID(bytes=each)) for each in event_ids], "count": len(event_ids)}
    response = stored_response(event_ids, size)
    forms = [json.dumps(form, separators=(",", ":")).encode() for form in (full, {"count": len(event_ids)})]
    assert response == next((form for form in forms if len(form) < size), b"")


@given(st.text(), st.integers(0, 300))
def test_an_error_response_is_smaller_than_the_datagram(error: str, size: int) -> None:
    response = error_response(error, size)
    assert len(response) < max(size, 1)
    assert response or size <= len(b'{"error":"invalid"}')
    assert not response or list(json.loads(response)) == ["error"]


@pytest.mark.parametrize(
    "error", ["The events.0.tenant_id field is required.", "a \N{SNOWMAN} and a \N{BELL} \0", '"quotes"']
)
def test_an_error_that_fits_is_complete(error: str) -> None:
    assert json.loads(error_response(error, 1_000))["error"] == error.encode("ascii", "replace").decode()
    assert error_response(error, 20) == b'{"error":"invalid"}'


def test_an_error_that_does_not_fit_is_cut() -> None:
    error = 'The events.0.source.platform field must be one of ios, android, web, tv, but is "roku".'
    assert json.loads(error_response(error, 80)) == {
        "error": "The events.0.source.platform field must be one of ios, android..."
    }
    assert error_response(error, 38) == b'{"error":"The events.0.source...."}'
    assert error_response(error, 37) == b'{"error":"invalid"}'


@pytest.mark.parametrize(
    ("datagram", "expected"),
    [
        (b'{"stored":["550e8400-e29b-41d4-a716-446655440000"],"count":1}', True),
        (b'{"count":12}', True),
        (b'{"error":"invalid"}', True),
        (b' { "error" : "x", "count": 1 }\n', True),
        (b'{"error":"the begin', True),
        (b'{"error":"\xff"}', True),
        (b'{"error":"x","event_type":"a"}', False),
        (b'{"event_type":1,"error":"x"}', False),
        (b'{"errors":1}', False),
        (b"{}", False),
        (b"", False),
    ],
)
def test_a_response_is_distinguished_from_an_event(datagram: bytes, expected: bool) -> None:
    assert is_response(datagram) is expected


@pytest.mark.parametrize("error", ["x", "The events.0 field must be an object.", '"\\' * 30])
@given(ids)
def test_every_response_is_recognized(error: str, event_ids: list[bytes]) -> None:
    assert is_response(error_response(error, 10_000))
    assert is_response(stored_response(event_ids, 10_000))
    assert is_response(stored_response(event_ids, 30))


@contextmanager
def opened(*hosts: str) -> Iterator[list[socket.socket]]:
    sockets = [socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET, socket.SOCK_DGRAM) for host in hosts]
    try:
        for each, host in zip(sockets, hosts, strict=True):
            each.setblocking(False)
            each.bind((host, 0))
        yield sockets
    finally:
        for each in sockets:
            each.close()


def respond(receiver: socket.socket, listening: list[socket.socket], sender: tuple[str, int]) -> None:
    """Give a sender all three kinds of response, as far as it gets any."""
    batch = ReadBatch([Event(bytes(16), (1, "tv", "d"), b"{}")], [1], [500], [sender], receiver)
    responses = Responses(listening)
    responses.stored(batch)
    responses.not_stored(batch, "full")
    responses.rejected("invalid", ReceivedDatagram(b"x" * 500, sender, receiver))


@pytest.mark.parametrize("host", ["127.0.0.1", "0.0.0.0"])
def test_the_relays_own_addresses_get_no_response(host: str) -> None:
    """A datagram with a forged sender would start an exchange without end."""
    with opened(host, "127.0.0.1", "127.0.0.1") as (own, second, app):
        for sender in (("127.0.0.1", own.getsockname()[1]), second.getsockname()):
            respond(own, [own, second], sender)
        respond(own, [own, second], app.getsockname())
        assert len([app.recv(1_000) for _ in range(3)]) == 3
        for silent in (own, second):
            with pytest.raises(BlockingIOError):
                silent.recv(1)


def test_on_a_dual_stack_socket_an_ipv4_sender_is_compared_as_such() -> None:
    with opened("127.0.0.1") as (own,), socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as dual:
        dual.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 0)
        dual.bind(("::", 0))
        respond(dual, [own, dual], ("::ffff:127.0.0.1", own.getsockname()[1]))
        respond(dual, [own, dual], ("::ffff:127.0.0.1", dual.getsockname()[1]))
        dual.setblocking(False)
        for silent in (own, dual):
            with pytest.raises(BlockingIOError):
                silent.recv(1)


@pytest.mark.parametrize("port", [7, 13, 17, 19, 37])
def test_a_service_that_replies_to_everything_gets_no_response(port: int) -> None:
    with opened("127.0.0.1") as (own,), socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as service:
        try:
            service.bind(("127.0.0.1", port))
        except PermissionError:
            pytest.skip("only root may listen there")
        service.setblocking(False)
        respond(own, [own], ("127.0.0.1", port))
        with pytest.raises(BlockingIOError):
            service.recv(1)
