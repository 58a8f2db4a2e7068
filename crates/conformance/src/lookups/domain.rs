//! Users who are found by their address, which is unique, and by their groups.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{
        Arc,
        atomic::{AtomicUsize, Ordering},
    },
};

use backstory_aggregate::{
    Aggregate, Lookup, LookupChange, LookupList, LookupStore, LookupStoreExt, OnDelete, Repository,
    RepositoryError,
};
use backstory_command::{Command, Handle, Reject};
use backstory_event::{
    Append, Appended, Decoded, Event, EventFilter, EventStore, ExpectedVersion, Lifecycle,
    NewEvent, StreamId,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

use crate::kit::{find, within};

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "user", crate = "backstory_event")]
pub enum UserEvent {
    Registered { email: String },
    Moved { email: String },
    Joined { group: String },
    Quit { group: String },
    Renamed,
    Left,
}

#[derive(Debug, Default, Clone, PartialEq)]
pub struct User {
    pub email: Option<String>,
}

impl Aggregate for User {
    const CATEGORY: &'static str = "user";
    type Id = Uuid;
    type Event = UserEvent;

    fn apply(&mut self, event: &UserEvent) {
        match event {
            UserEvent::Registered { email } | UserEvent::Moved { email } => {
                self.email = Some(email.clone());
            }
            UserEvent::Left => self.email = None,
            UserEvent::Joined { .. } | UserEvent::Quit { .. } | UserEvent::Renamed => {}
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Emails;

impl Lookup for Emails {
    type Aggregate = User;
    const NAME: &'static str = "user.email";
    const UNIQUE: bool = true;

    fn change(&self, event: &UserEvent) -> LookupChange {
        match event {
            UserEvent::Registered { email } | UserEvent::Moved { email } => {
                LookupChange::Set(email.clone())
            }
            UserEvent::Left => LookupChange::Clear,
            UserEvent::Joined { .. } | UserEvent::Quit { .. } | UserEvent::Renamed => {
                LookupChange::Keep
            }
        }
    }
}

#[derive(Debug, Clone, Copy)]
pub struct Groups;

impl Lookup for Groups {
    type Aggregate = User;
    const NAME: &'static str = "user.group";

    fn change(&self, event: &UserEvent) -> LookupChange {
        match event {
            UserEvent::Joined { group } => LookupChange::Add(group.clone()),
            UserEvent::Quit { group } => LookupChange::Remove(group.clone()),
            UserEvent::Left => LookupChange::Clear,
            UserEvent::Registered { .. } | UserEvent::Moved { .. } | UserEvent::Renamed => {
                LookupChange::Keep
            }
        }
    }
}

/// The same values, of which no two users may have one.
#[derive(Debug, Clone, Copy)]
pub struct OwnGroups;

impl Lookup for OwnGroups {
    type Aggregate = User;
    const NAME: &'static str = Groups::NAME;
    const UNIQUE: bool = true;

    fn change(&self, event: &UserEvent) -> LookupChange {
        Groups.change(event)
    }
}

/// Addresses that a deleted user does not keep.
#[derive(Debug, Clone, Copy)]
pub struct LiveEmails;

impl Lookup for LiveEmails {
    type Aggregate = User;
    const NAME: &'static str = Emails::NAME;
    const UNIQUE: bool = true;
    const ON_DELETE: OnDelete = OnDelete::Release;

    fn change(&self, event: &UserEvent) -> LookupChange {
        Emails.change(event)
    }
}

/// Registers a user, and counts how often somebody decided about it.
#[derive(Debug, Clone, Command)]
#[command(name = "user.register", aggregate = User, crate = "backstory_command")]
pub struct Register {
    pub id: Uuid,
    pub email: String,
    pub decisions: Arc<AtomicUsize>,
}

impl Register {
    pub fn new(id: Uuid, email: &str) -> Self {
        Self {
            id,
            email: email.to_owned(),
            decisions: Arc::default(),
        }
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
#[error("the user is registered already")]
pub struct Registered;

impl Reject for Registered {
    fn code(&self) -> &str {
        "user.registered"
    }
}

impl Handle<Register> for User {
    type Error = Registered;

    fn handle(&self, command: &Register) -> Result<Vec<UserEvent>, Registered> {
        command.decisions.fetch_add(1, Ordering::SeqCst);
        match &self.email {
            Some(_) => Err(Registered),
            None => Ok(vec![registered(&command.email)]),
        }
    }
}

pub fn registered(email: &str) -> UserEvent {
    let email = email.to_owned();
    UserEvent::Registered { email }
}

pub fn moved(email: &str) -> UserEvent {
    let email = email.to_owned();
    UserEvent::Moved { email }
}

pub fn joined(group: &str) -> UserEvent {
    let group = group.to_owned();
    UserEvent::Joined { group }
}

pub fn quit(group: &str) -> UserEvent {
    let group = group.to_owned();
    UserEvent::Quit { group }
}

/// Ids in the order of their numbers.
pub fn user(number: u64) -> Uuid {
    Uuid::from_u64_pair(1, number)
}

pub fn stream(number: u64) -> StreamId {
    User::stream(&user(number)).unwrap()
}

pub fn users<S: EventStore + Clone>(store: &S) -> Repository<User> {
    Repository::<User>::new(store)
        .with_options(crate::repository::patient())
        .with_lookup(Emails)
        .with_lookup(Groups)
}

/// Saves events of a user.
pub async fn save(
    users: &Repository<User>,
    number: u64,
    events: impl IntoIterator<Item = UserEvent>,
) -> Result<Appended, RepositoryError> {
    let save = async {
        let mut user = users.load(&user(number)).await?;
        events.into_iter().for_each(|event| user.record(event));
        users.save(&mut user).await
    };
    within(save).await
}

/// An append that no lookup sees.
pub fn unseen(number: u64, events: impl IntoIterator<Item = UserEvent>) -> Append {
    let events = events
        .into_iter()
        .map(|event| NewEvent::of(&event).unwrap());
    Append::to(stream(number), ExpectedVersion::Any, events)
}

/// Values and users of both lookups.
pub type Found = (BTreeSet<(String, Uuid)>, BTreeSet<(String, Uuid)>);

/// All that the lookups say, by lists and back.
pub async fn found<S: LookupStore + Clone>(store: &S) -> Found {
    (all(store, Emails).await, all(store, Groups).await)
}

pub async fn all<S: LookupStore + Clone, L: Lookup<Aggregate = User>>(
    store: &S,
    lookup: L,
) -> BTreeSet<(String, Uuid)> {
    let reader = store.lookup(lookup);
    let mut found = Vec::new();
    let mut list = LookupList::new().limit(7);
    loop {
        let page = within(reader.list(list.clone())).await.unwrap();
        found.extend(page.items);
        match page.next {
            Some(next) => list = list.after(next),
            None => break,
        }
    }
    assert!(found.is_sorted(), "{found:?}");
    let set: BTreeSet<_> = found.iter().cloned().collect();
    assert_eq!(set.len(), found.len(), "a value is listed twice");
    let mut back = BTreeSet::new();
    let users: BTreeSet<_> = found.iter().map(|(_, user)| *user).collect();
    for user in users {
        let values = within(reader.values_of(&user)).await.unwrap();
        back.extend(values.into_iter().map(|value| (value, user)));
    }
    assert_eq!(back, set, "both ways say the same");
    set
}

/// All that the lookups must say, by the events one after another.
pub async fn by_events<S: EventStore>(store: &S) -> Found {
    let mut users: BTreeMap<Uuid, (Option<String>, BTreeSet<String>)> = BTreeMap::new();
    for event in find(store, EventFilter::category(User::CATEGORY)).await {
        let (email, groups) = users
            .entry(event.stream().key().parse().unwrap())
            .or_default();
        if event.is_erased() || event.lifecycle() == Some(Lifecycle::Erased) {
            continue;
        }
        match event.decode().unwrap() {
            Decoded::One(envelope) => match envelope.event {
                UserEvent::Registered { email: new } | UserEvent::Moved { email: new } => {
                    *email = Some(new);
                }
                UserEvent::Joined { group } => drop(groups.insert(group)),
                UserEvent::Quit { group } => drop(groups.remove(&group)),
                UserEvent::Renamed => {}
                UserEvent::Left => {
                    *email = None;
                    groups.clear();
                }
            },
            Decoded::Unknown => {}
            Decoded::Parts(parts) => panic!("{} parts", parts.len()),
        }
    }
    let emails = users
        .iter()
        .filter_map(|(user, (email, _))| Some((email.clone()?, *user)));
    let groups = users
        .iter()
        .flat_map(|(user, (_, groups))| groups.iter().map(|group| (group.clone(), *user)));
    (emails.collect(), groups.collect())
}
