//! The admin page: why is it not ready, what does it run with, what runs.

use std::sync::Arc;

use axum::extract::State;
use axum::response::IntoResponse;
use axum::routing::get;
use axum::{Json, Router};
use http::{StatusCode, header};
use serde_json::{Value, json};

use crate::metrics::{self, Registry};
use crate::ready::Readiness;
use crate::tasks::TaskList;

/// What the admin page shows.
#[derive(Clone, Debug)]
pub struct Admin {
    pub readiness: Readiness,
    pub registry: Arc<Registry>,
    /// The effective configuration, secrets hidden.
    pub config: Arc<Value>,
    pub tasks: TaskList,
}

/// Routes `/healthy`, `/ready`, `/metrics`, `/config` and `/tasks`.
pub fn router(admin: Admin) -> Router {
    Router::new()
        .route("/healthy", get(async || "healthy\n"))
        .route("/ready", get(ready))
        .route("/metrics", get(metrics_page))
        .route(
            "/config",
            get(async |State(admin): State<Admin>| Json(admin.config.as_ref().clone())),
        )
        .route(
            "/tasks",
            get(async |State(admin): State<Admin>| Json(admin.tasks.all())),
        )
        .with_state(admin)
}

async fn ready(State(admin): State<Admin>) -> impl IntoResponse {
    let held = admin.readiness.held();
    let status = if held.is_empty() {
        StatusCode::OK
    } else {
        StatusCode::SERVICE_UNAVAILABLE
    };
    (
        status,
        Json(json!({ "ready": held.is_empty(), "waitingFor": held })),
    )
}

async fn metrics_page(State(admin): State<Admin>) -> impl IntoResponse {
    (
        [(header::CONTENT_TYPE, metrics::CONTENT_TYPE)],
        metrics::render(&admin.registry),
    )
}
