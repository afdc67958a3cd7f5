//! How far a revision got, put together from what the zones answered.

use std::collections::BTreeMap;
use std::sync::Arc;

use jiff::Timestamp;
use tokio::sync::watch;
use zonal_model::Kind;
use zonal_rest::{Nack, ProxyCounts, Receipt, Receipts, ZoneReceipt, ZoneReceiptState};
use zonal_store::Revision;

use super::Shared;
use super::zones::Progress;

/// The receipts of all zones.
pub(super) struct FromZones(pub(super) Arc<Shared>);

impl Receipts for FromZones {
    fn receipt(&self, revision: Revision) -> Receipt {
        let snapshot = self.0.store.snapshot();
        let zones: BTreeMap<String, ZoneReceipt> = snapshot
            .list(Kind::Zone)
            .map(|stored| {
                let name = stored.resource.key.name.to_string();
                let known = self
                    .0
                    .zones
                    .with_progress(&name, |progress| of_zone(progress, revision));
                (name, known.unwrap_or_else(offline))
            })
            .collect();
        let complete = zones.values().all(|zone| {
            matches!(
                zone.state,
                ZoneReceiptState::Complete | ZoneReceiptState::Offline
            )
        });
        Receipt {
            revision,
            committed_at: self.0.commit_times.of(revision),
            zones,
            complete,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        self.0.zones.receipts_changed()
    }
}

fn offline() -> ZoneReceipt {
    ZoneReceipt {
        kept_at: None,
        converged_at: None,
        proxies: ProxyCounts::default(),
        nacks: Vec::new(),
        state: ZoneReceiptState::Offline,
    }
}

fn of_zone(progress: &Progress, revision: Revision) -> ZoneReceipt {
    let kept_at = progress
        .kept
        .iter()
        .find(|(kept, _)| *kept >= revision)
        .map(|(_, at)| *at);
    let kept = progress.reached >= Some(revision);
    let mut nacks: Vec<Nack> = progress
        .refusals
        .iter()
        .filter(|refusal| refusal.before < revision && revision <= refusal.at)
        .map(|refusal| Nack {
            proxy: None,
            resource: Some(format!("{} {}", refusal.kind, refusal.names.join(", "))),
            reason: refusal.message.clone(),
        })
        .collect();
    let answered = proxies(progress, revision, &mut nacks);
    let proxies = answered.map(|(counts, _)| counts);
    let converged_at = answered.and_then(|(_, at)| at);
    let state = if progress.streams == 0 {
        ZoneReceiptState::Offline
    } else if !kept {
        ZoneReceiptState::Pending
    } else if !nacks.is_empty() {
        ZoneReceiptState::Refused
    } else {
        match proxies {
            // A zone of Kuma says nothing of its proxies: what can be known is complete.
            None if !progress.ours => ZoneReceiptState::Complete,
            None => ZoneReceiptState::Kept,
            Some(counts) if counts.acked + counts.offline >= counts.affected => {
                ZoneReceiptState::Complete
            }
            Some(_) => ZoneReceiptState::Kept,
        }
    };
    let converged_at = converged_at
        .or(kept_at)
        .filter(|_| state == ZoneReceiptState::Complete);
    ZoneReceipt {
        kept_at,
        converged_at,
        proxies: proxies.unwrap_or_default(),
        nacks,
        state,
    }
}

/// What the zone's proxies answered to the first revision that concerned the zone and has `revision` in it. When none
/// has, nothing of it concerned the zone, and the answers to the last one before are the answers.
fn proxies(
    progress: &Progress,
    revision: Revision,
    nacks: &mut Vec<Nack>,
) -> Option<(ProxyCounts, Option<Timestamp>)> {
    let asked = progress
        .announced
        .iter()
        .map(|(announced, _)| *announced)
        .find(|announced| *announced >= revision)
        .or_else(|| progress.announced.back().map(|(announced, _)| *announced));
    let Some(asked) = asked else {
        return Some((ProxyCounts::default(), None));
    };
    let later = progress.receipts.range(asked..).next();
    let answer = later.map(|(_, answer)| answer)?;
    nacks.extend(answer.nacks.iter().map(|nack| Nack {
        proxy: Some(format!("{}/{}", nack.mesh, nack.proxy)),
        resource: Some(nack.type_url.clone()),
        reason: nack.reason.clone(),
    }));
    let at = answer.all_acked_at.as_ref();
    let at = at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok());
    let counts = ProxyCounts {
        total: answer.proxies_total.into(),
        affected: answer.proxies_affected.into(),
        acked: answer.acked.into(),
        nacked: answer.nacked.into(),
        offline: answer.offline.into(),
    };
    Some((counts, at))
}
