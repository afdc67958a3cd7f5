//! What a caller's metadata say about it.

use std::net::SocketAddr;
use std::sync::Arc;

use kds_proto::envoy::config::core::v3::Node;
use serde_json::Value;
use tonic::metadata::MetadataMap;
use zonal_federation::Features;

use super::members::Speaker;

/// The zone at the other end of a stream.
#[derive(Clone, Debug)]
pub(super) struct Peer {
    pub(super) zone: Arc<str>,
    /// The zone hashes the names of what it sends.
    pub(super) hashes_names: bool,
    /// The zone runs our software.
    pub(super) ours: bool,
    /// Names the connection, so that its streams can be put together; only our zones say it.
    pub(super) session: Option<String>,
    pub(super) token_given: bool,
    /// Which of the zone's control planes it is.
    pub(super) speaker: Speaker,
}

/// Names a connection's streams.
const SESSION: &str = "zonal-session";
const FEATURES: &str = "features";
/// The life of the zone's store, and the replica; only our zones say them.
const STORE: &str = "zonal-store";
const INSTANCE: &str = "zonal-instance";

impl Peer {
    pub(super) fn new(zone: Arc<str>, metadata: &MetadataMap, address: Option<SocketAddr>) -> Self {
        // One entry per feature; a proxy in between may have folded them into one.
        let features: Vec<&str> = metadata
            .get_all(FEATURES)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(str::trim)
            .collect();
        let text = |name| metadata.get(name).and_then(|value| value.to_str().ok());
        let session = text(SESSION);
        Self {
            zone,
            hashes_names: features.contains(&"hash-suffix"),
            ours: Features::parse(features.iter().copied()).ours,
            session: session.map(str::to_owned),
            token_given: metadata.contains_key("authorization"),
            speaker: Speaker {
                store: text(STORE).map(Into::into),
                instance: text(INSTANCE).map(Into::into),
                address,
            },
        }
    }
}

/// What the first message of a stream says about its sender.
#[derive(Clone, Debug, Default)]
pub(super) struct NodeFacts {
    pub(super) features: Features,
    pub(super) instance_id: String,
    /// The sender's configuration as JSON text.
    pub(super) config: String,
    /// The `kumaCp` object of its version.
    pub(super) version: Value,
}

impl NodeFacts {
    /// Reads a node. A message without one is no reason to fail: it says nothing.
    pub(super) fn of(node: Option<&Node>) -> Self {
        let metadata = node
            .and_then(|node| node.metadata.as_ref())
            .and_then(|metadata| serde_json::to_value(metadata).ok())
            .unwrap_or_default();
        let text = |name: &str| {
            metadata
                .get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
        };
        let features = metadata.get("features").and_then(Value::as_array);
        let features = features.into_iter().flatten().filter_map(Value::as_str);
        Self {
            features: Features::parse(features),
            instance_id: text("control-plane-id").to_owned(),
            config: text("config").to_owned(),
            version: metadata
                .pointer("/version/kumaCp")
                .cloned()
                .unwrap_or_default(),
        }
    }
}
