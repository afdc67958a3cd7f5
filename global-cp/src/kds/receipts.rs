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
    let state = if progress.streams == 0 {
        ZoneReceiptState::Offline
    } else if !kept {
        ZoneReceiptState::Pending
    } else if !nacks.is_empty() {
        ZoneReceiptState::Refused
    } else {
        match &answered {
            // A zone of Kuma says nothing of its proxies: what can be known is complete.
            Answered::Nothing if !progress.ours => ZoneReceiptState::Complete,
            Answered::Nothing
            | Answered::Some {
                converged_at: None, ..
            } => ZoneReceiptState::Kept,
            Answered::NotConcerned { .. } | Answered::Some { .. } => ZoneReceiptState::Complete,
        }
    };
    let (proxies, converged_at) = match answered {
        Answered::Nothing => (ProxyCounts::default(), kept_at),
        Answered::NotConcerned { total } => (
            ProxyCounts {
                total,
                ..ProxyCounts::default()
            },
            kept_at,
        ),
        Answered::Some {
            counts,
            converged_at,
        } => (counts, converged_at),
    };
    // The zone's clock may be behind ours; nothing is in use before it is kept.
    let converged_at = converged_at
        .filter(|_| state == ZoneReceiptState::Complete)
        .map(|at| kept_at.map_or(at, |kept| at.max(kept)));
    ZoneReceipt {
        kept_at,
        converged_at,
        proxies,
        nacks,
        state,
    }
}

/// What the proxies of a zone have answered to a revision.
enum Answered {
    /// The zone has not told anything yet.
    Nothing,
    /// Nothing of the revision concerned the zone.
    NotConcerned { total: u64 },
    /// So far this, and since when nobody is outstanding. Counts alone say nothing: before the zone has computed what
    /// follows from the revision, nobody is affected yet.
    Some {
        counts: ProxyCounts,
        converged_at: Option<Timestamp>,
    },
}

/// Looks at the first revision that concerned the zone and has `revision` in it.
fn proxies(progress: &Progress, revision: Revision, nacks: &mut Vec<Nack>) -> Answered {
    let asked = progress
        .announced
        .iter()
        .map(|(announced, _)| *announced)
        .find(|announced| *announced >= revision);
    let Some(asked) = asked else {
        let newest = progress.receipts.values().next_back();
        let total = newest.map_or(0, |answer| answer.proxies_total.into());
        return Answered::NotConcerned { total };
    };
    let Some((_, answer)) = progress.receipts.range(asked..).next() else {
        return Answered::Nothing;
    };
    nacks.extend(answer.nacks.iter().map(|nack| Nack {
        proxy: Some(format!("{}/{}", nack.mesh, nack.proxy)),
        resource: Some(nack.type_url.clone()),
        reason: nack.reason.clone(),
    }));
    let at = answer.all_acked_at.as_ref();
    Answered::Some {
        counts: ProxyCounts {
            total: answer.proxies_total.into(),
            affected: answer.proxies_affected.into(),
            acked: answer.acked.into(),
            nacked: answer.nacked.into(),
            offline: answer.offline.into(),
        },
        converged_at: at.and_then(|at| Timestamp::new(at.seconds, at.nanos).ok()),
    }
}
