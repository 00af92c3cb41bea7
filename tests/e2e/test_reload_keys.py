"""The effect of each key that a reload applies. A test checks that every such key has a test here.

The relay runs in this process. Every test starts it with one value, reloads it with another, and observes an
effect of the second value only. Where time matters, the first value is so long that the test would time out.
"""

from __future__ import annotations

import asyncio
import json
import shutil
import signal
import ssl
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, TypeVar

import pytest
from relay.app.service import Service
from relay.config import ConfigError, load
from relay.config.keys import KEYS
from relay.runtime.clock import SystemClock
from relay.sandbox.faults import Misbehaviour
from relay.sandbox.record import RequestContent
from relay.sandbox.server import Sandbox
from structlog.testing import capture_logs

from tests.abuse.certificates import Authority
from tests.e2e.harness import KEY, PATIENCE_S, environment, event, http, running, serving

APPLIED = "configuration applied"
OTHER_KEY = "canary-other-key-7d2e9a"
EFFECTS: dict[str, Callable[..., Any]] = {}
"""The test that observes a key's effect, by the key's name."""

F = TypeVar("F", bound=Callable[..., Any])

needs_openssl = pytest.mark.skipif(not shutil.which("openssl"), reason="openssl makes the certificates")


def effect_of(*names: str) -> Callable[[F], F]:
    """Register a test as the one that observes the effect of these keys."""

    def register(test: F) -> F:
        EFFECTS.update(dict.fromkeys(names, test))
        return test

    return register


class Box:
    """A relay in this process whose environment a test can change."""

    def __init__(self, env: dict[str, str]) -> None:
        self.env = env
        self.service = Service(load(None, env), lambda: load(None, self.env), SystemClock())

    def reload(self, **settings: str | None) -> list[str]:
        """Change settings (None: remove), reload, and return the keys that the relay reports as applied."""
        for name, value in settings.items():
            self.env.pop(f"RELAY__{name.upper()}", None)
            if value is not None:
                self.env[f"RELAY__{name.upper()}"] = value
        with capture_logs() as lines:
            assert self.service.reload(), lines
        (applied,) = [line for line in lines if line["event"] == APPLIED]
        assert applied["needs_restart"] == []
        return list(applied["changed"])

    @property
    def delivered(self) -> int:
        return self.service.outbox.ledger().delivered

    async def request(
        self, method: str, path: str, body: bytes = b"", headers: dict[str, str] | None = None
    ) -> tuple[int, bytes]:
        status, _, content = await http(self.service.http_addresses[0], method, path, body, headers)
        return status, content

    async def post(self, given: object) -> int:
        status, _ = await self.request("POST", "/v1/events", json.dumps(given).encode())
        return status

    async def store(self, *given: object) -> None:
        for each in given:
            assert await self.post(each) == 202

    async def until(self, done: Callable[[], bool]) -> None:
        async with asyncio.timeout(PATIENCE_S):
            while not done():
                await asyncio.sleep(0.02)

    async def sends(self, *given: object) -> None:
        """Store the events, and wait until the upstream has all events."""
        before = self.service.outbox.ledger()
        await self.store(*given)
        await self.until(lambda: self.delivered == before.delivered + before.pending + len(given))

    async def until_stored(self, given: object) -> None:
        """Post an event until the relay stores it: the outbox applies another size before its next commit."""
        async with asyncio.timeout(PATIENCE_S):
            while await self.post(given) != 202:
                await asyncio.sleep(0.02)

    async def fills(self, device: str) -> None:
        """Store events of 60 kB until the outbox is full."""
        for n in range(100):
            if await self.post(padded(n, 60_000, device)) == 503:
                return
        raise AssertionError("the outbox never became full")


@asynccontextmanager
async def relay(url: str, directory: Path, **settings: str | None) -> AsyncIterator[Box]:
    """Run a relay that delivers to `url`. Its stop does not wait for a hanging upstream, unless `settings` say so."""
    given = {"shutdown__drain": "0s"} | {name: value for name, value in settings.items() if value is not None}
    env = environment(url, directory, **given)
    for name, value in settings.items():
        if value is None:
            env.pop(f"RELAY__{name.upper()}", None)
    box = Box(env)
    await box.service.start()
    try:
        yield box
    finally:
        await box.service.stop()


class Accepting:
    """A server that accepts every request, as an upstream or a proxy, and records the request lines."""

    def __init__(self, *, delay_s: float = 0) -> None:
        self.lines: list[bytes] = []
        self.most_at_once = 0
        self._open = 0
        self._delay_s = delay_s

    async def __aenter__(self) -> Accepting:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0)
        self.origin = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        self.url = f"{self.origin}/v1/events"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = await reader.readuntil(b"\r\n\r\n")
        self.lines.append(head.partition(b"\r\n")[0])
        self._open += 1
        self.most_at_once = max(self.most_at_once, self._open)
        (length,) = [line for line in head.lower().split(b"\r\n") if line.startswith(b"content-length:")]
        await reader.readexactly(int(length.partition(b":")[2]))
        await asyncio.sleep(self._delay_s)
        self._open -= 1
        body = b'{"success":true}'
        writer.write(b"HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nConnection: close\r\n")
        writer.write(b"Content-Length: %d\r\n\r\n%b" % (len(body), body))
        writer.close()


@pytest.fixture
async def sandbox() -> AsyncIterator[Sandbox]:
    async with serving() as started:
        yield started


@pytest.fixture
async def open_sandbox() -> AsyncIterator[Sandbox]:
    """An upstream that accepts every key."""
    async with serving(api_key="") as started:
        yield started


def padded(n: int, body_bytes: int, device: str = "padded") -> dict[str, Any]:
    return event(n, device) | {"context": {"n": n, "padding": "x" * body_bytes}}


def directory(path: Path) -> Path:
    path.mkdir()
    return path


def key_of(request: RequestContent) -> str:
    return request.headers["x-events-key"]


def holds(file: Path, secret: str) -> str:
    file.write_text(secret + "\n")
    file.chmod(0o600)
    return str(file)


def test_every_key_that_a_reload_applies_has_a_test_that_observes_its_effect() -> None:
    reloadable = {key.name for key in KEYS if not key.restart}

    assert set(EFFECTS) == reloadable
    assert {test.__name__ for test in EFFECTS.values()} <= {name for name in globals() if name.startswith("test_")}


# -- upstream --------------------------------------------------------------------------------------


@effect_of("upstream.url")
async def test_events_go_to_another_url(sandbox: Sandbox, tmp_path: Path) -> None:
    async with serving() as other, relay(sandbox.url, tmp_path) as box:
        await box.sends(event(1))
        assert box.reload(upstream__url=other.url) == ["upstream.url"]
        await box.sends(event(2))

        assert (sandbox.record.events, other.record.events) == (1, 1)


@effect_of("upstream.api_key")
async def test_requests_have_another_key(open_sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(open_sandbox.url, tmp_path) as box:
        await box.sends(event(1))
        assert box.reload(upstream__api_key=OTHER_KEY) == ["upstream.api_key"]
        await box.sends(event(2))

        assert [key_of(request) for request in open_sandbox.record.contents] == [KEY, OTHER_KEY]


@effect_of("upstream.api_key_file")
async def test_the_key_is_read_from_another_file(open_sandbox: Sandbox, tmp_path: Path) -> None:
    first, second = holds(tmp_path / "first", KEY), holds(tmp_path / "second", OTHER_KEY)
    async with relay(open_sandbox.url, tmp_path, upstream__api_key=None, upstream__api_key_file=first) as box:
        await box.sends(event(1))
        assert box.reload(upstream__api_key_file=second) == ["upstream.api_key"]
        await box.sends(event(2))

        assert [key_of(request) for request in open_sandbox.record.contents] == [KEY, OTHER_KEY]


@effect_of("upstream.timeout")
async def test_a_request_without_a_response_ends_after_another_time(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, upstream__timeout="10m") as box:
        assert box.reload(upstream__timeout="1s") == ["upstream.timeout"]
        sandbox.faults.add(Misbehaviour(action="silence", count=1))
        await box.sends(event(1))

        sent = [request for request in sandbox.record.requests() if request.events]
        assert len(sent) == 2, "besides a batch without events, which looks for the cause"


@effect_of("upstream.max_in_flight")
async def test_another_number_of_requests_is_in_flight(tmp_path: Path) -> None:
    env = {"batch__linger": "0s", "batch__mix_devices": "never"}
    async with Accepting(delay_s=0.2) as slow, relay(slow.url, tmp_path, **env) as box:
        assert box.reload(upstream__max_in_flight="1") == ["upstream.max_in_flight"]
        await box.sends(*(event(1, f"device-{n}") for n in range(4)))

        assert (len(slow.lines), slow.most_at_once) == (4, 1)


@effect_of("upstream.compression")
async def test_requests_are_compressed(tmp_path: Path) -> None:
    async with serving(inflate=True) as sandbox, relay(sandbox.url, tmp_path) as box:
        await box.sends(event(1))
        assert box.reload(upstream__compression="gzip") == ["upstream.compression"]
        await box.sends(event(2))

        assert [request.headers.get("content-encoding") for request in sandbox.record.contents] == [None, "gzip"]


@effect_of("upstream.proxy")
async def test_requests_go_through_another_proxy(sandbox: Sandbox, tmp_path: Path) -> None:
    async with Accepting() as proxy, relay(sandbox.url, tmp_path) as box:
        await box.sends(event(1))
        assert box.reload(upstream__proxy=proxy.origin) == ["upstream.proxy"]
        await box.sends(event(2))

        assert proxy.lines == [f"POST {sandbox.url} HTTP/1.1".encode()]
        assert sandbox.record.events == 1


@effect_of("upstream.proxy_file")
async def test_the_proxy_is_read_from_another_file(sandbox: Sandbox, tmp_path: Path) -> None:
    async with Accepting() as first, Accepting() as second:
        files = [holds(tmp_path / f"proxy-{n}", proxy.origin) for n, proxy in enumerate((first, second))]
        async with relay(sandbox.url, tmp_path, upstream__proxy_file=files[0]) as box:
            await box.sends(event(1))
            assert box.reload(upstream__proxy_file=files[1]) == ["upstream.proxy"]
            await box.sends(event(2))

        assert (len(first.lines), len(second.lines)) == (1, 1)


@needs_openssl
@effect_of("upstream.ca_file")
async def test_another_authority_is_trusted(tmp_path: Path) -> None:
    known, unknown = (Authority(directory(tmp_path / name)) for name in ("known", "unknown"))
    async with (
        serving(known.server("good")) as sandbox,
        relay(sandbox.url, tmp_path, upstream__ca_file=str(unknown.file)) as box,
    ):
        await box.store(event(1))
        await box.until(lambda: box.service.schedule.states()["backing_off"] == 1)
        assert box.reload(upstream__ca_file=str(known.file)) == ["upstream.ca_file"]
        await box.until(lambda: box.delivered == 1)


@needs_openssl
@effect_of("upstream.client_cert_file", "upstream.client_key_file")
async def test_another_client_certificate_is_presented(tmp_path: Path) -> None:
    known, unknown = (Authority(directory(tmp_path / name)) for name in ("known", "unknown"))
    context = known.server("good")
    context.verify_mode = ssl.CERT_REQUIRED
    context.load_verify_locations(known.file)
    (old_cert, old_key), (new_cert, new_key) = (authority.issue("client") for authority in (unknown, known))
    files = {"upstream__client_cert_file": str(old_cert), "upstream__client_key_file": str(old_key)}
    async with (
        serving(context) as sandbox,
        relay(sandbox.url, tmp_path, upstream__ca_file=str(known.file), **files) as box,
    ):
        await box.store(event(1))
        await box.until(lambda: box.service.schedule.states()["backing_off"] == 1)
        changed = box.reload(upstream__client_cert_file=str(new_cert), upstream__client_key_file=str(new_key))
        assert changed == ["upstream.client_cert_file", "upstream.client_key_file"]
        await box.until(lambda: box.delivered == 1)


@effect_of("upstream.allow_http")
async def test_plain_http_to_another_address_is_allowed(sandbox: Sandbox, tmp_path: Path) -> None:
    # The kernel connects the unspecified address to this machine; the rule knows it as no loopback address.
    url = sandbox.url.replace("127.0.0.1", "0.0.0.0")
    async with relay(sandbox.url, tmp_path) as box:
        with pytest.raises(ConfigError, match="plain http"):
            load(None, box.env | {"RELAY__UPSTREAM__URL": url})
        changed = box.reload(upstream__url=url, upstream__allow_http="true")
        assert changed == ["upstream.url", "upstream.allow_http"]
        await box.sends(event(1))

        assert sandbox.record.contents[0].headers["host"].startswith("0.0.0.0:")


@effect_of("upstream.allowed_tenants")
async def test_another_tenant_is_allowed_and_stored_events_are_still_sent(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, batch__linger="10m", upstream__allowed_tenants="1") as box:
        await box.store(event(1, tenant_id=1))
        assert await box.post(event(2, tenant_id=2)) == 422
        assert box.reload(upstream__allowed_tenants="2, 3") == ["upstream.allowed_tenants"]
        assert await box.post(event(3, tenant_id=1)) == 422
        await box.store(event(4, tenant_id=2))
        box.service.flush()
        await box.until(lambda: box.delivered == 2)

        assert {request.device[0] for request in sandbox.record.requests() if request.device} == {1, 2}


@effect_of("upstream.tenants.<id>.url")
async def test_events_of_a_tenant_go_to_another_url(sandbox: Sandbox, tmp_path: Path) -> None:
    async with serving() as other, relay(sandbox.url, tmp_path) as box:
        await box.sends(event(1, tenant_id=2))
        assert "upstream.tenants.2.url" in box.reload(upstream__tenants__2__url=other.url)
        await box.sends(event(2, tenant_id=2), event(1, tenant_id=1))

        assert [request.device[0] for request in other.record.requests() if request.device] == [2]
        assert sandbox.record.events == 2


async def shown_names(box: Box) -> dict[str, str]:
    """Return the names of the tenants, which give no tenant an upstream of its own."""
    status = json.loads((await box.request("GET", "/status.json"))[1])
    assert [upstream["tenant"] for upstream in status["upstreams"]] == [None]
    names: dict[str, str] = status["tenant_names"]
    return names


@effect_of("upstream.tenants.<id>.name")
async def test_a_tenant_has_another_name(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, upstream__tenants__3__name="Kiosk") as box:
        assert await shown_names(box) == {"1": "Parlor", "2": "PlayTV", "3": "Kiosk"}
        assert box.reload(upstream__tenants__2__name="TV") == ["upstream.tenants.2.name"]
        assert await shown_names(box) == {"1": "Parlor", "2": "TV", "3": "Kiosk"}


@effect_of("upstream.tenants.<id>.api_key")
async def test_requests_of_a_tenant_have_another_key(open_sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(open_sandbox.url, tmp_path) as box:
        await box.sends(event(1, tenant_id=2))
        assert "upstream.tenants.2.api_key" in box.reload(upstream__tenants__2__api_key=OTHER_KEY)
        await box.sends(event(2, tenant_id=2))
        await box.sends(event(1, tenant_id=1))

        assert [key_of(request) for request in open_sandbox.record.contents] == [KEY, OTHER_KEY, KEY]


@effect_of("upstream.tenants.<id>.api_key_file")
async def test_the_key_of_a_tenant_is_read_from_another_file(open_sandbox: Sandbox, tmp_path: Path) -> None:
    first, second = holds(tmp_path / "first", "canary-first-1b2c"), holds(tmp_path / "second", OTHER_KEY)
    async with relay(open_sandbox.url, tmp_path, upstream__tenants__2__api_key_file=first) as box:
        await box.sends(event(1, tenant_id=2))
        assert box.reload(upstream__tenants__2__api_key_file=second) == ["upstream.tenants.2.api_key"]
        await box.sends(event(2, tenant_id=2))

        assert [key_of(request) for request in open_sandbox.record.contents] == ["canary-first-1b2c", OTHER_KEY]


# -- events ----------------------------------------------------------------------------------------


@effect_of("http.max_event")
async def test_another_size_of_an_event_is_accepted(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path) as box:
        assert await box.post(padded(1, 1_000)) == 202
        assert box.reload(http__max_event="512B") == ["http.max_event"]
        assert await box.post(padded(2, 1_000)) == 413


DEFAULTS: dict[str, tuple[str, Any, Callable[[dict[str, Any]], Any]]] = {
    "defaults.tenant_id": ("7", 7, lambda sent: sent["tenant_id"]),
    "defaults.platform": ("web", "web", lambda sent: sent["source"]["platform"]),
    "defaults.device_id": ("box-9", "box-9", lambda sent: sent["source"]["device_id"]),
    "defaults.app_version": ("1.2.3", "1.2.3", lambda sent: sent["source"]["app_version"]),
    "defaults.os_version": ("14.1", "14.1", lambda sent: sent["source"]["os_version"]),
    "defaults.device_model": ("stick", "stick", lambda sent: sent["source"]["device_model"]),
}


@effect_of(*DEFAULTS)
@pytest.mark.parametrize("name", DEFAULTS)
async def test_another_default_is_filled_in(name: str, sandbox: Sandbox, tmp_path: Path) -> None:
    given, expected, read = DEFAULTS[name]
    lacking = event(1)
    lacking.pop(name.rpartition(".")[2], None)
    lacking["source"].pop(name.rpartition(".")[2], None)
    async with relay(sandbox.url, tmp_path) as box:
        assert box.reload(**{name.replace(".", "__"): given}) == [name]
        await box.sends(lacking)

        (sent,) = json.loads(sandbox.record.contents[0].body)["events"]
        assert read(sent) == expected


# -- operations ------------------------------------------------------------------------------------


@effect_of("ops.token")
async def test_another_operator_token_is_needed(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, ops__token="old-token-1") as box:
        assert box.reload(ops__token="new-token-2") == ["ops.token"]

        assert await statuses_by_token(box) == (401, 200)


@effect_of("ops.token_file")
async def test_the_operator_token_is_read_from_another_file(sandbox: Sandbox, tmp_path: Path) -> None:
    first, second = holds(tmp_path / "first", "old-token-1"), holds(tmp_path / "second", "new-token-2")
    async with relay(sandbox.url, tmp_path, ops__token_file=first) as box:
        assert box.reload(ops__token_file=second) == ["ops.token"]

        assert await statuses_by_token(box) == (401, 200)


async def statuses_by_token(box: Box) -> tuple[int, int]:
    """The statuses of a guarded request with the old token, and with the new one."""
    old, _ = await box.request("GET", "/dead-letters", headers={"Authorization": "Bearer old-token-1"})
    new, _ = await box.request("GET", "/dead-letters", headers={"Authorization": "Bearer new-token-2"})
    return old, new


# -- outbox ----------------------------------------------------------------------------------------


@effect_of("outbox.max_size")
async def test_a_full_outbox_that_may_be_larger_accepts_events(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=503))
    async with relay(sandbox.url, tmp_path, outbox__max_size="1MiB") as box:
        await box.fills("device-1")
        assert box.reload(outbox__max_size="64MiB") == ["outbox.max_size"]

        await box.until_stored(padded(1_000, 60_000, "device-1"))


@effect_of("outbox.when_full")
async def test_a_full_outbox_drops_the_oldest_events(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=503))
    async with relay(sandbox.url, tmp_path, outbox__max_size="1MiB") as box:
        await box.fills("device-1")
        assert box.reload(outbox__when_full="drop_oldest") == ["outbox.when_full"]
        await box.until_stored(padded(1_000, 60_000, "device-1"))

        assert box.service.outbox.ledger().dropped > 0


@effect_of("outbox.max_devices")
async def test_a_further_device_is_accepted_below_another_limit(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, outbox__max_devices="1") as box:
        await box.store(event(1, "device-1"))
        assert await box.post(event(2, "device-2")) == 503
        assert box.reload(outbox__max_devices="2") == ["outbox.max_devices"]

        await box.store(event(2, "device-2"))


@effect_of("outbox.max_age")
async def test_events_of_another_age_are_dropped(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(answer=503))
    async with relay(sandbox.url, tmp_path) as box:
        await box.store(event(1))
        assert box.reload(outbox__max_age="1s") == ["outbox.max_age"]

        await box.until(lambda: box.service.outbox.ledger().dropped == 1)


# -- batch -----------------------------------------------------------------------------------------


@effect_of("batch.linger")
async def test_pending_events_wait_for_another_time(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, batch__linger="10m") as box:
        await box.store(event(1))
        assert box.reload(batch__linger="50ms") == ["batch.linger"]

        await box.until(lambda: box.delivered == 1)


@effect_of("batch.max_events")
async def test_another_number_of_pending_events_is_a_full_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, batch__linger="10m") as box:
        await box.store(*map(event, range(4)))
        assert box.reload(batch__max_events="2") == ["batch.max_events"]
        await box.until(lambda: box.delivered == 4)

        assert [len(json.loads(request.body)["events"]) for request in sandbox.record.contents] == [2, 2]


@effect_of("batch.max_bytes")
async def test_another_size_of_pending_events_is_a_full_batch(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, batch__linger="10m", http__max_event="32KiB") as box:
        await box.store(*(padded(n, 20_000) for n in range(2)))
        assert box.reload(batch__max_bytes="32KiB") == ["batch.max_bytes"]
        await box.until(lambda: box.delivered == 2)

        assert [len(json.loads(request.body)["events"]) for request in sandbox.record.contents] == [1, 1]


@effect_of("batch.mix_devices")
async def test_devices_are_combined(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, batch__linger="10m", batch__mix_devices="never") as box:
        await box.store(event(1, "device-1"), event(1, "device-2"))
        assert box.reload(batch__mix_devices="always") == ["batch.mix_devices"]
        box.service.flush()
        await box.until(lambda: box.delivered == 2)

        assert sandbox.report().requests == 1


# -- rate and retry --------------------------------------------------------------------------------


@effect_of("rate.window")
async def test_the_limit_of_a_device_has_another_window(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, rate__window="1h", rate__device_per_window="1") as box:
        await box.sends(event(1))
        await box.store(event(2))
        assert box.reload(rate__window="1s") == ["rate.window"]

        await box.until(lambda: box.delivered == 2)


@effect_of("rate.device_per_window")
async def test_a_device_may_send_another_number_of_requests(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, rate__window="1h", rate__device_per_window="1") as box:
        await box.sends(event(1))
        await box.store(event(2))
        assert box.reload(rate__device_per_window="2") == ["rate.device_per_window"]

        await box.until(lambda: box.delivered == 2)


@effect_of("rate.ip_per_window")
async def test_a_shared_limit_starts_from_another_number(tmp_path: Path) -> None:
    async with serving(announce_limits=False) as sandbox:
        limits = {"rate__window": "1h", "rate__ip_per_window": "1", "batch__mix_devices": "never"}
        async with relay(sandbox.url, tmp_path, **limits) as box:
            assert box.reload(rate__ip_per_window="100000") == ["rate.ip_per_window"]
            sandbox.faults.add(Misbehaviour(answer=429, count=2))
            await box.store(event(1, "device-1"), event(1, "device-2"))
            await box.until(lambda: box.service.schedule.states()["rate_limited"] == 1)
            await box.sends(event(2, "device-1"))

            assert box.service.schedule.states()["rate_limited"] == 1


@effect_of("retry.initial")
async def test_backoff_starts_from_another_time(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, retry__initial="1h", retry__max="1h") as box:
        assert box.reload(retry__initial="10ms") == ["retry.initial"]
        sandbox.faults.add(Misbehaviour(answer=503, count=5))

        await box.sends(event(1))


@effect_of("retry.max")
async def test_backoff_ends_at_another_time(sandbox: Sandbox, tmp_path: Path) -> None:
    async with relay(sandbox.url, tmp_path, retry__initial="10ms", retry__max="1h") as box:
        assert box.reload(retry__max="20ms") == ["retry.max"]
        # Without the new bound, the last of these backoffs would take days.
        sandbox.faults.add(Misbehaviour(answer=503, count=25))

        await box.sends(event(1))


# -- the relay itself ------------------------------------------------------------------------------


@effect_of("shutdown.drain")
async def test_a_stop_waits_for_another_time(sandbox: Sandbox, tmp_path: Path) -> None:
    sandbox.faults.add(Misbehaviour(action="silence"))
    async with relay(sandbox.url, tmp_path, shutdown__drain="5m", upstream__timeout="10m") as box:
        await box.store(event(1))
        await box.until(lambda: sandbox.report().requests == 1)
        assert box.reload(shutdown__drain="10ms") == ["shutdown.drain"]
        async with asyncio.timeout(PATIENCE_S):
            await box.service.stop()


@effect_of("log.level")
async def test_lines_of_another_level_are_written(sandbox: Sandbox, tmp_path: Path) -> None:
    file = tmp_path / "config.toml"
    file.write_text('[log]\nlevel = "info"\n')
    env = environment(sandbox.url, tmp_path) | {"RELAY_CONFIG": str(file)}
    del env["RELAY__LOG__LEVEL"]
    async with running(env) as process:
        file.write_text('[log]\nlevel = "error"\n[http]\nmax_event = "512B"\n')
        process.signal(signal.SIGHUP)
        async with asyncio.timeout(PATIENCE_S):
            while await process.post(padded(1, 1_000)) != 413:
                await asyncio.sleep(0.02)
        file.write_text('[log]\nlevel = "info"\n')
        process.signal(signal.SIGHUP)
        applied = await process.logged(APPLIED)

    assert applied["changed"]["log.level"] == '"error" -> "info"'
