"""The connection: secrets, and a server that does not respond."""

from __future__ import annotations

import asyncio
import resource
import struct
import traceback

import pytest
from relay.config import OutboxSettings
from relay.outbox import OutboxUnavailable, OutboxUnusable
from relay.runtime.secret import Secret
from relay.runtime.tasks import Tasks

pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")

from relay.outbox.postgres.connection import Session, parse_url

PASSWORD = "correct-horse"


@pytest.mark.parametrize(
    "url",
    [
        f"postgresql://relay:{PASSWORD}@host/database?unknown=1",
        f"postgresql://relay:{PASSWORD}@[::1/database",
        f"password={PASSWORD} nonsense",
    ],
)
def test_a_malformed_url_is_rejected_without_its_password(url: str) -> None:
    with pytest.raises(OutboxUnusable, match=r"outbox\.url is not a PostgreSQL URL") as caught:
        parse_url(Secret(url))
    shown = "".join(traceback.format_exception(caught.value))
    assert PASSWORD not in shown.replace(repr(url), "")
    assert caught.value.__suppress_context__


async def test_a_refused_connection_is_reported_without_the_password() -> None:
    url = Secret(f"postgresql://relay:{PASSWORD}@127.0.0.1:1/database")
    session = Session(OutboxSettings(url=url, timeout_ms=1_000), "test", Tasks())
    with pytest.raises(OutboxUnavailable, match="does not respond") as caught:
        await session.run(lambda connection: connection.execute("SELECT 1"))
    assert PASSWORD not in "".join(traceback.format_exception(caught.value)) + repr(session)
    await session.close()


@pytest.mark.parametrize("has_descriptors", [True, False])
async def test_a_server_that_falls_silent_after_the_login_is_left(has_descriptors: bool) -> None:
    """Settings of the session have the same time limit as other statements, and the connection does not stay open."""
    left, limits = asyncio.get_running_loop().create_future(), resource.getrlimit(resource.RLIMIT_NOFILE)

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        (startup_bytes,) = struct.unpack("!i", await reader.readexactly(4))
        await reader.readexactly(startup_bytes - 4)
        if not has_descriptors:
            resource.setrlimit(resource.RLIMIT_NOFILE, (3, limits[1]))
        writer.write(b"R" + struct.pack("!ii", 8, 0) + b"Z" + struct.pack("!i", 5) + b"I")
        await reader.read()
        writer.close()
        left.set_result(True)

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        host, port = server.sockets[0].getsockname()
        url = Secret(f"postgresql://relay@{host}:{port}/database?sslmode=disable&gssencmode=disable")
        session = Session(OutboxSettings(url=url, timeout_ms=100), "test", Tasks())
        try:
            async with asyncio.timeout(30):
                with pytest.raises(OutboxUnavailable, match="does not respond"):
                    await session.run(lambda connection: connection.execute("SELECT 1"))
                assert await left
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        await session.close()
