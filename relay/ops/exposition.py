"""The choice of the metrics format and coding by the headers of a scraper.

Rules: the first known format in the header applies, without regard to its `q`, because Prometheus lists its preferred
format first. An unknown or missing header selects the plain text format. No text of the client appears in the response
or reaches prometheus_client. Its own choice of a format fails on a version that is not a number.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial

from prometheus_client import exposition
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

Encoder = Callable[[Collector], bytes]

_OPENMETRICS: tuple[Callable[..., bytes], str] = (openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST)
_FORMATS: Mapping[tuple[str, str | None], tuple[Callable[..., bytes], str]] = {
    ("application/openmetrics-text", None): _OPENMETRICS,
    ("application/openmetrics-text", "1.0.0"): _OPENMETRICS,
    ("text/plain", "1.0.0"): (exposition.generate_latest, exposition.CONTENT_TYPE_LATEST),
}
_ESCAPINGS = (openmetrics.ALLOWUTF8, openmetrics.DOTS, openmetrics.VALUES, openmetrics.UNDERSCORES)


def chosen(accept: str) -> tuple[Encoder, str]:
    """Return the encoder for an Accept header, and its content type."""
    for accepted in accept.split(","):
        media_type, *rest = (part.strip() for part in accepted.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        version = parameters.get("version")
        found = _FORMATS.get((media_type, version))
        if found:
            encode, content_type = found
            escaping = next((one for one in _ESCAPINGS if one == parameters.get("escaping")), openmetrics.UNDERSCORES)
            parameter = "" if version is None else f"; escaping={escaping}"
            return partial(encode, escaping=escaping), content_type + parameter
    return exposition.generate_latest, exposition.CONTENT_TYPE_PLAIN_0_0_4


def accepts_gzip(accept_encoding: str) -> bool:
    """Return whether an Accept-Encoding header names gzip with a weight above 0 (RFC 9110, 12.4.2)."""
    for accepted in accept_encoding.lower().split(","):
        coding, _, weight = accepted.replace(" ", "").partition(";q=")
        if coding == "gzip":
            return not weight or (weight[0] in "01" and weight.strip("0.") != "")
    return False
