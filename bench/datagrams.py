"""Send datagrams of one event each at a steady rate, in bursts as small as the clock permits.

Independent apps do not send in bursts. A sleep takes at least 60 µs, which is four datagrams at 60,000/s. The program
prints the number of sent datagrams and its times as JSON.
"""

from __future__ import annotations

import json
import socket
import sys
import time
from dataclasses import dataclass

from bench.events import event, templates


@dataclass(frozen=True, slots=True, kw_only=True)
class Datagrams:
    address: str
    run: str
    per_s: float
    seconds: float
    devices: int = 1000
    event_bytes: int = 400


def send(order: Datagrams) -> dict[str, float]:
    host, _, port = order.address.rpartition(":")
    sending = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sending.connect((host, int(port)))
    made = templates(order.run, order.devices, order.event_bytes)
    sent, began = 0, time.monotonic()
    while (elapsed := time.monotonic() - began) < order.seconds:
        due = int(elapsed * order.per_s)
        if sent >= due:
            time.sleep((sent + 1) / order.per_s - elapsed)
        # The bound of 200 prevents one large burst after a delay, because no device sends one.
        for number in range(sent, min(due, sent + 200)):
            sending.send(event(made[number % len(made)], number))
            sent += 1
    return {"sent": sent, "began": began, "seconds": time.monotonic() - began, "cpu_s": time.process_time()}


if __name__ == "__main__":
    print(json.dumps(send(Datagrams(**json.loads(sys.argv[1])))))
