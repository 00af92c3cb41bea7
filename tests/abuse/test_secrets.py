"""Secrets: a canary key at debug level, and an upstream that repeats the key in every kind of failure."""

from __future__ import annotations

import asyncio
import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from relay.policy.html_text import HTML_MAX_CHARS
from relay.sandbox.server import Sandbox

from tests.e2e.harness import PATIENCE_S, command, environment, event, launch, running

KEY = 'canary-"key\\5f1c0d/+&=%'
"""A key with characters that JSON, reprs and URLs escape."""
TOKEN = "canary-token-77aa"
PASSWORD = "canary-password-33bb"
FORMS = [KEY, json.dumps(KEY)[1:-1], repr(KEY)[1:-1], "canary-%22key", TOKEN, PASSWORD, "canary-"]


ESCAPED = "".join(f"\\u{ord(character):04x}" for character in KEY)
"""The key as JSON may escape it."""


def head(status: str, *headers: str) -> bytes:
    return "\r\n".join((f"HTTP/1.1 {status}", *headers, "", "")).encode()


def whole(status: str, body: str, *headers: str) -> bytes:
    return head(status, f"Content-Length: {len(body.encode())}", "Connection: close", *headers) + body.encode()


ECHOES: list[Callable[[bytes], bytes]] = [
    lambda request: request,  # The request itself, which is not a response.
    lambda _: f"HTTP/1.1 {KEY} no number\r\n\r\n".encode(),
    lambda _: f"HTTP/1.1 200 {KEY}\r\n{KEY}\r\n\r\n".encode(),
    lambda _: head("200 OK", f"X-Echo: {KEY}", "Content-Length: 100") + KEY.encode(),  # An incomplete body.
    lambda _: head("200 OK", "Transfer-Encoding: chunked") + KEY.encode(),
    lambda _: whole("200 OK", json.dumps({"success": False, "message": KEY})),
    lambda _: whole("302 Found", KEY, f"Location: https://elsewhere.example/?key={KEY}"),
    lambda _: whole("307 Temporary Redirect", KEY, f"Location: http://{KEY}@elsewhere.example/"),
    lambda _: whole("401 Unauthorized", json.dumps({"message": f"no such key: {KEY}"}), f'WWW-Authenticate: x="{KEY}"'),
    lambda _: whole("403 Forbidden", f"<h1>{KEY}</h1>", f"Set-Cookie: key={KEY}"),
    lambda _: whole("404 Not Found", KEY * 1_000),
    lambda _: whole("413 Content Too Large", KEY),
    lambda _: whole("422 Unprocessable", json.dumps({"message": KEY, "errors": {f"events.0.{KEY}": [KEY]}})),
    lambda _: whole("429 Too Many", KEY, f"Retry-After: {KEY}", f"X-RateLimit-Limit: {KEY}", f"Date: {KEY}"),
    lambda _: whole("500 Server Error", repr({"headers": {"X-Events-Key": KEY}}), f"Content-Type: {KEY}"),
    lambda _: whole("503 Unavailable", KEY.encode("utf-16").decode("latin-1"), f"Content-Encoding: {KEY}"),
    lambda _: whole("500 Server Error", json.dumps({"message": "@"}).replace("@", ESCAPED)),
    lambda _: whole("422 Unprocessable", json.dumps({"errors": {"events.0.@": ["@"]}}).replace("@", ESCAPED)),
    lambda _: whole("502 Bad Gateway", "<h1>502</h1>" + "<b></b>".join((KEY[:3], KEY[3:9], KEY[9:]))),
    lambda _: whole("503 Unavailable", "<h1>503</h1>" + "x" * (HTML_MAX_CHARS - 9) + f" {KEY}"),
    lambda _: b"",
]


class Mirror:
    """Many failing upstreams at one port, selected by the path."""

    def __init__(self) -> None:
        self.visits: list[int] = []
        self.requests: list[bytes] = []

    async def __aenter__(self) -> Mirror:
        self._server = await asyncio.start_server(self._respond, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _respond(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            request = await reader.readuntil(b"\r\n\r\n")
            number = int(request.split(b" ", 2)[1].strip(b"/"))
            self.visits.append(number)
            self.requests.append(request)
            writer.write(ECHOES[number](request))
            await writer.drain()
        except (OSError, asyncio.IncompleteReadError):
            pass
        finally:
            writer.close()


def own_environment(url: str, directory: Path, **settings: str) -> dict[str, str]:
    directory.mkdir(exist_ok=True)
    for name, secret in (("key", KEY), ("token", TOKEN)):
        (directory / name).write_text(secret + "\n")
        (directory / name).chmod(0o600)
    files = {"upstream__api_key_file": str(directory / "key"), "ops__token_file": str(directory / "token")}
    env = environment(url, directory / "state", **files, **settings)
    del env["RELAY__UPSTREAM__API_KEY"]
    return env


def nowhere_in(seen: bytes, allowed: bytes = b"") -> None:
    text = seen.replace(allowed, b"") if allowed else seen
    for form in FORMS:
        at = text.find(form.encode())
        assert at < 0, text[max(0, at - 200) : at + 100]


async def everything_it_says(relay: Any) -> bytes:
    """Return the responses of each route with the token, with a wrong one and without."""
    seen = b""
    for headers in ({}, {"Authorization": f"Bearer {TOKEN}"}, {"Authorization": "Bearer wrong"}):
        for path in (
            "/",
            "/status.json",
            "/metrics",
            "/livez",
            "/readyz",
            "/dead-letters",
            "/openapi.json",
            "/nothing",
        ):
            _, headers_received, body = await relay.request("GET", path, headers=headers)
            seen += json.dumps(headers_received).encode() + body
    return seen


async def test_for_any_upstream_response_the_key_is_only_in_requests(tmp_path: Path) -> None:
    async with Mirror() as mirror:
        tenants = {f"upstream__tenants__{n + 1}__url": f"{mirror.origin}/{n}" for n in range(len(ECHOES))}
        # All tenants have one upstream origin, so one 429 among the responses limits the requests of all.
        env = own_environment(f"{mirror.origin}/0", tmp_path, rate__ip_per_window="1000", **tenants)
        async with running(env) as relay:
            for n in range(len(ECHOES)):
                assert await relay.post(event(n, tenant_id=n + 1)) == 202
            async with asyncio.timeout(PATIENCE_S):
                while len(set(mirror.visits)) < len(ECHOES):
                    await asyncio.sleep(0.02)
            status = await relay.until(
                lambda status: (
                    sum(bool(route["last_error"]) for route in status["upstreams"]) + status["ledger"]["dead_lettered"]
                    >= len(ECHOES)
                )
            )
            assert status["ledger"]["delivered"] == 0
            seen = await everything_it_says(relay)
            seen += Path(f"/proc/{relay.pid}/cmdline").read_bytes() + Path(f"/proc/{relay.pid}/environ").read_bytes()
            relay.signal(signal.SIGHUP)
            await relay.logged("configuration applied")
            relay.signal(signal.SIGTERM)
            assert await relay.ended() == 0
            seen += json.dumps(relay.log, ensure_ascii=False).encode()
    for arguments in (["check-config"], ["check-config", "--json"], ["check-config", "--online"], ["status"]):
        _, out, err = await command(env, *arguments)
        seen += (out + err).encode()
    for file in (tmp_path / "state").iterdir():
        seen += file.read_bytes()
    assert all(f"X-Events-Key: {KEY}".encode() in request for request in mirror.requests)
    assert b"********" in seen
    nowhere_in(seen)


@pytest.mark.parametrize(
    "wrong",
    [
        {"RELAY__UPSTREAM__API_KEY": KEY + "\nInjected: yes"},
        {"RELAY__UPSTREAM__API_KEY": KEY + "\u00e9"},
        {"RELAY__OPS__TOKEN": TOKEN + " and more"},
        {"RELAY__UPSTREAM__PROXY": f"http://user:{PASSWORD}@host name"},
        {"RELAY__UPSTREAM__PROXY": f"ftp://user:{PASSWORD}@proxy.example"},
        {"RELAY__UPSTREAM__URL": f"https://user:{PASSWORD}@upstream.example/v1/events"},
    ],
)
async def test_a_configuration_error_does_not_contain_the_secret(tmp_path: Path, wrong: dict[str, str]) -> None:
    env = environment("https://upstream.example/v1/events", tmp_path) | wrong
    for arguments in (["run"], ["check-config"]):
        code, out, err = await command(env, *arguments)
        assert code == 78
        nowhere_in((out + err).encode().replace(environment("", tmp_path)["RELAY__UPSTREAM__API_KEY"].encode(), b""))


async def test_a_changed_token_file_is_noticed_without_a_signal(sandbox: Sandbox, tmp_path: Path) -> None:
    env = own_environment(sandbox.url, tmp_path)
    async with running(env) as relay:

        async def status_with(token: str) -> int:
            return (await relay.request("GET", "/dead-letters", headers={"Authorization": f"Bearer {token}"}))[0]

        assert (await status_with(TOKEN), await status_with("new-token")) == (200, 401)
        (tmp_path / "token").write_text("new-token\n")
        await relay.logged("configuration applied")
        assert (await status_with(TOKEN), await status_with("new-token")) == (401, 200)


async def test_a_readable_key_file_causes_a_warning(sandbox: Sandbox, tmp_path: Path) -> None:
    env = own_environment(sandbox.url, tmp_path)
    tmp_path.chmod(0o755)
    (tmp_path / "key").chmod(0o644)
    async with running(env) as relay:
        warned = await relay.logged("a secret is exposed")
        assert str(tmp_path / "key") in warned["problem"]


async def test_an_aborted_relay_writes_no_core_dump(sandbox: Sandbox, tmp_path: Path) -> None:
    """The shell allows core dumps; the relay forbids its own, and its memory is not readable by other users."""
    env = own_environment(sandbox.url, tmp_path)
    inside = f"ulimit -c unlimited; cd {tmp_path}; exec python3 -m relay run"
    before = set(os.listdir(tmp_path))
    relay = await launch(env | {"PATH": f"{_bin()}:{env['PATH']}"}, "sh", "-c", inside)
    try:
        await relay.logged("relay started")
        (limit,) = [line for line in Path(f"/proc/{relay.pid}/limits").read_text().splitlines() if "core" in line]
        assert limit.split()[4:6] == ["0", "0"]
        relay.signal(signal.SIGABRT)
        assert await relay.ended() == -signal.SIGABRT
    finally:
        await relay.kill()
    assert set(os.listdir(tmp_path)) - before <= {"state"}
    nowhere_in(json.dumps(relay.log).encode())


def _bin() -> str:
    import sys

    return str(Path(sys.executable).parent)
