"""The connection: secrets, and a server that does not respond."""

from __future__ import annotations

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
