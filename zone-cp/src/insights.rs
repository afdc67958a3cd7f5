//! What proxies report, kept as DataplaneInsights.
//!
//! Reports are folded per proxy while a write is on its way, so a busy proxy costs one write at a time and the newest
//! numbers, never a queue.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use kds_proto::google::protobuf::Struct;
use serde_json::{Map, Value, json};
use tokio::sync::Notify;
use tracing::warn;
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_process::CancellationToken;
use zonal_store::{Batch, Snapshot, Store};
use zonal_xds::type_url;

use crate::dp::Sent;
use crate::proxy::ProxyId;
use crate::views::Answered;

/// Subscriptions kept per proxy, as Kuma's `metrics.dataplane.subscriptionLimit`.
const SUBSCRIPTIONS_MAX: usize = 2;

/// Something worth telling about a proxy.
#[derive(Debug)]
pub enum Report {
    /// Its stream began.
    Connected {
        /// The node's metadata.
        metadata: Box<Struct>,
        /// When.
        at: Timestamp,
    },
    /// It answered.
    Answered {
        /// All answers of this stream so far.
        sent: Sent,
        /// When.
        at: Timestamp,
    },
    /// It was given a certificate.
    Certified {
        /// When it was issued and when it ends.
        issued: Timestamp,
        /// When it ends.
        expires: Timestamp,
        /// The KRI of the MeshIdentity.
        backend: String,
    },
    /// Its stream ended.
    Disconnected {
        /// When.
        at: Timestamp,
    },
}

#[derive(Clone, Debug, Default)]
struct Live {
    subscription: String,
    metadata: Value,
    connected: Option<Timestamp>,
    disconnected: Option<Timestamp>,
    updated: Option<Timestamp>,
    sent: Sent,
    certificate: Option<Value>,
}

#[derive(Debug, Default)]
struct State {
    proxies: BTreeMap<ProxyId, Live>,
    dirty: BTreeSet<ProxyId>,
}

/// Takes reports; cheap to clone.
#[derive(Clone, Debug)]
pub struct Insights {
    instance: Arc<str>,
    state: Arc<Mutex<State>>,
    wake: Arc<Notify>,
}

impl Insights {
    /// Insights written in the name of a control plane instance.
    #[must_use]
    pub fn new(instance: Arc<str>) -> Self {
        Self {
            instance,
            state: Arc::default(),
            wake: Arc::default(),
        }
    }

    /// Takes one report.
    pub fn report(&self, id: ProxyId, report: Report) {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        let live = state.proxies.entry(id.clone()).or_default();
        match report {
            Report::Connected { metadata, at } => {
                *live = Live {
                    subscription: format!("{}-{}", self.instance, at.as_nanosecond()),
                    metadata: serde_json::to_value(&*metadata).unwrap_or_default(),
                    connected: Some(at),
                    ..Live::default()
                };
            }
            Report::Answered { sent, at } => {
                live.sent = sent;
                live.updated = Some(at);
            }
            Report::Certified {
                issued,
                expires,
                backend,
            } => {
                live.certificate = Some(json!({
                    "certificateExpirationTime": time(expires),
                    "lastCertificateRegeneration": time(issued),
                    "issuedBackend": backend,
                }));
            }
            Report::Disconnected { at } => live.disconnected = Some(at),
        }
        state.dirty.insert(id);
        drop(state);
        self.wake.notify_one();
    }

    /// Writes what was reported until `stop`. A write that fails is tried again with the next report.
    pub async fn run(self, store: Arc<dyn Store>, now: Timestamp, stop: CancellationToken) {
        let batch = close_open(&store.snapshot(), now);
        if !batch.is_empty()
            && let Err(error) = store.commit(batch).await
        {
            warn!(%error, "cannot close the insights of an earlier run");
        }
        loop {
            tokio::select! {
                () = stop.cancelled() => break,
                () = self.wake.notified() => {}
            }
            self.flush(&*store).await;
        }
        // What the last streams said on their way out.
        self.flush(&*store).await;
    }

    async fn flush(&self, store: &dyn Store) {
        let changed: Vec<(ProxyId, Live)> = {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            let dirty = std::mem::take(&mut state.dirty);
            dirty
                .into_iter()
                .filter_map(|id| {
                    let live = state.proxies.get(&id)?.clone();
                    if live.disconnected.is_some() {
                        state.proxies.remove(&id);
                    }
                    Some((id, live))
                })
                .collect()
        };
        let snapshot = store.snapshot();
        let batch = Batch {
            ops: changed
                .iter()
                .filter_map(|(id, live)| self.insight(&snapshot, id, live))
                .map(|resource| zonal_store::Op::Put {
                    resource,
                    expect: zonal_store::Expect::Any,
                })
                .collect(),
        };
        if batch.is_empty() {
            return;
        }
        if let Err(error) = store.commit(batch).await {
            warn!(%error, "cannot keep what proxies reported; it is tried again with the next report");
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            for (id, live) in changed {
                state.proxies.entry(id.clone()).or_insert(live);
                state.dirty.insert(id);
            }
        }
    }

    fn insight(&self, snapshot: &Snapshot, id: &ProxyId, live: &Live) -> Option<Resource> {
        let dataplane = Key::new(Kind::Dataplane, &id.mesh, &id.name);
        // An insight belongs to its Dataplane and goes with it.
        let owner = snapshot.get(&dataplane)?;
        let key = Key::new(Kind::DataplaneInsight, &id.mesh, &id.name);
        let mut spec = match snapshot
            .get(&key)
            .map(|stored| stored.resource.spec.to_value())
        {
            Some(Value::Object(members)) => members,
            _ => Map::new(),
        };
        let mut subscriptions = match spec.remove("subscriptions") {
            Some(Value::Array(subscriptions)) => subscriptions,
            _ => Vec::new(),
        };
        let own = self.subscription(live);
        let place = subscriptions
            .iter()
            .position(|s| s.get("id").and_then(Value::as_str) == Some(&live.subscription));
        match place.and_then(|index| subscriptions.get_mut(index)) {
            Some(known) => *known = own,
            None => {
                if let Some(at) = live.connected {
                    for older in &mut subscriptions {
                        close(older, at);
                    }
                }
                subscriptions.push(own);
            }
        }
        let surplus = subscriptions.len().saturating_sub(SUBSCRIPTIONS_MAX);
        subscriptions.drain(..surplus);
        spec.insert("subscriptions".to_owned(), Value::Array(subscriptions));
        if !live.metadata.is_null() {
            spec.insert("metadata".to_owned(), live.metadata.clone());
        }
        if let Some(certificate) = &live.certificate {
            let mut certificate = certificate.clone();
            let supported: Vec<Value> = snapshot
                .list_in_mesh(Kind::MeshTrust, &id.mesh)
                .filter_map(|stored| zonal_model::Kri::of(&stored.resource))
                .map(|kri| Value::String(kri.to_string()))
                .collect();
            if let Some(members) = certificate.as_object_mut() {
                members.insert("supportedBackends".to_owned(), Value::Array(supported));
            }
            spec.insert("mTLS".to_owned(), certificate);
        }
        let mut resource = Resource::new(key, Json::from_value(&Value::Object(spec)));
        resource.owner = Some(dataplane);
        // The same labels as the Dataplane's name is made from, so that both have one name on global.
        resource.meta.labels = owner.resource.meta.labels.clone();
        resource.meta.labels.remove(labels::LISTENER_ZONE_INGRESS);
        resource.meta.labels.remove(labels::LISTENER_ZONE_EGRESS);
        Some(resource)
    }

    fn subscription(&self, live: &Live) -> Value {
        let answers = |url: &str| {
            let answered = live.sent.0.iter().find(|(held, _)| held.as_str() == url);
            counts(answered.map(|(_, answered)| *answered).unwrap_or_default())
        };
        let total = live
            .sent
            .0
            .values()
            .fold(Answered::default(), |sum, one| Answered {
                sent: sum.sent + one.sent,
                acknowledged: sum.acknowledged + one.acknowledged,
                rejected: sum.rejected + one.rejected,
            });
        let mut status = json!({
            "total": counts(total),
            "cds": answers(type_url::CLUSTER),
            "eds": answers(type_url::ENDPOINTS),
            "lds": answers(type_url::LISTENER),
            "rds": {},
        });
        if let (Some(at), Some(members)) = (live.updated, status.as_object_mut()) {
            members.insert("lastUpdateTime".to_owned(), time(at));
        }
        let mut subscription = json!({
            "id": live.subscription,
            "controlPlaneInstanceId": &*self.instance,
            "status": status,
        });
        if let Some(members) = subscription.as_object_mut() {
            for (name, at) in [
                ("connectTime", live.connected),
                ("disconnectTime", live.disconnected),
            ] {
                if let Some(at) = at {
                    members.insert(name.to_owned(), time(at));
                }
            }
            if let Some(version) = live.metadata.get("version") {
                members.insert("version".to_owned(), version.clone());
            }
        }
        subscription
    }
}

/// Zero counts are left out, and 64-bit numbers are text, as protobuf JSON has it.
fn counts(answered: Answered) -> Value {
    let members = [
        ("responsesSent", answered.sent),
        ("responsesAcknowledged", answered.acknowledged),
        ("responsesRejected", answered.rejected),
    ];
    Value::Object(
        members
            .into_iter()
            .filter(|(_, count)| *count > 0)
            .map(|(name, count)| (name.to_owned(), Value::String(count.to_string())))
            .collect(),
    )
}

fn time(at: Timestamp) -> Value {
    Value::String(format!("{at:.3}"))
}

fn close(subscription: &mut Value, at: Timestamp) {
    if let Some(members) = subscription.as_object_mut() {
        members.entry("disconnectTime").or_insert_with(|| time(at));
    }
}

/// Closes the subscriptions that an earlier run left open: its streams are gone with it.
fn close_open(snapshot: &Snapshot, now: Timestamp) -> Batch {
    let mut batch = Batch::new();
    for stored in snapshot.list(Kind::DataplaneInsight) {
        if !is_online(&stored.resource) {
            continue;
        }
        let mut spec = stored.resource.spec.to_value();
        if let Some(Value::Array(subscriptions)) = spec.get_mut("subscriptions") {
            for subscription in subscriptions {
                close(subscription, now);
            }
        }
        let mut resource = stored.resource.clone();
        resource.spec = Json::from_value(&spec);
        batch = batch.put(resource);
    }
    batch
}

/// Whether an insight says that its proxy has a stream.
#[must_use]
pub(crate) fn is_online(insight: &Resource) -> bool {
    insight
        .spec
        .to_value()
        .get("subscriptions")
        .and_then(Value::as_array)
        .is_some_and(|subscriptions| {
            subscriptions.iter().any(|subscription| {
                subscription.get("connectTime").is_some()
                    && subscription.get("disconnectTime").is_none()
            })
        })
}
