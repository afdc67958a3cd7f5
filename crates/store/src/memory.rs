//! A store that forgets: for tests and simulations.

use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::watch;

use crate::batch::{Batch, Committed};
use crate::error::StoreError;
use crate::plan::plan;
use crate::revision::Epoch;
use crate::snapshot::{Snapshot, TOMBSTONES_MAX};
use crate::watch::Watch;
use crate::{Store, WallClock};

/// Keeps resources in memory only.
pub struct MemoryStore {
    /// Taken by whoever writes, for the few microseconds a batch takes.
    writing: Mutex<()>,
    published: watch::Sender<Arc<Snapshot>>,
    now: WallClock,
    tombstones_max: usize,
}

impl MemoryStore {
    /// An empty store with a fresh epoch.
    #[must_use]
    pub fn new(now: WallClock) -> Self {
        Self::with_epoch(Epoch::fresh(), now)
    }

    /// An empty store with a chosen epoch, so that a simulation repeats.
    #[must_use]
    pub fn with_epoch(epoch: Epoch, now: WallClock) -> Self {
        Self {
            writing: Mutex::new(()),
            published: watch::Sender::new(Arc::new(Snapshot::empty(epoch))),
            now,
            tombstones_max: TOMBSTONES_MAX,
        }
    }

    /// Remembers fewer removals.
    #[must_use]
    pub const fn with_tombstones_max(mut self, max: usize) -> Self {
        self.tombstones_max = max;
        self
    }

    /// Commits at once, without a future.
    ///
    /// # Errors
    /// A condition of the batch is not met.
    pub fn commit_now(&self, batch: Batch) -> Result<Committed, StoreError> {
        let _writing = self.writing.lock().unwrap_or_else(PoisonError::into_inner);
        let base = self.snapshot();
        let plan = plan(&base, batch, (self.now)(), self.tombstones_max)?;
        if plan.changes_anything() {
            self.published
                .send_replace(Arc::clone(&plan.committed.snapshot));
        }
        Ok(plan.committed)
    }
}

impl Store for MemoryStore {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(async move { self.commit_now(batch) })
    }

    fn watch(&self) -> Watch {
        Watch::new(self.published.subscribe())
    }
}

impl fmt::Debug for MemoryStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryStore")
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
