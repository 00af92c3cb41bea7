"""/status.json contains the fields of the contract, with readable times."""

from __future__ import annotations

import json

from relay.ops.status import MANY_QUEUES, MAX_UPSTREAMS, SNAPSHOT_MS
from relay.outbox import Gauges, Ledger
from relay.policy.endpoint import SeenError
from relay.policy.overview import EndpointView, QueueView

from tests.support.ops_harness import Served, dead_letter

WALL_2026 = 1_795_420_800_000
"""2026-11-23T08:00:00Z."""


async def test_the_status_has_every_field_of_the_contract(served: Served) -> None:
    served.clock.wall = WALL_2026
    served.outbox.totals = Ledger(accepted=9, requeued=1, delivered=5, dead_lettered=2, dropped=1, pending=2)
    served.outbox.state = Gauges(
        8192, 1 << 20, 2_500, writable=True, dead_letters=0, problem="", devices=3, max_devices=50_000
    )
    served.outbox.letters = {1: dead_letter(1)}
    served.schedule.shown_endpoints = [
        EndpointView(2, "unauthorized", 4_000, 35_000, SeenError("401 Unauthorized", 4_500), 3_000, 7, 20)
    ]

    status = (await served.call("/status.json")).json()

    assert status["version"]
    assert status["started_at"] == "2026-11-23T08:00:00.000Z"
    assert status["ledger"] == {
        "accepted": 9,
        "requeued": 1,
        "delivered": 5,
        "dead_lettered": 2,
        "dropped": 1,
        "pending": 2,
    }
    assert status["outbox"] == {
        "bytes": 8192,
        "max_bytes": 1 << 20,
        "disk_free_bytes": 1 << 30,
        "oldest_age_seconds": 2.5,
        "oldest_dropped_in_seconds": 604_797.5,
        "full_in_seconds": None,
        "writable": True,
        "durability": "full",
        "owed_requests": 0,
        "problem": "",
        "quarantined_events": 0,
        "devices": 3,
        "max_devices": 50_000,
    }
    assert status["replicas"] == []
    assert status["rejected"] == {}
    assert status["host"] == "box-17"
    assert status["listen"] == {"http": ["127.0.0.1:8080"], "udp": ["127.0.0.1:8125"], "from_systemd": ["udp"]}
    assert status["limits"] == {"window_seconds": 60, "device_per_window": 120}
    assert status["upstreams"] == [
        {
            "tenant": 2,
            "url": "https://up.example/",
            "state": "unauthorized",
            "message": "The upstream rejects the key. The relay stores all events.",
            "advice": "Write the right value to /etc/event-relay/key. The relay applies it within 5 seconds.",
            "since": "2026-11-23T07:59:59.000Z",
            "next_attempt_at": "2026-11-23T08:00:30.000Z",
            "last_delivered_at": "2026-11-23T07:59:58.000Z",
            "last_error": "401 Unauthorized",
            "last_error_at": "2026-11-23T07:59:59.500Z",
            "requests_in_window": 7,
            "shared_limit": 20,
        }
    ]
    assert status["now"] == "2026-11-23T08:00:00.000Z"
    assert status["rates"] == {"accepted_per_second": None, "delivered_per_second": None, "interval_seconds": 0}
    assert status["dead_letters"]["count"] == 1
    assert status["clock_skew_seconds"] == 1.5
    assert status["devices"] == []


async def test_a_clock_set_after_the_start_corrects_all_dates(served: Served) -> None:
    served.clock.monotonic += 60_000
    served.clock.wall = WALL_2026

    status = served.status.data()

    assert status["started_at"] == "2026-11-23T07:59:00.000Z"
    assert status["uptime_seconds"] == 60


class TestUpstreams:
    """The status lists each upstream once, also before its first event."""

    def tenants(self, served: Served) -> list[object]:
        return [upstream["tenant"] for upstream in served.status.data()["upstreams"]]

    async def test_the_default_and_every_configured_tenant_are_listed_from_the_start(self, served: Served) -> None:
        served.tenants = [2, 7]

        upstreams = served.status.data()["upstreams"]

        assert [(one["tenant"], one["state"], one["last_error"]) for one in upstreams] == [
            (None, "untested", ""),
            (2, "untested", ""),
            (7, "untested", ""),
        ]

    async def test_the_default_is_listed_as_the_tenants_that_use_it(self, served: Served) -> None:
        served.tenants = [2]
        served.schedule.shown_endpoints = [EndpointView(1, "ok", 0, None, None, None)]

        assert self.tenants(served) == [1, 2]

    async def test_configured_and_failing_upstreams_are_listed_first(self, served: Served) -> None:
        served.tenants = [99]
        served.schedule.shown_endpoints = [
            EndpointView(number, "backing_off" if number > 90 else "ok", 0, None, None, None) for number in range(100)
        ]

        status = served.status.data()

        shown = [upstream["tenant"] for upstream in status["upstreams"]]
        assert shown[:10] == [99, *range(91, 99), 0]
        assert (len(shown), status["upstreams_left_out"]) == (50, 50)

    async def test_a_tenant_with_its_own_endpoint_does_not_use_the_default(self, served: Served) -> None:
        served.tenants = [2]
        served.schedule.shown_endpoints = [EndpointView(2, "ok", 0, None, None, None)]

        assert self.tenants(served) == [2, None]

    async def test_an_idle_upstream_is_listed_with_its_last_delivery(self, served: Served) -> None:
        served.schedule.freed = {None: EndpointView(1, "ok", 0, None, None, 4_000)}

        status = served.status.data()

        (upstream,) = status["upstreams"]
        assert (upstream["tenant"], upstream["state"]) == (None, "ok")
        assert upstream["last_delivered_at"] is not None
        assert status["summary"]["level"] == "ok"

    async def test_a_scrape_counts_unused_upstreams(self, served: Served) -> None:
        served.tenants = [2]

        served.status.export(served.metrics)

        assert served.metrics.registry.get_sample_value("relay_upstream_state", {"state": "untested"}) == 2


class TestSnapshots:
    """Reading every device queue delays events, and any client may request the status."""

    def request_often(self, served: Served) -> None:
        for _ in range(5):
            served.status.data()
            served.status.export(served.metrics)

    async def test_many_queues_are_read_at_most_once_per_second(self, served: Served) -> None:
        served.schedule.idle_queues = MANY_QUEUES + 1

        self.request_often(served)
        reads = served.schedule.reads
        served.clock.monotonic += SNAPSHOT_MS
        self.request_often(served)

        assert (reads, served.schedule.reads) == (1, 2)

    async def test_few_queues_are_read_for_each_request(self, served: Served) -> None:
        served.schedule.idle_queues = MANY_QUEUES - 1
        served.status.data()
        served.schedule.busy = [QueueView((1, "tv", "a"), 7, None, "")]

        assert served.status.data()["devices_waiting"] == 1

    async def test_the_totals_are_current_while_a_snapshot_is_reused(self, served: Served) -> None:
        served.schedule.idle_queues = MANY_QUEUES + 1
        served.status.data()
        served.outbox.totals = Ledger(accepted=1, pending=1)

        assert served.status.data()["ledger"]["pending"] == 1

    async def test_only_as_many_endpoints_are_read_as_are_listed(self, served: Served) -> None:
        invented = [EndpointView(number, "ok", 0, None, None, None) for number in range(500)]
        served.schedule.shown_endpoints = invented

        status = served.status.data()

        assert served.schedule.viewed <= 2 * MAX_UPSTREAMS
        assert (len(status["upstreams"]), status["upstreams_left_out"]) == (MAX_UPSTREAMS, 450)


async def test_at_most_twenty_devices_are_listed_each_once(served: Served) -> None:
    served.schedule.busy = [QueueView((1, "tv", f"busy-{n}"), 100 - n, None, "", requests=120) for n in range(50)]
    both = QueueView((1, "tv", "busy-0"), 100, 65_000, "limit", requests=120)
    served.schedule.paused = [both, *(QueueView((1, "tv", f"held-{n}"), 1, 6_000, "limit") for n in range(50))]

    devices = served.status.data()["devices"]

    names = [device["device_id"] for device in devices]
    assert names == [f"busy-{n}" for n in range(10)] + [f"held-{n}" for n in range(9)]
    assert devices[0] == {
        "tenant": 1,
        "platform": "tv",
        "device_id": "busy-0",
        "pending": 100,
        "requests_in_window": 120,
        "paused_until": "1970-01-01T00:01:00.000Z",
        "why": "limit",
        "message": "has used all requests of the rate window",
    }


async def test_rejected_events_are_counted_by_reason_for_both_transports(served: Served) -> None:
    served.metrics.events_rejected.labels("http", "invalid").inc(2)
    served.metrics.events_rejected.labels("udp", "invalid").inc()
    served.metrics.udp_datagrams_dropped.labels("kernel").inc(7)

    assert served.status.data()["rejected"] == {"invalid": 3, "kernel": 7}


async def test_a_ready_device_waits_for_its_paused_upstream(served: Served) -> None:
    paused = QueueView((1, "tv", "a"), 5, None, "", is_endpoint_paused=True)
    served.schedule.busy = [paused, QueueView((2, "tv", "b"), 4, None, "")]

    assert [device["message"] for device in served.status.data()["devices"]] == ["waits for its upstream", ""]


async def test_the_summary_gives_the_advice_for_the_endpoint_with_pending_events(served: Served) -> None:
    served.tenants = [2]
    served.schedule.shown_endpoints = [
        EndpointView(1, "ok", 0, None, None, None),
        EndpointView(2, "misconfigured", 0, None, None, 0),
    ]

    assert served.status.data()["summary"]["level"] == "ok"

    served.schedule.busy = [QueueView((2, "tv", "a"), 5, None, "")]
    summary = served.status.data()["summary"]

    assert summary["level"] == "trouble"
    assert summary["advice"].endswith(
        "correct upstream.tenants.2.url in /etc/relay/config.toml and reload (systemctl reload event-relay, or SIGHUP)."
    )


async def test_the_summary_names_losses_of_the_last_hour(served: Served) -> None:
    served.last_hour = {("dead_lettered", "poison"): 2}

    assert served.status.data()["summary"]["message"].startswith("2 events became dead letters within the last hour")


async def test_no_event_body_is_shown(served: Served) -> None:
    served.outbox.letters = {1: dead_letter(1, body=b'{"context":{"canary":"c4n4ry"}}')}

    assert "c4n4ry" not in json.dumps(served.status.data())


async def test_a_scrape_returns_the_values_of_the_status(served: Served) -> None:
    served.outbox.totals = Ledger(accepted=7, pending=7)
    served.outbox.state = Gauges(
        8192, 1 << 20, 2_500, writable=False, dead_letters=0, problem="disk full", devices=3, max_devices=50_000
    )
    served.outbox.letters = {1: dead_letter(1)}
    served.schedule.shown_endpoints = [
        EndpointView(1, "ok", 0, None, None, None),
        EndpointView(2, "ok", 0, None, None, None),
        EndpointView(3, "backing_off", 0, None, None, None),
    ]
    served.schedule.busy = [QueueView((1, "tv", "a"), 7, None, "")]

    served.status.export(served.metrics)
    served.schedule.shown_endpoints.pop()
    served.status.export(served.metrics)

    def value(name: str, **labels: str) -> float | None:
        return served.metrics.registry.get_sample_value(f"relay_{name}", labels)

    assert value("outbox_events") == 7
    assert value("outbox_bytes") == 8192
    assert value("outbox_max_bytes") == 1 << 20
    assert value("outbox_oldest_event_age_seconds") == 2.5
    assert value("outbox_writable") == 0
    assert value("dead_letters") == 1
    assert value("devices_waiting") == 1
    assert value("devices_held") == 0
    assert value("clock_skew_seconds") == 1.5
    assert value("upstream_state", state="ok") == 2
    assert value("upstream_state", state="backing_off") == 0


def test_the_clock_skew_is_null_and_its_metric_absent_while_it_is_unknown(served: Served) -> None:
    def skew() -> float | None:
        served.status.export(served.metrics)
        return served.metrics.registry.get_sample_value("relay_clock_skew_seconds")

    served.clock_skew_ms = None
    assert served.status.data()["clock_skew_seconds"] is None
    assert skew() is None
    served.clock_skew_ms = 0
    assert served.status.data()["clock_skew_seconds"] == 0
    assert skew() == 0
    served.clock_skew_ms = None
    assert skew() is None
