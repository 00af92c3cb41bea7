"""`make_box`: an outbox of each kind, closed at the end of the test."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from relay.config import OutboxSettings

from tests.contract.boxes import Box, DictionaryBox, MemoryBox, SharedBox, SqliteBox, close

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

MakeBox = Callable[..., Box]
KINDS: dict[str, Callable[..., Box]] = {
    "memory": MemoryBox,
    "dictionary": DictionaryBox,
    "sqlite": SqliteBox,
    "shared": SharedBox,
}


@pytest.fixture(scope="session")
def postgres_cluster() -> Iterator[PostgresCluster]:
    """Return a private PostgreSQL server. Skip the test where PostgreSQL or its driver is not installed."""
    pytest.importorskip("psycopg", reason="the extra [postgres] is not installed")
    from tests.support.postgres_server import PostgresCluster, find_tools

    tools = find_tools()
    if tools is None:
        pytest.skip("PostgreSQL is not installed (initdb and pg_ctl)")
    cluster = PostgresCluster(tools)
    cluster.start()
    yield cluster
    cluster.stop()


@pytest.fixture(params=[*KINDS, pytest.param("postgres", marks=pytest.mark.slow)])
async def make_box(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[MakeBox]:
    """Return a function that takes outbox settings and returns a closed outbox."""
    boxes: list[Box] = []

    def make(**settings: Any) -> Box:
        chosen = OutboxSettings(path=tmp_path / f"{len(boxes)}" / "outbox.db", **settings)
        if request.param == "postgres":
            cluster = request.getfixturevalue("postgres_cluster")
            from tests.contract.postgres_box import PostgresBox

            box: Box = PostgresBox(chosen, url=cluster.create_database())
        else:
            box = KINDS[request.param](chosen)
        boxes.append(box)
        return box

    if request.param == "postgres":
        request.getfixturevalue("postgres_cluster")
    yield make
    for box in boxes:
        await close(box)


@pytest.fixture
async def box(make_box: MakeBox) -> Box:
    """Return an open outbox with the default settings."""
    return await make_box().start()
