"""Two relays on one PostgreSQL database, through their sockets and commands."""

from __future__ import annotations

import json
import signal
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
from relay.sandbox.faults import Misbehaviour

from tests.e2e.browser import Browser
from tests.e2e.harness import command, environment, event, running, serving
from tests.support.ports import free_port

if TYPE_CHECKING:
    from tests.support.postgres_server import PostgresCluster

pytestmark = pytest.mark.slow


async def test_status_metrics_and_dead_letters(tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    """Each relay shows both. Without a relay, `relay dead` uses the database."""
    url, envs = postgres_cluster.create_database(), []
    async with serving() as sandbox:
        sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            shared = {"outbox__kind": "postgres", "outbox__url": url, "outbox__replica_name": name}
            listen = {"http__listen": f"127.0.0.1:{free_port()}"}
            envs.append(environment(sandbox.url, tmp_path / name, **shared, **listen))
        async with running(envs[0]) as one, running(envs[1]) as two:
            await one.until(lambda status: [each["slots"] > 0 for each in status["replicas"]] == [True, True])
            assert await one.post(event(1, "wrong")) == await two.post(event(1)) == 202
            status = await two.until(
                lambda status: status["ledger"]["dead_lettered"] == status["ledger"]["delivered"] == 1
            )
            status = await two.until(lambda status: sum(each["slots"] for each in status["replicas"]) == 256)
            assert sorted((each["name"], each["self"]) for each in status["replicas"]) == [
                ("one", False),
                ("two", True),
            ]
            _, _, metrics = await two.request("GET", "/metrics")
            assert b"\nrelay_outbox_replicas 2.0\n" in metrics
            code, out, _ = await command(envs[0], "status")
            assert (code, "one (this one): " in out, "two: " in out) == (0, True, True)
            for relay in (one, two):
                relay.signal(signal.SIGTERM)
                assert await relay.ended() == 0
        code, out, _ = await command(envs[0], "dead", "list", "--json")
        assert (code, [letter["device_id"] for letter in json.loads(out)["dead_letters"]]) == (0, ["wrong"])
        assert (await command(envs[0], "dead", "requeue", "--all"))[:2] == (0, "1 requeued\n")
        sandbox.faults.heal()
        async with running(envs[1]) as two:
            status = await two.until(lambda status: status["ledger"]["delivered"] == 2)
            assert status["ledger"]["requeued"] == 1


async def test_the_page_shows_the_relays(chrome: Browser, tmp_path: Path, postgres_cluster: PostgresCluster) -> None:
    url, envs = postgres_cluster.create_database(), []
    async with serving() as sandbox:
        for name in ("one", "two"):
            (tmp_path / name).mkdir()
            shared = {"outbox__kind": "postgres", "outbox__url": url, "outbox__replica_name": name}
            envs.append(environment(sandbox.url, tmp_path / name, **shared))
        async with running(envs[0]) as one, running(envs[1]):
            await one.until(lambda status: [each["slots"] > 0 for each in status["replicas"]] == [True, True])
            await chrome.open(f"http://{one.http}/")
            relays = "document.querySelector('#relays').innerText"
            await chrome.until(f"/one \\(this one\\): 0 pending, \\d+ of 256 groups.*; two: 0 pending/.test({relays})")
            await chrome.until_text("#writable", "yes, durability normal")  # The server of tests has fsync=off.
