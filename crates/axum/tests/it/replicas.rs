//! Servers on one database, one of which is behind.

use std::{sync::Arc, time::Duration};

use backstory_axum::{ReceiptLayer, Stale};
use backstory_projection::{Projector, Schedule};
use backstory_store_postgres::PostgresStore;
use backstory_test_postgres::TestDatabase;

use crate::kit::{Counter, HOUR, Server, projector};

const TIMES: u64 = 200;

/// One server takes the changes, the other one has the read model, and leaves its projection to an
/// hour's debounce: without the receipt it is behind for as long.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_receipt_of_one_server_is_waited_for_at_the_other() {
    let database = TestDatabase::create().await;
    let writes = PostgresStore::connect(database.url()).await.unwrap();
    let reads = PostgresStore::connect(database.url()).await.unwrap();
    let nothing = Arc::new(Projector::new(&writes).start().await.unwrap());
    let writer = Server::start(&writes, ReceiptLayer::new(nothing)).await;
    let schedule = Schedule::continuous().debounce(HOUR);
    let counter = projector(&reads, &Counter::default(), schedule).await;
    let layer = ReceiptLayer::new(counter)
        .with_deadline(Duration::from_secs(20))
        .with_stale(Stale::Refuse);
    let reader = Server::start(&reads, layer).await;

    for n in 1..=TIMES {
        let receipt = writer.click().await.receipt();
        assert_eq!(reader.get().await.count(), n - 1, "it is behind");
        let answer = reader.get_with(&receipt).await;
        assert_eq!((answer.count(), answer.stale()), (n, None));
        assert_eq!(answer.header("vary"), Some("backstory-receipt"));
    }
}
