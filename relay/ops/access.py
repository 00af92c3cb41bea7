"""Access control for requests that change state or read event bodies.

Rules: with a configured token, a request must contain it. Without a token, the peer must be on this machine. A web
page of another site has no access, even if its browser runs on this machine: the listener's guard rejects its Host or
Origin, and this module rejects the content types of forms, which a page can send without a preflight request.
"""

from __future__ import annotations

import hmac

from aiohttp import hdrs

from relay.http.request import Request
from relay.ops.response import RequestRejected
from relay.runtime.address import is_loopback_peer
from relay.runtime.secret import Secret


def require_allowed(request: Request, token: Secret | None) -> None:
    """Raise RequestRejected (401, 403, 415) if the request may not change state or read event bodies."""
    if token is not None:
        _require_token(request, token)
    elif not is_loopback_peer(request.peer):
        raise RequestRejected(403, "only peers on this machine may send this request, unless ops.token_file is set")
    if request.method == hdrs.METH_POST and request.media_type != "application/json":
        raise RequestRejected(415, "send Content-Type: application/json")


def _require_token(request: Request, token: Secret) -> None:
    scheme, _, sent = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    # compare_digest accepts only ASCII in a str, and a header may contain surrogates for bytes that are not UTF-8.
    same = hmac.compare_digest(
        sent.strip().encode("utf-8", "surrogateescape"), token.reveal().encode("utf-8", "surrogateescape")
    )
    if scheme.lower() != "bearer" or not same:
        raise RequestRejected(
            401, "send Authorization: Bearer with the content of ops.token_file", {hdrs.WWW_AUTHENTICATE: "Bearer"}
        )
