//! Running the program, and asking it over HTTP.

use std::{
    path::Path,
    process::{Output, Stdio},
    time::Duration,
};

use axum::{
    body::Bytes,
    http::{HeaderMap, Method, Request, StatusCode, header::CONTENT_TYPE},
};
use http_body_util::{BodyExt, Full, combinators::UnsyncBoxBody};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde_json::Value;
use tokio::{
    io::{AsyncBufReadExt, BufReader},
    process::{Child, ChildStdout, Command},
    time::timeout,
};

/// Longer than anything may take on a busy machine; no test waits for it to pass.
pub(crate) const LONG: Duration = Duration::from_secs(60);

pub(crate) const RECEIPT: &str = "x-backstory-receipt";

/// The program, without the environment's own database.
pub(crate) fn todo(place: &[&str]) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_todo"));
    command
        .args(place)
        .env_remove("DATABASE_URL")
        .env_remove("RUST_LOG");
    command.stdin(Stdio::null()).kill_on_drop(true);
    command
}

/// Runs a sub-command to its end.
pub(crate) async fn run(place: &[&str], arguments: &[&str]) -> Output {
    let output = todo(place).args(arguments).output();
    timeout(LONG, output)
        .await
        .expect("the program hangs")
        .expect("the program starts")
}

/// Runs a sub-command that must succeed, and returns what it printed.
pub(crate) async fn ok(place: &[&str], arguments: &[&str]) -> String {
    let output = run(place, arguments).await;
    let errors = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success(), "todo {arguments:?}: {errors}");
    String::from_utf8(output.stdout).expect("UTF-8")
}

/// Runs a sub-command that must fail, and returns what it said.
pub(crate) async fn refused(place: &[&str], arguments: &[&str]) -> String {
    let output = run(place, arguments).await;
    assert!(!output.status.success(), "todo {arguments:?} succeeded");
    String::from_utf8(output.stderr).expect("UTF-8")
}

/// The events of a database, as `todo events --json` shows them.
pub(crate) async fn events(place: &[&str]) -> Vec<Value> {
    let lines = ok(place, &["events", "--json"]).await;
    lines
        .lines()
        .map(|line| serde_json::from_str(line).expect("a line is JSON"))
        .collect()
}

/// Arguments that keep the lists in this folder.
pub(crate) fn data(folder: &Path) -> [&str; 2] {
    ["--data", folder.to_str().expect("UTF-8")]
}

/// A running server.
pub(crate) struct Server {
    child: Child,
    _stdout: BufReader<ChildStdout>,
    pub(crate) address: String,
    client: Client<HttpConnector, Full<Bytes>>,
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn json(&self) -> Value {
        serde_json::from_str(&self.text).unwrap_or_else(|_| panic!("no JSON: {self:?}"))
    }

    pub(crate) fn receipt(&self) -> String {
        let receipt = self
            .headers
            .get(RECEIPT)
            .unwrap_or_else(|| panic!("no receipt: {self:?}"));
        receipt.to_str().expect("ASCII").to_owned()
    }

    /// The id of what was created.
    pub(crate) fn id(&self) -> String {
        assert_eq!(self.status, StatusCode::CREATED, "{self:?}");
        self.json()["id"].as_str().expect("an id").to_owned()
    }

    /// Expects problem details with this status and code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(self.headers[CONTENT_TYPE], "application/problem+json");
        let problem = self.json();
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        for text in ["type", "title", "detail"] {
            assert!(
                problem[text].as_str().is_some_and(|text| !text.is_empty()),
                "{problem}"
            );
        }
    }
}

impl Server {
    /// Starts a server on a free port.
    pub(crate) async fn start(place: &[&str]) -> Self {
        Self::start_on(place, 0).await
    }

    pub(crate) async fn start_on(place: &[&str], port: u16) -> Self {
        Self::spawn(todo(place), port).await
    }

    /// Starts the program, which writes its log where the caller said.
    pub(crate) async fn spawn(mut command: Command, port: u16) -> Self {
        command
            .args(["serve", "--port", &port.to_string()])
            .stdout(Stdio::piped());
        let mut child = command.spawn().expect("the program starts");
        let mut stdout = BufReader::new(child.stdout.take().expect("piped"));
        let mut line = String::new();
        let read = timeout(LONG, stdout.read_line(&mut line)).await;
        read.expect("the server says where it is")
            .expect("readable");
        let (_, address) = line.trim().split_once("http://").expect("an address");
        Self {
            child,
            _stdout: stdout,
            address: address.to_owned(),
            client: Client::builder(TokioExecutor::new()).build_http(),
        }
    }

    pub(crate) fn port(&self) -> u16 {
        self.address
            .rsplit(':')
            .next()
            .and_then(|port| port.parse().ok())
            .expect("a port")
    }

    pub(crate) async fn get(&self, path: &str) -> Answer {
        self.ask(
            self.request(Method::GET, path)
                .body(Full::default())
                .expect("a request"),
        )
        .await
    }

    /// Asks for what includes the change of this receipt.
    pub(crate) async fn get_including(&self, path: &str, receipt: &str) -> Answer {
        let request = self.request(Method::GET, path).header(RECEIPT, receipt);
        self.ask(request.body(Full::default()).expect("a request"))
            .await
    }

    pub(crate) async fn post(&self, path: &str, body: Value) -> Answer {
        self.post_text(path, "application/json", body.to_string())
            .await
    }

    pub(crate) async fn post_text(&self, path: &str, kind: &str, body: String) -> Answer {
        let request = self.request(Method::POST, path).header(CONTENT_TYPE, kind);
        self.ask(request.body(Full::from(body)).expect("a request"))
            .await
    }

    fn request(&self, method: Method, path: &str) -> axum::http::request::Builder {
        Request::builder()
            .method(method)
            .uri(format!("http://{}{path}", self.address))
    }

    async fn ask(&self, request: Request<Full<Bytes>>) -> Answer {
        let answer = timeout(LONG, self.client.request(request)).await;
        let (parts, body) = answer
            .expect("an answer in time")
            .expect("an answer")
            .into_parts();
        let body = timeout(LONG, body.collect())
            .await
            .expect("a body in time")
            .expect("a body");
        let text = String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8");
        Answer {
            status: parts.status,
            headers: parts.headers,
            text,
        }
    }

    /// Listens as a page does.
    pub(crate) async fn listen(&self) -> Events {
        self.listen_to("/api/events").await
    }

    pub(crate) async fn listen_to(&self, path: &str) -> Events {
        let request = self.request(Method::GET, path).body(Full::default());
        let answer = self.client.request(request.expect("a request"));
        let answer = timeout(LONG, answer)
            .await
            .expect("an answer in time")
            .expect("an answer");
        assert_eq!(answer.status(), StatusCode::OK);
        assert_eq!(answer.headers()[CONTENT_TYPE], "text/event-stream");
        Events {
            body: answer
                .into_body()
                .map_err(|error| error.to_string())
                .boxed_unsync(),
            buffer: String::new(),
        }
    }

    /// Ends it as a crash does.
    pub(crate) async fn kill(mut self) {
        self.child.kill().await.expect("it can be killed");
    }

    /// Asks it to stop, and returns its exit code.
    pub(crate) async fn terminate(mut self, signal: &str) -> Option<i32> {
        let pid = self.child.id().expect("it runs").to_string();
        let sent = Command::new("kill")
            .args(["-s", signal, &pid])
            .status()
            .await;
        assert!(sent.expect("kill runs").success());
        // Less than what unanswered requests are given: pages that listen must not use it up.
        let ended = timeout(Duration::from_secs(4), self.child.wait()).await;
        ended
            .expect("it ends within seconds")
            .expect("it ends")
            .code()
    }
}

/// One server-sent event.
#[derive(Debug)]
pub(crate) struct Message {
    pub(crate) name: String,
    pub(crate) id: String,
    pub(crate) data: Value,
}

/// A stream of server-sent events.
pub(crate) struct Events {
    body: UnsyncBoxBody<Bytes, String>,
    buffer: String,
}

impl Events {
    /// The next message; `None` when the server has ended the stream.
    pub(crate) async fn next(&mut self) -> Option<Message> {
        // Over all frames: the server's comments keep coming while nothing is told.
        timeout(LONG, self.read()).await.expect("a message in time")
    }

    async fn read(&mut self) -> Option<Message> {
        loop {
            while let Some(end) = self.buffer.find("\n\n") {
                let block: String = self.buffer.drain(..end + 2).collect();
                let field = |name: &str| -> String {
                    let value = |line: &str| Some(line.strip_prefix(name)?.trim_start().to_owned());
                    block.lines().find_map(value).unwrap_or_default()
                };
                if !block.starts_with(':') {
                    let data = serde_json::from_str(&field("data:")).expect("data is JSON");
                    let (name, id) = (field("event:"), field("id:"));
                    return Some(Message { name, id, data });
                }
            }
            let frame = self.body.frame().await?.expect("the stream is whole");
            let bytes = frame.into_data().expect("data");
            self.buffer
                .push_str(std::str::from_utf8(&bytes).expect("UTF-8"));
        }
    }

    /// The next message of this name.
    pub(crate) async fn expect_soon(&mut self, name: &str) -> Message {
        loop {
            let message = self.next().await.expect("the stream goes on");
            if message.name == name {
                return message;
            }
        }
    }

    /// The next message, which must be there and have this name.
    pub(crate) async fn expect(&mut self, name: &str) -> Message {
        let message = self.next().await.expect("the stream goes on");
        assert_eq!(message.name, name, "{message:?}");
        message
    }
}
