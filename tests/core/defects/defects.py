"""What went wrong in the predecessor, and which tests show that it does not go wrong here.

Numbers are those of the list that was made of it: A is data that was lost, calls that hung and answers that were
wrong; B is behaviour; C is providers; F is security. ``test_list.py`` checks that every number is here and every test
exists.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["DEFECTS", "Defect"]


@dataclass(frozen=True)
class Defect:
    """One of them."""

    what: str
    """What happened there."""
    tests: tuple[str, ...] = ()
    """``file::test`` below ``tests/``, or ``file::Class::test`` of the conformance kit, which every store runs."""
    absent: str = ""
    """Why there is nothing to test: what it was about is not here yet, or is no part of this."""


def _kit(name: str) -> str:
    return f"packages/kode-core/src/kode/core/testing/conformance/store/{name}"


DEFECTS: dict[str, Defect] = {
    "A1": Defect(
        "A crash among several calls left calls without a result, which no provider accepts.",
        (
            "tests/e2e/crash/test_matrix.py::test_crash_at_every_point",
            "tests/e2e/crash/test_kill.py::test_killed_at_random_moments",
            "tests/core/kernel/test_recovery.py::test_each_call_by_its_recovery",
        ),
    ),
    "A2": Defect(
        "Of two messages sent at once the second was lost, and so were reminders.",
        (
            "tests/core/runtime/test_agent.py::test_a_queue_of_twenty",
            _kit("processes.py::ProcessesContract::test_items_of_all_processes_are_there"),
        ),
    ),
    "A3": Defect(
        "The message after an interrupt was never answered.",
        (
            "tests/core/runtime/test_driving.py::test_interrupt_an_idle_agent",
            "tests/core/runtime/test_driving.py::test_interrupt_while_streaming",
        ),
    ),
    "A4": Defect(
        "An interrupt with more calls than slots hung.",
        ("tests/core/runtime/test_driving.py::test_interrupt_more_calls_than_slots",),
    ),
    "A5": Defect(
        "An interrupt stopped nothing: late results and late decisions still counted.",
        (
            "tests/core/runtime/test_driving.py::test_interrupt_while_paused",
            "tests/core/runtime/test_approval.py::test_an_interrupt_supersedes_what_is_open",
            "tests/core/kernel/test_calls.py::test_answers_to_closed_calls_are_late",
        ),
    ),
    "A6": Defect(
        "Resuming could erase a healthy agent: what was not registered passed for damage.",
        (
            "tests/core/defects/test_defects.py::test_damage_is_no_reason_to_begin_anew",
            "tests/core/runtime/test_agent.py::test_what_is_not_bound_leaves_the_agent_untouched",
        ),
    ),
    "A7": Defect(
        "Events were numbered anew after a resume, so numbers came twice.",
        (
            "tests/core/event/test_following.py::test_replay_from_every_cursor",
            "tests/core/runtime/test_faults.py::test_a_commit_that_fails_is_repeated",
            _kit("removal.py::RemovalContract::test_cursors_go_on_after_a_prune"),
        ),
    ),
    "A8": Defect(
        "A person who took more than five minutes to decide was answered by silence.",
        (
            "tests/core/runtime/test_driving.py::test_an_approval_that_takes_a_month",
            "tests/e2e/approval/test_processes.py::test_a_month_and_an_upgrade_lie_between_question_and_answer",
            "tests/core/runtime/test_limits.py::test_processing_time_stands_still_for_a_human_and_a_child",
        ),
    ),
    "A9": Defect(
        "A history that could not be read was taken for none, and overwritten.",
        (
            "tests/core/defects/test_defects.py::test_a_history_that_cannot_be_read_is_not_taken_for_none",
            _kit("corruption.py::CorruptionContract::test_a_corrupt_record_is_named_and_left_as_it_is"),
        ),
    ),
    "A10": Defect(
        "A write that failed left a message twice.",
        ("tests/core/runtime/test_faults.py::test_a_commit_that_fails_is_repeated",),
    ),
    "A11": Defect(
        "A model that failed looked like success, with the answer before it.",
        (
            "tests/core/runtime/test_agent.py::test_a_failed_run_never_shows_the_older_answer",
            "tests/core/kernel/test_run.py::test_why_the_model_stopped_is_what_the_run_says",
        ),
    ),
    "A12": Defect(
        "Whatever raised outside a tool broke the history.",
        (
            "tests/core/runtime/test_driving.py::test_what_raises_is_a_result",
            "tests/core/hook/test_gates.py::test_a_failure_is_an_event_without_its_words",
            "tests/core/hook/test_observers.py::test_its_failure_is_its_own",
        ),
    ),
    "A13": Defect(
        "Events were lost when a write was repeated, questions to people among them.",
        ("tests/core/defects/test_defects.py::test_no_question_is_lost_when_the_store_fails",),
    ),
    "A14": Defect(
        "The file store lost and doubled events while it started.",
        (
            "tests/stores/test_json_crash.py::test_stopped_at_every_step",
            "tests/stores/test_json_others.py::test_at_every_step_of_the_first_opening",
        ),
    ),
    "A15": Defect(
        "Writes at the same time broke the file store's files.",
        (
            "tests/stores/test_processes.py::test_acknowledged_items_and_commits_of_all_processes_are_there",
            _kit("swap.py::SwapContract::test_concurrent_counters_lose_no_step"),
        ),
    ),
    "A16": Defect(
        "A deleted agent came back in part, and took its forks along.",
        (
            "tests/stores/test_json_files.py::test_deleting_leaves_forks_and_no_folder",
            "tests/stores/test_json_crash.py::test_what_is_gone_stays_gone",
            _kit("removal.py::RemovalContract::test_a_driver_of_a_deleted_agent_is_stopped"),
        ),
    ),
    "A17": Defect(
        "Streams never ended, callers got each other's answers, a consumer who left leaked a run.",
        (
            "tests/core/event/test_following.py::test_a_filter_that_nothing_can_pass_is_refused",
            "tests/core/event/test_following.py::test_leaving_a_stream_early_stops_the_run",
            "tests/core/runtime/test_driving.py::test_each_caller_gets_its_own_answer",
        ),
    ),
    "A18": Defect(
        "A torn write made an agent vanish.",
        (
            "tests/stores/test_json_crash.py::test_cut_at_every_byte_of_the_last_line",
            "tests/stores/test_json_crash.py::test_stopped_at_every_step",
        ),
    ),
    "A19": Defect(
        "What was sent lived in memory until a step took it.",
        (
            "tests/stores/test_processes.py::test_what_was_acknowledged_outlives_a_kill",
            "tests/core/runtime/test_pool.py::test_what_another_process_enqueued_is_found",
        ),
    ),
    "B1": Defect(
        "Events read again came in another order, and twice.",
        ("tests/core/event/test_following.py::test_replay_from_every_cursor",),
    ),
    "B2": Defect(
        "The stored breakpoint was an old one.",
        ("tests/core/defects/test_defects.py::test_every_process_sees_what_an_agent_is_at",),
    ),
    "B3": Defect(
        "Each agent added to its template's prompt.",
        ("tests/core/defects/test_defects.py::test_a_template_stays_as_it_is_however_often_it_is_used",),
    ),
    "B4": Defect(
        "A made-up id was written into the caller's config, and the next agent became the first.",
        ("tests/core/defects/test_defects.py::test_a_config_makes_an_agent_each_time",),
    ),
    "B5": Defect(
        "To create an agent that exists adopted it; two processes could run one.",
        (
            "tests/core/runtime/test_agent.py::test_an_id_is_taken_once",
            "tests/core/runtime/test_driving.py::test_who_was_taken_over_stops",
            "tests/e2e/crash/test_kill.py::test_two_processes_fight_over_one_agent",
        ),
    ),
    "B6": Defect(
        "What a person said in denying never reached the model, and the reason for asking was lost.",
        (
            "tests/core/runtime/test_driving.py::test_a_denial_reaches_the_model",
            "tests/core/runtime/test_approval.py::test_the_model_hears_what_came_with_an_approval",
            "tests/core/runtime/test_approval.py::test_who_when_and_why_are_kept_with_the_question",
        ),
    ),
    "B7": Defect(
        "A tool that ran out of time counted as done.",
        (
            "tests/core/runtime/test_driving.py::test_a_tool_runs_out_of_time",
            "tests/core/tools/test_in_agents.py::test_a_time_out_ends_a_call",
        ),
    ),
    "B8": Defect(
        "An unknown mode allowed everything, and sub-agents had a mode of their own.",
        (
            "tests/core/runtime/test_approval_policy.py::test_an_unknown_mode_is_refused_and_nothing_is_touched",
            "tests/core/runtime/test_subagent_rights.py::test_a_readonly_parent_has_readonly_sub_agents",
        ),
    ),
    "B9": Defect(
        "An agent seemed READY between two steps, and while questions were open.",
        (
            "tests/core/kernel/test_golden.py::test_ready_never_flickers",
            "tests/core/runtime/test_approval.py::test_questions_are_answered_in_any_order",
        ),
    ),
    "B10": Defect(
        "Compression parted calls from results, kept giants and ran again each step.",
        (
            "tests/core/runtime/test_context.py::test_many_calls_in_a_step_are_never_parted",
            "tests/core/runtime/test_context.py::test_one_giant_message_is_shown_in_part_and_kept_whole",
            "tests/core/runtime/test_context.py::test_what_cannot_shrink_is_not_compacted_for_ever",
        ),
    ),
    "B11": Defect(
        "What was named at a resume was not heeded, though it was said to be.",
        ("tests/core/defects/test_defects.py::test_who_opens_an_agent_cannot_name_what_would_not_be_heeded",),
    ),
    "B12": Defect(
        "A call that was sealed after a crash had no end, and its step did not count.",
        ("tests/core/defects/test_defects.py::test_what_is_sealed_ends_like_any_call",),
    ),
    "B13": Defect(
        "An edit read signs in the new text as commands.",
        ("tests/core/tools/test_edit.py::test_a_replacement_has_no_special_meaning",),
    ),
    "B14": Defect(
        "An agent's own writes made a file stale for it, and it forgot all when it was resumed.",
        (
            "tests/core/tools/test_freshness.py::test_own_writes_never_make_a_file_stale",
            "tests/core/tools/test_in_agents.py::test_what_an_agent_has_seen_survives_its_process",
        ),
    ),
    "B15": Defect(
        "A killed shell lived on, said nothing until it ended, and failure was success.",
        (
            "tests/core/tools/test_shells.py::test_a_kill_ends_all_that_was_started",
            "tests/core/tools/test_shells.py::test_output_is_seen_while_it_runs",
            "tests/core/tools/test_builtin.py::test_bash",
        ),
    ),
    "B16": Defect("A failed call of an MCP server counted as done.", absent="There is no MCP client here yet."),
    "B17": Defect(
        "Schemas lost descriptions, choices and what is inside lists.",
        ("tests/core/tools/test_define.py::test_signature_and_docstring_become_the_schema",),
    ),
    "B18": Defect(
        "No bound on steps, time, tokens or cost.",
        (
            "tests/core/runtime/test_limits.py::test_budgets_of_a_run",
            "tests/core/runtime/test_limits.py::test_processing_timeout_s",
        ),
    ),
    "B19": Defect(
        "Snapshots were taken among calls; forks lacked half and shared ids.",
        (
            "tests/core/runtime/test_agent.py::test_no_snapshot_in_mid_step",
            "tests/core/runtime/test_agent.py::test_many_forks_at_once",
            "tests/core/runtime/test_documents.py::test_a_fork_goes_its_own_way_from_the_same_documents",
        ),
    ),
    "B20": Defect(
        "The pool raced with itself, forgot forks, deleted what ran, and lost its list at a restart.",
        (
            "tests/core/runtime/test_pool_places.py::test_two_who_open_one_agent_at_once_get_one_handle",
            "tests/core/runtime/test_pool_places.py::test_a_fork_is_the_pools_too",
            "tests/core/runtime/test_pool_places.py::test_delete_stops_the_agent_first",
            "tests/core/runtime/test_pool_kill.py::test_the_next_pool_finishes_what_the_last_one_left",
        ),
    ),
    "B21": Defect(
        "Messages had no number, time or author; a to-do lost its birth with each change.",
        (
            "tests/core/defects/test_defects.py::test_a_message_says_where_it_comes_from",
            "tests/core/tools/test_todo.py::test_what_keeps_its_id_or_title_keeps_its_birth",
        ),
    ),
    "B22": Defect(
        "Schedules counted by two, did not know days, and were gone after a resume.",
        (
            "tests/core/runtime/test_schedule.py::test_every_step_is_every_step",
            "tests/core/runtime/test_schedule.py::test_over_months_with_nobody_there",
            "tests/core/runtime/test_schedule_cron.py::test_all_five_fields_count",
        ),
    ),
    "B23": Defect("A room lost and doubled messages.", absent="There are no rooms here yet."),
    "B24": Defect(
        "Errors and reminders were in two languages.",
        ("tests/core/defects/test_defects.py::test_all_that_is_said_is_said_in_english",),
    ),
    "B25": Defect(
        "Signed reasoning was dropped, which breaks the next call.",
        ("tests/core/defects/test_defects.py::test_reasoning_goes_back_with_its_signature",),
    ),
    "C1": Defect(
        "Thinking was asked for without its budget, which the API refuses.",
        (
            "tests/core/provider/anthropic/test_messages_request.py::test_the_least_of_it",
            "tests/core/provider/anthropic/test_messages_request.py::test_thinking",
            "tests/core/provider/anthropic/test_messages_request.py::test_every_legal_history_is_accepted_and_not_changed",
        ),
    ),
    "C2": Defect(
        "Signatures of thoughts were lost in streams, and empty pieces of text were shown.",
        (
            "tests/core/provider/anthropic/test_messages_reply.py::test_any_chunking_gives_what_the_vendors_own_package_reads",
            "tests/core/provider/anthropic/test_messages.py::test_a_tool_loop_with_thoughts_and_the_key_stays_nowhere",
            "tests/core/provider/gemini/test_content.py::test_a_tool_loop_with_signatures_and_the_key_stays_nowhere",
            "tests/core/defects/test_defects.py::test_no_piece_that_is_shown_is_empty",
        ),
    ),
    "C3": Defect(
        "Input and cached tokens were not counted, or nothing was in streams.",
        (
            "tests/core/provider/anthropic/test_messages_reply.py::test_usage_counts_what_went_through_the_cache_once",
            "tests/core/provider/openai/test_chat_reply.py::test_usage_may_come_anywhere_and_odd",
            "tests/core/provider/openai/test_responses_reply.py::test_usage",
            "tests/core/provider/gemini/test_content_reply.py::test_usage_counts_thoughts_as_output",
        ),
    ),
    "C4": Defect(
        "Errors in mid-stream were swallowed, cut answers passed for whole ones, and nobody asked why a reply stopped.",
        (
            "tests/core/provider/test_assemble.py::test_every_prefix_of_a_stream_is_truncated",
            "tests/core/provider/anthropic/test_messages_reply.py::test_errors_in_mid_stream",
            "tests/core/provider/anthropic/test_messages_reply.py::test_what_ends_before_was_cut",
            "tests/core/provider/gemini/test_content_reply.py::test_errors_in_mid_stream",
            "tests/core/provider/openai/test_responses_reply.py::test_what_ends_before_the_end_was_cut",
            "tests/core/provider/wire/test_http.py::test_failures",
            "tests/core/kernel/test_run.py::test_why_the_model_stopped_is_what_the_run_says",
        ),
    ),
    "C5": Defect(
        "OpenAI's Responses had neither tools nor streams.",
        (
            "tests/core/provider/openai/test_responses.py::test_thoughts_go_on_from_step_to_step_and_turn_to_turn_and_the_key_stays_nowhere",
            "tests/core/provider/openai/test_responses_reply.py::test_any_chunking_gives_what_the_vendors_own_package_reads",
        ),
    ),
    "C6": Defect(
        "Pieces of interleaved blocks went to the block that had begun last.",
        (
            "tests/core/provider/anthropic/test_messages_reply.py::test_blocks_by_index",
            "tests/core/provider/openai/test_responses_reply.py::test_items_interleaved",
            "tests/core/provider/test_assemble.py::test_any_chunking_folds_to_the_same_reply",
        ),
    ),
    "C7": Defect(
        "No time-out, no cancelling, nothing tried again, and Retry-After was not read.",
        (
            "tests/core/provider/wire/test_http.py::test_silence",
            "tests/core/provider/wire/test_http.py::test_cancelling_is_prompt",
            "tests/core/provider/wire/test_http.py::test_what_the_server_wants_about_trying_again",
            "tests/core/provider/test_retry.py::test_a_delay_keeps_every_bound",
            "tests/core/provider/openai/test_chat_agent.py::test_a_new_attempt_follows_what_may_pass",
            "tests/core/provider/test_fallback.py::test_an_agent_shows_nothing_twice",
        ),
    ),
    "C8": Defect(
        "Caching of prompts and costs were described and not there.",
        (
            "tests/core/provider/anthropic/test_messages_request.py::test_marks_move_with_the_history",
            "tests/core/defects/test_defects.py::test_what_a_step_costs_is_told_and_bounded",
        ),
    ),
    "C9": Defect(
        "How a provider was set up was lost when an agent was resumed.",
        ("tests/core/defects/test_defects.py::test_a_resumed_agent_asks_as_before",),
    ),
    "C10": Defect(
        "Ids that were made up for calls came again in later steps and overwrote records.",
        (
            "tests/core/provider/test_assemble.py::test_ids_that_are_missing_or_given_twice_are_made_different",
            "tests/core/defects/test_defects.py::test_calls_of_one_id_in_every_step_are_kept_apart",
        ),
    ),
    "C11": Defect(
        "A key stood in the URL, and keys were stored with agents.",
        (
            "tests/core/provider/wire/test_http.py::test_the_key_shows_nowhere",
            "tests/core/provider/wire/test_http.py::test_a_key_in_the_url_is_refused_unseen",
            "tests/core/provider/anthropic/test_messages.py::test_a_tool_loop_with_thoughts_and_the_key_stays_nowhere",
            "tests/core/provider/gemini/test_content.py::test_a_tool_loop_with_signatures_and_the_key_stays_nowhere",
            "tests/core/provider/test_fallback_wire.py::test_a_run_goes_over_to_another_vendor_and_back",
        ),
    ),
    "C12": Defect(
        "A request without media was made by changing the stored messages.",
        (
            "tests/core/provider/openai/test_chat_request.py::test_media_it_does_not_take_leave_a_note_and_stay_as_they_are",
            "tests/core/provider/openai/test_chat_request.py::test_every_legal_history_is_accepted_and_not_changed",
            "tests/core/provider/anthropic/test_messages_request.py::test_every_legal_history_is_accepted_and_not_changed",
            "tests/core/provider/gemini/test_content_request.py::test_every_legal_history_is_accepted_and_not_changed",
        ),
    ),
    "F1": Defect(
        "The local sandbox was none: the environment, links and other folders were open.",
        (
            "tests/sandboxes/test_local.py::test_secrets_of_the_host_do_not_leak",
            "tests/sandboxes/test_files.py::test_nothing_outside_is_touched_or_named",
            "tests/sandboxes/test_isolation.py::test_nothing_outside_can_be_written",
        ),
    ),
    "F2": Defect(
        "Ids led out of the store's folder.",
        (
            "tests/core/defects/test_defects.py::test_a_name_leads_nowhere",
            "tests/stores/test_json_files.py::test_folder_names_are_safe",
        ),
    ),
    "F3": Defect(
        "A hook's answer went past a required approval; custom modes could not see arguments.",
        (
            "tests/core/hook/test_gates.py::test_no_hook_lifts_a_question",
            "tests/core/runtime/test_approval_policy.py::test_a_mode_of_ones_own_sees_the_call",
            "tests/core/runtime/test_approval_policy.py::test_a_broken_mode_allows_nothing",
        ),
    ),
    "F4": Defect(
        "A sub-agent was allowed more than its parent, and could go on without end.",
        (
            "tests/core/runtime/test_subagent_rights.py::test_the_strictest_of_all_counts",
            "tests/core/runtime/test_subagent_rights.py::test_every_generation_lies_within_all_above_it",
            "tests/core/runtime/test_subagent.py::test_depth_zero_means_none",
        ),
    ),
    "F5": Defect("Skills could write anywhere and run anything.", absent="There are no skills here yet."),
    "F6": Defect(
        "Keys lay in files that everybody could read, and in logs.",
        (
            "tests/stores/test_json_files.py::test_it_is_made_for_its_owner_only",
            "tests/stores/test_sqlite.py::test_it_is_made_for_its_owner_only",
            "tests/core/store/test_redaction.py::test_no_message_holds_a_secret",
            "tests/cli/test_run.py::test_what_run_was_given_is_kept_but_never_a_key",
        ),
    ),
    "F7": Defect(
        "An agent could read another's shell.",
        ("tests/core/tools/test_shells.py::test_shells_are_their_agents_own",),
    ),
    "F8": Defect(
        "A tool's hooks saw the calls of all tools.",
        ("tests/core/hook/test_gates.py::test_a_tools_own_hooks_see_its_own_calls_only",),
    ),
    "F9": Defect("A remote sandbox's paths were not quoted.", absent="Remote sandboxes are wheels of their own."),
    "F10": Defect(
        "An expression could be searched for without end.",
        (
            "tests/sandboxes/test_files.py::test_an_endless_expression_is_stopped",
            "tests/core/kernel/test_permission.py::test_what_is_too_long_to_search_is_let_through_by_nothing",
        ),
    ),
}
