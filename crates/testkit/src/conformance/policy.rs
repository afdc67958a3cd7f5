//! The suites `policy-matchers` and `policy-rules`: whom a policy touches, and what policies say when merged.

#![expect(
    clippy::indexing_slicing,
    reason = "indexing a JSON value gives null for what is absent"
)]

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use serde_json::{Map, Value, json};
use zonal_model::names::hashed_name;
use zonal_model::{GoDuration, Kind, Kri, Resource, labels, yaml};
use zonal_policy::{
    InboundKey, InboundRule, KindPolicies, Matcher, Origin, Policies, Policy, Subject, Targets,
};

use super::crosszone::resource;
use super::{SuiteResult, cases_dir};

/// Matching: policies and a Dataplane in, the policies that touch it (or what they say to each inbound) out. `None`
/// where the folder is absent.
#[must_use]
pub fn policy_matchers() -> Option<SuiteResult> {
    let root = folder("policy-matchers")?.join("matchedpolicies");
    let mut result = SuiteResult::new("policy-matchers");
    let proxies = root.join("dataplanepolicies");
    for (name, golden) in files(&proxies, ".golden.yaml") {
        let got = Case::load(&proxies, &name).and_then(|case| Ok(matched(&case.run()?)));
        result.count(format!("dataplanepolicies/{name}"), compare(got, &golden));
    }
    let inbounds = root.join("fromrules");
    for (name, golden) in files(&inbounds, ".golden.yaml") {
        let got = Case::load(&inbounds, &name).and_then(|case| per_inbound(&case.run()?));
        result.count(format!("fromrules/{name}"), compare(got, &golden));
    }
    for kind in ["torules", "meshexternalservice"] {
        for (name, golden) in files(&root.join(kind), ".golden.yaml") {
            let outcome = no_destinations(&root.join(kind), &name, &golden);
            result.count(format!("{kind}/{name}"), outcome);
        }
    }
    dataplane_kind(&root.join("dataplane-kind"), &mut result);
    Some(result)
}

/// Merging: policies that are matched already in, rules per inbound and per destination out. `None` where the folder is
/// absent.
#[must_use]
pub fn policy_rules() -> Option<SuiteResult> {
    let root = folder("policy-rules")?;
    let mut result = SuiteResult::new("policy-rules");
    let inbound = root.join("inbound/testdata/inboundrules");
    for (name, input) in files(&inbound, ".input.yaml") {
        let golden = inbound.join(format!("{name}.golden.yaml"));
        let got = load_all(&input)
            .and_then(|resources| merge_matched(&resources))
            .and_then(|said| {
                let rules: Result<Vec<_>, _> =
                    said.inbound.values().flatten().map(inbound_rule).collect();
                Ok(json!({ "rules": rules? }))
            });
        result.count(format!("inbound/{name}"), compare(got, &golden));
    }
    let outbound = root.join("outbound/testdata/resourcerules");
    for (name, input) in files(&outbound, ".input.yaml") {
        for (variant, golden) in files(&outbound.join(&name), ".golden.yaml") {
            let got = load_all(&input).and_then(|resources| {
                let (made, sent) = journey(&variant);
                let placed: Vec<Resource> = resources
                    .iter()
                    .map(|resource| place(resource, made, sent))
                    .collect();
                to_rules(&merge_matched(&placed)?, &placed)
            });
            result.count(format!("outbound/{name}/{variant}"), compare(got, &golden));
        }
    }
    Some(result)
}

fn folder(suite: &str) -> Option<PathBuf> {
    let folder = cases_dir()?.join(suite);
    folder.is_dir().then_some(folder)
}

/// The files of a folder whose names end in `suffix`, and what stands before it.
fn files(folder: &Path, suffix: &str) -> Vec<(String, PathBuf)> {
    let mut found: Vec<(String, PathBuf)> = fs::read_dir(folder)
        .into_iter()
        .flatten()
        .flatten()
        .map(|entry| entry.path())
        .filter_map(|path| {
            let name = path.file_name()?.to_str()?.strip_suffix(suffix)?.to_owned();
            Some((name, path))
        })
        .collect();
    found.sort();
    found
}

fn documents(path: &Path) -> Result<Vec<Value>, String> {
    let text =
        fs::read_to_string(path).map_err(|error| format!("`{}`: {error}", path.display()))?;
    yaml::documents(&text).map_err(|error| format!("`{}`: {error}", path.display()))
}

fn one_document(path: &Path) -> Result<Value, String> {
    Ok(documents(path)?.into_iter().next().unwrap_or(Value::Null))
}

fn load(document: &Value) -> Result<Resource, String> {
    resource(document.as_object().ok_or("a resource is a mapping")?)
}

fn load_all(path: &Path) -> Result<Vec<Resource>, String> {
    documents(path)?.iter().map(load).collect()
}

fn compare(got: Result<Value, String>, golden: &Path) -> Result<(), String> {
    let (got, want) = (plain(&got?), plain(&one_document(golden)?));
    if got == want {
        Ok(())
    } else {
        Err(format!("want {want:#}\ngot  {got:#}"))
    }
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

fn inbound_rule(rule: &InboundRule) -> Result<Value, String> {
    if rule.matches.is_some() {
        return Err("a rule with matches, which no case has".to_owned());
    }
    Ok(json!({"conf": *rule.conf, "match": null, "origin": origin(&rule.origin)}))
}

fn per_inbound(said: &KindPolicies) -> Result<Value, String> {
    let mut inbounds = Map::new();
    for (inbound, rules) in &said.inbound {
        let rules: Result<Vec<_>, _> = rules.iter().map(inbound_rule).collect();
        inbounds.insert(inbound.to_string(), Value::Array(rules?));
    }
    Ok(json!({ "InboundRules": inbounds }))
}

/// These cases expect nothing, since their fixtures have neither a mesh nor labels on the external service.
fn no_destinations(folder: &Path, name: &str, golden: &Path) -> Result<(), String> {
    let said = Case::load(folder, name)?.run()?;
    let got = said.to.keys().filter(|kri| kri.kind != Kind::Mesh).count();
    let want = one_document(golden)?["ResourceRules"]
        .as_object()
        .map_or(0, Map::len);
    if got == want {
        Ok(())
    } else {
        Err(format!("want {want} rules, got {got}"))
    }
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

fn to_rules(said: &KindPolicies, resources: &[Resource]) -> Result<Value, String> {
    let mut rules = Map::new();
    for (kri, rule) in said.to.iter() {
        let resource = resources
            .iter()
            .find(|resource| Kri::of(resource) == Some(kri.clone().without_section()))
            .ok_or_else(|| format!("a rule is about `{kri}`, which is not there"))?;
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
    Ok(Value::Object(rules))
}

struct Case {
    policies: Policies,
    kind: Option<Kind>,
    subject: Subject,
    targets: Targets,
}

impl Case {
    fn new(
        policies: &[Resource],
        dataplane: &Resource,
        others: &[Resource],
    ) -> Result<Self, String> {
        // Where there are several kinds the others are routes that the case's own kind refers to.
        let kind = policies
            .iter()
            .map(|policy| policy.key.kind)
            .max_by_key(|kind| *kind != Kind::MeshHTTPRoute);
        Ok(Self {
            kind,
            policies: Policies::new(policies),
            subject: Subject::from_dataplane(dataplane)
                .map_err(|error| format!("the Dataplane: {error}"))?,
            targets: Targets::new(&dataplane.key.mesh, policies.iter().chain(others)),
        })
    }

    /// Loads `<name>.policies.yaml` with its neighbours.
    fn load(folder: &Path, name: &str) -> Result<Self, String> {
        let policies = load_all(&folder.join(format!("{name}.policies.yaml")))?;
        let dataplane = load(&one_document(
            &folder.join(format!("{name}.dataplane.yaml")),
        )?)?;
        let external = folder.join(format!("{name}.mes.yaml"));
        let external = if external.exists() {
            load_all(&external)?
        } else {
            Vec::new()
        };
        Self::new(&policies, &dataplane, &external)
    }

    fn run(&self) -> Result<KindPolicies, String> {
        let kind = self.kind.ok_or("the case has no policy")?;
        Ok(Matcher::new(&self.policies, &self.targets, false).kind(kind, &self.subject))
    }
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

impl Sent {
    const fn to(kubernetes: bool) -> Self {
        if kubernetes {
            Self::Kubernetes
        } else {
            Self::Universal
        }
    }
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

/// Where the resources of a case were made and sent, from its file name.
fn journey(variant: &str) -> (Made, Sent) {
    let (made, sent) = variant.split_once("-2-").unwrap_or((variant, ""));
    let made = match made {
        "global-uni" => Made::GlobalUniversal,
        "global-k8s" => Made::GlobalKubernetes,
        "zone-uni" => Made::ZoneUniversal,
        _ => Made::ZoneKubernetes,
    };
    let sent = match sent {
        "" => Sent::Nowhere,
        to => Sent::to(to.ends_with("k8s")),
    };
    (made, sent)
}

fn with_labels(mut policy: Resource, labels: &[(&str, &str)]) -> Resource {
    for (key, value) in labels {
        policy
            .meta
            .labels
            .insert((*key).to_owned(), (*value).to_owned());
    }
    policy
}

fn dataplane_kind(folder: &Path, result: &mut SuiteResult) {
    for (name, _) in files(folder, ".policies.yaml") {
        for (variant, golden) in files(&folder.join(&name), ".golden.yaml") {
            let got = dataplane_kind_case(folder, &name, &variant);
            result.count(
                format!("dataplane-kind/{name}/{variant}"),
                compare(got, &golden),
            );
        }
    }
}

fn dataplane_kind_case(folder: &Path, name: &str, variant: &str) -> Result<Value, String> {
    let policies = load_all(&folder.join(format!("{name}.policies.yaml")))?;
    let dataplane = load(&one_document(
        &folder.join(format!("{name}.dataplane.yaml")),
    )?)?;
    let producer = [(labels::POLICY_ROLE, "producer")];
    let system = [
        (labels::NAMESPACE, "kuma-system"),
        (labels::POLICY_ROLE, "system"),
    ];
    let zone_is_kubernetes = variant.contains("zone-k8s") || variant == "k8s-zone";
    let of = |policy: &Resource| match variant {
        "k8s-zone" => place(policy, Made::ZoneKubernetes, Sent::Nowhere),
        "uni-zone" => place(policy, Made::ZoneUniversal, Sent::Nowhere),
        "policy-from-k8s-to-k8s" => with_labels(
            place(policy, Made::ZoneKubernetes, Sent::Kubernetes),
            &producer,
        ),
        "policy-from-k8s-to-uni" => with_labels(
            place(policy, Made::ZoneKubernetes, Sent::Universal),
            &producer,
        ),
        _ => {
            let made = if variant.contains("global-k8s") {
                Made::GlobalKubernetes
            } else {
                Made::GlobalUniversal
            };
            let sent = if variant.ends_with("-on-zone") {
                Sent::to(zone_is_kubernetes)
            } else {
                Sent::Nowhere
            };
            with_labels(place(policy, made, sent), &system)
        }
    };
    let placed: Vec<Resource> = policies.iter().map(of).collect();
    let made = if zone_is_kubernetes || variant == "policy-from-k8s-to-k8s" {
        Made::ZoneKubernetes
    } else {
        Made::ZoneUniversal
    };
    let case = Case::new(&placed, &place(&dataplane, made, Sent::Nowhere), &[])?;
    Ok(matched(&case.run()?))
}

/// Merges the policies of a case that are meant to be matched already.
fn merge_matched(resources: &[Resource]) -> Result<KindPolicies, String> {
    let policies = Policies::new(resources);
    let inbound = InboundKey {
        address: "1.1.1.1".into(),
        port: 80,
    };
    let meant = |resource: &Resource| resource.display_name().starts_with("matched-for-rules-");
    let kind = resources
        .iter()
        .find(|resource| meant(resource))
        .map(|resource| resource.key.kind)
        .ok_or("the case has no policy")?;
    let matched: Vec<Arc<Policy>> = policies
        .of_kind(kind)
        .filter(|policy| meant(&policy.resource))
        .cloned()
        .collect();
    let per_inbound = BTreeMap::from([(inbound, matched.clone())]);
    let targets = Targets::new("mesh-1", resources);
    Ok(Matcher::new(&policies, &targets, false).merge(kind, matched, per_inbound))
}
