//! The stream from the zone control plane: a shell around [`Feed`] and the protocol's sink.
//!
//! Losing the stream changes nothing for callers: the last routes stay, and the next stream begins
//! with what is held, so that only differences come.

use std::collections::BTreeSet;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use http::Uri;
use kds_proto::envoy::config::core::v3::Node;
use kds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use kds_proto::envoy::service::discovery::v3::DeltaDiscoveryResponse;
use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::metadata::MetadataValue;
use tonic::transport::{Channel, Endpoint};
use tonic::{Code, Request, Streaming};
use tracing::{debug, info, warn};
use zonal_delta::{Sink, TypeUrl, Wanted, wire as delta_wire};
use zonal_process::net::Dialer;
use zonal_process::ready::Guard;
use zonal_process::tls::Trust;
use zonal_process::{Backoff, BackoffPolicy, CancellationToken};

use crate::feed::Feed;
use crate::routes::{Ledger, Routes};
use crate::state::Snapshot;
use crate::status::Status;
use crate::times::Times;
use crate::wire::Type;

/// Messages written and not yet taken by the connection. More would only age there.
const REQUESTS_MAX: usize = 4;
/// A response with everything of one type has to fit.
const MESSAGE_BYTES_MAX: usize = 64 << 20;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// Where the control plane is and how we know each other.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    /// `https://host:port`, or `http://…` without TLS.
    pub address: Uri,
    pub trust: Trust,
    /// Read again for every connect, so that a token can be renewed in place.
    pub token_file: Option<PathBuf>,
}

/// Keeps the routes current for as long as the process runs.
#[derive(Debug)]
pub struct Subscriber {
    pub control_plane: ControlPlane,
    pub node: Node,
    pub feed: Feed,
    pub routes: Arc<Routes>,
    pub ledger: Arc<Ledger>,
    pub status: Status,
    pub newest: watch::Sender<Snapshot>,
    pub times: Times,
    /// Held until there are routes to serve, from wherever.
    pub not_ready: Option<Guard>,
    pub seed: u64,
}

/// Why a stream ended or did not begin.
#[derive(Debug, thiserror::Error)]
pub enum Lost {
    #[error("cannot read the token file `{}`: {cause}", .path.display())]
    Token {
        path: PathBuf,
        cause: std::io::Error,
    },
    #[error("the token file `{}` holds no token", .path.display())]
    NoToken { path: PathBuf },
    #[error(transparent)]
    Trust(#[from] zonal_process::tls::TrustError),
    #[error("cannot reach `{address}`: {reason}")]
    Connect { address: Uri, reason: String },
    #[error("the control plane answered {code:?}: {message}")]
    Refused { code: Code, message: String },
    #[error("the stream broke: {message}")]
    Broken { message: String },
    #[error("the control plane ended the stream")]
    Ended,
    #[error("the control plane sent what is no part of the protocol: {0}")]
    Protocol(String),
}

impl Subscriber {
    /// Connects, keeps the routes current, and connects again, until `stop`.
    pub async fn run(mut self, stop: CancellationToken) {
        let policy = BackoffPolicy::default();
        let mut backoff = Backoff::seeded(policy, self.seed);
        while !stop.is_cancelled() {
            let started = self.times.now();
            let lost = tokio::select! {
                // Dropping a stream half-way loses nothing: what was applied is published already.
                () = stop.cancelled() => break,
                lost = self.session() => lost,
            };
            let delay = backoff.next_delay(self.times.now().saturating_sub(started));
            let was_live = self.status.page().control_plane == "live";
            if self.status.away(&lost.to_string()) {
                warn!(reason = %lost, hint = lost.hint(), "the control plane is away; the last routes stay");
            } else {
                debug!(reason = %lost, ?delay, "the control plane is still away");
            }
            if was_live {
                self.publish();
            }
            tokio::select! {
                () = stop.cancelled() => break,
                () = tokio::time::sleep(delay) => {}
            }
        }
        // The file learns until when its routes were current.
        self.publish();
    }

    /// One stream from its begin to its end.
    async fn session(&mut self) -> Lost {
        let interests = self.feed.interests();
        let mut unheard: BTreeSet<TypeUrl> = interests
            .iter()
            .filter(|interest| interest.wanted == Wanted::All)
            .map(|interest| interest.type_url.clone())
            .collect();
        let _names = self.feed.changed_names();
        let mut sink = Sink::new(interests);
        let (requests, written) = mpsc::channel(REQUESTS_MAX);
        let mut node = Some(self.node.clone());
        // The first request travels with the opening of the stream: some peers answer only then.
        if let Some(first) = sink.poll_request() {
            let first = self.request(first, &mut node);
            if requests.try_send(first).is_err() {
                return Lost::Ended;
            }
        }
        let mut responses = match self.open(ReceiverStream::new(written)).await {
            Ok(responses) => responses,
            Err(lost) => return lost,
        };
        self.status.connected();
        let mut waiting = None;
        loop {
            waiting = waiting.or_else(|| sink.poll_request());
            let message = tokio::select! {
                place = requests.reserve(), if waiting.is_some() => {
                    let (Ok(place), Some(request)) = (place, waiting.take()) else {
                        return Lost::Ended;
                    };
                    place.send(self.request(request, &mut node));
                    continue;
                }
                message = responses.message() => message,
            };
            let message = match message {
                Ok(Some(message)) => message,
                Ok(None) => return Lost::Ended,
                Err(status) => return Lost::of_stream(&status),
            };
            if let Err(lost) = self.handle(message, &mut sink, &mut unheard) {
                return lost;
            }
        }
    }

    fn request(
        &self,
        request: zonal_delta::Request,
        node: &mut Option<Node>,
    ) -> DeltaDiscoveryRequest {
        // Who we are is said once; afterwards the id is enough.
        let known = || Node {
            id: self.node.id.clone(),
            ..Node::default()
        };
        delta_wire::request(request, node.take().unwrap_or_else(known))
    }

    fn handle(
        &mut self,
        message: DeltaDiscoveryResponse,
        sink: &mut Sink,
        unheard: &mut BTreeSet<TypeUrl>,
    ) -> Result<(), Lost> {
        let protocol = |error: &dyn std::fmt::Display| Lost::Protocol(error.to_string());
        let response = delta_wire::parse_response(message).map_err(|error| protocol(&error))?;
        let more = response.more;
        let batch = sink
            .handle_response(response)
            .map_err(|error| protocol(&error))?;
        let refused = self.feed.apply(&batch);
        for refusal in &refused {
            warn!(
                kind = %batch.type_url, name = %refusal.name, reason = refusal.reason,
                "a resource of the control plane is refused; the others are used",
            );
            self.status
                .refused(1, &format!("{}: {}", refusal.name, refusal.reason));
        }
        debug!(
            kind = %batch.type_url, nonce = %batch.nonce,
            upserts = batch.upserts.len(), removals = batch.removals.len(), refused = refused.len(),
            "a response is applied",
        );
        let removed = !batch.removals.is_empty() || batch.complete.is_some();
        // Answered after it is in use: an ACK means that new callers follow it.
        self.routes.publish(self.feed.table().clone());
        sink.applied(&batch.type_url, &batch.nonce, refused);
        if let Some(names) = self.feed.changed_names() {
            sink.set_names(&TypeUrl::from(Type::Endpoints.url()), names);
        }
        if !more {
            unheard.remove(&batch.type_url);
        }
        if unheard.is_empty() && (self.not_ready.is_none() || self.feed.is_settled()) {
            drop(self.not_ready.take());
            if self.status.live() {
                let (routes, clusters) = (
                    self.feed.table().routes.len(),
                    self.feed.table().clusters.len(),
                );
                info!(routes, clusters, "the routes are current");
            }
        }
        self.publish();
        if removed {
            self.ledger.forget_unrouted(self.feed.table());
        }
        Ok(())
    }

    /// Lets the state file know.
    fn publish(&self) {
        let current_at = self.status.current_at();
        self.newest.send_replace(Snapshot {
            saved: self.feed.saved(),
            current_at,
        });
    }

    async fn open(
        &self,
        requests: ReceiverStream<DeltaDiscoveryRequest>,
    ) -> Result<Streaming<DeltaDiscoveryResponse>, Lost> {
        let token = self.control_plane.token().await?;
        let channel = self.control_plane.connect().await?;
        let mut client = AggregatedDiscoveryServiceClient::new(channel)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .max_encoding_message_size(MESSAGE_BYTES_MAX);
        let mut request = Request::new(requests);
        if let Some(token) = token {
            request.metadata_mut().insert("authorization", token);
        }
        let opened = client.delta_aggregated_resources(request).await;
        opened
            .map(tonic::Response::into_inner)
            .map_err(|status| Lost::of_stream(&status))
    }
}

impl ControlPlane {
    async fn token(&self) -> Result<Option<MetadataValue<tonic::metadata::Ascii>>, Lost> {
        let Some(path) = self.token_file.clone() else {
            return Ok(None);
        };
        let text = match tokio::fs::read_to_string(&path).await {
            Ok(text) => text,
            Err(cause) => return Err(Lost::Token { path, cause }),
        };
        match MetadataValue::try_from(text.trim()) {
            Ok(mut token) if !token.is_empty() => {
                token.set_sensitive(true);
                Ok(Some(token))
            }
            _ => Err(Lost::NoToken { path }),
        }
    }

    async fn connect(&self) -> Result<Channel, Lost> {
        let lost = |reason: String| Lost::Connect {
            address: self.address.clone(),
            reason,
        };
        let scheme = if self.address.scheme_str() == Some("http") {
            "grpc"
        } else {
            "grpcs"
        };
        let authority = self
            .address
            .authority()
            .map_or("", |authority| authority.as_str());
        // The transport would want to do TLS itself for `https`; the dialer does it for `grpcs`.
        let endpoint = Endpoint::from_shared(format!("{scheme}://{authority}"))
            .map_err(|error| lost(error.to_string()))?
            .origin(self.address.clone())
            .http2_keep_alive_interval(KEEP_ALIVE)
            .keep_alive_timeout(KEEP_ALIVE)
            .keep_alive_while_idle(true);
        let connecting = endpoint.connect_with_connector(Dialer::new(&self.trust)?);
        match tokio::time::timeout(CONNECT_TIMEOUT, connecting).await {
            Ok(Ok(channel)) => Ok(channel),
            Ok(Err(error)) => Err(lost(innermost(&error))),
            Err(_elapsed) => Err(lost(format!(
                "no answer in {} s",
                CONNECT_TIMEOUT.as_secs()
            ))),
        }
    }
}

/// The last cause of an error, which is the one that says something.
fn innermost(error: &(dyn std::error::Error + 'static)) -> String {
    let mut last = error;
    while let Some(source) = last.source() {
        last = source;
    }
    match last.downcast_ref::<std::io::Error>() {
        Some(error) if error.kind() == std::io::ErrorKind::UnexpectedEof => {
            "the connection was closed".to_owned()
        }
        _ => last.to_string(),
    }
}

impl Lost {
    fn of_stream(status: &tonic::Status) -> Self {
        match status.code() {
            Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Internal => {
                let cause = std::error::Error::source(status).map(innermost);
                Self::Broken {
                    message: cause.unwrap_or_else(|| status.message().to_owned()),
                }
            }
            code => Self::Refused {
                code,
                message: status.message().to_owned(),
            },
        }
    }

    fn hint(&self) -> &'static str {
        match self {
            Self::Token { .. } | Self::NoToken { .. } => "write one with `zonal token dataplane`",
            Self::Refused {
                code: Code::Unauthenticated | Code::PermissionDenied,
                ..
            } => "the token has to be a dataplane token for this name and mesh",
            Self::Refused {
                code: Code::Unimplemented,
                ..
            } => "is this address a zone control plane?",
            Self::Trust(_) => "check `--ca-cert-file`",
            _ => "it is tried again by itself",
        }
    }
}
