//! All policies of one proxy, matched and merged.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use serde::de::DeserializeOwned;
use serde_json::Value;
use zonal_model::{Kind, Kri};

use crate::conf::{
    CircuitBreakerConf, HttpRouteConf, Match, PermissionConf, RetryConf, SpiffeMatchKind,
    TcpRouteConf, TimeoutConf,
};
use crate::merge::{merge, rules_of};
use crate::order::{compare_entries, compare_policies};
use crate::policy::{Policies, Policy, TargetRef, ToEntry};
use crate::routes::matches_hash;
use crate::subject::{InboundKey, Subject};
use crate::targets::{Targets, mesh_kri};

/// A policy and the index of the item in its list that contributed.
#[derive(Clone, Debug)]
pub struct Origin {
    /// The policy.
    pub policy: Arc<Policy>,
    /// The index in its `to` or `rules`; 0 for a policy that is proxy-wide.
    pub index: usize,
}

impl PartialEq for Origin {
    fn eq(&self, other: &Self) -> bool {
        self.index == other.index && self.policy.resource.key == other.policy.resource.key
    }
}

/// One rule of an inbound; rules are not merged with each other.
#[derive(Clone, Debug)]
pub struct InboundRule {
    /// What it is about; `None` for everything.
    pub matches: Option<Match>,
    /// What it says.
    pub conf: Arc<Value>,
    /// Who says it.
    pub origin: Origin,
}

/// What is said about one destination.
#[derive(Clone, Debug)]
pub struct ToRule {
    /// The destination: the mesh, a service, one port of a service, or a route. A port is written by its name.
    pub kri: Kri,
    /// The number of the port, where it is about one.
    pub port: Option<u16>,
    /// The merged conf.
    pub conf: Value,
    /// Who contributed, lowest precedence first.
    pub origins: Vec<Origin>,
    /// MeshHTTPRoute only: who has the last word about requests that match exactly so, by [`matches_hash`].
    pub origin_by_matches: BTreeMap<Arc<str>, Origin>,
}

/// What is said about the whole proxy.
#[derive(Clone, Debug)]
pub struct ProxyRule {
    /// The merged conf.
    pub conf: Value,
    /// Who contributed, lowest precedence first.
    pub origins: Vec<Origin>,
}

/// What the policies of one kind say to one proxy.
#[derive(Clone, Debug, Default)]
pub struct KindPolicies {
    /// The policies that touch the proxy, lowest precedence first.
    pub matched: Vec<Arc<Policy>>,
    /// The rules of each inbound and zone proxy listener that has some.
    pub inbound: BTreeMap<InboundKey, Vec<InboundRule>>,
    /// The rules of the destinations that some `to` names; others fall back, see [`KindPolicies::nearest`].
    pub to: BTreeMap<Kri, ToRule>,
    /// For the kinds that have one conf for the whole proxy.
    pub proxy: Option<ProxyRule>,
    /// What could not be resolved.
    pub warnings: Vec<String>,
}

impl KindPolicies {
    /// Merges policies of one kind that are known to touch a proxy, and each of its inbounds.
    #[must_use]
    pub fn merged(
        kind: Kind,
        mut matched: Vec<Arc<Policy>>,
        per_inbound: BTreeMap<InboundKey, Vec<Arc<Policy>>>,
        policies: &Policies,
        targets: &Targets,
    ) -> Self {
        sort(&mut matched);
        let mut merged = Self::default();
        if let Some(traits) = kind.descriptor().policy {
            if traits.rules {
                merged.inbound = per_inbound
                    .into_iter()
                    .map(|(inbound, policies)| (inbound, inbound_rules(policies)))
                    .filter(|(_, rules)| !rules.is_empty())
                    .collect();
            }
            if traits.to {
                merged.to = to_rules(kind, &matched, policies, targets);
            }
            if !traits.rules && !traits.to {
                merged.proxy = proxy_rule(kind, &matched);
            }
        }
        merged.matched = matched;
        merged
    }

    /// The rule of a destination: its own, else its service's, else the mesh's. The first found holds alone, since
    /// every rule contains what is said more generally.
    ///
    /// The section is the port's name or number.
    #[must_use]
    pub fn nearest(&self, destination: &Kri) -> Option<&ToRule> {
        self.exact(destination)
            .or_else(|| self.to.get(&mesh_kri(&destination.mesh)))
    }

    fn exact(&self, kri: &Kri) -> Option<&ToRule> {
        if let Some(rule) = self.to.get(kri) {
            return Some(rule);
        }
        if kri.section.is_empty() {
            return None;
        }
        let whole = kri.clone().without_section();
        let number: Option<u16> = kri.section.parse().ok();
        let of_number = || {
            let number = number?;
            self.to
                .range(&whole..)
                .map(|(_, rule)| rule)
                .take_while(|rule| rule.kri.name == whole.name && rule.kri.zone == whole.zone)
                .find(|rule| {
                    rule.port == Some(number) && rule.kri.clone().without_section() == whole
                })
        };
        of_number().or_else(|| self.to.get(&whole))
    }

    /// The rules of one inbound.
    #[must_use]
    pub fn inbound_rules(&self, inbound: &InboundKey) -> &[InboundRule] {
        self.inbound
            .get(inbound)
            .map(Vec::as_slice)
            .unwrap_or_default()
    }
}

/// Everything that the policies of a mesh say to one proxy.
#[derive(Clone, Debug, Default)]
pub struct DataplanePolicies {
    by_kind: BTreeMap<Kind, KindPolicies>,
}

static NOTHING: KindPolicies = KindPolicies {
    matched: Vec::new(),
    inbound: BTreeMap::new(),
    to: BTreeMap::new(),
    proxy: None,
    warnings: Vec::new(),
};

impl DataplanePolicies {
    /// Matches and merges everything for one proxy; shadow policies only take part when `shadow` is set.
    #[must_use]
    pub fn new(policies: &Policies, targets: &Targets, subject: &Subject, shadow: bool) -> Self {
        let mut by_kind = BTreeMap::new();
        for kind in Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.descriptor().policy.is_some())
        {
            let of_kind = Self::of_kind(kind, policies, targets, subject, shadow);
            if !of_kind.matched.is_empty() || !of_kind.warnings.is_empty() {
                by_kind.insert(kind, of_kind);
            }
        }
        Self { by_kind }
    }

    /// Matches and merges the policies of one kind.
    #[must_use]
    pub fn of_kind(
        kind: Kind,
        policies: &Policies,
        targets: &Targets,
        subject: &Subject,
        shadow: bool,
    ) -> KindPolicies {
        let mut result = KindPolicies::default();
        let mut per_inbound: BTreeMap<InboundKey, Vec<Arc<Policy>>> = BTreeMap::new();
        for policy in policies.of_kind(kind) {
            if policy.shadow && !shadow {
                continue;
            }
            match policy.select(policies, subject) {
                Err(error) => result.warnings.push(format!(
                    "unable to resolve TargetRef on policy: mesh:{} name:{} error:\"{error}\"",
                    policy.resource.key.mesh, policy.resource.key.name
                )),
                Ok(selected) if selected.is_empty() => {}
                Ok(selected) => {
                    result.matched.push(Arc::clone(policy));
                    for inbound in selected.inbounds {
                        per_inbound
                            .entry(inbound)
                            .or_default()
                            .push(Arc::clone(policy));
                    }
                }
            }
        }
        let warnings = std::mem::take(&mut result.warnings);
        KindPolicies {
            warnings,
            ..KindPolicies::merged(kind, result.matched, per_inbound, policies, targets)
        }
    }

    /// What one kind says; nothing is the same as an empty answer.
    #[must_use]
    pub fn kind(&self, kind: Kind) -> &KindPolicies {
        self.by_kind.get(&kind).unwrap_or(&NOTHING)
    }

    /// The kinds that say something, in the order in which they are applied.
    #[must_use]
    pub fn kinds(&self) -> Vec<(Kind, &KindPolicies)> {
        let mut kinds: Vec<_> = self
            .by_kind
            .iter()
            .map(|(kind, said)| (*kind, said))
            .collect();
        kinds.sort_by_key(|(kind, _)| kind.descriptor().policy.map(|traits| traits.order));
        kinds
    }

    /// The conf of `kind` for requests to `destination`, and on `route` where one is given: the route's rule, else the
    /// destination's, else the mesh's. A conf that cannot be read counts as absent.
    #[must_use]
    pub fn outbound<T: DeserializeOwned>(
        &self,
        kind: Kind,
        destination: &Kri,
        route: Option<&Kri>,
    ) -> Option<T> {
        let said = self.kind(kind);
        let rule = route
            .and_then(|route| said.exact(route))
            .or_else(|| said.nearest(destination))?;
        T::deserialize(&rule.conf).ok()
    }

    /// The merged conf of an inbound's rules without matches; `None` where there are none.
    #[must_use]
    pub fn inbound<T: DeserializeOwned>(&self, kind: Kind, inbound: &InboundKey) -> Option<T> {
        let rules = self.kind(kind).inbound_rules(inbound);
        let catch_all: Vec<&Value> = rules
            .iter()
            .filter(|rule| rule.matches.is_none())
            .map(|rule| &*rule.conf)
            .collect();
        if catch_all.is_empty() {
            return None;
        }
        T::deserialize(&merge(kind, catch_all)).ok()
    }

    /// MeshTimeout towards a destination.
    #[must_use]
    pub fn timeout(&self, destination: &Kri, route: Option<&Kri>) -> TimeoutConf {
        self.outbound(Kind::MeshTimeout, destination, route)
            .unwrap_or_default()
    }

    /// MeshTimeout of an inbound; `None` means that no rule is without matches.
    #[must_use]
    pub fn inbound_timeout(&self, inbound: &InboundKey) -> Option<TimeoutConf> {
        self.inbound(Kind::MeshTimeout, inbound)
    }

    /// MeshRetry towards a destination.
    #[must_use]
    pub fn retry(&self, destination: &Kri, route: Option<&Kri>) -> RetryConf {
        self.outbound(Kind::MeshRetry, destination, route)
            .unwrap_or_default()
    }

    /// MeshCircuitBreaker towards a destination; `None` leaves everything as it is.
    #[must_use]
    pub fn circuit_breaker(&self, destination: &Kri) -> Option<CircuitBreakerConf> {
        self.outbound(Kind::MeshCircuitBreaker, destination, None)
    }

    /// MeshCircuitBreaker of an inbound.
    #[must_use]
    pub fn inbound_circuit_breaker(&self, inbound: &InboundKey) -> Option<CircuitBreakerConf> {
        self.inbound(Kind::MeshCircuitBreaker, inbound)
    }

    /// MeshLoadBalancingStrategy towards a destination, unread; `null` where nothing is said.
    #[must_use]
    pub fn load_balancing(&self, destination: &Kri) -> Value {
        self.kind(Kind::MeshLoadBalancingStrategy)
            .nearest(destination)
            .map_or(Value::Null, |rule| rule.conf.clone())
    }

    /// The permissions of an inbound with the identifier of the policy of each, in order of precedence. None means that
    /// nobody may call, once identities are in force.
    #[must_use]
    pub fn permissions(&self, inbound: &InboundKey) -> Vec<(Kri, PermissionConf)> {
        self.kind(Kind::MeshTrafficPermission)
            .inbound_rules(inbound)
            .iter()
            .filter_map(|rule| {
                let conf: PermissionConf = serde::Deserialize::deserialize(&*rule.conf).ok()?;
                Some((rule.origin.policy.kri.clone(), conf))
            })
            .collect()
    }

    /// The merged rules of MeshHTTPRoute for a destination; the routes made of them are [`crate::routes::http_routes`].
    #[must_use]
    pub fn http_rules(&self, destination: &Kri) -> Option<(HttpRouteConf, &ToRule)> {
        let rule = self.kind(Kind::MeshHTTPRoute).nearest(destination)?;
        let conf: HttpRouteConf = serde::Deserialize::deserialize(&rule.conf).ok()?;
        Some((conf, rule))
    }

    /// The merged conf of MeshTCPRoute for a destination.
    #[must_use]
    pub fn tcp_rule(&self, destination: &Kri) -> Option<(TcpRouteConf, &ToRule)> {
        let rule = self.kind(Kind::MeshTCPRoute).nearest(destination)?;
        let conf: TcpRouteConf = serde::Deserialize::deserialize(&rule.conf).ok()?;
        Some((conf, rule))
    }
}

/// Lowest precedence first; policies of equal precedence stay in the order of their names.
fn sort(policies: &mut [Arc<Policy>]) {
    policies.sort_by(|a, b| {
        compare_policies(
            (a.rank, a.resource.display_name()),
            (b.rank, b.resource.display_name()),
        )
    });
}

/// Rules about a caller before rules about a server name before rules about everything; otherwise by precedence.
fn inbound_rules(mut policies: Vec<Arc<Policy>>) -> Vec<InboundRule> {
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

fn proxy_rule(kind: Kind, matched: &[Arc<Policy>]) -> Option<ProxyRule> {
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

fn to_rules(
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
