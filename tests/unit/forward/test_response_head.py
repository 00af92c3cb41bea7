"""Heads of responses, received in pieces of any size: passed, normalized, dropped or rejected."""

from __future__ import annotations

import pytest
from relay.forward.response_head import (
    MAX_HEAD_BYTES,
    MAX_INFORMATIONAL,
    MAX_LINE_BYTES,
    MAX_LINES,
    NotHttp,
    ResponseHead,
)

BODY = b'{"success": true}'
PLAIN = b"HTTP/1.1 202 Accepted\r\nContent-Length: 17\r\n\r\n"
INFORMATIONAL = b"HTTP/1.1 103 Early Hints\r\nLink: </x>\r\n\r\n"


def read(data: bytes, piece_bytes: int = 1 << 30) -> tuple[bytes, bool]:
    """Return the bytes for the parser, and whether the connection ends with this response."""
    head = ResponseHead()
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    return b"".join(map(head.feed, pieces)), head.ends_connection


def response(*lines: str, status: str = "202 Accepted") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1 << 30])
@pytest.mark.parametrize(
    ("received", "for_parser"),
    [
        (PLAIN + BODY, PLAIN + BODY),
        (b"\r\n\n" + PLAIN + BODY, PLAIN + BODY),
        (PLAIN.replace(b"\r\n", b"\n") + BODY, PLAIN.replace(b"\r\n", b"\n") + BODY),
        (b"HTTP/1.1 202\r\nContent-Length: 17\r\n\r\n" + BODY, b"HTTP/1.1 202\r\nContent-Length: 17\r\n\r\n" + BODY),
        (INFORMATIONAL * MAX_INFORMATIONAL + PLAIN + BODY, PLAIN + BODY),
        (response("Content-Length: 17", "Content-Length: 17") + BODY, PLAIN + BODY),
        (
            response("content-length: 17", "X: y", "CONTENT-LENGTH:17 ") + BODY,
            response("Content-Length: 17", "X: y") + BODY,
        ),
        (response("Content-Length: 17, 17") + BODY, PLAIN + BODY),
        (response("X-A : 1", "Content-Length \t: 17") + BODY, response("X-A: 1", "Content-Length: 17") + BODY),
        (response("X: a b : c", " d : e") + BODY, response("X: a b : c", " d : e") + BODY),
        (b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n"),
    ],
)
def test_unambiguous_response_is_passed_to_the_parser(received: bytes, for_parser: bytes, piece_bytes: int) -> None:
    assert read(received, piece_bytes) == (for_parser, False)


@pytest.mark.parametrize("piece_bytes", [1, 1 << 30])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_body_of_a_204_or_304_is_dropped_and_ends_the_connection(status: str, piece_bytes: int) -> None:
    head = response("X: y", status=status)
    assert read(head, piece_bytes) == (head, False)
    assert read(response("X: y", "Content-Length: 0", status=status), piece_bytes) == (head, False)
    assert read(response("X: y", "Content-Length: 17", status=status) + BODY, piece_bytes) == (head, True)
    assert read(response("X: y", "Transfer-Encoding: chunked", status=status) + b"0\r\n\r\n", piece_bytes) == (
        head,
        True,
    )


def test_unannounced_body_of_a_204_ends_the_connection() -> None:
    head = response(status="204 No Content")
    assert read(head + BODY) == (head, True)


def test_content_length_beside_chunks_is_removed_and_the_connection_is_not_reused() -> None:
    chunks = b"11\r\n" + BODY + b"\r\n0\r\n\r\n"
    coded = response("Transfer-Encoding: chunked")
    assert read(response("Content-Length: 17", "Transfer-Encoding: chunked") + chunks) == (coded + chunks, True)


@pytest.mark.parametrize("lengths", [["5", "7"], ["5, 7"], ["-1"], ["x"]])
def test_ambiguous_content_length_is_left_to_the_parser(lengths: list[str]) -> None:
    received = response(*(f"Content-Length: {length}" for length in lengths))
    assert read(received) == (received, False)


@pytest.mark.parametrize("piece_bytes", [4_096, 1 << 30])
def test_line_of_64_kib_passes_and_a_longer_one_is_an_error_with_its_name(piece_bytes: int) -> None:
    longest = "X: " + "a" * (MAX_LINE_BYTES - len("X: \r"))
    assert read(response(longest), piece_bytes) == (response(longest), False)
    with pytest.raises(NotHttp, match=r"its header line 'X' is longer than 65536 bytes"):
        read(response("A: b", longest + "a"), piece_bytes)


def test_line_without_an_end_is_an_error_at_the_limit() -> None:
    with pytest.raises(NotHttp, match="header line 'Set-Cookie' is longer than 65536 bytes"):
        read(b"HTTP/1.1 202 Accepted\r\nSet-Cookie: " + b"a" * (MAX_LINE_BYTES + 1), 4_096)


def test_number_of_lines_is_bounded() -> None:
    most = response(*["X: y"] * (MAX_LINES - 2))
    assert read(most) == (most, False)
    with pytest.raises(NotHttp, match=r"it has 1001 header lines, more than 1000"):
        read(response(*["X: y"] * (MAX_LINES - 1)))


@pytest.mark.parametrize("ended", [b"", b"\r\n"])
def test_size_of_the_head_is_bounded(ended: bytes) -> None:
    lines = (b"X: " + b"a" * 60_000 + b"\r\n") * 18
    with pytest.raises(NotHttp, match=f"its head is longer than {MAX_HEAD_BYTES} bytes"):
        read(b"HTTP/1.1 202 Accepted\r\n" + lines + ended)


@pytest.mark.parametrize("piece_bytes", [50, 1 << 30])
def test_too_many_informational_responses_are_an_error(piece_bytes: int) -> None:
    with pytest.raises(NotHttp, match="more than 16 informational responses, the last one 103"):
        read(INFORMATIONAL * 100_000 + PLAIN, piece_bytes)


@pytest.mark.parametrize(
    ("received", "message"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"it begins with 'SSH-2\.0-OpenSSH_9\.2\\r\\n' instead of HTTP/"),
        (b"\x15\x03\x03\x00\x02\x02\x46", r"it begins with '\\x15\\x03"),
        (b"HTTP/1.1 99999 Huh\r\n\r\n", r"its status line is 'HTTP/1\.1 99999 Huh\\r'"),
        (b"HTTP/1.1 abc\r\n\r\n", r"its status line is 'HTTP/1\.1 abc\\r'"),
        (b"HTTP/9\r\n\r\n", r"its status line is 'HTTP/9\\r'"),
    ],
)
def test_error_for_bytes_that_are_not_http_quotes_them(received: bytes, message: str) -> None:
    with pytest.raises(NotHttp, match=message):
        read(received)


def test_received_is_set_with_the_first_byte() -> None:
    head = ResponseHead()
    assert not head.received
    assert head.feed(b"H") == b""
    assert (head.received, head.complete) == (True, False)
