//! The zone's REST API: the resource API with receipts of this zone's own proxies.

use std::collections::BTreeMap;

use tokio::sync::watch;
use zonal_process::{CancellationToken, Spawner};
use zonal_rest::{
    CommitTimes, Nack, ProxyCounts, Receipt, Receipts, ZoneReceipt, ZoneReceiptState,
};
use zonal_store::Revision;

use crate::convergence::Convergence;

/// Receipts of revisions of this zone's own store.
#[derive(Debug)]
pub(crate) struct ZoneReceipts {
    zone: String,
    convergence: Convergence,
    times: CommitTimes,
    changed: watch::Receiver<u64>,
}

impl ZoneReceipts {
    /// Receipts told in the zone's name; they follow until `stop`.
    #[must_use]
    pub(crate) fn new(
        zone: String,
        convergence: Convergence,
        times: CommitTimes,
        spawner: &Spawner,
        stop: CancellationToken,
    ) -> Self {
        let (sender, changed) = watch::channel(0);
        let mut changes = convergence.changes();
        spawner.spawn("receipt changes", async move {
            loop {
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = changes.wait() => sender.send_modify(|count| *count += 1),
                }
            }
        });
        Self {
            zone,
            convergence,
            times,
            changed,
        }
    }
}

impl Receipts for ZoneReceipts {
    fn receipt(&self, revision: Revision) -> Receipt {
        let known = self.convergence.receipt_of(revision);
        let state = if !known.nacks.is_empty() {
            ZoneReceiptState::Refused
        } else if known.converged_at.is_some() {
            ZoneReceiptState::Complete
        } else {
            ZoneReceiptState::Kept
        };
        let committed_at = self.times.of(revision);
        let zone = ZoneReceipt {
            kept_at: committed_at,
            converged_at: known.converged_at,
            proxies: ProxyCounts {
                total: known.total as u64,
                affected: known.affected as u64,
                acked: known.acked as u64,
                nacked: known.nacks.len() as u64,
                offline: known.offline as u64,
            },
            nacks: known
                .nacks
                .into_iter()
                .map(|nack| Nack {
                    proxy: Some(format!("{}/{}", nack.mesh, nack.proxy)),
                    resource: Some(nack.type_url),
                    reason: nack.reason,
                })
                .collect(),
            state,
        };
        Receipt {
            revision,
            committed_at,
            complete: state == ZoneReceiptState::Complete,
            zones: BTreeMap::from([(self.zone.clone(), zone)]),
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.changed.clone()
    }
}
