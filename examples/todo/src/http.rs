//! The page and its API.

use std::{
    collections::BTreeMap,
    sync::{Arc, Mutex, PoisonError},
};

use axum::{
    Json, Router,
    extract::{
        DefaultBodyLimit, FromRequest, FromRequestParts, MatchedPath, Path, Query, Request, State,
        rejection::{JsonRejection, PathRejection, QueryRejection},
    },
    http::{HeaderMap, HeaderName, HeaderValue, Method, StatusCode, header},
    middleware::{self, Next},
    response::{IntoResponse, Response, Sse, sse::KeepAlive},
    routing::{get, post},
};
use backstory::{
    Appended, Checkpoint, EventStoreExt, Store,
    projection::{ProjectionStatus, RunningProjector},
};
use futures::StreamExt;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::watch;
use uuid::Uuid;

use crate::{
    app::{TodoError, Todos},
    live::Live,
    problem::Problem,
    read_model::{self, BOARD},
    search::{self, SEARCH},
};

/// The receipt of a change in an answer; in a request: answer with what includes this change.
pub const RECEIPT: HeaderName = HeaderName::from_static("x-backstory-receipt");

/// The largest body of a request, in bytes.
const MAX_BODY: usize = 16 << 10;

/// Nothing but what this server itself serves.
const CONTENT_POLICY: &str = "default-src 'none'; script-src 'self'; style-src 'self'; \
    img-src 'self'; connect-src 'self'; base-uri 'none'; form-action 'self'; \
    frame-ancestors 'none'";

/// Answers with a file of the page, which is part of the program.
macro_rules! asset {
    ($kind:literal, $file:literal) => {
        async || {
            let kind = HeaderValue::from_static(concat!($kind, "; charset=utf-8"));
            let always_ask = HeaderValue::from_static("no-cache");
            let headers = [
                (header::CONTENT_TYPE, kind),
                (header::CACHE_CONTROL, always_ask),
            ];
            (headers, include_str!($file))
        }
    };
}

type Answer = Result<Response, Problem>;

/// What the handlers share. Clones share it.
#[derive(Debug, Clone)]
pub struct App {
    todos: Todos,
    projector: Arc<RunningProjector>,
    live: Live,
    requests: Arc<Mutex<BTreeMap<String, u64>>>,
    stopping: watch::Receiver<bool>,
}

impl App {
    /// Streams end when `stopping` becomes true.
    pub fn new(
        todos: Todos,
        projector: Arc<RunningProjector>,
        live: Live,
        stopping: watch::Receiver<bool>,
    ) -> Self {
        Self {
            todos,
            projector,
            live,
            requests: Arc::default(),
            stopping,
        }
    }

    /// All routes.
    pub fn router(self) -> Router {
        Router::new()
            .route("/", get(asset!("text/html", "page/index.html")))
            .route("/style.css", get(asset!("text/css", "page/style.css")))
            .route("/app.js", get(asset!("text/javascript", "page/app.js")))
            .route("/panel.js", get(asset!("text/javascript", "page/panel.js")))
            .route(
                "/search.js",
                get(asset!("text/javascript", "page/search.js")),
            )
            .route(
                "/favicon.svg",
                get(asset!("image/svg+xml", "page/favicon.svg")),
            )
            .route("/api/state", get(state))
            .route("/api/search", get(search))
            .route("/api/events", get(events))
            .route("/api/status", get(status))
            .route("/api/lists", post(open_list))
            .route("/api/tasks", post(add_task))
            .route("/api/tasks/{id}/done", post(complete_task))
            .route("/api/tasks/{id}/remove", post(remove_task))
            .route("/api/projections/{name}/pause", post(pause))
            .route("/api/projections/{name}/resume", post(resume))
            .route("/api/projections/{name}/rebuild", post(rebuild))
            .fallback(async || {
                Problem::new(
                    StatusCode::NOT_FOUND,
                    "unknown_path",
                    "There is nothing here.",
                )
            })
            .method_not_allowed_fallback(async || {
                let detail = "This path has other methods: GET to read, POST to change.";
                Problem::new(StatusCode::METHOD_NOT_ALLOWED, "method", detail)
            })
            .layer(DefaultBodyLimit::max(MAX_BODY))
            .layer(middleware::from_fn_with_state(self.clone(), around))
            .with_state(self)
    }
}

/// Counts and logs each request, and adds the headers that every answer has.
async fn around(
    State(app): State<App>,
    path: Option<MatchedPath>,
    request: Request,
    next: Next,
) -> Response {
    let route = path.as_ref().map_or("(unknown)", MatchedPath::as_str);
    // A client may invent any number of methods, so those are one.
    let method = match *request.method() {
        Method::GET => "GET",
        Method::POST => "POST",
        _ => "(other)",
    };
    *app.requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .entry(format!("{method} {route}"))
        .or_default() += 1;
    tracing::info!(target: "todo::requests", "{} {}", request.method(), request.uri().path());

    let mut answer = next.run(request).await;
    let headers = answer.headers_mut();
    for (name, value) in [
        (header::CONTENT_SECURITY_POLICY, CONTENT_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
    ] {
        headers.insert(name, HeaderValue::from_static(value));
    }
    headers
        .entry(header::CACHE_CONTROL)
        .or_insert(HeaderValue::from_static("no-store"));
    answer
}

// ---- reading ---------------------------------------------------------------------------------

#[derive(Deserialize)]
struct Which {
    list: Option<Uuid>,
}

async fn state(
    State(app): State<App>,
    headers: HeaderMap,
    which: Result<Query<Which>, QueryRejection>,
) -> Answer {
    let Query(which) = which.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    let asked = receipt(&headers)?;
    if let Some(change) = asked {
        app.projector.projection(BOARD).caught_up(change).await?;
    }
    let store = app.todos.store();
    if let Some(list) = which.list
        && read_model::list(store, list).await?.is_none()
    {
        return Err(TodoError::UnknownList(list).into());
    }
    // Asked before the state is read, so that the state includes at least this.
    let included = read_model::progress(store).await?;
    let included = asked
        .filter(|asked| asked.position > included.position)
        .unwrap_or(included);
    let board = read_model::board(store, which.list).await?;
    Ok((with_receipt(&included), Json(board)).into_response())
}

#[derive(Deserialize)]
struct Wanted {
    q: String,
}

async fn search(
    State(app): State<App>,
    headers: HeaderMap,
    wanted: Result<Query<Wanted>, QueryRejection>,
) -> Answer {
    let Query(wanted) = wanted.map_err(|error| Problem::bad_request("query", error.body_text()))?;
    if let Some(change) = receipt(&headers)? {
        app.projector.projection(SEARCH).caught_up(change).await?;
    }
    let found = search::search(app.todos.store(), &wanted.q).await?;
    Ok(Json(found).into_response())
}

#[derive(Deserialize)]
struct Listening {
    /// Also told how the projections are doing.
    projections: Option<String>,
}

async fn events(State(app): State<App>, Query(listening): Query<Listening>) -> impl IntoResponse {
    let mut stopping = app.stopping.clone();
    let stopped = async move { drop(stopping.wait_for(|stopping| *stopping).await) };
    let told = app.live.listen(listening.projections.is_some());
    Sse::new(told.take_until(Box::pin(stopped))).keep_alive(KeepAlive::default())
}

async fn status(State(app): State<App>) -> Answer {
    let head = app.todos.store().head().await?;
    let projections = app.projector.status();
    let board = app.projector.projection(BOARD).status()?;
    let requests = app
        .requests
        .lock()
        .unwrap_or_else(PoisonError::into_inner)
        .clone();
    let status = json!({
        "version": env!("CARGO_PKG_VERSION"),
        "head": head.position,
        "events_projected": board.events_projected,
        "projections": projections.iter().map(projection).collect::<Vec<_>>(),
        "pages_listening": app.live.listeners(),
        "requests": requests,
        "writer": writer(app.todos.store()),
    });
    Ok(Json(status).into_response())
}

/// What the store counted; nothing in memory.
fn writer(store: &Store) -> Value {
    let postgres = store.postgres().map(|store| store.stats().writer);
    let Some(stats) = postgres.or_else(|| Some(store.sqlite()?.stats())) else {
        return Value::Null;
    };
    json!({
        "stored": stats.stored,
        "queued": stats.queued,
        "batches": stats.batch_appends.count,
        "batch_p99_micros": stats.batch_micros.p99,
        "conflicts": stats.conflicts.total(),
        "retries": stats.retries,
    })
}

fn projection(status: &ProjectionStatus) -> Value {
    json!({
        "name": status.name,
        "checkpoint": status.checkpoint.position,
        "lag": status.lag,
        "state": status.state.to_string(),
        "events_projected": status.events_projected,
    })
}

// ---- changing --------------------------------------------------------------------------------

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewList {
    name: String,
}

async fn open_list(State(app): State<App>, Body(new): Body<NewList>) -> Answer {
    let (id, receipt) = app.todos.open_list(&new.name).await?;
    Ok(created(id, &receipt))
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct NewTask {
    list: Uuid,
    title: String,
}

async fn add_task(State(app): State<App>, Body(new): Body<NewTask>) -> Answer {
    let (id, receipt) = app.todos.add_task(new.list, &new.title).await?;
    Ok(created(id, &receipt))
}

async fn complete_task(State(app): State<App>, TaskId(id): TaskId) -> Answer {
    Ok(changed(&app.todos.complete_task(id).await?))
}

async fn remove_task(State(app): State<App>, TaskId(id): TaskId) -> Answer {
    Ok(changed(&app.todos.remove_task(id).await?))
}

async fn pause(State(app): State<App>, Path(name): Path<String>) -> Answer {
    app.projector.pause(&name).await?;
    Ok(ordered(&app))
}

async fn resume(State(app): State<App>, Path(name): Path<String>) -> Answer {
    app.projector.resume(&name).await?;
    Ok(ordered(&app))
}

/// Answers when it has begun; the stream tells the rest.
async fn rebuild(State(app): State<App>, Path(name): Path<String>) -> Answer {
    app.projector.rebuild(&name).await?;
    Ok(ordered(&app))
}

fn ordered(app: &App) -> Response {
    app.live.panel().look();
    Json(json!({})).into_response()
}

fn created(id: Uuid, receipt: &Appended) -> Response {
    let body = Json(json!({ "id": id }));
    (StatusCode::CREATED, with_receipt(&receipt.checkpoint), body).into_response()
}

fn changed(receipt: &Appended) -> Response {
    (with_receipt(&receipt.checkpoint), Json(json!({}))).into_response()
}

// ---- headers, paths and bodies ---------------------------------------------------------------

fn with_receipt(included: &Checkpoint) -> [(HeaderName, String); 1] {
    [(RECEIPT, included.to_string())]
}

fn receipt(headers: &HeaderMap) -> Result<Option<Checkpoint>, Problem> {
    let Some(value) = headers.get(RECEIPT) else {
        return Ok(None);
    };
    let receipt = value.to_str().ok().and_then(|text| text.parse().ok());
    match receipt {
        Some(receipt) => Ok(Some(receipt)),
        None => Err(Problem::bad_request(
            "receipt.bad",
            format!("The header {RECEIPT} holds no receipt; pass on what an answer gave you."),
        )),
    }
}

/// The id of a task in a path.
struct TaskId(Uuid);

impl<S: Send + Sync> FromRequestParts<S> for TaskId {
    type Rejection = Problem;

    async fn from_request_parts(
        parts: &mut axum::http::request::Parts,
        state: &S,
    ) -> Result<Self, Problem> {
        let id: Result<Path<Uuid>, PathRejection> = Path::from_request_parts(parts, state).await;
        match id {
            Ok(Path(id)) if !id.is_nil() => Ok(Self(id)),
            _ => Err(Problem::bad_request(
                "id",
                "The path holds no id of a task: a uuid.",
            )),
        }
    }
}

/// A JSON body.
struct Body<T>(T);

impl<S: Send + Sync, T> FromRequest<S> for Body<T>
where
    Json<T>: FromRequest<S, Rejection = JsonRejection>,
{
    type Rejection = Problem;

    async fn from_request(request: Request, state: &S) -> Result<Self, Problem> {
        match Json::from_request(request, state).await {
            Ok(Json(body)) => Ok(Self(body)),
            Err(error) => Err(match error.status() {
                StatusCode::PAYLOAD_TOO_LARGE => Problem::new(
                    StatusCode::PAYLOAD_TOO_LARGE,
                    "body.too_large",
                    format!("A body has at most {MAX_BODY} bytes."),
                ),
                StatusCode::UNSUPPORTED_MEDIA_TYPE => Problem::new(
                    StatusCode::UNSUPPORTED_MEDIA_TYPE,
                    "body.not_json",
                    "Send JSON, and say so: content-type: application/json.",
                ),
                _ => Problem::bad_request("body", error.body_text()),
            }),
        }
    }
}
