"""Mutants of the outbox that several relays share."""

from __future__ import annotations

from tests.mutants.mutant import CONTRACT, mutant

SHARED = "relay/outbox/postgres"
UNIT = "tests/unit/outbox/postgres"
TWO_RELAYS = "tests/contract/test_two_relays.py"
RING = "tests/contract/test_postgres_ring.py"
AT_ONCE = "tests/contract/test_postgres_transactions.py"
SWARM = "tests/simulation/test_shared_swarm.py"

MUTANTS = (
    mutant(
        "queue groups of a failed release held by no relay",
        "G1",
        f"{TWO_RELAYS}::test_a_release_that_failed_is_repeated",
        (f"{SHARED}/watching.py", "        unheld = listed - state.groups\n", "        unheld = set[int]()\n"),
    ),
    mutant(
        "session settings without a time limit",
        "G1",
        f"{UNIT}/test_connection.py::test_a_server_that_falls_silent_after_the_login_is_left",
        (
            f"{SHARED}/connection.py",
            "await self._limited(connection, self._prepare)",
            "await self._prepare(connection)",
        ),
    ),
    mutant(
        "table of the ring emptied with pending events",
        "G1",
        f"{RING}::test_a_waiting_device_keeps_its_events_and_no_others",
        (
            f"{SHARED}/cleanup.py",
            '                await self._execute(sql.COPY.format(to=f"{parent}_{self._segment}", rows=needed))\n',
            "",
        ),
    ),
    mutant(
        "relay fenced that waits to connect again",
        "G4",
        "tests/simulation/test_shared_scenarios.py::test_no_relay_is_fenced_when_the_database_returns",
        (f"{SHARED}/reconnect.py", "min(_MAX_MS, lease_ms // 2)", "_MAX_MS"),
    ),
    mutant(
        "stored events of a shared outbox not shown by relay tail",
        "status",
        "tests/contract/test_feed.py::test_stored_events_are_reported_after_the_commit_and_duplicates_are_not",
        (
            f"{SHARED}/outbox.py",
            '        self._metrics.feed.changed("stored", (event.body for event in events))\n',
            "",
        ),
    ),
    mutant(
        "moved event not found",
        "G1",
        f"{RING}::test_a_claimed_event_is_found_after_it_was_moved",
        (f"{SHARED}/forward_transaction.py", 'for table in (*tables, "log"):', "for table in tables:"),
    ),
    mutant(
        "totals of a removed relay forgotten",
        "G2",
        f"{RING}::test_rows_of_ended_replicas_are_removed_and_their_totals_stay",
        (f"{SHARED}/sql.py", "SET delivered = moves.delivered + s.delivered", "SET delivered = moves.delivered"),
    ),
    mutant(
        "rate window of a device that was forgotten and sends again lost",
        "G5",
        f"{CONTRACT}::TestForget::test_a_forgotten_device_that_sends_again_keeps_its_rate_window",
        (f"{SHARED}/sql.py", "omitted = %s, forgotten = false WHERE", "omitted = %s WHERE"),
    ),
    mutant(
        "removed relay with a request that may still arrive",
        "G5",
        f"{RING}::test_a_replica_that_may_still_send_is_not_removed",
        (
            f"{SHARED}/sql.py",
            "  AND NOT EXISTS (SELECT FROM owed WHERE owed.replica = f.replica)\n",
            "",
        ),
    ),
    mutant(
        "no cut at the limit of a poll",
        "G4",
        f"{UNIT}/test_commits.py::test_a_row_does_not_overtake_rows_that_were_not_read",
        (f"{SHARED}/commits.py", "if end is None or row.id <= end)", "if end is None or row.id)"),
    ),
    mutant(
        "silence counted without a connection",
        "G4",
        f"{UNIT}/test_lease.py::test_silence_does_not_count_while_the_observer_is_not_connected",
        (f"{SHARED}/lease.py", "            self._since.clear()\n", "            pass\n"),
    ),
    mutant(
        "no fence in claim and settle",
        "G4",
        f"{TWO_RELAYS}::test_a_fenced_relay_changes_nothing_and_the_other_repeats_its_request",
        (
            f"{SHARED}/server.py",
            '                await check_fence(connection, sql.FENCE, replica, "forward")\n'
            "                return await execute_move",
            "                return await execute_move",
        ),
    ),
    mutant(
        "no rate slot for a late request of a fenced relay",
        "G5",
        "tests/simulation/test_shared_scenarios.py::test_a_late_request_of_a_fenced_relay_keeps_the_device_limit",
        ("relay/policy/rate_window.py", "        self.owed = requests\n", "        self.owed = 0\n"),
    ),
    mutant(
        "transaction with an unknown outcome repeated",
        "G2",
        f"{UNIT}/test_forwarding.py::test_a_claim_and_a_settlement_are_executed_once",
        (f"{SHARED}/forwarding.py", "if attempt and await", "if attempt < 0 and await"),
    ),
    mutant(
        "two copies of an event, each the duplicate of the other",
        "G1",
        f"{SWARM}::test_shared_worlds",
        (f"{SHARED}/state.py", 'elif why not in ("dropped", "duplicate"):', 'elif why != "dropped":'),
    ),
    mutant(
        "queue groups left to a command that does not send",
        "G1",
        f"{TWO_RELAYS}::test_a_command_beside_the_relays_takes_no_device_queues",
        (f"{SHARED}/watching.py", "for other in view.replicas if other.beat]", "for other in view.replicas]"),
    ),
    mutant(
        "beats rarer than a short lease requires",
        "G1",
        f"{TWO_RELAYS}::test_a_relay_with_a_short_lease_is_taken_over",
        (f"{SHARED}/watching.py", "await asyncio.sleep(beat_s)", "await asyncio.sleep(_MAX_BEAT_S)"),
    ),
    mutant(
        "events stored without the required standby",
        "G1",
        f"{TWO_RELAYS}::test_a_commit_without_a_standby_is_rejected_if_one_is_required",
        (f"{SHARED}/state.py", "if not self.settings.require_replicated or", "if True or"),
    ),
    mutant(
        "lease not checked before a request",
        "G4",
        "tests/unit/forward/test_lease_bound.py::test_no_request_is_sent_after_the_lease",
        ("relay/forward/lease_bound.py", "return until_ms - clock.monotonic_ms()", "return until_ms"),
    ),
    mutant(
        "upstream blamed for the end of a lease",
        "G6",
        "tests/simulation/test_shared_scenarios.py::test_a_relay_that_loses_its_lease_blames_no_upstream",
        (
            "relay/forward/forwarder.py",
            "        if isinstance(response, LeaseEnded):\n",
            '        response = NoResponse("") if isinstance(response, LeaseEnded) else response\n        if False:\n',
        ),
    ),
    mutant(
        "no rate slot for a request that was reset at the end of the lease",
        "G5",
        "tests/unit/policy/test_schedule.py::test_a_request_without_its_lease_says_nothing_about_the_upstream",
        ("relay/policy/schedule.py", "                queue.responded(reset_at)\n", "                pass\n"),
    ),
    mutant(
        "commits that do not wait for the standby",
        "G1",
        "tests/fault/test_shared_failover.py::test_failover_to_a_synchronous_standby",
        (f"{SHARED}/connection.py", 'waits_for_disk = "on" if', 'waits_for_disk = "local" if'),
        (f"{SHARED}/sql.py", "IN ('on', 'remote_apply')\n", "IN ('on', 'local')\n"),
    ),
    mutant(
        "full disk of the server that ends forwarding and beats",
        "G1",
        "tests/contract/test_postgres_failures.py::test_a_full_disk_of_the_server",
        (f"{SHARED}/connection.py", "if is_append and isinstance(", "if isinstance("),
    ),
    mutant(
        "one cursor over the seqs of all relays",
        "G1",
        f"{SWARM}::test_shared_worlds",
        (
            f"{SHARED}/commits.py",
            "        self.positions[row.replica] = row.id\n",
            "        self.positions.update(dict.fromkeys([*self.positions, row.replica], row.id))\n",
        ),
    ),
    mutant(
        "queue group released while a statement has its events",
        "G4",
        f"{UNIT}/test_forwarding.py::test_a_queue_group_is_not_released_while_a_statement_has_its_events",
        (f"{SHARED}/queues.py", "return not self.is_busy and (", "return ("),
    ),
    mutant(
        "202 for a commit that a failover left without its standby",
        "G1",
        f"{UNIT}/test_appending.py::test_an_append_is_not_acknowledged_if_its_commit_is_not_replicated",
        (
            f"{SHARED}/appending.py",
            "if (unreplicated := self._state.unreplicated()) is not None:",
            "if unreplicated := None:",
        ),
    ),
    mutant(
        "callers wait as long as a statement hangs",
        "G9",
        f"{UNIT}/test_appending.py::test_callers_wait_8_s_for_a_statement_that_hangs",
        (f"{SHARED}/appending.py", "in (*self._taken, *self._waiting):", "in self._waiting:"),
    ),
    mutant(
        "202 for a repeat of an event whose commit is not replicated",
        "G1",
        f"{UNIT}/test_appending.py::test_a_repeated_event_is_not_acknowledged_if_its_commit_is_not_replicated",
        (
            f"{SHARED}/appending.py",
            "if (unreplicated := self._state.unreplicated()) is not None:",
            "if fresh and (unreplicated := self._state.unreplicated()) is not None:",
        ),
    ),
    mutant(
        "relay without the dedupe window of the others",
        "G3",
        f"{CONTRACT}::TestLoad::test_appends_succeed_before_and_during_load",
        (f"{SHARED}/outbox.py", "        await parts.watching.poll()", "        parts.watching.ring()"),
    ),
    mutant(
        "poll in two statements",
        "G4",
        f"{AT_ONCE}::test_a_poll_has_one_snapshot_of_all_streams",
        (
            f"{SHARED}/server.py",
            "            for found in await rows(connection, sql.POLL, "
            "(list(positions), list(positions.values()), limit)):\n"
            "                streams.setdefault(found[0], []).append(_commit_row(found))\n",
            "            for replica in await rows(connection, 'SELECT replica FROM replicas ORDER BY replica'):\n"
            "                statement = f'{sql.POLL} WHERE replicas.replica = {replica[0]}'\n"
            "                values = (list(positions), list(positions.values()), limit)\n"
            "                for found in await rows(connection, statement, values):\n"
            "                    streams.setdefault(found[0], []).append(_commit_row(found))\n",
        ),
    ),
    mutant(
        "positions of new relays read outside the snapshot",
        "G4",
        f"{AT_ONCE}::test_a_poll_finds_new_replicas_in_its_snapshot",
        (
            f"{SHARED}/server.py",
            "            for found in await rows(connection, sql.POLL, "
            "(list(positions), list(positions.values()), limit)):\n",
            "            replicas = [number for (number,) in await rows(connection, 'SELECT replica FROM replicas')]\n"
            "            values = (replicas, [positions.get(number, 0) for number in replicas], limit)\n"
            "            statement = sql.POLL.replace('LEFT JOIN unnest', 'JOIN unnest')\n"
            "            for found in await rows(connection, statement, values):\n",
        ),
    ),
    mutant(
        "own events taken without the poll",
        "G4",
        f"{UNIT}/test_watching.py::test_own_events_do_not_overtake_those_that_another_relay_acknowledged_before",
        (
            f"{SHARED}/appending.py",
            "            state.commits.add(row)\n",
            "            state.commits.add(row)\n"
            "            if all(queue_id in state.queues for queue_id in row.queue_ids):\n"
            "                state.discover([row], {})\n",
        ),
    ),
    mutant(
        "fence of claim and settle without a lock",
        "G5",
        f"{AT_ONCE}::test_a_fence_waits_for_the_running_transactions_of_the_replica[move]",
        (f"{SHARED}/sql.py", 'role = %s AND NOT fenced FOR SHARE"', 'role = %s AND NOT fenced"'),
    ),
    mutant(
        "fence of appends without a lock",
        "G1",
        f"{AT_ONCE}::test_a_fence_waits_for_the_running_transactions_of_the_replica[append]",
        (f"{SHARED}/sql.py", "role = 'append' AND NOT fenced FOR SHARE),", "role = 'append' AND NOT fenced),"),
    ),
    mutant(
        "statement cancelled that takes too long",
        "G1",
        f"{AT_ONCE}::test_a_statement_that_takes_too_long_is_not_cancelled",
        (
            f"{SHARED}/connection.py",
            "            _shut_down(connection)\n        return",
            "            statement.cancel()\n        return",
        ),
    ),
    mutant(
        "request of a fenced relay without a rate slot",
        "G5",
        f"{AT_ONCE}::test_a_fence_waits_for_the_running_transactions_of_the_replica[move]",
        (f"{SHARED}/server.py", "                await connection.execute(sql.OWE, (replica, replica))\n", ""),
    ),
    mutant(
        "rate slot of a fenced relay free as soon as its request is over",
        "G5",
        "tests/simulation/test_shared_scenarios.py::test_a_late_request_of_a_fenced_relay_keeps_the_device_limit",
        (
            "relay/policy/rate_window.py",
            "            self.responded(now)\n        self.owed",
            "            pass\n        self.owed",
        ),
    ),
    mutant(
        "outcome of an event unknown to the relays that do not send it",
        "status",
        f"{TWO_RELAYS}::test_each_relay_knows_what_became_of_an_event",
        (
            f"{SHARED}/outbox.py",
            "while (foreign := state.foreign([event_id])) and",
            "while (foreign := []) and",
        ),
    ),
    mutant(
        "202 without storing for an event that another relay dropped",
        "G3",
        f"{TWO_RELAYS}::test_an_event_that_another_relay_dropped_can_be_stored_again",
        (f"{SHARED}/outbox.py", "and not parts.state.foreign(event.event_id for event in events):", "and events:"),
    ),
    mutant(
        "size of the outbox without events that another relay will send",
        "G9",
        f"{TWO_RELAYS}::test_both_count_all_events_against_the_size_of_the_outbox",
        (f"{SHARED}/others.py", "            self._rows.append((len(sizes), sum(sizes)))\n", "            pass\n"),
    ),
    mutant(
        "devices of the other relays not counted",
        "G9",
        f"{TWO_RELAYS}::test_both_count_all_devices_against_the_largest_number",
        (f"{SHARED}/state.py", "if further and self.others.devices() + len", "if further and len"),
    ),
)
