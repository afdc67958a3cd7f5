//! Merged policy confs as resolved settings: every default filled in.

use std::time::Duration;

use serde::de::DeserializeOwned;
use serde_json::Value;
use zonal_model::Kind;
use zonal_policy::conf::{PermissionConf, TimeoutConf};
use zonal_policy::{DataplanePolicies, InboundKey, InboundRule};

/// MeshTimeout with its defaults.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Timeouts {
    /// To establish a connection.
    pub(crate) connect: Duration,
    /// A connection without traffic.
    pub(crate) idle: Duration,
    /// A connection's whole life; zero means no end.
    pub(crate) connection_max: Duration,
    /// A stream's whole life; zero means no end.
    pub(crate) stream_max: Duration,
    /// A request.
    pub(crate) request: Duration,
    /// A stream without traffic.
    pub(crate) stream_idle: Duration,
    /// The headers of a request; zero means no end.
    pub(crate) request_headers: Duration,
}

impl Default for Timeouts {
    fn default() -> Self {
        Self::of(&TimeoutConf::default())
    }
}

impl Timeouts {
    /// Fills in what the conf leaves open.
    pub(crate) fn of(conf: &TimeoutConf) -> Self {
        let http = conf.http.clone().unwrap_or_default();
        Self {
            connect: conf.connection_timeout.unwrap_or(Duration::from_secs(5)),
            idle: conf.idle_timeout.unwrap_or(Duration::from_secs(3600)),
            connection_max: http.max_connection_duration.unwrap_or_default(),
            stream_max: http.max_stream_duration.unwrap_or_default(),
            request: http.request_timeout.unwrap_or(Duration::from_secs(15)),
            stream_idle: http
                .stream_idle_timeout
                .unwrap_or(Duration::from_secs(1800)),
            request_headers: http.request_headers_timeout.unwrap_or_default(),
        }
    }
}

/// The permissions of one inbound, highest precedence last. Without any, nobody is let in.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Permissions {
    pub(crate) rules: Vec<PermissionRule>,
}

/// One policy's rule.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct PermissionRule {
    /// The policy's KRI.
    pub(crate) origin: String,
    /// What it says.
    pub(crate) conf: PermissionConf,
}

impl PermissionRule {
    /// Whether some match asks for a server name, which a listener has to look for.
    pub(crate) fn mentions_sni(&self) -> bool {
        [
            &self.conf.deny,
            &self.conf.allow,
            &self.conf.allow_with_shadow_deny,
        ]
        .into_iter()
        .flatten()
        .flatten()
        .any(|caller| caller.sni.is_some())
    }
}

/// The conf of one filter chain of a zone proxy: what is said about everything, and over it what is said about exactly
/// the chain's server name. `None` where nothing is said.
pub(crate) fn of_chain<T: DeserializeOwned>(
    policies: &DataplanePolicies,
    kind: Kind,
    listener: &InboundKey,
    sni: &str,
) -> Option<T> {
    let rules = policies.kind(kind).inbound_rules(listener);
    let everything = rules.iter().filter(|rule| rule.matches.is_none());
    let mut merged: Option<Value> = None;
    for rule in everything.chain(rules.iter().filter(|rule| is_about(rule, sni))) {
        match &mut merged {
            Some(merged) => patch(merged, &rule.conf),
            None => merged = Some((*rule.conf).clone()),
        }
    }
    T::deserialize(merged?).ok()
}

fn is_about(rule: &InboundRule, sni: &str) -> bool {
    rule.matches.as_ref().is_some_and(|matches| {
        matches.spiffe_id.is_none() && matches.sni.as_ref().is_some_and(|name| name.value == sni)
    })
}

/// JSON merge patch; nothing is ever taken out.
pub(crate) fn patch(target: &mut Value, with: &Value) {
    match (target, with) {
        (Value::Object(target), Value::Object(with)) => {
            for (name, value) in with {
                patch(target.entry(name.clone()).or_insert(Value::Null), value);
            }
        }
        (target, with) => target.clone_from(with),
    }
}
