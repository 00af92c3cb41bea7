"""Heads of responses: what passes, what is put right, what is dropped and what is an error. In any pieces."""

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
    """What the parser gets, and whether the connection ends with this response."""
    head = ResponseHead()
    pieces = [data[at : at + piece_bytes] for at in range(0, len(data), piece_bytes)]
    return b"".join(map(head.feed, pieces)), head.ends_connection


def answer(*lines: str, status: str = "202 Accepted") -> bytes:
    return "\r\n".join([f"HTTP/1.1 {status}", *lines, "", ""]).encode("latin-1")


@pytest.mark.parametrize("piece_bytes", [1, 2, 3, 7, 1 << 30])
@pytest.mark.parametrize(
    ("came", "for_parser"),
    [
        (PLAIN + BODY, PLAIN + BODY),
        (b"\r\n\n" + PLAIN + BODY, PLAIN + BODY),
        (PLAIN.replace(b"\r\n", b"\n") + BODY, PLAIN.replace(b"\r\n", b"\n") + BODY),
        (b"HTTP/1.1 202\r\nContent-Length: 17\r\n\r\n" + BODY, b"HTTP/1.1 202\r\nContent-Length: 17\r\n\r\n" + BODY),
        (INFORMATIONAL * MAX_INFORMATIONAL + PLAIN + BODY, PLAIN + BODY),
        (answer("Content-Length: 17", "Content-Length: 17") + BODY, PLAIN + BODY),
        (
            answer("content-length: 17", "X: y", "CONTENT-LENGTH:17 ") + BODY,
            answer("Content-Length: 17", "X: y") + BODY,
        ),
        (answer("Content-Length: 17, 17") + BODY, PLAIN + BODY),
        (answer("X-A : 1", "Content-Length \t: 17") + BODY, answer("X-A: 1", "Content-Length: 17") + BODY),
        (answer("X: a b : c", " d : e") + BODY, answer("X: a b : c", " d : e") + BODY),
        (b"HTTP/1.1 101 Switching\r\n\r\n", b"HTTP/1.1 101 Switching\r\n\r\n"),
    ],
)
def test_what_has_one_meaning_reaches_the_parser(came: bytes, for_parser: bytes, piece_bytes: int) -> None:
    assert read(came, piece_bytes) == (for_parser, False)


@pytest.mark.parametrize("piece_bytes", [1, 1 << 30])
@pytest.mark.parametrize("status", ["204 No Content", "304 Not Modified"])
def test_a_body_where_there_is_none_is_dropped_with_the_connection(status: str, piece_bytes: int) -> None:
    head = answer("X: y", status=status)
    assert read(head, piece_bytes) == (head, False)
    assert read(answer("X: y", "Content-Length: 0", status=status), piece_bytes) == (head, False)
    assert read(answer("X: y", "Content-Length: 17", status=status) + BODY, piece_bytes) == (head, True)
    assert read(answer("X: y", "Transfer-Encoding: chunked", status=status) + b"0\r\n\r\n", piece_bytes) == (head, True)


def test_a_body_that_a_204_did_not_announce_ends_the_connection() -> None:
    head = answer(status="204 No Content")
    assert read(head + BODY) == (head, True)


def test_a_length_beside_chunks_is_removed_and_the_connection_is_not_used_again() -> None:
    chunks = b"11\r\n" + BODY + b"\r\n0\r\n\r\n"
    coded = answer("Transfer-Encoding: chunked")
    assert read(answer("Content-Length: 17", "Transfer-Encoding: chunked") + chunks) == (coded + chunks, True)


@pytest.mark.parametrize("lengths", [["5", "7"], ["5, 7"], ["-1"], ["x"]])
def test_a_length_that_has_no_one_meaning_is_left_to_the_parser(lengths: list[str]) -> None:
    came = answer(*(f"Content-Length: {length}" for length in lengths))
    assert read(came) == (came, False)


@pytest.mark.parametrize("piece_bytes", [4_096, 1 << 30])
def test_a_line_of_64_kib_passes_and_a_longer_one_is_named(piece_bytes: int) -> None:
    longest = "X: " + "a" * (MAX_LINE_BYTES - len("X: \r"))
    assert read(answer(longest), piece_bytes) == (answer(longest), False)
    with pytest.raises(NotHttp, match=r"its header line 'X' is longer than 65536 bytes"):
        read(answer("A: b", longest + "a"), piece_bytes)


def test_an_endless_line_is_an_error_before_it_ends() -> None:
    with pytest.raises(NotHttp, match="header line 'Set-Cookie' is longer than 65536 bytes"):
        read(b"HTTP/1.1 202 Accepted\r\nSet-Cookie: " + b"a" * (MAX_LINE_BYTES + 1), 4_096)


def test_the_number_of_lines_has_a_bound() -> None:
    most = answer(*["X: y"] * (MAX_LINES - 2))
    assert read(most) == (most, False)
    with pytest.raises(NotHttp, match=r"it has 1001 header lines, more than 1000"):
        read(answer(*["X: y"] * (MAX_LINES - 1)))


@pytest.mark.parametrize("ended", [b"", b"\r\n"])
def test_the_whole_head_has_a_bound(ended: bytes) -> None:
    lines = (b"X: " + b"a" * 60_000 + b"\r\n") * 18
    with pytest.raises(NotHttp, match=f"its head is longer than {MAX_HEAD_BYTES} bytes"):
        read(b"HTTP/1.1 202 Accepted\r\n" + lines + ended)


@pytest.mark.parametrize("piece_bytes", [50, 1 << 30])
def test_a_flood_of_informational_responses_is_an_error(piece_bytes: int) -> None:
    with pytest.raises(NotHttp, match="more than 16 informational responses, the last one 103"):
        read(INFORMATIONAL * 100_000 + PLAIN, piece_bytes)


@pytest.mark.parametrize(
    ("came", "says"),
    [
        (b"SSH-2.0-OpenSSH_9.2\r\n", r"it begins with 'SSH-2\.0-OpenSSH_9\.2\\r\\n' in place of HTTP/"),
        (b"\x15\x03\x03\x00\x02\x02\x46", r"it begins with '\\x15\\x03"),
        (b"HTTP/1.1 99999 Huh\r\n\r\n", r"its status line is 'HTTP/1\.1 99999 Huh\\r'"),
        (b"HTTP/1.1 abc\r\n\r\n", r"its status line is 'HTTP/1\.1 abc\\r'"),
        (b"HTTP/9\r\n\r\n", r"its status line is 'HTTP/9\\r'"),
    ],
)
def test_what_is_no_http_is_quoted(came: bytes, says: str) -> None:
    with pytest.raises(NotHttp, match=says):
        read(came)


def test_it_knows_whether_a_response_has_begun() -> None:
    head = ResponseHead()
    assert not head.received
    assert head.feed(b"H") == b""
    assert (head.received, head.complete) == (True, False)
