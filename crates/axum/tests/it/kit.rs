//! A counter with a read model, served over HTTP.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicBool, AtomicU64, Ordering},
    },
    time::Duration,
};

use async_trait::async_trait;
use axum::{
    Router,
    body::Bytes,
    extract::State,
    http::{HeaderMap, HeaderName, Method, Request, StatusCode},
    response::IntoResponse,
    routing::get,
};
use backstory_axum::{RECEIPT, Receipt, ReceiptLayer, STALE};
use backstory_event::{
    Append, Appended, Envelope, Event, EventStore, ExpectedVersion, NewEvent, StreamId,
};
use backstory_projection::{
    self as projection, Checkpoints, Control, DeadLetters, DocumentReader, DocumentStore,
    Documents, Projection, Projector, RunningProjector, Schedule,
};
use http_body_util::{BodyExt, Full};
use hyper_util::{
    client::legacy::{Client, connect::HttpConnector},
    rt::TokioExecutor,
};
use serde::{Deserialize, Serialize};
use tokio::{net::TcpListener, sync::watch, task::AbortHandle};

/// Longer than anything may take on a busy machine; no test waits for it to pass.
const LONG: Duration = Duration::from_secs(30);
pub(crate) const HOUR: Duration = Duration::from_secs(3_600);

#[derive(Debug, Serialize, Deserialize, Event)]
#[event(prefix = "click", crate = "backstory_event")]
pub(crate) enum Click {
    Counted,
}

/// Counts clicks, unless it is held or fails.
#[derive(Debug, Default, Clone)]
pub(crate) struct Counter(Arc<Switches>);

#[derive(Debug, Default)]
struct Switches {
    held: watch::Sender<bool>,
    fails: AtomicBool,
}

pub(crate) const COUNTER: &str = "counter";

impl Counter {
    pub(crate) fn hold(&self, on: bool) {
        self.0.held.send_replace(on);
    }

    pub(crate) fn fail(&self, on: bool) {
        self.0.fails.store(on, Ordering::SeqCst);
    }
}

#[async_trait]
impl Projection<Documents> for Counter {
    type Event = Click;
    const NAME: &'static str = COUNTER;

    async fn project(&self, batch: &[Envelope<Click>], docs: &mut Documents) -> projection::Result {
        let mut held = self.0.held.subscribe();
        held.wait_for(|held| !held).await?;
        if self.0.fails.load(Ordering::SeqCst) {
            return Err("it counts nothing today".into());
        }
        let new = batch.len() as u64;
        docs.update(COUNTER, "all", |count: Option<u64>| {
            Some(count.unwrap_or_default() + new)
        })
        .await?;
        Ok(())
    }
}

/// What a store does here.
pub(crate) trait Store:
    EventStore + Checkpoints + Control + DeadLetters + DocumentStore + Clone
{
}

impl<S: EventStore + Checkpoints + Control + DeadLetters + DocumentStore + Clone> Store for S {}

pub(crate) async fn click<S: Store>(store: &S) -> Appended {
    let event = NewEvent::of(&Click::Counted).unwrap();
    let stream = StreamId::new("counter", "1").unwrap();
    let append = Append::to(stream, ExpectedVersion::Any, [event]);
    store.append(append).await.unwrap()
}

/// Keeps the counter up to date.
pub(crate) async fn projector<S: Store>(
    store: &S,
    counter: &Counter,
    schedule: impl Into<Schedule>,
) -> Arc<RunningProjector> {
    let projector = Projector::new(store).with(counter.clone(), schedule);
    Arc::new(projector.start().await.unwrap())
}

/// `POST /` clicks, `GET /` says how many clicks there were.
pub(crate) fn router<S: Store>(store: &S, handled: &Arc<AtomicU64>) -> Router {
    let handled = [Arc::clone(handled), Arc::clone(handled)];
    let [posts, gets] = handled;
    let post = async move |State(store): State<S>| {
        posts.fetch_add(1, Ordering::SeqCst);
        (Receipt::from(&click(&store).await), "clicked")
    };
    let read = async move |State(store): State<S>| {
        gets.fetch_add(1, Ordering::SeqCst);
        let count: Option<u64> = DocumentReader::from(&store)
            .get(COUNTER, "all")
            .await
            .unwrap();
        count.unwrap_or_default().to_string().into_response()
    };
    Router::new()
        .route("/", get(read).post(post))
        .with_state(store.clone())
}

/// A server on a free port of this machine.
pub(crate) struct Server {
    address: String,
    client: Client<HttpConnector, Full<Bytes>>,
    task: AbortHandle,
    /// How many requests came through to a handler.
    pub(crate) handled: Arc<AtomicU64>,
}

impl Drop for Server {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// What a server answered.
#[derive(Debug)]
pub(crate) struct Answer {
    pub(crate) status: StatusCode,
    pub(crate) headers: HeaderMap,
    pub(crate) text: String,
}

impl Answer {
    pub(crate) fn header(&self, name: impl AsRef<str>) -> Option<&str> {
        let value = self.headers.get(name.as_ref())?;
        Some(value.to_str().expect("text"))
    }

    pub(crate) fn receipt(&self) -> String {
        let receipt = self.header(RECEIPT);
        receipt
            .unwrap_or_else(|| panic!("no receipt: {self:?}"))
            .to_owned()
    }

    pub(crate) fn stale(&self) -> Option<&str> {
        self.header(STALE)
    }

    pub(crate) fn count(&self) -> u64 {
        assert_eq!(self.status, StatusCode::OK, "{self:?}");
        self.text.parse().expect("a number")
    }

    /// Expects problem details with this status and code.
    #[track_caller]
    pub(crate) fn is_problem(&self, status: u16, code: &str) {
        assert_eq!(self.status.as_u16(), status, "{self:?}");
        assert_eq!(
            self.header("content-type"),
            Some("application/problem+json")
        );
        let problem: serde_json::Value = serde_json::from_str(&self.text).expect("JSON");
        assert_eq!(problem["status"], status, "{problem}");
        assert_eq!(problem["code"], code, "{problem}");
        assert!(
            problem["detail"]
                .as_str()
                .is_some_and(|text| text.len() > 20)
        );
    }
}

impl Server {
    pub(crate) async fn start<S: Store>(store: &S, layer: ReceiptLayer) -> Self {
        let handled = Arc::default();
        let router = router(store, &handled).layer(layer);
        Self::serve(router, handled).await
    }

    pub(crate) async fn serve(router: Router, handled: Arc<AtomicU64>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("a free port");
        let address = listener.local_addr().expect("an address").to_string();
        let served = axum::serve(listener, router).into_future();
        Self {
            address,
            client: Client::builder(TokioExecutor::new()).build_http(),
            task: tokio::spawn(served).abort_handle(),
            handled,
        }
    }

    pub(crate) async fn ask(&self, method: Method, headers: &[(HeaderName, &[u8])]) -> Answer {
        let mut request = Request::builder()
            .method(method)
            .uri(format!("http://{}/", self.address));
        for (name, value) in headers {
            request = request.header(name, *value);
        }
        let request = request.body(Full::default()).expect("a request");
        let answer = within(self.client.request(request))
            .await
            .expect("an answer");
        let (parts, body) = answer.into_parts();
        let body = within(body.collect()).await.expect("a body");
        Answer {
            status: parts.status,
            headers: parts.headers,
            text: String::from_utf8(body.to_bytes().to_vec()).expect("UTF-8"),
        }
    }

    pub(crate) async fn click(&self) -> Answer {
        self.ask(Method::POST, &[]).await
    }

    pub(crate) async fn get(&self) -> Answer {
        self.ask(Method::GET, &[]).await
    }

    /// Reads what includes the change of a receipt.
    pub(crate) async fn get_with(&self, receipt: &str) -> Answer {
        self.ask(Method::GET, &[(RECEIPT, receipt.as_bytes())])
            .await
    }

    /// Reads again and again until an answer does not say that it is stale.
    pub(crate) async fn until_fresh(&self, receipt: &str) -> Answer {
        within(async {
            loop {
                let answer = self.get_with(receipt).await;
                if answer.stale().is_none() {
                    return answer;
                }
            }
        })
        .await
    }

    pub(crate) fn handled(&self) -> u64 {
        self.handled.load(Ordering::SeqCst)
    }
}

/// Waits for what must come, but not for ever.
pub(crate) async fn within<T>(future: impl Future<Output = T>) -> T {
    tokio::time::timeout(LONG, future).await.expect("in time")
}
