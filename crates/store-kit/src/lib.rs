//! What every Backstory store shares, so that all answer alike: the rules of an append
//! ([`decide`]), the shape of a page ([`Scan`]), the group-commit writer ([`Writer`]), its
//! counterpart for small reads ([`Coalescer`]) and the wake-up of readers ([`Tail`]).

mod coalescer;
mod facts;
mod histogram;
mod holdings;
mod ledger;
mod meters;
mod scan;
mod tail;
mod writer;

pub use coalescer::{BatchReader, Coalescer, CoalescerOptions};
pub use facts::{ConditionHit, Decision, EventRow, Facts, Needs, StoredEvent, StreamRow};
pub use histogram::{Distribution, Histogram};
pub use holdings::{ClaimKey, Entry, Removal, ValueChanges};
pub use ledger::{decide, refusal, scrub};
pub use meters::{Conflicts, Refusals, WriterStats};
pub use scan::Scan;
pub use tail::Tail;
pub use writer::{BatchWriter, WriteFailure, Writer, WriterOptions};
