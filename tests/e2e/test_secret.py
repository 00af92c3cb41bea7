"""G7: the key is only in requests to the upstream."""

from __future__ import annotations

import json
from pathlib import Path

from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.e2e.harness import KEY, command, environment, event, running


async def test_the_key_is_only_in_requests_to_the_upstream(sandbox: Sandbox, tmp_path: Path) -> None:
    """The upstream repeats the key in its messages: log, status, metrics, page, database and arguments have no key."""
    sandbox.faults.add(
        Misbehaviour(answer=422, when=event(1)["event_id"], body=json.dumps({"message": f"bad key {KEY}"})),
        Misbehaviour(answer=401, when=event(2)["event_id"], body=json.dumps({"error": f"no such key: {KEY}"})),
    )
    env = environment(sandbox.url, tmp_path)
    seen = b""
    async with running(env) as relay:
        assert await relay.post(event(1)) == 202
        await relay.until(lambda status: status["ledger"]["dead_lettered"] == 1)
        assert await relay.post(event(2)) == 202
        await relay.until(lambda status: status["upstreams"][0]["state"] == "unauthorized")
        for path in ("/", "/status.json", "/metrics", "/dead-letters", "/readyz", "/nothing"):
            _, headers, body = await relay.request("GET", path, headers={"X-Events-Key": "an-apps-own"})
            seen += json.dumps(headers).encode() + body
        seen += Path(f"/proc/{relay.pid}/cmdline").read_bytes()
        await relay.kill()
        seen += json.dumps(relay.log).encode()
    _, out, err = await command(env, "check-config")
    seen += (out + err).encode()
    for file in tmp_path.iterdir():
        seen += file.read_bytes()
    assert b"no such key: ****" in seen
    assert KEY.encode() not in seen
    assert b"an-apps-own" not in seen
