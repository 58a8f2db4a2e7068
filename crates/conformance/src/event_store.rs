//! What every event store does.

pub mod append;
pub mod bad_input;
pub mod claims;
pub mod concurrency;
pub mod conditions;
pub mod content;
pub mod folds;
pub mod idempotency;
pub mod lifecycle;
pub mod outcome;
pub mod pages;
pub mod query;
pub mod streams;

/// The suite of the [`EventStore`](backstory_event::EventStore) port: `$make` is a future of a
/// [`Fixture`](crate::Fixture).
#[macro_export]
macro_rules! event_store_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::event_store::append, [
            an_append_is_given_back_with_its_receipt
            an_empty_log_has_nothing
            a_receipt_survives_its_text_form
            versions_of_each_stream_begin_at_one
            category_and_key_are_never_one_text
            any_version_is_never_refused
            no_stream_refuses_an_existing_stream
            stream_exists_refuses_a_missing_stream
            exact_refuses_versions_that_are_too_low_or_too_high
            a_part_without_events_only_checks_a_version
            several_streams_are_stored_together
            one_refused_stream_stores_none_of_the_others
            failed_appends_burn_no_position
            a_large_append_is_stored_in_order
            one_name_may_stand_in_many_categories
            another_handle_sees_what_was_stored
        ]);
        $crate::cases!($make, $crate::event_store::content, [
            payloads_come_back_exactly
            metadata_comes_back_exactly
            tags_come_back_and_are_found
            odd_names_categories_and_keys_are_just_text
            names_are_compared_byte_by_byte
            schema_versions_come_back
            recorded_at_is_in_microseconds_and_never_decreases
            events_that_nobody_knows_are_given_back_as_stored
            a_renamed_event_is_found_under_its_old_name
            payloads_of_the_largest_size_are_kept
        ]);
        $crate::cases!($make, $crate::event_store::idempotency, [
            the_same_append_gives_the_same_receipt
            the_ids_decide_before_everything_else
            anything_but_the_same_append_is_a_reuse
            two_appends_with_something_between_are_not_one
            the_same_append_many_times_at_once_is_stored_once
            a_refused_append_may_be_sent_again
        ]);
        $crate::cases!($make, $crate::event_store::conditions, [
            a_condition_finds_names_tags_categories_and_streams
            a_condition_passes_over_what_it_does_not_mean
            a_condition_looks_only_behind_its_position
            a_condition_does_not_see_its_own_events
            each_of_several_conditions_must_hold
            conditions_stand_beside_expected_versions
            a_condition_proves_the_log_that_was_read
            a_condition_on_an_event_finds_its_old_names
            a_fold_gives_a_state_and_its_boundary
            a_fold_over_many_pages_reads_to_the_end
            the_last_seat_is_reserved_once
        ]);
        $crate::cases!($make, $crate::event_store::claims, [
            a_claim_is_held_by_one_stream
            the_owner_may_claim_again
            a_released_value_is_free
            only_the_owner_releases
            a_claim_goes_with_its_append
            one_append_changes_from_one_value_to_another
            values_are_compared_byte_by_byte
            a_claim_may_be_for_a_stream_without_events
            deletion_keeps_claims_and_erasure_frees_them
            of_many_claims_at_once_one_wins
        ]);
        $crate::cases!($make, $crate::event_store::lifecycle, [
            a_deleted_stream_refuses_all_but_restore_and_erase
            lifecycle_events_are_versioned_events
            the_order_within_an_append_counts
            erasing_keeps_the_skeleton_and_nothing_else
            readers_pass_over_erased_events
            an_erased_stream_refuses_all_but_a_revival
            deleted_streams_can_be_erased
            a_refused_erasure_erases_nothing
            streams_get_and_lose_tags
            stream_rows_follow_the_log
            a_pure_check_may_look_at_a_deleted_stream
        ]);
        $crate::cases!($make, $crate::event_store::streams, [
            streams_are_listed_in_byte_order
            streams_are_filtered_by_category_key_tag_and_state
            every_stream_is_listed_once_while_others_write
            a_cursor_outlives_its_stream
            lists_of_streams_are_bounded
            an_unknown_stream_has_no_row
        ]);
        $crate::cases!($make, $crate::event_store::query, [
            filters_find_what_they_mean
            bounds_of_positions_hold
            bounds_of_versions_hold
            bounds_of_times_hold
            limits_and_directions_hold
            many_streams_and_names_in_one_filter_are_found
        ]);
        $crate::cases!($make, $crate::event_store::pages, [
            pages_are_bounded_and_go_on_where_they_ended
            small_pages_meet_without_gap_or_repeat
            a_page_proves_the_log_before_it
            an_unproved_position_is_just_a_bound
            events_are_streamed_page_by_page
            what_is_stored_while_a_query_is_read_does_not_disturb_it
        ]);
        $crate::cases!($make, $crate::event_store::folds, [
            a_fold_gives_the_state_at_any_position
            a_fold_gives_the_state_at_any_time
            a_decision_on_a_past_state_is_refused
            an_event_that_does_not_decode_ends_a_fold
        ]);
        $crate::cases!($make, $crate::event_store::concurrency, [
            positions_are_dense_under_many_writers
            a_reader_of_a_growing_log_misses_nothing
            of_many_writers_with_one_version_one_wins
            appends_sent_in_order_are_decided_in_order
            a_refused_append_disturbs_no_other
            appends_to_overlapping_streams_do_not_lock_each_other_out
            many_readers_see_the_same
        ]);
        $crate::cases!($make, $crate::event_store::outcome, [
            a_dropped_append_is_stored_whole_or_not_at_all
            an_expired_deadline_tells_the_truth
            deadlines_hold_under_load
            who_waits_for_news_is_woken
        ]);
        $crate::cases!($make, $crate::event_store::bad_input, [
            empty_appends_are_refused
            odd_event_names_are_refused
            odd_categories_keys_and_tags_are_refused
            reserved_names_are_refused
            schema_versions_begin_at_one
            nil_and_repeated_ids_are_refused
            one_stream_in_two_parts_is_refused
            what_is_too_large_is_refused
            metadata_that_cannot_be_kept_is_refused
            odd_claims_are_refused
            a_condition_beyond_the_newest_event_is_refused
            odd_filters_find_nothing_and_break_nothing
            payloads_that_would_change_are_refused_at_the_edge
            a_store_goes_on_after_bad_input
        ]);
    };
}
