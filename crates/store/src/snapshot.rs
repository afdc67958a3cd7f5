//! The store's content at one revision.

use std::fmt;
use std::sync::Arc;

use imbl::OrdMap;
use imbl::ordmap::DiffItem;
use zonal_model::{Key, Kind, Resource};

use crate::revision::{Epoch, Revision};

/// How many removals a store remembers. A peer that was away for longer is told the complete set instead.
pub const TOMBSTONES_MAX: usize = 100_000;

/// A resource as kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The resource, with the store's stamps in its meta.
    pub resource: Resource,
    /// When it last changed.
    pub revision: Revision,
    /// When it was made.
    pub created: Revision,
}

/// One key whose resource is not the same in two snapshots.
#[derive(Clone, Debug)]
pub struct Change {
    /// Which.
    pub key: Key,
    /// What it was; `None`: it was not there.
    pub old: Option<Arc<Stored>>,
    /// What it is; `None`: it is gone.
    pub new: Option<Arc<Stored>>,
}

/// A value of the map. Two are equal when they are the same allocation: within one store's line of snapshots each
/// write makes a new one, so comparing two snapshots never looks at content.
#[derive(Clone)]
struct Slot(Arc<Stored>);

impl PartialEq for Slot {
    fn eq(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

type KindMap = OrdMap<Key, Slot>;

/// The store's content at one revision. Immutable; cloning and keeping one is cheap, because neighbours share what
/// they have in common.
#[derive(Clone)]
pub struct Snapshot {
    epoch: Epoch,
    revision: Revision,
    kinds: [KindMap; Kind::COUNT],
    /// Resources with an explicit owner: (owner, owned).
    owned: OrdMap<(Key, Key), ()>,
    tombstones: OrdMap<Revision, Arc<[Key]>>,
    tombstone_count: usize,
    /// The newest revision whose removals were forgotten.
    compacted: Revision,
}

impl Snapshot {
    /// An empty store.
    #[must_use]
    pub fn empty(epoch: Epoch) -> Self {
        Self {
            epoch,
            revision: Revision::ZERO,
            kinds: std::array::from_fn(|_| KindMap::new()),
            owned: OrdMap::new(),
            tombstones: OrdMap::new(),
            tombstone_count: 0,
            compacted: Revision::ZERO,
        }
    }

    /// Which store's life this is.
    #[must_use]
    pub const fn epoch(&self) -> &Epoch {
        &self.epoch
    }

    /// The revision it shows.
    #[must_use]
    pub const fn revision(&self) -> Revision {
        self.revision
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Stored>> {
        self.map(key.kind).get(key).map(|slot| &slot.0)
    }

    /// The resources of a kind, ordered by mesh, then name.
    pub fn list(&self, kind: Kind) -> impl Iterator<Item = &Arc<Stored>> {
        self.map(kind).values().map(|slot| &slot.0)
    }

    /// The resources of a kind in one mesh, ordered by name. `""` for a kind of global scope.
    pub fn list_in_mesh<'a>(
        &'a self,
        kind: Kind,
        mesh: &str,
    ) -> impl Iterator<Item = &'a Arc<Stored>> + use<'a> {
        let first = Key::new(kind, mesh, "");
        let mesh = Arc::clone(&first.mesh);
        self.map(kind)
            .range(first..)
            .take_while(move |(key, _)| key.mesh == mesh)
            .map(|(_, slot)| &slot.0)
    }

    /// How many resources of a kind there are.
    #[must_use]
    pub fn count(&self, kind: Kind) -> usize {
        self.map(kind).len()
    }

    /// Every resource, kind by kind.
    pub fn all(&self) -> impl Iterator<Item = &Arc<Stored>> {
        Kind::ALL.iter().flat_map(|kind| self.list(*kind))
    }

    /// What differs from an older snapshot of the same store, in key order. Costs the difference, not the size.
    #[must_use]
    pub fn changes_since(&self, older: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        for kind in Kind::ALL {
            self.add_changes(*kind, older, &mut changes);
        }
        changes
    }

    /// As [`Snapshot::changes_since`], for one kind.
    #[must_use]
    pub fn changes_of_kind_since(&self, kind: Kind, older: &Self) -> Vec<Change> {
        let mut changes = Vec::new();
        self.add_changes(kind, older, &mut changes);
        changes
    }

    /// Whether nothing of a kind differs, as one pointer comparison; a `false` may be a false alarm.
    #[must_use]
    pub fn same_kind(&self, kind: Kind, other: &Self) -> bool {
        self.map(kind).ptr_eq(other.map(kind))
    }

    fn add_changes(&self, kind: Kind, older: &Self, changes: &mut Vec<Change>) {
        if self.same_kind(kind, older) {
            return;
        }
        changes.extend(older.map(kind).diff(self.map(kind)).map(|item| match item {
            DiffItem::Add(key, new) => Change {
                key: key.clone(),
                old: None,
                new: Some(Arc::clone(&new.0)),
            },
            DiffItem::Update { old, new } => Change {
                key: new.0.clone(),
                old: Some(Arc::clone(&old.1.0)),
                new: Some(Arc::clone(&new.1.0)),
            },
            DiffItem::Remove(key, old) => Change {
                key: key.clone(),
                old: Some(Arc::clone(&old.0)),
                new: None,
            },
        }));
    }

    /// What was removed after `revision` and has not come back, each with the revision of its removal, oldest first.
    /// `None` when the store does not remember that far back: then only the complete set tells.
    #[must_use]
    pub fn tombstones_since(&self, revision: Revision) -> Option<Vec<(Key, Revision)>> {
        if revision < self.compacted || revision > self.revision {
            return None;
        }
        let mut gone = Vec::new();
        for (at, keys) in self.tombstones.range(revision.next()..) {
            gone.extend(
                keys.iter()
                    .filter(|key| self.get(key).is_none())
                    .map(|key| (key.clone(), *at)),
            );
        }
        Some(gone)
    }

    /// Everything that is remembered of removals, oldest first.
    pub(crate) fn tombstones(&self) -> impl Iterator<Item = (Revision, &[Key])> {
        self.tombstones.iter().map(|(at, keys)| (*at, &**keys))
    }

    /// The oldest remembered removals after those of a revision.
    pub(crate) fn tombstones_after(&self, at: Option<Revision>) -> Option<(Revision, &[Key])> {
        let first = at.map_or(Revision::ZERO, Revision::next);
        let (at, keys) = self.tombstones.range(first..).next()?;
        Some((*at, keys))
    }

    /// The newest revision whose removals were forgotten.
    #[must_use]
    pub const fn compacted(&self) -> Revision {
        self.compacted
    }

    /// What goes when `owner` goes: the resources that name it as their owner, in key order.
    #[must_use]
    pub fn owned_by(&self, owner: &Key) -> Vec<Key> {
        // The least key: `Mesh` is the first kind.
        let first = (
            owner.clone(),
            Key {
                kind: Kind::Mesh,
                mesh: "".into(),
                name: "".into(),
            },
        );
        self.owned
            .range(first..)
            .take_while(|((of, _), ())| of == owner)
            .map(|((_, owned), ())| owned.clone())
            .collect()
    }

    pub(crate) fn insert(&mut self, stored: Stored) -> Arc<Stored> {
        let stored = Arc::new(stored);
        let key = stored.resource.key.clone();
        let owner = stored.resource.owner.clone();
        let before = self
            .map_mut(key.kind)
            .insert(key.clone(), Slot(Arc::clone(&stored)));
        self.forget_owner(&key, before);
        if let Some(owner) = owner {
            self.owned.insert((owner, key), ());
        }
        stored
    }

    /// The same content, in the allocations of `other` where `other` has the same resource: so that only true changes
    /// differ.
    #[cfg(feature = "etcd")]
    pub(crate) fn sharing_with(mut self, other: &Self) -> Self {
        for kind in Kind::ALL {
            let same: Vec<(Key, Slot)> = other
                .map(*kind)
                .iter()
                .filter(|(key, slot)| self.get(key) == Some(&slot.0))
                .map(|(key, slot)| (key.clone(), slot.clone()))
                .collect();
            self.map_mut(*kind).extend(same);
        }
        self
    }

    pub(crate) fn take(&mut self, key: &Key) -> Option<Arc<Stored>> {
        let before = self.map_mut(key.kind).remove(key);
        let stored = before.as_ref().map(|slot| Arc::clone(&slot.0));
        self.forget_owner(key, before);
        stored
    }

    fn forget_owner(&mut self, key: &Key, before: Option<Slot>) {
        if let Some(owner) = before.and_then(|slot| slot.0.resource.owner.clone()) {
            self.owned.remove(&(owner, key.clone()));
        }
    }

    pub(crate) fn in_epoch(self, epoch: Epoch) -> Self {
        Self { epoch, ..self }
    }

    pub(crate) const fn set_revision(&mut self, revision: Revision) {
        self.revision = revision;
    }

    pub(crate) const fn set_compacted(&mut self, revision: Revision) {
        self.compacted = revision;
    }

    /// Remembers removals, and forgets the oldest beyond `max`; returns the revisions forgotten.
    pub(crate) fn bury(&mut self, revision: Revision, keys: Vec<Key>, max: usize) -> Vec<Revision> {
        if keys.is_empty() {
            return Vec::new();
        }
        self.tombstone_count += keys.len();
        self.tombstones.insert(revision, keys.into());
        let mut forgotten = Vec::new();
        while self.tombstone_count > max {
            let Some((oldest, keys)) = self.tombstones.get_min().cloned() else {
                break;
            };
            self.tombstones.remove(&oldest);
            self.tombstone_count -= keys.len();
            self.compacted = oldest;
            forgotten.push(oldest);
        }
        forgotten
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a kind's number is below `Kind::COUNT`"
    )]
    const fn map(&self, kind: Kind) -> &KindMap {
        &self.kinds[kind as usize]
    }

    #[expect(
        clippy::indexing_slicing,
        reason = "a kind's number is below `Kind::COUNT`"
    )]
    const fn map_mut(&mut self, kind: Kind) -> &mut KindMap {
        &mut self.kinds[kind as usize]
    }
}

impl fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Snapshot")
            .field("epoch", &self.epoch)
            .field("revision", &self.revision)
            .field("resources", &self.all().count())
            .finish_non_exhaustive()
    }
}
