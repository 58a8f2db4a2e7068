//! Several processes on one file, also when one of them is killed or its disk fails.

use std::{
    collections::HashMap,
    env,
    io::{BufRead, BufReader},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::Duration,
};

use backstory_conformance::kit::{log, stream, within};
use backstory_event::{
    Append, Checkpoint, EventId, EventStore, ExpectedVersion, NewEvent, Payload, RecordedEvent,
    StoreErrorKind, StreamVersion,
};
use backstory_store_sqlite::{SqliteOptions, SqliteStore};
use sqlx::{Connection, SqliteConnection};
use tempfile::TempDir;
use uuid::Uuid;

const FILE: &str = "BACKSTORY_TEST_FILE";
const APPENDS: &str = "BACKSTORY_TEST_APPENDS";
const ACKNOWLEDGED: &str = "acknowledged ";

/// One more append to the streams of a process: three events, all or none.
fn append(process: u32, number: i64) -> Append {
    let expected = |version| ExpectedVersion::Exact(StreamVersion::new(version));
    let event = |part: u128| {
        let id = (u128::from(process) << 64) + (u128::from(number.unsigned_abs()) << 2) + part + 1;
        let payload = Payload::encode(&"x".repeat(200)).unwrap();
        NewEvent::raw("written", payload).with_id(EventId::from_uuid(Uuid::from_u128(id)))
    };
    let key = process.to_string();
    Append::to(stream("one", &key), expected(number), [event(0)]).and(
        stream("two", &key),
        expected(2 * number),
        [event(1), event(2)],
    )
}

/// Run by itself, and by the tests below as a process of its own on their file.
#[tokio::test]
#[expect(clippy::print_stdout, reason = "the other process reads it")]
async fn a_process_appends() {
    let directory = TempDir::new().unwrap();
    let path = env::var_os(FILE).map_or(directory.path().join("log.db"), PathBuf::from);
    let appends = env::var(APPENDS).map_or(20, |number| number.parse().unwrap());
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let process = std::process::id();
    for number in 0..appends {
        let receipt = store.append(append(process, number)).await.unwrap();
        println!("{ACKNOWLEDGED}{receipt}");
    }
    store.close().await;
}

fn process(path: &Path, appends: i64) -> Child {
    Command::new(env::current_exe().unwrap())
        .args(["--exact", "processes::a_process_appends", "--nocapture"])
        .env(FILE, path)
        .env(APPENDS, appends.to_string())
        .stdout(Stdio::piped())
        .spawn()
        .unwrap()
}

/// What a process was told, as it is told.
fn acknowledged(child: &mut Child) -> impl Iterator<Item = Checkpoint> + use<> {
    BufReader::new(child.stdout.take().unwrap())
        .lines()
        .map_while(Result::ok)
        .filter_map(|line| {
            // The test harness writes to the same line before the first.
            let (_, receipt) = line.split_once(ACKNOWLEDGED)?;
            Some(receipt.parse().unwrap())
        })
}

/// Positions and versions are dense, and no append is stored by halves.
fn check(log: &[RecordedEvent]) {
    let mut versions = HashMap::new();
    for (index, event) in log.iter().enumerate() {
        assert_eq!(event.position().get(), i64::try_from(index).unwrap() + 1);
        let version = versions.entry(event.stream()).or_insert(0);
        *version += 1;
        assert_eq!(event.version().get(), *version, "{event:?}");
    }
    for (stream, version) in &versions {
        if stream.category() == "one" {
            let other = backstory_conformance::kit::stream("two", stream.key());
            assert_eq!(versions[&other], 2 * version, "{stream}");
        }
    }
}

async fn check_file(path: &Path) {
    let mut connection = SqliteConnection::connect(path.to_str().unwrap())
        .await
        .unwrap();
    let found: String = sqlx::query_scalar("PRAGMA integrity_check")
        .fetch_one(&mut connection)
        .await
        .unwrap();
    assert_eq!(found, "ok");
}

#[tokio::test]
async fn eight_processes_append_at_once_and_none_is_refused() {
    let directory = TempDir::new().unwrap();
    // It does not exist yet: they also create it at once.
    let path = directory.path().join("log.db");
    let processes: Vec<_> = (0..8).map(|_| process(&path, 500)).collect();
    for mut process in processes {
        assert_eq!(acknowledged(&mut process).count(), 500);
        assert!(process.wait().unwrap().success());
    }
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let log = log(&store).await;
    assert_eq!(log.len(), 8 * 500 * 3);
    check(&log);
    check_file(&path).await;
}

#[tokio::test]
async fn a_killed_process_leaves_a_whole_log_and_stops_nobody() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let mut number = 0;
    for _ in 0..5 {
        let mut child = process(&path, 1_000_000);
        let mut told = acknowledged(&mut child);
        let mut receipts: Vec<_> = told.by_ref().take(40).collect();
        // While it is killed, others append.
        let (mut at_work, mut killed) = (true, Some(child));
        while at_work {
            within(store.append(append(0, number))).await.unwrap();
            number += 1;
            if let Some(mut child) = killed.take() {
                child.kill().unwrap();
                child.wait().unwrap();
            }
            at_work = number % 20 != 0;
        }
        receipts.extend(told);
        let log = log(&store).await;
        check(&log);
        for receipt in receipts {
            let index = usize::try_from(receipt.position.get()).unwrap() - 1;
            assert_eq!(log[index].id(), receipt.event_id, "acknowledged and gone");
        }
    }
    store.close().await;
    check_file(&path).await;
}

/// Run by itself, and by the test below where no file may grow beyond a megabyte.
#[tokio::test]
async fn a_process_appends_until_its_disk_fails() {
    let directory = TempDir::new().unwrap();
    let path = env::var_os(FILE).map_or(directory.path().join("log.db"), PathBuf::from);
    let options = SqliteOptions::default()
        .with_deadline(Duration::from_secs(2))
        // It would empty the write-ahead log before that grows to a megabyte.
        .with_pragma("wal_autocheckpoint", "0");
    let store = SqliteStore::connect_with(path.to_str().unwrap(), options)
        .await
        .unwrap();
    // While a reader is there, nobody empties the write-ahead log.
    assert_eq!(log(&store).await, []);
    let mut refused = None;
    for number in 0..100 {
        match store.append(append(0, number)).await {
            Ok(_) => assert!(refused.is_none()),
            Err(error) => {
                let StoreErrorKind::OutcomeUnknown { event_ids } = error.kind() else {
                    panic!("{error:?}");
                };
                assert_eq!(*event_ids, append(0, number).event_ids());
                refused = Some(number);
                break;
            }
        }
    }
    assert_eq!(refused.is_some(), env::var_os(FILE).is_some());
    check(&log(&store).await);
}

#[tokio::test]
async fn after_a_failed_disk_the_same_append_finds_its_outcome() {
    let directory = TempDir::new().unwrap();
    let path = directory.path().join("log.db");
    // 2,048 blocks of 512 bytes; beyond that a write fails instead of ending the process.
    let limited = "trap '' XFSZ; ulimit -f 2048; exec \"$0\" \"$@\"";
    let status = Command::new("sh")
        .args(["-c", limited])
        .arg(env::current_exe().unwrap())
        .args([
            "--exact",
            "processes::a_process_appends_until_its_disk_fails",
        ])
        .env(FILE, &path)
        .status()
        .unwrap();
    assert!(status.success());
    check_file(&path).await;
    let store = SqliteStore::connect(path.to_str().unwrap()).await.unwrap();
    let before = log(&store).await;
    check(&before);
    assert!(before.len() > 3 && before.len() < 300, "{}", before.len());
    for number in 0..100 {
        let receipt = store.append(append(0, number)).await.unwrap();
        assert_eq!(receipt.position().get(), 3 * (number + 1));
    }
    let after = log(&store).await;
    assert_eq!(after[..before.len()], before);
    check(&after);
}
