//! Keeping what a peer brings.

use zonal_federation::Refusal;
use zonal_store::{Store, StoreError};

use crate::subscriber::{Pending, Planned, Subscriber};

/// How often a batch is planned again because somebody else changed the same resources meanwhile.
const PLANS_MAX: usize = 64;

/// What became of a batch.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What was left out, and why.
    pub refused: Vec<Refusal>,
    /// How many resources were put.
    pub puts: usize,
    /// How many were removed.
    pub removes: usize,
    /// How many claimed another zone than the one that sent them.
    pub rewritten: usize,
}

/// Keeps a batch durably, then lets the subscriber answer. What cannot be kept is refused by name and harms nothing
/// else.
///
/// # Errors
/// The store cannot write, or is so busy that a plan never held; nothing was answered and nothing changed.
pub async fn keep(
    subscriber: &mut Subscriber,
    pending: &Pending,
    store: &dyn Store,
) -> Result<Kept, StoreError> {
    let mut attempts = 0;
    loop {
        attempts += 1;
        let Planned {
            batch,
            refused,
            puts,
            removes,
            rewritten,
        } = subscriber.plan(pending, &store.snapshot());
        let written = if batch.is_empty() {
            Ok(())
        } else {
            store.commit(batch).await.map(drop)
        };
        match written {
            // The answer waits for the commit: if we crash in between, the peer sends again, and applying twice is
            // harmless. The other order would lose the resource for good.
            Ok(()) => {
                subscriber.applied(pending, refused.clone());
                return Ok(Kept {
                    refused,
                    puts,
                    removes,
                    rewritten,
                });
            }
            Err(StoreError::Conflict { .. }) if attempts < PLANS_MAX => {}
            Err(error) => return Err(error),
        }
    }
}
