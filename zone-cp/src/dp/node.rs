//! What a proxy tells about itself in the node of its first message.

use kds_proto::envoy::config::core::v3::Node as WireNode;
use serde_json::{Map, Value};

use crate::proxy::{InvalidNodeId, ProxyId};

/// A proxy's node, read once per stream.
#[derive(Clone, Debug)]
pub struct Node {
    /// Mesh and name.
    pub id: ProxyId,
    /// The metadata as JSON, as the DataplaneInsight shows it.
    pub metadata: Map<String, Value>,
}

/// Why a stream's first message cannot be taken.
#[derive(Debug, thiserror::Error)]
pub enum NodeProblem {
    /// The first message has no node.
    #[error("the first message of the stream has no `node`")]
    Missing,
    /// The id is malformed.
    #[error(transparent)]
    Id(#[from] InvalidNodeId),
    /// Some other sort of proxy.
    #[error("proxy type `{0}` is not served; a zone proxy is a Dataplane with `networking.listeners`")]
    ProxyType(String),
}

impl Node {
    /// Reads the node of a first message.
    ///
    /// # Errors
    /// It is missing, its id is not `<mesh>.<name>`, or it is of a proxy type that does not exist any more.
    pub fn parse(node: Option<&WireNode>) -> Result<Self, NodeProblem> {
        let node = node.ok_or(NodeProblem::Missing)?;
        let id = ProxyId::from_node_id(&node.id)?;
        let metadata = match &node.metadata {
            Some(metadata) => match serde_json::to_value(metadata) {
                Ok(Value::Object(members)) => members,
                _ => Map::new(),
            },
            None => Map::new(),
        };
        match metadata.get("dataplane.proxyType").and_then(Value::as_str) {
            None | Some("" | "dataplane") => Ok(Self { id, metadata }),
            Some(other) => Err(NodeProblem::ProxyType(other.to_owned())),
        }
    }

    /// The Dataplane given to the proxy, as text, where it brings one.
    #[must_use]
    pub fn dataplane(&self) -> Option<&str> {
        self.text("dataplane.resource").filter(|text| !text.is_empty())
    }

    /// A text member of the metadata.
    #[must_use]
    pub fn text(&self, key: &str) -> Option<&str> {
        self.metadata.get(key).and_then(Value::as_str)
    }

    /// Whether the proxy announced a feature.
    #[must_use]
    pub fn has_feature(&self, feature: &str) -> bool {
        self.metadata
            .get("features")
            .and_then(Value::as_array)
            .is_some_and(|features| features.iter().any(|f| f.as_str() == Some(feature)))
    }
}
