//! What policies say, merged: the form of the answer and how something is found in it.

use std::collections::BTreeMap;
use std::sync::Arc;

use serde_json::Value;
use zonal_model::Kri;

use crate::conf::Match;
use crate::policy::Policy;
use crate::subject::InboundKey;
use crate::targets::mesh_kri;

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
    /// MeshHTTPRoute only: who has the last word about requests that match exactly so, by [`matches_hash`](crate::matches_hash).
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
    /// The rules of the destinations that some `to` names; others fall back, see [`KindPolicies::nearest`]. Shared by all proxies
    /// that the same policies touch.
    pub to: Arc<BTreeMap<Kri, ToRule>>,
    /// For the kinds that have one conf for the whole proxy.
    pub proxy: Option<ProxyRule>,
    /// What could not be resolved.
    pub warnings: Vec<String>,
}

impl KindPolicies {
    /// The rule of a destination: its own, else its service's, else the mesh's. The first found holds alone, since
    /// every rule contains what is said more generally.
    ///
    /// The section is the port's name or number.
    #[must_use]
    pub fn nearest(&self, destination: &Kri) -> Option<&ToRule> {
        self.exact(destination)
            .or_else(|| self.to.get(&mesh_kri(&destination.mesh)))
    }

    pub(crate) fn exact(&self, kri: &Kri) -> Option<&ToRule> {
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
