//! One connection with global and its streams.

use std::sync::Arc;

use kds_proto::envoy::config::core::v3::Node;
use kds_proto::kuma::mesh::v1alpha1::global_kds_service_client::GlobalKdsServiceClient;
use kds_proto::kuma::mesh::v1alpha1::kds_sync_service_client::KdsSyncServiceClient;
use kds_proto::zonal::federation::v1::federation_client::FederationClient;
use tonic::codec::CompressionEncoding;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::transport::Channel;
use tonic::{Code, Request, Status};
use zonal_federation::Features;
use zonal_kds::Subscriber;

use super::dial::dial;
use super::exchange::Receipts;
use super::{Shared, admin, down, exchange, health, up};

/// A message of global may be this large when it is unpacked; Kuma limits the packed form only.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// Why a connection ended.
#[derive(Debug, thiserror::Error)]
pub enum ConnectionError {
    /// It never came about.
    #[error("cannot connect: {0}")]
    Dial(String),
    /// Global ended a stream.
    #[error("{stream} ended: {} ({:?})", .status.message(), .status.code())]
    Stream {
        /// Which one.
        stream: &'static str,
        /// What global said.
        status: Box<Status>,
    },
    /// Global ended a stream in order, which it never should: the sync would be dead and look alive.
    #[error("{0} ended without a reason")]
    Ended(&'static str),
    /// Global sent what is no message.
    #[error("{stream}: {problem}")]
    Invalid {
        /// Which stream.
        stream: &'static str,
        /// What is wrong.
        problem: String,
    },
    /// Global does not answer any more.
    #[error("{stream}: no answer for {kind} within 10 s")]
    Stalled {
        /// Which stream.
        stream: &'static str,
        /// For which kind.
        kind: String,
    },
    /// The zone's own store cannot write.
    #[error("the zone's store: {0}")]
    Store(#[from] zonal_store::StoreError),
    /// The zone's own store is shut.
    #[error("the zone's store is closed")]
    Closed,
    /// Nothing that can be sent as a header.
    #[error("{0} cannot be sent: it is not printable text")]
    Header(&'static str),
}

impl ConnectionError {
    /// What global said when it did not let the zone in; `None` for what may pass by itself.
    pub(super) fn refusal(&self) -> Option<&str> {
        match self {
            Self::Stream { status, .. } => match status.code() {
                Code::FailedPrecondition | Code::Unauthenticated | Code::PermissionDenied => {
                    Some(status.message())
                }
                _ => None,
            },
            _ => None,
        }
    }

    pub(super) fn stream(stream: &'static str) -> impl Fn(Status) -> Self {
        move |status| Self::Stream {
            stream,
            status: Box::new(status),
        }
    }
}

/// One connection with global.
pub(super) struct Connection {
    shared: Arc<Shared>,
    earlier: Option<Subscriber>,
    /// What the downward stream has brought so far; a later connection resumes from it.
    subscriber: Option<Subscriber>,
}

impl Connection {
    pub(super) fn new(shared: Arc<Shared>, earlier: Option<Subscriber>) -> Self {
        Self {
            shared,
            earlier,
            subscriber: None,
        }
    }

    pub(super) fn into_subscriber(self) -> Option<Subscriber> {
        self.subscriber.or(self.earlier)
    }

    /// Connects and syncs until something ends that must not end.
    pub(super) async fn run(&mut self, receipts: &mut Receipts) -> ConnectionError {
        let link = match self.link().await {
            Ok(link) => link,
            Err(error) => return error,
        };
        let shared = &*self.shared;
        let snapshot = shared.store.snapshot();
        let from = zonal_kds::From::Global;
        let subscriber = Subscriber::resuming(from, &snapshot, self.earlier.as_ref());
        let ours = receipts.welcomed();
        let subscriber = if ours {
            subscriber.giving_sums()
        } else {
            subscriber
        };
        let subscriber = self.subscriber.insert(subscriber);
        // The streams of one connection live and die together, but for the admin ones: a question that fails is no
        // reason to stop syncing.
        tokio::select! {
            ended = Box::pin(down::run(shared, &link, subscriber, ours)) => failed(ended),
            ended = Box::pin(up::run(shared, &link)) => failed(ended),
            ended = health::run(shared, &link) => failed(ended),
            ended = Box::pin(exchange::run(shared, &link, receipts)) => failed(ended),
            never = Box::pin(admin::run(shared, &link)) => match never {},
        }
    }

    async fn link(&self) -> Result<Link, ConnectionError> {
        let settings = &self.shared.settings;
        let shown = settings
            .certificate
            .as_ref()
            .and_then(|certificate| certificate());
        let channel = dial(
            &settings.global,
            &settings.trust,
            shown.as_ref(),
            &settings.software_version,
        )
        .await
        .map_err(ConnectionError::Dial)?;
        let text = |text: &str, what| {
            text.parse::<MetadataValue<Ascii>>()
                .map_err(|_cause| ConnectionError::Header(what))
        };
        let token = settings.token.as_ref().and_then(|token| token());
        let authorization = token
            .map(|token| text(&format!("Bearer {}", token.trim()), "the zone token"))
            .transpose()?
            .map(|mut value| {
                value.set_sensitive(true);
                value
            });
        Ok(Link {
            channel,
            zone: text(&settings.zone, "the zone's name")?,
            version: text(&settings.software_version, "the version")?,
            store: text(
                self.shared.store.snapshot().epoch().as_str(),
                "the store's epoch",
            )?,
            instance: text(&settings.instance_id, "the instance's name")?,
            session: text(&uuid::Uuid::new_v4().to_string(), "the session")?,
            authorization,
        })
    }
}

fn failed(ended: Result<std::convert::Infallible, ConnectionError>) -> ConnectionError {
    match ended {
        Err(error) => error,
        Ok(never) => match never {},
    }
}

/// The open connection and what every call on it carries.
pub(super) struct Link {
    channel: Channel,
    zone: MetadataValue<Ascii>,
    version: MetadataValue<Ascii>,
    store: MetadataValue<Ascii>,
    instance: MetadataValue<Ascii>,
    session: MetadataValue<Ascii>,
    authorization: Option<MetadataValue<Ascii>>,
}

impl Link {
    pub(super) fn sync(&self) -> KdsSyncServiceClient<Channel> {
        KdsSyncServiceClient::new(self.channel.clone())
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
    }

    pub(super) fn global(&self) -> GlobalKdsServiceClient<Channel> {
        GlobalKdsServiceClient::new(self.channel.clone())
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    pub(super) fn federation(&self) -> FederationClient<Channel> {
        FederationClient::new(self.channel.clone())
            .send_compressed(CompressionEncoding::Gzip)
            .accept_compressed(CompressionEncoding::Gzip)
    }

    /// A call with the metadata that global knows the zone by.
    pub(super) fn request<T>(&self, message: T) -> Request<T> {
        let mut request = Request::new(message);
        let metadata = request.metadata_mut();
        metadata.insert("client-id", self.zone.clone());
        metadata.insert("version", self.version.clone());
        metadata.insert("kds-version", MetadataValue::from_static("v3"));
        metadata.insert("zone-version", MetadataValue::from_static("v3"));
        // One entry each: global compares whole values.
        for feature in ["zone-ping-health", "hash-suffix", "zonal-v1"] {
            metadata.append("features", MetadataValue::from_static(feature));
        }
        metadata.insert("zonal-session", self.session.clone());
        metadata.insert("zonal-store", self.store.clone());
        metadata.insert("zonal-instance", self.instance.clone());
        if let Some(authorization) = &self.authorization {
            metadata.insert("authorization", authorization.clone());
        }
        request
    }
}

/// How the zone names itself: whole in the first message of a kind, by its id alone afterwards.
pub(super) fn node(shared: &Shared, whole: bool) -> Node {
    let settings = &shared.settings;
    let metadata = whole.then(|| {
        let version = &settings.software_version;
        serde_json::json!({
            "version": {"kumaCp": {
                "version": version, "gitTag": version, "gitCommit": "", "buildDate": "",
            }},
            "config": settings.config,
            "control-plane-id": settings.instance_id,
            "features": Features::ANNOUNCED,
        })
    });
    Node {
        id: settings.zone.to_string(),
        metadata: metadata.and_then(|metadata| serde_json::from_value(metadata).ok()),
        ..Node::default()
    }
}
