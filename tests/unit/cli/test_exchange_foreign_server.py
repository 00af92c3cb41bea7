"""Every command survives every response of another server that listens at the relay's address."""

from __future__ import annotations

import json
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from pathlib import Path

import pytest
from relay.cli.client import RelayClient, is_guarded
from relay.cli.common import Place
from relay.cli.exchange import MAX_BODY_BYTES, InvalidHttp, exchange
from relay.outbox import Gauges
from relay.runtime.secret import Secret

from tests.unit.cli.harness import NotedRelay, call

Talk = Callable[[socket.socket, threading.Event], None]
COMMANDS = [
    ["status"], ["status", "--json"], ["send", "post.view"], ["send", "post.view", "--wait", "--timeout", "0"],
    ["flush"], ["healthcheck"], ["healthcheck", "--json"], ["dead", "list"], ["dead", "show", "1"],
    ["dead", "requeue", "--all"], ["dead", "discard", "--all", "--yes"], ["dead", "export"],
    ["adopt"], ["adopt", "--discard"], ["prepare-image"], ["prepare-image", "--discard"],
]  # fmt: skip


def framed(body: bytes, status: str = "200 OK", kind: str = "application/json") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body


WHOLE = {
    "empty object": framed(b"{}"),
    "empty object, 202": framed(b"{}", "202 Accepted"),
    "empty object, 422": framed(b"{}", "422 Unprocessable"),
    "errors of another shape": framed(b'{"errors": {"a": 1}}', "422 Unprocessable"),
    "error of another shape": framed(b'{"error": {"code": 5}}', "500 Error"),
    "success": framed(b'{"success": true}'),
    "list": framed(b"[]"),
    "number": framed(b"1"),
    "string": framed(b'"alive"'),
    "null": framed(b"null"),
    "not a number": framed(b'{"alive": true, "x": NaN}'),
    "long number": framed(b"1" * 5000),
    "deep nesting": framed(b"[" * 100_000),
    "deep object": framed(b'{"alive": 1, "a":' + b"[" * 500 + b"]" * 500 + b"}"),
    "invalid UTF-8": framed(b'{"a": "\xff"}'),
    "half a surrogate pair": framed(b'{"error": "\\ud800"}', "500 Error"),
    "HTML": framed(b"<html>welcome</html>", kind="text/html"),
    "HTML, 502": framed(b"<html>bad gateway</html>", "502 Bad Gateway", "text/html"),
    "redirect": framed(b"", "302 Found"),
    "no content": b"HTTP/1.1 204 No Content\r\n\r\n",
    "truncated body": framed(b'{"alive": true}')[:-3],
    "truncated chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nab",
    "wrong chunks": b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-5\r\nab",
    "wrong length": b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
    "length of 64 MiB": b"HTTP/1.1 200 OK\r\nContent-Length: 67108864\r\n\r\n",
    "truncated head": b"HTTP/1.1 200 OK\r\nContent-",
    "huge headers": b"HTTP/1.1 200 OK\r\n" + b"X-A: " + b"a" * 200_000 + b"\r\n\r\n{}",
    "informational": b"HTTP/1.1 103 Early\r\n\r\n" * 100,
    "another protocol": b"SSH-2.0-OpenSSH_9.2\r\n\r\n",
    "nothing": b"",
}  # fmt: skip


@contextmanager
def foreign(talk: Talk, requests: list[bytes] | None = None) -> Iterator[int]:
    """Run a server on loopback that reads a request and then calls `talk`, on one connection at a time.

    Yield its port. The requests are appended to `requests`.
    """
    stopping = threading.Event()

    def serve() -> None:
        while not stopping.is_set():
            connection, _ = listening.accept()
            with closing(connection), suppress(OSError):
                request = connection.recv(65_536)
                if requests is not None and request:
                    requests.append(request)
                talk(connection, stopping)
                connection.shutdown(socket.SHUT_WR)
                while connection.recv(65_536):
                    pass

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve)
        thread.start()
        try:
            yield listening.getsockname()[1]
        finally:
            stopping.set()
            with suppress(OSError), socket.create_connection(listening.getsockname()):
                pass
            thread.join()


def responding(response: bytes) -> Talk:
    return lambda connection, _: connection.sendall(response)


def endless(head: bytes, part: bytes) -> Talk:
    def talk(connection: socket.socket, stopping: threading.Event) -> None:
        connection.sendall(head)
        while not stopping.is_set():
            connection.sendall(part)

    return talk


def slow_response(connection: socket.socket, stopping: threading.Event) -> None:
    connection.sendall(b"HTTP/1.1 200 OK\r\n\r\n")
    while not stopping.wait(0.01):
        connection.sendall(b" ")


@pytest.mark.parametrize("response", WHOLE.values(), ids=WHOLE)
def test_every_command_ends_with_a_message(response: bytes) -> None:
    with foreign(responding(response)) as port:
        for args in COMMANDS:
            result = call(*args, environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

            assert result.exit_code == 1, args
            assert f"127.0.0.1:{port}" in result.stderr, args


@pytest.mark.parametrize("response", WHOLE.values(), ids=WHOLE)
def test_the_support_bundle_is_written_without_the_parts_of_another_server(response: bytes) -> None:
    with foreign(responding(response)) as port:
        result = call("support-bundle", "b.tar.gz", "--json", environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 0
    assert {"status.json", "readyz.json"} <= json.loads(result.stdout)["missing"].keys()


@pytest.mark.parametrize(
    ("head", "part"),
    [
        (b"HTTP/1.1 200 OK\r\n\r\n", b" " * 65_536),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n", b"10000\r\n" + b" " * 65_536 + b"\r\n"),
        (b"HTTP/1.1 200 OK\r\n", b"X-A: b\r\n" * 1000),
    ],
    ids=["body", "chunks", "headers"],
)
def test_a_response_without_end_is_read_up_to_its_limit(head: bytes, part: bytes) -> None:
    with foreign(endless(head, part)) as port, pytest.raises(InvalidHttp, match="more than"):
        exchange(Place("127.0.0.1", port), "GET", "/", {}, None, 30)

    assert MAX_BODY_BYTES <= 32 << 20


def test_a_slow_response_ends_at_the_deadline_of_the_whole_exchange() -> None:
    with foreign(slow_response) as port:
        with pytest.raises(TimeoutError):
            exchange(Place("127.0.0.1", port), "GET", "/", {}, None, 0.2)
        result = call("healthcheck", "--timeout", "0.2", environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 1
    assert "no response in time" in result.stderr


@pytest.mark.parametrize("field", ["adopted", "discarded"])
def test_adopt_ends_if_the_remainder_does_not_shrink(field: str) -> None:
    body = json.dumps({"alive": True, "success": True, field: 1, "remaining": 5}).encode()
    with foreign(responding(framed(body))) as port:
        args = ["adopt"] if field == "adopted" else ["adopt", "--discard"]
        result = call(*args, environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 1
    assert "is not a relay (1 events" in result.stderr


def test_a_listing_ends_if_a_page_does_not_advance() -> None:
    body = json.dumps({"alive": True, "dead_letters": [], "next_after": 0}).encode()
    with foreign(responding(framed(body))) as port:
        result = call("dead", "list", environ={"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}"})

    assert result.exit_code == 1
    assert "next_after is 0, expected more than 0" in result.stderr


def test_chunks_and_bodies_without_length_are_read() -> None:
    for response in (
        b'HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{"a\r\n4;x=y\r\n": 1\r\n1\r\n}\r\n0\r\n\r\n',
        b'HTTP/1.0 200 OK\r\n\r\n{"a": 1}',
    ):
        with foreign(responding(response)) as port:
            assert RelayClient(Place("127.0.0.1", port)).get("/").data == {"a": 1}


def test_the_token_is_sent_to_guarded_paths_only_and_after_livez() -> None:
    public = ("/livez", "/readyz", "/metrics", "/status.json", "/v1/events/1")
    guarded = ("/log", "/flush", "/dead-letters")
    requests: list[bytes] = []

    with foreign(responding(framed(b'{"alive": true}')), requests) as port:
        client = RelayClient(Place("127.0.0.1", port), Secret("canary"))
        for path in (*public, *guarded):
            client.get(path)

    assert [request.split(b" ")[1].decode() for request in requests] == [*public, "/livez", *guarded]
    assert [b"canary" in request for request in requests] == [False] * 6 + [True] * 3


@pytest.mark.parametrize("response", [b'{"success": true, "pending": 1}', b'{"alive": 1}', b"<html>"])
@pytest.mark.parametrize("args", [*COMMANDS, ["support-bundle", "b.tar.gz"]], ids=" ".join)
def test_no_command_sends_the_token_to_another_server(args: list[str], response: bytes, tmp_path: Path) -> None:
    (tmp_path / "token").write_text("canary-of-sixteen-characters\n")
    requests: list[bytes] = []
    with foreign(responding(framed(response)), requests) as port:
        environ = {"RELAY__HTTP__LISTEN": f"127.0.0.1:{port}", "RELAY__OPS__TOKEN_FILE": str(tmp_path / "token")}
        call(*args, environ=environ)

    assert requests
    assert [request for request in requests if b"canary" in request] == []


def test_every_guarded_path_of_the_relay_gets_the_token_and_no_other(relay: NotedRelay) -> None:
    routes = relay.ops.routes

    assert {path for path in routes if is_guarded(path)} == {path for path in routes if routes[path].guarded}


def test_a_relay_that_cannot_store_is_still_a_relay(relay: NotedRelay) -> None:
    relay.outbox.state = Gauges(
        0, 1, 0, writable=False, dead_letters=0, problem="the disk is full", devices=3, max_devices=50_000
    )

    assert call("status", environ=relay.environ).exit_code == 0
