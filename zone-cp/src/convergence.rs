//! Whether a revision of this zone's store is in use: derived from, computed, and ACKed.

use std::sync::Arc;

use tokio::sync::watch;
use zonal_store::Revision;

use crate::controllers::Settled;
use crate::receipts::Receipt;
use crate::views::{EngineHandle, Progress};

/// Joins what the controllers and the engine know. Cheap to clone.
#[derive(Clone, Debug)]
pub struct Convergence {
    engine: EngineHandle,
    settled: watch::Receiver<Settled>,
}

impl Convergence {
    /// Puts the two together.
    #[must_use]
    pub fn new(engine: EngineHandle, settled: watch::Receiver<Settled>) -> Self {
        Self { engine, settled }
    }

    /// What is known now about the revisions after `after` up to `up_to`. What was derived from them belongs to them: a
    /// service that follows from a new dataplane has to be in use too.
    #[must_use]
    pub fn receipt(&self, after: Revision, up_to: Revision) -> Receipt {
        let settled = *self.settled.borrow();
        let mut receipt = self.engine.receipt(after, up_to.max(settled.written));
        receipt.revision = up_to;
        if settled.seen < up_to {
            receipt.computed = false;
            receipt.converged_at = None;
        }
        receipt
    }

    /// What is known about one revision now.
    #[must_use]
    pub fn receipt_of(&self, revision: Revision) -> Receipt {
        self.receipt(Revision(revision.0.saturating_sub(1)), revision)
    }

    /// Waits until a revision is in use by every proxy it concerns. Ends early only by being dropped.
    pub async fn reached(&self, revision: Revision) -> Arc<Receipt> {
        let mut changes = self.changes();
        loop {
            let receipt = self.receipt_of(revision);
            if receipt.converged_at.is_some() {
                return Arc::new(receipt);
            }
            changes.wait().await;
        }
    }

    /// Tells when a receipt may have changed since the call.
    #[must_use]
    pub fn changes(&self) -> Changes {
        let mut changes = Changes {
            progress: self.engine.progress(),
            settled: self.settled.clone(),
        };
        changes.progress.mark_unchanged();
        changes.settled.mark_unchanged();
        changes
    }
}

/// See [`Convergence::changes`].
#[derive(Debug)]
pub struct Changes {
    progress: watch::Receiver<Progress>,
    settled: watch::Receiver<Settled>,
}

impl Changes {
    /// Waits for the next change; for ever once the control plane stops.
    pub async fn wait(&mut self) {
        let ended = tokio::select! {
            changed = self.progress.changed() => changed.is_err(),
            changed = self.settled.changed() => changed.is_err(),
        };
        if ended {
            std::future::pending::<()>().await;
        }
    }
}
