//! What every store of documents must do.

use backstory_event::{
    Append, Checkpoint, EventId, EventStore, ExpectedVersion, Lifecycle, NewEvent, Payload,
    Position, StreamId,
};
use backstory_projection::{
    Checkpoints, Collection, CommitError, DocumentKey, DocumentList, DocumentPage, DocumentReader,
    DocumentStore, DocumentWrite, Documents, List, Progress, Step, Target,
};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::{Fixture, kit::within};

mod commits;
mod content;
mod lists;

pub use commits::*;
pub use content::*;
pub use lists::*;

/// One test per case of the suite of document stores.
#[macro_export]
macro_rules! documents_suite {
    ($make:expr) => {
        $crate::cases!($make, $crate::documents, [
            what_is_put_comes_back
            what_is_not_there_is_none
            a_put_replaces_and_a_delete_removes
            many_keys_are_answered_in_their_order
            collections_do_not_mix
            keys_are_listed_in_byte_order
            a_prefix_is_text_and_no_pattern
            an_index_orders_by_value_and_then_by_key
            an_index_holds_all_kinds_of_values_in_order
            equals_finds_exactly_one_value
            an_index_follows_its_documents
            documents_without_the_field_are_left_out
            pages_hold_everything_once
            a_cursor_stays_right_while_others_write
            a_commit_moves_the_checkpoint_also_without_documents
            a_fenced_commit_writes_nothing
            a_commit_from_before_a_reset_is_fenced
            of_many_commits_at_once_one_wins
            projections_do_not_fence_each_other
            a_reset_empties_only_its_own_collections
            the_progress_of_all_is_listed_by_name
            another_handle_sees_what_was_committed
            five_thousand_documents_go_into_one_commit
            an_erased_stream_takes_its_documents_along
            what_was_read_before_an_erasure_does_not_come_back
        ]);
    };
}

const NOTES: Collection = Collection::named("notes").indexed("rank").indexed("list");

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
struct Note {
    rank: i64,
    list: String,
}

fn note(rank: i64, list: &str) -> Note {
    let list = list.to_owned();
    Note { rank, list }
}

/// The progress after the next step of a projection, with what it writes.
async fn commit<S: DocumentStore + Checkpoints>(
    store: &S,
    projection: &str,
    writes: Vec<DocumentWrite>,
) -> Progress {
    let from = store.load_progress(projection).await.unwrap();
    let to = Target::Advance(further(&from));
    let step = Step::new(from, to);
    within(store.commit_documents(writes, &step)).await.unwrap();
    step.result()
}

fn further(from: &Progress) -> Checkpoint {
    Checkpoint {
        position: from.checkpoint.position.next(),
        event_id: EventId::new(),
    }
}

fn documents<S: DocumentStore + Clone>(store: &S) -> Documents {
    Documents::new(std::sync::Arc::new(store.clone()))
}

/// Puts these documents into a collection.
async fn put<S: DocumentStore + Checkpoints + Clone>(
    store: &S,
    collection: Collection,
    entries: impl IntoIterator<Item = (impl ToString, impl Serialize + Sync)>,
) {
    let mut docs = documents(store);
    for (key, document) in entries {
        docs.put(collection, &key.to_string(), &document)
            .await
            .unwrap();
    }
    commit(store, "notes", docs.into_writes()).await;
}

async fn get<S: DocumentStore + Clone>(
    store: &S,
    collection: &'static str,
    key: &str,
) -> Option<Value> {
    let reader = DocumentReader::from(store);
    within(reader.get(collection, key)).await.unwrap()
}

/// All keys of a list, page by page.
async fn keys<S: DocumentStore + Clone>(store: &S, list: List) -> Vec<String> {
    let reader = DocumentReader::from(store);
    let mut keys = Vec::new();
    let mut next = None;
    loop {
        let page: DocumentPage<Value> =
            within(reader.list(list.clone().after(next))).await.unwrap();
        keys.extend(page.items.into_iter().map(|(key, _)| key));
        next = page.next;
        if next.is_none() {
            return keys;
        }
    }
}

#[track_caller]
fn assert_fenced(outcome: Result<(), CommitError>, name: &str) {
    match outcome {
        Err(CommitError::Fenced { projection }) => assert_eq!(projection, name),
        other => panic!("it was not fenced: {other:?}"),
    }
}

fn one(collection: &str, key: &str, body: impl Serialize) -> DocumentWrite {
    DocumentWrite::Put {
        key: place(collection, key),
        body: Payload::encode(&body).unwrap(),
        indexed: Vec::new(),
        owner: None,
    }
}

fn place(collection: &str, key: &str) -> DocumentKey {
    DocumentKey {
        collection: collection.to_owned(),
        key: key.to_owned(),
    }
}
