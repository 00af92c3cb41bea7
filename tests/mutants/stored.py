"""Mutants that lose, miscount or repeat events: G1 to G3."""

from __future__ import annotations

from tests.mutants.mutant import CONTRACT, ENGINE, FSYNC, SQLITE, mutant

REMAINDER = (
    "tests/unit/policy/test_judgement.py"
    "::test_exactly_the_remainder_is_sent_immediately_and_then_the_named_events_are_dead_lettered"
)

MUTANTS = (
    mutant(
        "a tenant with only a name gets an upstream of its own",
        "status",
        "tests/e2e/test_reload_keys.py::test_a_tenant_has_another_name",
        (
            "relay/config/load.py",
            'if name.startswith("upstream.tenants.") and not _is_tenant_name(name)]',
            'if name.startswith("upstream.tenants.")]',
        ),
    ),
    mutant(
        "synchronous=NORMAL",
        "G1",
        FSYNC,
        (f"{SQLITE}/connection.py", 'f"synchronous={durability}"', '"synchronous=NORMAL"'),
    ),
    mutant(
        "macOS keeps a commit in the cache of the drive",
        "G1",
        "tests/unit/outbox/sqlite/test_files.py::test_sqlite_empties_the_cache_of_the_drive_on_macos",
        (f"{SQLITE}/connection.py", '"fullfsync=1"', '"fullfsync=0"'),
    ),
    mutant(
        "an fsync hides the failed flush of the drive",
        "G1",
        "tests/unit/runtime/test_flush.py::test_a_failing_disk_is_an_error",
        ("relay/runtime/flush.py", "error.errno != errno.ENOTSUP", "error.errno == errno.EBADF"),
    ),
    mutant(
        "a Linux option is set on other systems",
        "G9",
        "tests/unit/ingest/udp/test_sockets.py::TestOtherSystems::test_no_linux_option_is_set",
        (
            "relay/ingest/udp/sockets.py",
            '    option = socket.SOL_SOCKET, socket.SO_RCVBUF\n    if sys.platform == "linux":',
            '    option = socket.SOL_SOCKET, socket.SO_RCVBUF\n    if sys.platform != "win32":',
        ),
    ),
    mutant(
        "synchronous=NORMAL, by a power cut",
        "G1",
        "tests/fault/test_power_cut.py::test_a_power_cut_at_random_instants_loses_nothing",
        (f"{SQLITE}/connection.py", 'f"synchronous={durability}"', '"synchronous=NORMAL"'),
    ),
    mutant(
        "commits that change the size of the log",
        "G1",
        "tests/unit/outbox/sqlite/test_wal_reserve.py::test_no_commit_changes_the_size_of_the_log",
        (f"{SQLITE}/store.py", "        if need_bytes <= self._wal.file_bytes:\n", "        if need_bytes:\n"),
    ),
    mutant(
        "salvage writes into the only copy of a broken file",
        "G1",
        "tests/unit/outbox/sqlite/test_salvage.py::test_broken_file_is_not_changed",
        (f"{SQLITE}/salvage.py", "    files.copy(broken, copy)\n", "    copy = broken\n"),
    ),
    mutant(
        "commits in the log of a broken file are lost",
        "G1",
        "tests/unit/outbox/sqlite/test_salvage.py::test_commits_of_the_log_are_salvaged",
        (f"{SQLITE}/salvage.py", "    if not files.has_log(broken):\n", "    if broken:\n"),
    ),
    mutant(
        "a cursor after the last event is believed",
        "G1",
        "tests/unit/outbox/sqlite/test_salvage.py::test_new_events_are_pending_after_the_newest_rows_were_lost",
        (f"{SQLITE}/loading.py", "row.cursor > last_seq", "row.cursor < 0"),
        (f"{SQLITE}/salvage.py", "    new.execute(_CORRECT_CURSORS, (last_seq,))\n", ""),
    ),
    mutant(
        "an event appended during the load precedes the loaded events",
        "G4",
        "tests/unit/outbox/engine/test_loading.py::test_loaded_events_precede_events_that_were_appended_meanwhile",
        (f"{ENGINE}/outbox_state.py", "        if isinstance(self.phase, LoadingLog):\n", "        if False:\n"),
    ),
    mutant(
        "a second event replaces the event of a quiet queue",
        "G1",
        "tests/unit/outbox/engine/test_queue_index.py",
        (f"{ENGINE}/quiet_queues.py", "        if block.seqs[slot] != _NO_SEQ:\n            return False\n", ""),
    ),
    mutant(
        "a log of another user is read",
        "G8",
        "tests/unit/outbox/sqlite/test_files.py::TestLogOfAnotherUser::test_world_writable_log_is_rejected",
        (f"{SQLITE}/files.py", "        if suffix and (why", "        if not suffix and (why"),
    ),
    mutant(
        "response before commit",
        "G1",
        FSYNC,
        (
            f"{ENGINE}/outbox.py",
            "            self._owner.enqueue(append)\n",
            "            self._owner.enqueue(append)\n            result.set_result(AppendResult(0, 'full'))\n",
        ),
    ),
    mutant(
        "a failed commit reported as stored",
        "G1",
        "tests/unit/outbox/sqlite/test_store_failure.py::test_failed_writes_are_reported_until_the_disk_works_again",
        (
            f"{ENGINE}/commit_plan.py",
            "        for result in (*(append.result for append in self.appends), *(op.result for op in self.ops)):\n",
            "        for append in self.appends:\n            _set_result(append.result, AppendResult(0, 'full'))\n"
            "        for result in (op.result for op in self.ops):\n",
        ),
    ),
    mutant(
        "delete before the 2xx",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_an_upstream_down_for_a_while_backs_off_and_recovers[503]",
        (
            "relay/forward/forwarder.py",
            "        post = partial(self._post, send, request, len(bodies), fresh=send.exact)\n",
            "        early = [Settled(n, True, {}, self._schedule.window_of(n, chosen_at)) for n in queue_ids]\n"
            "        await self._settle(send, early)\n"
            "        post = partial(self._post, send, request, len(bodies), fresh=send.exact)\n",
        ),
        ("relay/forward/forwarder.py", "        if settled:\n", "        if not settled:\n"),
    ),
    mutant(
        "no response treated as success",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_an_upstream_down_for_a_while_backs_off_and_recovers[silence]",
        (
            "relay/policy/verdict.py",
            "        return Failing(response.message, while_sending=response.while_sending)\n",
            "        return Delivered()\n",
        ),
    ),
    mutant(
        "a request that timed out is sent all the same",
        "G3",
        "tests/unit/forward/test_progress.py::test_timed_out_request_is_reset_and_its_body_is_not_received",
        ("relay/forward/progress.py", "        self._transport.abort()\n", "        self._transport.close()\n"),
    ),
    mutant(
        "an unrequested response accepted",
        "G1",
        "tests/fault/test_upstream_transport.py::test_an_unrequested_response_is_ignored",
        ("relay/forward/upstream.py", "conn.protocol.should_close:", "not conn.protocol:"),
    ),
    mutant(
        "events dead-lettered because of a wrong key",
        "G1",
        "tests/e2e/test_upstream_trouble.py::test_a_wrong_key_loses_nothing_and_delivery_resumes_when_the_key_file_changes",
        (
            "relay/policy/verdict.py",
            "            return Unauthorized(message, status)\n",
            "            return Refused(status, message)\n",
        ),
    ),
    mutant(
        "poison after one failure",
        "G1",
        "tests/unit/policy/test_judgement.py::test_a_poison_event_is_dead_lettered_after_ten_isolated_failures_in_ten_minutes",
        (
            "relay/policy/diagnosis.py",
            "POISON_FAILURES = 10\nCONTENT_MS = 540_000\n",
            "POISON_FAILURES = 1\nCONTENT_MS = 0\n",
        ),
        ("relay/policy/diagnosis.py", "POISON_MS = 600_000", "POISON_MS = 0"),
    ),
    mutant(
        "files deleted unnoticed",
        "G1",
        "tests/fault/test_broken_files.py::test_a_directory_deleted_under_the_running_relay",
        (
            f"{ENGINE}/life.py",
            '        self.problem = "" if fault is None else fault.reason\n',
            '        self.problem = ""\n',
        ),
    ),
    mutant(
        "age by the wall clock",
        "G1",
        f"{CONTRACT}::TestAge::test_jump_of_the_wall_clock_drops_nothing",
        (
            "relay/outbox/engine/outbox_clock.py",
            "        return self._clock.monotonic_ms() + self._ahead_ms\n",
            "        return self._clock.wall_ms()\n",
        ),
    ),
    mutant(
        "delivered not counted",
        "G2",
        f"{CONTRACT}::TestSettle::test_it_survives_a_kill",
        (
            f"{SQLITE}/statements.py",
            "delivered = delivered + ?, rate_window",
            "delivered = delivered + 0 * ?, rate_window",
        ),
    ),
    mutant(
        "no dedupe",
        "G3",
        f"{CONTRACT}::TestDedupe::test_duplicate_is_counted_and_not_stored",
        (
            f"{ENGINE}/commit_plan.py",
            "        if len(ids) == len(events) and window.known.isdisjoint(ids):\n",
            "        if events:\n",
        ),
        (f"{ENGINE}/outbox.py", "are_known = state is not None and all(", "are_known = state is None and all("),
    ),
    mutant(
        "a repeated event that its own append drops counts as a duplicate",
        "G3",
        f"{CONTRACT}::TestFull::test_a_repeated_event_that_its_own_append_drops_is_stored",
        (
            f"{ENGINE}/commit_plan.py",
            "                if found is not None and found.seq not in self.dropped:\n",
            "                if found is not None:\n",
        ),
    ),
    mutant(
        "another event with a known id treated as a duplicate after a restart",
        "G3",
        f"{CONTRACT}::TestConflicts::test_across_a_restart_and_after_delivery",
        (
            f"{ENGINE}/dedupe_window.py",
            "        restored.extend(before + 1, split_ids(bytes(ids)), queue_ids, checks)\n",
            "        restored.extend(before + 1, split_ids(bytes(ids)), queue_ids)\n",
        ),
    ),
    mutant(
        "no journal",
        "G3",
        f"{CONTRACT}::TestJournal::test_load_after_a_kill_returns_the_same_requests",
        (
            f"{SQLITE}/statements.py",
            "    database.executemany(_JOURNAL, values)\n",
            "    database.executemany(_JOURNAL, values[:0])\n",
        ),
    ),
    mutant(
        "a 2xx without success accepted",
        "G1",
        "tests/unit/policy/test_verdict.py::test_2xx_whose_success_is_not_true_is_treated_as_5xx_also_without_an_error",
        ("relay/policy/verdict.py", 'content.get("success") is not True', 'content.get("success") is None'),
    ),
    mutant(
        "a 2xx of a captive portal trusted",
        "G1",
        "tests/unit/policy/test_verdict.py::test_any_other_2xx_is_not_a_response_of_the_api",
        (
            "relay/policy/verdict.py",
            "        return Misconfigured(_not_the_api(response), status)\n    if content.get",
            "        return Delivered(status)\n    if content.get",
        ),
    ),
    mutant(
        "events that a success rejects by name counted as delivered",
        "G1",
        "tests/unit/policy/test_judgement.py::test_events_that_a_success_rejects_by_index_are_dead_lettered_and_the_rest_is_delivered",
        ("relay/policy/judgement.py", "        if verdict.rejected:\n", "        if verdict.status != 202:\n"),
    ),
    mutant(
        "events dead-lettered because of a wrong URL",
        "G1",
        "tests/unit/policy/test_verdict.py::test_a_missing_path_or_method_is_misconfigured",
        (
            "relay/policy/verdict.py",
            'startswith(b"<")):\n            return Misconfigured(message, status)\n',
            'startswith(b"<")):\n            return Refused(status, message)\n',
        ),
    ),
    mutant(
        "a too large batch dead-lettered without halving",
        "G1",
        "tests/unit/policy/test_judgement.py::test_413_halves_by_bytes_and_the_size_is_remembered_for_every_device",
        (
            "relay/policy/judgement.py",
            "    if len(request.queues) > 1 or events > 1:\n",
            "    if len(request.queues) > 1:\n",
        ),
    ),
    mutant(
        "an unnamed rejection not halved",
        "G1",
        "tests/unit/policy/test_judgement.py::test_an_unnamed_bad_event_is_found_by_halving_and_the_rest_is_delivered_in_order",
        (
            "relay/policy/judgement.py",
            "    is_found = len(request.queues) == 1 and events == 1\n",
            "    is_found = len(request.queues) == 1\n",
        ),
    ),
    mutant(
        "a whole batch dead-lettered for one named event",
        "G1",
        REMAINDER,
        (
            "relay/policy/judgement.py",
            "        for index, message in messages.items()\n",
            '        for index, message in dict.fromkeys(range(first, first + events), "").items()\n',
        ),
    ),
    mutant(
        "named events dead-lettered before the outcome of the remainder",
        "G1",
        REMAINDER,
        (
            "relay/policy/judgement.py",
            'Judgement(outcomes) if nothing_remains else Judgement((), "exact")',
            "Judgement(outcomes)",
        ),
    ),
    mutant(
        "other events join the remainder",
        "G1",
        REMAINDER,
        ("relay/policy/ready_queues.py", "tuple((queue, events) for queue", "tuple((queue, queue.events) for queue"),
    ),
    mutant(
        "wrong indexes believed after the rejection of the remainder",
        "G1",
        "tests/simulation/test_named_events.py::test_an_upstream_that_counts_from_1_costs_no_good_event",
        (
            "relay/policy/judgement.py",
            "    if request.is_remainder():\n        rejections.ignore_names(request.now)\n",
            "",
        ),
    ),
    mutant(
        "omitted events not journalled",
        "G3",
        f"{CONTRACT}::TestOmitted::test_load_after_a_kill_returns_the_same_remainder",
        (f"{ENGINE}/commands.py", "self.shift_ms, self.omitted or None)", "self.shift_ms, None)"),
    ),
    mutant(
        "omitted events settled with the request",
        "G1",
        f"{CONTRACT}::TestOmitted::test_omitted_events_without_a_reason_stay_pending",
        (f"{ENGINE}/operations.py", "            if staying:\n", "            if staying and not delivered:\n"),
    ),
    mutant(
        "an outage treated as a poison event",
        "G1",
        "tests/unit/policy/test_judgement.py::test_an_outage_dead_letters_nothing_even_if_others_succeeded_at_its_beginning",
        (
            "relay/policy/diagnosis.py",
            "        if outcome.success_at is None or outcome.success_at <= alone.failed_at:\n",
            "        if alone is None:\n",
        ),
    ),
    mutant(
        "a full UDP listener that no append wakes",
        "G1",
        "tests/unit/ingest/udp/test_ingest.py::test_the_end_of_an_append_wakes_a_full_listener",
        ("relay/ingest/udp/state.py", "return Coalescing(now_ms) if state is FULL else state", "return state"),
    ),
    mutant(
        "a datagram answered before the commit",
        "G1",
        "tests/unit/ingest/udp/test_ingest.py::test_a_response_lists_the_stored_events_after_the_commit",
        (
            "relay/ingest/udp/ingest.py",
            "        self._uncommitted += len(batch.events)\n",
            "        self._uncommitted += len(batch.events)\n        self._outcomes.stored(batch, 0)\n",
        ),
    ),
    mutant(
        "appends that wait at the end forgotten",
        "G1",
        f"{CONTRACT}::TestAppend::test_close_commits_waiting_appends",
        (
            f"{ENGINE}/group_commit.py",
            "not self.life.is_closing or self._pending_calls.appends or",
            "not self.life.is_closing or",
        ),
    ),
    mutant(
        "events in flight dropped for their age",
        "G1",
        f"{CONTRACT}::TestAge::test_expired_events_in_flight_are_not_dropped",
        (f"{SQLITE}/statements.py", "json.dumps(in_flight)", '"[]"'),
    ),
    mutant(
        "a settlement not retried after a failure",
        "G3",
        "tests/simulation/test_scenarios.py::test_requests_in_flight_at_a_crash_are_resent_first_and_unchanged_from_a_failing_disk",
        ("relay/forward/forwarder.py", "                attempt += 1\n", "                return\n"),
    ),
    mutant(
        "dropped not counted",
        "G2",
        f"{CONTRACT}::TestAge::test_expired_events_are_dropped_and_counted",
        (f"{SQLITE}/statements.py", "SET dropped = dropped + ?", "SET dropped = dropped + 0 * ?"),
    ),
    mutant(
        "requeued not counted",
        "G2",
        f"{CONTRACT}::TestDeadLetters::test_requeued_event_is_pending_at_the_end_of_its_queue",
        (f"{SQLITE}/dead_letters.py", "SET requeued = requeued + ?", "SET requeued = requeued + 0 * ?"),
    ),
    mutant(
        "ids forgotten with their events",
        "G3",
        f"{CONTRACT}::TestDedupe::test_across_a_restart_and_after_delivery",
        (
            f"{SQLITE}/statements.py",
            "    if ids:\n        _remember(",
            "    if not marks:\n        _remember(",
        ),
    ),
    mutant(
        "requests in flight at a kill not sent first",
        "G3",
        "tests/unit/policy/test_schedule.py::test_after_a_crash_the_same_requests_are_sent_first",
        (
            "relay/policy/batch_selection.py",
            "    exact, wake_at = endpoint.ready.take_exact(device_class, now, limits)\n",
            "    exact, wake_at = (), None\n",
        ),
    ),
)
