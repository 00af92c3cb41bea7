"""Mutants that treat a missing network as a failing upstream: the backoff of G9."""

from __future__ import annotations

from tests.mutants.mutant import mutant

WATCH = "relay/forward/network_watch.py"
TABLE = "tests/unit/forward/test_netlink.py"

MUTANTS = (
    mutant(
        "messages of the kernel about the network ignored",
        "G9",
        "tests/fault/test_network.py::test_a_new_address_of_the_machine_ends_the_backoff",
        (WATCH, "changed = sender[0] == 0 and self._configuration.apply(datagram)", "changed = False"),
    ),
    mutant(
        "each repeated advertisement of a router is a change",
        "G9",
        TABLE,
        ("relay/forward/netlink.py", "changed |= change.key not in self._known", "changed = True"),
    ),
    mutant(
        "an attempt after each of many changes",
        "G9",
        "tests/unit/forward/test_network_watch.py::test_when_the_relay_tries_after_changes",
        (WATCH, "max(at, self._tried_at + _BETWEEN_MS)", "at"),
    ),
    mutant(
        "no random delay after a change of the network",
        "G9",
        "tests/unit/forward/test_network_watch.py::test_when_the_relay_tries_after_changes",
        (WATCH, "at = now + int(u * _DELAY_MS)", "at = now"),
    ),
    mutant(
        "another resolver configuration ignored",
        "G9",
        "tests/unit/forward/test_network_watch.py::test_another_resolver_configuration_is_a_change",
        (WATCH, "return (*fingerprint(self._files), *tables)", "return (*tables,)"),
    ),
    mutant(
        "kept connections of the previous network used",
        "G9",
        "tests/unit/forward/test_no_response.py::test_after_a_change_of_the_network_requests_use_a_new_connection",
        (
            "relay/forward/upstream.py",
            'would hang until the timeout."""\n',
            'would hang until the timeout."""\n        return\n',
        ),
    ),
)
