//! Following a store.

use std::sync::Arc;

use tokio::sync::watch;

use crate::snapshot::{Change, Snapshot};

/// The store was closed; nothing more will come.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the store was closed")]
pub struct Closed;

/// Two states of the store, the newer one right at hand.
#[derive(Clone, Debug)]
pub struct Changes {
    /// What the watcher knew.
    pub from: Arc<Snapshot>,
    /// What is now.
    pub to: Arc<Snapshot>,
}

impl Changes {
    /// What differs, newest state per key, in key order.
    #[must_use]
    pub fn list(&self) -> Vec<Change> {
        self.to.changes_since(&self.from)
    }
}

/// Hands out what changed since it was asked last. A watcher that is slow sees fewer, larger differences.
#[derive(Clone, Debug)]
pub struct Watch {
    newest: watch::Receiver<Arc<Snapshot>>,
    seen: Arc<Snapshot>,
}

impl Watch {
    pub(crate) fn new(mut newest: watch::Receiver<Arc<Snapshot>>) -> Self {
        let seen = Arc::clone(&newest.borrow_and_update());
        Self { newest, seen }
    }

    /// What the watcher knows: the state it began with, or the newer one of the last [`Changes`].
    #[must_use]
    pub const fn seen(&self) -> &Arc<Snapshot> {
        &self.seen
    }

    /// Makes the watcher know an older state, so that the next [`Changes`] begin there.
    #[must_use]
    pub fn from(mut self, seen: Arc<Snapshot>) -> Self {
        if seen.revision() != self.seen.revision() {
            self.newest.mark_changed();
        }
        self.seen = seen;
        self
    }

    /// Waits until the store is newer than what the watcher knows. Dropping the future loses nothing.
    ///
    /// # Errors
    /// The store was closed and everything it ever published was handed out.
    pub async fn next(&mut self) -> Result<Changes, Closed> {
        loop {
            self.newest.changed().await.map_err(|_closed| Closed)?;
            let to = Arc::clone(&self.newest.borrow_and_update());
            if to.revision() == self.seen.revision() && to.epoch() == self.seen.epoch() {
                continue;
            }
            let from = std::mem::replace(&mut self.seen, Arc::clone(&to));
            return Ok(Changes { from, to });
        }
    }
}
