//! The policies of one mesh, read once.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde::Deserialize;
use serde_json::Value;
use zonal_model::{Key, Kind, Kri, Labels, Resource, labels};

use crate::order::{Rank, Role};

/// Whom a policy touches, or what one of its `to` entries is about.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// A kind's name; `Mesh` for everything.
    pub kind: String,
    /// Label pairs that all have to be there. Absent and empty differ for `Dataplane`.
    #[serde(default)]
    pub labels: Option<Labels>,
    /// One port or inbound, by name or number.
    #[serde(default)]
    pub section_name: Option<String>,
}

impl TargetRef {
    /// The whole mesh: what an absent reference means.
    #[must_use]
    pub fn mesh() -> Self {
        Self {
            kind: "Mesh".to_owned(),
            labels: None,
            section_name: None,
        }
    }

    /// The section, if one is named.
    #[must_use]
    pub fn section(&self) -> Option<&str> {
        self.section_name
            .as_deref()
            .filter(|section| !section.is_empty())
    }
}

/// One item of `to`.
#[derive(Clone, Debug)]
pub(crate) struct ToEntry {
    pub(crate) target_ref: TargetRef,
    /// What is merged: `default`, or for the two kinds of routes a form of `rules`.
    pub(crate) conf: Value,
}

/// One item of `rules`.
#[derive(Clone, Debug)]
pub(crate) struct RulesEntry {
    pub(crate) matches: Vec<crate::conf::Match>,
    pub(crate) conf: Value,
}

/// One policy, read.
#[derive(Clone, Debug)]
pub struct Policy {
    /// As it is stored.
    pub resource: Resource,
    /// Its identifier, without section.
    pub kri: Kri,
    pub(crate) target_ref: TargetRef,
    pub(crate) to: Vec<ToEntry>,
    pub(crate) rules: Vec<RulesEntry>,
    pub(crate) default: Option<Value>,
    pub(crate) rank: Rank,
    pub(crate) role: Role,
    pub(crate) shadow: bool,
}

/// Why a policy has no effect.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("policy {key} has no effect: {reason}")]
pub struct Problem {
    /// The policy.
    pub key: Key,
    /// What cannot be read.
    pub reason: String,
}

impl Policy {
    /// Reads one.
    ///
    /// # Errors
    /// It is no policy, or a part that matching needs has the wrong shape.
    pub fn read(resource: &Resource) -> Result<Self, Problem> {
        let problem = |reason: String| Problem {
            key: resource.key.clone(),
            reason,
        };
        let kind = resource.key.kind;
        if kind.descriptor().policy.is_none() {
            return Err(problem(format!("{kind} is not a kind of policy")));
        }
        let spec: PolicyForm = resource
            .spec
            .typed()
            .map_err(|error| problem(format!("spec.{error}")))?;
        let target_ref = spec.target_ref.unwrap_or_else(TargetRef::mesh);
        let to: Vec<ToEntry> = spec
            .to
            .into_iter()
            .map(|item| item.into_entry(kind))
            .collect();
        let rules: Vec<RulesEntry> = spec
            .rules
            .into_iter()
            .map(|item| RulesEntry {
                matches: item.matches.into_iter().flatten().collect(),
                conf: item.default.unwrap_or_else(empty),
            })
            .collect();
        for (list, index, conf) in to
            .iter()
            .enumerate()
            .map(|(index, item)| ("to", index, &item.conf))
            .chain(
                rules
                    .iter()
                    .enumerate()
                    .map(|(index, item)| ("rules", index, &item.conf)),
            )
        {
            crate::conf::check(kind, conf)
                .map_err(|error| problem(format!("spec.{list}[{index}]: {error}")))?;
        }
        Ok(Self {
            kri: Kri::of(resource).ok_or_else(|| problem(format!("{kind} has no identifier")))?,
            rank: Rank::of(resource, &target_ref),
            role: Role::of(resource),
            shadow: resource.label(labels::EFFECT) == Some("shadow"),
            resource: resource.clone(),
            target_ref,
            to,
            rules,
            default: spec.default,
        })
    }
}

/// The policies of one mesh by kind, in the order of their keys.
#[derive(Clone, Debug, Default)]
pub struct Policies {
    by_kind: BTreeMap<Kind, BTreeMap<Arc<str>, Arc<Policy>>>,
    problems: BTreeMap<Key, Problem>,
}

impl Policies {
    /// Reads all policies among `resources`; other kinds are passed over.
    pub fn new<'a>(resources: impl IntoIterator<Item = &'a Resource>) -> Self {
        let mut policies = Self::default();
        for resource in resources {
            if resource.key.kind.descriptor().policy.is_some() {
                policies.put(resource);
            }
        }
        policies
    }

    /// Adds one or replaces the one of the same key.
    pub fn put(&mut self, resource: &Resource) {
        self.remove(&resource.key);
        match Policy::read(resource) {
            Ok(policy) => {
                self.by_kind
                    .entry(resource.key.kind)
                    .or_default()
                    .insert(Arc::clone(&resource.key.name), Arc::new(policy));
            }
            Err(problem) => {
                self.problems.insert(resource.key.clone(), problem);
            }
        }
    }

    /// Takes one out.
    pub fn remove(&mut self, key: &Key) {
        self.problems.remove(key);
        if let Some(of_kind) = self.by_kind.get_mut(&key.kind) {
            of_kind.remove(&key.name);
        }
    }

    /// Those of one kind, by stored name.
    pub fn of_kind(&self, kind: Kind) -> impl Iterator<Item = &Arc<Policy>> {
        self.by_kind
            .get(&kind)
            .into_iter()
            .flat_map(BTreeMap::values)
    }

    /// One policy.
    #[must_use]
    pub fn get(&self, key: &Key) -> Option<&Arc<Policy>> {
        self.by_kind.get(&key.kind)?.get(&key.name)
    }

    /// What could not be read, and why.
    pub fn problems(&self) -> impl Iterator<Item = &Problem> {
        self.problems.values()
    }
}

pub(crate) fn empty() -> Value {
    Value::Object(serde_json::Map::new())
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct PolicyForm {
    #[serde(default)]
    target_ref: Option<TargetRef>,
    #[serde(default)]
    to: Vec<ToForm>,
    #[serde(default)]
    rules: Vec<RulesForm>,
    #[serde(default)]
    default: Option<Value>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct ToForm {
    target_ref: TargetRef,
    #[serde(default)]
    default: Option<Value>,
    #[serde(default)]
    rules: Vec<Value>,
}

impl ToForm {
    fn into_entry(self, kind: Kind) -> ToEntry {
        let conf = match kind {
            // The highest policy's rules come first in the end, so lists are kept reversed while they are merged.
            Kind::MeshHTTPRoute => {
                let rules: Vec<Value> = self.rules.into_iter().rev().collect();
                serde_json::json!({ "rules": rules })
            }
            Kind::MeshTCPRoute => match self.rules.into_iter().next() {
                Some(rule) => rule,
                None => {
                    let mut own = serde_json::json!({ "kind": self.target_ref.kind, "weight": 1 });
                    if let Value::Object(members) = &mut own {
                        if let Some(labels) = &self.target_ref.labels {
                            members.insert("labels".to_owned(), serde_json::json!(labels));
                        }
                        if let Some(section) = self.target_ref.section() {
                            members.insert("sectionName".to_owned(), section.into());
                        }
                    }
                    serde_json::json!({ "default": { "backendRefs": [own] } })
                }
            },
            _ => self.default.unwrap_or_else(empty),
        };
        ToEntry {
            target_ref: self.target_ref,
            conf,
        }
    }
}

#[derive(Deserialize)]
struct RulesForm {
    #[serde(default)]
    matches: Option<Vec<crate::conf::Match>>,
    #[serde(default)]
    default: Option<Value>,
}
