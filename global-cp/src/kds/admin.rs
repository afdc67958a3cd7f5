//! Questions to the proxies of a zone, asked over streams that the zone opened.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use kds_proto::kuma::mesh::v1alpha1::{
    AdminOutputFormat, ClustersRequest, ClustersResponse, StatsRequest, StatsResponse,
    XdsConfigRequest, XdsConfigResponse, clusters_response, stats_response, xds_config_response,
};
use parking_lot::Mutex;
use tokio::sync::oneshot;
use tonic::Streaming;
use tracing::debug;
pub use zonal_control_plane::AdminQuestion;
use zonal_process::Clock;

use super::Shared;
use super::down::stopping;
use super::peer::{NodeFacts, Peer};
use super::service::Outbox;
use super::zones::StreamKind;

/// A zone has this long to answer; its own limit is the same.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that may wait for one zone at once.
const WAITING_MAX: usize = 256;

/// Whom the question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTarget {
    /// The kind, e.g. `Dataplane`.
    pub kind: String,
    /// Its mesh.
    pub mesh: String,
    /// The name in the zone's own store.
    pub name: String,
}

/// Why there is no answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminError {
    /// No stream of that kind.
    #[error("zone `{0}` is not connected")]
    NotConnected(String),
    /// Too many questions wait.
    #[error("too many questions to zone `{0}` wait for answers")]
    Busy(String),
    /// No answer in time.
    #[error("zone `{0}` did not answer in time")]
    Timeout(String),
    /// The zone says why.
    #[error("{0}")]
    Refused(String),
}

/// A pair of messages of a reversed call.
pub(super) trait Exchange: Send + 'static {
    type Ask: Send + 'static;
    type Answer: Send + 'static;

    /// The id of an answer, and the answer.
    fn read(answer: Self::Answer) -> (String, Result<Bytes, String>);
}

pub(super) struct Configs;
pub(super) struct Statistics;
pub(super) struct Clusters;

impl Exchange for Configs {
    type Ask = XdsConfigRequest;
    type Answer = XdsConfigResponse;

    fn read(answer: XdsConfigResponse) -> (String, Result<Bytes, String>) {
        use xds_config_response::Result as Given;
        let result = match answer.result {
            Some(Given::Error(error)) => Err(error),
            Some(Given::Config(config)) => Ok(config),
            None => Ok(Bytes::new()),
        };
        (answer.request_id, result)
    }
}

impl Exchange for Statistics {
    type Ask = StatsRequest;
    type Answer = StatsResponse;

    fn read(answer: StatsResponse) -> (String, Result<Bytes, String>) {
        use stats_response::Result as Given;
        let result = match answer.result {
            Some(Given::Error(error)) => Err(error),
            Some(Given::Stats(stats)) => Ok(stats),
            None => Ok(Bytes::new()),
        };
        (answer.request_id, result)
    }
}

impl Exchange for Clusters {
    type Ask = ClustersRequest;
    type Answer = ClustersResponse;

    fn read(answer: ClustersResponse) -> (String, Result<Bytes, String>) {
        use clusters_response::Result as Given;
        let result = match answer.result {
            Some(Given::Error(error)) => Err(error),
            Some(Given::Clusters(clusters)) => Ok(clusters),
            None => Ok(Bytes::new()),
        };
        (answer.request_id, result)
    }
}

type Waiting = BTreeMap<String, oneshot::Sender<Result<Bytes, String>>>;

/// One zone's newest stream of one kind.
struct Stream<X: Exchange> {
    id: u64,
    outbox: Outbox<X::Ask>,
    waiting: Waiting,
}

/// The streams of one kind, by zone.
pub(super) struct Streams<X: Exchange> {
    inner: Arc<Mutex<Inner<X>>>,
}

struct Inner<X: Exchange> {
    last_id: u64,
    zones: BTreeMap<Arc<str>, Stream<X>>,
}

impl<X: Exchange> Clone for Streams<X> {
    fn clone(&self) -> Self {
        Self {
            inner: Arc::clone(&self.inner),
        }
    }
}

impl<X: Exchange> Default for Streams<X> {
    fn default() -> Self {
        Self {
            inner: Arc::new(Mutex::new(Inner {
                last_id: 0,
                zones: BTreeMap::new(),
            })),
        }
    }
}

impl<X: Exchange> Streams<X> {
    fn open(&self, zone: &Arc<str>, outbox: Outbox<X::Ask>) -> u64 {
        let mut inner = self.inner.lock();
        inner.last_id += 1;
        let id = inner.last_id;
        // Whoever waits on an older stream of the zone learns of its end by the dropped sender.
        inner.zones.insert(
            Arc::clone(zone),
            Stream {
                id,
                outbox,
                waiting: Waiting::new(),
            },
        );
        id
    }

    fn close(&self, zone: &str, id: u64) {
        let mut inner = self.inner.lock();
        if inner.zones.get(zone).is_some_and(|stream| stream.id == id) {
            inner.zones.remove(zone);
        }
    }

    /// Hands an answer to who waits for it. One that nobody waits for any more is dropped.
    fn answered(&self, zone: &str, answer: X::Answer) {
        let (id, result) = X::read(answer);
        let waiter = self
            .inner
            .lock()
            .zones
            .get_mut(zone)
            .and_then(|stream| stream.waiting.remove(&id));
        match waiter.map(|waiter| waiter.send(result)) {
            Some(Ok(())) => {}
            _ => debug!(zone, id, "an answer came too late"),
        }
    }

    fn forget(&self, zone: &str, id: &str) {
        if let Some(stream) = self.inner.lock().zones.get_mut(zone) {
            stream.waiting.remove(id);
        }
    }

    async fn ask(
        &self,
        clock: &dyn Clock,
        zone: &str,
        make: impl FnOnce(String) -> X::Ask,
    ) -> Result<Bytes, AdminError> {
        let id = uuid::Uuid::new_v4().to_string();
        let (answered, answer) = oneshot::channel();
        let outbox = {
            let mut inner = self.inner.lock();
            let stream = inner
                .zones
                .get_mut(zone)
                .ok_or_else(|| AdminError::NotConnected(zone.to_owned()))?;
            if stream.waiting.len() >= WAITING_MAX {
                return Err(AdminError::Busy(zone.to_owned()));
            }
            // Registered before it is asked: the answer may be faster than we are.
            stream.waiting.insert(id.clone(), answered);
            stream.outbox.clone()
        };
        let ask = make(id.clone());
        let asked = async {
            if outbox.send(Ok(ask)).await.is_err() {
                return Err(AdminError::NotConnected(zone.to_owned()));
            }
            match answer.await {
                Ok(result) => result.map_err(AdminError::Refused),
                Err(_gone) => Err(AdminError::NotConnected(zone.to_owned())),
            }
        };
        let result = tokio::select! {
            result = asked => result,
            () = clock.sleep_until(Some(clock.now() + ANSWER_TIMEOUT)) => {
                Err(AdminError::Timeout(zone.to_owned()))
            }
        };
        self.forget(zone, &id);
        result
    }
}

/// All admin streams.
#[derive(Default)]
pub(super) struct AdminStreams {
    pub(super) configs: Streams<Configs>,
    pub(super) stats: Streams<Statistics>,
    pub(super) clusters: Streams<Clusters>,
}

impl AdminStreams {
    pub(super) async fn ask(
        &self,
        clock: &dyn Clock,
        zone: &str,
        question: AdminQuestion,
        target: AdminTarget,
    ) -> Result<Bytes, AdminError> {
        let AdminTarget {
            kind: resource_type,
            mesh: resource_mesh,
            name: resource_name,
        } = target;
        let format = |json| match json {
            true => AdminOutputFormat::Json.into(),
            false => AdminOutputFormat::Text.into(),
        };
        match question {
            AdminQuestion::Config {
                endpoints: include_eds,
            } => {
                let make = |request_id| XdsConfigRequest {
                    request_id,
                    resource_type,
                    resource_name,
                    resource_mesh,
                    include_eds,
                };
                self.configs.ask(clock, zone, make).await
            }
            AdminQuestion::Stats { json, used_only } => {
                let make = |request_id| StatsRequest {
                    request_id,
                    resource_type,
                    resource_name,
                    resource_mesh,
                    format: format(json),
                    used_only,
                };
                self.stats.ask(clock, zone, make).await
            }
            AdminQuestion::Clusters { json } => {
                let make = |request_id| ClustersRequest {
                    request_id,
                    resource_type,
                    resource_name,
                    resource_mesh,
                    format: format(json),
                };
                self.clusters.ask(clock, zone, make).await
            }
        }
    }
}

/// Keeps one admin stream until it ends. A question's failure never ends it.
pub(super) async fn run<X: Exchange>(
    shared: Arc<Shared>,
    peer: Peer,
    streams: Streams<X>,
    kind: StreamKind,
    mut incoming: Streaming<X::Answer>,
    outbox: Outbox<X::Ask>,
) {
    let _connection = shared.zones.connect(&peer, kind, &NodeFacts::default());
    let id = streams.open(&peer.zone, outbox.clone());
    let stop = shared.spawner.stop();
    let ended = loop {
        tokio::select! {
            () = stop.cancelled() => break Some(stopping()),
            () = outbox.closed() => break None,
            message = incoming.message() => match message {
                Ok(Some(answer)) => streams.answered(&peer.zone, answer),
                // Never an orderly end: a zone of Kuma would connect again at once, and again.
                Ok(None) => break Some(tonic::Status::unavailable("the stream ended")),
                Err(_gone) => break None,
            },
        }
    };
    streams.close(&peer.zone, id);
    if let Some(status) = ended {
        outbox.send(Err(status)).await.ok();
    }
}
