//! The layer, and what it decides.

use std::{sync::Arc, time::Duration};

use backstory_event::Checkpoint;
use backstory_projection::{ProjectorError, RunningProjector};
use futures::future::try_join_all;
use http::{
    HeaderMap, HeaderValue, Method, Response, StatusCode,
    header::{RETRY_AFTER, SET_COOKIE, VARY},
};
use tower_layer::Layer;

use crate::{
    RECEIPT, ReceiptCookie, ReceiptService, STALE,
    problem::problem,
    receipt::{self, Malformed, newest},
};

/// What happens to a read whose read models do not contain its receipt in time.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
#[non_exhaustive]
pub enum Stale {
    /// It is served as it is, with the header [`STALE`].
    #[default]
    Serve,
    /// It is refused with 503 and `Retry-After`; with 409 when the receipt is of another log.
    Refuse,
}

/// Lets reads wait for the receipts that they bring, and gives those of changes to the client: see
/// the [crate](crate).
#[derive(Debug, Clone)]
pub struct ReceiptLayer {
    settings: Settings,
}

#[derive(Debug, Clone)]
pub(crate) struct Settings {
    projector: Arc<RunningProjector>,
    /// None: all.
    projections: Vec<String>,
    deadline: Duration,
    stale: Stale,
    cookie: Option<ReceiptCookie>,
    every_method: bool,
}

impl ReceiptLayer {
    /// Waits up to 2 seconds for all projections of a projector; serves what is stale; without a
    /// cookie.
    pub fn new(projector: Arc<RunningProjector>) -> Self {
        Self {
            settings: Settings {
                projector,
                projections: Vec::new(),
                deadline: Duration::from_secs(2),
                stale: Stale::default(),
                cookie: None,
                every_method: false,
            },
        }
    }

    /// Waits only for these projections: those that the routes behind the layer read.
    ///
    /// # Errors
    /// When the projector has no such projection.
    pub fn with_projections<'a>(
        mut self,
        names: impl IntoIterator<Item = &'a str>,
    ) -> Result<Self, ProjectorError> {
        for name in names {
            self.settings.projector.projection(name).status()?;
            self.settings.projections.push(name.to_owned());
        }
        Ok(self)
    }

    /// With so much time for the read models. A projection that fails, is paused or has stopped is
    /// not waited for.
    #[must_use]
    pub fn with_deadline(mut self, deadline: Duration) -> Self {
        self.settings.deadline = deadline;
        self
    }

    /// Says what happens to a read that would miss its change.
    #[must_use]
    pub fn with_stale(mut self, stale: Stale) -> Self {
        self.settings.stale = stale;
        self
    }

    /// Also carries receipts in a cookie.
    #[must_use]
    pub fn with_cookie(mut self, cookie: ReceiptCookie) -> Self {
        self.settings.cookie = Some(cookie);
        self
    }

    /// Lets requests of all methods wait, not only `GET` and `HEAD`: for routes that read by
    /// another one. A change that does not read needs no read model, and should not wait for one.
    #[must_use]
    pub fn with_every_method(mut self) -> Self {
        self.settings.every_method = true;
        self
    }
}

impl<S> Layer<S> for ReceiptLayer {
    type Service = ReceiptService<S>;

    fn layer(&self, inner: S) -> ReceiptService<S> {
        ReceiptService::new(inner, Arc::new(self.settings.clone()))
    }
}

/// Why an answer may lack a change.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Why {
    Behind,
    Failing,
    Paused,
    Stopped,
    Diverged,
}

impl From<&ProjectorError> for Why {
    fn from(error: &ProjectorError) -> Self {
        match error {
            error if error.is_diverged() => Self::Diverged,
            error if error.is_failing() => Self::Failing,
            error if error.is_paused() => Self::Paused,
            error if error.is_stopped() => Self::Stopped,
            _ => Self::Behind,
        }
    }
}

impl Why {
    fn text(self) -> &'static str {
        match self {
            Self::Behind => "behind",
            Self::Failing => "failing",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
            Self::Diverged => "diverged",
        }
    }
}

impl Settings {
    /// The newest receipt of a request.
    pub(crate) fn brought_in(&self, headers: &HeaderMap) -> Result<Option<Checkpoint>, Malformed> {
        let header = receipt::brought_in(headers)?;
        let cookie = match &self.cookie {
            Some(cookie) => cookie.brought_in(headers)?,
            None => None,
        };
        Ok(match cookie {
            Some(cookie) => Some(newest(header, cookie)),
            None => header,
        })
    }

    pub(crate) fn waits(&self, method: &Method) -> bool {
        self.every_method || [Method::GET, Method::HEAD].contains(method)
    }

    /// Waits until the read models contain a receipt; says why they do not.
    pub(crate) async fn wait(&self, receipt: Checkpoint) -> Result<(), Why> {
        let (projector, deadline) = (&self.projector, self.deadline);
        let waited = if self.projections.is_empty() {
            projector.caught_up_within(receipt, deadline).await
        } else {
            let waits = self.projections.iter().map(async |name| {
                let projection = projector.projection(name);
                projection.caught_up_within(receipt, deadline).await
            });
            try_join_all(waits).await.map(drop)
        };
        waited.map_err(|error| {
            tracing::debug!(%error, "a read model does not contain a receipt");
            Why::from(&error)
        })
    }

    /// The answer to a request whose receipt is none.
    pub(crate) fn malformed<R: From<String>>(&self) -> Response<R> {
        let mut response = problem(
            StatusCode::BAD_REQUEST,
            "receipt.malformed",
            "The header or cookie of the receipt holds something else: bring back what an answer \
             gave you, unchanged.",
        );
        self.clear_cookie(response.headers_mut());
        response
    }

    /// The answer to a request that would miss its change, if it is not served.
    pub(crate) fn refused<R: From<String>>(&self, why: Why) -> Option<Response<R>> {
        if self.stale == Stale::Serve {
            return None;
        }
        let mut response = if why == Why::Diverged {
            problem(
                StatusCode::CONFLICT,
                "receipt.diverged",
                "The receipt is of another log than the one that is here now: forget it.",
            )
        } else {
            problem(
                StatusCode::SERVICE_UNAVAILABLE,
                "read_model.behind",
                "What is read here does not include the change of the receipt yet: try again \
                 later.",
            )
        };
        if why == Why::Diverged {
            self.clear_cookie(response.headers_mut());
        } else {
            let soon = HeaderValue::from_static("1");
            response.headers_mut().insert(RETRY_AFTER, soon);
        }
        self.mark(response.headers_mut(), why);
        Some(response)
    }

    /// Adds to an answer what the client has to know.
    pub(crate) fn finish<R>(
        &self,
        response: &mut Response<R>,
        brought: Option<Checkpoint>,
        why: Option<Why>,
    ) {
        let left = receipt::left_in(response.extensions());
        let headers = response.headers_mut();
        headers.append(VARY, HeaderValue::from_name(RECEIPT));
        if self.cookie.is_some() {
            headers.append(VARY, HeaderValue::from_static("cookie"));
        }
        if let Some(why) = why {
            self.mark(headers, why);
        }
        // One of another log is not brought any farther.
        let brought = brought.filter(|_| why != Some(Why::Diverged));
        let Some(left) = left else {
            if why == Some(Why::Diverged) {
                self.clear_cookie(headers);
            }
            return;
        };
        let newest = newest(brought, left);
        if let Some(value) = receipt::header(newest) {
            headers.insert(RECEIPT, value);
        }
        // The browser keeps a newer one by itself, for as long as that one was given.
        if newest == left
            && let Some(value) = self.cookie.as_ref().and_then(|cookie| cookie.set(left))
        {
            headers.append(SET_COOKIE, value);
        }
    }

    fn mark(&self, headers: &mut HeaderMap, why: Why) {
        headers.insert(STALE, HeaderValue::from_static(why.text()));
    }

    fn clear_cookie(&self, headers: &mut HeaderMap) {
        if let Some(value) = self.cookie.as_ref().and_then(ReceiptCookie::clear) {
            headers.append(SET_COOKIE, value);
        }
    }
}
