"""Check and normalize the head of an upstream's response before the HTTP parser reads it. Pure.

Rules:
- A head is bounded: 64 KiB per header line, MAX_LINES lines, MAX_HEAD_BYTES in total, and at most MAX_INFORMATIONAL
  informational (1xx) responses before it. These are dropped, because the relay does not use them. The response to
  CONNECT is an exception: aiohttp reads it before it makes the connection available.
- Unusual but unambiguous heads are normalized: a repeated Content-Length, a Content-Length beside Transfer-Encoding
  (RFC 9112, 6.3), and a space before a colon (RFC 9112, 5.1).
- A 204 and a 304 have no body (RFC 9110, 6.4.1). Bytes after the head are not part of the response, and the
  connection must not be reused.
- All other checks are left to the parser. Ambiguous framing (different or negative lengths) remains an error.
"""

from __future__ import annotations

import re

MAX_LINE_BYTES = 64 << 10
MAX_LINES = 1_000
MAX_HEAD_BYTES = 1 << 20
MAX_INFORMATIONAL = 16

_QUOTED_BYTES = 80
_BLANK_LINE = re.compile(rb"\n\r?\n")
_STATUS_LINE = re.compile(rb"HTTP/\d\.\d +(\d{3})(?!\d)")
_LENGTH_LINE = re.compile(rb"^content-length[ \t]*:[ \t]*(.*?)[ \t]*\r?\n", re.IGNORECASE | re.MULTILINE)
_CODING_LINE = re.compile(rb"^transfer-encoding[ \t]*:[^\n]*\n", re.IGNORECASE | re.MULTILINE)
_SPACED_COLON = re.compile(rb"^([!#-9;-~]+)[ \t]+:", re.MULTILINE)


class NotHttp(Exception):
    """The bytes are not an HTTP response or exceed a bound. The message has the reason and quotes the beginning."""


class ResponseHead:
    """Reads one response. `feed` accepts its bytes in pieces and returns the bytes for the parser."""

    def __init__(self) -> None:
        self.received = False
        """Whether at least one byte of a response was received."""
        self.complete = False
        """Whether the head of the final response was received."""
        self.ends_connection = False
        """Whether the connection must not be reused: bytes after the head are not part of a response."""
        self._drops_rest = False
        self._informational = 0
        self._buffer = bytearray()
        self._searched = 0

    def feed(self, data: bytes) -> bytes:
        """Return the bytes for the parser. Raises NotHttp."""
        if self.complete:
            return b"" if self._drops_rest else data
        self.received = True
        self._buffer += data
        while (head := self._next_head()) is not None:
            if self._is_final(head):
                self.complete = True
                head, rest = self._normalized(head), bytes(self._buffer)
                self._buffer.clear()
                if not self._drops_rest:
                    return head + rest
                self.ends_connection |= bool(rest)
                return head
        return b""

    def _next_head(self) -> bytes | None:
        """Remove the next complete head from the buffer and return it; None if it is not complete."""
        if not self._searched:
            del self._buffer[: len(self._buffer) - len(self._buffer.lstrip(b"\r\n"))]
        if not b"HTTP/".startswith(self._buffer[:5]):
            raise NotHttp(f"it begins with {_quoted(self._buffer)} instead of HTTP/")
        end = _BLANK_LINE.search(self._buffer, max(0, self._searched - 2))
        if end is None:
            self._searched = len(self._buffer)
            self._check_incomplete()
            return None
        head = bytes(self._buffer[: end.end()])
        del self._buffer[: end.end()]
        self._searched = 0
        _check_lines(head)
        return head

    def _is_final(self, head: bytes) -> bool:
        found = _STATUS_LINE.match(head)
        if found is None:
            line = head.partition(b"\n")[0]
            raise NotHttp(f"its status line is {_quoted(line)}")
        status = int(found[1])
        if not 100 <= status < 200 or status == 101:
            self._drops_rest = status in (204, 304)
            return True
        self._informational += 1
        if self._informational > MAX_INFORMATIONAL:
            raise NotHttp(f"it has more than {MAX_INFORMATIONAL} informational responses, the last one {status}")
        return False

    def _normalized(self, head: bytes) -> bytes:
        head = _SPACED_COLON.sub(rb"\1:", head)
        lengths = _LENGTH_LINE.findall(head)
        coded = _CODING_LINE.search(head) is not None
        if self._drops_rest:
            self.ends_connection = coded or any(length != b"0" for length in lengths)
            return _CODING_LINE.sub(b"", _LENGTH_LINE.sub(b"", head))
        values = {value.strip() for length in lengths for value in length.split(b",")}
        if coded and lengths:
            self.ends_connection = True  # RFC 9112, 6.3: both headers may be an attempt to smuggle a second response.
            return _LENGTH_LINE.sub(b"", head)
        if len(values) == 1 and (len(lengths) > 1 or b"," in lengths[0]):
            status_line, _, fields = _LENGTH_LINE.sub(b"", head).partition(b"\n")
            return b"%b\nContent-Length: %b\r\n%b" % (status_line, values.pop(), fields)
        return head

    def _check_incomplete(self) -> None:
        buffer = self._buffer
        if len(buffer) > MAX_HEAD_BYTES:
            raise NotHttp(f"its head is longer than {MAX_HEAD_BYTES} bytes")
        line_at = buffer.rfind(b"\n") + 1
        if len(buffer) - line_at > MAX_LINE_BYTES:
            raise _too_long(buffer[line_at : line_at + _QUOTED_BYTES])


def _check_lines(head: bytes) -> None:
    if len(head) > MAX_HEAD_BYTES:
        raise NotHttp(f"its head is longer than {MAX_HEAD_BYTES} bytes")
    lines = head.count(b"\n")
    if lines > MAX_LINES:
        raise NotHttp(f"it has {lines} header lines, more than {MAX_LINES}")
    if len(head) > MAX_LINE_BYTES:
        for line in head.split(b"\n"):
            if len(line) > MAX_LINE_BYTES:
                raise _too_long(line)


def _too_long(line: bytes | bytearray) -> NotHttp:
    name = line.partition(b":")[0] if b":" in line[:_QUOTED_BYTES] else line
    return NotHttp(f"its header line {_quoted(name)} is longer than {MAX_LINE_BYTES} bytes")


def _quoted(data: bytes | bytearray) -> str:
    return repr(bytes(data[:_QUOTED_BYTES]).decode("latin-1"))
