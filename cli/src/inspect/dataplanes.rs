//! Proxies: connected or not, and whether they use what they were sent.

use serde_json::{Value, json};
use zonal_model::Kind;

use super::{Column, Shown, at, subscription};
use crate::client::Client;
use crate::failure::Failure;
use crate::get::{label, zone};
use crate::kinds;

pub(super) const COLUMNS: &[Column] = &[
    Column::new("MESH", "mesh"),
    Column::new("NAME", "name"),
    Column::new("ZONE", "zone"),
    Column::new("STATUS", "status"),
    Column::new("SINCE", "since").shown(Shown::Ago),
    Column::new("ADDRESS", "address"),
    Column::new("ACKED", "acknowledged"),
    Column::new("NACKED", "rejected"),
    Column::new("UPDATED", "lastUpdateTime").shown(Shown::Ago),
    Column::new("WORKLOAD", "workload").wide(),
    Column::new("SENT", "sent").wide(),
    Column::new("CERT RENEWED", "certificateRegenerated")
        .shown(Shown::Ago)
        .wide(),
    Column::new("CERT EXPIRES", "certificateExpires").wide(),
    Column::new("PROXY", "dataplaneVersion").wide(),
    Column::new("ENVOY", "envoyVersion").wide(),
];

pub(super) async fn rows(client: &Client, mesh: Option<&str>) -> Result<Vec<Value>, Failure> {
    let mut path = kinds::collection(Kind::Dataplane, mesh);
    path.push("_overview".to_owned());
    let path: Vec<&str> = path.iter().map(String::as_str).collect();
    let overviews = client.list(&path, &[]).await?;
    Ok(overviews.iter().map(row).collect())
}

fn row(overview: &Value) -> Value {
    let insight = overview.get("dataplaneInsight");
    let connection = subscription(insight);
    let last = connection.map_or(&Value::Null, |(last, _)| last);
    let (status, since) = match connection {
        Some((_, true)) if ready(overview) => ("online", at(last, "/connectTime")),
        Some((_, true)) => ("degraded", at(last, "/connectTime")),
        Some((_, false)) => ("offline", at(last, "/disconnectTime")),
        None => ("offline", Value::Null),
    };
    let certificate = insight
        .and_then(|insight| insight.get("mTLS"))
        .unwrap_or(&Value::Null);
    json!({
        "mesh": at(overview, "/mesh"),
        "name": at(overview, "/name"),
        "zone": zone(overview),
        "workload": label(overview, "kuma.io/workload"),
        "status": status,
        "since": since,
        "address": at(overview, "/dataplane/networking/address"),
        "sent": count(last, "/status/total/responsesSent"),
        "acknowledged": count(last, "/status/total/responsesAcknowledged"),
        "rejected": count(last, "/status/total/responsesRejected"),
        "lastUpdateTime": at(last, "/status/lastUpdateTime"),
        "certificateRegenerated": at(certificate, "/lastCertificateRegeneration"),
        "certificateExpires": at(certificate, "/certificateExpirationTime"),
        "dataplaneVersion": at(last, "/version/kumaDp/version"),
        "envoyVersion": at(last, "/version/envoy/version"),
    })
}

/// Whether every inbound and listener takes traffic.
fn ready(overview: &Value) -> bool {
    let lists = [
        "/dataplane/networking/inbound",
        "/dataplane/networking/listeners",
    ];
    let entries = lists
        .iter()
        .filter_map(|list| overview.pointer(list)?.as_array())
        .flatten();
    entries.into_iter().all(|entry| {
        entry.get("state").and_then(Value::as_str) != Some("NotReady")
            && entry.pointer("/health/ready").and_then(Value::as_bool) != Some(false)
    })
}

/// A counter; the wire has large numbers as text, and zero as nothing.
fn count(value: &Value, pointer: &str) -> u64 {
    match value.pointer(pointer) {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(Value::Number(number)) => number.as_u64().unwrap_or(0),
        _ => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(inbound: &Value, subscriptions: &Value, want: (&str, u64, u64)) {
        let overview = json!({
            "mesh": "default", "name": "web", "labels": {"kuma.io/zone": "east"},
            "dataplane": {"networking": {"address": "10.0.0.1", "inbound": [inbound]}},
            "dataplaneInsight": {"subscriptions": subscriptions},
        });
        let row = row(&overview);
        let got = (
            row["status"].as_str().unwrap(),
            row["acknowledged"].as_u64().unwrap(),
            row["rejected"].as_u64().unwrap(),
        );
        assert_eq!(got, want);
        assert_eq!(
            (&row["zone"], &row["address"]),
            (&json!("east"), &json!("10.0.0.1"))
        );
    }

    #[test]
    fn a_proxy_is_online_while_a_subscription_is_open() {
        let open = json!([{
            "connectTime": "2026-01-09T02:00:00Z",
            "status": {"total": {"responsesSent": "7", "responsesAcknowledged": "6", "responsesRejected": 1}},
        }]);
        check(&json!({"port": 80}), &open, ("online", 6, 1));
        check(
            &json!({"port": 80, "state": "NotReady"}),
            &open,
            ("degraded", 6, 1),
        );
        let ended = json!([{"connectTime": "2026-01-09T02:00:00Z", "disconnectTime": "2026-01-09T03:00:00Z"}]);
        check(&json!({"port": 80}), &ended, ("offline", 0, 0));
        check(&json!({"port": 80}), &json!([]), ("offline", 0, 0));
    }
}
