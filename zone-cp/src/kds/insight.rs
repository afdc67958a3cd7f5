//! The zone's own record of its connections with global.

use serde_json::{Value, json};
use tracing::warn;
use zonal_model::{Json, Key, Kind, Resource, legacy};
use zonal_store::Batch;

use super::Shared;

/// Connections that are remembered.
const SUBSCRIPTIONS_MAX: usize = 10;

/// A connection is there.
pub(super) async fn connected(shared: &Shared) {
    let now = shared.clock.wall().to_string();
    change(shared, |subscriptions| {
        close(subscriptions, &now);
        subscriptions.push(json!({
            "id": uuid::Uuid::new_v4().to_string(),
            "zoneInstanceId": shared.settings.instance_id,
            "connectTime": now,
            "authTokenProvided": shared.settings.token.is_some(),
        }));
        let surplus = subscriptions.len().saturating_sub(SUBSCRIPTIONS_MAX);
        subscriptions.drain(..surplus);
    })
    .await;
}

/// The connection is gone.
pub(super) async fn disconnected(shared: &Shared) {
    let now = shared.clock.wall().to_string();
    change(shared, |subscriptions| close(subscriptions, &now)).await;
}

fn close(subscriptions: &mut [Value], now: &str) {
    for subscription in subscriptions {
        if let Some(members) = subscription.as_object_mut() {
            members
                .entry("disconnectTime")
                .or_insert_with(|| Value::from(now));
        }
    }
}

/// A record for people: where it cannot be written, nothing else stops.
async fn change(shared: &Shared, change: impl FnOnce(&mut Vec<Value>)) {
    let key = Key::global(Kind::ZoneInsight, &*shared.settings.zone);
    let snapshot = shared.store.snapshot();
    let stored = snapshot
        .get(&key)
        .map(|stored| stored.resource.spec.to_value());
    let mut subscriptions = stored
        .as_ref()
        .and_then(|spec| spec.get("subscriptions"))
        .and_then(Value::as_array)
        .cloned()
        .unwrap_or_default();
    let before = subscriptions.clone();
    change(&mut subscriptions);
    if subscriptions == before {
        return;
    }
    let spec = json!({ "subscriptions": subscriptions });
    let spec = legacy::normalise(Kind::ZoneInsight, &spec).unwrap_or(spec);
    let resource = Resource::new(key, Json::from_value(&spec));
    if let Err(error) = shared.store.commit(Batch::new().put(resource)).await {
        warn!(%error, "cannot write the zone's own insight");
    }
}
