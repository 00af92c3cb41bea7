"""Fluent Bit with its buffer on disk and `storage.sync full`."""

from bench.peers.peer import Peer

PEER = Peer(
    name="Fluent Bit",
    command="fluent-bit",
    transports=frozenset({"http", "udp"}),
    files={
        "parsers.conf": """
[PARSER]
    name   json
    format json
""",
        "fluent-bit.conf": """
[SERVICE]
    flush         1
    log_level     error
    parsers_file  $directory/parsers.conf
    storage.path  $directory/storage
    storage.sync  full
[INPUT]
    name          http
    listen        127.0.0.1
    port          $http_port
    storage.type  filesystem
[INPUT]
    name          syslog
    mode          udp
    listen        127.0.0.1
    port          $udp_port
    parser        json
    receive_buffer_size 4M
    storage.type  filesystem
[OUTPUT]
    name          http
    match         *
    host          $upstream_host
    port          $upstream_port
    uri           $upstream_path
    header        X-Events-Key $key
    header        Accept application/json
    format        json
    json_date_key false
    retry_limit   no_limits
""",
    },
    run=("--config", "$directory/fluent-bit.conf"),
    check=("--dry-run", "--config", "$directory/fluent-bit.conf"),
    version="--version",
)
