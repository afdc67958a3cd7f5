//! What the Envoys of a real federation of two zones were told, against what we tell them for the same resources.
//!
//! For each proxy of a scenario the stored resources of its zone become a catalogue and a view, and the configuration
//! generated from it is compared member by member with the proxy's own dump. Names, keys and certificates that each
//! installation makes for itself are compared by kind only.

#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null for what is absent"
)]

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kds_proto::reflect::{FieldNames, any_to_json};
use prost::Message as _;
use serde_json::{Map, Value, json};
use zonal_catalogue::{MeshCatalogue, OutboundMode, ProxyReach};
use zonal_model::{Json, Key, Kind, Labels, Resource};
use zonal_policy::{DataplanePolicies, Policies, Subject, Targets};
use zonal_xds::{
    AdminTls, Cache, Dataplane, Generated, Identity, Node, ProxyView, TrustDomain, generate,
    type_url,
};

use super::{SuiteResult, cases_dir};

const SCENARIOS: [&str; 5] = [
    "baseline",
    "permission",
    "failover",
    "failover-outlier",
    "egress",
];
/// The readiness port that each proxy was started with.
const READINESS_PORTS: [(&str, u16); 8] = [
    ("web", 9911),
    ("batch", 9912),
    ("api-east", 9913),
    ("ingress-east", 9914),
    ("egress-east", 9915),
    ("api-west", 9921),
    ("orders-west", 9922),
    ("ingress-west", 9923),
];
const AFTER: &str = ".after-api-east-stopped";

/// Where ours differs on purpose: the case's beginning, the beginning of the path, and why.
const ON_PURPOSE: [(&str, &str, &str); 2] = [
    (
        "*",
        "listeners/system_envoy_admin/filter_chains/1/transport_socket/typed_config/common_tls_context",
        "certificates of the admin listener are each installation's own",
    ),
    (
        "egress/egress-east",
        "endpoints/kri_extsvc",
        "the dump lists a fixed cluster's hosts among the discovered ones",
    ),
];

/// Runs every proxy of every scenario. `None` where the folder is absent.
#[must_use]
pub fn crosszone() -> Option<SuiteResult> {
    let cases = cases_dir()?.join("crosszone");
    let mut result = SuiteResult {
        name: "crosszone".to_owned(),
        ..SuiteResult::default()
    };
    for scenario in SCENARIOS {
        let folder = cases.join(scenario);
        let mut names: Vec<String> = fs::read_dir(&folder)
            .into_iter()
            .flatten()
            .flatten()
            .filter_map(|entry| entry.file_name().into_string().ok())
            .filter_map(|name| {
                let proxy = name.strip_prefix("envoy.")?.strip_suffix(".json")?;
                Some(proxy.to_owned())
            })
            .collect();
        names.sort();
        for proxy in names {
            let case = format!("{scenario}/{proxy}");
            match compare(&folder, &proxy) {
                Ok(differences) => {
                    let unwanted: Vec<String> = differences
                        .into_iter()
                        .filter(|difference| !on_purpose(&case, difference))
                        .collect();
                    if unwanted.is_empty() {
                        result.passed += 1;
                    } else {
                        result.failed.push((case, unwanted.join("\n")));
                    }
                }
                Err(error) => result.failed.push((case, error)),
            }
        }
    }
    Some(result)
}

fn on_purpose(case: &str, difference: &str) -> bool {
    ON_PURPOSE.iter().any(|(cases, path, _)| {
        (*cases == "*" || case.starts_with(cases)) && difference.starts_with(path)
    })
}

fn read_json(path: &Path) -> Result<Value, String> {
    let text = fs::read_to_string(path).map_err(|error| format!("{}: {error}", path.display()))?;
    serde_json::from_str(&text).map_err(|error| format!("{}: {error}", path.display()))
}

/// The stored resources of a control plane: those after a change replace lists of the same kind.
fn stored(folder: &Path, zone: &str, after: bool) -> Result<Vec<Resource>, String> {
    let mut all = read_json(&folder.join(format!("stored.{zone}.json")))?;
    if after {
        let later = read_json(&folder.join(format!("stored.{zone}{AFTER}.json")))?;
        if let (Value::Object(all), Value::Object(later)) = (&mut all, later) {
            all.extend(later);
        }
    }
    let mut resources = Vec::new();
    collect(&all, &mut resources)?;
    Ok(resources)
}

fn collect(value: &Value, into: &mut Vec<Resource>) -> Result<(), String> {
    match value {
        Value::Array(items) => items.iter().try_for_each(|item| collect(item, into)),
        Value::Object(members) if members.contains_key("type") => {
            into.push(resource(members)?);
            Ok(())
        }
        Value::Object(members) => members.values().try_for_each(|item| collect(item, into)),
        _ => Ok(()),
    }
}

pub(super) fn resource(members: &Map<String, Value>) -> Result<Resource, String> {
    let text = |key: &str| members.get(key).and_then(Value::as_str).unwrap_or_default();
    let kind: Kind = text("type").parse().map_err(|error| format!("{error}"))?;
    let spec = members.get("spec").cloned().unwrap_or_else(|| {
        let mut rest = members.clone();
        for meta in [
            "type",
            "mesh",
            "name",
            "labels",
            "creationTime",
            "modificationTime",
            "kri",
        ] {
            rest.remove(meta);
        }
        Value::Object(rest)
    });
    let mut resource = Resource::new(
        Key::new(kind, text("mesh"), text("name")),
        Json::from_value(&spec),
    );
    resource.status = members.get("status").map(Json::from_value);
    resource.meta.labels = members
        .get("labels")
        .and_then(Value::as_object)
        .into_iter()
        .flatten()
        .filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned())))
        .collect::<Labels>();
    Ok(resource)
}

fn zone_of(proxy: &str) -> &'static str {
    if proxy.ends_with("west") {
        "west"
    } else {
        "east"
    }
}

/// The differences between what the proxy was told and what we would tell it.
fn compare(folder: &Path, file: &str) -> Result<Vec<String>, String> {
    let (proxy, after) = match file.strip_suffix(AFTER) {
        Some(proxy) => (proxy, true),
        None => (file, false),
    };
    let dump = read_json(&folder.join(format!("envoy.{file}.json")))?;
    let zone = zone_of(proxy);
    let resources = stored(folder, zone, after)?;
    let generated = configure(&resources, proxy, zone)?;
    let got = rendered(&generated)?;
    let want = wanted(&dump);

    let mut differences = Vec::new();
    diff("", &want, &got, &mut differences);
    Ok(differences)
}

fn configure(resources: &[Resource], proxy: &str, zone: &str) -> Result<Generated, String> {
    let catalogue = MeshCatalogue::of("default", zone, resources);
    let record = resources
        .iter()
        .find(|resource| resource.key.kind == Kind::Dataplane && *resource.key.name == *proxy)
        .ok_or("no such Dataplane is stored")?;
    let fail = |error: serde_json::Error| error.to_string();
    let dataplane = Dataplane::read(record).map_err(fail)?;
    let subject = Subject::from_dataplane(record).map_err(fail)?;
    let policies = Policies::new(resources);
    let targets = Targets::new("default", resources);
    let policies = DataplanePolicies::new(&policies, &targets, &subject, false);
    let reach = ProxyReach::read(record).ok_or("the Dataplane cannot be read")?;
    let outbounds = reach.outbounds(&catalogue, OutboundMode::Listed);
    let trust = trust_domains(resources);
    let identity = resources
        .iter()
        .find(|resource| resource.key.kind == Kind::MeshIdentity)
        .and_then(zonal_model::Kri::of)
        .map(|kri| kri.to_string());
    let node = node(proxy);
    let pem = || bytes::Bytes::from_static(b"-");
    let admin_tls = AdminTls {
        certificate_pem: pem(),
        key_pem: pem(),
        client_ca_pem: pem(),
    };
    let egress_identities = ["spiffe://default.east.mesh.local/workload/zone-egress".to_owned()];
    let view = ProxyView {
        mesh: "default",
        zone,
        dataplane: &dataplane,
        node: &node,
        catalogue: &catalogue,
        outbounds: &outbounds,
        policies: &policies,
        targets: &targets,
        identity: identity.as_deref().map(|secret| Identity {
            secret,
            spiffe_id: "",
        }),
        trust: &trust,
        egress_identities: &egress_identities,
        faults_exist: false,
        admin_tls: Some(&admin_tls),
    };
    Ok(generate(&view, &Cache::default()))
}

fn trust_domains(resources: &[Resource]) -> Vec<TrustDomain> {
    let mut domains: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for trust in resources
        .iter()
        .filter(|resource| resource.key.kind == Kind::MeshTrust)
    {
        let spec = trust.spec.to_value();
        let pems = spec
            .pointer("/caBundles")
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        let name = spec
            .get("trustDomain")
            .and_then(Value::as_str)
            .unwrap_or_default();
        domains.entry(name.to_owned()).or_default().extend(
            pems.filter_map(|bundle| Some(bundle.pointer("/pem/value")?.as_str()?.to_owned())),
        );
    }
    domains
        .into_iter()
        .map(|(name, authorities_pem)| TrustDomain {
            name,
            authorities_pem,
        })
        .collect()
}

fn node(proxy: &str) -> Node {
    Node {
        mesh: "default".to_owned(),
        name: proxy.to_owned(),
        admin_port: Some(9901),
        admin_address: "127.0.0.1".to_owned(),
        admin_socket_path: Some("/mnt/kuma-envoy-admin.sock".to_owned()),
        readiness_port: READINESS_PORTS
            .iter()
            .find(|(name, _)| *name == proxy)
            .map(|(_, port)| *port),
        features: BTreeSet::from(["feature-reuse-port".to_owned()]),
        ..Node::default()
    }
}

/// Our resources in the form of a dump.
fn rendered(generated: &Generated) -> Result<Value, String> {
    let mut sections = json!({"clusters": {}, "listeners": {}, "endpoints": {}});
    for (section, url) in [
        ("clusters", type_url::CLUSTER),
        ("listeners", type_url::LISTENER),
        ("endpoints", type_url::ENDPOINTS),
        ("secrets", type_url::SECRET),
    ] {
        let mut members = Map::new();
        for (name, encoded) in generated.of_type(url) {
            let any = pbjson_types::Any::decode(encoded.body.clone()).map_err(|e| e.to_string())?;
            let mut value =
                any_to_json(&any, FieldNames::Proto).map_err(|error| error.to_string())?;
            without_keys(&mut value);
            members.insert(name.to_string(), value);
        }
        sections[section] = Value::Object(members);
    }
    // An Envoy only holds the secrets that something names.
    let named = ["listeners", "clusters"].iter().any(|section| {
        sections[section]
            .to_string()
            .contains("\"system_trust_bundle\"")
    });
    if !named && let Some(secrets) = sections["secrets"].as_object_mut() {
        secrets.clear();
    }
    Ok(sections)
}

/// The dump with resources by name.
fn wanted(dump: &Value) -> Value {
    let mut sections = Map::new();
    for section in ["clusters", "listeners", "endpoints", "secrets"] {
        let mut members = Map::new();
        for item in dump
            .get(section)
            .and_then(Value::as_array)
            .into_iter()
            .flatten()
        {
            let name = item.get("name").or_else(|| item.get("cluster_name"));
            let name = name.and_then(Value::as_str).unwrap_or_default().to_owned();
            let mut value = item.get("secret").unwrap_or(item).clone();
            without_keys(&mut value);
            // The certificate of an identity is put beside the generated configuration.
            if section != "secrets" || value.get("tls_certificate").is_none() {
                members.insert(name, value);
            }
        }
        sections.insert(section.to_owned(), Value::Object(members));
    }
    Value::Object(sections)
}

/// Certificates and keys as the text that is inside, so that the number of certificates can be compared.
fn without_keys(value: &mut Value) {
    match value {
        Value::Object(members) => {
            for (name, member) in members {
                match member {
                    Value::String(text) if name == "inline_bytes" => {
                        if let Ok(inside) = STANDARD.decode(&text) {
                            *text = String::from_utf8_lossy(&inside).trim().to_owned();
                        }
                    }
                    _ => without_keys(member),
                }
            }
        }
        Value::Array(items) => items.iter_mut().for_each(without_keys),
        _ => {}
    }
}

/// One line per difference: `path: wanted …, got …`.
pub(super) fn diff(path: &str, want: &Value, got: &Value, into: &mut Vec<String>) {
    let below = |name: &str| {
        if path.is_empty() {
            name.to_owned()
        } else {
            format!("{path}/{name}")
        }
    };
    match (want, got) {
        (Value::Object(want), Value::Object(got)) => {
            let names: BTreeSet<&String> = want.keys().chain(got.keys()).collect();
            for name in names {
                let null = Value::Null;
                diff(
                    &below(name),
                    want.get(name).unwrap_or(&null),
                    got.get(name).unwrap_or(&null),
                    into,
                );
            }
        }
        (Value::Array(want), Value::Array(got)) if want.len() == got.len() => {
            for (index, (want, got)) in want.iter().zip(got).enumerate() {
                diff(&below(&index.to_string()), want, got, into);
            }
        }
        (Value::Number(want), Value::Number(got)) if want.as_f64() == got.as_f64() => {}
        _ if want == got => {}
        _ => into.push(format!("{path}: wanted {want}, got {got}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn differences_name_their_path() {
        let mut lines = Vec::new();
        diff(
            "",
            &json!({"a": [1, {"b": 2}]}),
            &json!({"a": [1, {"b": 3}], "c": 4}),
            &mut lines,
        );
        assert_eq!(lines, ["a/1/b: wanted 2, got 3", "c: wanted null, got 4"]);
    }

    #[test]
    fn our_configuration_is_that_of_a_real_federation() {
        let Some(result) = crosszone() else {
            println!("crosszone: skipped, no conformance cases here");
            return;
        };
        println!(
            "crosszone: passed {}, failed {}",
            result.passed,
            result.failed.len()
        );
        for (case, difference) in &result.failed {
            println!("--- {case}\n{difference}");
        }
        assert!(result.failed.is_empty());
    }
}
