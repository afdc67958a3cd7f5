//! Questions that people ask about a running proxy: its configuration, its counters, its clusters.

use std::collections::BTreeMap;
use std::sync::Arc;

use axum::extract::{Path, Query, State};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::{Extension, Router};
use bytes::Bytes;
use futures::future::BoxFuture;
use http::{StatusCode, header};
use zonal_model::{Key, Kind, Resource};
use zonal_rest::{Access, Action, Problem, Title, User};
use zonal_store::Store;

/// What is asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum AdminQuestion {
    /// The configuration in use.
    Config {
        /// With endpoints.
        endpoints: bool,
    },
    /// Counters.
    Stats {
        /// As JSON.
        json: bool,
        /// Only counters that were ever moved.
        used_only: bool,
    },
    /// Clusters and their endpoints.
    Clusters {
        /// As JSON.
        json: bool,
    },
}

impl AdminQuestion {
    /// The question of a path's last part and a query; `None` for what cannot be asked.
    fn read(what: &str, query: &BTreeMap<String, String>) -> Option<Self> {
        let is = |name: &str, default: bool| {
            query.get(name).map_or(default, |text| {
                matches!(text.as_str(), "1" | "t" | "T" | "true" | "TRUE" | "True")
            })
        };
        let json = query.get("format").is_some_and(|format| format == "json");
        match what {
            "xds" => Some(Self::Config {
                endpoints: is("include_eds", false),
            }),
            "stats" => Some(Self::Stats {
                json,
                used_only: is("usedonly", true),
            }),
            "clusters" => Some(Self::Clusters { json }),
            _ => None,
        }
    }

    const fn action(self) -> Action {
        match self {
            Self::Config { .. } => Action::ViewConfigDump,
            Self::Stats { .. } => Action::ViewStats,
            Self::Clusters { .. } => Action::ViewClusters,
        }
    }

    const fn content_type(self) -> &'static str {
        match self {
            Self::Config { .. }
            | Self::Stats { json: true, .. }
            | Self::Clusters { json: true } => "application/json",
            Self::Stats { .. } | Self::Clusters { .. } => "text/plain",
        }
    }
}

/// Asks proxies, directly or through their zone.
pub trait AskProxies: Send + Sync {
    /// The answer of the proxy of a Dataplane, or why there is none.
    fn ask<'a>(
        &'a self,
        question: AdminQuestion,
        dataplane: &'a Resource,
    ) -> BoxFuture<'a, Result<Bytes, Problem>>;
}

/// Why a question has no answer.
#[must_use]
pub fn admin_problem(status: StatusCode, detail: impl Into<String>) -> Problem {
    Problem::new(status, "Could not execute admin operation", detail)
}

/// What the endpoint needs.
#[derive(Clone)]
pub(crate) struct Questions {
    pub(crate) store: Arc<dyn Store>,
    pub(crate) access: Arc<Access>,
    pub(crate) proxies: Arc<dyn AskProxies>,
}

impl Questions {
    /// `GET /meshes/{mesh}/dataplanes/{name}/{xds|stats|clusters}`.
    pub(crate) fn routes(self) -> Router {
        Router::new()
            .route("/meshes/{mesh}/dataplanes/{name}/{what}", get(answer))
            .with_state(self)
    }
}

async fn answer(
    State(questions): State<Questions>,
    Extension(user): Extension<User>,
    Path((mesh, name, what)): Path<(String, String, String)>,
    Query(query): Query<BTreeMap<String, String>>,
) -> Result<Response, Problem> {
    let question = AdminQuestion::read(&what, &query).ok_or_else(|| {
        let text = format!("`{what}` cannot be asked; `xds`, `stats` and `clusters` can");
        admin_problem(StatusCode::NOT_FOUND, text)
    })?;
    questions.access.check(&user, &question.action())?;
    let snapshot = questions.store.snapshot();
    if snapshot.get(&Key::global(Kind::Mesh, &*mesh)).is_none() {
        return Err(Problem::not_found(Title::Mesh));
    }
    let stored = snapshot
        .get(&Key::new(Kind::Dataplane, &*mesh, &*name))
        .ok_or_else(|| Problem::not_found(Title::Get))?;
    let body = questions.proxies.ask(question, &stored.resource).await?;
    Ok(([(header::CONTENT_TYPE, question.content_type())], body).into_response())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_question_is_read_from_path_and_query() {
        let query = |pairs: &[(&str, &str)]| {
            pairs
                .iter()
                .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()))
                .collect()
        };
        assert_eq!(
            AdminQuestion::read("xds", &query(&[("include_eds", "true")])),
            Some(AdminQuestion::Config { endpoints: true })
        );
        assert_eq!(
            AdminQuestion::read("stats", &query(&[("format", "json")])),
            Some(AdminQuestion::Stats {
                json: true,
                used_only: true
            })
        );
        assert_eq!(
            AdminQuestion::read("stats", &query(&[("usedonly", "false")])),
            Some(AdminQuestion::Stats {
                json: false,
                used_only: false
            })
        );
        assert_eq!(AdminQuestion::read("quitquitquit", &query(&[])), None);
    }
}
