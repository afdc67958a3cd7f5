//! What a batch does to a snapshot: conditions, stamps, cascade. Shared by every backend.

use std::sync::Arc;

use jiff::Timestamp;
use zonal_model::{Key, Kind, Resource, Scope};
use zonal_mutants::mutant;

use crate::batch::{Batch, Committed, Expect, Op, Outcome};
use crate::error::{ConflictReason, StoreError};
use crate::revision::Revision;
use crate::snapshot::{Snapshot, Stored};

/// What to make durable before the snapshot may be published.
#[derive(Debug)]
pub(crate) struct Plan {
    pub(crate) committed: Committed,
    /// Every key touched, newest state; `None`: gone.
    pub(crate) writes: Vec<(Key, Option<Arc<Stored>>)>,
    /// The removals of this revision.
    pub(crate) buried: Vec<Key>,
    /// Revisions whose removals are forgotten.
    pub(crate) forgotten: Vec<Revision>,
}

impl Plan {
    pub(crate) fn changes_anything(&self) -> bool {
        !self.writes.is_empty()
    }
}

/// Works out a batch against `base`. Nothing is changed when it fails.
pub(crate) fn plan(
    base: &Arc<Snapshot>,
    batch: Batch,
    now: Timestamp,
    tombstones_max: usize,
) -> Result<Plan, StoreError> {
    let mut next = Snapshot::clone(base);
    let revision = base.revision().next();
    let mut outcomes = Vec::with_capacity(batch.ops.len());
    let mut touched: Vec<Key> = Vec::new();
    let mut cascaded = Vec::new();
    for (index, op) in batch.ops.into_iter().enumerate() {
        let expect = match &op {
            Op::Put { expect, .. } | Op::Remove { expect, .. } => *expect,
        };
        let found = next.get(op.key()).map(|stored| stored.revision);
        if let Some(reason) = conflict(expect, found) {
            return Err(StoreError::Conflict {
                index,
                key: op.key().clone(),
                reason,
            });
        }
        outcomes.push(match op {
            Op::Put { resource, .. } => put(&mut next, resource, revision, now, &mut touched),
            Op::Remove { key, .. } => remove(&mut next, &key, &mut touched, &mut cascaded),
        });
    }
    touched.sort();
    touched.dedup();
    // What came and went within the batch is no change.
    touched.retain(|key| base.get(key).is_some() || next.get(key).is_some());
    if touched.is_empty() {
        let committed = Committed {
            revision: base.revision(),
            outcomes,
            cascaded,
            snapshot: Arc::clone(base),
        };
        return Ok(Plan {
            committed,
            writes: Vec::new(),
            buried: Vec::new(),
            forgotten: Vec::new(),
        });
    }
    let writes: Vec<_> = touched
        .iter()
        .map(|key| (key.clone(), next.get(key).map(Arc::clone)))
        .collect();
    let buried: Vec<Key> = writes
        .iter()
        .filter(|(_, new)| new.is_none())
        .map(|(key, _)| key.clone())
        .collect();
    next.set_revision(revision);
    let forgotten = next.bury(revision, buried.clone(), tombstones_max);
    let committed = Committed {
        revision,
        outcomes,
        cascaded,
        snapshot: Arc::new(next),
    };
    Ok(Plan {
        committed,
        writes,
        buried,
        forgotten,
    })
}

fn conflict(expect: Expect, found: Option<Revision>) -> Option<ConflictReason> {
    match (expect, found) {
        (Expect::Any, _) | (Expect::Absent, None) => None,
        (Expect::Absent, Some(found)) => Some(ConflictReason::Exists { found }),
        (Expect::Revision(_), None) => Some(ConflictReason::Missing),
        (Expect::Revision(expected), Some(found)) if expected == found => None,
        (Expect::Revision(expected), Some(found)) => {
            Some(ConflictReason::Moved { expected, found })
        }
    }
}

fn put(
    next: &mut Snapshot,
    mut resource: Resource,
    revision: Revision,
    now: Timestamp,
    touched: &mut Vec<Key>,
) -> Outcome {
    let before = next.get(&resource.key).map(Arc::clone);
    let (created, outcome) = match &before {
        Some(before) => {
            let same =
                !resource.differs(&before.resource) && resource.owner == before.resource.owner;
            if same {
                return Outcome::Unchanged;
            }
            resource.meta.creation_time = before.resource.meta.creation_time;
            (before.created, Outcome::Updated)
        }
        None => {
            resource.meta.creation_time = now;
            (revision, Outcome::Created)
        }
    };
    resource.meta.modification_time = now;
    touched.push(resource.key.clone());
    next.insert(Stored {
        resource,
        revision,
        created,
    });
    outcome
}

fn remove(
    next: &mut Snapshot,
    key: &Key,
    touched: &mut Vec<Key>,
    cascaded: &mut Vec<Key>,
) -> Outcome {
    if next.take(key).is_none() {
        return Outcome::Unchanged;
    }
    touched.push(key.clone());
    let mut owners = vec![key.clone()];
    while let Some(owner) = owners.pop() {
        for owned in owned_by(next, &owner) {
            if next.take(&owned).is_some() {
                touched.push(owned.clone());
                cascaded.push(owned.clone());
                owners.push(owned);
            }
        }
    }
    Outcome::Removed
}

/// What goes when `owner` goes: what names it as owner; everything in a mesh; a proxy's and a zone's insight.
fn owned_by(snapshot: &Snapshot, owner: &Key) -> Vec<Key> {
    let mut owned = snapshot.owned_by(owner);
    if owner.kind == Kind::Mesh && !mutant!(MeshLeavesContent) {
        for kind in Kind::ALL {
            if kind.descriptor().scope == Scope::Mesh {
                owned.extend(
                    snapshot
                        .list_in_mesh(*kind, &owner.name)
                        .map(|stored| stored.resource.key.clone()),
                );
            }
        }
    }
    if let Some(insight) = owner.kind.insight() {
        owned.push(Key {
            kind: insight,
            mesh: Arc::clone(&owner.mesh),
            name: Arc::clone(&owner.name),
        });
    }
    owned
}
