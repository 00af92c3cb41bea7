"""The commands with a real relay, and `relay dead` also without a relay."""

from __future__ import annotations

import json
import tarfile
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, command, environment, event, running
from tests.support.ports import free_port


async def test_send_status_flush_and_healthcheck_use_the_running_relay(sandbox: Sandbox, tmp_path: Path) -> None:
    port = free_port()
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{port}", batch__linger="10m")
    code, _, stderr = await command(env, "healthcheck")
    assert code == 1
    assert f"127.0.0.1:{port}" in stderr
    async with running(env):
        assert (await command(env, "healthcheck"))[0] == 0
        code, out, _ = await command(env, "send", "video.play", "--json")
        assert code == 0
        event_id = json.loads(out)["event_id"]
        code, out, _ = await command(env, "status", "--json")
        assert (code, json.loads(out)["ledger"]["pending"]) == (0, 1)
        assert (await command(env, "flush"))[0] == 0
        code, out, _ = await command(env, "send", "video.play", "--event-id", event_id, "--wait", "--json")
        assert (code, json.loads(out)) == (0, {"event_id": event_id, "state": "delivered"})
        code, out, _ = await command(env, "status")
        assert code == 0
        assert "delivered" in out
    assert sandbox.report().events == 1


async def test_dead_letters_are_listed_requeued_and_discarded_through_the_relay(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when="-0000-4000-8000-"))
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
    async with running(env) as relay:
        for n in range(3):
            assert await relay.post(event(n)) == 202
        await relay.until(lambda status: status["ledger"]["dead_lettered"] == 3)
        code, out, _ = await command(env, "dead", "list", "--json")
        letters = json.loads(out)["dead_letters"]
        assert (code, [letter["event_id"] for letter in letters]) == (0, [event(n)["event_id"] for n in range(3)])
        code, out, _ = await command(env, "dead", "show", str(letters[0]["id"]), "--json")
        assert json.loads(json.loads(out)["body"]) | event(0) == json.loads(json.loads(out)["body"])
        sandbox.faults.heal()
        code, _, _ = await command(env, "dead", "requeue", str(letters[0]["id"]), str(letters[1]["id"]))
        assert code == 0
        status = await relay.until(lambda status: status["ledger"]["delivered"] == 2)
        assert status["ledger"] == {
            "accepted": 3, "requeued": 2, "delivered": 2, "dead_lettered": 3, "dropped": 0, "pending": 0,
        }  # fmt: skip
        assert (await command(env, "dead", "discard", "--all", "--yes"))[0] == 0
        assert (await relay.status())["dead_letters"]["count"] == 0


async def test_dead_letters_are_accessible_without_a_relay(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when="-0000-4000-8000-"))
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["dead_lettered"] == 1)
    code, out, _ = await command(env, "dead", "list", "--json")
    (letter,) = json.loads(out)["dead_letters"]
    assert (code, letter["event_id"]) == (0, event(1)["event_id"])
    code, out, _ = await command(env, "dead", "export", "--all")
    assert json.loads(out)["event_id"] == event(1)["event_id"]
    assert (await command(env, "dead", "requeue", "--all"))[0] == 0
    sandbox.faults.heal()
    async with running(env) as relay:
        status = await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        assert status["ledger"]["requeued"] == 1


async def test_check_config_online_checks_name_and_key_without_an_event(sandbox: Sandbox, tmp_path: Path) -> None:
    env = environment(sandbox.url, tmp_path)
    code, out, err = await command(env, "check-config", "--online")
    assert code == 0, out + err
    env["RELAY__UPSTREAM__API_KEY"] = "wrong-key-4711"
    code, out, err = await command(env, "check-config", "--online")
    assert code == 1
    assert "401" in out + err
    assert "wrong-key-4711" not in out + err
    assert sandbox.report().events == 0


async def test_an_event_sent_over_udp_is_tracked_until_its_delivery(sandbox: Sandbox, tmp_path: Path) -> None:
    ports = {"http__listen": f"127.0.0.1:{free_port()}", "udp__listen": f"127.0.0.1:{free_port()}"}
    env = environment(sandbox.url, tmp_path, udp__ack="true", batch__linger="10m", **ports)
    async with running(env) as relay:
        code, out, err = await command(env, "send", "video.play", "--udp", "--json")
        assert code == 0, err
        outcome = json.loads(out)
        assert outcome["state"] == "stored"
        _, _, body = await relay.request("GET", f"/v1/events/{outcome['event_id']}")
        assert json.loads(body) == {"event_id": outcome["event_id"], "state": "pending"}
        assert (await command(env, "flush"))[0] == 0
        code, out, _ = await command(env, "send", "video.play", "--udp", "--wait", "--event-id", outcome["event_id"])
        assert (code, out) == (0, f"delivered: {outcome['event_id']}\n")
        _, _, body = await relay.request("GET", f"/v1/events/{outcome['event_id']}")
        assert json.loads(body)["state"] == "delivered"
    assert sandbox.report().events == 1


async def test_the_state_of_a_rejected_event_is_dead_lettered(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
    async with running(env) as relay:
        code, _, stderr = await command(env, "send", "wrong", "--wait")
        assert code == 1
        assert stderr.startswith("Error: dead-lettered: 422 ")
        event_id = stderr.split()[-1]
        _, _, body = await relay.request("GET", f"/v1/events/{event_id}")
        found = json.loads(body)
        assert (found["event_id"], found["state"], found["reason"]) == (event_id, "dead_lettered", "refused")
        assert found["message"].startswith("422 ")
    async with running(env | {"RELAY__OUTBOX__DEDUPE_WINDOW": "0"}) as relay:
        _, _, body = await relay.request("GET", f"/v1/events/{event_id}")
        assert json.loads(body) == found
        status, _, _ = await relay.request("GET", "/v1/events/00000000-0000-4000-8000-000000000000")
        assert status == 404


async def test_a_support_bundle_of_a_running_relay_has_its_log_and_neither_key_nor_event(
    sandbox: Sandbox, tmp_path: Path
) -> None:
    env = environment(sandbox.url, tmp_path, http__listen=f"127.0.0.1:{free_port()}")
    file = tmp_path / "bundle.tar.gz"
    async with running(env):
        code, _, _ = await command(env, "send", "video.play", "--context", '{"secret": "canary-event"}', "--wait")
        assert code == 0
        code, out, err = await command(env, "support-bundle", str(file), "--json")
    assert (code, err, json.loads(out)["missing"]) == (0, "", {})
    with tarfile.open(file) as archive:
        parts = {entry.name: archive.extractfile(entry).read() for entry in archive}  # type: ignore[union-attr]
    assert b'"message":"relay started"' in parts["relay-support/log.txt"].replace(b'": "', b'":"')
    schema = json.loads(parts["relay-support/schema.json"])
    assert schema["version_of_file"] == schema["version_of_relay"]
    everything = b"".join(parts.values())
    assert KEY.encode() not in everything
    assert b"canary-event" not in everything
