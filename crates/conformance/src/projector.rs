//! What a projector does on every store.

mod delivery;
mod failures;
mod inline;
mod jobs;
pub mod ledger;
mod lifecycle;
mod orders;
mod parts;
mod reactors;
mod rebuilds;
mod replicas;
mod schedules;
mod starts;
mod startup;
mod waiting;

pub use delivery::*;
pub use failures::*;
pub use inline::*;
pub use jobs::*;
pub use lifecycle::*;
pub use orders::*;
pub use parts::*;
pub use reactors::*;
pub use rebuilds::*;
pub use replicas::*;
pub use schedules::*;
pub use starts::*;
pub use startup::*;
pub use waiting::*;

/// One test per case of the suite of the projector.
#[macro_export]
macro_rules! projector_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::projector, [
            each_event_is_projected_exactly_once
            an_event_that_does_not_decode_is_an_error_and_never_dropped
            unknown_names_are_never_decoded
            erased_events_are_passed_over
            parts_of_a_split_event_stay_together
            two_projectors_share_one_projection
            many_projections_share_one_projector
            a_restart_projects_nothing_old
            a_changed_past_stops_the_projection
            a_failing_batch_leaves_nothing_and_is_tried_again
            a_panic_is_a_failure_like_others
            a_skipped_event_becomes_a_letter_and_the_rest_flows
            a_parked_key_waits_and_the_others_go_on
            parked_keys_stay_parked_after_a_restart
            what_is_replayed_is_projected_once
            a_letter_that_fails_again_stays
            discarded_letters_are_gone
            what_does_not_decode_is_left_out_at_once
            attempts_are_used_up_before_it_stops
            two_projectors_leave_an_event_out_once
            a_reset_drops_the_letters
            what_is_erased_is_not_replayed
            a_debounce_makes_one_batch_of_many
            the_cap_holds_under_steady_traffic
            a_full_batch_does_not_wait
            a_periodic_projection_runs_once_in_each_interval
            a_trigger_runs_a_projection_now
            a_cron_projection_runs_at_its_times
            a_projection_that_runs_once_finishes
            a_projection_begins_behind_a_position
            a_projection_begins_at_a_time
            a_start_of_now_is_kept
            several_processes_begin_at_one_place
            a_start_beyond_the_end_is_refused
            waiting_ends_the_debounce
            waiting_concerns_those_who_want_the_events
            waiting_for_a_failing_projection_gets_its_error
            waiting_for_a_paused_projection_gets_an_error
            waiting_in_vain_ends_with_the_deadline
            a_foreign_receipt_is_refused
            a_receipt_is_awaited_in_another_process
            a_reset_builds_the_read_model_again
            a_reset_calls_the_projection
            a_paused_projection_rests_until_it_is_resumed
            a_shutdown_projects_what_was_collected
            a_shutdown_says_what_is_left
            a_shutdown_ends_with_its_grace
            a_checkpoint_also_passes_events_of_others
            names_are_checked_at_the_start
            one_process_leads_and_the_others_stand_by
            another_process_takes_over_after_a_shutdown
            another_process_takes_over_from_a_silent_one
            a_leader_of_the_past_stores_nothing
            a_lease_that_is_renewed_is_kept
            orders_reach_the_process_that_leads
            a_pause_outlives_processes
            orders_that_nobody_takes_are_taken_back
            rows_say_how_projections_are_doing
            a_process_that_is_dropped_gives_its_leases_back
            parts_project_each_event_once_in_the_order_of_its_key
            processes_share_the_parts
            a_reset_of_parts_concerns_all_of_them
            a_rebuild_of_parts_takes_the_place_of_all
            letters_of_parts_are_those_of_the_projection
            a_rewind_projects_again_what_is_behind
            letters_are_replayed_and_discarded_by_order
            a_rebuild_takes_the_place_of_what_is_read
            what_is_read_goes_on_during_a_rebuild
            a_rebuild_that_is_aborted_leaves_nothing
            a_rebuild_that_fails_leaves_what_is_read_alone
            a_rebuild_goes_on_in_another_process
            a_rebuild_swaps_the_letters_too
            what_cannot_change_places_says_so
            a_job_runs_with_what_came
            a_job_that_fails_gets_its_events_again
            what_a_job_puts_off_happens_once_for_each_key
            a_read_model_in_memory_has_the_whole_history
            a_long_history_is_read_in_pages
            what_a_read_model_lacks_is_no_fault_of_an_event
            a_job_runs_again_on_what_it_has_passed
            a_projection_does_not_run_again
            what_a_job_left_out_does_not_run_again
            a_job_is_reset
            a_job_must_not_keep_its_run
            jobs_and_projections_share_a_projector
            a_reactor_begins_with_what_comes
            a_reactor_misses_nothing_after_its_start
            a_reactor_begins_where_it_is_told
            a_reactor_goes_on_with_other_keys
            a_reactor_reacts_to_several_keys_at_once
            what_a_reactor_leaves_out_can_be_replayed
            a_store_that_is_away_is_no_failure_of_an_effect
            a_reactor_is_never_replayed
            one_process_reacts
            who_reads_does_not_wait_for_jobs_and_reactors
            only_a_part_of_the_history_is_projected_at_first
            a_crash_does_not_move_the_end_of_the_history
            an_empty_log_has_no_history
            a_startup_filter_adds_nothing
            a_read_model_of_a_job_has_what_the_job_does_not_get
            an_inline_read_model_is_up_to_date_when_the_append_returns
            an_inline_failure_fails_only_its_own_append
            a_slow_or_panicking_inline_projection_is_bounded
            an_outage_that_an_inline_projection_meets_is_told_soon
            a_refused_append_leaves_nothing_inline
            an_append_projects_first_what_others_have_left
            an_append_does_not_make_up_for_too_much
            what_other_processes_append_is_never_skipped_inline
            two_processes_run_one_inline_projection
            a_projection_changes_between_inline_and_async_under_load
            appends_go_on_while_an_inline_projection_rests
            a_reset_of_an_inline_projection_builds_it_again
            an_inline_projection_is_rebuilt_beside_itself
            events_of_a_parked_key_wait_inline_too
            nothing_erased_comes_back_inline
            an_inline_projection_ends_with_its_projector
            appends_that_an_inline_projection_does_not_want_are_not_touched
        ]);
    };
}
