//! Errors as problem details (RFC 9457): what to show to a person, and a stable code for programs.

use axum::{
    Json,
    http::{HeaderValue, StatusCode, header::CONTENT_TYPE},
    response::{IntoResponse, Response},
};
use backstory::{
    CommandError, Reject, StoreError, StoreErrorKind,
    aggregate::UpdateError,
    command::CommandErrorKind,
    projection::{DocumentError, DocumentErrorKind, ProjectorError, ProjectorErrorKind},
};
use serde::Serialize;

use crate::{app::TodoError, todo::TaskError};

/// Why a request was not done.
#[derive(Debug, Clone, Serialize)]
pub struct Problem {
    r#type: &'static str,
    title: &'static str,
    #[serde(serialize_with = "number")]
    status: StatusCode,
    detail: String,
    code: String,
}

impl Problem {
    /// A problem of this status; the code is stable, the detail is for people.
    pub fn new(status: StatusCode, code: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            r#type: "about:blank",
            title: status.canonical_reason().unwrap_or("Error"),
            status,
            detail: detail.into(),
            code: code.into(),
        }
    }

    /// What was sent cannot be used.
    pub fn bad_request(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, code, detail)
    }

    fn rejected(rejection: &impl Reject) -> Self {
        let status = StatusCode::UNPROCESSABLE_ENTITY;
        Self::new(status, rejection.code(), rejection.to_string())
    }

    fn unavailable(code: &str, detail: impl Into<String>) -> Self {
        Self::new(StatusCode::SERVICE_UNAVAILABLE, code, detail)
    }

    /// Nothing that the caller can change. The reason goes to the log, not to the caller.
    fn broken(error: &(dyn std::error::Error + 'static)) -> Self {
        tracing::error!(error, "a request failed");
        let detail = "Something is broken on the server; its log says what.";
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", detail)
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let kind = HeaderValue::from_static("application/problem+json");
        (self.status, [(CONTENT_TYPE, kind)], Json(self)).into_response()
    }
}

fn number<S: serde::Serializer>(status: &StatusCode, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.serialize_u16(status.as_u16())
}

impl From<TodoError> for Problem {
    fn from(error: TodoError) -> Self {
        match error {
            TodoError::UnknownList(_) => {
                Self::new(StatusCode::NOT_FOUND, "list.unknown", error.to_string())
            }
            TodoError::NameTaken { .. } => {
                Self::new(StatusCode::CONFLICT, "list.name_taken", error.to_string())
            }
            TodoError::OpenList(UpdateError::Rejected(rejection)) => Self::rejected(&rejection),
            TodoError::OpenList(UpdateError::Repository(error)) => CommandError::from(error).into(),
            TodoError::Command(error) => error.into(),
            TodoError::Store(error) => error.into(),
            TodoError::Documents(error) => error.into(),
            TodoError::Projector(error) => error.into(),
            error => Self::broken(&error),
        }
    }
}

impl From<CommandError> for Problem {
    fn from(error: CommandError) -> Self {
        if let Some(rejection) = error.rejection::<TaskError>() {
            return match rejection {
                TaskError::Unknown => Self::new(
                    StatusCode::NOT_FOUND,
                    rejection.code(),
                    rejection.to_string(),
                ),
                _ => Self::rejected(rejection),
            };
        }
        let detail = error.to_string();
        match error.kind() {
            CommandErrorKind::Conflict(_) => Self::new(StatusCode::CONFLICT, "conflict", detail),
            CommandErrorKind::Invalid(_) => Self::bad_request("invalid", detail),
            CommandErrorKind::Unavailable { .. } | CommandErrorKind::TimedOut => {
                Self::unavailable("store.unavailable", "Nothing was stored. Try again later.")
            }
            CommandErrorKind::OutcomeUnknown { .. } => Self::unavailable(
                "outcome_unknown",
                "Nobody knows yet whether the change was stored. Look before you try again.",
            ),
            _ => Self::broken(&error),
        }
    }
}

impl From<StoreError> for Problem {
    fn from(error: StoreError) -> Self {
        match error.kind() {
            StoreErrorKind::Unavailable { .. } | StoreErrorKind::Closed => Self::unavailable(
                "store.unavailable",
                "The database does not answer. Try again later.",
            ),
            _ => Self::broken(&error),
        }
    }
}

impl From<DocumentError> for Problem {
    fn from(error: DocumentError) -> Self {
        match error.kind() {
            DocumentErrorKind::Store(_) if error.is_transient() => Self::unavailable(
                "store.unavailable",
                "The database does not answer. Try again later.",
            ),
            _ => Self::broken(&error),
        }
    }
}

impl From<ProjectorError> for Problem {
    fn from(error: ProjectorError) -> Self {
        if error.is_diverged() {
            let detail = "The receipt is not of this database.";
            return Self::bad_request("receipt.foreign", detail);
        }
        let (status, code) = match error.kind() {
            ProjectorErrorKind::UnknownProjection { .. } => (StatusCode::NOT_FOUND, "unknown"),
            ProjectorErrorKind::Refused { .. } => (StatusCode::CONFLICT, "refused"),
            ProjectorErrorKind::Unanswered { .. } => (StatusCode::SERVICE_UNAVAILABLE, "silent"),
            _ => return Self::behind(&error),
        };
        Self::new(status, format!("projection.{code}"), error.to_string())
    }
}

impl Problem {
    fn behind(error: &ProjectorError) -> Self {
        tracing::warn!(%error, "the read model is behind");
        Self::unavailable(
            "read_model.behind",
            "The read model does not include this change yet. Try again later.",
        )
    }
}
