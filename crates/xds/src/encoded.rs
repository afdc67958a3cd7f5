//! What comes out: resources as bytes with versions.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;
use prost::Message;
use xxhash_rust::xxh3::xxh3_128;

/// The type URLs of what a proxy can be given.
pub mod type_url {
    /// Clusters.
    pub const CLUSTER: &str = "type.googleapis.com/envoy.config.cluster.v3.Cluster";
    /// The hosts of a cluster.
    pub const ENDPOINTS: &str =
        "type.googleapis.com/envoy.config.endpoint.v3.ClusterLoadAssignment";
    /// Listeners.
    pub const LISTENER: &str = "type.googleapis.com/envoy.config.listener.v3.Listener";
    /// Certificates, keys and trust bundles.
    pub const SECRET: &str = "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.Secret";
    /// One route of a native zone ingress.
    pub const INGRESS_ROUTE: &str = "type.googleapis.com/zonal.ingress.v1.Route";

    /// The order in which types are offered, so that nothing is named before it is there.
    pub const IN_ORDER: [&str; 5] = [CLUSTER, ENDPOINTS, SECRET, LISTENER, INGRESS_ROUTE];
}

/// One resource as it is sent: the bytes of an `Any`, and a version that is equal exactly when the bytes are.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Encoded {
    /// Fingerprint of `body`.
    pub version: Arc<str>,
    /// An encoded `google.protobuf.Any`.
    pub body: Bytes,
}

impl Encoded {
    /// Encodes a message.
    pub fn new<M: prost::Name>(message: &M) -> Self {
        let body = Bytes::from(kds_proto::pack(message).encode_to_vec());
        let version = format!("{:032x}", xxh3_128(&body)).into();
        Self { version, body }
    }

    /// The message again.
    ///
    /// # Errors
    /// The bytes hold a message of another type.
    pub fn decode<M: prost::Name + Default>(&self) -> Result<M, prost::DecodeError> {
        let any = pbjson_types::Any::decode(self.body.clone())?;
        M::decode(any.value)
    }
}

/// Everything one proxy should hold: by type URL, then by name.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Generated {
    resources: BTreeMap<&'static str, BTreeMap<Arc<str>, Encoded>>,
    problems: Vec<Problem>,
    /// Which listener has an address and port already.
    taken: BTreeMap<(String, u16), String>,
}

/// Something that was left out of a proxy's configuration, and why.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Problem {
    /// What is concerned: a policy's or a service's KRI, or the name of an Envoy resource.
    pub about: String,
    /// What is wrong and what was done about it.
    pub text: String,
}

impl Generated {
    /// The resources of one type in order of their names.
    #[must_use]
    pub fn of_type(&self, type_url: &str) -> &BTreeMap<Arc<str>, Encoded> {
        static NONE: BTreeMap<Arc<str>, Encoded> = BTreeMap::new();
        self.resources.get(type_url).unwrap_or(&NONE)
    }

    /// Every type that has resources, with them.
    pub fn types(&self) -> impl Iterator<Item = (&'static str, &BTreeMap<Arc<str>, Encoded>)> {
        self.resources
            .iter()
            .map(|(&type_url, map)| (type_url, map))
    }

    /// One resource.
    #[must_use]
    pub fn get(&self, type_url: &str, name: &str) -> Option<&Encoded> {
        self.of_type(type_url).get(name)
    }

    /// What was left out, and why.
    #[must_use]
    pub fn problems(&self) -> &[Problem] {
        &self.problems
    }

    pub(crate) fn put(
        &mut self,
        type_url: &'static str,
        name: impl Into<Arc<str>>,
        resource: Encoded,
    ) {
        self.resources
            .entry(type_url)
            .or_default()
            .insert(name.into(), resource);
    }

    pub(crate) fn remove(&mut self, type_url: &str, name: &str) {
        if let Some(resources) = self.resources.get_mut(type_url) {
            resources.remove(name);
        }
    }

    pub(crate) fn contains(&self, type_url: &str, name: &str) -> bool {
        self.get(type_url, name).is_some()
    }

    /// Whether a listener can have an address. An Envoy refuses names, and a second listener at the same place.
    pub(crate) fn claim(&mut self, address: &str, port: u16, name: &str) -> bool {
        if address.parse::<std::net::IpAddr>().is_err() {
            self.problem(
                name,
                format!("`{address}` is no IP address; it gets no listener"),
            );
            return false;
        }
        match self.taken.get(&(address.to_owned(), port)) {
            None => {
                self.taken
                    .insert((address.to_owned(), port), name.to_owned());
                true
            }
            Some(first) => {
                let text = format!(
                    "{address}:{port} belongs to {first} already; it gets no listener. Give it another address or port"
                );
                self.problem(name, text);
                false
            }
        }
    }

    pub(crate) fn problem(&mut self, about: impl Into<String>, text: impl Into<String>) {
        let problem = Problem {
            about: about.into(),
            text: text.into(),
        };
        if let Err(at) = self.problems.binary_search(&problem) {
            self.problems.insert(at, problem);
        }
    }
}
