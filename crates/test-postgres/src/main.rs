//! A Postgres server to play with: prints its URL, process id and directory, and removes it when stdin or the program
//! ends.

#![allow(clippy::print_stdout, reason = "printing is what this program is for")]

use std::io::Read;

use backstory_test_postgres::TestCluster;

#[tokio::main]
async fn main() -> std::io::Result<()> {
    let cluster = TestCluster::start().await;
    println!("{}", cluster.url("postgres"));
    println!("{}", cluster.pid().unwrap_or_default());
    println!("{}", cluster.directory().display());
    std::io::stdin().read_to_end(&mut Vec::new())?;
    Ok(())
}
