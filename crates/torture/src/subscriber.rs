//! The process of one live subscriber: it goes on where its file ends, and keeps each event
//! before it asks for the next.

use std::time::Duration;

use backstory_event::{EventFilter, EventStoreExt, RecordedEvent};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use tokio::{task::block_in_place, time::sleep};

use crate::{
    LOOK, Result,
    args::{Address, SubscriberArgs},
    orders::orders,
    records::Records,
};

/// Reads until it is killed.
pub(crate) async fn run(args: &SubscriberArgs) -> Result {
    let _orders = orders();
    let mut records = Records::open(&args.records)?;
    let store = connect(&args.address, "torture-subscriber").await?;
    let filter = match &args.category {
        Some(category) => EventFilter::category(category),
        None => EventFilter::all(),
    };
    let mut subscription = store.subscribe(records.checkpoint(), filter);
    loop {
        let page = subscription.next_page().await?;
        block_in_place(|| records.append(page.events.iter().map(RecordedEvent::checkpoint)))?;
    }
}

/// Opens the store as soon as the server lets it.
pub(crate) async fn connect(address: &Address, name: &str) -> Result<PostgresStore> {
    let options = PostgresOptions::default().with_poll(Duration::from_millis(500));
    loop {
        match PostgresStore::connect_with(&address.url(name)?, options.clone()).await {
            Err(error) if error.is_transient() => sleep(LOOK).await,
            opened => return Ok(opened?),
        }
    }
}
