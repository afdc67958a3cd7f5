//! The suites `policy-matchers` and `policy-rules`: matching, inbound rules and merged rules per destination.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    reason = "a test"
)]

mod support;

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use support::load;
use zonal_model::names::hashed_name;
use zonal_model::{GoDuration, Kind, Kri, Resource, labels, yaml};
use zonal_policy::{
    DataplanePolicies, Inbound, InboundKey, InboundRule, KindPolicies, Matcher, Origin, Policies,
    Policy, Subject, Targets,
};

#[derive(Default)]
struct Tally {
    passed: usize,
    failed: Vec<String>,
}

impl Tally {
    fn check(&mut self, case: &str, got: &Value, want: &Value) {
        let (got, want) = (plain(got), plain(want));
        if got == want {
            self.passed += 1;
        } else {
            self.failed
                .push(format!("{case}\n  got  {got}\n  want {want}"));
        }
    }

    fn finish(self, suite: &str, at_least: usize) {
        println!(
            "{suite}: {} passed, {} failed",
            self.passed,
            self.failed.len()
        );
        assert!(self.failed.is_empty(), "{}", self.failed.join("\n"));
        assert!(
            self.passed >= at_least,
            "{suite}: only {} cases were found",
            self.passed
        );
    }
}

fn suite(name: &str) -> Option<PathBuf> {
    let folder = std::env::var_os("ZONAL_CONFORMANCE").map_or_else(
        || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    );
    let folder = folder.join(name);
    if folder.is_dir() {
        return Some(folder);
    }
    println!("skipped: {name}: no folder {}", folder.display());
    None
}

fn files(folder: &Path, suffix: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(suffix)?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    found
}

fn documents(path: &Path) -> Vec<Value> {
    yaml::documents(&std::fs::read_to_string(path).unwrap()).unwrap()
}

fn one_document(path: &Path) -> Value {
    documents(path).into_iter().next().unwrap_or(Value::Null)
}

fn load_all(path: &Path) -> Vec<Resource> {
    documents(path).iter().map(load).collect()
}

/// What both sides have to agree on: durations by value, the weight of a reference also where it is left out, no times,
/// no identifiers that follow from the rest, no Kubernetes names.
fn plain(value: &Value) -> Value {
    match value {
        Value::Object(members) => {
            let mut out = Map::new();
            for (name, member) in members {
                let lower = name.to_ascii_lowercase();
                let skipped = matches!(
                    lower.as_str(),
                    "creationtime"
                        | "modificationtime"
                        | "kri"
                        | "nameextensions"
                        | "version"
                        | "type"
                        | "next"
                        | "total"
                ) && !member.is_object()
                    && !(name == "type" && members.contains_key("value"));
                let empty = member.as_object().is_some_and(Map::is_empty)
                    && matches!(lower.as_str(), "labels" | "originbymatches");
                if !(skipped
                    || empty
                    || lower == "nameextensions"
                    || member.is_null()
                    || member == "")
                {
                    out.insert(lower, plain(member));
                }
            }
            let is_backend = members
                .get("kind")
                .is_some_and(|kind| kind != "Mesh" && kind != "Dataplane")
                && members.contains_key("weight");
            if is_backend && members.get("weight") == Some(&json!(1)) {
                out.remove("weight");
            }
            Value::Object(out)
        }
        Value::Array(items) => Value::Array(items.iter().map(plain).collect()),
        Value::String(text) => match text.parse::<GoDuration>() {
            Ok(duration) => json!(duration.nanos()),
            Err(_) => value.clone(),
        },
        other => other.clone(),
    }
}

fn meta(resource: &Resource) -> Value {
    json!({"name": resource.key.name, "mesh": resource.key.mesh, "labels": resource.meta.labels})
}

fn origin(origin: &Origin) -> Value {
    json!({"Resource": meta(&origin.policy.resource), "RuleIndex": origin.index})
}

fn inbound_rule(rule: &InboundRule) -> Value {
    assert!(rule.matches.is_none(), "no case has matches");
    json!({"conf": *rule.conf, "match": null, "origin": origin(&rule.origin)})
}

fn matched(said: &KindPolicies) -> Value {
    let items: Vec<Value> = said
        .matched
        .iter()
        .map(|policy| {
            let mut item = meta(&policy.resource);
            item["spec"] = policy.resource.spec.to_value();
            item
        })
        .collect();
    json!({ "items": items })
}

fn to_rules(said: &KindPolicies, resources: &[Resource]) -> Value {
    let mut rules = Map::new();
    for (kri, rule) in said.to.iter() {
        let resource = resources
            .iter()
            .find(|resource| Kri::of(resource) == Some(kri.clone().without_section()))
            .expect("rules are about resources that are there");
        let mut out = json!({
            "Conf": [rule.conf],
            "Origin": rule.origins.iter().map(origin).collect::<Vec<_>>(),
            "Resource": meta(resource),
            "ResourceSectionName": kri.section,
        });
        if !rule.origin_by_matches.is_empty() {
            let by_matches: Map<String, Value> = rule
                .origin_by_matches
                .iter()
                .map(|(hash, by)| (hash.to_string(), origin(by)))
                .collect();
            out["OriginByMatches"] = Value::Object(by_matches);
        }
        rules.insert(kri.to_string(), out);
    }
    Value::Object(rules)
}

struct Case {
    policies: Policies,
    kind: Kind,
    subject: Subject,
    targets: Targets,
}

impl Case {
    fn new(policies: &[Resource], dataplane: &Resource, others: &[Resource]) -> Self {
        // Where there are several kinds the others are routes that the case's own kind refers to.
        let kind = policies
            .iter()
            .map(|policy| policy.key.kind)
            .max_by_key(|kind| *kind != Kind::MeshHTTPRoute)
            .unwrap();
        Self {
            kind,
            policies: Policies::new(policies),
            subject: Subject::from_dataplane(dataplane).unwrap(),
            targets: Targets::new(&dataplane.key.mesh, policies.iter().chain(others)),
        }
    }

    fn run(&self) -> KindPolicies {
        Matcher::new(&self.policies, &self.targets, false).kind(self.kind, &self.subject)
    }
}

/// Loads `<case>.policies.yaml` with its neighbours.
fn load_case(folder: &Path, name: &str) -> Case {
    let policies = load_all(&folder.join(format!("{name}.policies.yaml")));
    let dataplane = load(&one_document(
        &folder.join(format!("{name}.dataplane.yaml")),
    ));
    let external = folder.join(format!("{name}.mes.yaml"));
    let external = if external.exists() {
        load_all(&external)
    } else {
        Vec::new()
    };
    Case::new(&policies, &dataplane, &external)
}

#[test]
fn matching_passes_the_known_cases() {
    let Some(root) = suite("policy-matchers") else {
        return;
    };
    let root = root.join("matchedpolicies");
    let mut tally = Tally::default();
    for (name, path) in files(&root.join("dataplanepolicies"), ".golden.yaml") {
        let said = load_case(&root.join("dataplanepolicies"), &name).run();
        tally.check(
            &format!("dataplanepolicies/{name}"),
            &matched(&said),
            &one_document(&path),
        );
    }
    for (name, path) in files(&root.join("fromrules"), ".golden.yaml") {
        let said = load_case(&root.join("fromrules"), &name).run();
        let rules: Map<String, Value> = said
            .inbound
            .iter()
            .map(|(inbound, rules)| {
                (
                    inbound.to_string(),
                    rules.iter().map(inbound_rule).collect(),
                )
            })
            .collect();
        let got = json!({ "InboundRules": rules });
        tally.check(&format!("fromrules/{name}"), &got, &one_document(&path));
    }
    for folder in ["torules", "meshexternalservice"] {
        for (name, path) in files(&root.join(folder), ".golden.yaml") {
            // These expect nothing, since their fixtures have neither a mesh nor labels on the external service.
            let said = load_case(&root.join(folder), &name).run();
            let rules = said.to.keys().filter(|kri| kri.kind != Kind::Mesh).count();
            let got = json!({ "ResourceRules": rules });
            let want = one_document(&path)["ResourceRules"]
                .as_object()
                .map_or(0, Map::len);
            tally.check(
                &format!("{folder}/{name}"),
                &got,
                &json!({ "ResourceRules": want }),
            );
        }
    }
    dataplane_kind(&root.join("dataplane-kind"), &mut tally);
    tally.finish("policy-matchers", 60);
}

/// Where a resource was made.
#[derive(Clone, Copy, PartialEq)]
enum Made {
    GlobalUniversal,
    GlobalKubernetes,
    ZoneUniversal,
    ZoneKubernetes,
}

/// Where it was sent.
#[derive(Clone, Copy, PartialEq)]
enum Sent {
    Nowhere,
    Universal,
    Kubernetes,
}

fn give(resource: &mut Resource, key: &str, value: &str) {
    resource
        .meta
        .labels
        .entry(key.to_owned())
        .or_insert_with(|| value.to_owned());
}

/// A resource as it looks when made at one place and held at another.
fn place(resource: &Resource, made: Made, sent: Sent) -> Resource {
    let mut placed = resource.clone();
    if resource.key.kind == Kind::Mesh {
        return placed;
    }
    let name = resource.key.name.to_string();
    let kubernetes = matches!(made, Made::GlobalKubernetes | Made::ZoneKubernetes);
    give(&mut placed, labels::DISPLAY_NAME, &name);
    match made {
        Made::GlobalUniversal | Made::GlobalKubernetes => {
            give(&mut placed, labels::ORIGIN, "global");
        }
        Made::ZoneUniversal => {
            give(&mut placed, labels::ORIGIN, "zone");
            give(&mut placed, labels::ZONE, "zone-uni");
        }
        Made::ZoneKubernetes => {
            give(&mut placed, labels::ORIGIN, "zone");
            give(&mut placed, labels::ZONE, "zone-k8s");
        }
    }
    if kubernetes {
        give(&mut placed, labels::NAMESPACE, "ns-k8s");
        give(&mut placed, labels::MESH, &resource.key.mesh);
    }
    let extra: Vec<&str> = [labels::ZONE, labels::NAMESPACE]
        .iter()
        .filter_map(|key| placed.label(key))
        .collect();
    let hashed = hashed_name(&resource.key.mesh, placed.display_name(), &extra);
    let name = match sent {
        Sent::Nowhere if kubernetes => format!("{name}.ns-k8s"),
        Sent::Nowhere => name,
        Sent::Universal => hashed,
        Sent::Kubernetes => format!("{hashed}.kuma-system"),
    };
    placed.key.name = name.into();
    placed
}

fn dataplane_kind(folder: &Path, tally: &mut Tally) {
    let system = |mut policy: Resource| {
        for (key, value) in [
            (labels::NAMESPACE, "kuma-system"),
            (labels::POLICY_ROLE, "system"),
        ] {
            policy.meta.labels.insert(key.to_owned(), value.to_owned());
        }
        policy
    };
    let producer = |mut policy: Resource| {
        policy
            .meta
            .labels
            .insert(labels::POLICY_ROLE.to_owned(), "producer".to_owned());
        policy
    };
    for (name, _) in files(folder, ".policies.yaml") {
        let policies = load_all(&folder.join(format!("{name}.policies.yaml")));
        let dataplane = load(&one_document(
            &folder.join(format!("{name}.dataplane.yaml")),
        ));
        for (variant, path) in files(&folder.join(&name), ".golden.yaml") {
            let on_zone = variant.ends_with("-on-zone");
            let zone_is_kubernetes = variant.contains("zone-k8s") || variant == "k8s-zone";
            let to = |kubernetes: bool| {
                if kubernetes {
                    Sent::Kubernetes
                } else {
                    Sent::Universal
                }
            };
            let of = |policy: &Resource| match variant.as_str() {
                "k8s-zone" => place(policy, Made::ZoneKubernetes, Sent::Nowhere),
                "uni-zone" => place(policy, Made::ZoneUniversal, Sent::Nowhere),
                "policy-from-k8s-to-k8s" => {
                    producer(place(policy, Made::ZoneKubernetes, Sent::Kubernetes))
                }
                "policy-from-k8s-to-uni" => {
                    producer(place(policy, Made::ZoneKubernetes, Sent::Universal))
                }
                _ => {
                    let made = if variant.contains("global-k8s") {
                        Made::GlobalKubernetes
                    } else {
                        Made::GlobalUniversal
                    };
                    let sent = if on_zone {
                        to(zone_is_kubernetes)
                    } else {
                        Sent::Nowhere
                    };
                    system(place(policy, made, sent))
                }
            };
            let placed: Vec<Resource> = policies.iter().map(of).collect();
            let made = if zone_is_kubernetes || variant == "policy-from-k8s-to-k8s" {
                Made::ZoneKubernetes
            } else {
                Made::ZoneUniversal
            };
            let case = Case::new(&placed, &place(&dataplane, made, Sent::Nowhere), &[]);
            let label = format!("dataplane-kind/{name}/{variant}");
            tally.check(&label, &matched(&case.run()), &one_document(&path));
        }
    }
}

/// Merges the policies of a case that are meant to be matched already.
fn merge_matched(resources: &[Resource]) -> (Kind, KindPolicies) {
    let policies = Policies::new(resources);
    let inbound = InboundKey {
        address: "1.1.1.1".into(),
        port: 80,
    };
    let meant = |policy: &&Arc<Policy>| {
        policy
            .resource
            .display_name()
            .starts_with("matched-for-rules-")
    };
    let kind = resources
        .iter()
        .find(|resource| resource.display_name().starts_with("matched-for-rules-"))
        .map(|resource| resource.key.kind)
        .unwrap();
    let matched: Vec<Arc<Policy>> = policies.of_kind(kind).filter(meant).cloned().collect();
    let per_inbound = BTreeMap::from([(inbound, matched.clone())]);
    let targets = Targets::new("mesh-1", resources);
    (
        kind,
        Matcher::new(&policies, &targets, false).merge(kind, matched, per_inbound),
    )
}

#[test]
fn rules_pass_the_known_cases() {
    let Some(root) = suite("policy-rules") else {
        return;
    };
    let mut tally = Tally::default();
    let inbound = root.join("inbound/testdata/inboundrules");
    for (name, path) in files(&inbound, ".input.yaml") {
        let (_, said) = merge_matched(&load_all(&path));
        let rules: Vec<Value> = said.inbound.values().flatten().map(inbound_rule).collect();
        let want = one_document(&inbound.join(format!("{name}.golden.yaml")));
        tally.check(
            &format!("inbound/{name}"),
            &json!({ "rules": rules }),
            &want,
        );
    }
    let outbound = root.join("outbound/testdata/resourcerules");
    for (name, path) in files(&outbound, ".input.yaml") {
        let resources = load_all(&path);
        for (variant, path) in files(&outbound.join(&name), ".golden.yaml") {
            let (made, sent) = variant.split_once("-2-").unwrap_or((&variant, ""));
            let made = match made {
                "global-uni" => Made::GlobalUniversal,
                "global-k8s" => Made::GlobalKubernetes,
                "zone-uni" => Made::ZoneUniversal,
                _ => Made::ZoneKubernetes,
            };
            let sent = match sent {
                "" => Sent::Nowhere,
                to if to.ends_with("k8s") => Sent::Kubernetes,
                _ => Sent::Universal,
            };
            let placed: Vec<Resource> = resources
                .iter()
                .map(|resource| place(resource, made, sent))
                .collect();
            let (_, said) = merge_matched(&placed);
            let label = format!("outbound/{name}/{variant}");
            tally.check(&label, &to_rules(&said, &placed), &one_document(&path));
        }
    }
    tally.finish("policy-rules", 30);
}

#[test]
fn a_section_is_selected_by_name_or_number() {
    let subject = Subject {
        mesh: "default".into(),
        display_name: "web".into(),
        labels: BTreeMap::new(),
        inbounds: ["http", "8081"]
            .iter()
            .zip([8080, 8081])
            .map(|(section, port)| Inbound {
                section: (*section).into(),
                key: InboundKey {
                    address: "10.0.0.1".into(),
                    port,
                },
            })
            .collect(),
        delegated_gateway: false,
    };
    let check = |section: &str, want: &[u16]| {
        let policy = load(&json!({
            "type": "MeshTimeout", "mesh": "default", "name": "slow",
            "spec": {
                "targetRef": {"kind": "Dataplane", "sectionName": section},
                "rules": [{"default": {"idleTimeout": "1s"}}],
            },
        }));
        let policies = Policies::new([&policy]);
        let targets = Targets::new("default", []);
        let said = DataplanePolicies::new(&policies, &targets, &subject, false);
        let ports: Vec<u16> = said
            .kind(Kind::MeshTimeout)
            .inbound
            .keys()
            .map(|key| key.port)
            .collect();
        assert_eq!(ports, want, "{section}");
    };
    check("http", &[8080]);
    check("8080", &[]);
    check("8081", &[8081]);
}
