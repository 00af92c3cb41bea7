"""schemathesis sends requests that the OpenAPI description allows or forbids to a live relay.

Each response must have a described status, headers, media type and body. The relay must accept allowed requests,
reject forbidden ones, and never respond with 500. Excluded are the status stream, which does not end, and
compression, because schemathesis names a coding without applying it.
"""

from __future__ import annotations

import asyncio
import json
import os
import sys
from pathlib import Path

import pytest
from relay.sandbox.server import Sandbox

from tests.e2e.harness import environment, running

ROOT = Path(__file__).parents[2]
NIGHTLY = bool(os.environ.get("RELAY_NIGHTLY"))
EXAMPLES, SEED = ("500", []) if NIGHTLY else ("4", ["--seed", "1"])
"""Number of requests per operation and phase. The quick run has a fixed seed."""
METHODS = ("get", "head", "post", "options")
TIMEOUT_S = 1_800 if NIGHTLY else 240


@pytest.mark.timeout(TIMEOUT_S + 60)
async def test_the_live_relay_follows_its_openapi_description(sandbox: Sandbox, tmp_path: Path) -> None:
    (tmp_path / "schemathesis.toml").write_text('[parameters]\n"header.Content-Encoding" = "identity"\n')
    async with running(environment(sandbox.url, tmp_path)) as relay:
        program = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "schemathesis.cli", "--config-file", "schemathesis.toml"),
            *("run", f"http://{relay.http}/openapi.json", "--exclude-path-regex", "/(status|events)/stream"),
            *("--phases", "examples,coverage,fuzzing", "--max-examples", EXAMPLES, *SEED),
            *("--generation-database", "none", "--warnings", "off", "--no-color"),
            cwd=tmp_path,
            env={**os.environ, "PYTHONPATH": str(ROOT), "SCHEMATHESIS_HOOKS": "tests.e2e.schemathesis_hooks"},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        async with asyncio.timeout(TIMEOUT_S):
            out, _ = await program.communicate()
        output = out.decode()
        assert program.returncode == 0, output[output.find("= FAILURES") :]
        _, _, description = await relay.request("GET", "/openapi.json")
        operations = [one for item in json.loads(description)["paths"].values() for one in item if one in METHODS]
        left_out = 5  # GET and HEAD of both streams, and GET of the description.
        assert f"Tested: {len(operations) - left_out}\n" in output
        ledger = (await relay.status())["ledger"]
    assert ledger["accepted"] > 0
    assert not [line for line in relay.log if line.get("level") in ("error", "critical")]
