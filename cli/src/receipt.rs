//! How far a revision got, and whether that is what somebody waits for.

use std::collections::BTreeMap;
use std::str::FromStr;
use std::time::Duration;

use jiff::Timestamp;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::table::Table;

/// What to wait for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Condition {
    /// Every zone that is there keeps the revision, and every proxy that it concerns uses it.
    All,
    /// As [`Condition::All`], for one zone.
    Zone(String),
    /// Every zone that is there has answered, and this share of the proxies concerned, in percent, use it.
    Share(u8),
}

impl FromStr for Condition {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        if text == "all" {
            return Ok(Self::All);
        }
        if let Some(zone) = text.strip_prefix("zone:").filter(|zone| !zone.is_empty()) {
            return Ok(Self::Zone(zone.to_owned()));
        }
        text.strip_suffix('%')
            .and_then(|percent| percent.parse().ok())
            .filter(|percent| *percent <= 100)
            .map(Self::Share)
            .ok_or_else(|| format!("`{text}` is none of `all`, `zone:east`, `90%`"))
    }
}

impl Condition {
    /// As the API wants it in `?wait=`.
    pub(crate) fn parameter(&self) -> String {
        match self {
            Self::All => "all".to_owned(),
            Self::Zone(name) => format!("zone:{name}"),
            Self::Share(percent) => format!("{percent}%"),
        }
    }

    /// Where a receipt stands with it.
    pub(crate) fn judge(&self, receipt: &Receipt) -> Judgement {
        match self {
            Self::All if receipt.complete => Judgement::Met,
            Self::All => lost_or_pending(receipt.zones.values()),
            Self::Zone(name) => match receipt.zones.get(name) {
                None => Judgement::NoSuchZone,
                Some(zone) if zone.state == ZoneState::Complete => Judgement::Met,
                Some(zone) => lost_or_pending(std::iter::once(zone)),
            },
            Self::Share(percent) => {
                let zones = receipt.zones.values();
                let undecided = zones.clone().any(|zone| zone.state == ZoneState::Pending);
                let affected: u64 = zones.clone().map(|zone| zone.proxies.affected).sum();
                let acked: u64 = zones.clone().map(|zone| zone.proxies.acked).sum();
                let nacked: u64 = zones.map(|zone| zone.proxies.nacked).sum();
                let reaches = |proxies: u64| proxies * 100 >= affected * u64::from(*percent);
                if undecided {
                    Judgement::Pending
                } else if reaches(acked) {
                    Judgement::Met
                } else if reaches(affected.saturating_sub(nacked)) {
                    Judgement::Pending
                } else {
                    Judgement::Lost
                }
            }
        }
    }

    fn concerns(&self, zone: &str) -> bool {
        match self {
            Self::All | Self::Share(_) => true,
            Self::Zone(name) => name == zone,
        }
    }
}

fn lost_or_pending<'a>(mut zones: impl Iterator<Item = &'a ZoneReceipt>) -> Judgement {
    if zones.any(|zone| zone.state == ZoneState::Refused) {
        Judgement::Lost
    } else {
        Judgement::Pending
    }
}

/// Where a receipt stands with a condition.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Judgement {
    Met,
    Pending,
    /// Somebody refuses: waiting longer does not help.
    Lost,
    /// The zone waited for is not in the federation.
    NoSuchZone,
}

/// How far a revision got, as the API tells it. Members that an older control plane does not know are absent.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Receipt {
    pub revision: u64,
    pub committed_at: Option<Timestamp>,
    pub zones: BTreeMap<String, ZoneReceipt>,
    pub complete: bool,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ZoneReceipt {
    pub kept_at: Option<Timestamp>,
    pub converged_at: Option<Timestamp>,
    pub proxies: Proxies,
    pub nacks: Vec<Nack>,
    pub state: ZoneState,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum ZoneState {
    Offline,
    /// Has not said that it keeps the revision.
    #[default]
    Pending,
    /// Keeps it; some proxies have not answered.
    Kept,
    Complete,
    Refused,
}

#[derive(Clone, Copy, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Proxies {
    pub total: u64,
    pub affected: u64,
    pub acked: u64,
    pub nacked: u64,
    pub offline: u64,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Nack {
    pub proxy: Option<String>,
    pub resource: Option<String>,
    pub reason: String,
}

impl Receipt {
    /// One line for each zone that is not where the condition wants it.
    pub(crate) fn missing(&self, condition: &Condition) -> Vec<String> {
        let mut lines = Vec::new();
        for (name, zone) in &self.zones {
            if !condition.concerns(name) {
                continue;
            }
            let Proxies {
                affected,
                acked,
                nacked,
                offline,
                ..
            } = zone.proxies;
            match zone.state {
                ZoneState::Complete => {}
                ZoneState::Offline => lines.push(format!("zone `{name}` is away")),
                ZoneState::Pending => {
                    lines.push(format!(
                        "zone `{name}` has not said that it keeps the revision"
                    ));
                }
                ZoneState::Kept => {
                    let silent = affected.saturating_sub(acked + nacked + offline);
                    lines.push(format!(
                        "zone `{name}` keeps it; {silent} of {affected} proxies have not answered"
                    ));
                }
                ZoneState::Refused if zone.nacks.is_empty() => {
                    lines.push(format!("zone `{name}` refuses it"));
                }
                ZoneState::Refused => {}
            }
            lines.extend(zone.nacks.iter().map(|nack| nack.sentence(name)));
        }
        if let Condition::Zone(name) = condition
            && !self.zones.contains_key(name)
        {
            let known: Vec<&str> = self.zones.keys().map(String::as_str).collect();
            lines.push(format!(
                "there is no zone `{name}`; there are: {}",
                known.join(", ")
            ));
        }
        lines
    }

    /// Zones that will get the revision when they return.
    pub(crate) fn away(&self) -> impl Iterator<Item = &str> {
        self.zones
            .iter()
            .filter(|(_, zone)| zone.state == ZoneState::Offline)
            .map(|(name, _)| name.as_str())
    }

    pub(crate) fn table(&self, measured: Option<Duration>) -> Table {
        let head = [
            "ZONE",
            "STATE",
            "KEPT AFTER",
            "PROXIES",
            "AFFECTED",
            "ACKED",
            "NACKED",
            "IN USE AFTER",
        ];
        let mut table = Table::new(head);
        for (name, zone) in &self.zones {
            let millis = |value: Option<i64>| value.map(|ms| format!("{ms}ms")).unwrap_or_default();
            table.row(vec![
                name.clone(),
                zone.state.word().to_owned(),
                millis(self.after(zone.kept_at)),
                zone.proxies.total.to_string(),
                zone.proxies.affected.to_string(),
                zone.proxies.acked.to_string(),
                zone.proxies.nacked.to_string(),
                millis(self.converged_after(zone, measured)),
            ]);
        }
        table
    }

    fn after(&self, then: Option<Timestamp>) -> Option<i64> {
        Some((then?.as_millisecond() - self.committed_at?.as_millisecond()).max(0))
    }

    /// When the zone was done, by the control planes' clocks; where they do not tell, by how long this program waited.
    fn converged_after(&self, zone: &ZoneReceipt, measured: Option<Duration>) -> Option<i64> {
        if zone.state != ZoneState::Complete {
            return None;
        }
        self.after(zone.converged_at)
            .or_else(|| measured.and_then(|waited| i64::try_from(waited.as_millis()).ok()))
    }

    /// Adds `keptAfterMillis` and `convergedAfterMillis` to each zone of the answer that this receipt was read from.
    pub(crate) fn with_durations(&self, mut answer: Value, measured: Option<Duration>) -> Value {
        let Some(zones) = answer.get_mut("zones").and_then(Value::as_object_mut) else {
            return answer;
        };
        for (name, value) in zones {
            if let (Some(zone), Some(members)) = (self.zones.get(name), value.as_object_mut()) {
                let kept = json!(self.after(zone.kept_at));
                let converged = json!(self.converged_after(zone, measured));
                members.insert("keptAfterMillis".to_owned(), kept);
                members.insert("convergedAfterMillis".to_owned(), converged);
            }
        }
        answer
    }
}

impl Nack {
    fn sentence(&self, zone: &str) -> String {
        let who = self.proxy.as_ref().map_or_else(
            || format!("zone `{zone}`"),
            |proxy| format!("proxy `{proxy}` in zone `{zone}`"),
        );
        let what = self
            .resource
            .as_ref()
            .map(|what| format!(" `{what}`"))
            .unwrap_or_default();
        format!("{who} refuses{what}: {}", self.reason)
    }
}

impl ZoneState {
    const fn word(self) -> &'static str {
        match self {
            Self::Offline => "offline",
            Self::Pending => "pending",
            Self::Kept => "kept",
            Self::Complete => "complete",
            Self::Refused => "refused",
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A receipt of zones written as `name state affected acked nacked`.
    fn receipt(zones: &[&str]) -> Receipt {
        let mut all = serde_json::Map::new();
        for zone in zones {
            let words: Vec<&str> = zone.split(' ').collect();
            let number = |at: usize| words[at].parse::<u64>().unwrap();
            let nacks = match number(4) {
                0 => json!([]),
                _ => json!([{"proxy": "default/web", "resource": "listener", "reason": "no"}]),
            };
            let value = json!({
                "state": words[1],
                "keptAt": "2026-01-01T00:00:00.020Z",
                "proxies": {"total": 9, "affected": number(2), "acked": number(3), "nacked": number(4), "offline": 0},
                "nacks": nacks,
            });
            all.insert(words[0].to_owned(), value);
        }
        let complete = zones
            .iter()
            .all(|zone| zone.contains("complete") || zone.contains("offline"));
        let answer = json!({
            "revision": 7,
            "committedAt": "2026-01-01T00:00:00Z",
            "zones": all,
            "complete": complete,
        });
        serde_json::from_value(answer).unwrap()
    }

    #[track_caller]
    fn check(condition: &str, zones: &[&str], want: Judgement) {
        let condition: Condition = condition.parse().unwrap();
        assert_eq!(
            condition.judge(&receipt(zones)),
            want,
            "{condition:?} {zones:?}"
        );
    }

    #[test]
    fn all_means_every_zone_that_is_there() {
        check(
            "all",
            &["east complete 2 2 0", "west complete 0 0 0"],
            Judgement::Met,
        );
        check(
            "all",
            &["east complete 2 2 0", "west kept 2 1 0"],
            Judgement::Pending,
        );
        check(
            "all",
            &["east complete 2 2 0", "west pending 0 0 0"],
            Judgement::Pending,
        );
        check(
            "all",
            &["east complete 2 2 0", "west offline 0 0 0"],
            Judgement::Met,
        );
        check(
            "all",
            &["east complete 2 2 0", "west refused 2 1 1"],
            Judgement::Lost,
        );
        check("all", &[], Judgement::Met);
    }

    #[test]
    fn one_zone_does_not_wait_for_the_others() {
        let zones = [
            "east complete 2 2 0",
            "west refused 2 1 1",
            "north offline 0 0 0",
        ];
        check("zone:east", &zones, Judgement::Met);
        check("zone:west", &zones, Judgement::Lost);
        check("zone:north", &zones, Judgement::Pending);
        check("zone:south", &zones, Judgement::NoSuchZone);
    }

    #[test]
    fn a_share_counts_the_proxies_concerned() {
        let zones = ["east complete 6 6 0", "west kept 4 3 0"];
        check("90%", &zones, Judgement::Met);
        check("91%", &zones, Judgement::Pending);
        check(
            "91%",
            &["east complete 6 6 0", "west refused 4 3 1"],
            Judgement::Lost,
        );
        check(
            "90%",
            &["east complete 6 6 0", "west pending 0 0 0"],
            Judgement::Pending,
        );
        check("100%", &["east complete 0 0 0"], Judgement::Met);
    }

    #[test]
    fn who_is_missing_is_said_by_name() {
        let receipt = receipt(&[
            "a complete 2 2 0",
            "b kept 3 1 0",
            "c pending 0 0 0",
            "d offline 0 0 0",
            "e refused 1 0 1",
        ]);
        assert_eq!(
            receipt.missing(&Condition::All),
            [
                "zone `b` keeps it; 2 of 3 proxies have not answered",
                "zone `c` has not said that it keeps the revision",
                "zone `d` is away",
                "proxy `default/web` in zone `e` refuses `listener`: no",
            ]
        );
        assert_eq!(
            receipt.missing(&Condition::Zone("d".to_owned())),
            ["zone `d` is away"]
        );
        assert_eq!(receipt.away().collect::<Vec<_>>(), ["d"]);
    }

    #[test]
    fn durations_count_from_the_commit() {
        let receipt = receipt(&["east complete 1 1 0", "west kept 1 0 0"]);
        let answer = json!({"zones": {"east": {}, "west": {}, "new": {}}});
        let answer = receipt.with_durations(answer, Some(Duration::from_millis(55)));
        assert_eq!(
            answer["zones"],
            json!({
                "east": {"keptAfterMillis": 20, "convergedAfterMillis": 55},
                "west": {"keptAfterMillis": 20, "convergedAfterMillis": null},
                "new": {},
            })
        );
    }
}
