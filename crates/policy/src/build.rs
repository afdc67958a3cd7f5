//! Building rules out of the policies that touch a proxy.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde_json::Value;
use zonal_model::{Kind, Kri};

use crate::conf::{Match, SpiffeMatchKind};
use crate::merge::{merge, rules_of};
use crate::order::{compare_entries, compare_policies};
use crate::policy::{Policies, Policy, TargetRef, ToEntry};
use crate::routes::matches_hash;
use crate::rules::{InboundRule, Origin, ProxyRule, ToRule};
use crate::targets::{Targets, mesh_kri};

/// Lowest precedence first; policies of equal precedence stay in the order of their names.
pub(crate) fn sort(policies: &mut [Arc<Policy>]) {
    policies.sort_by(|a, b| {
        compare_policies(
            (a.rank, a.resource.display_name()),
            (b.rank, b.resource.display_name()),
        )
    });
}

/// Rules about a caller before rules about a server name before rules about everything; otherwise by precedence.
pub(crate) fn inbound_rules(mut policies: Vec<Arc<Policy>>) -> Vec<InboundRule> {
    sort(&mut policies);
    let mut rules = Vec::new();
    for policy in &policies {
        for (index, entry) in policy.rules.iter().enumerate() {
            let conf = Arc::new(entry.conf.clone());
            let rule = |matches: Option<Match>| InboundRule {
                matches,
                conf: Arc::clone(&conf),
                origin: Origin {
                    policy: Arc::clone(policy),
                    index,
                },
            };
            if entry.matches.is_empty() {
                rules.push(rule(None));
            } else {
                rules.extend(
                    entry
                        .matches
                        .iter()
                        .cloned()
                        .map(|matches| rule(Some(matches))),
                );
            }
        }
    }
    rules.sort_by_key(|rule| match &rule.matches {
        None => (2, true),
        Some(matches) => {
            let caller = match &matches.spiffe_id {
                Some(id) if id.kind == SpiffeMatchKind::Exact => 0,
                Some(_) => 1,
                None => 2,
            };
            (caller, matches.sni.is_none())
        }
    });
    rules
}

pub(crate) fn proxy_rule(kind: Kind, matched: &[Arc<Policy>]) -> Option<ProxyRule> {
    if matched.is_empty() {
        return None;
    }
    Some(ProxyRule {
        conf: merge(
            kind,
            matched.iter().filter_map(|policy| policy.default.as_ref()),
        ),
        origins: matched
            .iter()
            .map(|policy| Origin {
                policy: Arc::clone(policy),
                index: 0,
            })
            .collect(),
    })
}

/// One `to` item on its way into rules.
struct Entry<'a> {
    target_ref: &'a TargetRef,
    conf: &'a Value,
    origin: Origin,
}

pub(crate) fn to_rules(
    kind: Kind,
    matched: &[Arc<Policy>],
    policies: &Policies,
    targets: &Targets,
) -> BTreeMap<Kri, ToRule> {
    let mut entries: Vec<Entry<'_>> = Vec::new();
    for policy in matched {
        // A policy stored for the requests of routes speaks about the destinations of those routes.
        let by_route: Option<Vec<&ToEntry>> =
            (policy.target_ref.kind == "MeshHTTPRoute").then(|| {
                policy
                    .referenced_routes(policies)
                    .flat_map(|route| &route.to)
                    .collect()
            });
        for (index, item) in policy.to.iter().enumerate() {
            let entry = |target_ref| Entry {
                target_ref,
                conf: &item.conf,
                origin: Origin {
                    policy: Arc::clone(policy),
                    index,
                },
            };
            match &by_route {
                None => entries.push(entry(&item.target_ref)),
                Some(of_routes) => {
                    entries.extend(of_routes.iter().map(|to| entry(&to.target_ref)));
                }
            }
        }
    }
    entries.sort_by(|a, b| {
        let key = |entry: &Entry<'_>| entry.origin.policy.rank;
        compare_entries(
            (
                key(a),
                a.target_ref,
                a.origin.policy.resource.display_name(),
            ),
            (
                key(b),
                b.target_ref,
                b.origin.policy.resource.display_name(),
            ),
        )
    });

    let mesh = mesh_kri(targets.mesh());
    let mut wanted: BTreeSet<Kri> = BTreeSet::new();
    let mut of_mesh: Vec<usize> = Vec::new();
    let mut by_kri: BTreeMap<Kri, Vec<usize>> = BTreeMap::new();
    for (index, entry) in entries.iter().enumerate() {
        for kri in targets.resolve(entry.target_ref) {
            if kri == mesh {
                of_mesh.push(index);
            } else {
                by_kri.entry(kri.clone()).or_default().push(index);
            }
            wanted.insert(kri);
        }
    }

    wanted
        .into_iter()
        .map(|kri| {
            // Entries are numbered in order of precedence, so an ordered set of their numbers is in order too.
            let mut relevant: BTreeSet<usize> = of_mesh.iter().copied().collect();
            relevant.extend(by_kri.get(&kri).into_iter().flatten());
            if !kri.section.is_empty() {
                let whole = kri.clone().without_section();
                relevant.extend(by_kri.get(&whole).into_iter().flatten());
            }
            let relevant: Vec<&Entry<'_>> = relevant
                .into_iter()
                .filter_map(|index| entries.get(index))
                .collect();
            let port = targets
                .get(&kri)
                .and_then(|target| target.port(&kri.section));
            let port = port.map(|port| port.number);
            (kri.clone(), to_rule(kind, kri, port, &relevant))
        })
        .collect()
}

fn to_rule(kind: Kind, kri: Kri, port: Option<u16>, entries: &[&Entry<'_>]) -> ToRule {
    let mut origins: Vec<Origin> = Vec::new();
    let mut origin_by_matches = BTreeMap::new();
    for entry in entries {
        if !origins.contains(&entry.origin) {
            origins.push(entry.origin.clone());
        }
        if kind == Kind::MeshHTTPRoute {
            for rule in rules_of(entry.conf) {
                let matches = rule.get("matches").unwrap_or(&Value::Null);
                origin_by_matches.insert(matches_hash(matches), entry.origin.clone());
            }
        }
    }
    let conf = merge(kind, entries.iter().map(|entry| entry.conf));
    ToRule {
        kri,
        port,
        conf,
        origins,
        origin_by_matches,
    }
}
