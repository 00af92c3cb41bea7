"""Who may talk to the relay."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st
from relay.http.guard import Admitted, Forbidden, HostGuard, Networks

EVENTS = "/v1/events"
BOX = "http://box.example"


def admits_host(host: str, *allowed: str) -> bool:
    return isinstance(HostGuard(allowed).check(EVENTS, host, None, None), Admitted)


@pytest.mark.parametrize(
    "host",
    [
        "localhost", "LOCALHOST:8080", "localhost.", "localhost.:8080", "127.0.0.1", "127.0.0.1:1", "127.9.8.7:8080",
        "kiosk.localhost", "kiosk.localhost:8080", "a.b.LOCALHOST.", "[::1]", "[::1]:8080", "[0:0:0:0:0:0:0:1]:8080",
    ],
)  # fmt: skip
def test_loopback_names_are_served_on_any_port(host: str) -> None:
    assert admits_host(host)


@pytest.mark.parametrize(
    "host",
    [
        "", "evil.example", "evil.example:8080", "0.0.0.0", "0.0.0.0:8080", "[::]", "[::]:8080", "0", "127.1",
        "2130706433", "127.0.0.1.evil.example", "localhost.evil.example", "evillocalhost", "evil.example@localhost",
        "localhost@evil.example", "localhost:80:80", "localhost:x", "127.0.0.01", "localhost..", "::1",
        "localhost evil", "localhost,evil.example", "localhost/", "10.0.0.1", "[::1", "localhost\x00", "１２７.0.0.1",
    ],
)  # fmt: skip
def test_any_other_host_is_rejected(host: str) -> None:
    assert not admits_host(host)


def test_a_host_the_operator_allowed_is_served_on_any_port() -> None:
    assert admits_host("Box.Local:9", "box.local:8080")
    assert not admits_host("other.local", "box.local")


def test_without_host_a_request_is_served() -> None:
    assert HostGuard().check(EVENTS, None, None, None) == Admitted()


def test_the_authority_of_an_absolute_target_is_checked_like_a_host() -> None:
    guard = HostGuard()
    assert guard.check(EVENTS, "localhost", None, None, "localhost:8080") == Admitted()
    assert isinstance(guard.check(EVENTS, "localhost", None, None, "evil.example"), Forbidden)
    assert isinstance(guard.check(EVENTS, "localhost", None, None, "evil@localhost"), Forbidden)


def test_a_full_cache_does_not_change_decisions() -> None:
    guard = HostGuard()
    for number in range(5_000):
        assert isinstance(guard.check(EVENTS, f"h{number}.example", None, None), Forbidden)
        assert guard.check(EVENTS, "localhost", None, None) == Admitted()


@pytest.mark.parametrize("origin", [BOX, "HTTP://BOX.example"])
def test_an_allowed_origin_is_named_in_the_response(origin: str) -> None:
    assert HostGuard(allowed_origins=[BOX]).check(EVENTS, "localhost", origin, "cross-site") == Admitted(BOX)


@pytest.mark.parametrize("path", ["/", "/status.json", "/dead-letters/requeue", "/metrics", "/v2/events"])
def test_an_allowed_origin_may_post_but_not_operate(path: str) -> None:
    assert isinstance(HostGuard(allowed_origins=[BOX]).check(path, "localhost", BOX, None), Forbidden)


@pytest.mark.parametrize(
    "origin",
    [
        "null",
        "",
        "http://evil.example",
        "https://box.example",
        "http://box.example:81",
        "http://box.example.evil",
        "file://",
    ],
)
def test_any_other_origin_is_rejected(origin: str) -> None:
    assert isinstance(
        HostGuard(allowed_origins=[BOX]).check(EVENTS, "localhost:8080", origin, "same-origin"), Forbidden
    )


def test_the_relays_own_pages_are_admitted() -> None:
    guard = HostGuard()
    assert guard.check("/flush", "127.0.0.1:8080", "http://127.0.0.1:8080", "same-origin") == Admitted()
    assert isinstance(guard.check("/flush", "127.0.0.1:8080", "http://127.0.0.1:3000", "same-site"), Forbidden)
    assert isinstance(guard.check("/flush", "127.0.0.1:8080", "https://127.0.0.1:8080", "same-site"), Forbidden)


@pytest.mark.parametrize("host", ["box.example", "Box.example:8443"])
@pytest.mark.parametrize("fetch_site", [None, "same-origin", "Same-Origin"])
def test_the_relays_own_pages_are_admitted_through_a_tls_proxy(host: str, fetch_site: str | None) -> None:
    assert HostGuard(["box.example"]).check("/flush", host, f"https://{host.lower()}", fetch_site) == Admitted()


@pytest.mark.parametrize(
    "origin",
    [
        "https://box.example:444", "https://box.example.evil", "https://evil.example", "https://box.example@evil.example",
        "https://evil.box.example", "https://box.example/", "wss://box.example", "https://", "https:box.example",
    ],
)  # fmt: skip
def test_behind_a_tls_proxy_any_other_origin_is_rejected(origin: str) -> None:
    assert isinstance(HostGuard(["box.example"]).check("/flush", "box.example", origin, "same-origin"), Forbidden)


@pytest.mark.parametrize("scheme", ["http", "https"])
@pytest.mark.parametrize("fetch_site", ["cross-site", "same-site", "none", ""])
def test_a_page_of_another_scheme_is_rejected_by_sec_fetch_site(scheme: str, fetch_site: str) -> None:
    decision = HostGuard(["box.example"]).check("/flush", "box.example", f"{scheme}://box.example", fetch_site)
    assert isinstance(decision, Forbidden)


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_a_rebound_name_is_not_the_relays_origin(scheme: str) -> None:
    decision = HostGuard().check("/flush", "evil.example:8080", f"{scheme}://evil.example:8080", "same-origin")
    assert isinstance(decision, Forbidden)


@pytest.mark.parametrize(
    ("site", "served"), [("cross-site", False), ("Cross-Site", False), ("none", True), ("same-origin", True)]
)
def test_without_origin_only_cross_site_requests_are_rejected(site: str, served: bool) -> None:
    assert isinstance(HostGuard().check("/", "localhost", None, site), Admitted) is served


@given(st.text(), st.none() | st.text(), st.none() | st.text())
def test_no_header_makes_the_guard_raise(host: str, origin: str | None, site: str | None) -> None:
    decision = HostGuard([host], [origin or ""]).check(EVENTS, host, origin, site)
    assert isinstance(decision, Admitted | Forbidden)


@pytest.mark.parametrize("peer", ["127.0.0.1", "127.200.0.1", "::1", "::ffff:127.0.0.1"])
def test_loopback_senders_are_always_allowed(peer: str) -> None:
    assert Networks([]).allows(peer)


def test_senders_of_other_networks_need_permission() -> None:
    networks = Networks(["192.168.1.0/24", "fd00::/8"])
    heard = ["192.168.1.9", "::ffff:192.168.1.9", "fd00::1", "fd00::1%eth0"]
    unheard = ["192.168.2.9", "10.0.0.1", "fe80::1%eth0", "::ffff:10.0.0.1", "", "x"]
    assert [peer for peer in heard + unheard if networks.allows(peer)] == heard


def test_an_invalid_network_is_an_error() -> None:
    with pytest.raises(ValueError, match="nonsense"):
        Networks(["nonsense"])


def test_an_error_names_the_received_host_or_origin_and_the_key() -> None:
    guard = HostGuard()
    assert guard.check(EVENTS, "evil.example", None, None) == Forbidden(
        'Host is not allowed, but is "evil.example": use 127.0.0.1, or add the name to http.allowed_hosts'
    )
    target = guard.check(EVENTS, "localhost", None, None, "other.example")
    assert isinstance(target, Forbidden)
    assert 'but is "other.example":' in target.error
    assert guard.check(EVENTS, "localhost", "https://kiosk.example", None) == Forbidden(
        'Origin is not allowed, but is "https://kiosk.example": add it to http.allowed_origins'
    )
