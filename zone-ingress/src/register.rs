//! Who this ingress is: its Dataplane, as its operator wrote it and as the control plane gets it.
//!
//! The Dataplane travels in the metadata of the node with which a stream begins, and the control
//! plane stores it from there, exactly as for a sidecar that was given one.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};

use kds_proto::envoy::config::core::v3::Node;
use kds_proto::google::protobuf::value::Kind;
use kds_proto::google::protobuf::{ListValue, Struct, Value};
use serde_json::Value as Json;
use zonal_process::config::Problems;

/// Kuma's label for the workload a Dataplane belongs to.
const WORKLOAD_LABEL: &str = "kuma.io/workload";

/// Says to our zone control plane that one `Route` per server name is understood.
pub const ROUTES_FEATURE: &str = "feature-zonal-ingress-routes";

/// A Dataplane with at least one `ZoneIngress` listener.
#[derive(Clone, Debug, PartialEq)]
pub struct Registration {
    pub mesh: String,
    pub name: String,
    pub workload: Option<String>,
    /// Where callers are taken, by the listener's name.
    pub listeners: Vec<(String, SocketAddr)>,
    /// The whole Dataplane.
    pub resource: Json,
}

impl Registration {
    /// Reads a Dataplane in YAML or JSON. `mesh` and `name`, where given, stand in for its own.
    ///
    /// # Errors
    /// Every problem of the document at once, each with its field path.
    pub fn parse(text: &str, mesh: Option<&str>, name: Option<&str>) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let mut resource: Json = match serde_saphyr::from_str(text) {
            Ok(Json::Object(members)) => Json::Object(members),
            Ok(_) => {
                problems.add("dataplane", "is not a mapping");
                return Err(problems);
            }
            Err(error) => {
                problems.add("dataplane", format!("is not YAML: {error}"));
                return Err(problems);
            }
        };
        for (key, given) in [("mesh", mesh), ("name", name), ("type", Some("Dataplane"))] {
            if let (Some(given), Some(members)) = (given, resource.as_object_mut()) {
                let stands = members.entry(key).or_insert_with(|| given.into());
                if key == "type" && stands != given {
                    problems.add("type", format!("is {stands}, and has to be `Dataplane`"));
                } else {
                    *stands = given.into();
                }
            }
        }
        let text = |key: &str| resource.get(key).and_then(Json::as_str).map(str::to_owned);
        let mesh = text("mesh").unwrap_or_else(|| "default".to_owned());
        let name = problems.required("name", text("name").filter(|name| !name.is_empty()));
        let workload = resource
            .get("labels")
            .and_then(|labels| labels.get(WORKLOAD_LABEL));
        let workload = workload.and_then(Json::as_str).map(str::to_owned);
        let listeners = listeners(&resource, &mut problems);
        match name {
            Some(name) if problems.is_empty() => {
                if let Some(members) = resource.as_object_mut() {
                    members.insert("mesh".to_owned(), mesh.clone().into());
                }
                Ok(Self {
                    mesh,
                    name,
                    workload,
                    listeners,
                    resource,
                })
            }
            _ => Err(problems),
        }
    }

    /// `<mesh>.<name>`, the identity of this proxy.
    pub fn node_id(&self) -> String {
        format!("{}.{}", self.mesh, self.name)
    }

    /// The node with which a stream begins.
    pub fn node(&self) -> Node {
        let version = structure([
            ("version", text(env!("CARGO_PKG_VERSION"))),
            ("gitTag", text("")),
            ("gitCommit", text("")),
            ("buildDate", text("")),
        ]);
        let features = ListValue {
            values: vec![text(ROUTES_FEATURE)],
        };
        let members = [
            ("dataplane.resource", text(&self.resource.to_string())),
            ("dataplane.proxyType", text("dataplane")),
            (
                "features",
                Value {
                    kind: Some(Kind::ListValue(features)),
                },
            ),
            // Where Kuma looks for the version of the program beside the proxy.
            ("version", structure([("kumaDp", version)])),
            (
                "ipv6Enabled",
                Value {
                    kind: Some(Kind::BoolValue(true)),
                },
            ),
        ];
        let fields = members.map(|(key, value)| (key.to_owned(), value));
        Node {
            id: self.node_id(),
            cluster: self
                .workload
                .clone()
                .unwrap_or_else(|| "unknown".to_owned()),
            metadata: Some(Struct {
                fields: BTreeMap::from(fields),
            }),
            user_agent_name: "zone-ingress".to_owned(),
            ..Node::default()
        }
    }
}

fn text(text: &str) -> Value {
    Value {
        kind: Some(Kind::StringValue(text.to_owned())),
    }
}

fn structure<const N: usize>(members: [(&str, Value); N]) -> Value {
    let fields = BTreeMap::from(members.map(|(key, value)| (key.to_owned(), value)));
    Value {
        kind: Some(Kind::StructValue(Struct { fields })),
    }
}

fn listeners(resource: &Json, problems: &mut Problems) -> Vec<(String, SocketAddr)> {
    let none = Vec::new();
    let networking = resource.get("networking");
    let all = networking.and_then(|networking| networking.get("listeners"));
    let all = all.and_then(Json::as_array).unwrap_or(&none);
    let own = networking.and_then(|networking| networking.get("address"));
    let mut found = Vec::new();
    for (index, listener) in all.iter().enumerate() {
        let at = |field: &str| format!("networking.listeners[{index}].{field}");
        if listener.get("type").and_then(Json::as_str) != Some("ZoneIngress") {
            continue;
        }
        let address = listener.get("address").or(own).and_then(Json::as_str);
        let address = problems.required(&at("address"), address);
        let address = address.and_then(|text| match text.parse::<IpAddr>() {
            Ok(address) => Some(address),
            Err(_) => {
                problems.add(at("address"), format!("`{text}` is not an IP address"));
                None
            }
        });
        let port = listener.get("port").and_then(Json::as_u64);
        let port = port.and_then(|port| u16::try_from(port).ok());
        let port = problems.required(&at("port"), port);
        let name = listener
            .get("name")
            .and_then(Json::as_str)
            .unwrap_or_default();
        if let (Some(address), Some(port)) = (address, port) {
            found.push((name.to_owned(), SocketAddr::new(address, port)));
        }
    }
    if found.is_empty() && problems.is_empty() {
        problems.add(
            "networking.listeners",
            "has no listener of type `ZoneIngress`",
        );
    }
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    const DATAPLANE: &str = "
type: Dataplane
mesh: default
name: zone-ingress-01
labels: {kuma.io/workload: zone-ingress}
networking:
  address: 127.2.0.9
  listeners:
  - {type: ZoneIngress, name: zi-main, address: 127.2.0.10, port: 10001}
  - {type: ZoneIngress, port: 10002}
  - {type: ZoneEgress, name: ze, port: 10003}
";

    #[test]
    fn listeners_are_those_of_the_dataplane() {
        let registration = Registration::parse(DATAPLANE, None, None).unwrap();
        assert_eq!(registration.node_id(), "default.zone-ingress-01");
        let listeners: Vec<_> = registration
            .listeners
            .iter()
            .map(|(name, at)| format!("{name}@{at}"))
            .collect();
        assert_eq!(listeners, ["zi-main@127.2.0.10:10001", "@127.2.0.9:10002"]);
    }

    #[test]
    fn node_carries_the_dataplane() {
        let registration = Registration::parse(DATAPLANE, Some("other"), Some("zi")).unwrap();
        let node = registration.node();
        assert_eq!(
            (node.id.as_str(), node.cluster.as_str()),
            ("other.zi", "zone-ingress")
        );
        let metadata = serde_json::to_value(node.metadata).unwrap();
        let resource: Json =
            serde_json::from_str(metadata["dataplane.resource"].as_str().unwrap()).unwrap();
        assert_eq!(resource["mesh"], "other");
        assert_eq!(resource["name"], "zi");
        assert_eq!(resource["networking"]["listeners"][0]["port"], 10001);
        assert_eq!(metadata["features"][0], ROUTES_FEATURE);
    }

    #[test]
    fn problems_are_told_at_once_with_their_fields() {
        let text = "
type: Mesh
networking:
  listeners:
  - {type: ZoneIngress, address: example.com, port: 1}
  - {type: ZoneIngress, address: 10.0.0.1, port: 70000}
";
        let problems = Registration::parse(text, None, None).unwrap_err();
        let places: Vec<_> = problems
            .0
            .iter()
            .map(|problem| problem.place.as_str())
            .collect();
        assert_eq!(
            places,
            [
                "type",
                "name",
                "networking.listeners[0].address",
                "networking.listeners[1].port"
            ]
        );
        let problems = Registration::parse("name: a", None, None).unwrap_err();
        assert_eq!(problems.0[0].place, "networking.listeners");
        assert!(Registration::parse("- a", None, None).is_err());
        assert!(Registration::parse("a: [", None, None).is_err());
    }
}
