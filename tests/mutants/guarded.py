"""Mutants that reveal the key, change events, remove limits, or weaken the checks of requests: G7 to G9."""

from __future__ import annotations

from tests.mutants.mutant import CONTRACT, ENGINE, SQLITE, mutant

MUTANTS = (
    mutant(
        "a slow follower of events fills the memory",
        "G9",
        "tests/unit/ops/test_tail.py::test_beyond_the_buffer_lines_are_skipped_and_counted",
        ("relay/ops/tail.py", "        if len(self._lines) >= MAX_LINES:\n", "        if self._lines is None:\n"),
    ),
    mutant(
        "bodies are decoded although nobody follows events",
        "G9",
        "tests/unit/runtime/test_event_feed.py::test_without_a_follower_nothing_is_prepared",
        (
            "relay/runtime/event_feed.py",
            "        if self._followers:\n            for body in bodies:",
            "        if bodies:\n            for body in bodies:",
        ),
    ),
    mutant(
        "a line of the journal without its priority",
        "G9",
        "tests/unit/runtime/test_journal.py",
        ("relay/runtime/log.py", "prefixed(level, line) if self._is_journal else line", "line"),
    ),
    mutant(
        "key in the log",
        "G7",
        "tests/unit/runtime/test_log.py",
        (
            "relay/runtime/log.py",
            "    return _shared.in_line.sub(MASK, line) if _shared.in_line is not None else line\n",
            "    return line\n",
        ),
        (
            "relay/runtime/log.py",
            "def _clean(text: str, max_chars: int) -> str:\n    if _shared.in_text is not None:",
            "def _clean(text: str, max_chars: int) -> str:\n    if _shared.in_text is not None and not text:",
        ),
    ),
    mutant(
        "the key repeated by the upstream is shown",
        "G7",
        "tests/e2e/test_secret.py",
        (
            "relay/forward/upstream.py",
            "    return lambda text: in_text.sub(MASK, text)\n",
            "    return lambda text: text if in_text else MASK\n",
        ),
    ),
    mutant(
        "redirects followed",
        "G7",
        "tests/e2e/test_upstream_trouble.py::test_a_redirect_is_not_followed",
        ("relay/forward/upstream.py", "allow_redirects=False", "allow_redirects=True"),
    ),
    mutant(
        "checksums not verified",
        "G8",
        f"{CONTRACT}::TestCorrupt::test_corrupt_event_becomes_a_dead_letter",
        (
            "relay/outbox/engine/checksum.py",
            "    return True if crc32(body, _INSERTED_TIME_SEED) == crc else None\n",
            "    return True if crc32(body, _INSERTED_TIME_SEED) == crc else False\n",
        ),
    ),
    mutant(
        "no size limit",
        "G9",
        f"{CONTRACT}::TestFull::test_full_outbox_rejects_events_until_it_has_drained",
        (
            f"{ENGINE}/outbox_state.py",
            "        return self.limits.space.append_bytes - self.space.used_bytes\n",
            "        return 1 << 40\n",
        ),
    ),
    mutant(
        "no limit of devices within one commit",
        "G9",
        f"{CONTRACT}::TestMaxDevices::test_appends_of_one_commit_share_the_limit",
        (f"{ENGINE}/outbox_state.py", "                admitted |= further\n", "                pass\n"),
    ),
    mutant(
        "a quiet queue stays an object",
        "G9",
        "tests/unit/outbox/engine/test_queue_index.py::test_a_quiet_queue_takes_at_most_130_bytes_beside_its_device",
        (
            f"{ENGINE}/queue_index.py",
            "        if queue is not None and queue.is_quiet:\n",
            "        if queue is False:\n",
        ),
    ),
    mutant(
        "a device forgotten at a start with an occupied rate window",
        "G5",
        "tests/simulation/test_scenarios.py::"
        "test_the_device_limit_holds_for_a_device_that_is_often_idle_in_a_restart_loop",
        (
            "relay/policy/rate_window.py",
            "_BASE.unpack_from(packed)[0] + span_ms < now",
            "_BASE.unpack_from(packed)[0] <= now",
        ),
    ),
    mutant(
        "a device forgotten at a start in another boot",
        "G5",
        f"{CONTRACT}::TestForget::test_a_start_in_another_boot_forgets_no_device_with_a_request",
        (f"{SQLITE}/loading.py", "stored_in == boot and last_boot_id == boot_id", "stored_in == boot"),
    ),
    mutant(
        "a device forgotten at a start with events to send again",
        "G5",
        f"{CONTRACT}::TestForget::test_a_start_forgets_no_device_with_a_request_in_the_journal",
        (f"{SQLITE}/loading.py", "WHERE log.seq > q.cursor)", "WHERE log.seq > q.cursor + 9)"),
        (f"{SQLITE}/loading.py", "WHERE request IS NULL AND", "WHERE"),
    ),
    mutant(
        "few devices forgotten a second, however many are idle",
        "G9",
        "tests/unit/forward/test_forwarder.py",
        ("relay/forward/forwarder.py", "self._schedule.idle_queues() // ", "0 // "),
    ),
    mutant(
        "known devices rejected at the limit of devices",
        "G6",
        f"{CONTRACT}::TestMaxDevices::test_at_the_limit_known_devices_are_served_and_further_ones_are_not",
        (
            f"{ENGINE}/outbox_state.py",
            "if event.device_key not in by_key and event.event_id not in known}",
            "if event.event_id not in known and by_key is not None}",
        ),
    ),
    mutant(
        "a response of any size is read completely",
        "G9",
        "tests/fault/test_upstream_transport.py::test_an_unusual_but_successful_response[endless_body]",
        ("relay/forward/upstream.py", "            room -= len(chunk)\n", "            room -= 0\n"),
    ),
    mutant(
        "the configuration for every client",
        "operations",
        "tests/unit/ops/test_server.py::TestAccess",
        (
            "relay/ops/server.py",
            "Route(get, self._show_configuration, guarded=True)",
            "Route(get, self._show_configuration)",
        ),
    ),
    mutant(
        "a history without a limit",
        "G9",
        "tests/unit/ops/test_history.py::test_each_resolution_contains_its_time_in_bounded_memory",
        ("relay/ops/history.py", "deque(maxlen=POINTS)", "deque()"),
    ),
    mutant(
        "text of events as markup on the status page",
        "operations",
        "tests/e2e/test_page.py::TestStatus::test_markup_in_any_text_is_shown_as_text",
        ("relay/ops/page/dom.js", "made.textContent = text", "made.innerHTML = text"),
    ),
    mutant(
        "ready while nothing can be stored",
        "operations",
        "tests/fault/test_disk_full.py::test_a_full_outbox_drops_no_accepted_event",
        ("relay/ops/status.py", '        return "" if gauges.writable else', '        return "" if gauges else'),
    ),
    mutant(
        "proxies of the environment used",
        "G7",
        "tests/abuse/test_tls.py::test_proxies_and_credentials_of_the_environment_are_not_used",
        ("relay/forward/upstream.py", "trust_env=False", "trust_env=True"),
    ),
    mutant(
        "certificates unverified",
        "G7",
        "tests/abuse/test_tls.py::test_an_untrusted_server_never_gets_the_key_and_events_stay_pending",
        (
            "relay/forward/upstream.py",
            "    context.minimum_version = ssl.TLSVersion.TLSv1_2\n",
            "    context.check_hostname = False\n    context.verify_mode = ssl.CERT_NONE\n",
        ),
    ),
    mutant(
        "core dumps allowed",
        "G7",
        "tests/abuse/test_secrets.py::test_an_aborted_relay_writes_no_core_dump",
        (
            "relay/app/process.py",
            "(resource.RLIMIT_CORE, (0, 0))",
            "(resource.RLIMIT_CORE, resource.getrlimit(resource.RLIMIT_CORE))",
        ),
        ("relay/app/process.py", "prctl(_PR_SET_DUMPABLE, 0,", "prctl(_PR_SET_DUMPABLE, 1,"),
    ),
    mutant(
        "an app's time treated as inserted by the relay",
        "G8",
        f"{CONTRACT}::TestTimestamps::test_timestamp_is_true_time_minus_the_age_of_the_event",
        (
            "relay/outbox/engine/checksum.py",
            "crc32(body, _INSERTED_TIME_SEED) if has_inserted_time else crc32(body)",
            "crc32(body, _INSERTED_TIME_SEED)",
        ),
    ),
    mutant(
        "a lone surrogate accepted",
        "events",
        "tests/unit/event/test_reader.py",
        (
            "relay/event/strict_json.py",
            "    if found is not None:\n",
            '    if found is not None and found[0] == "\\0":\n',
        ),
    ),
    mutant(
        "blanks around a device id not removed",
        "G5",
        "tests/unit/event/test_values.py::TestBlanks::test_one_device_in_several_spellings_is_one_device",
        (
            "relay/event/reader.py",
            "        if device_id[:1] in BLANK_ENDS or device_id[-1:] in BLANK_ENDS:",
            "        if not device_id.strip():",
        ),
    ),
    mutant(
        "a tenant that is not allowed is accepted",
        "events",
        "tests/unit/event/test_reader_tenants.py::test_another_tenant_is_rejected_in_every_form_of_a_body",
        (
            "relay/event/reader.py",
            "        if self.allowed_tenants and tenant_id not in self.allowed_tenants:\n",
            "        if self.allowed_tenants and tenant_id < 1:\n",
        ),
    ),
    mutant(
        "a tenant that is not allowed is accepted beside others",
        "events",
        "tests/unit/event/test_reader_tenants.py::test_another_tenant_is_rejected_in_every_form_of_a_body",
        (
            "relay/event/reader.py",
            "        if allowed and not allowed.issuperset(",
            "        if allowed and allowed.isdisjoint(",
        ),
    ),
    mutant(
        "the defaults file ignored",
        "configuration",
        "tests/unit/config/test_load.py::test_each_source_overrides_the_weaker_ones",
        ("relay/config/sources.py", "if defaults_file := environ.get(DEFAULTS_FILE):", 'if defaults_file := "":'),
    ),
    mutant(
        "./config.toml preferred to RELAY_CONFIG",
        "configuration",
        "tests/unit/cli/test_config_file.py::test_a_command_reads_the_first_file_and_no_other",
        (
            "relay/config/load.py",
            'if environ.get("RELAY_CONFIG"):',
            'if environ.get("RELAY_CONFIG") and not _exists(CONFIG_FILES[0]):',
        ),
    ),
    mutant(
        "a default tenant that no event can use is accepted",
        "events",
        "tests/unit/config/test_load_rejected.py::test_allowed_tenants_must_contain_the_default_tenant",
        ("relay/config/load.py", "if default is not None and default not in allowed:", "if False:"),
    ),
    mutant(
        "a time with a comma accepted",
        "events",
        "tests/unit/event/test_values.py",
        (
            "relay/event/values.py",
            '(shape == "T::." and text[23:] == "Z")',
            '(shape[:3] == "T::" and text[23:] == "Z")',
        ),
    ),
    mutant(
        "any Host accepted",
        "events",
        "tests/unit/http/test_guard.py::test_any_other_host_is_rejected",
        ("relay/http/guard.py", "name is not None and (_is_loopback_name", "name is not None or (_is_loopback_name"),
    ),
    mutant(
        "any Origin accepted",
        "events",
        "tests/unit/http/test_guard.py::test_any_other_origin_is_rejected",
        ("relay/http/guard.py", "        if own and (fetch_site", "        if own or (fetch_site"),
    ),
    mutant(
        "fields around the events read without a limit",
        "G9",
        "tests/unit/event/test_reader_steps.py::test_reading_a_datagram_stops_when_it_is_certain_to_be_rejected",
        ("relay/event/split.py", "if cursor.at - (end - start) > max_event_bytes:", "if False:"),
    ),
    mutant(
        "a response to a response",
        "G9",
        "tests/unit/ingest/udp/test_ingest.py::test_a_response_that_is_returned_gets_no_response",
        ("relay/ingest/udp/responses.py", "if not is_response(received.data):", "if True:"),
    ),
    mutant(
        "a response to the relay's own socket",
        "G9",
        "tests/unit/ingest/udp/test_responses.py::test_the_relays_own_addresses_get_no_response",
        ("relay/ingest/udp/responses.py", "(ip, port) in self._own", "False"),
    ),
    mutant(
        "expensive datagrams read without a budget",
        "G6",
        "tests/unit/ingest/udp/test_datagrams.py::test_a_large_datagram_or_one_that_inflates_to_much_is_deferred",
        (
            "relay/ingest/udp/datagrams.py",
            "if not isinstance(body, bytes) or len(body) > SMALL_BYTES:",
            "if not isinstance(body, bytes):",
        ),
    ),
    mutant(
        "a compression bomb inflated completely",
        "G9",
        "tests/unit/http/test_content_coding.py::test_a_bomb_is_not_inflated_beyond_the_limit",
        (
            "relay/http/content_coding.py",
            "                part = member.decompress(piece, min(room + 1, _STEP_BYTES))\n",
            "                part = member.decompress(piece, 0)\n",
        ),
    ),
    mutant(
        "no timeout for slow clients",
        "G9",
        "tests/unit/http/test_listener.py::test_a_slow_client_gets_408_and_is_closed",
        (
            "relay/http/listener.py",
            "connection.expire(now_ms, self._settings.request_timeout_ms)",
            "connection.expire(now_ms, 1 << 40)",
        ),
    ),
    mutant(
        "an endless head kept in memory",
        "G9",
        "tests/unit/http/test_listener.py::test_a_head_beyond_32_kib_receives_431_and_is_closed",
        ("relay/http/reader.py", "        if len(head) > MAX_HEAD_BYTES:\n", "        if len(head) > 1 << 30:\n"),
    ),
    mutant(
        "two requests of a connection handled at the same time",
        "events",
        "tests/unit/http/test_connection_inputs.py::test_any_order_of_events_keeps_the_invariants",
        ("relay/http/connection.py", 'self._pipelined or state in {"handling", "writing"}', "self._pipelined"),
    ),
    mutant(
        "any bytes accepted after a chunk",
        "events",
        "tests/unit/http/test_framing.py::test_an_invalid_chunk_ends_the_body",
        (
            "relay/http/framing.py",
            'b"\\r\\n".startswith(line_break) if self._missing_bytes else b"\\r\\n".endswith(line_break)',
            "True",
        ),
    ),
    mutant(
        "unlimited connections",
        "G9",
        "tests/unit/http/test_listener.py::test_if_no_connection_is_idle_the_new_one_receives_503_and_is_counted",
        (
            "relay/http/listener.py",
            "len(self._connections) >= self._settings.max_connections",
            "len(self._connections) >= 1 << 20",
        ),
    ),
    mutant(
        "unlimited dead letters",
        "G9",
        f"{CONTRACT}::TestDeadLetters::test_oldest_dead_letters_are_deleted_at_the_limit",
        (f"{SQLITE}/dead_letters.py", "if letters <= limits.max_letters and ", "if "),
    ),
    mutant(
        "the oldest dead letter of all devices is deleted",
        "G6",
        "tests/abuse/test_neighbours.py::test_a_device_with_many_rejected_events_removes_no_dead_letter_of_another",
        (f"{ENGINE}/dead_letter_shares.py", "_Use(-use, ", "_Use(0 * use, "),
    ),
    mutant(
        "shares of the dead letters before an operator deleted some",
        "G2",
        f"{CONTRACT}::TestDeadLetters::test_a_device_with_many_dead_letters_loses_its_own_oldest",
        (f"{SQLITE}/dead_letters.py", "    database.dead_letter_shares = None\n", ""),
    ),
    mutant(
        "no receipt of a dead letter that is older than the dedupe window",
        "G1",
        "tests/unit/ingest/test_events_api.py::test_an_event_that_was_not_delivered_has_reason_and_message",
        ("relay/ingest/events_api.py", "        if not (letters or is_known):\n", "        if not is_known:\n"),
    ),
    mutant(
        "shutdown waits for the upstream",
        "G9",
        "tests/e2e/test_life.py::test_sigterm_with_a_silent_upstream_leaves_events_pending",
        ("relay/app/service.py", "asyncio.timeout(self.settings.shutdown.drain_ms / 1000)", "asyncio.timeout(None)"),
    ),
    mutant(
        "an error keeps a rejected body in memory",
        "G9",
        "tests/unit/event/test_reader.py::test_a_rejection_leaves_no_reference_cycles[lines-surrogate]",
        ("relay/event/reader.py", "return path, str(error)", "return path, error  # type: ignore[return-value]"),
    ),
    mutant(
        "a commit delayed while callers arrive",
        "G6",
        "tests/unit/outbox/engine/test_commit_delay.py::test_commit_begins_although_the_loop_stays_busy",
        (f"{ENGINE}/commit_delay.py", " or turned_us >= end_us:", ":"),
    ),
    mutant(
        "one commit delay per caller",
        "G6",
        "tests/unit/outbox/engine/test_commit_delay.py::test_commit_waits_at_most_a_quarter_of_a_commit",
        (
            f"{ENGINE}/commit_delay.py",
            "                quiet_turns = 0\n",
            "                quiet_turns = waited_us = 0\n",
        ),
    ),
    mutant(
        "the dedupe window falls behind the log",
        "G9",
        "tests/unit/outbox/sqlite/test_store_commits.py::test_stored_ids_of_deleted_events_are_not_moved_repeatedly",
        (f"{ENGINE}/deletion.py", "if missing_bytes > 0:", "if missing_bytes > 1 << 40:"),
    ),
    mutant(
        "calls delayed while events are dropped",
        "G6",
        "tests/unit/outbox/sqlite/test_space.py::test_claims_and_settles_complete_although_each_append_drops_events",
        (f"{ENGINE}/pending_calls.py", "self._ops_first = bool(self.ops) and", "self._ops_first = False and"),
    ),
    mutant(
        "the state of a quarantined event is found by a scan",
        "G9",
        "tests/unit/outbox/engine/test_stored_queue.py",
        (f"{ENGINE}/stored_queue.py", "return _contains(self.quarantined, seq)", "return seq in self.quarantined"),
    ),
    mutant(
        "each deletion scans the stored ids",
        "G9",
        "tests/unit/outbox/sqlite/test_statements_plans.py",
        (f"{SQLITE}/statements.py", "WHERE first_seq <= :seq AND last_seq <= :seq", "WHERE last_seq <= :seq"),
    ),
    mutant(
        "the dedupe window ignores the size of the outbox",
        "G9",
        "tests/unit/outbox/sqlite/test_space.py::test_stored_ids_cannot_fill_the_file",
        (f"{SQLITE}/recovery.py", "min(recovery.settings.dedupe_window, max_ids)", "recovery.settings.dedupe_window"),
    ),
    mutant(
        "unlimited long bodies read at the same time",
        "G9",
        "tests/unit/ingest/test_long_reads.py::test_the_size_of_active_bodies_is_limited_and_a_larger_one_is_read_alone",
        ("relay/ingest/long_reads.py", "self._active_bytes + sizes[at] > MAX_ACTIVE_BYTES", "not sizes"),
    ),
    mutant(
        "closed connections kept in memory",
        "G9",
        "tests/unit/http/test_listener.py::test_an_app_that_closes_no_connections_does_not_block_others",
        (
            "relay/http/listener.py",
            "            del self._connections[connection]\n",
            "            self._connections[connection] = None\n",
        ),
    ),
    mutant(
        "unlimited informational responses",
        "G9",
        "tests/unit/forward/test_response_head.py::test_too_many_informational_responses_are_an_error",
        ("relay/forward/response_head.py", "self._informational > MAX_INFORMATIONAL", "self._informational < 0"),
    ),
    mutant(
        "a thread for each lookup of a host",
        "G9",
        "tests/unit/forward/test_resolver.py::test_repeated_lookups_of_a_host_share_one_thread",
        ("relay/forward/resolver.py", "self._running.get(host) or self._start(", "self._start("),
    ),
    mutant(
        "a lost kept connection counted as a failure",
        "G6",
        "tests/unit/policy/test_schedule.py::test_a_request_on_a_closing_connection_is_resent_immediately_and_counted",
        ("relay/policy/judgement.py", 'return Judgement((), "exact")\n', "return NOTHING\n"),
    ),
    mutant(
        "one true time for all upstream origins",
        "G8",
        "tests/simulation/test_own_clock.py::test_a_wrong_date_of_one_origin_changes_no_event_of_another",
        (
            "relay/policy/true_time.py",
            "        true_time = self._by_origin.get(origin)\n        return None",
            "        true_time = next((t for t in self._by_origin.values() if t.ahead), None)\n        return None",
        ),
    ),
    mutant(
        "the monotonic time of another boot trusted",
        "G8",
        "tests/unit/forward/test_time_file.py::test_file_of_another_boot_is_ignored",
        ("relay/forward/time_file.py", "content.boot_id != self._clock.boot_id or ", ""),
    ),
    mutant(
        "an endpoint that rejects everything suspected too late",
        "G1",
        "tests/unit/policy/test_judgement.py::test_the_twentieth_event_rejected_in_a_row_makes_the_endpoint_misconfigured",
        (
            "relay/policy/rejections.py",
            "self._unnamed >= _UNNAMED_REJECTIONS_MAX",
            "self._unnamed > _UNNAMED_REJECTIONS_MAX",
        ),
    ),
    mutant(
        "a box that is switched off is forgotten",
        "operations",
        "tests/deploy/test_prometheus.py::test_each_alert_fires_on_its_condition_only",
        (
            "deploy/prometheus/fleet.yml",
            'max by (job, instance) (timestamp(up{job="relay"}) or\n'
            "          last_over_time(instance:relay_last_seen:timestamp_seconds[1h]))",
            'max by (job, instance) (timestamp(up{job="relay"}))',
        ),
    ),
    mutant(
        "gzip is sent to a client that rejects it",
        "operations",
        "tests/unit/ops/test_exposition.py::test_gzip_is_used_only_where_the_client_names_it",
        ("relay/ops/exposition.py", 'weight.strip("0.") != ""', 'weight != ""'),
    ),
    mutant(
        "the sidecar sets the group of the app's pod",
        "operations",
        "tests/deploy/test_kubernetes.py::test_the_component_adds_the_relay_and_changes_no_setting_of_the_pod",
        (
            "deploy/kubernetes/sidecar/relay.yaml",
            "    spec:\n      initContainers:",
            "    spec:\n      securityContext:\n        fsGroup: 65532\n      initContainers:",
        ),
    ),
    mutant(
        "a labelled app without a group gets a relay that cannot write",
        "operations",
        "tests/deploy/test_kubernetes.py::test_a_labelled_object_that_cannot_have_a_relay_fails",
        (
            "deploy/kubernetes/sidecar/kustomization.yaml",
            "      - op: move\n        from: /spec/template/spec/securityContext/fsGroup",
            "      - op: copy\n        from: /spec/template/spec/securityContext/fsGroup",
        ),
    ),
)
