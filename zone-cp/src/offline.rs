//! Dataplanes whose proxies have been away for very long are removed.
//!
//! A Dataplane that came with its proxy outlives a restart of the control plane, so that callers keep their endpoints
//! while the proxy connects again. One whose proxy never does must not stay for ever.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use serde_json::Value;
use tracing::{info, warn};
use zonal_model::{Key, Kind, Resource};
use zonal_process::{CancellationToken, Clock};
use zonal_store::{Batch, Expect, Store, StoreError};

use crate::insights::is_online;
use crate::lifecycle::dataplane_key;
use crate::metrics::ZoneMetrics;
use crate::proxy::ProxyId;

/// How long a Dataplane is kept after its proxy's last stream has ended.
pub(crate) const OFFLINE_MAX: Duration = Duration::from_secs(72 * 3600);
/// When a removal that failed is tried again.
const RETRY: Duration = Duration::from_secs(60);

/// Since when the proxies without a stream are away, as their insights say.
#[derive(Debug, Default)]
struct Away {
    since: BTreeMap<ProxyId, Timestamp>,
    in_order: BTreeSet<(Timestamp, ProxyId)>,
}

impl Away {
    /// Takes over what an insight says now.
    fn read(&mut self, key: &Key, insight: Option<&Resource>) {
        let id = ProxyId::new(&key.mesh, &key.name);
        if let Some(before) = self.since.remove(&id) {
            self.in_order.remove(&(before, id.clone()));
        }
        if let Some(since) = insight.and_then(away_since) {
            self.since.insert(id.clone(), since);
            self.in_order.insert((since, id));
        }
    }

    /// Those that went away at `before` or earlier.
    fn up_to(&self, before: Timestamp) -> Vec<ProxyId> {
        self.in_order
            .iter()
            .take_while(|(since, _)| *since <= before)
            .map(|(_, id)| id.clone())
            .collect()
    }

    fn first(&self) -> Option<Timestamp> {
        self.in_order.first().map(|(since, _)| *since)
    }
}

/// When a proxy's last stream ended; `None` while it has one, or never had.
fn away_since(insight: &Resource) -> Option<Timestamp> {
    if is_online(insight) {
        return None;
    }
    let spec = insight.spec.to_value();
    let subscriptions = spec.get("subscriptions").and_then(Value::as_array)?;
    subscriptions
        .iter()
        .filter_map(|subscription| subscription.get("disconnectTime")?.as_str()?.parse().ok())
        .max()
}

/// Removes Dataplanes whose proxies have been away for `max`, until `stop`.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    max: Duration,
    metrics: ZoneMetrics,
    stop: CancellationToken,
) {
    let mut watch = store.watch();
    let mut away = Away::default();
    for stored in watch.seen().list(Kind::DataplaneInsight) {
        away.read(&stored.resource.key, Some(&stored.resource));
    }
    let mut not_before = None;
    loop {
        let now = clock.wall();
        let mut due = None;
        if not_before.is_none_or(|at| at <= clock.now()) {
            not_before = None;
            // Before the beginning of time nobody was away.
            let limit = now.checked_sub(max).unwrap_or(Timestamp::MIN);
            for id in away.up_to(limit) {
                if remove(&*store, &id, &metrics).await {
                    away.read(&dataplane_key(&id), None);
                } else {
                    not_before = Some(clock.now() + RETRY);
                }
            }
            due = away.first().map(|since| {
                let left = since
                    .checked_add(max)
                    .map(|at| Duration::try_from(at.duration_since(now)).unwrap_or_default());
                clock.now() + left.unwrap_or(max)
            });
        }
        let due = not_before.or(due);
        tokio::select! {
            () = stop.cancelled() => return,
            changes = watch.next() => {
                let Ok(changes) = changes else { return };
                for change in changes.list() {
                    if change.key.kind == Kind::DataplaneInsight {
                        let insight = change.new.as_ref().map(|stored| &stored.resource);
                        away.read(&change.key, insight);
                    }
                }
            }
            () = clock.sleep_until(due) => {}
        }
    }
}

/// Whether it is done with: removed, or not there to be removed.
async fn remove(store: &dyn Store, id: &ProxyId, metrics: &ZoneMetrics) -> bool {
    let snapshot = store.snapshot();
    let insight = Key::new(Kind::DataplaneInsight, &id.mesh, &id.name);
    let is_back = snapshot
        .get(&insight)
        .is_some_and(|stored| is_online(&stored.resource));
    let Some(stored) = snapshot.get(&dataplane_key(id)).filter(|_| !is_back) else {
        return true;
    };
    let expect = Expect::Revision(stored.revision);
    let batch = Batch::new().remove_if(dataplane_key(id), expect);
    match store.commit(batch).await {
        Ok(_) => {
            metrics.offline_removed();
            info!(proxy = %id, "the proxy has been away for very long: its Dataplane is removed");
            true
        }
        // Somebody cares for it; looked at again later.
        Err(StoreError::Conflict { .. }) => false,
        Err(error) => {
            warn!(proxy = %id, %error, "cannot remove the Dataplane of a proxy that is away; tried again in a minute");
            false
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use serde_json::json;
    use zonal_model::Json;
    use zonal_process::clock::ManualClock;
    use zonal_store::MemoryStore;

    use super::*;

    fn insight(name: &str, subscriptions: &Value) -> Resource {
        let key = Key::new(Kind::DataplaneInsight, "default", name);
        let mut insight = Resource::new(
            key,
            Json::from_value(&json!({ "subscriptions": subscriptions })),
        );
        insight.owner = Some(Key::new(Kind::Dataplane, "default", name));
        insight
    }

    fn dataplane(name: &str) -> Resource {
        let key = Key::new(Kind::Dataplane, "default", name);
        let spec = json!({ "networking": { "address": "127.0.0.1" } });
        Resource::new(key, Json::from_value(&spec))
    }

    #[test]
    fn a_proxy_is_away_since_its_last_stream_ended() {
        let closed = json!([
            {"connectTime": "2026-01-01T00:00:00Z", "disconnectTime": "2026-01-02T00:00:00Z"},
            {"connectTime": "2026-01-03T00:00:00Z", "disconnectTime": "2026-01-04T00:00:00Z"},
        ]);
        let want: Timestamp = "2026-01-04T00:00:00Z".parse().unwrap();
        assert_eq!(away_since(&insight("web", &closed)), Some(want));
        let open = json!([{"connectTime": "2026-01-01T00:00:00Z"}]);
        assert_eq!(away_since(&insight("web", &open)), None);
        assert_eq!(away_since(&insight("web", &json!([]))), None);
    }

    #[tokio::test]
    async fn only_who_is_away_for_too_long_is_removed() {
        let start: Timestamp = "2026-01-04T00:00:00Z".parse().unwrap();
        let clock = ManualClock::starting_at(start);
        let wall = clock.clone();
        let store = Arc::new(MemoryStore::new(Arc::new(move || wall.wall())));
        let ended = json!([{"connectTime": "2026-01-01T00:00:00Z", "disconnectTime": "2026-01-03T00:00:00Z"}]);
        let open = json!([{"connectTime": "2026-01-01T00:00:00Z"}]);
        let batch = Batch::new()
            .put(dataplane("gone"))
            .put(dataplane("here"))
            .put(dataplane("never"))
            .put(insight("gone", &ended))
            .put(insight("here", &open));
        store.commit(batch).await.unwrap();
        let mut watch = store.watch();
        let stop = CancellationToken::new();
        let work = run(
            Arc::clone(&store) as Arc<dyn Store>,
            Arc::new(clock.clone()),
            OFFLINE_MAX,
            ZoneMetrics::default(),
            stop.clone(),
        );
        let test = async {
            clock.advance(Duration::from_secs(47 * 3600));
            tokio::task::yield_now().await;
            assert_eq!(store.snapshot().count(Kind::Dataplane), 3);
            clock.advance(Duration::from_secs(3600));
            let changes = watch.next().await.unwrap();
            let names: Vec<String> = changes
                .to
                .list(Kind::Dataplane)
                .map(|stored| stored.resource.key.name.to_string())
                .collect();
            assert_eq!(names, ["here", "never"]);
            assert_eq!(changes.to.count(Kind::DataplaneInsight), 1);
            stop.cancel();
        };
        tokio::join!(work, test);
    }
}
