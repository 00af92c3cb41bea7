"""`check-config --online`: is the upstream there, is it who it says, does it take the key?

No event is sent: an empty batch is refused by a service that knows the key, and by 401 by one that does not.
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
from relay.policy.batch import body
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
    name: str
    ok: bool
    message: str


async def check(settings: Settings) -> list[Step]:
    """The steps in order, for each route; a route's later steps are left out once one failed."""
    tenants = [("", 0), *((f" of tenant {tenant_id}", tenant_id) for tenant_id in settings.upstream.tenants)]
    steps: list[Step] = []
    for whose, tenant_id in tenants:
        steps += await _check_route(settings, whose, tenant_id)
    return steps


async def _check_route(settings: Settings, whose: str, tenant_id: int) -> list[Step]:
    url = urlsplit(settings.upstream.endpoint(tenant_id).url)
    host = url.hostname or ""
    port = url.port or (443 if url.scheme == "https" else 80)
    steps: list[Step] = []
    if not settings.upstream.proxy:
        step, addresses = await _resolve(whose, host)
        steps.append(step)
        if step.ok and url.scheme == "https":
            steps.append(await _shake_hands(whose, host, addresses, port, settings))
    if all(step.ok for step in steps):
        steps.append(await _try_key(whose, tenant_id, settings))
    return steps


async def _resolve(whose: str, host: str) -> tuple[Step, list[str]]:
    """Return the step and the addresses of the host."""
    try:
        found = await Resolver().resolve(host)
    except OSError as error:
        return Step(f"name{whose}", False, f"{host} is not found: {error.strerror}"), []
    addresses = [entry["host"] for entry in found]
    return Step(f"name{whose}", True, f"{host} is {addresses[0]}"), addresses


async def _shake_hands(whose: str, host: str, addresses: list[str], port: int, settings: Settings) -> Step:
    try:
        async with asyncio.timeout(_STEP_S):
            writer = await _connect(host, addresses, port, tls_context(settings.upstream))
    except ssl.SSLCertVerificationError as error:
        return Step(f"TLS{whose}", False, f"certificate of {host} not accepted: {error.verify_message}")
    except (OSError, TimeoutError) as error:
        return Step(f"TLS{whose}", False, f"{host}:{port}: {str(error) or 'no response in time'}")
    tls = writer.get_extra_info("ssl_object")
    writer.close()
    return Step(f"TLS{whose}", True, f"{tls.version()}, certificate accepted")


async def _connect(host: str, addresses: list[str], port: int, tls: ssl.SSLContext) -> asyncio.StreamWriter:
    """Connect to the first address that accepts; no second lookup, which could hang. Raises OSError."""
    for address in addresses[:-1]:
        with suppress(OSError):
            return (await asyncio.open_connection(address, port, ssl=tls, server_hostname=host))[1]
    return (await asyncio.open_connection(addresses[-1], port, ssl=tls, server_hostname=host))[1]


async def _try_key(whose: str, tenant_id: int, settings: Settings) -> Step:
    client = UpstreamClient(settings.upstream, SystemClock())
    try:
        response = await client.post(tenant_id, body([]))
    finally:
        await client.close()
    if isinstance(response, NoResponse):
        return Step(f"key{whose}", False, response.message)
    return Step(f"key{whose}", *_meaning(verdict(response, 0)))


def _meaning(of: Verdict) -> tuple[bool, str]:
    """Whether an answer to an empty batch shows that the key is good, and why."""
    match of:
        case EventsRejected(message=message, about_events=True):
            return True, f"accepted (an empty batch is refused as it should be: {message})"
        case Unauthorized(message):
            return False, f"refused: {message}"
        case Misconfigured(message):
            return False, f"the URL is not the events endpoint: {message}"
        case RateLimited(message):
            return False, f"rate limited, try again in a minute: {message}"
        case Delivered():
            return False, "the URL is not the events endpoint: it takes an empty batch"
        case _:
            return False, f"unclear answer to an empty batch: {of.message}"
