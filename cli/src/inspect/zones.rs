//! Zones: in sync or not, how far behind, and what coming back cost.

use jiff::Timestamp;
use serde_json::{Value, json};

use super::{Column, Shown, at, subscription};
use crate::client::{Call, Client};
use crate::failure::Failure;

const DRAINED: &str = zonal_model::labels::DRAINED;

pub(super) const COLUMNS: &[Column] = &[
    Column::new("NAME", "name"),
    Column::new("STATE", "state"),
    Column::new("SINCE", "since").shown(Shown::Ago),
    Column::new("REVISION", "revision"),
    Column::new("BEHIND", "behind"),
    Column::new("STALE", "staleSeconds").shown(Shown::Seconds),
    Column::new("PROXIES", "proxies"),
    Column::new("VERSION", "version"),
    Column::new("RESYNC DOWN", "resyncBytesDown").wide(),
    Column::new("RESYNC UP", "resyncBytesUp").wide(),
    Column::new("RESYNC MS", "resyncMillis").wide(),
    Column::new("LAST UPDATED", "lastUpdateTime")
        .shown(Shown::Ago)
        .wide(),
];

/// Beyond this many zones their proxies are not counted one zone at a time.
const COUNTED_ZONES_MAX: usize = 64;

pub(super) async fn rows(client: &Client, now: Timestamp) -> Result<Vec<Value>, Failure> {
    let overviews = client.list(&["zones", "_overview"], &[]).await?;
    let mut rows: Vec<Value> = overviews
        .iter()
        .map(|overview| row(overview, now))
        .collect();
    if rows.len() <= COUNTED_ZONES_MAX {
        for row in &mut rows {
            let name = at(row, "/name");
            if let (Some(name), Some(proxies @ Value::Null)) =
                (name.as_str(), row.get_mut("proxies"))
            {
                *proxies = proxies_of(client, name).await;
            }
        }
    }
    Ok(rows)
}

/// How many Dataplanes a zone has; null where nobody tells.
async fn proxies_of(client: &Client, zone: &str) -> Value {
    let call = Call::get(["dataplanes"])
        .query("size", "1")
        .query("filter[labels.kuma.io/zone]", zone);
    match client.json(call).await {
        Ok((list, _)) => at(&list, "/total"),
        Err(_) => Value::Null,
    }
}

/// A zone whose control plane tells how sync stands has its own words; of another make's zone it is known whether it
/// is connected.
fn row(overview: &Value, now: Timestamp) -> Value {
    let connection = subscription(overview.get("zoneInsight"));
    let last = connection.map_or(&Value::Null, |(last, _)| last);
    let sync = overview.get("sync").unwrap_or(&Value::Null);
    let (state, since) = match (sync.get("state"), connection) {
        (Some(state), _) => (state.clone(), at(sync, "/since")),
        (None, Some((_, true))) => (json!("online"), at(last, "/connectTime")),
        (None, Some((_, false))) => (json!("offline"), at(last, "/disconnectTime")),
        (None, None) => (json!("offline"), Value::Null),
    };
    let offline = state == "offline";
    let state = match share(overview) {
        Some(share) => json!(format!("{}, {share}", state.as_str().unwrap_or_default())),
        None => state,
    };
    let stale = match at(sync, "/staleSeconds") {
        Value::Null if offline => seconds_since(&since, now),
        told => told,
    };
    json!({
        "name": at(overview, "/name"),
        "state": state,
        "since": since,
        "revision": at(sync, "/revision"),
        "behind": at(sync, "/behind"),
        "staleSeconds": stale,
        "proxies": at(sync, "/proxies"),
        "resyncBytesDown": at(sync, "/resyncBytesDown"),
        "resyncBytesUp": at(sync, "/resyncBytesUp"),
        "resyncMillis": at(sync, "/resyncMillis"),
        "version": at(last, "/version/kumaCp/version"),
        "lastUpdateTime": at(last, "/status/lastUpdateTime"),
        "enabled": overview.pointer("/zone/enabled").and_then(Value::as_bool).unwrap_or(true),
    })
}

/// What the others do not get of it.
fn share(overview: &Value) -> Option<&'static str> {
    let drained = |labels: &Value| labels.get(DRAINED).and_then(Value::as_str) == Some("true");
    if overview.pointer("/zone/enabled").and_then(Value::as_bool) == Some(false) {
        Some("disabled")
    } else if overview.get("labels").is_some_and(drained) {
        Some("drained")
    } else {
        None
    }
}

fn seconds_since(then: &Value, now: Timestamp) -> Value {
    let then = then
        .as_str()
        .and_then(|then| then.parse::<Timestamp>().ok());
    then.map_or(Value::Null, |then| {
        json!((now.as_second() - then.as_second()).max(0))
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::inspect::table;

    fn now() -> Timestamp {
        "2026-01-10T00:00:00Z".parse().unwrap()
    }

    #[track_caller]
    fn check(overview: &Value, want: &str) {
        let rows = [row(overview, now())];
        let text = table(&rows, COLUMNS, false, now()).render();
        let cells: Vec<&str> = text.lines().nth(1).unwrap().split_whitespace().collect();
        assert_eq!(cells.join(" "), want);
    }

    #[test]
    fn a_zone_is_told_as_its_control_plane_tells_it() {
        let overview = json!({
            "name": "east",
            "zone": {"enabled": true},
            "zoneInsight": {"subscriptions": [
                {"connectTime": "2026-01-09T00:00:00Z", "disconnectTime": "2026-01-09T01:00:00Z"},
                {"connectTime": "2026-01-09T02:00:00Z", "version": {"kumaCp": {"version": "1.0.0"}}},
            ]},
            "sync": {
                "state": "in-sync", "since": "2026-01-09T22:00:00Z", "revision": 12, "behind": 0, "staleSeconds": 0,
                "proxies": 3, "resyncBytesDown": 100, "resyncBytesUp": 50, "resyncMillis": 7,
            },
        });
        check(&overview, "east in-sync 2h 12 0 0s 3 1.0.0");
        let row = row(&overview, now());
        assert_eq!(
            (&row["state"], &row["resyncMillis"]),
            (&json!("in-sync"), &json!(7))
        );
    }

    #[test]
    fn a_zone_of_another_make_is_online_or_offline() {
        let subscription = |more: Value| {
            let mut first = json!({"connectTime": "2026-01-09T23:59:00Z"});
            first
                .as_object_mut()
                .unwrap()
                .extend(more.as_object().unwrap().clone());
            json!({"name": "west", "zoneInsight": {"subscriptions": [first]}})
        };
        check(&subscription(json!({})), "west online 1m - - - - -");
        let ended = json!({"disconnectTime": "2026-01-09T23:59:30Z"});
        check(&subscription(ended), "west offline 30s - - 30s - -");
        check(&json!({"name": "new"}), "new offline - - - - - -");
        let disabled = json!({"name": "new", "zone": {"enabled": false}});
        check(&disabled, "new offline, disabled - - - - - -");
        let drained = json!({"name": "new", "labels": {DRAINED: "true"}, "zone": {}});
        check(&drained, "new offline, drained - - - - - -");
    }
}
