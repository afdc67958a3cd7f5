//! What stands between a document and the store: its rules, its labels, who may, and what must go along.

use std::collections::BTreeSet;
use std::sync::Arc;

use http::StatusCode;
use serde_json::Value;
use zonal_model::{Key, Kind, Resource, admission};
use zonal_store::{Batch, Expect, Op, Revision, Snapshot, StoreError, Stored};

use crate::access::User;
use crate::dialect;
use crate::problem::{Problem, Title};
use crate::resources::{Condition, Place};
use crate::state::RestState;

/// A document that somebody wants kept.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Wanted<'a> {
    /// Under which key.
    pub(crate) place: &'a Place,
    /// As written.
    pub(crate) document: &'a Value,
    /// Only if.
    pub(crate) condition: Condition,
}

/// A resource that may be kept.
#[derive(Clone, Debug)]
pub(crate) struct Admitted {
    pub(crate) resource: Resource,
    pub(crate) existing: Option<Arc<Stored>>,
    pub(crate) expect: Expect,
    pub(crate) warnings: Vec<String>,
    /// What must be kept together with it.
    pub(crate) along: Vec<Op>,
}

/// Checks a document in the order that clients know: its form and its own rules; that it is what the path says, and
/// its labels; who asks; then what only a control plane knows.
pub(crate) fn admit(
    state: &RestState,
    snapshot: &Snapshot,
    user: &User,
    wanted: &Wanted<'_>,
) -> Result<Admitted, Problem> {
    let place = wanted.place;
    let existing = snapshot.get(&place.key()).map(Arc::clone);
    let existing_resource = existing.as_deref().map(|stored| &stored.resource);
    let parsed = dialect::parse(place.kind, wanted.document, existing_resource)?;
    let here = dialect::here(state);
    // Who asks is looked at after what is asked, and before what only the store knows.
    let violations = admission::check_write(&parsed, Some(&place.key()), &here);
    if !violations.is_empty() {
        return Err(Problem::invalid(Title::Process, violations));
    }
    state.access.check_kind(user, place.kind)?;
    let resource = admission::admit(&parsed, Some(&place.key()), &here, existing_resource)
        .map_err(dialect::refused)?;
    let along = state
        .rules
        .before_put(snapshot, &resource, existing.as_deref())
        .map_err(|violations| {
            let title = if existing.is_some() {
                Title::Update
            } else {
                Title::Create
            };
            Problem::invalid(title, violations)
        })?;
    let expect = wanted.condition.expect(existing.as_deref());
    let warnings = dialect::warnings(&resource);
    Ok(Admitted {
        resource,
        existing,
        expect,
        warnings,
        along,
    })
}

/// As the store will check it, for requests that only try.
pub(crate) fn check_condition(snapshot: &Snapshot, admitted: &Admitted) -> Result<(), Problem> {
    let found = snapshot
        .get(&admitted.resource.key)
        .map(|stored| stored.revision);
    let holds = match admitted.expect {
        Expect::Any => true,
        Expect::Absent => found.is_none(),
        Expect::Revision(revision) => found == Some(revision),
    };
    if holds {
        return Ok(());
    }
    let state = found.map_or_else(
        || "does not exist".to_owned(),
        |revision| format!("is at revision {revision}"),
    );
    let detail = format!("{} {state}", admitted.resource.key);
    Err(Problem::new(
        StatusCode::PRECONDITION_FAILED,
        "Precondition failed",
        detail,
    ))
}

/// Keeps one resource and what goes along.
pub(crate) async fn keep_one(
    state: &RestState,
    snapshot: &Snapshot,
    admitted: Admitted,
    condition: Condition,
) -> Result<Revision, Problem> {
    let own = BTreeSet::new();
    let mut ops = mesh_guards(snapshot, std::iter::once(&admitted.resource.key), &own);
    ops.extend(add_along(snapshot, admitted.along, &own));
    let mut batch = Batch { ops };
    batch = batch.put_if(admitted.resource, admitted.expect);
    let committed = state.store.commit(batch).await;
    let committed =
        committed.map_err(|error: StoreError| Problem::store(&error, condition.is_given()))?;
    Ok(committed.revision)
}

/// Keeps the meshes of what is put where they are until it is kept: each is put as it is, which changes nothing and
/// refuses the batch when somebody removes the mesh meanwhile.
pub(crate) fn mesh_guards<'a>(
    snapshot: &Snapshot,
    put: impl Iterator<Item = &'a Key>,
    own: &BTreeSet<Key>,
) -> Vec<Op> {
    let meshes: BTreeSet<Key> = put
        .filter(|key| !key.mesh.is_empty())
        .map(|key| Key::global(Kind::Mesh, &key.mesh))
        .filter(|mesh| !own.contains(mesh))
        .collect();
    meshes
        .iter()
        .filter_map(|mesh| snapshot.get(mesh))
        .map(|mesh| Op::Put {
            resource: mesh.resource.clone(),
            expect: Expect::Revision(mesh.revision),
        })
        .collect()
}

/// What goes along, without what the request itself says.
pub(crate) fn add_along(snapshot: &Snapshot, along: Vec<Op>, own: &BTreeSet<Key>) -> Vec<Op> {
    along
        .into_iter()
        .filter(|op| {
            let key = op.key();
            let said = own.contains(key);
            let there = matches!(
                op,
                Op::Put {
                    expect: Expect::Absent,
                    ..
                }
            ) && snapshot.get(key).is_some();
            !said && !there
        })
        .collect()
}

/// What removes a resource, if it may be removed; with `force` a zone may be that is connected.
pub(crate) fn removal(
    state: &RestState,
    snapshot: &Snapshot,
    user: &User,
    place: &Place,
    condition: Condition,
    force: bool,
) -> Result<Batch, Problem> {
    let existing = snapshot
        .get(&place.key())
        .ok_or_else(|| Problem::not_found(Title::Delete))?;
    admission::check_delete(&existing.resource, &dialect::here(state))
        .into_result()
        .map_err(|violations| Problem::invalid(Title::Delete, violations))?;
    state.access.check_kind(user, place.kind)?;
    guard(state, snapshot, place, force)?;
    let along = state
        .rules
        .before_remove(snapshot, existing)
        .map_err(|violations| Problem::invalid(Title::Delete, violations))?;
    let expect = condition.expect(Some(existing));
    let found = existing.revision;
    if let Expect::Revision(wanted) = expect
        && wanted != found
    {
        let reason = zonal_store::ConflictReason::Moved {
            expected: wanted,
            found,
        };
        let error = StoreError::Conflict {
            index: 0,
            key: place.key(),
            reason,
        };
        return Err(Problem::store(&error, true));
    }
    let mut batch = Batch { ops: along };
    batch = batch.remove_if(place.key(), expect);
    Ok(batch)
}

/// What is still in use stays.
fn guard(
    state: &RestState,
    snapshot: &Snapshot,
    place: &Place,
    force: bool,
) -> Result<(), Problem> {
    let violations = match place.kind {
        Kind::Mesh
            if !state.unsafe_delete
                && snapshot
                    .list_in_mesh(Kind::Dataplane, &place.name)
                    .next()
                    .is_some() =>
        {
            admission::mesh_in_use()
        }
        Kind::Zone if !force && dialect::zone_is_online(snapshot, &place.name) => {
            admission::zone_in_use()
        }
        _ => return Ok(()),
    };
    Err(Problem::invalid(Title::Delete, violations))
}
