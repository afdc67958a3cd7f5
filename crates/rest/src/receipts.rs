//! How far a revision got: which zones keep it, and whose proxies use it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::response::Response;
use http::StatusCode;
use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use tokio::sync::watch;
use zonal_store::Revision;

use crate::call::Call;
use crate::problem::Problem;
use crate::reply;
use crate::state::RestState;

/// Where one zone stands with a revision.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum ZoneReceiptState {
    /// The zone is away.
    Offline,
    /// The zone has not said that it keeps it.
    Pending,
    /// The zone keeps it; some of its proxies have not answered.
    Kept,
    /// The zone keeps it, and every proxy that it concerns uses it.
    Complete,
    /// The zone or a proxy of it refuses something of it.
    Refused,
}

/// The proxies of a zone, counted for one revision.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProxyCounts {
    /// All proxies of the zone.
    pub total: u64,
    /// Those whose configuration the revision changes.
    pub affected: u64,
    /// Affected ones that use it.
    pub acked: u64,
    /// Affected ones that refuse it.
    pub nacked: u64,
    /// Affected ones that are not connected.
    pub offline: u64,
}

/// Who refuses what, and why.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Nack {
    /// The proxy; `None`: the zone itself.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub proxy: Option<String>,
    /// What is refused, where it is known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub resource: Option<String>,
    /// The refuser's words.
    pub reason: String,
}

/// One zone's part of a receipt.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct ZoneReceipt {
    /// When the zone said that it keeps the revision.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kept_at: Option<Timestamp>,
    /// When the last of its proxies that the revision concerns was known to use it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub converged_at: Option<Timestamp>,
    /// Its proxies.
    pub proxies: ProxyCounts,
    /// Who refuses.
    pub nacks: Vec<Nack>,
    /// All in one word.
    pub state: ZoneReceiptState,
}

/// How far a revision got.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Receipt {
    /// Which revision.
    pub revision: Revision,
    /// When the store kept it, as far as it is still known.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub committed_at: Option<Timestamp>,
    /// By name.
    pub zones: BTreeMap<String, ZoneReceipt>,
    /// Every zone that is not offline is complete.
    pub complete: bool,
}

/// Knows how far revisions got.
pub trait Receipts: Send + Sync {
    /// The receipt of a revision that the store has reached. A zone that keeps a later one keeps this one too.
    fn receipt(&self, revision: Revision) -> Receipt;

    /// Moves whenever a receipt may have changed.
    fn changed(&self) -> watch::Receiver<u64>;
}

/// A control plane that has nobody below it.
#[derive(Clone, Copy, Debug)]
pub struct NoReceipts;

impl Receipts for NoReceipts {
    fn receipt(&self, revision: Revision) -> Receipt {
        Receipt {
            revision,
            committed_at: None,
            zones: BTreeMap::new(),
            complete: true,
        }
    }

    fn changed(&self) -> watch::Receiver<u64> {
        watch::Sender::new(0).subscribe()
    }
}

/// What a caller waits for.
#[derive(Clone, Debug, PartialEq)]
pub enum WaitFor {
    /// Every zone that is not offline.
    All,
    /// One zone.
    Zone(String),
    /// A share of the affected proxies of all zones, from 0 to 100.
    Percent(f64),
}

impl WaitFor {
    /// Reads `all`, `zone:NAME` or `90%`.
    ///
    /// # Errors
    /// The text is none of these.
    pub fn parse(text: &str) -> Result<Self, String> {
        if matches!(text, "" | "all" | "true") {
            return Ok(Self::All);
        }
        if let Some(zone) = text.strip_prefix("zone:").filter(|zone| !zone.is_empty()) {
            return Ok(Self::Zone(zone.to_owned()));
        }
        text.strip_suffix('%')
            .unwrap_or(text)
            .parse::<f64>()
            .ok()
            .filter(|percent| (0.0..=100.0).contains(percent))
            .map(Self::Percent)
            .ok_or_else(|| format!("`wait={text}` is none of `all`, `zone:NAME`, `90%`"))
    }

    /// Whether a receipt is what the caller waits for.
    #[must_use]
    pub fn is_met(&self, receipt: &Receipt) -> bool {
        let complete = |zone: &ZoneReceipt| zone.state == ZoneReceiptState::Complete;
        match self {
            Self::All => receipt.complete,
            Self::Zone(name) => receipt.zones.get(name).is_some_and(complete),
            Self::Percent(percent) => {
                let zones = receipt.zones.values();
                let undecided = zones
                    .clone()
                    .any(|zone| zone.state == ZoneReceiptState::Pending);
                let affected: u64 = zones.clone().map(|zone| zone.proxies.affected).sum();
                let acked: u64 = zones.map(|zone| zone.proxies.acked).sum();
                #[expect(clippy::cast_precision_loss, reason = "far below 2^52 proxies")]
                let share = acked as f64 * 100.0 >= affected as f64 * percent;
                !undecided && share
            }
        }
    }

    /// Whether it can no longer be met: somebody refuses.
    #[must_use]
    pub fn is_lost(&self, receipt: &Receipt) -> bool {
        let refused = |zone: &ZoneReceipt| zone.state == ZoneReceiptState::Refused;
        match self {
            Self::All => receipt.zones.values().any(refused),
            Self::Zone(name) => receipt.zones.get(name).is_some_and(refused),
            Self::Percent(_) => false,
        }
    }
}

/// `GET /_receipts/{revision}?wait=…&timeout=…`: with `wait`, answers when it is met or lost, or when time is up.
pub(crate) async fn get(state: Arc<RestState>, call: Call) -> Result<Response, Problem> {
    let text = call.param("revision");
    let revision = match text {
        "latest" => state.store.snapshot().revision(),
        _ => text.parse().map(Revision).map_err(|_error| {
            Problem::bad_request(format!("bad request: `{text}` is no revision"))
        })?,
    };
    if revision > state.store.snapshot().revision() {
        return Err(Problem::new(
            StatusCode::NOT_FOUND,
            "Could not retrieve a receipt",
            format!("the store has not reached revision {revision}"),
        ));
    }
    let Some(wait) = call.query.get("wait") else {
        return Ok(answer(&state.receipts.receipt(revision)));
    };
    let bad_request = |text: String| Problem::bad_request(format!("bad request: {text}"));
    let wait = WaitFor::parse(wait).map_err(bad_request)?;
    let timeout = timeout(call.query.get("timeout")).map_err(bad_request)?;
    let timeout = timeout.min(state.limits.wait_max);
    let _permit = state
        .watchers
        .try_acquire()
        .map_err(|_full| Problem::unavailable("too many are watching or waiting"))?;
    // Subscribed before the first look, so that no change falls in between.
    let mut changed = state.receipts.changed();
    let deadline = tokio::time::sleep(timeout);
    tokio::pin!(deadline);
    loop {
        changed.mark_unchanged();
        let receipt = state.receipts.receipt(revision);
        if wait.is_met(&receipt) || wait.is_lost(&receipt) {
            return Ok(answer(&receipt));
        }
        tokio::select! {
            moved = changed.changed() => {
                if moved.is_err() {
                    return Ok(answer(&state.receipts.receipt(revision)));
                }
            }
            () = &mut deadline => return Ok(answer(&state.receipts.receipt(revision))),
            () = state.stop.cancelled() => {
                return Err(Problem::unavailable("this control plane is stopping; ask again"));
            }
        }
    }
}

fn answer(receipt: &Receipt) -> Response {
    reply::with_revision(reply::json(StatusCode::OK, receipt), receipt.revision)
}

const TIMEOUT_DEFAULT: Duration = Duration::from_secs(30);

/// `30`, `30s`, `500ms` or `2m`.
fn timeout(text: Option<&str>) -> Result<Duration, String> {
    let Some(text) = text.filter(|text| !text.is_empty()) else {
        return Ok(TIMEOUT_DEFAULT);
    };
    let split = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (digits, unit) = text.split_at(split);
    let wrong = || format!("`timeout={text}` is no duration, e.g. `30s`");
    let number: u64 = digits.parse().map_err(|_error| wrong())?;
    match unit {
        "ms" => Ok(Duration::from_millis(number)),
        "" | "s" => Ok(Duration::from_secs(number)),
        "m" => Ok(Duration::from_secs(number.saturating_mul(60))),
        _ => Err(wrong()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn receipt(zones: &[(&str, ZoneReceiptState, u64, u64)]) -> Receipt {
        let zones: BTreeMap<String, ZoneReceipt> = zones
            .iter()
            .map(|(name, state, affected, acked)| {
                let proxies = ProxyCounts {
                    affected: *affected,
                    acked: *acked,
                    ..ProxyCounts::default()
                };
                let zone = ZoneReceipt {
                    kept_at: None,
                    converged_at: None,
                    proxies,
                    nacks: Vec::new(),
                    state: *state,
                };
                ((*name).to_owned(), zone)
            })
            .collect();
        let complete = zones
            .values()
            .all(|zone| zone.state == ZoneReceiptState::Complete);
        Receipt {
            revision: Revision(7),
            committed_at: None,
            zones,
            complete,
        }
    }

    #[track_caller]
    fn check(wait: &str, receipt: &Receipt, met: bool, lost: bool) {
        let wait = WaitFor::parse(wait).unwrap();
        assert_eq!(
            (wait.is_met(receipt), wait.is_lost(receipt)),
            (met, lost),
            "{wait:?}"
        );
    }

    #[test]
    fn waits_are_met_or_lost() {
        use ZoneReceiptState::{Complete, Kept, Pending, Refused};
        let half = receipt(&[("east", Complete, 2, 2), ("west", Kept, 2, 0)]);
        check("all", &half, false, false);
        check("zone:east", &half, true, false);
        check("zone:west", &half, false, false);
        check("zone:north", &half, false, false);
        check("50%", &half, true, false);
        check("51", &half, false, false);
        check("0%", &receipt(&[("east", Pending, 0, 0)]), false, false);
        let refused = receipt(&[("east", Complete, 1, 1), ("west", Refused, 1, 0)]);
        check("all", &refused, false, true);
        check("zone:east", &refused, true, false);
        check("all", &receipt(&[("east", Complete, 0, 0)]), true, false);
        assert!(WaitFor::parse("zone:").is_err());
        assert!(WaitFor::parse("101%").is_err());
    }
}
