//! The page in a real browser: two tabs that see each other's changes, also across a crash of the
//! server, without reload and without polling; searching and operating projections by keyboard; and
//! the page on a phone.
//!
//! Needs Chromium and `chromedriver`: `scripts/test --browser`.

#![allow(
    clippy::expect_used,
    clippy::panic,
    clippy::unwrap_used,
    reason = "a test that fails panics, also in its helpers"
)]

#[allow(dead_code, reason = "shared with the other tests, which use all of it")]
#[path = "it/support.rs"]
mod support;

use std::{
    fs::{File, OpenOptions},
    panic::AssertUnwindSafe,
    path::{Path, PathBuf},
    process::Stdio,
    time::{Duration, Instant},
};

use backstory::{Append, EventStore, ExpectedVersion, NewEvent, StreamId, sqlite::SqliteStore};
use fantoccini::{Client, ClientBuilder, Locator, elements::Element, key::Key, wd::WindowHandle};
use futures::FutureExt;
use hyper_util::client::legacy::connect::HttpConnector;
use serde_json::{Value, json};
use support::{LONG, Server, data, todo};
use todo::todo::{ListEvent, TaskEvent};
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, Command},
};
use uuid::Uuid;

const A_SECOND: u64 = 1_000;

/// Notes the counters whenever something on the page changes, and marks the page, so that a reload
/// would be seen.
const WATCH: &str = r#"
    const text = (name) => document.querySelector(`[data-testid="${name}"]`).textContent;
    const note = () => window.noted.push({
        at: Date.now(),
        active: text("counter-active"), done: text("counter-done"), removed: text("counter-removed"),
        lists: document.querySelectorAll('[data-testid="list"]').length,
    });
    window.noted = [];
    note();
    new MutationObserver(note).observe(document.body, { subtree: true, childList: true, characterData: true });
"#;

/// The boxes of all controls that can be seen, and how wide the page is.
const BOXES: &str = r#"
    const seen = (box, element) => box.width > 1 && box.height > 1 && box.right > 0 && box.bottom > 0
        && element.checkVisibility({ opacityProperty: true, visibilityProperty: true });
    const controls = [...document.querySelectorAll("a, button, input")]
        .map((element) => [element, element.getBoundingClientRect()])
        .filter(([element, box]) => seen(box, element) && !element.closest(".skip"))
        .map(([element, box]) => ({
            name: element.dataset.testid ?? element.id, left: box.left, right: box.right, top: box.top, bottom: box.bottom,
        }));
    return { width: innerWidth, needed: document.documentElement.scrollWidth, controls };
"#;

#[tokio::test(flavor = "multi_thread")]
async fn two_tabs_see_each_others_changes_across_a_crash_of_the_server() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("requests.log");
    let server = start(folder.path(), &log, free_port()).await;
    let browser = Browser::start(json!({})).await;
    let place = folder.path().to_owned();
    browser
        .run(|client| two_tabs(client, server, place, log))
        .await;
}

async fn two_tabs(client: Client, server: Server, folder: PathBuf, log: PathBuf) {
    let one = client.window().await.unwrap();
    let two = client.new_window(true).await.unwrap().handle;
    let port = server.port();
    for tab in [&one, &two] {
        client.switch_to_window(tab.clone()).await.unwrap();
        client
            .goto(&format!("http://127.0.0.1:{port}/"))
            .await
            .unwrap();
        until(&client, "connection", "live").await;
        client.execute(WATCH, vec![]).await.unwrap();
    }

    // One adds a list and a task and finishes it; the other one sees each within a second.
    let show = async |tab: &WindowHandle| client.switch_to_window(tab.clone()).await.unwrap();
    show(&one).await;
    let asked = now(&client).await;
    fill(&client, "new-list", "new-list-name", "Home").await;
    show(&two).await;
    within_a_second(asked, noted(&client, |page| page["lists"] == 1).await);

    show(&one).await;
    wait_for(&client, "[data-testid=new-task-title]").await;
    let asked = now(&client).await;
    fill(&client, "new-task", "new-task-title", "sweep").await;
    show(&two).await;
    within_a_second(asked, noted(&client, |page| page["active"] == "1").await);
    assert_eq!(tasks(&client).await, ["sweep active"]);

    show(&one).await;
    wait_for(&client, "[data-testid=task]").await;
    let asked = now(&client).await;
    click(&client, "[data-testid=task-done]").await;
    show(&two).await;
    within_a_second(asked, noted(&client, |page| page["done"] == "1").await);
    click(&client, "[data-testid=filter-done]").await;
    assert_eq!(tasks(&client).await, ["sweep done"]);

    // A refusal is shown, and typing goes on.
    fill(&client, "new-task", "new-task-title", "   ").await;
    let error = wait_for(&client, "[data-testid=error]:not(:empty)").await;
    assert!(error.text().await.unwrap().contains("1 to 200 characters"));

    // The server dies; both pages notice. It comes back; both pages go on by themselves.
    server.kill().await;
    for tab in [&one, &two] {
        show(tab).await;
        until(&client, "connection", "reconnecting").await;
    }
    let lives = requests(&log);
    let server = start(&folder, &log, port).await;
    for tab in [&one, &two] {
        show(tab).await;
        until(&client, "connection", "live").await;
    }
    let asked = now(&client).await;
    fill(&client, "new-task", "new-task-title", "after the crash").await;
    show(&one).await;
    within_a_second(
        asked,
        noted(&client, |page| page["active"] == "1" && page["done"] == "1").await,
    );

    // No page was loaded again …
    for tab in [&one, &two] {
        show(tab).await;
        let noted = client
            .execute("return window.noted?.length ?? 0", vec![])
            .await
            .unwrap();
        assert!(noted.as_u64().unwrap() > 3, "the page was loaded again");
    }
    // … and none has asked for anything but itself, one stream per tab and server, and changes.
    let all = requests(&log);
    let (first, second) = all.split_at(lives.len());
    let count =
        |requests: &[String], wanted: &str| requests.iter().filter(|r| *r == wanted).count();
    for life in [first, second] {
        assert_eq!(count(life, "GET /api/events"), 2, "{life:?}");
    }
    assert_eq!(count(&all, "GET /"), 2, "{all:?}");
    assert_eq!(count(&all, "POST /api/lists"), 1, "{all:?}");
    assert_eq!(count(&all, "POST /api/tasks"), 3, "{all:?}");
    for request in &all {
        let page = [
            "GET /",
            "GET /style.css",
            "GET /app.js",
            "GET /panel.js",
            "GET /search.js",
            "GET /favicon.svg",
            "GET /api/events",
        ];
        assert!(
            page.contains(&&**request) || request.starts_with("POST /api/"),
            "{request}"
        );
    }
    drop(server);
}

/// Notes what the panel says of the board whenever it changes, and marks the page.
const WATCH_BOARD: &str = r#"
    const note = () => {
        const board = document.querySelector('[data-name="board"]');
        const progress = board?.querySelector("progress");
        window.noted.push({
            state: board?.dataset.state, lag: board?.dataset.lag,
            share: progress && !progress.hidden ? progress.value / progress.max : null,
        });
    };
    window.noted = [];
    note();
    new MutationObserver(note).observe(document.querySelector('[data-testid="projections"]'), {
        subtree: true, childList: true, characterData: true, attributes: true,
    });
"#;

/// So many that a rebuild takes longer than the beats by which it is told.
const MANY: u32 = 8_000;

#[tokio::test(flavor = "multi_thread")]
async fn tasks_are_found_and_projections_operated_by_keyboard_alone() {
    let folder = tempfile::tempdir().unwrap();
    fill_with_many(folder.path()).await;
    let log = folder.path().join("requests.log");
    let server = start(folder.path(), &log, 0).await;
    let browser = Browser::start(json!({})).await;
    browser.run(|client| by_keyboard(client, server, log)).await;
}

async fn by_keyboard(client: Client, server: Server, log: PathBuf) {
    client
        .goto(&format!("http://{}/", server.address))
        .await
        .unwrap();
    until(&client, "connection", "live").await;
    let count = async |state: &str| {
        let counter = wait_for(&client, &format!("[data-testid=counter-{state}]")).await;
        counter.text().await.unwrap()
    };
    let all = (MANY / 4).to_string();
    eventually("all of it", async || {
        (count("done").await == all).then_some(())
    })
    .await;

    // Typed, chosen by arrow and Enter: its list and its filter are shown, and the task is focused.
    let search = wait_for(&client, "[data-testid=search]").await;
    search.send_keys("numb 17").await.unwrap();
    until_count(&client, "[data-testid=found]", 20).await;
    search.send_keys("77").await.unwrap();
    until_count(&client, "[data-testid=found]", 1).await;
    search.send_keys(&Key::Down.to_string()).await.unwrap();
    wait_for(&client, "[data-testid=found][aria-selected=true]").await;
    search.send_keys(&Key::Enter.to_string()).await.unwrap();
    let found = wait_for(&client, "[data-testid=task]:focus").await;
    assert_eq!(
        found.attr("data-state").await.unwrap().as_deref(),
        Some("done")
    );
    // It fades in: the driver takes what is transparent for empty.
    eventually("the task that was found", async || {
        let text = found.text().await.unwrap();
        text.contains("number 1777").then_some(())
    })
    .await;

    // What is shown follows what happens; nothing is found in words.
    search.send_keys("xylo").await.unwrap();
    let nothing = wait_for(&client, "[data-testid=found-nothing]:not([hidden])").await;
    assert_eq!(nothing.text().await.unwrap(), "Nothing found");
    let state = server.get("/api/state").await.json();
    let new = json!({ "list": state["lists"][0]["id"], "title": "buy a xylophone" });
    server.post("/api/tasks", new).await.id();
    until_count(&client, "[data-testid=found]", 1).await;
    search.send_keys(&Key::Escape.to_string()).await.unwrap();
    until_count(&client, "[data-testid=found]", 0).await;

    // A pause is shown, and what the board lags behind.
    wait_for(&client, "[data-testid=projections] summary")
        .await
        .send_keys(&Key::Enter.to_string())
        .await
        .unwrap();
    client.execute(WATCH_BOARD, vec![]).await.unwrap();
    let press = async |button: &str| {
        let button = format!("[data-name=board] [data-testid=projection-{button}]:enabled");
        let button = wait_for(&client, &button).await;
        button.send_keys(&Key::Enter.to_string()).await.unwrap();
    };
    press("toggle").await;
    noted(&client, |board| board["state"] == "paused").await;
    let new = json!({ "list": state["lists"][0]["id"], "title": "sweep" });
    server.post("/api/tasks", new).await.id();
    noted(&client, |board| {
        board["state"] == "paused" && board["lag"] == "1"
    })
    .await;
    press("toggle").await;
    wait_for(
        &client,
        "[data-name=board][data-state=running][data-lag='0']",
    )
    .await;
    eventually("what was added meanwhile", async || {
        (count("active").await == "2").then_some(())
    })
    .await;

    // A rebuild is shown while it is done, and what it has done already.
    press("rebuild").await;
    noted(&client, |board| {
        let share = board["share"].as_f64();
        board["state"] == "rebuilding" && share.is_some_and(|share| share > 0.0 && share < 1.0)
    })
    .await;
    wait_for(&client, "[data-name=board][data-state=running]").await;
    let requests = requests(&log);
    let count = |wanted: &str| requests.iter().filter(|r| *r == wanted).count();
    assert_eq!(count("GET /"), 1, "{requests:?}");
    assert_eq!(count("GET /api/events"), 1, "{requests:?}");
    // Once per letter at most, and when something has changed.
    assert!(count("GET /api/search") < 20, "{requests:?}");
}

/// One list of so many tasks: one in four is done, the others are removed.
async fn fill_with_many(folder: &Path) {
    let store = SqliteStore::connect(folder.join("todo.db").to_str().unwrap()).await;
    let store = store.unwrap();
    let list = Uuid::now_v7();
    let name = "Many".to_owned();
    let opened = NewEvent::of(&ListEvent::Opened { name }).unwrap();
    let opened = Append::to(
        StreamId::new("list", list).unwrap(),
        ExpectedVersion::NoStream,
        [opened],
    );
    store.append(opened).await.unwrap();
    let append = async |n: u32| {
        let title = format!("task number {n}");
        let end = match n % 4 {
            1 => TaskEvent::Completed,
            _ => TaskEvent::Removed,
        };
        let events = [TaskEvent::Added { list, title }, end];
        let events = events.map(|event| NewEvent::of(&event).unwrap());
        let stream = StreamId::new("task", Uuid::now_v7()).unwrap();
        let append = Append::to(stream, ExpectedVersion::NoStream, events);
        store.append(append).await.unwrap();
    };
    futures::future::join_all((1..=MANY).map(append)).await;
    store.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn on_a_phone_nothing_overflows_or_overlaps() {
    let folder = tempfile::tempdir().unwrap();
    let log = folder.path().join("requests.log");
    let server = start(folder.path(), &log, 0).await;
    let phone = json!({ "deviceMetrics": { "width": 375, "height": 812, "pixelRatio": 2.0 } });
    let browser = Browser::start(json!({ "mobileEmulation": phone })).await;
    browser.run(|client| on_a_phone(client, server)).await;
}

async fn on_a_phone(client: Client, server: Server) {
    client
        .goto(&format!("http://{}/", server.address))
        .await
        .unwrap();
    until(&client, "connection", "live").await;
    check_boxes(&client, "an empty page").await;

    // Words without a place to break, and enough of everything.
    let long = |letter: &str, count| letter.repeat(count);
    for (before, name) in ["Home", &long("l", 60), "Work"].iter().enumerate() {
        fill(&client, "new-list", "new-list-name", name).await;
        until_count(&client, "[data-testid=list]", before + 1).await;
        // The new list is shown, ready for its first task: whoever types on before gets into that.
        wait_for(&client, "[data-testid=new-task-title]:focus").await;
    }
    for title in ["sweep", &long("t", 200), "cook", "type"] {
        fill(&client, "new-task", "new-task-title", title).await;
    }
    until_count(&client, "[data-testid=task]", 4).await;
    check_boxes(&client, "active tasks").await;
    click(&client, "[data-testid=task-done]").await;
    until_count(&client, "[data-testid=task]", 3).await;
    click(&client, "[data-testid=task-remove]").await;
    until_count(&client, "[data-testid=task]", 2).await;
    for filter in ["done", "removed", "active"] {
        click(&client, &format!("[data-testid=filter-{filter}]")).await;
        check_boxes(&client, filter).await;
    }
    fill(&client, "new-task", "new-task-title", "   ").await;
    wait_for(&client, "[data-testid=error]:not(:empty)").await;
    check_boxes(&client, "an error").await;
    click(&client, "[data-testid=projections] summary").await;
    until_count(&client, "[data-testid=projection]", 2).await;
    check_boxes(&client, "projections").await;
    let search = wait_for(&client, "[data-testid=search]").await;
    search.send_keys("t").await.unwrap();
    until_count(&client, "[data-testid=found]", 2).await;
    check_boxes(&client, "a search").await;
}

async fn check_boxes(client: &Client, what: &str) {
    let seen = client.execute(BOXES, vec![]).await.unwrap();
    assert_eq!(seen["width"], 375, "{what}");
    assert!(
        seen["needed"].as_u64().unwrap() <= 375,
        "{what} is too wide: {seen}"
    );
    let controls = seen["controls"].as_array().unwrap();
    assert!(controls.len() >= 2, "{what}: {seen}");
    let side = |control: &Value, side: &str| control[side].as_f64().unwrap();
    for (at, one) in controls.iter().enumerate() {
        assert!(
            side(one, "left") >= 0.0 && side(one, "right") <= 375.0,
            "{what}: {one}"
        );
        for other in &controls[at + 1..] {
            let apart = side(one, "right") <= side(other, "left")
                || side(other, "right") <= side(one, "left")
                || side(one, "bottom") <= side(other, "top")
                || side(other, "bottom") <= side(one, "top");
            assert!(apart, "{what}: {one} overlaps {other}");
        }
    }
}

// ---- what a person does and sees -------------------------------------------------------------

async fn wait_for(client: &Client, css: &str) -> Element {
    let found = client
        .wait()
        .at_most(LONG)
        .for_element(Locator::Css(css))
        .await;
    found.unwrap_or_else(|error| panic!("{css} does not come: {error}"))
}

async fn click(client: &Client, css: &str) {
    wait_for(client, css)
        .await
        .click()
        .await
        .unwrap_or_else(|error| panic!("{css}: {error}"));
}

async fn fill(client: &Client, form: &str, field: &str, text: &str) {
    let field = wait_for(client, &format!("[data-testid={field}]")).await;
    field.clear().await.unwrap();
    field.send_keys(text).await.unwrap();
    click(client, &format!("[data-testid={form}-add]")).await;
}

async fn until(client: &Client, hook: &str, state: &str) {
    wait_for(client, &format!("[data-testid={hook}][data-state={state}]")).await;
}

/// Waits until there are so many elements.
async fn until_count(client: &Client, css: &str, count: usize) {
    eventually(css, async || {
        let found = client.find_all(Locator::Css(css)).await.unwrap();
        (found.len() == count).then_some(())
    })
    .await;
}

/// Titles and states of the tasks that the page shows.
async fn tasks(client: &Client) -> Vec<String> {
    wait_for(client, "[data-testid=task]").await;
    let script = r#"return [...document.querySelectorAll('[data-testid="task"]')]
        .map((task) => `${task.querySelector(".title").textContent} ${task.dataset.state}`)"#;
    let tasks = client.execute(script, vec![]).await.unwrap();
    serde_json::from_value(tasks).unwrap()
}

/// The time of the browser, in milliseconds.
async fn now(client: &Client) -> u64 {
    client
        .execute("return Date.now()", vec![])
        .await
        .unwrap()
        .as_u64()
        .unwrap()
}

/// When the page first showed something, in the browser's time.
async fn noted(client: &Client, wanted: impl Fn(&Value) -> bool) -> u64 {
    eventually("the change", async || {
        let noted = client.execute("return window.noted", vec![]).await.unwrap();
        let noted = noted
            .as_array()
            .expect("the page was not loaded again")
            .clone();
        let found = noted.iter().find(|page| wanted(page));
        found.map(|page| page["at"].as_u64().unwrap_or_default())
    })
    .await
}

#[track_caller]
fn within_a_second(asked: u64, shown: u64) {
    let took = shown.saturating_sub(asked);
    assert!(took < A_SECOND, "it took {took} ms");
}

async fn eventually<T>(what: &str, mut look: impl AsyncFnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + LONG;
    loop {
        if let Some(found) = look().await {
            return found;
        }
        assert!(Instant::now() < deadline, "{what} does not come");
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
}

// ---- the server ------------------------------------------------------------------------------

/// A server that logs each request.
async fn start(folder: &Path, log: &Path, port: u16) -> Server {
    let mut command = todo(&data(folder));
    let log: File = OpenOptions::new()
        .create(true)
        .append(true)
        .open(log)
        .unwrap();
    command.env("RUST_LOG", "todo::requests=info").stderr(log);
    Server::spawn(command, port).await
}

/// A port that no outgoing connection gets, so that it is still free after the server has died.
fn free_port() -> u16 {
    let first = 20_000 + u16::try_from(std::process::id() % 10_000).unwrap();
    let is_free = |port: &u16| std::net::TcpListener::bind(("127.0.0.1", *port)).is_ok();
    (first..first + 1_000).find(is_free).expect("a free port")
}

/// Method and path of each request so far.
fn requests(log: &Path) -> Vec<String> {
    let log = std::fs::read_to_string(log).unwrap();
    let request = |line: &str| Some(line.split_once("todo::requests: ")?.1.to_owned());
    log.lines().filter_map(request).collect()
}

// ---- the browser -----------------------------------------------------------------------------

struct Browser {
    client: Client,
    driver: Child,
    _profile: tempfile::TempDir,
}

impl Browser {
    async fn start(options: Value) -> Self {
        let mut driver = Command::new("chromedriver");
        driver
            .arg("--port=0")
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .kill_on_drop(true);
        let mut driver = driver.spawn().unwrap_or_else(|error| {
            panic!(
                "chromedriver does not start ({error}): run `scripts/test --browser`, which \
                 installs it, or install Chromium and its driver (Debian, Ubuntu: apt-get install \
                 chromium chromium-driver)"
            )
        });
        let port = port_of(&mut driver).await;

        let profile = tempfile::tempdir().unwrap();
        let own = format!("--user-data-dir={}", profile.path().display());
        let flags = [
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-quic",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--disable-sync",
            &own,
        ];
        let mut chrome = json!({ "args": flags });
        chrome
            .as_object_mut()
            .unwrap()
            .extend(options.as_object().unwrap().clone());
        let wanted = json!({ "goog:chromeOptions": chrome });
        let client = ClientBuilder::new(HttpConnector::new())
            .capabilities(wanted.as_object().unwrap().clone())
            .connect(&format!("http://127.0.0.1:{port}"))
            .await
            .expect("chromedriver starts Chromium; is it installed, in the same version?");
        Self {
            client,
            driver,
            _profile: profile,
        }
    }

    /// Runs a test, and closes the browser also when it fails.
    async fn run<F>(mut self, test: impl FnOnce(Client) -> F)
    where
        F: Future<Output = ()>,
    {
        let outcome = AssertUnwindSafe(test(self.client.clone()))
            .catch_unwind()
            .await;
        let closed = self.client.close().await;
        self.driver.kill().await.unwrap();
        if let Err(failure) = outcome {
            std::panic::resume_unwind(failure);
        }
        closed.unwrap();
    }
}

async fn port_of(driver: &mut Child) -> u16 {
    let mut lines = BufReader::new(driver.stdout.take().unwrap()).lines();
    let port = async {
        while let Some(line) = lines.next_line().await.unwrap() {
            let said = line.strip_prefix("ChromeDriver was started successfully on port ");
            if let Some(port) = said {
                return port.trim_end_matches('.').parse().unwrap();
            }
        }
        panic!("chromedriver ended before it said its port");
    };
    tokio::time::timeout(LONG, port)
        .await
        .expect("chromedriver says its port")
}
