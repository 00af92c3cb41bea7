"""Every snippet of docs/use/apps.md and every file of examples/, run against a live relay and upstream.

Each of them sends one event whose type ends in "sent" or "tracked", and the upstream must receive it. A test without
its tool is skipped with the reason. Swift is only parsed, because no compiler is available.
"""

from __future__ import annotations

import asyncio
import json
import os
import re
import shutil
import sys
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import pytest
import tree_sitter_swift
from relay.sandbox.server import Sandbox
from tree_sitter import Language, Parser

from tests.e2e.harness import PATIENCE_S, RelayProcess, environment, running

pytestmark = pytest.mark.timeout(4 * PATIENCE_S)
DOCS = Path(__file__).parents[2] / "docs" / "use" / "apps.md"
EXAMPLES = Path(__file__).parents[2] / "examples"
FENCE = re.compile(r"^ *```(\w+)\n(.*?)^ *```$", re.MULTILINE | re.DOTALL)
TOOLS = {
    "curl": ("curl", "curl"),
    "Shell, with nc": ("nc", "netcat-openbsd"),
    "send.py": (sys.executable, "python3"),
    "send.mjs": ("node", "nodejs"),
    "send.c": ("cc", "gcc libc6-dev"),
    "Send.kt": ("kotlinc", "kotlin"),
}


def snippet(heading: str, language: str) -> str:
    """Return the only code block of a language below a heading."""
    section = re.split(rf"^### {re.escape(heading)}$", DOCS.read_text(), flags=re.MULTILINE)[1]
    section = re.split(r"^##", section, flags=re.MULTILINE)[0]
    (found,) = [code for name, code in FENCE.findall(section) if name == language]
    assert isinstance(found, str)
    return found


def example(name: str) -> str:
    return (EXAMPLES / name).read_text()


def at(relay: RelayProcess, code: str) -> str:
    """Return the code with the ports of this relay in place of the default ports."""
    http_port, udp_port = relay.http.rpartition(":")[2], relay.udp.rpartition(":")[2]
    assert "8080" in code or "8125" in code
    return code.replace("8080", http_port).replace("8125", udp_port)


def tool(name: str) -> str:
    command, package = TOOLS[name]
    found = shutil.which(command)
    if found is None:
        pytest.skip(f"needs {command}: apt-get install {package}")
    return found


async def run(directory: Path, *command: str) -> str:
    """Run a program that must succeed, and return its output."""
    env = {name: value for name, value in os.environ.items() if not name.lower().endswith("_proxy")}
    program = await asyncio.create_subprocess_exec(
        *command, cwd=directory, env=env, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.STDOUT
    )
    async with asyncio.timeout(2 * PATIENCE_S):
        out, _ = await program.communicate()
    assert program.returncode == 0, out.decode()
    return out.decode()


async def delivered(sandbox: Sandbox, event_type: str) -> dict[str, Any]:
    """Wait until the upstream has received the event of this type, and return it."""
    async with asyncio.timeout(PATIENCE_S):
        await sandbox.until(lambda record: bool(found_in(sandbox, event_type)))
    (event,) = found_in(sandbox, event_type)
    return event


def found_in(sandbox: Sandbox, event_type: str) -> list[dict[str, Any]]:
    events = [event for request in sandbox.record.contents for event in json.loads(request.body)["events"]]
    return [event for event in events if event["event_type"] == event_type]


async def test_curl(sandbox: Sandbox, tmp_path: Path) -> None:
    tool("curl")
    async with running(environment(sandbox.url, tmp_path)) as relay:
        assert json.loads(await run(tmp_path, "sh", "-c", at(relay, snippet("curl", "sh")))) == {"success": True}
        assert (await delivered(sandbox, "curl.sent"))["source"]["platform"] == "tv"


async def test_shell_with_nc(sandbox: Sandbox, tmp_path: Path) -> None:
    tool("Shell, with nc")
    async with running(environment(sandbox.url, tmp_path)) as relay:
        await run(tmp_path, "sh", "-c", at(relay, snippet("Shell, with nc", "sh")))
        assert (await delivered(sandbox, "nc.sent"))["source"]["device_id"] == "box-7"


async def test_python(sandbox: Sandbox, tmp_path: Path) -> None:
    async with running(environment(sandbox.url, tmp_path)) as relay:
        await run(tmp_path, sys.executable, "-W", "error", "-c", at(relay, example("send.py")))
        assert (await delivered(sandbox, "python.sent"))["context"] == {"answer": 42}


async def test_node(sandbox: Sandbox, tmp_path: Path) -> None:
    node = tool("send.mjs")
    async with running(environment(sandbox.url, tmp_path)) as relay:
        (tmp_path / "send.mjs").write_text(at(relay, example("send.mjs")))
        await run(tmp_path, node, "send.mjs")
        assert (await delivered(sandbox, "node.sent"))["context"] == {"answer": 42}


async def test_c_over_udp(sandbox: Sandbox, tmp_path: Path) -> None:
    cc = tool("send.c")
    async with running(environment(sandbox.url, tmp_path)) as relay:
        (tmp_path / "send.c").write_text(at(relay, example("send.c")))
        await run(tmp_path, cc, "-Wall", "-Wextra", "-Werror", "-o", "send", "send.c")
        await run(tmp_path, str(tmp_path / "send"))
        assert (await delivered(sandbox, "c.sent"))["source"]["device_id"] == "box-7"


async def test_kotlin(sandbox: Sandbox, tmp_path: Path) -> None:
    kotlinc = tool("Send.kt")
    async with running(environment(sandbox.url, tmp_path)) as relay:
        (tmp_path / "Send.kt").write_text(at(relay, example("Send.kt")))
        await run(tmp_path, kotlinc, "Send.kt", "-include-runtime", "-d", "send.jar")
        await run(tmp_path, "java", "-cp", "send.jar", "SendKt")
        assert (await delivered(sandbox, "kotlin.sent"))["context"] == {"answer": 42}


def test_swift_parses() -> None:
    """Swift is only parsed: no compiler is available."""
    code = example("Send.swift").encode()
    tree = Parser(Language(tree_sitter_swift.language())).parse(code)
    assert not tree.root_node.has_error, tree.root_node
    assert [node.type for node in tree.root_node.children if node.type == "function_declaration"]


def test_json_and_xml_parse() -> None:
    (code,) = [code for language, code in FENCE.findall(DOCS.read_text()) if language == "json"]
    json.loads(code)
    ElementTree.fromstring(example("network_security_config.xml"))


def test_the_page_links_to_every_example() -> None:
    assert [path.name for path in EXAMPLES.iterdir() if f"examples/{path.name})" not in DOCS.read_text()] == []
