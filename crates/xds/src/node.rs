//! What a proxy says about itself: the node of its stream.

use std::collections::BTreeSet;

use kds_proto::envoy::config::core::v3::Node as NodeMessage;
use kds_proto::google::protobuf::{Struct, Value, value::Kind};

/// Keys of the node's metadata.
pub(crate) mod key {
    pub(crate) const RESOURCE: &str = "dataplane.resource";
    pub(crate) const PROXY_TYPE: &str = "dataplane.proxyType";
    pub(crate) const ADMIN_PORT: &str = "dataplane.admin.port";
    pub(crate) const ADMIN_ADDRESS: &str = "dataplane.admin.address";
    pub(crate) const ADMIN_SOCKET_PATH: &str = "dataplane.admin.socketPath";
    pub(crate) const DNS_PORT: &str = "dataplane.dns.port";
    pub(crate) const READINESS_PORT: &str = "dataplane.readinessReporter.port";
    pub(crate) const PROBE_PROXY: &str = "dataplane.appProbeProxy.enabled";
    pub(crate) const DYNAMIC_METADATA: &str = "dynamicMetadata";
    pub(crate) const TRANSPARENT_PROXY: &str = "transparentProxy";
    pub(crate) const OTEL_ENV: &str = "otelEnvInventory";
    pub(crate) const VERSION: &str = "version";
    pub(crate) const FEATURES: &str = "features";
    pub(crate) const WORK_DIR: &str = "workdir";
    pub(crate) const METRICS_CERT: &str = "metricsCertPath";
    pub(crate) const METRICS_KEY: &str = "metricsKeyPath";
    pub(crate) const SYSTEM_CA: &str = "systemCaPath";
    pub(crate) const SPIRE_SOCKET: &str = "spireAgent.socketPath";
    pub(crate) const IPV6: &str = "ipv6Enabled";
}

/// Features that a proxy's process announces.
pub mod feature {
    /// Transparent proxying is described in the metadata and not in the Dataplane.
    pub const TRANSPARENT_PROXY_IN_METADATA: &str =
        "feature-transparent-proxy-in-dataplane-metadata";
    /// Outbound listeners bind real ports on the services' virtual addresses.
    pub const BIND_OUTBOUNDS: &str = "feature-bind-outbounds";
    /// Inbound passthrough is limited to declared ports.
    pub const STRICT_INBOUND_PORTS: &str = "feature-strict-inbound-ports";
    /// Inbound listeners share their port between workers.
    pub const REUSE_PORT: &str = "feature-reuse-port";
}

/// Which traffic is redirected to a transparent proxy, and where it arrives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Redirect {
    /// The port on which redirected inbound connections arrive.
    pub inbound_port: u16,
    /// The port on which redirected outbound connections arrive.
    pub outbound_port: u16,
    /// Whether IPv6 is redirected as well.
    pub ipv6: bool,
}

/// A proxy as its node describes it.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Node {
    /// The mesh.
    pub mesh: String,
    /// The Dataplane's name.
    pub name: String,
    /// `dataplane`, or empty which means the same.
    pub proxy_type: String,
    /// The Dataplane as the process was given it, YAML or JSON.
    pub dataplane_resource: Option<String>,
    /// The port of Envoy's admin interface; `None` where it has none.
    pub admin_port: Option<u16>,
    /// The address of Envoy's admin interface.
    pub admin_address: String,
    /// The Unix socket of Envoy's admin interface, where it uses one.
    pub admin_socket_path: Option<String>,
    /// The port that answers `/ready`.
    pub readiness_port: Option<u16>,
    /// The port of the DNS proxy.
    pub dns_port: Option<u16>,
    /// Folder of the process's sockets.
    pub work_dir: String,
    /// The operating system's bundle of authorities.
    pub system_ca_path: String,
    /// Whether the host can use IPv6.
    pub ipv6_enabled: bool,
    /// What the process announced.
    pub features: BTreeSet<String>,
    /// Transparent proxying as the process describes it.
    pub redirect: Option<Redirect>,
    /// The whole metadata, for the insight.
    pub metadata: Struct,
}

/// A node id that names no proxy.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "node id `{0}` is not of the form <mesh>.<dataplane>; start the proxy with the bootstrap of this control plane"
)]
pub struct InvalidNode(pub String);

impl Node {
    /// Reads the node of a stream's first request.
    ///
    /// # Errors
    /// The id is not `<mesh>.<name>`.
    pub fn parse(message: &NodeMessage) -> Result<Self, InvalidNode> {
        let (mesh, name) = message
            .id
            .split_once('.')
            .filter(|(mesh, name)| !mesh.is_empty() && !name.is_empty())
            .ok_or_else(|| InvalidNode(message.id.clone()))?;
        let metadata = message.metadata.clone().unwrap_or_default();
        let text = |key| text_of(&metadata, key);
        Ok(Self {
            mesh: mesh.to_owned(),
            name: name.to_owned(),
            proxy_type: text(key::PROXY_TYPE).unwrap_or_default().to_owned(),
            dataplane_resource: text(key::RESOURCE).map(str::to_owned),
            admin_port: port_of(&metadata, key::ADMIN_PORT),
            admin_address: text(key::ADMIN_ADDRESS).unwrap_or_default().to_owned(),
            admin_socket_path: text(key::ADMIN_SOCKET_PATH).map(str::to_owned),
            readiness_port: port_of(&metadata, key::READINESS_PORT),
            dns_port: port_of(&metadata, key::DNS_PORT),
            work_dir: text(key::WORK_DIR).unwrap_or_default().to_owned(),
            system_ca_path: text(key::SYSTEM_CA).unwrap_or_default().to_owned(),
            // A process that does not say so can use it.
            ipv6_enabled: !matches!(member(&metadata, key::IPV6), Some(Kind::BoolValue(false))),
            features: match member(&metadata, key::FEATURES) {
                Some(Kind::ListValue(list)) => list
                    .values
                    .iter()
                    .filter_map(as_text)
                    .map(str::to_owned)
                    .collect(),
                _ => BTreeSet::new(),
            },
            redirect: match member(&metadata, key::TRANSPARENT_PROXY) {
                Some(Kind::StructValue(config)) => redirect_of(config),
                _ => None,
            },
            metadata,
        })
    }

    /// Whether the process announced a feature.
    #[must_use]
    pub fn has(&self, feature: &str) -> bool {
        self.features.contains(feature)
    }

    pub(crate) fn reuse_port(&self) -> bool {
        self.has(feature::REUSE_PORT)
    }

    pub(crate) fn strict_inbound_ports(&self) -> bool {
        self.has(feature::STRICT_INBOUND_PORTS)
    }
}

fn member<'a>(of: &'a Struct, key: &str) -> Option<&'a Kind> {
    of.fields.get(key)?.kind.as_ref()
}

fn as_text(value: &Value) -> Option<&str> {
    match &value.kind {
        Some(Kind::StringValue(text)) => Some(text),
        _ => None,
    }
}

fn text_of<'a>(of: &'a Struct, key: &str) -> Option<&'a str> {
    of.fields
        .get(key)
        .and_then(as_text)
        .filter(|text| !text.is_empty())
}

/// A port as decimal text or as a number; zero means none.
fn port_of(of: &Struct, key: &str) -> Option<u16> {
    let port = match member(of, key)? {
        Kind::StringValue(text) => text.parse().ok()?,
        Kind::NumberValue(number) => u16::try_from(crate::envoy::percent::whole(*number)).ok()?,
        _ => return None,
    };
    (port != 0).then_some(port)
}

fn redirect_of(config: &Struct) -> Option<Redirect> {
    let Some(Kind::StructValue(redirect)) = member(config, "redirect") else {
        return None;
    };
    let side = |name: &str| match member(redirect, name) {
        Some(Kind::StructValue(side)) => {
            let enabled = !matches!(member(side, "enabled"), Some(Kind::BoolValue(false)));
            enabled.then(|| port_of(side, "port")).flatten()
        }
        _ => None,
    };
    Some(Redirect {
        inbound_port: side("inbound").unwrap_or(15_006),
        outbound_port: side("outbound")?,
        ipv6: text_of(config, "ipFamilyMode") != Some("ipv4"),
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::envoy::text;

    fn node(id: &str, metadata: &[(&str, Value)]) -> NodeMessage {
        NodeMessage {
            id: id.to_owned(),
            metadata: Some(Struct {
                fields: metadata
                    .iter()
                    .map(|(k, v)| ((*k).to_owned(), v.clone()))
                    .collect(),
            }),
            ..NodeMessage::default()
        }
    }

    #[test]
    fn the_id_is_split_at_the_first_dot() {
        let read = Node::parse(&node("default.web.1", &[])).unwrap();
        assert_eq!((&*read.mesh, &*read.name), ("default", "web.1"));
        assert!(read.ipv6_enabled, "absence means that it can");
        assert!(Node::parse(&node("web", &[])).is_err());
    }

    #[test]
    fn ports_are_decimal_text_and_zero_is_none() {
        let read = Node::parse(&node(
            "default.web",
            &[
                (key::ADMIN_PORT, text("9901")),
                (key::READINESS_PORT, text("0")),
            ],
        ))
        .unwrap();
        assert_eq!((read.admin_port, read.readiness_port), (Some(9901), None));
    }
}
