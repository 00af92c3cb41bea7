"""Check the upstream for `check-config --online`: name lookup, TLS certificate and key.

The check sends an empty batch and no event. If the upstream accepts the key, it rejects the batch as invalid.
Otherwise it responds with 401.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from typing import NamedTuple
from urllib.parse import urlsplit

from relay.config import Settings
from relay.forward.resolver import Resolver
from relay.forward.upstream import UpstreamClient, tls_context
from relay.policy.requests import request_body
from relay.policy.verdict import (
    Delivered,
    EventsRejected,
    Misconfigured,
    NoResponse,
    RateLimited,
    Unauthorized,
    Verdict,
    verdict,
)
from relay.runtime.clock import SystemClock

_STEP_S = 10.0


class Step(NamedTuple):
    """One step of the check and its result."""

    name: str
    """Name with the tenant, for example "TLS of tenant 2"."""
    ok: bool
    message: str


async def check(settings: Settings) -> list[Step]:
    """Return the steps of each endpoint in order. After a failed step, the endpoint's later steps are omitted."""
    tenants = [("", 0), *((f" of tenant {tenant_id}", tenant_id) for tenant_id in settings.upstream.tenants)]
    steps: list[Step] = []
    for suffix, tenant_id in tenants:
        steps += await _check_endpoint(settings, suffix, tenant_id)
    return steps


async def _check_endpoint(settings: Settings, suffix: str, tenant_id: int) -> list[Step]:
    url = urlsplit(settings.upstream.endpoint(tenant_id).url)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    steps: list[Step] = []
    if not settings.upstream.proxy:
        step, addresses = await _resolve(suffix, host)
        steps.append(step)
        if step.ok and url.scheme == "https":
            steps.append(await _connect_with_tls(suffix, host, addresses, port, settings))
    if all(step.ok for step in steps):
        steps.append(await _try_key(suffix, tenant_id, settings))
    return steps


async def _resolve(suffix: str, host: str) -> tuple[Step, list[str]]:
    """Return the step and the addresses of the host, none if the lookup failed."""
    try:
        found = await Resolver().resolve(host)
    except OSError as error:
        return Step(f"name{suffix}", False, f"cannot look up {host}: {error.strerror}"), []
    addresses = [entry["host"] for entry in found]
    return Step(f"name{suffix}", True, f"{host} has the address {addresses[0]}"), addresses


async def _connect_with_tls(suffix: str, host: str, addresses: list[str], port: int, settings: Settings) -> Step:
    try:
        async with asyncio.timeout(_STEP_S):
            writer = await _connect(host, addresses, port, tls_context(settings.upstream))
    except ssl.SSLCertVerificationError as error:
        return Step(f"TLS{suffix}", False, f"certificate of {host} not accepted: {error.verify_message}")
    except (OSError, TimeoutError) as error:
        return Step(f"TLS{suffix}", False, f"{host}:{port}: {str(error) or 'no response in time'}")
    tls = writer.get_extra_info("ssl_object")
    writer.close()
    return Step(f"TLS{suffix}", True, f"{tls.version()}, certificate accepted")


async def _connect(host: str, addresses: list[str], port: int, tls: ssl.SSLContext) -> asyncio.StreamWriter:
    """Connect to the first address that accepts, without a second name lookup, which could hang. Raises OSError."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return (await asyncio.open_connection(address, port, ssl=tls, server_hostname=host))[1]
    return (await asyncio.open_connection(addresses[-1], port, ssl=tls, server_hostname=host))[1]


async def _try_key(suffix: str, tenant_id: int, settings: Settings) -> Step:
    client = UpstreamClient(settings.upstream, SystemClock())
    try:
        response = await client.post(tenant_id, request_body([]))
    finally:
        await client.close()
    if isinstance(response, NoResponse):
        return Step(f"key{suffix}", False, response.message)
    return Step(f"key{suffix}", *_key_result(verdict(response, 0)))


def _key_result(meaning: Verdict) -> tuple[bool, str]:
    """Return whether the response to an empty batch shows that the key is accepted, and a message."""
    match meaning:
        case EventsRejected(message=message, about_events=True):
            return True, f"accepted; the upstream rejected an empty batch, as expected: {message}"
        case Unauthorized(message):
            return False, f"rejected: {message}"
        case Misconfigured(message):
            return False, f"the URL is not that of the events endpoint: {message}"
        case RateLimited(message):
            return False, f"rate limited, try again in a minute: {message}"
        case Delivered():
            return False, "the URL is not that of the events endpoint: it accepted an empty batch"
        case _:
            return False, f"unexpected response to an empty batch: {meaning.message}"
