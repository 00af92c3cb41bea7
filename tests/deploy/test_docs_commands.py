"""Every shell command of the pages succeeds with a relay that was started by the commands of the quick start.

Other tests check the commands of docker, kubectl and systemctl. tests/e2e/test_clients.py runs the snippets of
docs/use/apps.md.
"""

from __future__ import annotations

import asyncio
import json
import re
import sys
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.server import Sandbox

from tests.deploy.test_docs import ROOT, code_of, pages
from tests.e2e.harness import KEY, PATIENCE_S, RelayProcess, environment, event, running
from tests.support.ports import free_port

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)
QUICK_START = ROOT / "docs" / "use" / "quick-start.md"
MENTIONED = {
    "relay COMMAND --help", "relay config", "relay dead", "relay dead requeue", "relay support-bundle",
    "relay prepare-image", "relay demo", "relay run", "relay sandbox", ".venv/bin/relay run",
    "relay event", "relay event EVENT_ID", "relay tail", ".venv/bin/relay tail",
}  # fmt: skip
"""Commands that the text only mentions, that run until a signal, or that need a stopped relay."""


class Shell:
    """A shell in a directory that is like a clone of the repository."""

    def __init__(self, directory: Path, sandbox: Sandbox) -> None:
        self.env = environment(sandbox.url, directory, http__listen=f"127.0.0.1:{free_port()}")
        self.port = self.env["RELAY__HTTP__LISTEN"].rpartition(":")[2]
        for name in ("URL", "API_KEY"):
            del self.env[f"RELAY__UPSTREAM__{name}"]
        programs = Path(sys.executable).parent
        self.env["PATH"] = f"{programs}:{self.env['PATH']}"
        self.directory = directory
        self._url = sandbox.url
        (directory / ".venv").symlink_to(programs.parent)

    async def paste(self, text: str) -> tuple[int, str]:
        """Run commands up to the first failure. Return the exit code and all output."""
        ours = {
            "https://playtv-api.forte.ws/v1/events": self._url,
            "THE-KEY-OF-THE-BACKEND-TEAM": KEY,
            "8080": self.port,
        }
        for theirs, here in ours.items():
            text = text.replace(theirs, here)
        process = await asyncio.create_subprocess_exec(
            "bash", "-ec", text, env=self.env, cwd=self.directory,
            stdin=asyncio.subprocess.DEVNULL, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT,
        )  # fmt: skip
        async with asyncio.timeout(PATIENCE_S):
            output, _ = await process.communicate()
        assert process.returncode is not None
        return process.returncode, output.decode()


@pytest.fixture
async def shell(tmp_path: Path, sandbox: Sandbox) -> Shell:
    return Shell(tmp_path, sandbox)


@pytest.fixture
async def relay(shell: Shell, sandbox: Sandbox) -> AsyncIterator[RelayProcess]:
    """Run a relay by the commands of the quick start. The upstream rejects three of its events."""
    *before, run = block(QUICK_START, "Run the relay").strip().splitlines()
    assert run == ".venv/bin/relay run"
    code, output = await shell.paste("\n".join(before))
    assert code == 0, output
    assert "accepted" in output
    sandbox.faults.add(Misbehaviour(answer=422, when='"wrong"'))
    async with running(shell.env, "bash", "-c", f"cd {shell.directory} && exec {run}") as relay:
        for n in range(3):
            assert await relay.post(event(n) | {"event_type": "wrong"}) == 202
        await relay.until(lambda status: status["dead_letters"]["count"] == 3)
        yield relay


def block(page: Path, heading: str, nth: int = 0) -> str:
    """Return a shell block of a page below a heading."""
    section = page.read_text().split(f"\n## {heading}\n")[1].split("\n## ")[0]
    found: str = re.findall(r"^```sh\n(.*?)^```", section, re.MULTILINE | re.DOTALL)[nth]
    return found


async def test_the_commands_of_readme_and_quick_start_work(shell: Shell, relay: RelayProcess) -> None:
    sent = await shell.paste(block(ROOT / "README.md", "Try it", 1))
    looked = await shell.paste(block(QUICK_START, "Watch it"))

    assert sent[1].splitlines()[-1] == '{"success": true}'
    assert looked[0] == 0, looked[1]


async def test_the_sandbox_commands_of_the_apps_page_work(shell: Shell, sandbox: Sandbox) -> None:
    page = (ROOT / "docs" / "use" / "apps.md").read_text().split("\n## Simulate upstream faults\n")[1]
    commands = page.split("```sh\n")[1].split("```")[0].replace("http://127.0.0.1:8090", sandbox.origin)

    code, output = await shell.paste(commands.replace("curl ", "curl --silent --show-error --fail-with-body "))

    assert (code, output.count("_sandbox"), commands.count("_sandbox")) == (0, 0, 7), output
    assert (sandbox.settings.device_per_window, sandbox.faults.live()) == (5, [])


def commands() -> list[str]:
    """Return every `relay` command of the pages once, with a real configuration, file and event type."""
    lines = {line.strip() for page in pages() for line in code_of(page).splitlines()}
    pasted = {line for line in lines if re.match(r"(?:RELAY\w+=\S+ )?(?:\S*/)?relay(?: |$)", line)} - MENTIONED
    return sorted({filled(line) for line in pasted})


def filled(command: str) -> str:
    command = re.sub(r"^(RELAY\w+=\S+ )?\S*/relay ", r"\1relay ", command)
    command = command.replace("/etc/event-relay/key", "key").replace("/etc/event-relay/config.toml", "FILE")
    command = command.replace("--config FILE", "").replace("EVENT_TYPE", "docs.pasted")
    return " ".join(re.sub(r"\bFILE\b|[\w-]+\.tar\.gz", "$new", command).split())


async def test_each_relay_command_of_each_page_succeeds(shell: Shell, relay: RelayProcess) -> None:
    failed = {}
    for n, command in enumerate(commands()):
        await relay.until(lambda status: status["dead_letters"]["count"] > 0)
        _, _, letters = await relay.request("GET", "/dead-letters?limit=1")
        letter_id = json.loads(letters)["dead_letters"][0]["id"]
        code, output = await shell.paste(f"new=new-{n}; " + re.sub(r"\bID(?:\.\.\.|\b)", str(letter_id), command))
        if code:
            failed[command] = output

    assert len(commands()) > 12
    assert failed == {}
