//! Lookups as an application uses them: a store by its URL, commands, typed rejections.

use backstory::{
    Aggregate, Command, CommandBus, Event, Handle, Lookup, LookupChange, LookupList, Reject, Store,
    Taken,
};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Event)]
#[event(prefix = "user")]
enum UserEvent {
    Registered { email: String },
}

#[derive(Debug, Default)]
struct User(bool);

impl Aggregate for User {
    const CATEGORY: &'static str = "user";
    type Id = Uuid;
    type Event = UserEvent;

    fn apply(&mut self, _: &UserEvent) {
        self.0 = true;
    }
}

#[derive(Debug, Clone, Command)]
#[command(name = "user.register", aggregate = User)]
struct Register {
    id: Uuid,
    email: String,
}

#[derive(Debug, PartialEq, thiserror::Error, Reject)]
#[reject(prefix = "user")]
enum UserError {
    #[error("the user is registered already")]
    Registered,
}

impl Handle<Register> for User {
    type Error = UserError;

    fn handle(&self, command: &Register) -> Result<Vec<UserEvent>, UserError> {
        if self.0 {
            return Err(UserError::Registered);
        }
        let email = command.email.clone();
        Ok(vec![UserEvent::Registered { email }])
    }
}

#[derive(Debug)]
struct Emails;

impl Lookup for Emails {
    type Aggregate = User;
    const NAME: &'static str = "user.email";
    const UNIQUE: bool = true;

    fn change(&self, event: &UserEvent) -> LookupChange {
        let UserEvent::Registered { email } = event;
        LookupChange::Set(email.to_lowercase())
    }
}

#[tokio::test]
async fn an_address_is_unique_and_finds_its_user() {
    let store = Store::connect("memory:").await.unwrap();
    let commands = CommandBus::new(&store).with_lookup(Emails);
    let register = |email: &str| Register {
        id: Uuid::now_v7(),
        email: email.to_owned(),
    };
    let ann = register("Ann@X.org");
    commands.dispatch(ann.clone()).await.unwrap();
    let error = commands.dispatch(register("ann@x.org")).await.unwrap_err();
    assert_eq!(error.code(), Some("user.email.taken"));
    assert_eq!(error.rejection::<Taken>().unwrap().value, "ann@x.org");
    let error = commands.dispatch(ann.clone()).await.unwrap_err();
    assert_eq!(error.rejection(), Some(&UserError::Registered));

    let emails = store.lookup(Emails);
    assert_eq!(emails.find("ann@x.org").await.unwrap(), Some(ann.id));
    let page = emails.list(LookupList::new().prefix("a")).await.unwrap();
    assert_eq!(page.items, [("ann@x.org".to_owned(), ann.id)]);
    assert_eq!(emails.rebuild().await.unwrap().changed, 0);
}
