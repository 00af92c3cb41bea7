"""The relay beside each installed peer: same load, same upstream, one after the other in each round."""

from __future__ import annotations

import statistics
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from http.client import HTTPConnection
from pathlib import Path
from typing import NamedTuple

from bench import events
from bench.client import Order
from bench.load import send as send_requests
from bench.peers import PEERS
from bench.peers.durability import Watch, skip_reason
from bench.peers.peer import Peer, Place, Transport
from bench.process import PATIENCE_S, Child
from bench.report import Row, Target, at_least, at_most, number
from bench.scenarios.udp import send as send_datagrams
from bench.setup import KEY, NO_LIMITS, Bench, Upstream, free_port

EVENT_BYTES = 426
_DEVICES = 1000
_RELAY = "relay"
_POLL_S = 0.05
_FLUSH_S = 0.3
"""Time without a delivery after which the relay is flushed."""
_LOST_S = 4.0
"""Time without a delivery after which the missing events count as lost. The peers flush each second."""
_ASKED = 3


class Load(NamedTuple):
    name: str
    transport: Transport
    size: int
    """Connections, or datagrams per second."""


LOADS = (
    Load("HTTP, 64 connections", "http", 64),
    Load("HTTP, 256 connections", "http", 256),
    Load("UDP, 20,000/s", "udp", 20_000),
    Load("UDP, 40,000/s", "udp", 40_000),
    Load("UDP, 80,000/s", "udp", 80_000),
)


class Run(NamedTuple):
    per_s: float
    """Accepted requests or sent datagrams."""
    p99_ms: float
    cpu_us: float
    """Processor time of all threads per delivered event, its forwarding included. A ceiling's is per request."""
    delivered: float
    """Share of the accepted events."""
    written_bytes: float
    peak_mb: float


@dataclass(frozen=True, slots=True)
class _Running:
    process: Child
    http: str
    udp: str
    flush: Callable[[], object]


def peers(bench: Bench) -> Iterator[Row]:
    here = [peer for peer in PEERS if peer.program]
    for peer in PEERS:
        if peer not in here:
            yield Row(peer.name, None, "", note=f"{peer.command} is not installed")
    titles = {_RELAY: _RELAY} | {peer.name: peer.title() for peer in here}
    durable = {name: _durability(bench, peer) for name, peer in _programs(here, "http")}
    measured = measure(bench, here, LOADS, bench.size(8, 20))
    print(table(measured, titles, durable))
    yield from _targets(measured)


def measure(
    bench: Bench, here: Sequence[Peer], loads: Sequence[Load], seconds: float
) -> dict[Load, dict[str, list[Run]]]:
    """Return the runs of each program by load. In each round each program has its turn, in alternating order."""
    measured: dict[Load, dict[str, list[Run]]] = {load: {} for load in loads}
    for round_ in range(bench.pairs):
        if round_ and time.monotonic() > bench.over_at:
            bench.cut_short = True
            break
        for load in loads:
            programs = list(_programs(here, load.transport))
            for name, peer in programs if round_ % 2 else reversed(programs):
                measured[load].setdefault(name, []).append(run(bench, peer, load, seconds))
    return measured


def _programs(here: Sequence[Peer], transport: Transport) -> Iterator[tuple[str, Peer | None]]:
    yield _RELAY, None
    yield from ((peer.name, peer) for peer in here if transport in peer.transports)


def run(bench: Bench, peer: Peer | None, load: Load, seconds: float) -> Run:
    """Run one program, the relay without `peer`, under one load until it has delivered or lost all events."""
    with bench.upstream(validate=False, max_body_bytes=0) as upstream, _started(bench, peer, upstream) as running:
        process, p99_ms = running.process, 0.0
        cpu_s, written = process.cpu_s(), process.written_bytes()
        if load.transport == "http":
            order = Order(
                address=running.http,
                run=events.new_run(),
                seconds=seconds,
                connections=load.size,
                devices=_DEVICES,
                event_bytes=EVENT_BYTES,
            )
            result = send_requests(order, bench.directory)
            count, per_s, p99_ms = result.requests, result.per_s, result.p99_ms
        else:
            sent = send_datagrams(bench, running.udp, load.size, seconds, EVENT_BYTES)
            count, per_s = int(sent["sent"]), sent["sent"] / sent["seconds"]
        delivers = peer is None or peer.delivers
        delivered = _delivered(upstream, count, running.flush) if delivers else 0
        served = max(1, delivered if delivers else count)
        return Run(
            per_s,
            p99_ms,
            (process.cpu_s() - cpu_s) / served * 1e6,
            min(1.0, delivered / count),
            (process.written_bytes() - written) / served,
            process.peak_bytes() / 1e6,
        )


def _delivered(upstream: Upstream, count: int, flush: Callable[[], object]) -> int:
    """Wait until the upstream has `count` events, or until none is received for some time. Return their number."""
    delivered, began = 0, time.monotonic()
    last_at = flushed_at = began
    while delivered < count and (now := time.monotonic()) - last_at < _LOST_S and now - began < PATIENCE_S:
        if (arrived := int(upstream.request("report")["events"])) > delivered:
            delivered, last_at = arrived, now
        elif now - max(last_at, flushed_at) > _FLUSH_S:
            flush()
            flushed_at = now
        time.sleep(_POLL_S)
    return delivered


@contextmanager
def _started(bench: Bench, peer: Peer | None, upstream: Upstream) -> Iterator[_Running]:
    with ExitStack() as stack:
        if peer is None:
            relay = stack.enter_context(bench.relay(upstream__url=upstream.url, **NO_LIMITS))
            yield _Running(relay, relay.address, relay.udp, lambda: relay.request("POST", "/flush"))
            return
        host, _, rest = upstream.url.removeprefix("http://").partition(":")
        port, _, path = rest.partition("/")
        place = Place(
            directory=bench.new_directory(),
            http_port=free_port(),
            udp_port=free_port(),
            upstream_host=host,
            upstream_port=int(port),
            upstream_path=f"/{path}",
            key=KEY,
        )
        process = stack.enter_context(Child(peer.configure(place), place.directory / "peer.log"))
        for transport in peer.transports:
            _until_listening(process, transport, getattr(place, f"{transport}_port"), place.directory / "peer.log")
        yield _Running(process, f"127.0.0.1:{place.http_port}", f"127.0.0.1:{place.udp_port}", lambda: None)


def _until_listening(process: Child, transport: Transport, port: int, log: Path) -> None:
    sockets = Path("/proc/net/udp" if transport == "udp" else "/proc/net/tcp")
    deadline = time.monotonic() + PATIENCE_S
    while f"0100007F:{port:04X} 00000000:0000" not in sockets.read_text():
        if process.ended() or time.monotonic() > deadline:
            raise RuntimeError(f"the peer does not listen:\n{log.read_text()[-2000:]}")
        time.sleep(_POLL_S)


def _durability(bench: Bench, peer: Peer | None) -> str:
    """Return how many of a few single requests were answered after a sync, or why this was not measured."""
    if reason := skip_reason():
        return reason
    with bench.upstream(validate=False) as upstream, _started(bench, peer, upstream) as running:
        made = events.templates(events.new_run(), 1, EVENT_BYTES)
        with Watch(running.process.pid, bench.new_directory()) as watch:
            for number_ in range(_ASKED):
                connection = HTTPConnection(running.http, timeout=PATIENCE_S)
                connection.request(
                    "POST", "/v1/events", events.event(made[0], number_), {"Content-Type": "application/json"}
                )
                connection.getresponse().read()
                connection.close()
        return watch.synced()


def _median(runs: Sequence[Run], name: str) -> float:
    return statistics.median(getattr(run, name) for run in runs)


def table(measured: dict[Load, dict[str, list[Run]]], titles: dict[str, str], durable: dict[str, str]) -> str:
    """Return the medians as Markdown. "/ relay" is the median of the ratios of the rounds."""
    lines = [
        "| load | program | per s | / relay | p99 | delivered | CPU per event | written per event | peak memory"
        " | synced before the answer |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    for load, programs in measured.items():
        for name, runs in programs.items():
            ratio = statistics.median(
                peer.per_s / ours.per_s for peer, ours in zip(runs, programs[_RELAY], strict=True)
            )
            http = load.transport == "http"
            cells = (
                load.name,
                titles[name],
                number(_median(runs, "per_s")),
                f"{number(ratio)} x" if http else "",
                f"{number(_median(runs, 'p99_ms'))} ms" if http else "",
                f"{_median(runs, 'delivered'):.1%}",
                f"{number(_median(runs, 'cpu_us'))} µs",
                f"{number(_median(runs, 'written_bytes'))} B",
                f"{number(_median(runs, 'peak_mb'))} MB",
                durable[name] if http else "no answer",
            )
            lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines)


def _targets(measured: dict[Load, dict[str, list[Run]]]) -> Iterator[Row]:
    """Yield the relay's figures that have a target."""
    h64, _, u20, u40, u80 = LOADS
    ours = {load: programs[_RELAY] for load, programs in measured.items()}
    if fluent_bit := measured[h64].get("Fluent Bit"):
        ratios = [mine.per_s / peer.per_s for mine, peer in zip(ours[h64], fluent_bit, strict=True)]
        yield _row(f"{h64.name}: accepts / Fluent Bit's", ratios, "x", at_least(1.1))
    yield _row(f"{h64.name}: CPU per event", [each.cpu_us for each in ours[h64]], "µs", at_most(30))
    yield _row(f"{u20.name}: CPU per event", [each.cpu_us for each in ours[u20]], "µs", at_most(20))
    yield _row(f"{u40.name}: delivered", [each.delivered * 100 for each in ours[u40]], "%", at_least(100))
    yield _row(f"{u80.name}: delivered", [each.delivered * 100 for each in ours[u80]], "%", at_least(95))


def _row(what: str, figures: Sequence[float], unit: str, target: Target) -> Row:
    return Row(what, statistics.median(figures), unit, target, (min(figures), max(figures)))
