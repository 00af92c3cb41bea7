"""In which format a scraper gets the metrics: chosen by its Accept header, from those known here.

Rules: the first that is known is taken, whatever its `q`, as Prometheus names its best first; anything
else, or nothing, gets the plain text format. Nothing a client sends is told back, nor given to
prometheus_client, whose own choice fails on a version that is no number.
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
    """What writes the metrics for whoever accepts this, and the content type of that."""
    for accepted in accept.split(","):
        media_type, *rest = (part.strip() for part in accepted.split(";"))
        parameters = dict(part.partition("=")[::2] for part in rest)
        version = parameters.get("version")
        found = _FORMATS.get((media_type, version))
        if found:
            encode, content_type = found
            escaping = next((one for one in _ESCAPINGS if one == parameters.get("escaping")), openmetrics.UNDERSCORES)
            said = "" if version is None else f"; escaping={escaping}"
            return partial(encode, escaping=escaping), content_type + said
    return exposition.generate_latest, exposition.CONTENT_TYPE_PLAIN_0_0_4
