"""Mutants that send out of order, above limits or at the expense of other devices: G4 to G6."""

from __future__ import annotations

from tests.mutants.mutant import CONTRACT, mutant

HANGING = "tests/simulation/test_hanging.py"
SLOTS = "tests/unit/policy/test_request_slots.py"

MUTANTS = (
    mutant(
        "two requests of a device in flight",
        "G4",
        "tests/unit/policy/test_schedule.py::test_a_device_queue_has_one_request_in_flight",
        (
            "relay/policy/schedule.py",
            "        if isinstance(position, InFlight):\n            if events > before",
            "        if isinstance(position, InFlight) and events < before:\n            if events > before",
        ),
        (
            "relay/policy/position.py",
            "        self.resend = True\n        return self\n",
            "        self.resend = True\n        return self\n\n"
            "    def arrived(self, due_at: int) -> Position:\n        return Lingering(due_at)\n",
        ),
    ),
    mutant(
        "rate window in memory only",
        "G5",
        "tests/fault/test_kills.py::test_a_kill_does_not_reset_the_rate_window",
        ("relay/forward/queue_holder.py", "queue.key, queue.window, now", 'queue.key, b"", now'),
    ),
    mutant(
        "rate slot freed at the request",
        "G5",
        "tests/unit/policy/test_schedule.py::test_a_rate_slot_is_free_one_window_after_the_response_not_after_the_request",
        (
            "relay/policy/schedule.py",
            "                queue.responded(now)\n            if events",
            "                queue.responded(reply.sent_at)\n            if events",
        ),
    ),
    mutant(
        "a burst at the limit of a device",
        "G5",
        "tests/unit/policy/test_rate_window.py",
        ("relay/policy/rate_window.py", "return max(now, self._sent_at + max(", "return min(now, self._sent_at + max("),
    ),
    mutant(
        "requests in flight at a kill not counted",
        "G5",
        "tests/unit/policy/test_schedule.py::test_requests_in_flight_at_a_crash_count_as_sent",
        (
            "relay/policy/schedule.py",
            "                queue.responded(now)\n                if share.omitted:\n",
            "                if share.omitted:\n",
        ),
    ),
    mutant(
        "the endpoint blamed for one event that a firewall rejects",
        "G6",
        "tests/unit/policy/test_cause.py::test_a_bad_event_is_found_and_its_endpoint_stays_ok",
        (
            "relay/policy/cause.py",
            '            return "device" if self.trusts_witnesses else "endpoint"\n',
            '            return "endpoint"\n',
        ),
    ),
    mutant(
        "a rejected key taken for the content of an event",
        "G1",
        "tests/unit/policy/test_cause.py::test_a_401_or_407_is_never_caused_by_content",
        ("relay/policy/verdict.py", "return self.status == 403", "return self.status is not None"),
    ),
    mutant(
        "a poison event dead-lettered after 9 minutes",
        "G1",
        "tests/unit/policy/test_cause.py::test_a_bad_event_is_found_and_its_endpoint_stays_ok",
        ("relay/policy/failed_request.py", "CONTENT_MS if at_once else POISON_MS", "CONTENT_MS"),
    ),
    mutant(
        "a later event sent although not each batch without events gets a response of the API",
        "G4",
        "tests/unit/policy/test_cause.py::test_only_if_the_api_responds_to_all_batches_without_events_a_later_event_is_sent",
        (
            "relay/policy/cause.py",
            "return self.api_since is not None and self.api_since <= at",
            "return self.asked_at is not None",
        ),
    ),
    mutant(
        "an event dead-lettered after another status than before the later event",
        "G1",
        "tests/unit/policy/test_cause.py::test_a_first_event_that_fails_in_another_way_after_the_later_one_is_no_bad_event",
        ("relay/policy/diagnosis.py", " and status == alone.status:", ":"),
    ),
    mutant(
        "the later event that failed is tried again and again",
        "G6",
        "tests/unit/policy/test_cause.py::test_a_later_event_that_fails_too_is_passed_over_and_found_when_it_is_the_first",
        ("relay/policy/diagnosis.py", "front = (*self._omitted_seqs(), seq)", "front = self._omitted_seqs()"),
    ),
    mutant(
        "a 429 to a batch without events that discards the finding",
        "G6",
        "tests/unit/policy/test_cause.py::test_a_429_to_a_batch_without_events_changes_no_finding",
        ("relay/policy/failed_request.py", 'case RateLimited() if before != "none":', "case RateLimited() if False:"),
    ),
    mutant(
        "a reordering not counted after a kill",
        "G4",
        "tests/simulation/test_cause.py::test_an_event_that_is_delivered_after_a_later_one_is_counted_also_after_a_kill",
        ("relay/policy/device_queue.py", "self.diagnosis = Diagnosis(overtaken=overtaken)", "pass"),
    ),
    mutant(
        "a batch without events after each failure",
        "G5",
        "tests/unit/policy/test_cause.py::test_batches_without_events_are_30_s_apart_and_their_answer_is_shared",
        ("relay/policy/cause.py", "_ASK_AFTER_MS = 30_000", "_ASK_AFTER_MS = 300"),
    ),
    mutant(
        "an isolated event sent again too soon",
        "G5",
        "tests/unit/policy/test_cause.py::test_a_bad_event_is_found_and_its_endpoint_stays_ok",
        ("relay/policy/backoff.py", "ISOLATION_MS = 60_000", "ISOLATION_MS = 45_000"),
    ),
    mutant(
        "a dead letter although the upstream fails by chance",
        "G1",
        "tests/unit/policy/test_cause.py::test_a_flaky_upstream_is_no_evidence_against_an_event",
        (
            "relay/policy/evidence.py",
            " for each in self._minutes) and not self.often_fails(since)",
            " for each in self._minutes)",
        ),
    ),
    mutant(
        "known devices wait for the next probe after too many rejections",
        "G6",
        "tests/unit/policy/test_cause.py::test_a_known_device_ends_the_pause_of_too_many_rejections",
        (
            "relay/policy/endpoint.py",
            "            self.end_pause()\n        return self.ready.add(",
            "            pass\n        return self.ready.add(",
        ),
    ),
    mutant(
        "no backoff",
        "G5",
        "tests/unit/policy/test_backoff.py",
        ("relay/policy/backoff.py", "    return int(u * min(", "    return 0 * int(u * min("),
    ),
    mutant(
        "backoff of a device at its limit that never resets",
        "G5",
        "tests/unit/policy/test_judgement.py::test_a_delivery_resets_the_backoff_of_a_device_at_its_own_limit",
        (
            "relay/policy/diagnosis.py",
            "overtaken=overtaken)\n        return HEALTHY",
            "overtaken=overtaken)\n        return self",
        ),
    ),
    mutant(
        "Retry-After ignored",
        "G5",
        "tests/fault/test_upstream_responses.py::test_retry_after_of_a_503_is_followed",
        (
            "relay/policy/backoff.py",
            "    return _spread(min(retry_after_ms, REQUESTED_DELAY_MAX_MS), u) if retry_after_ms else 0\n",
            "    return 0\n",
        ),
    ),
    mutant(
        "a fleet that returns at one instant",
        "G5",
        "tests/unit/policy/test_backoff.py",
        ("relay/policy/backoff.py", "    return delay_ms + int(u", "    return delay_ms + 0 * int(u"),
    ),
    mutant(
        "pause of a device ignored",
        "G6",
        "tests/unit/policy/test_schedule.py::test_a_paused_device_queue_does_not_block_others",
        (
            "relay/policy/device_queue.py",
            "        return at if at > paused_until else paused_until\n",
            "        return at\n",
        ),
    ),
    mutant(
        "a probe for each flush",
        "G6",
        "tests/abuse/test_flushes.py",
        ("relay/runtime/spaced_action.py", 'if self.state == "idle":', 'if self.state != "requested":'),
    ),
    mutant(
        "a flush ends a pause that a server requested",
        "G5",
        "tests/unit/policy/test_schedule.py::test_a_requested_pause_is_not_shortened",
        (
            "relay/policy/device_queue.py",
            "        self.pause = self.pause.ended()\n",
            "        self.pause = NO_PAUSE\n",
        ),
    ),
    mutant(
        "an exact request is forgotten when the disk fails",
        "G4",
        "tests/unit/policy/test_schedule.py::test_a_pause_for_the_disk_retains_an_exact_request",
        ("relay/policy/schedule.py", "        if send.exact:\n            self._queue_exact(queues)\n", ""),
    ),
    mutant(
        "a reboot resets the rate window",
        "G5",
        "tests/unit/policy/test_schedule.py::test_windows_of_another_boot_count_as_full",
        ("relay/policy/rate_window.py", "            window._earlier = (now, limit)\n", ""),
    ),
    mutant(
        "a 429 of a shared limit counted as a device limit",
        "G5",
        "tests/unit/policy/test_judgement.py::test_a_429_below_the_device_limit_starts_a_shared_limit",
        (
            "relay/policy/judgement.py",
            "    if one_device_only or own_limit:\n",
            "    if one_device_only or not own_limit:\n",
        ),
    ),
    mutant(
        "a shared limit for each tenant",
        "G5",
        "tests/unit/policy/test_schedule.py::test_tenants_of_one_origin_share_its_limit_and_another_origin_has_its_own",
        (
            "relay/policy/endpoints.py",
            "        name = self._origin_of(tenant_id or 0)\n",
            "        name = str(tenant_id)\n",
        ),
    ),
    mutant(
        "an endpoint for each tenant",
        "G6",
        "tests/unit/policy/test_endpoints.py::test_tenants_beyond_the_limit_share_one_endpoint",
        ("relay/policy/endpoints.py", "or len(self._unproven) < MAX_UNPROVEN", "or True"),
    ),
    mutant(
        "a served tenant that stays in the shared endpoint",
        "G6",
        "tests/unit/policy/test_endpoints.py::test_a_tenant_with_pending_events_leaves_the_shared_endpoint_after_its_first_delivery",
        (
            "relay/policy/endpoints.py",
            '        if tenant.assignment == "shared":\n            self._entitle(tenant_id',
            "        if False:\n            self._entitle(tenant_id",
        ),
    ),
    mutant(
        "a request in flight that counts for the endpoint of its tenant, not of its sender",
        "G6",
        "tests/unit/policy/test_endpoints.py::test_a_tenant_with_pending_events_leaves_the_shared_endpoint_after_its_first_delivery",
        (
            "relay/policy/schedule.py",
            "        return self._senders[send.shares[0].queue_id]\n",
            "        return self._endpoints.of(send.tenant_id)\n",
        ),
    ),
    mutant(
        "endpoints that are never freed",
        "G9",
        "tests/unit/policy/test_endpoints.py::test_an_endpoint_is_freed_after_one_window_without_pending_events",
        ("relay/policy/schedule.py", "        self._endpoints.free_expired(now, self.limits.window_ms, limit)\n", ""),
    ),
    mutant(
        "a failed try of a quiet upstream is not repeated",
        "status",
        "tests/simulation/test_quiet_start.py",
        (
            "relay/policy/empty_batches.py",
            '            if is_idle and endpoint.health.state != "ok":\n',
            "            if False:\n",
        ),
    ),
    mutant(
        "an upstream is tried without events although events were sent to it",
        "G5",
        "tests/unit/policy/test_empty_batches.py::test_an_upstream_to_which_events_were_sent_is_not_tried",
        (
            "relay/policy/endpoints.py",
            " for tenant_id in chosen if tenant_id not in known]",
            " for tenant_id in chosen]",
        ),
    ),
    mutant(
        "an event waits for the pause after a failed try",
        "G6",
        "tests/unit/policy/test_empty_batches.py"
        "::test_an_event_of_a_configured_tenant_is_sent_at_once_after_a_failed_try",
        (
            "relay/policy/endpoints.py",
            "            endpoint.end_pause()  # It was tried without events.\n",
            "            pass\n",
        ),
    ),
    mutant(
        "events of two tenants in one request",
        "G6",
        "tests/unit/policy/test_endpoints.py::test_every_tenant_is_served_and_each_request_has_events_of_one",
        (
            "relay/policy/batch_selection.py",
            '== "never" or endpoint.tenant_id is None:',
            '== "never":',
        ),
    ),
    mutant(
        "a flush that visits every device queue in one call",
        "G9",
        "tests/unit/policy/test_schedule.py::test_the_work_of_a_call_does_not_grow_with_the_number_of_device_queues",
        ("relay/policy/visits.py", "min(len(remaining), MAX_STEP)", "len(remaining)"),
    ),
    mutant(
        "all timers that expire together in one call",
        "G9",
        "tests/simulation/test_bounded_steps.py",
        ("relay/policy/schedule.py", "self._timers.pop_expired(now, MAX_STEP)", "self._timers.pop_expired(now, 10**9)"),
    ),
    mutant(
        "an attempt of which nothing left the box counts in the rate window",
        "G5",
        "tests/unit/policy/test_schedule.py::test_an_attempt_of_which_nothing_left_the_box_uses_no_rate_slot",
        ("relay/policy/schedule.py", "not isinstance(reply.verdict, NothingLeft)", "True"),
    ),
    mutant(
        "a failure from before a reload pauses its device after it",
        "G6",
        "tests/unit/policy/test_endpoints.py::test_a_late_failure_of_the_previous_configuration_pauses_nothing",
        ("relay/policy/endpoints.py", "        self._configured_at = now\n", ""),
    ),
    mutant(
        "a late 429 of the URL before a reload limits the new one",
        "G5",
        "tests/unit/policy/test_endpoints.py::test_a_late_response_of_the_previous_url_does_not_count_for_the_new_one",
        (
            "relay/policy/schedule.py",
            "        endpoint = self.endpoint(send)\n        health =",
            "        endpoint = self._endpoints.of(send.tenant_id)\n        health =",
        ),
    ),
    mutant(
        "a lifted shared limit left after hours",
        "G5",
        "tests/unit/policy/test_shared_limit.py::test_a_shared_limit_that_lasted_for_a_day_is_left_within_the_hour",
        ("relay/policy/shared_limit.py", "_MAX_WINDOWS_BEFORE_STEP = 16\n", "_MAX_WINDOWS_BEFORE_STEP = 64\n"),
    ),
    mutant(
        "a 429 that does not reduce the rate",
        "G5",
        "tests/unit/policy/test_shared_limit.py::test_a_429_halves_a_rate_that_was_never_clean",
        ("relay/policy/shared_limit.py", "self.rate / 2)", "self.rate)"),
    ),
    mutant(
        "a failing endpoint is probed by many requests",
        "G5",
        "tests/unit/policy/test_judgement.py::test_a_failing_endpoint_backs_off_with_full_jitter_and_is_probed_by_one_request",
        (
            "relay/policy/endpoint.py",
            "return FOR_TRIAL if not own.in_flight and",
            "return FOR_TRIAL if",
        ),
    ),
    mutant(
        "a site that powers up together sends together",
        "G5",
        "tests/unit/policy/test_schedule.py::test_a_site_that_powers_up_together_is_spread_over_the_linger_time",
        (
            "relay/policy/device_queue.py",
            '    return crc32(repr(key).encode("utf-8", "surrogatepass"))\n',
            "    return 0\n",
        ),
    ),
    mutant(
        "a start forgets known devices",
        "G6",
        "tests/unit/policy/test_device_queue.py::test_only_a_new_device_with_a_free_window_may_be_forgotten_at_a_start",
        ("relay/policy/device_queue.py", "    return not _is_known(packed) and is_free(", "    return is_free("),
    ),
    mutant(
        "one endpoint uses all request slots",
        "G6",
        "tests/unit/policy/test_schedule.py::test_an_endpoint_does_not_use_all_request_slots_beside_another",
        (
            "relay/policy/endpoint.py",
            "own.occupied >= (request_slots if is_only else max(1, request_slots - 1))",
            "own.occupied >= request_slots",
        ),
    ),
    mutant(
        "a known device that is new after a restart",
        "G6",
        "tests/unit/policy/test_device_queue.py::test_a_device_is_known_after_a_delivery_also_after_a_restart",
        ("relay/policy/device_queue.py", " if self.is_known else packed", " if self.is_known < 0 else packed"),
    ),
    mutant(
        "a device known by a dead letter",
        "G6",
        "tests/unit/policy/test_device_queue.py::test_a_device_is_known_after_a_delivery_also_after_a_restart",
        ("relay/policy/device_queue.py", "        if rejected < events:\n", "        if events:\n"),
    ),
    mutant(
        "a device sends until its queue is empty",
        "G6",
        "tests/unit/policy/test_schedule.py::test_device_queues_take_turns",
        (
            "relay/policy/ready_queues.py",
            "        queues.append(queue)\n        return device_class\n",
            "        queues.appendleft(queue)\n        return device_class\n",
        ),
    ),
    mutant(
        "new devices before known ones",
        "G6",
        "tests/unit/policy/test_class_turns.py::test_classes_are_served_in_order_and_the_last_ones_once_in_seven_requests",
        ("relay/policy/class_turns.py", "        return ready[0]\n", "        return ready[-1]\n"),
    ),
    mutant(
        "a class without a share of the requests",
        "G6",
        "tests/unit/policy/test_class_turns.py::test_each_class_with_requests_gets_one_of_eight_successive_ones",
        ("relay/policy/class_turns.py", "_MAX_WAIT = 6\n", "_MAX_WAIT = 1_000\n"),
    ),
    mutant(
        "devices share no request while request slots are missing",
        "G6",
        "tests/unit/policy/test_schedule.py"
        "::test_devices_share_requests_while_more_are_ready_than_request_slots_are_free",
        (
            "relay/policy/batch_selection.py",
            "    if len(endpoint.ready) <= free_slots or endpoint.slots.hanging or endpoint.is_quiet(now):\n",
            "    if limits:\n",
        ),
    ),
    mutant(
        "devices share requests that may hang",
        "G6",
        "tests/unit/policy/test_batch_selection.py::test_devices_are_kept_apart_once_the_latest_success_is_too_old",
        (
            "relay/policy/batch_selection.py",
            " or endpoint.slots.hanging or endpoint.is_quiet(now):\n",
            " or endpoint.slots.hanging:\n",
        ),
    ),
    mutant(
        "devices that always share requests linger alone",
        "G6",
        "tests/unit/policy/test_schedule.py::test_devices_that_always_share_requests_linger_together",
        (
            "relay/policy/schedule.py",
            "        return self._endpoints.of(queue.key[0]).origin.linger_phase if",
            "        return None if",
        ),
    ),
    mutant(
        "known devices halved together with new ones",
        "G6",
        "tests/unit/policy/test_batch_selection.py"
        "::test_a_rejected_request_is_split_between_known_and_new_devices_or_in_the_middle",
        ("relay/policy/batch_selection.py", "    if 0 < len(known) < len(request):\n", "    if request is known:\n"),
    ),
    mutant(
        "a 429 to one device of a mixed request limits all",
        "G6",
        "tests/unit/policy/test_judgement.py::test_a_429_to_one_of_several_mixed_requests_pauses_only_its_first_device",
        (
            "relay/policy/judgement.py",
            "        request = request._replace(queues=request.queues[:1])\n",
            "        request = request._replace(queues=request.queues)\n",
        ),
    ),
    mutant(
        "known devices forgotten after one window",
        "G6",
        "tests/unit/policy/test_schedule.py"
        "::test_known_devices_are_remembered_while_there_are_few_and_the_longest_idle_is_forgotten_first",
        ("relay/policy/empty_queues.py", "        if len(self._known) > remembered", "        if self._known"),
    ),
    mutant(
        "the order of classes inside an upstream origin only",
        "G6",
        "tests/unit/policy/test_endpoint_turns.py::test_the_order_of_classes_counts_across_origins",
        (
            "relay/policy/endpoint_turns.py",
            "self._active[0] if len(self._active) == 1 else self._first_active()",
            "self._active[0]",
        ),
    ),
    mutant(
        "a hanging request frees its request slot before 5 s",
        "G6",
        f"{HANGING}::test_many_that_hang_delay_only_the_first_event_of_each_other_one",
        ("relay/policy/request_slots.py", "STALLED_MS = 5_000\n", "STALLED_MS = 4_500\n"),
    ),
    mutant(
        "an overdue request that is no reason for caution",
        "G6",
        f"{SLOTS}::test_a_tenant_that_falls_silent_has_one_trial_at_a_time",
        ("relay/policy/patience.py", "max(_MIN_MS, 2 * self._slowest_ms)", "max(STALLED_MS, 2 * self._slowest_ms)"),
    ),
    mutant(
        "devices in doubt in all request slots",
        "G6",
        f"{SLOTS}::test_devices_in_doubt_use_half_of_the_request_slots",
        ("relay/policy/request_slots.py", "max(1, request_slots // 2)", "request_slots"),
    ),
    mutant(
        "a later event is tried in a brownout",
        "G1",
        "tests/unit/policy/test_cause.py::test_failures_of_a_delivered_event_show_a_brownout_for_15_minutes",
        ("relay/policy/failed_request.py", "    if endpoint.evidence.often_fails(", "    if False and bool("),
    ),
    mutant(
        "a later event is evidence in a brownout",
        "G1",
        "tests/unit/policy/test_cause.py::test_failures_of_a_delivered_event_outweigh_a_later_event",
        (
            "relay/policy/failed_request.py",
            "return not evidence.often_fails(request.now - _BROWNOUT_MS)",
            "return True",
        ),
    ),
    mutant(
        "no request slot for a device that was served while others hang",
        "G6",
        f"{SLOTS}::test_a_device_that_was_served_while_others_hang_always_finds_a_request_slot",
        ("relay/policy/request_slots.py", "request_slots - request_slots // 4", "request_slots"),
    ),
    mutant(
        "an endpoint whose requests hung and ended sends as before",
        "G6",
        f"{SLOTS}::test_a_tenant_whose_requests_hung_until_they_ended_has_one_trial_at_a_time_while_others_hang",
        ("relay/policy/endpoint.py", "0 if own_since is None else max", "max"),
    ),
    mutant(
        "an endpoint without a recent success uses all connections",
        "G6",
        "tests/unit/policy/test_endpoint.py::test_without_a_recent_success_it_has_a_quarter_of_the_connections",
        ("relay/policy/endpoint.py", "        most = few\n", "        most = connections\n"),
    ),
    mutant(
        "a batch without events occupies its request slot until the timeout",
        "G6",
        f"{SLOTS}::test_a_batch_without_events_that_hangs_frees_its_request_slot",
        ("relay/policy/empty_batches.py", "        if use == before:\n", "        if use:\n"),
    ),
    mutant(
        "tenants that were never served use all request slots",
        "G6",
        f"{SLOTS}::test_silent_tenants_leave_request_slots_for_one_that_was_served",
        ("relay/policy/endpoint.py", 'return is_only or self.health.state != "untested"', "return True"),
    ),
    mutant(
        "an endpoint whose requests all hang is not in doubt",
        "G6",
        f"{SLOTS}::test_a_tenant_that_falls_silent_has_one_trial_at_a_time",
        ("relay/policy/endpoint.py", "return success_at is not None and success_at >= since and", "return since or"),
    ),
    mutant(
        "an endpoint in doubt probed with a request that was in flight at a crash",
        "G6",
        f"{SLOTS}::test_a_failing_endpoint_is_probed_with_a_device_that_did_not_fail",
        (
            "relay/policy/batch_selection.py",
            "    if (room.are_trials or not room.in_doubt) and",
            "    if not room.in_doubt and",
        ),
    ),
    mutant(
        "timeouts of hanging devices blamed on their endpoint",
        "G6",
        f"{SLOTS}::test_the_timeout_of_a_device_beside_others_that_were_served_is_its_fault",
        ("relay/policy/failed_request.py", "endpoint.served_others(request.sent_at) or ", ""),
    ),
    mutant(
        "a noisy device fills the outbox",
        "G6",
        f"{CONTRACT}::TestFull::test_noisy_device_leaves_space_for_other_devices",
        (
            "relay/outbox/engine/fair_share.py",
            "    return held_bytes > _MAX_MULTIPLE * room_bytes\n",
            "    return held_bytes > 1 << 40\n",
        ),
    ),
)
