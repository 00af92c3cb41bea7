"""Mutants of a restart with sockets of systemd."""

from __future__ import annotations

from tests.mutants.mutant import mutant

LISTENER = "tests/unit/http/test_listener.py"
PASSED = "tests/unit/app/test_passed_sockets.py"
UDP = "tests/unit/ingest/udp/test_ingest.py"

MUTANTS = (
    mutant(
        "the clients of a passed socket are cut at a stop",
        "G1",
        f"{LISTENER}::test_at_a_stop_clients_of_a_passed_socket_get_their_response_and_close",
        ("relay/http/listener.py", "        if any(self._passed):\n", "        if not self._passed:\n"),
    ),
    mutant(
        "a request in progress at a stop does not close its connection",
        "G1",
        f"{LISTENER}::test_at_a_stop_clients_of_a_passed_socket_get_their_response_and_close",
        ("relay/http/connection.py", "self._reader.plan = self._reader.plan._replace(closes=True)", "pass"),
    ),
    mutant(
        "a socket of the wrong type is accepted",
        "G1",
        f"{PASSED}::test_a_wrong_socket_unit_is_reported",
        ("relay/app/passed_sockets.py", "passed.family not in families or passed.type != kind", "name == ''"),
    ),
    mutant(
        "a passed socket of a disabled listener is ignored",
        "G1",
        f"{PASSED}::test_a_socket_of_a_disabled_listener_is_an_error",
        (
            "relay/app/passed_sockets.py",
            "if name in passed.listeners and not value",
            "if name in passed.listeners and value",
        ),
    ),
    mutant(
        "the receive buffer of a passed socket is reduced",
        "G9",
        f"{UDP}::test_datagrams_and_buffer_of_a_passed_socket_are_left_to_the_next_relay",
        ("relay/ingest/udp/ingest.py", "0 if self._passed else self._settings", "self._settings"),
    ),
    mutant(
        "drops of an earlier relay are counted again",
        "G9",
        f"{UDP}::test_drops_that_an_earlier_relay_counted_are_not_counted_again",
        ("relay/ingest/udp/sockets.py", "self.kernel_drops = kernel_drops(receiving) or 0", "self.kernel_drops = 0"),
    ),
)
