//! Receipts for global: what this zone's proxies answered to the revisions of global's that the zone keeps.

use std::collections::VecDeque;

use tokio::sync::{mpsc, watch};
use zonal_process::CancellationToken;
use zonal_store::Revision;

use crate::convergence::Convergence;
use crate::kds::{GlobalProgress, HeldRevision, Nack, ProxyReceipts};

/// Revisions of global's whose receipts may still change. A newer one says all that an older one does, so an older one
/// that falls off the list is only told less exactly.
const REVISIONS_MAX: usize = 64;
/// Refusals told for one revision.
const NACKS_MAX: usize = 32;

/// Tells global about every revision it has sent here, whenever there is news, until `stop`.
pub(crate) async fn tell(
    convergence: Convergence,
    mut progress: watch::Receiver<GlobalProgress>,
    outgoing: mpsc::Sender<ProxyReceipts>,
    stop: CancellationToken,
) {
    let mut open: VecDeque<Open> = VecDeque::new();
    let mut told_up_to = Revision::ZERO;
    let mut changes = convergence.changes();
    loop {
        let held = progress.borrow_and_update().held.clone();
        if let Some(held) = held
            && open.back().is_none_or(|last| {
                last.held.epoch != held.epoch || last.held.revision != held.revision
            })
        {
            let after = std::mem::replace(&mut told_up_to, held.local);
            open.push_back(Open {
                held,
                after,
                told: None,
            });
            if open.len() > REVISIONS_MAX {
                open.pop_front();
            }
        }
        for entry in &mut open {
            let receipts = receipts(&convergence, entry);
            if entry.told.as_ref() != Some(&receipts) {
                entry.told = Some(receipts.clone());
                // Full only while the connection is being made; then waiting is right.
                if outgoing.send(receipts).await.is_err() {
                    return;
                }
            }
        }
        // What has converged stays so; only the newest is kept, to notice that it was told.
        while open.len() > 1
            && open.front().is_some_and(|entry| {
                entry
                    .told
                    .as_ref()
                    .is_some_and(|told| told.all_acked_at.is_some())
            })
        {
            open.pop_front();
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = progress.changed() => if changed.is_err() { return },
            () = changes.wait() => {}
        }
    }
}

/// A revision of global's whose receipt may still change.
struct Open {
    held: HeldRevision,
    /// The zone's own revision that had the one before.
    after: Revision,
    told: Option<ProxyReceipts>,
}

fn receipts(convergence: &Convergence, Open { held, after, .. }: &Open) -> ProxyReceipts {
    let receipt = convergence.receipt(*after, held.local);
    let count = |number: usize| u32::try_from(number).unwrap_or(u32::MAX);
    ProxyReceipts {
        revision: held.revision.0,
        epoch: held.epoch.to_string(),
        proxies_total: count(receipt.total),
        proxies_affected: count(receipt.affected),
        acked: count(receipt.acked),
        nacked: count(receipt.nacks.len()),
        offline: count(receipt.offline),
        nacks: receipt
            .nacks
            .into_iter()
            .take(NACKS_MAX)
            .map(|nack| Nack {
                proxy: nack.proxy,
                mesh: nack.mesh,
                type_url: nack.type_url,
                reason: nack.reason,
                nacked_at: None,
            })
            .collect(),
        all_acked_at: receipt.converged_at.map(|at| pbjson_types::Timestamp {
            seconds: at.as_second(),
            nanos: at.subsec_nanosecond(),
        }),
    }
}
