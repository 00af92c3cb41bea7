"""syslog-ng with a reliable disk buffer: UDP only, because it has no HTTP source.

The receive buffer is the relay's. Batches are as large and as late as Fluent Bit's by default.
"""

from bench.peers.peer import Peer

PEER = Peer(
    name="syslog-ng",
    command="syslog-ng",
    transports=frozenset({"udp"}),
    files={
        "syslog-ng.conf": """
@version: 3.38
options { stats-freq(0); };
source apps {
  network(ip("127.0.0.1") port($udp_port) transport("udp") flags(no-parse)
    so-rcvbuf(4194304) log-fetch-limit(1000) log-iw-size(100000));
};
destination upstream {
  http(url("http://$upstream_host:$upstream_port$upstream_path") method("POST")
    headers("Content-Type: application/json", "Accept: application/json", "X-Events-Key: $key")
    body-prefix("{\\"events\\":[") body("$${MSG}") delimiter(",") body-suffix("]}")
    batch-lines(500) batch-timeout(1000) workers(1)
    disk-buffer(disk-buf-size(1073741824) mem-buf-size(67108864) reliable(yes) dir("$directory")));
};
log { source(apps); destination(upstream); flags(flow-control); };
"""
    },
    run=(
        "--foreground",
        "--stderr",
        *("--cfgfile", "$directory/syslog-ng.conf", "--persist-file", "$directory/syslog-ng.persist"),
        *("--control", "$directory/syslog-ng.ctl", "--pidfile", "$directory/syslog-ng.pid"),
    ),
    check=("--syntax-only", "--cfgfile", "$directory/syslog-ng.conf"),
    version="--version",
)
