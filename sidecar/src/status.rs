//! `/ready` says whether the proxy takes traffic; `/status` says everything.

use std::collections::BTreeMap;

use axum::extract::State as Shared;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::StatusCode;
use serde::Serialize;
use tokio::sync::watch;

use crate::probe::State;

/// Everything a person would ask this sidecar.
#[derive(Clone, Debug, Default, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Status {
    pub mesh: String,
    pub name: String,
    /// The lifecycle's phase.
    pub phase: &'static str,
    /// Whether the end has begun.
    pub is_ending: bool,
    pub envoy_ready: bool,
    pub envoy_pid: Option<i32>,
    pub envoy_restarts: u64,
    /// Each inbound's workload by the proxy's port; `null` until it was probed.
    pub inbounds: BTreeMap<u16, Option<State>>,
    /// Why the last bootstrap was not given.
    pub bootstrap_failure: Option<String>,
    /// Why the last report was not taken.
    pub report_failure: Option<String>,
}

impl Status {
    /// The word of `/ready`, and whether it is good news.
    pub const fn readiness(&self) -> (StatusCode, &'static str) {
        if self.is_ending {
            (StatusCode::SERVICE_UNAVAILABLE, "TERMINATING")
        } else if self.envoy_ready {
            (StatusCode::OK, "READY")
        } else {
            (StatusCode::SERVICE_UNAVAILABLE, "NOT_READY")
        }
    }
}

/// Routes `/ready` and `/status`.
pub fn router(status: watch::Receiver<Status>) -> Router {
    Router::new()
        .route("/ready", get(ready))
        .route("/status", get(all))
        .with_state(status)
}

async fn ready(Shared(status): Shared<watch::Receiver<Status>>) -> impl IntoResponse {
    let (code, word) = status.borrow().readiness();
    (
        code,
        [(http::header::CACHE_CONTROL, "no-cache, max-age=0")],
        word,
    )
}

async fn all(Shared(status): Shared<watch::Receiver<Status>>) -> impl IntoResponse {
    let status = status.borrow().clone();
    Json(status)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn readiness_is_about_the_proxy() {
        let mut status = Status::default();
        assert_eq!(status.readiness().1, "NOT_READY");
        status.envoy_ready = true;
        status.inbounds.insert(80, Some(State::NotReady));
        assert_eq!(status.readiness(), (StatusCode::OK, "READY"));
        status.is_ending = true;
        assert_eq!(status.readiness().1, "TERMINATING");
    }
}
