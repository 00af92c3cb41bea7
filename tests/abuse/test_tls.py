"""TLS and proxies: the relay sends the key only to the configured upstream origin over a trusted connection."""

from __future__ import annotations

import asyncio
import base64
import shutil
import signal
import ssl
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.abuse.certificates import Authority, Kind
from tests.e2e.harness import KEY, command, environment, event, running, serving

pytestmark = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")

BAD: dict[Kind, str] = {
    "wrong host": "IP address mismatch",
    "expired": "certificate has expired",
    "self-signed": "self-signed certificate",
    "old protocol": "",
}


@pytest.fixture
def authority(tmp_path_factory: pytest.TempPathFactory) -> Authority:
    return Authority(tmp_path_factory.mktemp("certificates"))


class Listening:
    """A server that records the first bytes of each connection and closes it."""

    def __init__(self) -> None:
        self.heard = b""

    async def __aenter__(self) -> Listening:
        self._server = await asyncio.start_server(self._note, "127.0.0.1", 0)
        self.port: int = self._server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _note(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.heard += await reader.read(65_536) + b"|"
        writer.close()


def errors(status: dict[str, Any]) -> dict[int | None, str]:
    """Return the last error of each endpoint that has one, by tenant."""
    return {route["tenant"]: route["last_error"] for route in status["upstreams"] if route["last_error"]}


async def test_an_untrusted_server_never_gets_the_key_and_events_stay_pending(
    authority: Authority, tmp_path: Path
) -> None:
    contexts = {kind: authority.server(kind) for kind in BAD}
    async with Listening() as plain:
        upstreams = [serving(context) for context in contexts.values()]
        opened = [await each.__aenter__() for each in upstreams]
        urls = [each.url for each in opened] + [f"https://127.0.0.1:{plain.port}/v1/events"]
        tenants = {f"upstream__tenants__{n}__url": url for n, url in enumerate(urls, 1)}
        env = environment(urls[0], tmp_path, upstream__ca_file=str(authority.file), **tenants)
        async with running(env) as relay:
            for n in range(1, len(urls) + 1):
                assert await relay.post(event(n, tenant_id=n)) == 202
            status = await relay.until(lambda status: set(errors(status)) >= set(range(1, len(urls) + 1)))
            messages = errors(status)
            assert {route["state"] for route in status["upstreams"] if route["tenant"] in messages} == {"backing_off"}
            for n, message in enumerate(BAD.values(), 1):
                assert message in messages[n]
            assert (status["ledger"]["pending"], status["ledger"]["dead_lettered"]) == (len(urls), 0)
            assert [request for each in opened for request in each.record.requests()] == []
            for context in contexts.values():
                authority.make_good(context)
            await relay.until(lambda status: status["ledger"]["delivered"] == len(BAD))
        assert plain.heard
        assert KEY.encode() not in plain.heard
        for each in upstreams:
            await each.__aexit__(None, None, None)


async def test_check_config_reports_an_untrusted_authority(authority: Authority, tmp_path: Path) -> None:
    async with serving(authority.server("good")) as upstream:
        env = environment(upstream.url, tmp_path)
        code, out, err = await command(env, "check-config", "--online")
        assert code == 1
        assert "certificate of 127.0.0.1 not accepted" in out
        assert list(upstream.record.requests()) == []
        trusting = env | {"RELAY__UPSTREAM__CA_FILE": str(authority.file)}
        code, trusted, _ = await command(trusting, "check-config", "--online")
        assert (code, "certificate accepted" in trusted) == (0, True)
        assert KEY not in out + err + trusted


async def test_a_client_certificate_is_sent_on_request(authority: Authority, tmp_path: Path) -> None:
    context = authority.server("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(authority.file)
    certificate, key = authority.issue("client")
    own = {"upstream__client_cert_file": str(certificate), "upstream__client_key_file": str(key)}
    async with serving(context) as upstream:
        env = environment(upstream.url, tmp_path, upstream__ca_file=str(authority.file), **own)
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_proxies_and_credentials_of_the_environment_are_not_used(authority: Authority, tmp_path: Path) -> None:
    (tmp_path / ".netrc").write_text("machine 127.0.0.1 login canary-user password canary-password\n")
    async with Listening() as thief, serving(authority.server("good")) as upstream:
        proxy = f"http://canary-user:canary-password@127.0.0.1:{thief.port}"
        names = ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy")
        env = environment(upstream.url, tmp_path / "state", upstream__ca_file=str(authority.file))
        env |= dict.fromkeys(names, proxy) | {"HOME": str(tmp_path), "NO_PROXY": "", "no_proxy": ""}
        async with running(env) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
        (request,) = upstream.record.contents
        assert "authorization" not in request.headers
        assert thief.heard == b""


async def test_a_configured_proxy_tunnels_and_never_gets_the_key(authority: Authority, tmp_path: Path) -> None:
    heads: list[bytes] = []
    carried = bytearray()
    tasks: set[asyncio.Task[None]] = set()

    async def carry(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while data := await reader.read(65_536):
            carried.extend(data)
            writer.write(data)
        writer.close()

    async def tunnel(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        heads.append(await reader.readuntil(b"\r\n\r\n"))
        far_reader, far_writer = await asyncio.open_connection("127.0.0.1", int(upstream.origin.rpartition(":")[2]))
        writer.write(b"HTTP/1.1 200 OK\r\n\r\n")
        tasks.add(asyncio.create_task(carry(far_reader, writer)))
        await carry(reader, far_writer)

    async with serving(authority.server("good")) as upstream:
        server = await asyncio.start_server(tunnel, "127.0.0.1", 0)
        proxy = f"http://user:canary-password@127.0.0.1:{server.sockets[0].getsockname()[1]}"
        env = environment(upstream.url, tmp_path, upstream__ca_file=str(authority.file))
        async with running(env | {"RELAY__UPSTREAM__PROXY": proxy}) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            log = str(relay.log)
        server.close()
        await asyncio.gather(*tasks)
    assert heads[0].startswith(b"CONNECT 127.0.0.1:")
    assert base64.b64encode(b"user:canary-password") in heads[0]
    assert KEY.encode() not in b"".join(heads) + carried
    assert "canary-password" not in log


def libfaketime() -> Path | None:
    return next(Path("/usr/lib").glob("*/faketime/libfaketimeMT.so.1"), None)


@pytest.mark.skipif(libfaketime() is None, reason="libfaketime (package faketime) sets the clock")
async def test_with_the_clock_at_1970_events_wait_until_the_clock_is_correct(
    authority: Authority, tmp_path: Path
) -> None:
    """No certificate is valid yet: the relay sends no key, and needs no restart after the clock is set."""
    clock = tmp_path / "clock"
    clock.write_text("-56y\n")
    faked = {
        "LD_PRELOAD": str(libfaketime()),
        "FAKETIME_TIMESTAMP_FILE": str(clock),
        "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        "FAKETIME_CACHE_DURATION": "1",
    }
    async with serving(authority.server("good")) as upstream:
        env = environment(upstream.url, tmp_path / "state", upstream__ca_file=str(authority.file))
        async with running(env | faked) as relay:
            assert await relay.post(event(1)) == 202
            status = await relay.until(lambda status: bool(errors(status)))
            assert "not yet valid" in errors(status)[1]
            assert status["ledger"]["pending"] == 1
            assert list(upstream.record.requests()) == []
            clock.write_text("+0\n")
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)


async def test_the_systems_authorities_are_loaded_when_an_endpoint_needs_them(
    authority: Authority, tmp_path: Path
) -> None:
    """The relay starts with plain HTTP and does not load them then."""
    toml = "[upstream]\nurl = '{}'\n"
    file = tmp_path / "config.toml"
    async with serving(None) as plain, serving(authority.server("good")) as encrypted:
        file.write_text(toml.format(plain.url))
        env = environment("", tmp_path) | {"SSL_CERT_FILE": str(authority.file)}
        del env["RELAY__UPSTREAM__URL"]
        async with running(env, sys.executable, "-m", "relay", "run", "--config", str(file)) as relay:
            assert await relay.post(event(1)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 1)
            file.write_text(toml.format(encrypted.url))
            relay.signal(signal.SIGHUP)
            await relay.logged("configuration applied")
            assert await relay.post(event(2)) == 202
            await relay.until(lambda status: status["ledger"]["delivered"] == 2)
        assert [len(list(each.record.requests())) for each in (plain, encrypted)] == [1, 1]
