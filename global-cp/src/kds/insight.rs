//! Zones' insights: the record of their connections, kept in memory and written when it matters.

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;
use std::time::{Duration, Instant};

use jiff::Timestamp;
use serde_json::{Map, Value, json};
use tracing::{debug, warn};
use zonal_model::{Json, Key, Kind, Resource, legacy};
use zonal_process::CancellationToken;
use zonal_store::{Batch, Snapshot, StoreError};

use super::Shared;
use super::peer::NodeFacts;
use super::zones::StreamKind;

/// Answers counted for one kind.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Stats {
    pub(super) sent: u64,
    pub(super) acked: u64,
    pub(super) rejected: u64,
}

#[derive(Clone, Debug)]
struct Subscription {
    id: String,
    global_instance_id: String,
    zone_instance_id: String,
    connect_time: Timestamp,
    disconnect_time: Option<Timestamp>,
    config: String,
    version: Value,
    token_given: bool,
    stats: BTreeMap<String, Stats>,
}

/// One zone's insight.
#[derive(Clone, Debug, Default)]
pub(super) struct Insight {
    subscriptions: VecDeque<Subscription>,
    streams: BTreeMap<StreamKind, (String, Timestamp)>,
    health_check: Option<Timestamp>,
    /// A stream came or went: write now.
    due: bool,
    /// Counters moved: write some time.
    counted: bool,
}

impl Insight {
    pub(super) fn stream_opened(&mut self, kind: StreamKind, instance: &str, now: Timestamp) {
        self.streams.insert(kind, (instance.to_owned(), now));
        self.due = true;
    }

    pub(super) fn connected(
        &mut self,
        id: &str,
        instance: &str,
        facts: &NodeFacts,
        token_given: bool,
        now: Timestamp,
        max: usize,
    ) {
        for older in &mut self.subscriptions {
            older.disconnect_time.get_or_insert(now);
        }
        self.subscriptions.push_back(Subscription {
            id: id.to_owned(),
            global_instance_id: instance.to_owned(),
            zone_instance_id: facts.instance_id.clone(),
            connect_time: now,
            disconnect_time: None,
            config: facts.config.clone(),
            version: facts.version.clone(),
            token_given,
            stats: BTreeMap::new(),
        });
        while self.subscriptions.len() > max {
            self.subscriptions.pop_front();
        }
        self.due = true;
    }

    pub(super) fn disconnected(&mut self, id: &str, now: Timestamp) {
        if let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.id == id) {
            subscription.disconnect_time.get_or_insert(now);
        }
        self.due = true;
    }

    pub(super) fn healthy(&mut self, now: Timestamp) {
        self.health_check = Some(now);
        self.due = true;
    }

    pub(super) fn count(&mut self, id: &str, kind: &str, change: impl FnOnce(&mut Stats)) {
        if let Some(subscription) = self.subscriptions.iter_mut().find(|s| s.id == id) {
            change(subscription.stats.entry(kind.to_owned()).or_default());
            self.counted = true;
        }
    }

    pub(super) fn mark_due(&mut self) {
        self.due = true;
    }

    /// Whether it is to be written; then it counts as written.
    pub(super) fn take_due(&mut self, counters_too: bool) -> bool {
        let due = self.due || (counters_too && self.counted);
        if due {
            self.due = false;
            self.counted = false;
        }
        due
    }

    /// The record as it is stored. `earlier` are subscriptions of an earlier life of this process.
    fn to_spec(&self, earlier: &[Value], now: Timestamp, max: usize) -> Json {
        let own: Vec<Value> = self.subscriptions.iter().map(|s| s.to_value(now)).collect();
        let known: Vec<&str> = self.subscriptions.iter().map(|s| s.id.as_str()).collect();
        let mut all: Vec<Value> = earlier
            .iter()
            .filter(|s| !s["id"].as_str().is_some_and(|id| known.contains(&id)))
            .map(|s| closed(s, now))
            .chain(own)
            .collect();
        let surplus = all.len().saturating_sub(max);
        all.drain(..surplus);
        let mut spec = json!({ "subscriptions": all });
        let streams: Map<String, Value> = self
            .streams
            .iter()
            .map(|(kind, (instance, at))| {
                let stream = json!({"globalInstanceId": instance, "connectTime": at.to_string()});
                (member(*kind).to_owned(), stream)
            })
            .collect();
        if let Some(members) = spec.as_object_mut() {
            if !streams.is_empty() {
                members.insert("kdsStreams".to_owned(), Value::Object(streams));
            }
            if let Some(at) = self.health_check {
                members.insert("healthCheck".to_owned(), json!({"time": at.to_string()}));
            }
        }
        canonical(&spec)
    }
}

impl Subscription {
    fn to_value(&self, now: Timestamp) -> Value {
        let mut total = Stats::default();
        for stats in self.stats.values() {
            total.sent += stats.sent;
            total.acked += stats.acked;
            total.rejected += stats.rejected;
        }
        let stat: Map<String, Value> = self
            .stats
            .iter()
            .map(|(kind, stats)| (kind.clone(), stats.to_value()))
            .collect();
        let mut version = self.version.clone();
        if let Some(members) = version.as_object_mut() {
            // Said for people; nothing is refused because of a version.
            members.insert("kumaCpGlobalCompatible".to_owned(), Value::Bool(true));
        }
        json!({
            "id": self.id,
            "globalInstanceId": self.global_instance_id,
            "zoneInstanceId": self.zone_instance_id,
            "connectTime": self.connect_time.to_string(),
            "disconnectTime": self.disconnect_time.map(|at| at.to_string()),
            "config": self.config,
            "version": {"kumaCp": version},
            "authTokenProvided": self.token_given,
            "status": {"lastUpdateTime": now.to_string(), "total": total.to_value(), "stat": stat},
        })
    }
}

impl Stats {
    fn to_value(self) -> Value {
        json!({
            "responsesSent": self.sent.to_string(),
            "responsesAcknowledged": self.acked.to_string(),
            "responsesRejected": self.rejected.to_string(),
        })
    }
}

const fn member(kind: StreamKind) -> &'static str {
    match kind {
        StreamKind::GlobalToZone => "globalToZone",
        StreamKind::ZoneToGlobal => "zoneToGlobal",
        StreamKind::ConfigDump => "configDump",
        StreamKind::Stats => "stats",
        StreamKind::Clusters => "clusters",
    }
}

/// A subscription of which nobody will report the end any more.
fn closed(subscription: &Value, now: Timestamp) -> Value {
    let mut subscription = subscription.clone();
    if let Some(members) = subscription.as_object_mut() {
        members
            .entry("disconnectTime")
            .or_insert_with(|| Value::from(now.to_string()));
    }
    subscription
}

fn canonical(spec: &Value) -> Json {
    match legacy::normalise(Kind::ZoneInsight, spec) {
        Ok(spec) => Json::from_value(&spec),
        Err(problem) => {
            warn!(problem, "a zone's insight is not in its own form");
            Json::from_value(spec)
        }
    }
}

/// A zone opens its streams in a burst; this long after the first of them one write has them all.
const BURST: Duration = Duration::from_millis(50);

/// Writes insights: soon when a stream came or went, counters when they have waited for the flush interval.
pub(super) async fn keep(shared: &Shared, stop: &CancellationToken) -> Result<(), StoreError> {
    close_orphans(shared).await?;
    let mut changed = shared.zones.insights_changed();
    let mut write_at: Option<Instant> = None;
    let mut flush_at: Option<Instant> = None;
    loop {
        let now = shared.clock.now();
        let is_due = |at: Option<Instant>| at.is_some_and(|at| at <= now);
        let (written, flushed) = (is_due(write_at), is_due(flush_at));
        if written || flushed {
            write(shared, flushed).await?;
            write_at = None;
        }
        if flushed {
            flush_at = None;
        }
        let next = [write_at, flush_at].into_iter().flatten().min();
        tokio::select! {
            () = stop.cancelled() => {
                return write(shared, true).await;
            }
            moved = changed.changed() => {
                if moved.is_err() {
                    return Ok(());
                }
                let now = shared.clock.now();
                write_at.get_or_insert(now + BURST);
                flush_at.get_or_insert(now + shared.settings.insight_flush);
            }
            () = shared.clock.sleep_until(next) => {}
        }
    }
}

/// Subscriptions that an earlier life of this process left open.
async fn close_orphans(shared: &Shared) -> Result<(), StoreError> {
    let now = shared.clock.wall();
    let snapshot = shared.store.snapshot();
    let mut batch = Batch::new();
    for stored in snapshot.list(Kind::ZoneInsight) {
        let subscriptions = earlier(&snapshot, &stored.resource.key);
        let mut spec = stored.resource.spec.to_value();
        let closed: Vec<Value> = subscriptions.iter().map(|s| closed(s, now)).collect();
        if closed != subscriptions
            && let Some(members) = spec.as_object_mut()
        {
            members.insert("subscriptions".to_owned(), Value::Array(closed));
            let mut resource = stored.resource.clone();
            resource.spec = canonical(&spec);
            batch = batch.put(resource);
        }
    }
    if !batch.is_empty() {
        shared.store.commit(batch).await?;
    }
    Ok(())
}

fn earlier(snapshot: &Snapshot, key: &Key) -> Vec<Value> {
    snapshot
        .get(key)
        .and_then(|stored| {
            stored
                .resource
                .spec
                .to_value()
                .get("subscriptions")
                .cloned()
        })
        .and_then(|subscriptions| subscriptions.as_array().cloned())
        .unwrap_or_default()
}

async fn write(shared: &Shared, counters_too: bool) -> Result<(), StoreError> {
    let due = shared.zones.take_insights(counters_too);
    if due.is_empty() {
        return Ok(());
    }
    let now = shared.clock.wall();
    let snapshot = shared.store.snapshot();
    let mut batch = Batch::new();
    let mut written: Vec<Arc<str>> = Vec::new();
    for (zone, insight) in due {
        let owner = Key::global(Kind::Zone, &*zone);
        // A zone that was deleted has no insight either.
        if snapshot.get(&owner).is_none() {
            continue;
        }
        let key = Key::global(Kind::ZoneInsight, &*zone);
        let earlier = earlier(&snapshot, &key);
        let spec = insight.to_spec(&earlier, now, shared.settings.subscriptions_max);
        let mut resource = Resource::new(key, spec);
        resource.owner = Some(owner);
        batch = batch.put(resource);
        written.push(zone);
    }
    if batch.is_empty() {
        return Ok(());
    }
    match shared.store.commit(batch).await {
        Ok(committed) => {
            debug!(zones = written.len(), revision = %committed.revision, "wrote insights");
            Ok(())
        }
        Err(StoreError::Closed) => Err(StoreError::Closed),
        Err(error) => {
            warn!(%error, "cannot write the zones' insights; they are tried again with the next change");
            for zone in &written {
                shared.zones.insight_failed(zone);
            }
            Ok(())
        }
    }
}
