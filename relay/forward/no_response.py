"""State why a request has no response, without quoting the request: aiohttp's messages may contain its headers."""

from __future__ import annotations

from collections.abc import Callable

import aiohttp

from relay.forward.exchange import Exchange, UnreadableResponse
from relay.forward.progress import TOTAL_FACTOR, Watch
from relay.policy.verdict import NoResponse, clean, redirect_target

CONNECT_S = 10.0


class UnrequestedResponse(aiohttp.ClientConnectionError):
    """The connection contained a response before the request. Nothing was sent."""


class ClosedAtOnce(aiohttp.ClientConnectionError):
    """A new connection was closed before the request. Nothing was sent."""


def no_response(
    error: Exception, watch: Watch, exchange: Exchange, timeout_ms: int, mask: Callable[[str], str]
) -> NoResponse:
    """Return the result of a request that ended with an error of aiohttp or the network."""
    message = clean(mask(_description(error)))
    match error:
        case TimeoutError():
            return _timed_out(watch, timeout_ms)
        case aiohttp.ClientHttpProxyError():
            return NoResponse(message, True, proxy_status=error.status)
        case aiohttp.ClientSSLError():
            # The handshake reached the upstream, or something in its place.
            return NoResponse(message, never_sent=True)
        case aiohttp.ClientConnectorError():
            return NoResponse(message, never_sent=True, is_unreachable=True)
        case _:
            is_unreachable = watch.nothing_left and not exchange.responded
            lost = exchange.lost_kept_connection and isinstance(error, aiohttp.ClientConnectionError)
            return NoResponse(message, is_unreachable, is_unreachable, lost_kept_connection=lost)


def _timed_out(watch: Watch, timeout_ms: int) -> NoResponse:
    seconds = f"{timeout_ms / 1000:g} s"
    if watch.while_sending:
        message = f"the request was not received: no progress for {seconds}, or not sent in {TOTAL_FACTOR} times that"
        return NoResponse(message, while_sending=True)
    if not watch.connected:
        message = f"cannot connect: no connection within {min(CONNECT_S, timeout_ms / 1000):g} s"
        return NoResponse(message, never_sent=True, is_unreachable=True)
    return NoResponse(f"no response within {seconds}")


def _description(error: BaseException) -> str:
    """Return a description of an error that contains no part of the request."""
    match error:
        case aiohttp.ClientConnectorCertificateError():
            return f"certificate not accepted: {error.certificate_error}"
        case aiohttp.ClientConnectorError() | aiohttp.ClientProxyConnectionError():
            return f"cannot connect: {error.os_error.strerror or type(error.os_error).__name__}"
        case ClosedAtOnce():
            return "cannot connect: the connection was closed at once"
        case UnrequestedResponse():
            return "the connection contained an unrequested response and was closed"
        case UnreadableResponse():
            return f"the response cannot be read: {error}"
        case aiohttp.ServerDisconnectedError():
            return "connection closed before the response"
        case aiohttp.ClientHttpProxyError():
            advice = ": check user and password in upstream.proxy" if error.status == 407 else ""
            target = redirect_target(error.headers.get("Location", "") if error.headers else "")
            return f"the proxy rejected the connection with {error.status} {error.message}{target}{advice}"
        case aiohttp.ClientPayloadError():
            return "the response is incomplete"
        case aiohttp.ClientResponseError():
            # The parser's message quotes bytes of the response, never of the request.
            return f"the response is not valid HTTP: {error.message}"
        case OSError():
            return f"connection failed: {error.strerror or type(error).__name__}"
        case _:
            return f"request failed ({type(error).__name__})"
