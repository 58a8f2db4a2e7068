//! Batches for set-based writes.

use std::collections::BTreeMap;

use backstory_event::Envelope;

/// Sorts a batch by key: each key once, with its events in order, so that a SQL projection can write
/// one row per key in one statement. Rows that are always written in the order of their keys never
/// make two transactions wait for each other.
///
/// ```
/// use backstory_event::Envelope;
/// use backstory_projection::by_key;
///
/// # struct Booked { amount: i64 }
/// fn columns(batch: &[Envelope<Booked>]) -> (Vec<String>, Vec<i64>) {
///     let accounts = by_key(batch, |e| e.stream().key().to_owned());
///     let rows = accounts.into_iter().map(|(account, events)| {
///         (account, events.iter().map(|e| e.event.amount).sum::<i64>())
///     });
///     rows.unzip()
/// }
/// // INSERT INTO account (name, total) SELECT * FROM unnest($1::text[], $2::bigint[])
/// // ON CONFLICT (name) DO UPDATE SET total = account.total + excluded.total
/// ```
pub fn by_key<E, K: Ord>(
    batch: &[Envelope<E>],
    key: impl Fn(&Envelope<E>) -> K,
) -> BTreeMap<K, Vec<&Envelope<E>>> {
    let mut keys: BTreeMap<K, Vec<&Envelope<E>>> = BTreeMap::new();
    for envelope in batch {
        keys.entry(key(envelope)).or_default().push(envelope);
    }
    keys
}
