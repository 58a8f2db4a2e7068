//! From values to aggregates and back, written with the events.

mod change;
mod history;
mod list;
mod port;
mod reader;
mod rebuild;

use backstory_event::Aggregate;

pub(crate) use change::Indexing;
pub(crate) use history::History;
pub use list::{LookupCursor, LookupList, LookupPage};
pub use port::{LookupFilter, LookupQuery, LookupRepair, LookupRow, LookupStore};
pub use reader::LookupReader;
pub use rebuild::{LookupConflict, Rebuilt};

/// Finds aggregates of one type by a value that their events tell: a user by the e-mail address.
///
/// A repository [with the lookup](crate::Repository::with_lookup) writes the values in the
/// transaction of each save, so they are never behind the events. With [`UNIQUE`](Self::UNIQUE) a
/// value belongs to one aggregate: saving an event that takes the value of another one is a
/// [`Conflict::Claim`](backstory_event::Conflict::Claim), and nothing is stored.
///
/// Each writer of these aggregates needs the lookup: events that are stored without it are found
/// by the next [rebuild](LookupReader::rebuild), which is also what makes a lookup for a history
/// that was written before.
///
/// What a deletion does says [`ON_DELETE`](Self::ON_DELETE); erasing always takes the values.
///
/// ```
/// # use backstory_aggregate::{Aggregate, Lookup, LookupChange, LookupStore, Repository};
/// # use backstory_event::{Event, StoreError};
/// # use serde::{Deserialize, Serialize};
/// # use uuid::Uuid;
/// # #[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
/// # #[event(prefix = "user", crate = "backstory_event")]
/// # enum UserEvent { Registered { email: String }, Moved { email: String }, Left, Renamed }
/// # #[derive(Debug, Default)]
/// # struct User;
/// # impl Aggregate for User {
/// #     const CATEGORY: &'static str = "user";
/// #     type Id = Uuid;
/// #     type Event = UserEvent;
/// #     fn apply(&mut self, _: &UserEvent) {}
/// # }
/// #[derive(Debug, Clone, Copy)]
/// struct Emails;
///
/// impl Lookup for Emails {
///     type Aggregate = User;
///     const NAME: &'static str = "user.email"; // its scope on disk
///     const UNIQUE: bool = true;
///
///     fn change(&self, event: &UserEvent) -> LookupChange {
///         match event {
///             UserEvent::Registered { email } | UserEvent::Moved { email } => {
///                 LookupChange::Set(email.to_lowercase())
///             }
///             UserEvent::Left => LookupChange::Clear,
///             UserEvent::Renamed => LookupChange::Keep,
///         }
///     }
/// }
///
/// # async fn example(store: impl LookupStore + Clone, id: Uuid) -> Result<(), StoreError> {
/// let users = Repository::<User>::new(&store).with_lookup(Emails);
/// // … users.update(…) …
/// let emails = store.lookup(Emails);
/// let owner: Option<Uuid> = emails.find("ann@example.org").await?;
/// let email: Option<String> = emails.value_of(&id).await?;
/// # Ok(()) }
/// # use backstory_aggregate::LookupStoreExt;
/// ```
#[diagnostic::on_unimplemented(
    message = "`{Self}` is not a lookup",
    label = "not a lookup",
    note = "add `impl Lookup for {Self}` with its aggregate, its name and `change`"
)]
pub trait Lookup: Send + Sync + 'static {
    /// Whose values they are.
    type Aggregate: Aggregate;
    /// The scope of its values on disk: `user.email`. It must never change.
    const NAME: &'static str;
    /// Whether a value belongs to one aggregate only. When it changes, rebuild the lookup.
    const UNIQUE: bool = false;

    /// What [`Repository::delete`](crate::Repository::delete) does to the values. When it changes,
    /// rebuild the lookup.
    const ON_DELETE: OnDelete = OnDelete::Keep;

    /// What an event does to the values of its aggregate. Values are compared byte by byte, so
    /// bring them into one form here. They are 1 to 255 bytes long, without control characters and
    /// without white space at their ends: others are refused when the event is saved.
    fn change(&self, event: &<Self::Aggregate as Aggregate>::Event) -> LookupChange;
}

/// What an event does to the values of its aggregate.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
#[non_exhaustive]
pub enum LookupChange {
    /// Nothing.
    #[default]
    Keep,
    /// It has this value and no other.
    Set(String),
    /// It has no value any more.
    Clear,
    /// It has this value too.
    Add(String),
    /// It does not have this value any more.
    Remove(String),
    /// Several changes, one after another.
    Many(Vec<Self>),
}

/// What a deletion does to the values of its aggregate.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub enum OnDelete {
    /// It keeps them, as it can be restored: nobody else can take a unique one.
    #[default]
    Keep,
    /// It loses them. A restoration takes them back, and is refused with a
    /// [`Conflict::Claim`](backstory_event::Conflict::Claim) when a unique one was taken meanwhile.
    Release,
}

/// What every store of lookups can do because it is a [`LookupStore`].
pub trait LookupStoreExt: LookupStore {
    /// Reads and rebuilds a lookup.
    fn lookup<L: Lookup>(&self, lookup: L) -> LookupReader<L>
    where
        Self: Clone + Sized,
    {
        LookupReader::new(std::sync::Arc::new(self.clone()), lookup)
    }
}

impl<T: LookupStore + ?Sized> LookupStoreExt for T {}
