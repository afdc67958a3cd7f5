//! A mesh from one YAML text, and the configuration of a proxy in it.

use std::collections::BTreeMap;

use bytes::Bytes;
use kds_proto::reflect::{FieldNames, any_to_json};
use prost::Message as _;
use serde_json::{Map, Value};
use zonal_catalogue::{MeshCatalogue, OutboundMode, ProxyReach};
use zonal_model::{Json, Key, Kind, Labels, Resource, labels, yaml};
use zonal_policy::{DataplanePolicies, Policies, Subject, Targets};
use zonal_xds::{
    Cache, Dataplane, Generated, Identity, Node, ProxyView, TrustDomain, generate, type_url,
};

/// Resources of mesh `default` in zone `east`, and which proxy is meant.
pub(crate) struct World {
    resources: Vec<Resource>,
    proxy: String,
    features: Vec<String>,
}

impl World {
    /// The first document says `proxy` and `features`; the others are resources as a person writes them.
    pub(crate) fn read(text: &str) -> Self {
        let mut documents = yaml::documents(text)
            .expect("the input is YAML")
            .into_iter();
        let head = documents.next().expect("a first document");
        Self {
            proxy: head["proxy"].as_str().expect("`proxy`").to_owned(),
            features: head["features"]
                .as_array()
                .into_iter()
                .flatten()
                .filter_map(|feature| Some(feature.as_str()?.to_owned()))
                .collect(),
            resources: documents.map(|document| resource(&document)).collect(),
        }
    }

    /// The same resources, learned in the opposite order.
    pub(crate) fn reversed(mut self) -> Self {
        self.resources.reverse();
        self
    }

    pub(crate) fn generate(&self, cache: &Cache) -> Generated {
        let catalogue = MeshCatalogue::of("default", "east", &self.resources);
        let record = self
            .resources
            .iter()
            .find(|r| r.key.kind == Kind::Dataplane && *r.key.name == *self.proxy)
            .expect("the proxy's Dataplane");
        let dataplane = Dataplane::read(record).expect("a Dataplane");
        let subject = Subject::from_dataplane(record).expect("a Dataplane");
        let policies = Policies::new(&self.resources);
        let targets = Targets::new("default", &self.resources);
        let policies = DataplanePolicies::new(&policies, &targets, &subject, false);
        let mode = if dataplane.redirect.is_some() {
            OutboundMode::Virtual
        } else {
            OutboundMode::Listed
        };
        let outbounds = ProxyReach::read(record)
            .expect("a Dataplane")
            .outbounds(&catalogue, mode);
        let trust = self.trust();
        let node = Node {
            name: self.proxy.clone(),
            work_dir: "/run/zonal".to_owned(),
            features: self.features.iter().cloned().collect(),
            ..Node::default()
        };
        let secure = self
            .resources
            .iter()
            .any(|r| r.key.kind == Kind::MeshIdentity);
        let identity = secure.then_some(Identity {
            secret: "kri_mid_default___identity_",
            spiffe_id: "spiffe://default.east.mesh.local/workload/x",
        });
        let egress_identities = ["spiffe://default.east.mesh.local/workload/egress".to_owned()];
        generate(
            &ProxyView {
                mesh: "default",
                zone: "east",
                dataplane: &dataplane,
                node: &node,
                catalogue: &catalogue,
                outbounds: &outbounds,
                policies: &policies,
                targets: &targets,
                identity,
                trust: &trust,
                egress_identities: &egress_identities,
                faults_exist: false,
                admin_tls: None,
            },
            cache,
        )
    }

    fn trust(&self) -> Vec<TrustDomain> {
        let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
        for trust in self
            .resources
            .iter()
            .filter(|r| r.key.kind == Kind::MeshTrust)
        {
            let spec = trust.spec.to_value();
            let name = spec["trustDomain"]
                .as_str()
                .expect("a trust domain")
                .to_owned();
            let pem = spec["caBundles"][0]["pem"]["value"]
                .as_str()
                .expect("a PEM")
                .to_owned();
            domains.entry(name).or_default().push(pem);
        }
        domains
            .into_iter()
            .map(|(name, authorities_pem)| TrustDomain {
                name,
                authorities_pem,
            })
            .collect()
    }
}

fn resource(document: &Value) -> Resource {
    let members = document.as_object().expect("a resource is a mapping");
    let text = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or_default();
    let kind: Kind = text("type").parse().expect("a known type");
    let spec = members.get("spec").cloned().unwrap_or_else(|| {
        let mut rest = members.clone();
        rest.retain(|key, _| !matches!(key.as_str(), "type" | "mesh" | "name" | "labels"));
        Value::Object(rest)
    });
    let mut resource = Resource::new(
        Key::new(kind, "default", text("name")),
        Json::from_value(&spec),
    );
    resource.status = members.get("status").map(Json::from_value);
    let mut labels: Labels = members
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .map(|(key, value)| (key.clone(), value.as_str().expect("text").to_owned()))
        .collect();
    labels
        .entry(labels::DISPLAY_NAME.to_owned())
        .or_insert_with(|| text("name").to_owned());
    resource.meta.labels = labels;
    resource
}

/// Everything as JSON: section, name, resource.
pub(crate) fn rendered(generated: &Generated, names: FieldNames) -> Value {
    let mut sections = Map::new();
    for (section, url) in [
        ("clusters", type_url::CLUSTER),
        ("endpoints", type_url::ENDPOINTS),
        ("secrets", type_url::SECRET),
        ("listeners", type_url::LISTENER),
    ] {
        let members: Map<String, Value> = generated
            .of_type(url)
            .iter()
            .map(|(name, encoded)| {
                let any = pbjson_types::Any::decode(Bytes::clone(&encoded.body)).expect("an Any");
                let mut value = any_to_json(&any, names).expect("a known message");
                if let Some(members) = value.as_object_mut() {
                    members.remove("@type");
                }
                (name.to_string(), value)
            })
            .collect();
        if !members.is_empty() {
            sections.insert(section.to_owned(), Value::Object(members));
        }
    }
    if !generated.problems().is_empty() {
        let lines: Vec<Value> = generated
            .problems()
            .iter()
            .map(|problem| Value::String(format!("{}: {}", problem.about, problem.text)))
            .collect();
        sections.insert("problems".to_owned(), Value::Array(lines));
    }
    Value::Object(sections)
}
