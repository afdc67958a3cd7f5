//! What happens around every handler: who calls, deadlines, panics.

use std::panic::AssertUnwindSafe;
use std::sync::Arc;

use axum::extract::{Request, State};
use axum::middleware::Next;
use axum::response::{IntoResponse, Response};
use futures::FutureExt;
use http::{StatusCode, header};

use crate::problem::{Problem, plain};
use crate::state::RestState;

/// Finds out who calls; refuses bad tokens.
pub(crate) async fn authenticate(
    State(state): State<Arc<RestState>>,
    mut request: Request,
    next: Next,
) -> Response {
    if request.uri().path() != "/" {
        let peer = (state.peer_of)(request.extensions());
        let authority = request
            .uri()
            .authority()
            .map(|authority| authority.as_str().to_owned());
        let caller = state.access.caller(
            request.headers(),
            authority.as_deref(),
            peer,
            &*state.tokens,
        );
        match caller {
            Ok(user) => {
                request.extensions_mut().insert(user);
            }
            Err(problem) => return problem.into_response(),
        }
    }
    next.run(request).await
}

/// Refuses what asks for another answer than JSON.
pub(crate) async fn accept(request: Request, next: Next) -> Response {
    let accepts = request
        .headers()
        .get_all(header::ACCEPT)
        .iter()
        .all(|value| {
            let value = value.to_str().unwrap_or_default();
            value.is_empty()
                || value.split(',').any(|part| {
                    let essence = part.split(';').next().unwrap_or_default().trim();
                    essence.starts_with("*/")
                        || essence.starts_with("application/")
                        || essence == "*"
                })
                || value.contains("text/plain")
        });
    if accepts {
        next.run(request).await
    } else {
        plain(StatusCode::NOT_ACCEPTABLE, "406: Not Acceptable")
    }
}

/// Ends what takes too long.
pub(crate) async fn deadline(
    State(state): State<Arc<RestState>>,
    request: Request,
    next: Next,
) -> Response {
    match tokio::time::timeout(state.limits.answer_timeout, next.run(request)).await {
        Ok(response) => response,
        Err(_elapsed) => Problem::unavailable("the answer took too long").into_response(),
    }
}

/// Turns a panic of a handler into an answer; the process and the connection go on.
pub(crate) async fn catch_panic(request: Request, next: Next) -> Response {
    let what = format!("{} {}", request.method(), request.uri().path());
    match AssertUnwindSafe(next.run(request)).catch_unwind().await {
        Ok(response) => response,
        Err(panic) => {
            let panic = panic
                .downcast_ref::<&str>()
                .map(|text| (*text).to_owned())
                .or_else(|| panic.downcast_ref::<String>().cloned())
                .unwrap_or_default();
            tracing::error!(request = %what, panic, "a request ended in a panic");
            Problem::internal("Internal Server Error").into_response()
        }
    }
}
