//! What is to be changed, and what came of it.

use std::sync::Arc;

use zonal_model::{Key, Resource};

use crate::revision::Revision;
use crate::snapshot::Snapshot;

/// The condition under which one operation may happen.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Expect {
    /// Whatever is there.
    Any,
    /// Nothing is there.
    Absent,
    /// It is there, and was last changed at this revision.
    Revision(Revision),
}

/// One change.
#[derive(Clone, Debug)]
pub enum Op {
    /// Makes or replaces a resource. Its times are stamped by the store.
    Put {
        /// What to keep.
        resource: Resource,
        /// Only if.
        expect: Expect,
    },
    /// Removes a resource and, recursively, everything it owns.
    Remove {
        /// What to remove.
        key: Key,
        /// Only if.
        expect: Expect,
    },
}

impl Op {
    /// What it is about.
    #[must_use]
    pub const fn key(&self) -> &Key {
        match self {
            Self::Put { resource, .. } => &resource.key,
            Self::Remove { key, .. } => key,
        }
    }
}

/// Changes that are kept together, in order, or not at all.
#[derive(Clone, Debug, Default)]
pub struct Batch {
    /// The changes; a later one sees what an earlier one did.
    pub ops: Vec<Op>,
}

impl Batch {
    /// Nothing to change yet.
    #[must_use]
    pub const fn new() -> Self {
        Self { ops: Vec::new() }
    }

    /// Adds an unconditional put.
    #[must_use]
    pub fn put(self, resource: Resource) -> Self {
        self.put_if(resource, Expect::Any)
    }

    /// Adds a conditional put.
    #[must_use]
    pub fn put_if(mut self, resource: Resource, expect: Expect) -> Self {
        self.ops.push(Op::Put { resource, expect });
        self
    }

    /// Adds an unconditional removal.
    #[must_use]
    pub fn remove(self, key: Key) -> Self {
        self.remove_if(key, Expect::Any)
    }

    /// Adds a conditional removal.
    #[must_use]
    pub fn remove_if(mut self, key: Key, expect: Expect) -> Self {
        self.ops.push(Op::Remove { key, expect });
        self
    }

    /// Whether there is nothing to do.
    #[must_use]
    pub const fn is_empty(&self) -> bool {
        self.ops.is_empty()
    }
}

/// What one operation did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It was not there before.
    Created,
    /// It was there with other content.
    Updated,
    /// A put of what is there already, or a removal of what is not.
    Unchanged,
    /// It is gone.
    Removed,
}

/// A batch that was kept.
#[derive(Clone, Debug)]
pub struct Committed {
    /// The store's revision with the batch in it; the previous one if nothing changed.
    pub revision: Revision,
    /// One per operation, in order.
    pub outcomes: Vec<Outcome>,
    /// What went along because its owner was removed.
    pub cascaded: Vec<Key>,
    /// The state right after this batch.
    pub snapshot: Arc<Snapshot>,
}
