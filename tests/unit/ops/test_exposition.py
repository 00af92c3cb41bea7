"""Every Accept header selects a known format, and the response repeats no part of the header."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from prometheus_client.exposition import choose_encoder
from relay.ops.exposition import accepts_gzip, chosen
from relay.runtime.metrics import Metrics

OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
TEXT = "text/plain; version=1.0.0; charset=utf-8"
PLAIN_TEXT = "text/plain; version=0.0.4; charset=utf-8"
ESCAPINGS = ("allow-utf-8", "underscores", "dots", "values")
KNOWN = {OPENMETRICS, PLAIN_TEXT, *(f"{known}; escaping={how}" for known in (OPENMETRICS, TEXT) for how in ESCAPINGS)}

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0;q=0.5,application/openmetrics-text;version=0.0.1;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.6,"
    "application/openmetrics-text;version=0.0.1;q=0.5,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.4,"
    "text/plain;version=0.0.4;q=0.3,*/*;q=0.2"
)


@pytest.mark.parametrize(
    ("accept", "content_type"),
    [
        (PROMETHEUS_2, f"{OPENMETRICS}; escaping=underscores"),
        (PROMETHEUS_3, f"{OPENMETRICS}; escaping=allow-utf-8"),
        ("application/openmetrics-text", OPENMETRICS),
        ("text/plain;version=1.0.0;escaping=dots", f"{TEXT}; escaping=dots"),
        ("text/plain;version=0.0.4", PLAIN_TEXT),
        ("*/*", PLAIN_TEXT),
        ("", PLAIN_TEXT),
    ],
)
def test_the_format_equals_the_choice_of_prometheus_client(accept: str, content_type: str) -> None:
    # Without the metrics of the process, which change between two scrapes.
    registry = Metrics().registry.restricted_registry(["relay_events_received_total", "relay_upstream_batch_events"])
    encode, chosen_type = chosen(accept)
    expected_encode, expected = choose_encoder(accept)

    assert chosen_type == expected == content_type
    assert encode(registry) == expected_encode(registry)


@pytest.mark.parametrize("accept", [PROMETHEUS_2, PROMETHEUS_3, "text/plain;version=1.0.0", "*/*"])
def test_no_format_has_created_series(accept: str) -> None:
    encode, _ = chosen(accept)

    text = encode(Metrics().registry).decode()

    assert "relay_events_received_total" in text
    assert "_created" not in text


@pytest.mark.parametrize(
    ("accept_encoding", "accepted"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("br, gzip ; q=1", True),
        ("gzip;q=0", False),
        ("gzip; q=0.000", False),
        ("gzip;q=none", False),
        ("identity, deflate", False),
        ("*", False),
        ("", False),
    ],
)
def test_gzip_is_used_only_where_the_client_names_it(accept_encoding: str, accepted: bool) -> None:
    """RFC 9110, 12.5.3: a weight of 0 means "not acceptable"."""
    assert accepts_gzip(accept_encoding) == accepted


@given(
    st.text()
    | st.lists(
        st.tuples(
            st.sampled_from(["application/openmetrics-text", "text/plain", "*/*"]),
            st.sampled_from(["version", "escaping", "q", "charset"]),
            st.text() | st.sampled_from(["1.0.0", *ESCAPINGS]),
        )
    ).map(lambda each: ",".join(f"{media_type};{key}={value}" for media_type, key, value in each))
)
@example("text/plain; version=abc")
@example("application/openmetrics-text; version=abc")
@example("application/openmetrics-text; version=9999999999.\t0")
@example("application/openmetrics-text; version=" + "9" * 5_000)
@example("application/openmetrics-text; version=1.0.0; escaping=\r\nX: 1")
@example("application/openmetrics-text; version; =;;,")
def test_no_header_causes_a_failure_or_appears_in_the_response(accept: str) -> None:
    _, content_type = chosen(accept)

    assert content_type in KNOWN
