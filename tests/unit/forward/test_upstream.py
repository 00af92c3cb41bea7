"""The client's sessions: a renewed certificate needs another one, and the old one is closed after its last request."""

from __future__ import annotations

import asyncio
from dataclasses import replace

import pytest
from relay.config import load
from relay.forward import upstream
from relay.forward.upstream import UpstreamClient
from relay.policy.verdict import UpstreamResponse
from relay.runtime.clock import SystemClock

RESPONSE = b'HTTP/1.1 202 Accepted\r\nContent-Length: 16\r\n\r\n{"success":true}'


async def test_a_retired_session_is_closed_after_its_last_request(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(upstream, "_KEEP_ALIVE_S", 3600.0)  # nothing else closes the connection
    received, respond, closed = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        received.set()
        await respond.wait()
        writer.write(RESPONSE)
        while await reader.read(1024):
            pass
        closed.set()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}/v1/events"
        settings = load(None, {"RELAY__UPSTREAM__URL": url, "RELAY__UPSTREAM__API_KEY": "canary-key-1"}).upstream
        client = UpstreamClient(settings, SystemClock())
        request = asyncio.create_task(client.post(1, b'{"events":[]}'))
        await received.wait()

        client.configure(replace(settings, ca_file="/another.pem"))
        assert not closed.is_set()
        respond.set()

        assert isinstance(await request, UpstreamResponse)
        async with asyncio.timeout(60):
            await closed.wait()
        await client.close()
