"""The upstream's client: one request out, one value back.

The only module that uses the aiohttp client, and the only one that reveals an API key: as a header
of a request to the configured URL. Redirects are not followed, cookies not kept, proxies and
credentials of the environment not used, certificates always verified. Every way in which a request
can go wrong becomes a NoAnswer; nothing but cancellation leaves as an exception.
"""

from __future__ import annotations

import asyncio
import gzip
import os
import re
import ssl
import sys
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
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
from relay.forward.progress import TOTAL_FACTOR, Sockets, Watch
from relay.forward.resolver import Resolver
from relay.forward.response_head import MAX_LINE_BYTES, MAX_LINES
from relay.policy import requested_delay
from relay.policy.verdict import NoResponse, UpstreamResponse, clean, redirect_target
from relay.runtime.clock import Clock
from relay.runtime.secret import MASK, Secret, fingerprint, pattern

ANSWER_MAX_BYTES = 64 * 1024
_HEADERS_OF_USE = ("content-encoding", "content-type", "location", "x-ratelimit-limit", *requested_delay.HEADERS)
_KEEP_ALIVE_S = 15.0  # below the 60 to 75 s of the usual servers, so that they rarely close first
_CONNECT_S = 10.0

_WATCHED: ContextVar[tuple[Watch, Sockets]] = ContextVar("_WATCHED")
"""The watch of this task's request, which is told of the connection once there is one."""


class _UnrequestedResponse(aiohttp.ClientConnectionError):
    """Nothing was sent: the connection already held an answer."""


class _Request(aiohttp.ClientRequest):
    """Sent only where nothing has been answered yet.

    An answer that nobody asked for may wait on a kept connection (a proxy that answered twice, late). The
    library would take it for the answer to the next request, and events the upstream never took for delivered.
    """

    resolver: ClassVar[Resolver]

    async def send(self, conn: Connection) -> aiohttp.ClientResponse:
        if conn.protocol is not None and conn.protocol.should_close:
            raise _UnrequestedResponse
        wire.prepare(conn, self.resolver)
        if conn.transport is not None:
            watch, sockets = _WATCHED.get()
            watch.attach(cast("asyncio.WriteTransport", conn.transport), sockets)
        return await super().send(conn)


class BatchSender(Protocol):
    """What the forwarder needs of an upstream."""

    def origin(self, tenant_id: int) -> str:
        """Return the upstream origin (scheme, host, port) of a tenant's endpoint."""

    def origins(self) -> Sequence[str]:
        """Return the distinct origins of the default and the configured endpoints, the default's first."""

    async def post(
        self, tenant_id: int, body: bytes, stalled: Callable[[bool], None], *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        """Send one batch to a tenant's endpoint. Never raises for anything the network does.

        `stalled` is called with True when the request makes no progress for 5 s, and with False when this is over.
        `fresh`: on no kept connection.
        """


class UpstreamClient:
    """Posts batches. `configure` replaces routes, keys and transport for the requests to come."""

    def __init__(self, settings: Upstream, clock: Clock) -> None:
        self._clock = clock
        self._settings = settings
        self._session: aiohttp.ClientSession | None = None
        self._opened_with: tuple[object, ...] = ()
        """What the session was opened with, see `_transport`."""
        self._certificates = _fingerprints(settings)
        self._resolver = Resolver()
        self._sockets = Sockets()
        self._opening = asyncio.Lock()
        self._requests: Counter[aiohttp.ClientSession] = Counter()
        """The number of requests in flight by session."""
        self._retired: list[aiohttp.ClientSession] = []
        """Sessions that no new request uses; each is closed when its last request has ended."""

    def configure(self, settings: Upstream) -> list[str]:
        """Use these settings for new requests; a request in flight ends as it began.

        Return the names of certificate and key files that have another content than before.
        """
        if self._session and self._opened_with != _transport(settings):
            self._retired.append(self._session)
            self._session = None
        self._settings = settings
        before, self._certificates = self._certificates, _fingerprints(settings)
        return [name for name, now in self._certificates.items() if name in before and before[name] != now]

    def origin(self, tenant_id: int) -> str:
        """See BatchSender."""
        return _origin(self._settings.endpoint(tenant_id).url)

    def origins(self) -> Sequence[str]:
        """See BatchSender."""
        urls = [self._settings.default.url, *(endpoint.url for endpoint in self._settings.tenants.values())]
        return list(dict.fromkeys(map(_origin, urls)))

    async def close(self) -> None:
        for session in [*self._retired, *([self._session] if self._session else [])]:
            await session.close()
        self._retired.clear()
        self._session = None

    async def post(
        self, tenant_id: int, body: bytes, stalled: Callable[[bool], None] = lambda _: None, *, fresh: bool = False
    ) -> UpstreamResponse | NoResponse:
        """See BatchSender. Each kept connection that a fresh exchange meets is closed."""
        while True:
            exchange = wire.Exchange(fresh)
            wire.exchange.set(exchange)
            watch = Watch(self._clock, self._settings.timeout_ms, stalled)
            answer = await self._exchange(exchange, watch, tenant_id, body)
            if answer is not None:
                return answer

    async def _exchange(
        self, exchange: wire.Exchange, watch: Watch, tenant_id: int, body: bytes
    ) -> UpstreamResponse | NoResponse | None:
        """Return the response; None if a kept connection was closed in place of being used."""
        settings = self._settings
        endpoint = settings.endpoint(tenant_id)
        try:
            return await watch.run(self._request(watch, tenant_id, body))
        except TimeoutError:
            return _timed_out(watch, settings)
        except wire.NotFresh:
            return None
        except aiohttp.ClientHttpProxyError as error:
            return NoResponse(clean(_masker(endpoint)(_harmless(error))), True, proxy_status=error.status)
        except (aiohttp.ClientError, OSError, ssl.SSLError, ValueError) as error:
            # aiohttp's own messages may quote headers of the request: only what is known to be harmless is kept
            never_sent = isinstance(error, aiohttp.ClientConnectorError | aiohttp.ClientProxyConnectionError)
            lost = exchange.lost_kept_connection and isinstance(error, aiohttp.ClientConnectionError)
            return NoResponse(clean(_masker(endpoint)(_harmless(error))), never_sent, lost_kept_connection=lost)

    async def _request(self, watch: Watch, tenant_id: int, body: bytes) -> UpstreamResponse:
        """Return the response to one request. Raises what the library and the network raise."""
        session = self._session or await self._open()
        self._requests[session] += 1
        try:
            return await self._request_on(session, watch, tenant_id, body)
        finally:
            self._requests[session] -= 1
            await self._close_retired()

    async def _close_retired(self) -> None:
        """Close the retired sessions without a request in flight."""
        unused = [session for session in self._retired if not self._requests[session]]
        self._retired = [session for session in self._retired if session not in unused]
        for session in unused:
            del self._requests[session]
            await session.close()

    async def _request_on(
        self, session: aiohttp.ClientSession, watch: Watch, tenant_id: int, body: bytes
    ) -> UpstreamResponse:
        settings = self._settings  # a reload may have happened while the session was opened
        endpoint = settings.endpoint(tenant_id)
        _WATCHED.set((watch, self._sockets))
        async with session.post(
            endpoint.url,
            data=gzip.compress(body, 6) if settings.compression == "gzip" else body,
            headers=_headers(endpoint, settings),
            proxy=settings.proxy or None,
            allow_redirects=False,
        ) as response:
            answer = await self._answer(response, endpoint)
            if response.connection is not None and watch.unsent():
                # The response came before the whole body was sent. Nobody needs the rest.
                watch.abort()
            return answer

    async def _open(self) -> aiohttp.ClientSession:
        """The session for the settings in force. Authorities are read in a thread: that takes 40 to 100 ms."""
        async with self._opening:
            while self._session is None:
                settings = self._settings
                transport = _transport(settings)  # before the files are read: a later change opens another session
                tls = await asyncio.to_thread(tls_context, settings)
                if transport == _transport(self._settings):
                    self._opened_with = transport
                    self._session = _session(settings, tls, self._resolver, self._sockets)
            return self._session

    async def _answer(self, response: aiohttp.ClientResponse, endpoint: EndpointSettings) -> UpstreamResponse:
        """The answer, read to its end or to the limit; the key masked wherever the upstream echoed it."""
        chunks: list[bytes] = []
        room = ANSWER_MAX_BYTES
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
        # as latin-1 every byte is a character, and comes back as it was
        body = mask(b"".join(chunks).decode("latin-1")).encode("latin-1")
        return UpstreamResponse(response.status, headers, body, self._clock.wall_ms(), mask)


def _timed_out(watch: Watch, settings: Upstream) -> NoResponse:
    seconds = f"{settings.timeout_ms / 1000:g} s"
    if watch.while_sending:
        message = f"the request did not arrive: no progress for {seconds}, or not done in {TOTAL_FACTOR} times as long"
        return NoResponse(message, while_sending=True)
    return NoResponse(f"no answer within {seconds}", never_sent=not watch.connected)


def _session(settings: Upstream, tls: ssl.SSLContext, resolver: Resolver, sockets: Sockets) -> aiohttp.ClientSession:
    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(
            limit=0,  # the schedule bounds what is in flight
            ssl=tls,
            keepalive_timeout=_KEEP_ALIVE_S,
            resolver=resolver,
            ttl_dns_cache=30,
            socket_factory=sockets.open,
        ),
        timeout=aiohttp.ClientTimeout(total=None, sock_connect=_CONNECT_S),  # the watch bounds a request
        cookie_jar=aiohttp.DummyCookieJar(),
        auto_decompress=False,
        # the guard checks the same bounds first, and says what was wrong
        max_line_size=2 * MAX_LINE_BYTES,
        max_field_size=2 * MAX_LINE_BYTES,
        max_headers=2 * MAX_LINES,
        trust_env=False,
        request_class=type("_ResolvedRequest", (_Request,), {"resolver": resolver}),
    )


def transport_problem(settings: Upstream) -> str:
    """Why no request could be made with these certificates and keys; "" if one can. Reads files."""
    if not (settings.ca_file or settings.client_cert_file):
        return ""
    try:
        tls_context(settings)
    except (OSError, ValueError) as error:
        names = "upstream.ca_file, upstream.client_cert_file or upstream.client_key_file"
        return f"no certificate or key in PEM format, or one that does not fit the other ({names}): {error}"
    return ""


def tls_context(settings: Upstream) -> ssl.SSLContext:
    """Certificates are verified, always; `ca_file` names the authorities in the system's place, the client
    certificate is ours. Where nothing is https, none are read, and nobody would be trusted."""
    # ssl.create_default_context would write the session keys to the file that SSLKEYLOGFILE names
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    if sys.version_info >= (3, 13):
        # these are the flags that ssl.create_default_context sets since Python 3.13
        context.verify_flags |= ssl.VERIFY_X509_PARTIAL_CHAIN | ssl.VERIFY_X509_STRICT
    if _uses_tls(settings) or settings.ca_file:
        if settings.ca_file:
            context.load_verify_locations(settings.ca_file)
        else:
            context.load_default_certs()
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if settings.client_cert_file:
        context.load_cert_chain(settings.client_cert_file, settings.client_key_file or None)
    return context


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
    """Return what a session is made of: if it changes, the client needs a new one.

    A certificate that was renewed at the same path is another one: the files count, not only their names.
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
        files["system CA directory"] = Path(os.environ.get(system.openssl_capath_env) or system.openssl_capath)
    return files


def _fingerprints(settings: Upstream) -> dict[str, tuple[int, ...]]:
    files = certificate_files(settings)
    return dict(zip(files, fingerprint(files.values()), strict=True))


@lru_cache(maxsize=256)
def _origin(url: str) -> str:
    """Return scheme, host and port: in lower case, with the port also where it is the scheme's own."""
    parts = urlsplit(url)
    port = parts.port or (443 if parts.scheme == "https" else 80)
    host = parts.hostname or ""
    return f"{parts.scheme}://{f'[{host}]' if ':' in host else host}:{port}"


def _masker(endpoint: EndpointSettings) -> Callable[[str], str]:
    """Masks the key in whatever form the upstream gives it back."""
    in_text = _compiled(endpoint.api_key)
    return lambda text: in_text.sub(MASK, text)


@lru_cache(maxsize=256)
def _compiled(key: Secret) -> re.Pattern[str]:
    return re.compile(pattern(key.reveal()))


def _harmless(error: BaseException) -> str:
    """What went wrong, without anything of the request."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"certificate not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return f"cannot connect: {error.os_error.strerror or type(error.os_error).__name__}"
        case _UnrequestedResponse():
            return "an answer came that nobody asked for: the connection is given up"
        case wire.UnreadableResponse():
            return f"the response cannot be read: {error}"
        case aiohttp.ServerDisconnectedError():
            return "connection closed before the answer"
        case aiohttp.ClientHttpProxyError():
            advice = ": check user and password in upstream.proxy" if error.status == 407 else ""
            target = redirect_target(error.headers.get("Location", "") if error.headers else "")
            return f"the proxy rejected the connection with {error.status} {error.message}{target}{advice}"
        case aiohttp.ClientPayloadError():
            return "answer cut short"
        case aiohttp.ClientResponseError():
            # The parser's own message quotes bytes of the response, never of the request.
            return f"the response is no valid HTTP: {error.message}"
        case OSError():
            return f"connection failed: {error.strerror or type(error).__name__}"
        case _:
            return f"request failed ({type(error).__name__})"
