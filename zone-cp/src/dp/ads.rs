//! One incremental ADS stream: authenticate, register, then offer the newest configuration until the stream ends.

use std::sync::Arc;
use std::time::Duration;

use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryService;
use kds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{debug, info, warn};
use zonal_delta::{Event, Mark, Settings, Source, TypeUrl, wire};
use zonal_process::{Clock, Spawner};
use zonal_store::Revision;
use zonal_xds::Node;

use crate::lifecycle::Lifecycle;
use crate::metrics::ZoneMetrics;
use crate::proxy::ProxyId;
use crate::views::{Answered, EngineHandle, ProxyConfig, Session};

/// How long a peer may take for its first message.
const FIRST_MESSAGE_TIMEOUT: Duration = Duration::from_secs(10);
/// Responses waiting for the transport. The source keeps one per type in flight, so more would not be used.
const OUTGOING_MAX: usize = 16;

/// What an ADS server is told at the start.
#[derive(Clone, Debug)]
pub struct AdsSettings {
    /// Names this instance in `control_plane.identifier`.
    pub instance: Arc<str>,
    /// Counts responses and answers.
    pub metrics: ZoneMetrics,
}

/// `envoy.service.discovery.v3.AggregatedDiscoveryService`, incremental variant only.
#[derive(Clone, Debug)]
pub struct Ads {
    engine: EngineHandle,
    lifecycle: Arc<Lifecycle>,
    spawner: Spawner,
    clock: Arc<dyn Clock>,
    settings: AdsSettings,
}

type Outgoing = mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>;

impl Ads {
    /// Puts the service together.
    #[must_use]
    pub fn new(
        engine: EngineHandle,
        lifecycle: Arc<Lifecycle>,
        spawner: Spawner,
        clock: Arc<dyn Clock>,
        settings: AdsSettings,
    ) -> Self {
        Self {
            engine,
            lifecycle,
            spawner,
            clock,
            settings,
        }
    }

    async fn run(
        self,
        credential: Option<String>,
        mut incoming: Streaming<DeltaDiscoveryRequest>,
        outgoing: Outgoing,
    ) {
        let outcome = self.stream(credential, &mut incoming, &outgoing).await;
        if let Err(status) = outcome {
            // The peer may be gone already; then there is nobody to tell.
            let _gone = outgoing.try_send(Err(status));
        }
    }

    async fn stream(
        &self,
        credential: Option<String>,
        incoming: &mut Streaming<DeltaDiscoveryRequest>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let first = tokio::time::timeout(FIRST_MESSAGE_TIMEOUT, incoming.message())
            .await
            .map_err(|_elapsed| Status::deadline_exceeded("no first message within 10 s"))??;
        let Some(first) = first else { return Ok(()) };
        let Some(node) = &first.node else {
            return Err(Status::invalid_argument(
                "the first message of the stream has no `node`",
            ));
        };
        let node =
            Node::parse(node).map_err(|problem| Status::invalid_argument(problem.to_string()))?;
        if !matches!(node.proxy_type.as_str(), "" | "dataplane") {
            return Err(Status::invalid_argument(format!(
                "proxy type `{}` is not served; a zone proxy is a Dataplane with `networking.listeners`",
                node.proxy_type
            )));
        }
        let id = ProxyId::new(&node.mesh, &node.name);
        self.lifecycle
            .admit(&node, credential.as_deref())
            .await
            .map_err(|refusal| {
                warn!(proxy = %id, reason = %refusal, "proxy refused");
                refusal.to_status()
            })?;
        let session = self
            .engine
            .connect(node)
            .await
            .map_err(|_closed| stopping())?;
        self.lifecycle.joined(&id, session.number);
        info!(proxy = %id, "proxy connected");
        let outcome = self.serve(&session, first, incoming, outgoing).await;
        self.engine.disconnect(&session).await;
        self.lifecycle.left(&id, session.number);
        info!(proxy = %id, "proxy disconnected");
        outcome
    }

    async fn serve(
        &self,
        session: &Session,
        first: DeltaDiscoveryRequest,
        incoming: &mut Streaming<DeltaDiscoveryRequest>,
        outgoing: &Outgoing,
    ) -> Result<(), Status> {
        let mut source = Source::new(Settings::proxy(), ProxyConfig::types());
        let mut config = session.config.clone();
        let mut sent = Sent::default();
        let mut acked = None;
        let stop = self.spawner.stop();
        self.take(session, &mut source, &mut sent, first).await?;
        loop {
            let newest = config.borrow_and_update().clone();
            if let Some(newest) = newest {
                newest.offer_to(&mut source);
            }
            while let Some(response) = source.poll_response(self.clock.now()) {
                sent.responded(&response.type_url);
                self.settings.metrics.responded(response.type_url.as_str());
                let body_type = response.type_url.to_string();
                debug!(
                    proxy = %session.id,
                    type_url = %body_type,
                    nonce = %response.nonce,
                    upserts = ?response.upserts.iter().map(|upsert| &upsert.name).collect::<Vec<_>>(),
                    removals = ?response.removals,
                    "response"
                );
                let message = wire::response(response, &body_type, &self.settings.instance);
                // A peer that does not read fills its window; the keep-alive ends such a connection.
                outgoing
                    .send(Ok(message))
                    .await
                    .map_err(|_gone| Status::cancelled("gone"))?;
            }
            let answered = (source.reached(), source.is_refused());
            if acked != Some(answered) {
                acked = Some(answered);
                let (reached, still_refuses) = answered;
                self.engine
                    .acked(session, Revision(reached.0), still_refuses, &sent)
                    .await;
            }
            // Each branch takes one whole item or nothing.
            tokio::select! {
                () = stop.cancelled() => return Err(stopping()),
                () = session.superseded.cancelled() => return Err(superseded()),
                changed = config.changed() => if changed.is_err() {
                    // The engine lets go of a superseded stream in the same moment.
                    let is_superseded = session.superseded.is_cancelled();
                    return Err(if is_superseded { superseded() } else { stopping() });
                },
                message = incoming.message() => match message? {
                    Some(message) => self.take(session, &mut source, &mut sent, message).await?,
                    None => return Ok(()),
                },
                () = self.clock.sleep_until(source.next_timeout()) => {
                    for event in source.handle_timeout(self.clock.now()) {
                        warn!(proxy = %session.id, ?event, "proxy does not answer");
                    }
                }
            }
        }
    }

    async fn take(
        &self,
        session: &Session,
        source: &mut Source,
        sent: &mut Sent,
        message: DeltaDiscoveryRequest,
    ) -> Result<(), Status> {
        if let Some(node) = &message.node
            && !node.id.is_empty()
            && node.id != session.id.to_string()
        {
            return Err(Status::invalid_argument(format!(
                "stream was authenticated for ID {}. Received request is for node with ID {}",
                session.id, node.id
            )));
        }
        let request = wire::parse_request(message)
            .map_err(|problem| Status::invalid_argument(problem.to_string()))?;
        debug!(
            proxy = %session.id,
            type_url = %request.type_url,
            answers = ?request.answer.as_ref().map(|answer| &answer.nonce),
            subscribe = ?request.subscribe,
            unsubscribe = ?request.unsubscribe,
            "request"
        );
        for event in source.handle_request(self.clock.now(), request) {
            match event {
                Event::Acked { type_url, .. } => {
                    sent.acknowledged(&type_url);
                    self.settings.metrics.acked(type_url.as_str());
                }
                Event::Nacked {
                    type_url,
                    names,
                    mark,
                    message,
                    ..
                } => {
                    warn!(proxy = %session.id, %type_url, ?names, message, "proxy refused configuration");
                    sent.rejected(&type_url);
                    self.settings.metrics.nacked(type_url.as_str());
                    self.engine
                        .nacked(session, Revision(mark.0), &type_url, &message)
                        .await;
                }
                Event::Requested { .. } | Event::Resubscribed { .. } | Event::Stalled { .. } => {}
            }
        }
        Ok(())
    }
}

fn superseded() -> Status {
    Status::aborted("a newer stream of the same proxy has taken over")
}

fn stopping() -> Status {
    Status::unavailable("the control plane is shutting down")
}

#[tonic::async_trait]
impl AggregatedDiscoveryService for Ads {
    type StreamAggregatedResourcesStream = ReceiverStream<Result<DiscoveryResponse, Status>>;
    type DeltaAggregatedResourcesStream = ReceiverStream<Result<DeltaDiscoveryResponse, Status>>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented(
            "only the incremental variant, DeltaAggregatedResources, is served",
        ))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let credential = super::credential(request.metadata())?;
        let (outgoing, responses) = mpsc::channel(OUTGOING_MAX);
        self.spawner.spawn(
            "ads stream",
            self.clone().run(credential, request.into_inner(), outgoing),
        );
        Ok(Response::new(ReceiverStream::new(responses)))
    }
}

/// Counts of one stream, for the proxy's insight.
#[derive(Clone, Debug, Default)]
pub struct Sent(pub std::collections::BTreeMap<TypeUrl, Answered>);

impl Sent {
    fn of(&mut self, type_url: &TypeUrl) -> &mut Answered {
        self.0.entry(type_url.clone()).or_default()
    }

    fn responded(&mut self, type_url: &TypeUrl) {
        self.of(type_url).sent += 1;
    }

    fn acknowledged(&mut self, type_url: &TypeUrl) {
        self.of(type_url).acknowledged += 1;
    }

    fn rejected(&mut self, type_url: &TypeUrl) {
        self.of(type_url).rejected += 1;
    }
}

impl ProxyConfig {
    /// Hands everything to a stream's source; what it has already costs nothing.
    fn offer_to(&self, source: &mut Source) {
        for (type_url, offered) in &self.types {
            source.set_offered(type_url, offered.clone());
        }
        source.set_mark(Mark(self.reflects.0));
    }
}
