//! Reading, listing, writing and removing resources of one kind.

use std::sync::Arc;

use axum::response::{IntoResponse, Response};
use http::{HeaderMap, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use zonal_model::{Key, Kind, Kri, Scope};
use zonal_store::{Expect, Revision, Snapshot, Stored};

use crate::access::User;
use crate::apply::{self, Wanted};
use crate::body::{self, BodyError};
use crate::call::Call;
use crate::dialect;
use crate::problem::{Problem, Title};
use crate::query::{Filter, Page};
use crate::reply::{self, DRY_RUN_HEADER};
use crate::routes::place;
use crate::state::RestState;

/// The resource a path names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Place {
    pub(crate) kind: Kind,
    /// Empty for kinds of global scope.
    pub(crate) mesh: String,
    pub(crate) name: String,
}

impl Place {
    pub(crate) fn key(&self) -> Key {
        Key::new(self.kind, &self.mesh, &self.name)
    }
}

/// One page of a list.
#[derive(Debug, Serialize)]
pub(crate) struct List<T> {
    pub(crate) total: usize,
    pub(crate) items: Vec<T>,
    pub(crate) next: Option<String>,
}

/// The mesh of a path exists, or the answer is that it does not.
pub(crate) fn need_mesh(snapshot: &Snapshot, kind: Kind, mesh: &str) -> Result<(), Problem> {
    if kind.descriptor().scope == Scope::Mesh
        && snapshot.get(&Key::global(Kind::Mesh, mesh)).is_none()
    {
        return Err(Problem::not_found(Title::Mesh));
    }
    Ok(())
}

pub(crate) fn get(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    let place = place(kind, call);
    let snapshot = state.store.snapshot();
    need_mesh(&snapshot, kind, &place.mesh)?;
    state.access.check_kind(&call.user, kind)?;
    let stored = snapshot
        .get(&place.key())
        .ok_or_else(|| Problem::not_found(Title::Get))?;
    show(call, stored, snapshot.revision())
}

fn show(call: &Call, stored: &Stored, revision: Revision) -> Result<Response, Problem> {
    let etag = format!("\"{}\"", stored.revision);
    let known = call
        .headers
        .get(header::IF_NONE_MATCH)
        .and_then(|value| value.to_str().ok());
    let response = if known.is_some_and(|known| known.split(',').any(|k| k.trim() == etag)) {
        StatusCode::NOT_MODIFIED.into_response()
    } else {
        match call.query.get("format") {
            None | Some("" | "universal") => {
                reply::json(StatusCode::OK, &stored.resource.to_rest())
            }
            Some("k8s" | "kubernetes") => {
                let namespace = call.query.get("namespace").unwrap_or("kuma-system");
                reply::json(StatusCode::OK, &stored.resource.to_kubernetes(namespace))
            }
            Some(_) => {
                return Err(Problem::invalid_field(
                    Title::Get,
                    "format",
                    "\"format\" must be one of [\"k8s\", \"kubernetes\", \"universal\"]",
                ));
            }
        }
    };
    Ok(reply::with_revision(
        reply::with_etag(response, stored.revision),
        revision,
    ))
}

pub(crate) fn by_kri(state: &RestState, call: &Call) -> Result<Response, Problem> {
    let kri: Kri = call
        .param("kri")
        .parse()
        .map_err(|error| Problem::bad_request(format!("bad request: {error}")))?;
    let snapshot = state.store.snapshot();
    state.access.check_kind(&call.user, kri.kind)?;
    let stored = snapshot
        .get(&kri.stored_key(state.zone.as_deref()))
        .ok_or_else(|| Problem::not_found(Title::Get))?;
    show(call, stored, snapshot.revision())
}

/// What a list is of: the resources that pass, on one page.
pub(crate) fn page_of(
    state: &RestState,
    kind: Kind,
    mesh: Option<&str>,
    call: &Call,
) -> Result<(Arc<Snapshot>, List<Arc<Stored>>), Problem> {
    let snapshot = state.store.snapshot();
    if let Some(mesh) = mesh {
        need_mesh(&snapshot, kind, mesh)?;
    }
    state.access.check_kind(&call.user, kind)?;
    let page = Page::parse(&call.query)?;
    let filter = Filter::parse(kind, &call.route, &call.query)?;
    let passing: Vec<Arc<Stored>> = match mesh {
        Some(mesh) => snapshot
            .list_in_mesh(kind, mesh)
            .filter(|s| filter.passes(s))
            .map(Arc::clone)
            .collect(),
        None => snapshot
            .list(kind)
            .filter(|s| filter.passes(s))
            .map(Arc::clone)
            .collect(),
    };
    let (total, items, next) = page.cut(passing, &call.query, &call.address);
    Ok((snapshot, List { total, items, next }))
}

fn list_of(
    state: &RestState,
    kind: Kind,
    mesh: Option<&str>,
    call: &Call,
) -> Result<Response, Problem> {
    let (snapshot, list) = page_of(state, kind, mesh, call)?;
    let items = list
        .items
        .iter()
        .map(|stored| stored.resource.to_rest())
        .collect();
    let list = List {
        total: list.total,
        items,
        next: list.next,
    };
    Ok(reply::with_revision(
        reply::json(StatusCode::OK, &list),
        snapshot.revision(),
    ))
}

/// The resources of one mesh, or of a kind of global scope.
pub(crate) fn list(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    let place = place(kind, call);
    list_of(state, kind, Some(&place.mesh), call)
}

/// The resources of all meshes.
pub(crate) fn list_all(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    list_of(state, kind, None, call)
}

/// The caller's condition on what is there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Condition {
    None,
    Exists,
    Absent,
    Revision(Revision),
}

impl Condition {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Problem> {
        let text = |name| {
            headers
                .get(name)
                .map(|value| value.to_str().unwrap_or_default().trim())
        };
        match (text(header::IF_MATCH), text(header::IF_NONE_MATCH)) {
            (None, None) => Ok(Self::None),
            (Some("*"), None) => Ok(Self::Exists),
            (None, Some("*")) => Ok(Self::Absent),
            (Some(tag), None) => tag
                .trim_matches('"')
                .parse()
                .map(|revision| Self::Revision(Revision(revision)))
                .map_err(|_error| {
                    Problem::bad_request(format!(
                        "bad request: `If-Match: {tag}` is no ETag of this API, e.g. `\"17\"`"
                    ))
                }),
            _ => Err(Problem::bad_request(
                "bad request: on a write, give `If-Match` with an ETag or `*`, or `If-None-Match: *`",
            )),
        }
    }

    /// What the store is to check, given what was read.
    pub(crate) fn expect(self, existing: Option<&Stored>) -> Expect {
        match (self, existing) {
            (Self::Revision(revision), _) => Expect::Revision(revision),
            (Self::Absent, _) | (Self::None, None) => Expect::Absent,
            (Self::None | Self::Exists, Some(existing)) => Expect::Revision(existing.revision),
            // Nothing is there: this refuses, as wanted.
            (Self::Exists, None) => Expect::Revision(Revision::ZERO),
        }
    }

    pub(crate) const fn is_given(self) -> bool {
        !matches!(self, Self::None)
    }
}

#[derive(Serialize)]
struct Written {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    warnings: Vec<String>,
}

pub(crate) async fn put(
    state: Arc<RestState>,
    kind: Kind,
    call: Call,
) -> Result<Response, Problem> {
    let place = place(kind, &call);
    need_writable(&state, kind)?;
    need_mesh(&state.store.snapshot(), kind, &place.mesh)?;
    let condition = Condition::of(&call.headers)?;
    let document = body::document(&call.headers, call.body, &state.limits)
        .await
        .map_err(|error| match error {
            BodyError::Problem(problem) => problem,
            BodyError::Syntax(text) => Problem::bad_request(dialect::undecodable(kind, &text)),
        })?;
    let wanted = Wanted {
        place: &place,
        document: &document,
        condition,
    };
    let snapshot = state.store.snapshot();
    // The mesh may have gone while the body arrived.
    need_mesh(&snapshot, kind, &place.mesh)?;
    let admitted = apply::admit(&state, &snapshot, &call.user, &wanted)?;
    let created = admitted.existing.is_none();
    let dry_run = call.query.flag("dryRun");
    let revision = if dry_run {
        apply::check_condition(&snapshot, &admitted)?;
        snapshot.revision()
    } else {
        apply::keep_one(&state, &snapshot, admitted.clone(), condition).await?
    };
    let status = if created {
        StatusCode::CREATED
    } else {
        StatusCode::OK
    };
    let mut response = reply::json(
        status,
        &Written {
            warnings: admitted.warnings,
        },
    );
    if dry_run {
        response
            .headers_mut()
            .insert(DRY_RUN_HEADER, http::HeaderValue::from_static("true"));
    } else if let Some(stored) = state.store.snapshot().get(&place.key()) {
        response = reply::with_etag(response, stored.revision);
    }
    Ok(reply::with_revision(response, revision))
}

pub(crate) async fn delete(
    state: Arc<RestState>,
    kind: Kind,
    call: Call,
) -> Result<Response, Problem> {
    let place = place(kind, &call);
    need_writable(&state, kind)?;
    let snapshot = state.store.snapshot();
    need_mesh(&snapshot, kind, &place.mesh)?;
    let condition = Condition::of(&call.headers)?;
    let force = call.query.flag("force");
    let batch = apply::removal(&state, &snapshot, &call.user, &place, condition, force)?;
    let dry_run = call.query.flag("dryRun");
    let revision = if dry_run {
        snapshot.revision()
    } else {
        let committed = state.store.commit(batch).await;
        committed
            .map_err(|error| Problem::store(&error, condition.is_given()))?
            .revision
    };
    let mut response = reply::json(StatusCode::OK, &Value::Object(serde_json::Map::new()));
    if dry_run {
        response
            .headers_mut()
            .insert(DRY_RUN_HEADER, http::HeaderValue::from_static("true"));
    }
    Ok(reply::with_revision(response, revision))
}

const ON_GLOBAL: &str = "On global control plane you can not modify dataplane resources with 'kumactl apply' or via the HTTP \
API. You can still use 'kumactl' or the HTTP API to modify them on the zone control plane.\n";
const ON_ZONE: &str = "On zone control plane you can only modify zone resources with 'kumactl apply' or via the HTTP API. You \
can still use 'kumactl' or the HTTP API to modify the rest of the resource on the global control plane.\n";

/// The kind may be written here, or the answer is where it may.
pub(crate) fn need_writable(state: &RestState, kind: Kind) -> Result<(), Problem> {
    if !state.read_only && kind.descriptor().writable(state.mode) {
        return Ok(());
    }
    let detail = if state.mode.is_zone() {
        ON_ZONE
    } else {
        ON_GLOBAL
    };
    Err(Problem::new(
        StatusCode::METHOD_NOT_ALLOWED,
        "Method not allowed",
        detail,
    ))
}

/// Whether a caller may see a kind at all.
pub(crate) fn may_see(state: &RestState, user: &User, kind: Kind) -> bool {
    !kind.descriptor().computed && state.access.check_kind(user, kind).is_ok()
}

/// How a key is told.
pub(crate) fn key_json(key: &Key) -> Value {
    if key.mesh.is_empty() {
        json!({"type": key.kind, "name": &*key.name})
    } else {
        json!({"type": key.kind, "mesh": &*key.mesh, "name": &*key.name})
    }
}
