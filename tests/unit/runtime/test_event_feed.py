"""Followers receive what happens to events. Without one, nothing is prepared."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pytest
from relay.runtime.event_feed import EventChange, EventFeed, described

ID = "550e8400-e29b-41d4-a716-446655440000"
BODY = (
    b'{"event_id":"%s","event_type":"post.view","tenant_id":2.0,"source":{"platform":"tv","device_id":" box "}}'
    % ID.upper().encode()
)


def unread() -> Iterator[bytes]:
    pytest.fail("a body was prepared although there is no follower")
    yield b""


def test_without_a_follower_nothing_is_prepared() -> None:
    feed = EventFeed()
    feed.changed("stored", unread())
    feed.dropped("age", ((body, (1, "tv", "box")) for body in unread()), unread())
    assert not feed.is_followed


def test_each_follower_receives_each_change_until_it_leaves() -> None:
    feed = EventFeed()
    first: list[EventChange] = []
    second: list[EventChange] = []
    feed.follow(first.append)
    feed.follow(second.append)
    feed.changed("delivered", [BODY])
    feed.unfollow(second.append)
    packed_id = bytes.fromhex(ID.replace("-", ""))
    feed.dropped("size", [(b"", (1, "tv", "box")), (packed_id, None), (packed_id, (1, "tv", "box"))], [BODY] * 2)
    delivered = EventChange("delivered", ID, "post.view", 2, "tv", "box")
    assert first == [
        delivered,
        EventChange("dropped", ID, "post.view", 1, "tv", "box", "size"),
        EventChange("dropped", ID, "post.view", 2, "tv", "box", "size"),
        EventChange("dropped", ID, "", 1, "tv", "box", "size"),
    ]
    assert second == [delivered]


def test_the_rest_is_not_prepared_after_the_last_follower_left() -> None:
    feed = EventFeed()

    def leave(_: EventChange) -> None:
        feed.unfollow(leave)

    feed.follow(leave)
    feed.changed("stored", itertools.chain([BODY], unread()))
    assert not feed.is_followed


@pytest.mark.parametrize(
    "body",
    [b"", b"{", b"[]", b"\xff", b"[" * 100_000, b'{"event_id":1,"source":[],"tenant_id":null}', b'{"tenant_id":1.5}'],
)
def test_unknown_fields_of_a_rejected_body_are_empty(body: bytes) -> None:
    assert described("rejected", body, "malformed", "why") == EventChange("rejected", reason="malformed", message="why")


@pytest.mark.parametrize("tenant", ["1e400", "true", '"1"'])
def test_a_tenant_that_is_no_integer_is_unknown(tenant: str) -> None:
    body = b'{"event_type":"a","tenant_id":%s}' % tenant.encode()
    assert described("rejected", body).tenant is None
