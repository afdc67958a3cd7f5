//! Keeping what a peer brings.

use zonal_federation::Refusal;
use zonal_model::Kind;
use zonal_store::{Batch, Op, Store, StoreError};

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
/// else. What is more than the store takes at once is kept in parts, each of whole resources: whoever looks meanwhile
/// sees some of them, as after a batch that the peer had split.
///
/// # Errors
/// The store cannot write, or is so busy that a plan never held; nothing was answered and nothing changed.
pub async fn keep(
    subscriber: &mut Subscriber,
    pending: &Pending,
    store: &dyn Store,
) -> Result<Kept, StoreError> {
    let mut attempts = 0;
    let mut part_max = usize::MAX;
    // Of the plan for the whole, once a part of it is kept.
    let mut counts = None;
    loop {
        attempts += 1;
        let Planned {
            mut batch,
            refused,
            puts,
            removes,
            rewritten,
        } = subscriber.plan(pending, &store.snapshot());
        let is_part = batch.ops.len() > part_max && can_be_split(&batch);
        if is_part {
            batch.ops.truncate(part_max);
        }
        let (count, splits) = (batch.ops.len(), can_be_split(&batch));
        let written = if batch.is_empty() {
            Ok(())
        } else {
            store.commit(batch).await.map(drop)
        };
        match written {
            // The plan for the same message no longer has what is kept by now.
            Ok(()) if is_part => {
                counts.get_or_insert((puts, removes));
                attempts = 0;
            }
            // The answer waits for the commit: if we crash in between, the peer sends again, and applying twice is
            // harmless. The other order would lose the resource for good.
            Ok(()) => {
                subscriber.applied(pending, refused.clone());
                let (puts, removes) = counts.unwrap_or((puts, removes));
                return Ok(Kept {
                    refused,
                    puts,
                    removes,
                    rewritten,
                });
            }
            Err(StoreError::Conflict { .. }) if attempts < PLANS_MAX => {}
            Err(StoreError::TooLarge { .. }) if count > 1 && splits => part_max = count / 2,
            Err(error) => return Err(error),
        }
    }
}

/// With a mesh go resources of it that the same batch puts back: that may not be seen half done.
fn can_be_split(batch: &Batch) -> bool {
    !batch
        .ops
        .iter()
        .any(|op| matches!(op, Op::Remove { key, .. } if key.kind == Kind::Mesh))
}
