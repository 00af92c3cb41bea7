"""The peers of the benchmark: their configuration is valid where they are installed, and the table is complete."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from bench.peers import PEERS
from bench.peers.durability import synced_answers
from bench.peers.peer import Peer, Place
from bench.scenarios.peers import LOADS, Run, table


def place(directory: Path) -> Place:
    return Place(
        directory=directory,
        http_port=18080,
        udp_port=18125,
        upstream_host="127.0.0.1",
        upstream_port=9,
        upstream_path="/v1/events",
        key="bench-key",
    )


@pytest.mark.parametrize("peer", PEERS, ids=lambda peer: peer.name)
def test_a_peer_accepts_its_configuration(peer: Peer, tmp_path: Path) -> None:
    if peer.program is None:
        pytest.skip(f"{peer.command} is not installed")
    command = peer.configure(place(tmp_path))
    checked = subprocess.run(
        peer.check_command(place(tmp_path)), capture_output=True, text=True, timeout=60, check=False
    )

    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert command[0] == peer.program
    assert peer.title() != peer.name, "the version is missing"
    assert any("18125" in text or "18080" in text for text in map(Path.read_text, tmp_path.glob("*.conf")))


def test_only_a_sync_between_a_request_and_its_answer_counts() -> None:
    calls = """\
1 fsync(5) = 0
1 read(9, "POST /v1/events HTTP/1.1\\r\\nHost: 127."..., 65536) = 500
2 fdatasync(7 <unfinished ...>
1 read(9,  <unfinished ...>
2 <... fdatasync resumed>)  = 0
1 write(9, "HTTP/1.1 202 Accepted\\r\\nContent-Lengt"..., 120) = 120
1 read(9, "POST /v1/events HTTP/1.1\\r\\nHost: 127."..., 65536) = 500
2 msync(0x7f0000000000, 4096, MS_ASYNC) = 0
2 fsync(7) = -1 EIO (Input/output error)
1 sendto(9, "HTTP/1.1 201 Created\\r\\nContent-Lengt"..., 120, 0, NULL, 0) = 120
2 fsync(7) = 0
1 recvfrom(9, "POST /v1/events HTTP/1.1\\r\\nHost: 127."..., 65536, 0, NULL, NULL) = 500
2 msync(0x7f0000000000, 4096, MS_SYNC) = 0
1 writev(9, [{iov_base="HTTP/1.1 202 Accepted\\r\\nConte"..., iov_len=120}], 1) = 120"""

    assert list(synced_answers(calls.splitlines())) == [True, False, True]


def test_the_table_has_the_medians_of_each_program_and_ratios_by_round() -> None:
    ours = [Run(1000.0 * n, 5.0, 40.0, 1.0, 2000.0, 80.0) for n in (1, 2, 3)]
    peer = [Run(3000.0 * n, 9.0, 30.0, 0.5, 346.0, 60.0) for n in (1, 2, 4)]
    http, udp = LOADS[0], LOADS[2]

    text = table(
        {http: {"relay": ours, "other": peer}, udp: {"relay": ours}},
        {"relay": "relay", "other": "other 1.2"},
        {"relay": "3 of 3", "other": "0 of 3"},
    )

    assert text.splitlines()[2:] == [
        f"| {http.name} | relay | 2,000 | 1 x | 5 ms | 100.0% | 40 µs | 2,000 B | 80 MB | 3 of 3 |",
        f"| {http.name} | other 1.2 | 6,000 | 3 x | 9 ms | 50.0% | 30 µs | 346 B | 60 MB | 0 of 3 |",
        f"| {udp.name} | relay | 2,000 |  |  | 100.0% | 40 µs | 2,000 B | 80 MB | no answer |",
    ]
