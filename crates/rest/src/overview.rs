//! Proxies and zones joined with what they reported.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use serde_json::Value;
use zonal_model::{Key, Kind, OverviewJson, Resource};
use zonal_store::Snapshot;

use crate::call::Call;
use crate::problem::{Problem, Title};
use crate::reply;
use crate::resources::{List, need_mesh, page_of};
use crate::routes::place;
use crate::state::RestState;

/// What a proxy or zone reported.
fn insight<'a>(snapshot: &'a Snapshot, resource: &Resource) -> Option<&'a Resource> {
    let key = &resource.key;
    let insight = Key::new(key.kind.insight()?, &*key.mesh, &*key.name);
    snapshot.get(&insight).map(|stored| &stored.resource)
}

/// An overview, for a zone with how fresh its copy is.
#[derive(Debug, Serialize)]
struct Joined<'a> {
    #[serde(flatten)]
    overview: OverviewJson<'a>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sync: Option<Value>,
}

fn joined<'a>(state: &RestState, snapshot: &'a Snapshot, resource: &'a Resource) -> Joined<'a> {
    let sync = state
        .zone_sync
        .as_ref()
        .filter(|_| resource.key.kind == Kind::Zone);
    Joined {
        overview: resource.to_overview(insight(snapshot, resource)),
        sync: sync.map(|sync| sync(&resource.key.name)),
    }
}

pub(crate) fn get(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    let place = place(kind, call);
    let snapshot = state.store.snapshot();
    need_mesh(&snapshot, kind, &place.mesh)?;
    let stored = snapshot
        .get(&place.key())
        .ok_or_else(|| Problem::not_found(Title::Get))?;
    let resource = &stored.resource;
    let body = joined(state, &snapshot, resource);
    Ok(reply::with_revision(
        reply::json(StatusCode::OK, &body),
        snapshot.revision(),
    ))
}

pub(crate) fn list(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    let place = place(kind, call);
    list_of(state, kind, Some(&place.mesh), call)
}

pub(crate) fn list_all(state: &RestState, kind: Kind, call: &Call) -> Result<Response, Problem> {
    list_of(state, kind, None, call)
}

/// Pages over the resources, and joins what is on the page.
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
        .map(|stored| joined(state, &snapshot, &stored.resource))
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
