//! Errors as the API answers them.

use axum::response::{IntoResponse, Response};
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use zonal_model::{Key, Violation, Violations};
use zonal_store::{ConflictReason, StoreError};

use crate::reply;

/// What the caller was trying to do, as the `title` of an error says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Title {
    /// The mesh in the path.
    Mesh,
    /// Reading one.
    Get,
    /// Reading many.
    List,
    /// The body of a write.
    Process,
    /// Making a new one.
    Create,
    /// Changing one.
    Update,
    /// Changing one, as far as its labels forbid it.
    UpdateLabels,
    /// Removing one.
    Delete,
}

impl Title {
    const fn text(self) -> &'static str {
        match self {
            Self::Mesh => "Failed to retrieve Mesh",
            Self::Get => "Could not retrieve a resource",
            Self::List => "Could not retrieve resources",
            Self::Process => "Could not process a resource",
            Self::Create => "Failed to create a resource",
            Self::Update => "Failed to update a resource",
            Self::UpdateLabels => "Could not update a resource",
            Self::Delete => "Could not delete a resource",
        }
    }
}

/// An error answer.
#[derive(Clone, Debug)]
pub struct Problem {
    /// The HTTP status.
    pub status: StatusCode,
    /// What could not be done.
    pub title: String,
    /// Why.
    pub detail: String,
    /// Which fields are wrong.
    pub violations: Vec<Violation>,
    /// For requests of several documents: what is wrong with each.
    pub documents: Vec<DocumentProblem>,
}

/// What is wrong with one document of several.
#[derive(Clone, Debug, Serialize)]
pub struct DocumentProblem {
    /// Its place in the request, from 0.
    pub index: usize,
    /// Its type as written.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its mesh as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub mesh: String,
    /// Its name as written.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Why.
    pub detail: String,
    /// Which fields are wrong.
    #[serde(rename = "causes", skip_serializing_if = "Vec::is_empty")]
    pub violations: Vec<Violation>,
}

#[derive(Serialize)]
struct InvalidParameter<'a> {
    field: &'a str,
    reason: &'a str,
}

/// The body. Each fact is said twice: old clients read `details` and `causes`.
#[derive(Serialize)]
struct Body<'a> {
    #[serde(rename = "type")]
    kind: &'static str,
    status: u16,
    title: &'a str,
    detail: &'a str,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    invalid_parameters: Vec<InvalidParameter<'a>>,
    details: &'a str,
    #[serde(skip_serializing_if = "<[Violation]>::is_empty")]
    causes: &'a [Violation],
    #[serde(skip_serializing_if = "<[DocumentProblem]>::is_empty")]
    documents: &'a [DocumentProblem],
}

impl Problem {
    /// Any error.
    pub fn new(status: StatusCode, title: impl Into<String>, detail: impl Into<String>) -> Self {
        Self {
            status,
            title: title.into(),
            detail: detail.into(),
            violations: Vec::new(),
            documents: Vec::new(),
        }
    }

    /// Something does not exist.
    #[must_use]
    pub fn not_found(title: Title) -> Self {
        Self::new(StatusCode::NOT_FOUND, title.text(), "Not found")
    }

    /// A request that cannot be understood.
    pub fn bad_request(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "Bad Request", detail)
    }

    /// A resource breaks rules.
    #[must_use]
    pub fn invalid(title: Title, violations: Violations) -> Self {
        Self {
            violations: violations.0,
            ..Self::new(
                StatusCode::BAD_REQUEST,
                title.text(),
                "Resource is not valid",
            )
        }
    }

    /// One field breaks a rule.
    pub fn invalid_field(
        title: Title,
        field: impl Into<String>,
        reason: impl Into<String>,
    ) -> Self {
        let mut violations = Violations::new();
        violations.add(field, reason);
        Self::invalid(title, violations)
    }

    /// The caller may not.
    pub fn denied(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::FORBIDDEN, "Access Denied", detail)
    }

    /// The caller's token is no good.
    #[must_use]
    pub fn unauthenticated() -> Self {
        Self::new(
            StatusCode::UNAUTHORIZED,
            "Invalid authentication data",
            "Unauthenticated",
        )
    }

    /// Too much is going on, or something needed is away.
    pub fn unavailable(detail: impl Into<String>) -> Self {
        Self::new(
            StatusCode::SERVICE_UNAVAILABLE,
            "Service unavailable",
            detail,
        )
    }

    /// Our fault; the caller is not told more.
    #[must_use]
    pub fn internal(title: &str) -> Self {
        Self::new(
            StatusCode::INTERNAL_SERVER_ERROR,
            title,
            "Internal Server Error",
        )
    }

    /// The store refused. With `conditional`, the condition was the caller's own.
    #[must_use]
    pub fn store(error: &StoreError, conditional: bool) -> Self {
        match error {
            StoreError::Conflict { key, reason, .. } if conditional => Self::new(
                StatusCode::PRECONDITION_FAILED,
                "Precondition failed",
                precondition(key, *reason),
            ),
            StoreError::Conflict { key, reason, .. } => {
                let what = match reason {
                    ConflictReason::Exists { .. } => "resource already exists",
                    ConflictReason::Missing | ConflictReason::Moved { .. } => "resource conflict",
                };
                let detail = format!(
                    "{what}: type=\"{}\" name=\"{}\" mesh=\"{}\"",
                    key.kind, key.name, key.mesh
                );
                Self::new(StatusCode::CONFLICT, "Conflict", detail)
            }
            StoreError::Write { .. } | StoreError::Closed => {
                tracing::warn!(%error, "a write was refused by the store");
                Self::unavailable("the store cannot write now; nothing was changed, try again")
            }
            StoreError::Full { .. } => {
                tracing::warn!(%error, "a write was refused by the store");
                Self::unavailable(
                    "no space left on the disk of this control plane's store: nothing was changed; free some there (the \
                     control plane's log names the place) and try again; reading goes on meanwhile",
                )
            }
            StoreError::Unsure { .. } => {
                tracing::warn!(%error, "the store did not say what became of a write");
                Self::unavailable(
                    "the store did not answer in time: whether the change was kept is not known; look before trying again",
                )
            }
            StoreError::TooLarge { problem, .. } => {
                tracing::warn!(%error, "a write was refused by the store");
                let detail = format!(
                    "the change is more than the store takes at once ({problem}): nothing was changed; send it in smaller \
                     parts, or raise the store's limits (the control plane's log names them)"
                );
                Self::new(StatusCode::PAYLOAD_TOO_LARGE, "Too large", detail)
            }
            StoreError::Open { .. } => Self::internal("Could not process a resource"),
        }
    }
}

fn precondition(key: &Key, reason: ConflictReason) -> String {
    match reason {
        ConflictReason::Exists { found } => format!("{key} exists already, at revision {found}"),
        ConflictReason::Missing => format!("{key} does not exist"),
        ConflictReason::Moved { expected, found } => format!(
            "{key} is at revision {found}, the request was for {expected}: read it again and decide anew"
        ),
    }
}

impl IntoResponse for Problem {
    fn into_response(self) -> Response {
        let body = Body {
            kind: "/std-errors",
            status: self.status.as_u16(),
            title: &self.title,
            detail: &self.detail,
            invalid_parameters: self
                .violations
                .iter()
                .map(|v| InvalidParameter {
                    field: &v.field,
                    reason: &v.message,
                })
                .collect(),
            details: &self.detail,
            causes: &self.violations,
            documents: &self.documents,
        };
        reply::json(self.status, &body)
    }
}

/// Errors that a router gives by itself, as plain text.
pub(crate) fn plain(status: StatusCode, text: &'static str) -> Response {
    let mut response = (status, text).into_response();
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("text/plain; charset=utf-8"),
    );
    response
}
