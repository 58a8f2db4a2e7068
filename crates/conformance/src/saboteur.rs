//! Stores that break one promise each: a named case must notice.

use std::{
    panic::{AssertUnwindSafe, catch_unwind},
    sync::Arc,
};

use backstory_event::EventBus;

use crate::Fixture;

mod beside;
mod bus;
mod store;

pub use store::Saboteur;

/// One line per sabotage: the invariant of the design that it breaks, what it does, and the case
/// that must fail.
macro_rules! sabotages {
    ($($invariant:literal $sabotage:ident $does:literal => $($case:ident)::+;)*) => {
        /// A promise that is broken.
        #[derive(Debug, Clone, Copy, PartialEq, Eq)]
        pub enum Sabotage {
            $(#[doc = $does] $sabotage,)*
        }

        /// All sabotages.
        pub const SABOTAGES: &[Entry] = &[$(Entry {
            invariant: $invariant,
            sabotage: Sabotage::$sabotage,
            does: $does,
            case: &[$(stringify!($case)),+],
        },)*];

        /// Runs the case that must notice a sabotage.
        pub async fn run_case<F: Fixture>(noticed_by: Sabotage, fixture: &F) {
            match noticed_by {
                $(Sabotage::$sabotage => crate::$($case)::+(fixture).await,)*
            }
        }
    };
}

sabotages! {
    1 SplitsAppends "stores the parts of an append one by one"
        => event_store::append::one_refused_stream_stores_none_of_the_others;
    1 DropsTheLastEvent "stores all but the last event of an append"
        => event_store::append::an_append_is_given_back_with_its_receipt;
    1 StoresNothing "says stored and stores nothing"
        => event_store::append::versions_of_each_stream_begin_at_one;
    1 IgnoresClaims "does not write companions"
        => event_store::claims::a_claim_is_held_by_one_stream;
    1 ComparesClaimsWithoutCase "takes different unique values for the same"
        => event_store::claims::values_are_compared_byte_by_byte;
    1 IgnoresEntries "does not write values that are not unique"
        => lookups::many_aggregates_have_one_value;
    1 KeepsOldValues "keeps the values that an aggregate gave up"
        => lookups::a_value_moves_with_its_event;
    1 FindsByBeginnings "finds values that only begin like the one that is wanted"
        => lookups::lists_come_in_byte_order_page_by_page;
    1 RepairsBlindly "writes values by events that are not the newest"
        => lookups::a_repair_that_comes_late_changes_nothing;
    1 IgnoresExpectedVersions "appends whatever the version of the stream is"
        => event_store::append::exact_refuses_versions_that_are_too_low_or_too_high;
    1 IgnoresConditions "appends whatever was stored in the meantime"
        => event_store::conditions::the_last_seat_is_reserved_once;
    1 ChecksConditionsFromTheStart "refuses for what the decision has seen"
        => event_store::conditions::a_condition_looks_only_behind_its_position;
    2 BurnsPositions "leaves a hole after a refused append"
        => event_store::append::failed_appends_burn_no_position;
    2 SkipsEvents "moves readers past events that it did not give them"
        => event_store::concurrency::a_reader_of_a_growing_log_misses_nothing;
    2 SwapsEvents "gives events of a page in another order"
        => event_store::concurrency::positions_are_dense_under_many_writers;
    2 RepeatsAtPageBoundaries "gives the last event of a page again on the next"
        => event_store::pages::small_pages_meet_without_gap_or_repeat;
    2 IgnoresTheDirection "reads forward when asked for backward"
        => event_store::query::limits_and_directions_hold;
    2 GivesOneMore "gives one event more than the limit"
        => properties::random_queries_give_what_their_filter_means;
    2 TurnsTimeBack "records times that decrease along the log"
        => event_store::content::recorded_at_is_in_microseconds_and_never_decreases;
    2 RecordsNanoseconds "records times finer than microseconds"
        => event_store::content::recorded_at_is_in_microseconds_and_never_decreases;
    2 SortsStreamsBackward "lists streams in another order than that of their bytes"
        => event_store::streams::streams_are_listed_in_byte_order;
    4 NeverWakes "does not tell who waits that the log has grown"
        => subscription::a_subscription_goes_on_when_the_log_grows;
    4 PromisesNews "says that the log has grown when it has not"
        => event_store::outcome::who_waits_for_news_is_woken;
    4 ReordersTheBus "delivers events by name instead of by position"
        => bus::order_is_kept_across_names_and_streams;
    5 IgnoresFences "commits a batch although another process moved the projection"
        => documents::a_fenced_commit_writes_nothing;
    5 WritesWhatIsFenced "writes the documents of a batch that it refuses"
        => documents::a_fenced_commit_writes_nothing;
    5 ForgetsCheckpoints "commits documents without their checkpoint"
        => documents::a_commit_moves_the_checkpoint_also_without_documents;
    5 LosesLetters "commits batches without the letters of what they left out"
        => letters::letters_are_kept_with_their_step;
    5 KeepsLetters "keeps the letters that a step removes"
        => projector::what_is_replayed_is_projected_once;
    5 UnparksKeys "says that no key is parked"
        => projector::a_parked_key_waits_and_the_others_go_on;
    5 RepeatsLetters "gives the last letter of a page again on the next"
        => letters::letters_are_listed_page_by_page;
    5 SwapsNothing "says that a rebuild has taken the place of what is read, and does nothing"
        => projector::a_rebuild_takes_the_place_of_what_is_read;
    5 RunsNothingInline "takes projections that shall run inside appends, and does not run them"
        => projector::an_inline_read_model_is_up_to_date_when_the_append_returns;
    6 DeniesWhatItStored "says not stored after it has stored"
        => event_store::outcome::an_expired_deadline_tells_the_truth;
    7 ForgetsIds "stores the same append again"
        => event_store::idempotency::the_same_append_gives_the_same_receipt;
    7 LetsTheFirstIdDecide "takes an append for stored when one of its events is"
        => event_store::idempotency::anything_but_the_same_append_is_a_reuse;
    7 ChecksVersionsBeforeIds "refuses a repeated append because of its own first attempt"
        => event_store::idempotency::the_ids_decide_before_everything_else;
    8 SpoilsNeighbours "answers the append after a refused one with the same refusal"
        => event_store::concurrency::a_refused_append_disturbs_no_other;
    9 IgnoresProofs "reads on although the log is another one"
        => event_store::pages::a_page_proves_the_log_before_it;
    9 ForgetsProofs "gives checkpoints without the id of their event"
        => event_store::pages::pages_are_bounded_and_go_on_where_they_ended;
    11 DropsWhatItCannotDecode "passes over events that it does not know"
        => event_store::content::events_that_nobody_knows_are_given_back_as_stored;
    11 BreaksOnTheUnknown "fails when it meets an event that it does not know"
        => event_store::content::events_that_nobody_knows_are_given_back_as_stored;
    12 ErasesRows "removes erased events from the log"
        => event_store::lifecycle::erasing_keeps_the_skeleton_and_nothing_else;
    12 ErasesByDeleting "keeps the content of erased streams"
        => event_store::lifecycle::readers_pass_over_erased_events;
    12 SwallowsDeletes "stores a deletion without its effect"
        => event_store::lifecycle::a_deleted_stream_refuses_all_but_restore_and_erase;
    12 KeepsSnapshots "keeps the snapshots of erased streams"
        => snapshots::an_erased_stream_has_no_snapshots;
    12 KeepsDocuments "keeps the documents of erased streams"
        => documents::an_erased_stream_takes_its_documents_along;
    13 AnswersInOnePage "gives a whole answer as one page"
        => event_store::pages::pages_are_bounded_and_go_on_where_they_ended;
    13 QueuesWithoutEnd "keeps everything for a slow subscriber"
        => bus::a_full_queue_never_blocks_the_publisher;
    13 BlocksThePublisher "waits for a slow subscriber"
        => bus::a_full_queue_never_blocks_the_publisher;
    13 MissesSilently "does not tell a slow subscriber what it missed"
        => bus::a_slow_subscriber_learns_what_it_missed;
    15 LosesTags "does not store tags"
        => event_store::content::tags_come_back_and_are_found;
    15 RoundsNumbers "stores every number as a float"
        => event_store::content::payloads_come_back_exactly;
    15 StoresTheRestOfBadInput "stores what is good of a bad append"
        => event_store::bad_input::odd_event_names_are_refused;
}

/// The invariants of the design that show at the ports of this crate.
const VISIBLE: [u8; 12] = [1, 2, 4, 5, 6, 7, 8, 9, 11, 12, 13, 15];

/// A sabotage and who notices it.
#[derive(Debug, Clone, Copy)]
pub struct Entry {
    /// The number of the invariant in the design.
    pub invariant: u8,
    pub sabotage: Sabotage,
    /// What the saboteur does.
    pub does: &'static str,
    case: &'static [&'static str],
}

impl Entry {
    /// The path of the case that must fail.
    pub fn case(&self) -> String {
        self.case.join("::")
    }
}

/// A fixture whose store and bus break one promise; none for the control.
#[derive(Debug)]
pub struct Sabotaged<F> {
    fixture: F,
    sabotage: Option<Sabotage>,
    notes: store::Notes,
}

impl<F> Sabotaged<F> {
    pub fn new(fixture: F, sabotage: Option<Sabotage>) -> Self {
        Self {
            fixture,
            sabotage,
            notes: store::Notes::default(),
        }
    }
}

impl<F: Fixture> Fixture for Sabotaged<F> {
    type Store = Saboteur<F::Store>;

    fn store(&self) -> Self::Store {
        Saboteur::new(self.fixture.store(), self.sabotage, &self.notes)
    }

    async fn elsewhere(&self) -> Self::Store {
        Saboteur::new(self.fixture.elsewhere().await, self.sabotage, &self.notes)
    }

    fn bus(&self, capacity: usize) -> Arc<dyn EventBus> {
        let endless = self.sabotage == Some(Sabotage::QueuesWithoutEnd);
        let bus = self
            .fixture
            .bus(if endless { usize::MAX } else { capacity });
        Arc::new(bus::SaboteurBus::new(bus, self.sabotage))
    }
}

/// Runs every sabotage against its case, and the case without it. `make` gives a fixture of a store
/// without input or output of its own: the time of the runtime stands still and jumps to the next
/// deadline, so that nobody waits for what never comes.
///
/// # Panics
/// When a sabotage goes unnoticed, a case fails without it, or an invariant has no sabotage.
#[allow(clippy::print_stdout, reason = "the table is what CI shows")]
pub fn check_saboteurs<F: Fixture>(make: impl AsyncFn() -> F) {
    let mut wrong = Vec::new();
    for entry in SABOTAGES {
        let fails = |sabotage| {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .start_paused(true)
                .build()
                .unwrap();
            let case = async {
                let fixture = Sabotaged::new(make().await, sabotage);
                run_case(entry.sabotage, &fixture).await;
            };
            catch_unwind(AssertUnwindSafe(|| runtime.block_on(case))).is_err()
        };
        println!(
            "invariant {} -> {:?} -> {}",
            entry.invariant,
            entry.sabotage,
            entry.case()
        );
        if fails(None) {
            wrong.push(format!("{} fails without any sabotage", entry.case()));
        }
        if !fails(Some(entry.sabotage)) {
            wrong.push(format!(
                "{} does not notice {:?}",
                entry.case(),
                entry.sabotage
            ));
        }
    }
    for invariant in VISIBLE {
        if SABOTAGES.iter().all(|entry| entry.invariant != invariant) {
            wrong.push(format!("no sabotage breaks invariant {invariant}"));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[cfg(test)]
mod tests {
    use super::*;

    fn document() -> String {
        let mut text = "# Saboteurs\n\n\
             Each line is a store or bus that breaks one promise, the invariant of the design to \
             which the promise belongs, and the case of the conformance suite that fails because of \
             it. The test `saboteurs_are_noticed` of `backstory-store-memory` runs them all, and each \
             case without its sabotage too. This file is written from the same list.\n\n\
             | invariant | sabotage | case that fails |\n|---|---|---|\n"
            .to_owned();
        for entry in SABOTAGES {
            let Entry {
                invariant,
                sabotage,
                does,
                ..
            } = entry;
            let case = entry.case();
            text += &format!("| {invariant} | `{sabotage:?}`: {does} | `{case}` |\n");
        }
        text
    }

    #[test]
    fn the_file_lists_what_is_run() {
        let path = concat!(env!("CARGO_MANIFEST_DIR"), "/SABOTEURS.md");
        let document = document();
        let is_current = std::fs::read_to_string(path).is_ok_and(|text| text == document);
        if !is_current {
            std::fs::write(path, document).unwrap();
        }
        assert!(
            is_current,
            "{path} was not up to date and is written anew: look at it and commit it"
        );
    }
}
