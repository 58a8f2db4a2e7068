//! The program as a user runs it.

#![allow(
    clippy::unwrap_used,
    clippy::panic,
    reason = "a broken set-up fails the test"
)]

use std::process::{Command, Output};

use async_trait::async_trait;
use backstory_event::{
    Append, DecodeEvent, Envelope, EventFilter, EventStore, EventType, ExpectedVersion, Lifecycle,
    NewEvent, Payload, StreamId,
};
use backstory_projection::{
    self as projection, Documents, Projection, Projector, ProjectorOptions, Schedule,
};
use backstory_store_postgres::{PostgresOptions, PostgresStore};
use backstory_test_postgres::TestDatabase;
use sqlx::{AssertSqlSafe, Connection};

fn backstory(url: Option<&str>, args: &[&str]) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_backstory"));
    command.args(args).env_remove("DATABASE_URL");
    if let Some(url) = url {
        command.env("DATABASE_URL", url);
    }
    command.output().unwrap()
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).unwrap()
}

fn code(output: &Output) -> i32 {
    output.status.code().unwrap()
}

/// The output of a run that succeeds and says nothing else.
fn ok(url: Option<&str>, args: &[&str]) -> String {
    let output = backstory(url, args);
    assert_eq!(text(&output.stderr), "", "{args:?}");
    assert_eq!(code(&output), 0, "{args:?}: {}", text(&output.stdout));
    text(&output.stdout)
}

/// What a run says that cannot do it.
fn fails(url: Option<&str>, args: &[&str]) -> String {
    let output = backstory(url, args);
    assert_eq!(code(&output), 2, "{args:?}");
    assert_eq!(text(&output.stdout), "", "{args:?}");
    text(&output.stderr)
}

async fn filled(schema: &str) -> TestDatabase {
    let database = TestDatabase::create().await;
    let options = PostgresOptions::default().with_schema(schema);
    let store = PostgresStore::connect_with(database.url(), options)
        .await
        .unwrap();
    for key in 1..=30 {
        let stream = StreamId::new("todo", key).unwrap();
        let added = NewEvent::raw("todo.added", Payload::empty());
        let append = Append::to(stream, ExpectedVersion::NoStream, [added]);
        store.append(append).await.unwrap();
    }
    let stream = StreamId::new("todo", 7).unwrap();
    let erase = Append::to(stream, ExpectedVersion::Any, [Lifecycle::Erased.event()]);
    store.append(erase).await.unwrap();
    store.close().await;
    database
}

async fn sql(url: &str, statements: &str) {
    let mut connection = sqlx::PgConnection::connect(url).await.unwrap();
    sqlx::raw_sql(AssertSqlSafe(statements.to_owned()))
        .execute(&mut connection)
        .await
        .unwrap();
}

const DAMAGE: &str = "INSERT INTO backstory.stream_state SELECT 'todo', key, 'deleted', '{}' FROM unnest('{3,4}'::text[]) AS key; \
    ALTER TABLE backstory.event DISABLE TRIGGER guard_row";

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn verify_tells_by_text_json_and_exit_code_whether_a_schema_is_sound() {
    let database = filled("backstory").await;
    let url = database.url();
    let said = ok(Some(url), &["verify"]);
    assert!(said.contains("31 events, 30 streams"), "{said}");
    assert!(said.ends_with("sound: nothing is wrong\n"), "{said}");
    assert_eq!(ok(None, &["verify", "--url", url]), said);
    let json: serde_json::Value =
        serde_json::from_str(&ok(Some(url), &["verify", "--json"])).unwrap();
    assert_eq!(json["sound"], true);
    assert_eq!(json["rows"]["events"], 31);
    assert_eq!(json["findings"], serde_json::json!([]));

    sql(url, DAMAGE).await;
    let output = backstory(Some(url), &["verify"]);
    assert_eq!((code(&output), text(&output.stderr)), (1, String::new()));
    let said = text(&output.stdout);
    for line in [
        "guard_off: `guard_row`: it is not enabled ALWAYS",
        "state_superfluous: stream todo/3: it is deleted with tags [], by its events neither",
        "state_superfluous: stream todo/4: it is deleted with tags [], by its events neither",
        "3 findings",
    ] {
        assert!(said.contains(line), "{line}: {said}");
    }
    let output = backstory(Some(url), &["verify", "--json"]);
    assert_eq!(code(&output), 1);
    let json: serde_json::Value = serde_json::from_slice(&output.stdout).unwrap();
    assert_eq!(json["sound"], false);
    assert_eq!(json["found"]["state_superfluous"], 2);
    assert_eq!(json["findings"][1]["kind"], "state_superfluous");
    assert_eq!(json["findings"][1]["subject"]["stream"]["key"], "3");
    let meaning = json["findings"][0]["meaning"].as_str();
    assert_eq!(meaning, Some("events can be changed or removed"));
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_schema_is_made_by_the_printed_statements() {
    let database = TestDatabase::create().await;
    let url = database.url();
    let missing = fails(Some(url), &["verify", "--schema", "orders"]);
    assert!(missing.contains("there is no schema `orders`"), "{missing}");
    assert!(missing.contains("backstory ddl"), "{missing}");

    sql(url, &ok(None, &["ddl", "--schema", "orders"])).await;
    let said = ok(Some(url), &["verify", "--schema", "orders"]);
    assert!(said.contains("schema `orders` (version 1)"), "{said}");

    let role = format!("cli_{}", std::process::id());
    sql(
        url,
        &format!("DROP ROLE IF EXISTS {role}; CREATE ROLE {role} LOGIN PASSWORD 'secret'"),
    )
    .await;
    let as_role = url.replacen("postgres@", &format!("{role}:secret@"), 1);
    let denied = fails(Some(&as_role), &["verify", "--schema", "orders"]);
    assert!(denied.contains("SELECT on its tables"), "{denied}");
    assert!(!denied.contains("secret"), "{denied}");
    let grants = ok(None, &["grants", "--role", &role, "--schema", "orders"]);
    sql(url, &grants).await;
    ok(Some(&as_role), &["verify", "--schema", "orders"]);
    let denied = fails(
        Some(&as_role),
        &["indexes", "create", "category", "--schema", "orders"],
    );
    assert!(denied.contains("it owns them"), "{denied}");
    sql(url, &format!("DROP OWNED BY {role}")).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn indexes_are_listed_made_and_dropped() {
    let database = filled("backstory").await;
    let url = Some(database.url());
    let listed = |state: &str| {
        let said = ok(url, &["indexes", "list"]);
        assert_eq!(said.lines().count(), 3, "{said}");
        let line = said.lines().find(|line| line.starts_with("correlation"));
        assert!(line.unwrap().contains(state), "{said}");
    };
    listed("absent");
    let create = ["indexes", "create", "correlation"];
    assert_eq!(ok(url, &create), "correlation: built\n");
    assert_eq!(ok(url, &create), "correlation: was there already\n");
    listed("ready");
    // As an interrupted build leaves it.
    sql(
        database.url(),
        "UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'backstory.event_correlation_id'::regclass",
    )
    .await;
    listed("invalid");
    assert!(ok(url, &create).contains("interrupted"));
    listed("ready");
    let drop = ["indexes", "drop", "correlation"];
    assert_eq!(ok(url, &drop), "correlation: dropped\n");
    assert_eq!(ok(url, &drop), "correlation: was not there\n");
    assert!(ok(url, &["verify"]).contains("sound"));
}

/// Takes what comes.
struct Titles;

#[async_trait]
impl Projection<Documents> for Titles {
    type Event = Nothing;
    const NAME: &'static str = "titles";

    fn filter(&self) -> EventFilter {
        EventFilter::all()
    }

    async fn project(&self, _: &[Envelope<Nothing>], _: &mut Documents) -> projection::Result {
        Ok(())
    }
}

/// No event at all.
#[derive(Debug)]
enum Nothing {}

impl DecodeEvent for Nothing {
    fn types() -> Vec<EventType> {
        Vec::new()
    }

    fn decode(_: &str, _: &Payload) -> Result<Option<Self>, serde_json::Error> {
        Ok(None)
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn projections_are_listed_and_told_what_to_do() {
    let database = filled("backstory").await;
    let url = Some(database.url());
    let none = ok(url, &["projections", "list"]);
    assert_eq!(none, "no projection has ever run on this schema\n");
    let unknown = fails(url, &["projections", "reset", "titles"]);
    assert!(
        unknown.contains("there is no projection `titles`"),
        "{unknown}"
    );

    let store = PostgresStore::connect(database.url()).await.unwrap();
    let options = ProjectorOptions::default().with_process("pod-7");
    let projector = Projector::new(&store)
        .with(Titles, Schedule::continuous())
        .with_options(options);
    let projector = projector.start().await.unwrap();
    projector.catch_up().await.unwrap();
    let tell = |what| ok(url, &["projections", what, "titles"]);
    assert_eq!(tell("pause"), "titles: paused, in pod-7\n");
    let json: serde_json::Value =
        serde_json::from_str(&ok(url, &["projections", "list", "--json"])).unwrap();
    assert_eq!(json[0]["projection"], "titles");
    assert_eq!(
        (&json[0]["paused"], &json[0]["process"]),
        (&true.into(), &"pod-7".into())
    );
    assert_eq!(tell("resume"), "titles: goes on, in pod-7\n");
    assert_eq!(tell("trigger"), "titles: runs now, in pod-7\n");
    assert_eq!(
        tell("reset"),
        "titles: emptied; it is built again, in pod-7\n"
    );
    projector.catch_up().await.unwrap();
    let titles = fails(url, &["projections", "rerun", "titles", "--up-to", "9"]);
    assert!(titles.contains("it is no job"), "{titles}");
    let back = ok(
        url,
        &["projections", "rewind", "titles", "--to-position", "1"],
    );
    assert_eq!(back, "titles: rewound: back at position 1, in pod-7\n");
    projector.catch_up().await.unwrap();
    assert_eq!(
        tell("rebuild"),
        "titles: rebuilt; what was read before is kept, in pod-7\n"
    );
    let json: serde_json::Value =
        serde_json::from_str(&ok(url, &["projections", "list", "--json"])).unwrap();
    assert_eq!(json[0]["previous"], json[0]["position"]);
    assert!(tell("roll-back").starts_with("titles: rolled back: what is read goes on at position"));
    assert_eq!(
        tell("drop-previous"),
        "titles: previous one dropped, in pod-7\n"
    );
    let none = fails(url, &["projections", "abort-rebuild", "titles"]);
    assert!(none.contains("it is not being rebuilt"), "{none}");
    assert_eq!(tell("letters"), "titles: nothing was left out\n");
    let replayed = ok(url, &["projections", "replay", "titles", "--all"]);
    assert_eq!(replayed, "titles: no letters to replay, in pod-7\n");
    let discarded = ok(
        url,
        &["projections", "discard", "titles", "--position", "2"],
    );
    assert_eq!(discarded, "titles: 0 discarded, in pod-7\n");
    projector.catch_up().await.unwrap();
    let said = ok(url, &["projections", "list"]);
    assert!(
        said.starts_with("PROJECTION  STATE    REACHED  LAG  RATE  PROCESS\n"),
        "{said}"
    );
    assert!(said.contains("titles      running"), "{said}");

    projector.shutdown().await.unwrap();
    assert_eq!(tell("pause"), "titles: paused; no process runs it now\n");
    let said = ok(url, &["projections", "list"]);
    assert!(said.contains("titles      idle, paused"), "{said}");
    let nobody = fails(
        url,
        &["projections", "trigger", "titles", "--patience", "1"],
    );
    assert!(nobody.contains("start a process"), "{nobody}");
    store.close().await;
}

#[test]
fn mistakes_are_answered_with_what_to_do_and_without_passwords() {
    for (url, args, wanted) in [
        (None, &["verify"][..], "give --url postgres://"),
        (Some(""), &["verify"], "give --url postgres://"),
        (
            Some("mysql://u:hunter2@h/d"),
            &["verify"],
            "write postgres://",
        ),
        (
            Some("postgres://u:hunter2@127.0.0.1:1/d"),
            &["verify"],
            "check host and port",
        ),
        (
            None,
            &["verify", "postgres://u:hunter2@h/d"],
            "unexpected argument",
        ),
        (
            None,
            &["verify", "--uri", "postgres://u:hunter2@h/d"],
            "similar argument exists: '--url'",
        ),
        (None, &["verfy"], "similar subcommand exists: 'verify'"),
        (
            None,
            &["indexes", "create", "categry"],
            "similar value exists: 'category'",
        ),
        (None, &["indexes", "create"], "backstory indexes create"),
        (None, &["grants"], "--role <ROLE>"),
        (
            None,
            &["projections", "rewind", "titles"],
            "--to-position <POSITION>|--to-time <TIME>",
        ),
        (
            None,
            &["projections", "rewind", "titles", "--to-time", "monday"],
            "invalid value 'monday' for '--to-time <TIME>'",
        ),
        (
            None,
            &["projections", "discard", "titles"],
            "--all|--key <KEY>|--position <POSITION>",
        ),
        (None, &["ddl", "--schema", "a\"b"], "ASCII letters, digits"),
    ] {
        let said = fails(url, args);
        assert!(said.contains(wanted), "{args:?}: {said}");
        assert!(said.starts_with("error: "), "{args:?}: {said}");
        assert!(!said.contains("hunter2"), "{args:?}: {said}");
    }
}

#[test]
fn the_help_says_what_there_is() {
    let url = Some("postgres://u:hunter2@h/d");
    let help = ok(url, &["--help"]);
    for command in ["verify", "ddl", "grants", "indexes"] {
        assert!(help.contains(command), "{help}");
    }
    let verify = ok(url, &["verify", "--help"]);
    for wanted in ["--url", "DATABASE_URL", "--schema", "--json", "exit code"] {
        assert!(verify.contains(wanted), "{verify}");
    }
    assert!(!verify.contains("hunter2"), "{verify}");
    let create = ok(url, &["indexes", "create", "--help"]);
    for wanted in ["category", "correlation", "causation", "rare categories"] {
        assert!(create.contains(wanted), "{create}");
    }
    let nothing = backstory(None, &[]);
    assert_eq!(code(&nothing), 2);
    assert!(text(&nothing.stderr).contains("Usage: backstory"));
    assert!(ok(None, &["--version"]).starts_with("backstory "));
}
