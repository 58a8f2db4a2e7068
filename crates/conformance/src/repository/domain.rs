//! A small domain, for the suites of repositories and commands.

use std::sync::{
    Arc,
    atomic::{AtomicUsize, Ordering},
};

use backstory_aggregate::{Aggregate, Snapshot};
use backstory_command::{Command, Handle, Reject};
use backstory_event::{
    Append, DecodeEvent, Event, EventType, ExpectedVersion, Invalid, NewEvent, Payload, Tag,
    variant,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub enum AccountEvent {
    Opened { owner: String },
    Added { amount: i64 },
    Closed,
}

const NAMES: [&str; 3] = ["account.opened", "account.added", "account.closed"];

/// By hand: what the derives write must also be possible without them.
impl DecodeEvent for AccountEvent {
    fn types() -> Vec<EventType> {
        let kind = |name| EventType {
            name,
            version: 1,
            shape: "",
            rust_type: "AccountEvent",
        };
        NAMES.map(kind).into()
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        match NAMES.iter().position(|known| *known == name) {
            Some(index) => variant::decode(index as u32, payload).map(Some),
            None => Ok(None),
        }
    }
}

impl Event for AccountEvent {
    fn name(&self) -> &'static str {
        match self {
            Self::Opened { .. } => NAMES[0],
            Self::Added { .. } => NAMES[1],
            Self::Closed => NAMES[2],
        }
    }

    fn encode(&self) -> Result<Payload, Invalid> {
        variant::encode(self)
    }
}

#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct Account {
    pub owner: String,
    pub balance: i64,
    pub closed: bool,
}

impl Aggregate for Account {
    const CATEGORY: &'static str = "account";
    type Id = Uuid;
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        match event {
            AccountEvent::Opened { owner } => self.owner.clone_from(owner),
            AccountEvent::Added { amount } => self.balance += amount,
            AccountEvent::Closed => self.closed = true,
        }
    }
}

impl Snapshot for Account {
    const SHAPE: u32 = 1;
}

/// The same streams, read by a program in which the state means something else: cents.
#[derive(Debug, Default, Clone, PartialEq, Serialize, Deserialize)]
pub struct AccountV2 {
    pub balance: i64,
}

impl Aggregate for AccountV2 {
    const CATEGORY: &'static str = "account";
    type Id = Uuid;
    type Event = AccountEvent;

    fn apply(&mut self, event: &AccountEvent) {
        if let AccountEvent::Added { amount } = event {
            self.balance += amount * 100;
        }
    }
}

impl Snapshot for AccountV2 {
    const SHAPE: u32 = 2;
}

/// The same streams, read by a program that passes over one more name.
#[derive(Debug, Default, Clone, PartialEq)]
pub struct TolerantAccount {
    pub balance: i64,
}

#[derive(Debug, Clone, PartialEq)]
pub struct TolerantEvent(pub AccountEvent);

impl DecodeEvent for TolerantEvent {
    fn types() -> Vec<EventType> {
        AccountEvent::types()
    }

    fn decode(name: &str, payload: &Payload) -> Result<Option<Self>, serde_json::Error> {
        Ok(AccountEvent::decode(name, payload)?.map(Self))
    }

    fn ignored() -> &'static [&'static str] {
        &["account.audited"]
    }
}

impl Event for TolerantEvent {
    fn name(&self) -> &'static str {
        self.0.name()
    }

    fn encode(&self) -> Result<Payload, Invalid> {
        self.0.encode()
    }
}

impl Aggregate for TolerantAccount {
    const CATEGORY: &'static str = "account";
    type Id = Uuid;
    type Event = TolerantEvent;

    fn apply(&mut self, event: &TolerantEvent) {
        if let AccountEvent::Added { amount } = event.0 {
            self.balance += amount;
        }
    }
}

/// Adds to an account, and counts how often somebody decided about it.
#[derive(Debug, Default, Clone)]
pub struct Deposit {
    pub id: Uuid,
    pub amount: i64,
    pub decisions: Arc<AtomicUsize>,
}

impl Deposit {
    pub fn new(id: Uuid, amount: i64) -> Self {
        Self {
            id,
            amount,
            decisions: Arc::default(),
        }
    }

    pub fn decisions(&self) -> usize {
        self.decisions.load(Ordering::SeqCst)
    }
}

impl Command for Deposit {
    const NAME: &'static str = "account.deposit";
    type Aggregate = Account;

    fn aggregate_id(&self) -> &Uuid {
        &self.id
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum DepositError {
    #[error("an account takes no {0}")]
    NotPositive(i64),
    #[error("the account is closed")]
    Closed,
}

impl Reject for DepositError {
    fn code(&self) -> &str {
        match self {
            Self::NotPositive(_) => "account.not_positive",
            Self::Closed => "account.closed",
        }
    }
}

impl Handle<Deposit> for Account {
    type Error = DepositError;

    fn handle(&self, command: &Deposit) -> Result<Vec<AccountEvent>, DepositError> {
        command.decisions.fetch_add(1, Ordering::SeqCst);
        match command.amount {
            _ if self.closed => Err(DepositError::Closed),
            0 => Ok(vec![]),
            amount if amount < 0 => Err(DepositError::NotPositive(amount)),
            amount => Ok(vec![added(amount)]),
        }
    }
}

/// Opens an account, which is probably new, and counts how often somebody decided about it.
#[derive(Debug, Default, Clone)]
pub struct Open {
    pub id: Uuid,
    pub owner: String,
    pub decisions: Arc<AtomicUsize>,
}

impl Open {
    pub fn new(id: Uuid, owner: &str) -> Self {
        Self {
            id,
            owner: owner.to_owned(),
            decisions: Arc::default(),
        }
    }

    pub fn decisions(&self) -> usize {
        self.decisions.load(Ordering::SeqCst)
    }
}

impl Command for Open {
    const NAME: &'static str = "account.open";
    type Aggregate = Account;
    const CREATES: bool = true;

    fn aggregate_id(&self) -> &Uuid {
        &self.id
    }
}

#[derive(Debug, PartialEq, thiserror::Error)]
pub enum OpenError {
    #[error("the account needs an owner, not {0:?}")]
    BadOwner(String),
    #[error("the account belongs to {0}")]
    Belongs(String),
}

impl Reject for OpenError {
    fn code(&self) -> &str {
        match self {
            Self::BadOwner(_) => "account.bad_owner",
            Self::Belongs(_) => "account.belongs",
        }
    }
}

impl Handle<Open> for Account {
    type Error = OpenError;

    fn handle(&self, command: &Open) -> Result<Vec<AccountEvent>, OpenError> {
        command.decisions.fetch_add(1, Ordering::SeqCst);
        let owner = command.owner.clone();
        match owner.as_str() {
            "nobody" => Ok(vec![]),
            "" => Err(OpenError::BadOwner(owner)),
            _ if !self.owner.is_empty() => Err(OpenError::Belongs(self.owner.clone())),
            _ => Ok(vec![AccountEvent::Opened { owner }]),
        }
    }
}

pub fn opened() -> AccountEvent {
    AccountEvent::Opened {
        owner: "ann".into(),
    }
}

pub fn added(amount: i64) -> AccountEvent {
    AccountEvent::Added { amount }
}

pub fn tag(text: &str) -> Tag {
    Tag::new(text).unwrap()
}

/// An append to an account that does not go through a repository.
pub fn raw(id: Uuid, events: impl IntoIterator<Item = AccountEvent>) -> Append {
    let events = events
        .into_iter()
        .map(|event| NewEvent::of(&event).unwrap());
    let stream = Account::stream(&id).unwrap();
    Append::to(stream, ExpectedVersion::Any, events)
}
