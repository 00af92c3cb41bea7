"""Send batches to the upstream and return each response as a value.

No other module uses the aiohttp client or reveals an API key. The key is in a header of requests to the configured
URL. The client follows no redirects, stores no cookies, uses no proxies and credentials
of the environment, and always verifies certificates. Every failure of a request becomes a NoResponse. Only
cancellation raises.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Collection, Mapping, Sequence
from contextlib import suppress
from contextvars import ContextVar
from functools import lru_cache
from pathlib import Path
from typing import ClassVar, Protocol, cast
from urllib.parse import urlsplit

import aiohttp
from aiohttp.connector import Connection

from relay import __version__
from relay.config import EndpointSettings, Upstream
from relay.forward import exchange as wire
from relay.forward.no_response import CONNECT_S, ClosedAtOnce, UnrequestedResponse, no_response
from relay.forward.progress import Sockets, Watch
from relay.forward.resolver import Resolver
from relay.forward.response_head import MAX_LINE_BYTES, MAX_LINES
from relay.policy import requested_delay
from relay.policy.verdict import NoResponse, UpstreamResponse
from relay.runtime.clock import Clock
from relay.runtime.secret import MASK, Secret, fingerprint, pattern

RESPONSE_MAX_BYTES = 64 * 1024
_HEADERS_OF_USE = ("content-encoding", "content-type", "location", "x-ratelimit-limit", *requested_delay.HEADERS)
_KEEP_ALIVE_S = 15.0  # Common servers close idle connections after 60 to 75 s. The relay closes them first.

_SETTLE_S = 0.2
"""How long a cautious exchange waits whether its new connection is closed at once."""

_WATCHED: ContextVar[tuple[Watch, Sockets]] = ContextVar("_WATCHED")
"""The watch of this task's request, which is attached to the connection when it is open."""


class _Request(aiohttp.ClientRequest):
    """A request that is not sent on a connection with an unrequested response.

    A kept-alive connection may contain such a response, for example from a proxy that responded twice. aiohttp would
    treat it as the response to the next request, and the relay would record events as delivered that were not.
    """

    resolver: ClassVar[Resolver]

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is not None and conn.protocol.should_close:
            raise UnrequestedResponse
        watch, sockets = _WATCHED.get()
        closed = asyncio.Event()

        def lost() -> None:
            watch.lost()
            closed.set()

        wire.prepare(conn, self.resolver, lost)
        if conn.transport is not None:
            watch.attach(cast("asyncio.WriteTransport", conn.transport), sockets)
        current = wire.exchange.get()
        if current.is_cautious and not current.is_kept:
            with suppress(TimeoutError):
                async with asyncio.timeout(_SETTLE_S):
                    await closed.wait()
            if closed.is_set():
                raise ClosedAtOnce
        return await super().send(conn)


class BatchSender(Protocol):
    """The interface of the upstream client that the forwarder uses."""

    def origin(self, tenant_id: int) -> str:
        """Return the upstream origin (scheme, host, port) of a tenant's endpoint."""

    def origins(self) -> Sequence[str]:
        """Return the distinct origins of the default and the configured endpoints, the default's first."""

    def distinct_tenants(self) -> Collection[int | None]:
        """Return one tenant for each distinct configured URL and key; None: the default upstream."""

    async def post(
        self, tenant_id: int, body: bytes, silent: Callable[[int], None], *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        """Send one batch to a tenant's endpoint and return the response. Network failures raise nothing.

        `silent` is called regularly with the milliseconds without progress, and with 0 at the end.
        With `fresh`, use a new connection.
        """

    def reconnect(self) -> None:
        """Use new connections and new name lookups for later requests, because the network changed."""


class UpstreamClient:
    """Sends batches. `configure` replaces endpoints, keys and transport settings for later requests."""

    def __init__(self, settings: Upstream, clock: Clock) -> None:
        self._clock = clock
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._opened_with: tuple[object, ...] = ()
        """The transport settings of the session; see `_transport`."""
        self._certificates = _fingerprints(settings)
        self._resolver = Resolver()
        self._sockets = Sockets()
        self._opening = asyncio.Lock()
        self._requests: Counter[aiohttp.ClientSession] = Counter()
        """The number of requests in flight by session."""
        self._lost_origins: set[str] = set()
        """Upstream origins whose latest request received no response."""
        self._retired: list[aiohttp.ClientSession] = []
        """Sessions that no new request uses; each is closed when its last request has ended."""

    def configure(self, settings: Upstream) -> list[str]:
        """Use these settings for new requests; a request in flight ends as it began.

        Return the names of certificate and key files that have another content than before.
        """
        if self._opened_with != _transport(settings):
            self.reconnect()
        self._settings = settings
        self._lost_origins &= set(self.origins())
        before, self._certificates = self._certificates, _fingerprints(settings)
        return [name for name, now in self._certificates.items() if name in before and before[name] != now]

    def origin(self, tenant_id: int) -> str:
        """See BatchSender."""
        return _origin(self._settings.endpoint(tenant_id).url)

    def origins(self) -> Sequence[str]:
        """See BatchSender."""
        urls = [self._settings.default.url, *(endpoint.url for endpoint in self._settings.tenants.values())]
        return list(dict.fromkeys(map(_origin, urls)))

    def distinct_tenants(self) -> Collection[int | None]:
        """See BatchSender."""
        distinct: dict[EndpointSettings, int | None] = {self._settings.default: None}
        for tenant_id, endpoint in self._settings.tenants.items():
            distinct.setdefault(endpoint, tenant_id)
        return distinct.values()

    def reconnect(self) -> None:
        """See BatchSender. A kept-alive connection of the previous network would hang until the timeout."""
        if self._session:
            self._retired.append(self._session)
            self._session = None

    async def close(self) -> None:
        for session in [*self._retired, *([self._session] if self._session else [])]:
            await session.close()
        self._retired.clear()
        self._session = None

    async def post(
        self, tenant_id: int, body: bytes, silent: Callable[[int], None] = lambda _: None, *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        """See BatchSender. A fresh exchange closes each kept-alive connection that aiohttp selects for it."""
        origin = self.origin(tenant_id)
        while True:
            exchange = wire.Exchange(fresh, origin in self._lost_origins)
            wire.exchange.set(exchange)
            settings = self._settings
            watch = Watch(self._clock, settings.timeout_ms, silent)
            try:
                response = await watch.run(self._request(watch, tenant_id, body))
            except wire.NotFresh:  # A kept-alive connection was closed instead of being used.
                continue
            except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:  # TimeoutError is an OSError.
                self._lost_origins.add(origin)
                mask = _masker(settings.endpoint(tenant_id))
                return no_response(error, watch, exchange, settings.timeout_ms, mask)
            self._lost_origins.discard(origin)
            return response

    async def _request(self, watch: Watch, tenant_id: int, body: bytes) -> UpstreamResponse:
        """Return the response to one request. Raises the errors of aiohttp and the network."""
        session = self._session or await self._open()
        settings = self._settings  # a reload may have happened while the session was opened
        endpoint = settings.endpoint(tenant_id)
        _WATCHED.set((watch, self._sockets))
        self._requests[session] += 1
        try:
            async with session.post(
                endpoint.url,
                data=gzip.compress(body, 6) if settings.compression == "gzip" else body,
                headers=_headers(endpoint, settings),
                proxy=settings.proxy or None,
                allow_redirects=False,
            ) as response:
                result = await self._read(response, endpoint)
                if response.connection is not None and watch.unsent():
                    # The response was received before the whole body was sent. The rest of the body is not needed.
                    watch.abort()
                return result
        finally:
            self._requests[session] -= 1
            if self._retired:
                await self._close_retired()

    async def _close_retired(self) -> None:
        """Close the retired sessions without a request in flight."""
        unused = [session for session in self._retired if not self._requests[session]]
        self._retired = [session for session in self._retired if session not in unused]
        for session in unused:
            del self._requests[session]
            await session.close()

    async def _open(self) -> aiohttp.ClientSession:
        """Return the session for the current settings. A thread reads the authorities, which takes 40 to 100 ms."""
        async with self._opening:
            while self._session is None:
                settings = self._settings
                # Taken before the files are read, so that a later change opens another session.
                transport = _transport(settings)
                tls = await asyncio.to_thread(tls_context, settings)
                if transport == _transport(self._settings):
                    self._opened_with = transport
                    self._session = _session(tls, self._resolver, self._sockets)
            return self._session

    async def _read(self, response: aiohttp.ClientResponse, endpoint: EndpointSettings) -> UpstreamResponse:
        """Return the response, read to its end or to the limit, with each occurrence of the key masked."""
        chunks: list[bytes] = []
        room = RESPONSE_MAX_BYTES
        while room > 0:
            chunk = await response.content.read(room)
            if not chunk:
                break
            chunks.append(chunk)
            room -= len(chunk)
        if room <= 0:
            response.close()
        mask = _masker(endpoint)
        headers = {name: mask(response.headers[name]) for name in _HEADERS_OF_USE if name in response.headers}
        # Latin-1 maps every byte to one character and back.
        body = mask(b"".join(chunks).decode("latin-1")).encode("latin-1")
        return UpstreamResponse(response.status, headers, body, self._clock.wall_ms(), mask)


def _session(tls: ssl.SSLContext, resolver: Resolver, sockets: Sockets) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,  # The schedule bounds the number of requests in flight.
            ssl=tls,
            keepalive_timeout=_KEEP_ALIVE_S,
            resolver=resolver,
            ttl_dns_cache=30,
            socket_factory=sockets.open,
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),  # The watch bounds the request.
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        # The guard checks these bounds first and reports the reason.
        max_line_size=2 * MAX_LINE_BYTES,
        max_field_size=2 * MAX_LINE_BYTES,
        max_headers=2 * MAX_LINES,
        trust_env=False,
        request_class=type("_ResolvedRequest", (_Request,), {"resolver": resolver}),
    )


def transport_problem(settings: Upstream) -> str:
    """Return which configured certificate or key cannot be used, and why; "" if all can. Reads the files."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if settings.ca_file:
        try:
            context.load_verify_locations(settings.ca_file)
        except (OSError, ValueError) as error:
            return f"upstream.ca_file {settings.ca_file} contains no certificate in PEM format: {error}"
    if settings.client_cert_file:
        files = f"upstream.client_cert_file {settings.client_cert_file}"
        if settings.client_key_file:
            files += f" and upstream.client_key_file {settings.client_key_file}"
        try:
            _load_client_certificate(context, settings)
        except (OSError, ValueError) as error:
            return f"{files}: not in PEM format, encrypted, or the key does not match the certificate: {error}"
    return ""


def tls_context(settings: Upstream) -> ssl.SSLContext:
    """Return a context that verifies certificates with the authorities of `ca_file` or of the system.

    If no URL is https and there is no `ca_file`, no authorities are read and every certificate is rejected. Raises
    OSError and ValueError for files that cannot be used.
    """
    # ssl.create_default_context would write the session keys to the file that SSLKEYLOGFILE names.
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        # ssl.create_default_context sets these flags since Python 3.13.
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if _uses_tls(settings) or settings.ca_file:
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        else:
            context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_cert_file:
        _load_client_certificate(context, settings)
    return context


def _load_client_certificate(context: ssl.SSLContext, settings: Upstream) -> None:
    # Without a password here, OpenSSL would ask for that of an encrypted key on the terminal, and wait.
    context.load_cert_chain(settings.client_cert_file, settings.client_key_file or None, password="")


def _uses_tls(settings: Upstream) -> bool:
    urls = (settings.default.url, *(endpoint.url for endpoint in settings.tenants.values()), settings.proxy)
    return any(url.lower().startswith("https:") for url in urls)


def _headers(endpoint: EndpointSettings, settings: Upstream) -> dict[str, str]:
    headers = {
        "Content-Type": "application/json",
        "Accept": "application/json",
        "Accept-Encoding": "identity",
        "User-Agent": f"relay/{__version__}",
        "X-Events-Key": endpoint.api_key.reveal(),
    }
    if settings.compression == "gzip":
        headers["Content-Encoding"] = "gzip"
    return headers


def _transport(settings: Upstream) -> tuple[object, ...]:
    """Return the settings of a session. If they change, the client opens a new session.

    They include the fingerprints of the files, because a certificate can be renewed at the same path.
    """
    return (_uses_tls(settings), settings.ca_file, settings.client_cert_file, *_fingerprints(settings).items())


def certificate_files(settings: Upstream) -> Mapping[str, Path]:
    """Return the files that certificates and keys of connections are read from, by key or description.

    The system's authorities count where they are used: the file and the directory of OpenSSL, or of SSL_CERT_FILE and
    SSL_CERT_DIR. A directory changes when a file in it is added, replaced or removed.
    """
    names = ("ca_file", "client_cert_file", "client_key_file")
    files = {f"upstream.{name}": Path(value) for name in names if (value := getattr(settings, name))}
    if _uses_tls(settings) and not settings.ca_file:
        system = ssl.get_default_verify_paths()
        files["system CA file"] = Path(os.environ.get(system.openssl_cafile_env) or system.openssl_cafile)
        directories = os.environ.get(system.openssl_capath_env) or system.openssl_capath
        files |= {f"system CA directory {name}": Path(name) for name in directories.split(os.pathsep) if name}
    return files


def _fingerprints(settings: Upstream) -> dict[str, tuple[int, ...]]:
    files = certificate_files(settings)
    return dict(zip(files, fingerprint(files.values()), strict=True))


@lru_cache(maxsize=256)
def _origin(url: str) -> str:
    """Return scheme, host and port in lower case, with the port even if it is the scheme's default."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _masker(endpoint: EndpointSettings) -> Callable[[str], str]:
    """Return a function that masks the endpoint's key in all its encodings."""
    in_text = _compiled(endpoint.api_key)
    return lambda text: in_text.sub(MASK, text)


@lru_cache(maxsize=256)
def _compiled(key: Secret) -> re.Pattern[str]:
    return re.compile(pattern(key.reveal()))
