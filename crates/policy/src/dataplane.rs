//! All policies of one proxy, matched and merged.

use std::collections::{BTreeMap, HashMap};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};

use serde::de::DeserializeOwned;
use serde_json::Value;
use zonal_model::{Kind, Kri};

use crate::build::{inbound_rules, proxy_rule, sort, to_rules};
use crate::conf::{
    CircuitBreakerConf, HttpRouteConf, PermissionConf, RetryConf, TcpRouteConf, TimeoutConf,
};
use crate::merge::merge;
use crate::policy::{Policies, Policy};
use crate::rules::{KindPolicies, ToRule};
use crate::subject::{InboundKey, Subject};
use crate::targets::Targets;

/// Everything that the policies of a mesh say to one proxy.
#[derive(Clone, Debug, Default)]
pub struct DataplanePolicies {
    by_kind: BTreeMap<Kind, KindPolicies>,
}

static NOTHING: LazyLock<KindPolicies> = LazyLock::new(KindPolicies::default);

/// The policies of a kind that touch a proxy, by stored name.
type MatchedNames = (Kind, Vec<Arc<str>>);

/// Answers for the proxies of a mesh at one moment, and lets those that the same policies touch share what is merged.
///
/// Made anew for each pass over proxies; that is also what bounds the memory it shares.
#[derive(Debug)]
pub struct Matcher<'a> {
    policies: &'a Policies,
    targets: &'a Targets,
    shadow: bool,
    shared: Mutex<HashMap<MatchedNames, Arc<BTreeMap<Kri, ToRule>>>>,
}

impl<'a> Matcher<'a> {
    /// Of these policies and targets; shadow policies only take part when `shadow` is set.
    #[must_use]
    pub fn new(policies: &'a Policies, targets: &'a Targets, shadow: bool) -> Self {
        Self {
            policies,
            targets,
            shadow,
            shared: Mutex::default(),
        }
    }

    /// Matches and merges everything for one proxy.
    #[must_use]
    pub fn answer(&self, subject: &Subject) -> DataplanePolicies {
        let mut by_kind = BTreeMap::new();
        for kind in Kind::ALL
            .iter()
            .copied()
            .filter(|kind| kind.descriptor().policy.is_some())
        {
            let of_kind = self.kind(kind, subject);
            if !of_kind.matched.is_empty() || !of_kind.warnings.is_empty() {
                by_kind.insert(kind, of_kind);
            }
        }
        DataplanePolicies { by_kind }
    }

    /// Matches and merges the policies of one kind.
    #[must_use]
    pub fn kind(&self, kind: Kind, subject: &Subject) -> KindPolicies {
        let mut result = KindPolicies::default();
        let mut per_inbound: BTreeMap<InboundKey, Vec<Arc<Policy>>> = BTreeMap::new();
        for policy in self.policies.of_kind(kind) {
            if policy.shadow && !self.shadow {
                continue;
            }
            match policy.select(self.policies, subject) {
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
            ..self.merge(kind, result.matched, per_inbound)
        }
    }

    /// Merges policies of one kind that are known to touch a proxy, and each of its inbounds.
    #[must_use]
    pub fn merge(
        &self,
        kind: Kind,
        mut matched: Vec<Arc<Policy>>,
        per_inbound: BTreeMap<InboundKey, Vec<Arc<Policy>>>,
    ) -> KindPolicies {
        sort(&mut matched);
        let mut merged = KindPolicies::default();
        let Some(traits) = kind.descriptor().policy else {
            return merged;
        };
        if traits.rules {
            merged.inbound = per_inbound
                .into_iter()
                .map(|(inbound, policies)| (inbound, inbound_rules(policies)))
                .filter(|(_, rules)| !rules.is_empty())
                .collect();
        }
        if traits.to && !matched.is_empty() {
            merged.to = self.to_rules(kind, &matched);
        }
        if !traits.rules && !traits.to {
            merged.proxy = proxy_rule(kind, &matched);
        }
        merged.matched = matched;
        merged
    }

    fn to_rules(&self, kind: Kind, matched: &[Arc<Policy>]) -> Arc<BTreeMap<Kri, ToRule>> {
        let names = matched
            .iter()
            .map(|policy| Arc::clone(&policy.resource.key.name))
            .collect();
        let key = (kind, names);
        let mut shared = self.shared.lock().unwrap_or_else(PoisonError::into_inner);
        let rules = shared
            .entry(key)
            .or_insert_with(|| Arc::new(to_rules(kind, matched, self.policies, self.targets)));
        Arc::clone(rules)
    }
}

impl DataplanePolicies {
    /// The answer for one proxy alone; for several ask one [`Matcher`].
    #[must_use]
    pub fn new(policies: &Policies, targets: &Targets, subject: &Subject, shadow: bool) -> Self {
        Matcher::new(policies, targets, shadow).answer(subject)
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
