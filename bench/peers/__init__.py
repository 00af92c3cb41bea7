"""Programs with the relay's task, and a ceiling, that the scenario `peers` runs beside the relay if they are installed.

Each module has one adapter: an installed command with its configuration. A new adapter is listed in `PEERS`.
"""

from bench.peers import fluent_bit, nginx, syslog_ng
from bench.peers.peer import Peer

PEERS: tuple[Peer, ...] = (fluent_bit.PEER, syslog_ng.PEER, nginx.PEER)
