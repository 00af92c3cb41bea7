"""Who may change state or see event bodies.

Rules: with a token, whoever shows it and nobody else; without one, peers on this machine. A web page
of another site may never, although its browser runs on this machine: the listener's guard has refused
its Host or Origin before, and what a page can send without asking, the content types of forms, is
refused here once more.
"""

from __future__ import annotations

import hmac

from aiohttp import hdrs, web

from relay.ops.response import RequestRejected
from relay.runtime.address import is_loopback_peer
from relay.runtime.secret import Secret


def require_allowed(request: web.BaseRequest, token: Secret | None) -> None:
    """Raise Refused (401, 403, 415) unless this request may change state or see event bodies."""
    if token is not None:
        _require_token(request, token)
    elif not is_loopback_peer(request.get_extra_info("peername")):
        raise RequestRejected(403, "only peers on this machine may do this, unless ops.token_file is set")
    if request.method == hdrs.METH_POST and request.content_type != "application/json":
        raise RequestRejected(415, "send Content-Type: application/json")


def _require_token(request: web.BaseRequest, token: Secret) -> None:
    scheme, _, shown = request.headers.get(hdrs.AUTHORIZATION, "").partition(" ")
    # as bytes: compare_digest takes no str beyond ASCII, and headers hold what is no UTF-8 as surrogates
    same = hmac.compare_digest(
        shown.strip().encode("utf-8", "surrogateescape"), token.reveal().encode("utf-8", "surrogateescape")
    )
    if scheme.lower() != "bearer" or not same:
        raise RequestRejected(
            401, "send Authorization: Bearer with the content of ops.token_file", {hdrs.WWW_AUTHENTICATE: "Bearer"}
        )
