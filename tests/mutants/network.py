"""Mutants that treat a missing network as a failing upstream: the backoff of G9."""

from __future__ import annotations

from tests.mutants.mutant import mutant

WATCH = "relay/forward/network_watch.py"
TABLE = "tests/unit/forward/test_netlink.py"

POLICY = "relay/policy/network.py"

MUTANTS = (
    mutant(
        "the backoff without a network grows to retry.max",
        "G9",
        "tests/unit/policy/test_network.py::test_the_delay_grows_to_15_s_and_not_to_retry_max",
        (POLICY, "min(what.retry_max_ms, RETRY_MAX_MS)", "what.retry_max_ms"),
    ),
    mutant(
        "no network treated as a failure of the upstream",
        "G9",
        "tests/fault/test_network.py::test_an_upstream_that_begins_to_listen_is_found_within_seconds",
        ("relay/policy/verdict.py", "    if response.is_unreachable:\n", "    if not response.message:\n"),
    ),
    mutant(
        "an attempt without a network for each device",
        "G9",
        "tests/unit/policy/test_schedule.py"
        "::test_without_a_network_one_request_is_tried_for_all_tenants_and_devices_of_an_origin",
        (POLICY, "or network.tried_at is None or in_flight == 0", "or network.failures > 0"),
    ),
    mutant(
        "no attempt while older requests hang",
        "G9",
        "tests/unit/policy/test_schedule.py::test_an_attempt_is_made_while_older_requests_hang",
        (POLICY, "or network.tried_at is None or in_flight == 0", "or in_flight == 0"),
    ),
    mutant(
        "a loss without a network blamed on the upstream",
        "G9",
        "tests/unit/policy/test_judgement.py::test_without_a_network_the_pause_is_at_most_15_s_whatever_follows",
        (
            "relay/policy/judgement.py",
            "if verdict.is_lost and explains_loss(",
            "if verdict.is_lost and not explains_loss(",
        ),
    ),
    mutant(
        "a loss blamed on the network without end",
        "G9",
        "tests/unit/policy/test_network.py::test_only_a_loss_soon_after_a_request_that_did_not_leave_is_explained",
        (POLICY, "now - network.failed_at <= _LOST_AFTER_MS", "now >= 0"),
    ),
    mutant(
        "no wait on a new connection after a lost request",
        "G9",
        "tests/unit/forward/test_no_response.py::test_after_a_lost_request_a_connection_that_is_closed_at_once_is_unreachable",
        ("relay/forward/upstream.py", "if current.is_cautious and not current.is_kept:", "if not self.resolver:"),
    ),
    mutant(
        "a reset after the request counts as before it",
        "G9",
        "tests/unit/forward/test_no_response.py::test_the_kernel_knows_whether_a_byte_left_before_a_reset",
        ("relay/forward/progress.py", "_segments_sent(self._socket) == self._segments_before", "True"),
    ),
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
