//! Settings of an inbound that hold for certain callers only.
//!
//! A filter chain cannot tell callers apart, routes can: the connection's peer is written into the filter state when the
//! handshake is done, and each rule gets a copy of the route that matches on it.

use std::cmp::Reverse;

use kds_proto::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::route::v3::Route;
use kds_proto::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use kds_proto::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{
    Key, Value as StateValue,
};
use kds_proto::envoy::extensions::filters::network::set_filter_state::v3::Config;
use kds_proto::envoy::r#type::matcher::v3::{
    FilterStateMatcher, StringMatcher, filter_state_matcher, string_matcher::MatchPattern,
};
use serde_json::Value;
use zonal_policy::InboundRule;
use zonal_policy::conf::{Match, SpiffeMatchKind};

use crate::confs::patch;
use crate::envoy::{any, listener};

const FILTER: &str = "envoy.filters.network.set_filter_state";

/// Rules about callers, most specific first, each with everything that holds for those it matches.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Callers {
    /// Before the keys of the filter state.
    namespace: &'static str,
    rules: Vec<(Match, Value)>,
}

impl Callers {
    /// Nobody.
    pub(crate) const fn none(namespace: &'static str) -> Self {
        Self {
            namespace,
            rules: Vec::new(),
        }
    }

    /// Takes the rules that name callers and are `relevant`; `base` holds for everybody.
    pub(crate) fn of(
        namespace: &'static str,
        rules: &[InboundRule],
        relevant: impl Fn(&Value) -> bool,
        base: Option<&Value>,
    ) -> Self {
        let mut said: Vec<(&Match, &Value)> = rules
            .iter()
            .filter_map(|rule| {
                let matches = rule
                    .matches
                    .as_ref()
                    .filter(|matches| matches.spiffe_id.is_some())?;
                relevant(&rule.conf).then_some((matches, &*rule.conf))
            })
            .collect();
        said.sort_by_key(|(matches, _)| specificity(matches));
        let mut distinct: Vec<&Match> = Vec::new();
        for (matches, _) in &said {
            if !distinct.contains(matches) {
                distinct.push(matches);
            }
        }
        let rules = distinct
            .into_iter()
            .map(|of| {
                let mut merged = base
                    .cloned()
                    .unwrap_or_else(|| Value::Object(serde_json::Map::new()));
                // Least specific first, so that the more specific overrides.
                for (_, conf) in said.iter().rev().filter(|(wider, _)| subsumes(wider, of)) {
                    patch(&mut merged, conf);
                }
                (of.clone(), merged)
            })
            .collect();
        Self { namespace, rules }
    }

    /// The conf of each rule.
    pub(crate) fn confs(&self) -> impl Iterator<Item = &Value> {
        self.rules.iter().map(|(_, conf)| conf)
    }

    fn caller_key(&self) -> String {
        format!("{}.match.spiffe_id", self.namespace)
    }

    fn sni_key(&self) -> String {
        format!("{}.match.sni", self.namespace)
    }

    /// What has to be written down of a connection.
    fn states(&self) -> Vec<FilterStateValue> {
        if self.rules.is_empty() {
            return Vec::new();
        }
        let mut values = vec![state(&self.caller_key(), "%DOWNSTREAM_PEER_URI_SAN%")];
        if self.rules.iter().any(|(matches, _)| matches.sni.is_some()) {
            values.push(state(&self.sni_key(), "%REQUESTED_SERVER_NAME%"));
        }
        values
    }

    /// A copy of each route per rule, changed by the rule's conf, then the route itself.
    pub(crate) fn routes(
        &self,
        routes: &[Route],
        change: impl Fn(&mut Route, &Value),
    ) -> Vec<Route> {
        let mut made = Vec::new();
        for route in routes {
            for (matches, conf) in &self.rules {
                let mut copy = route.clone();
                if let Some(request) = &mut copy.r#match {
                    request.filter_state.extend(self.matchers(matches));
                }
                change(&mut copy, conf);
                made.push(copy);
            }
            made.push(route.clone());
        }
        made
    }

    fn matchers(&self, of: &Match) -> impl Iterator<Item = FilterStateMatcher> + use<> {
        let matcher = |key: String, pattern| FilterStateMatcher {
            key,
            matcher: Some(filter_state_matcher::Matcher::StringMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..StringMatcher::default()
            })),
        };
        let caller = of.spiffe_id.as_ref().map(|id| {
            let value = id.value.clone();
            let pattern = match id.kind {
                SpiffeMatchKind::Exact => MatchPattern::Exact(value),
                SpiffeMatchKind::Prefix => MatchPattern::Prefix(value),
            };
            matcher(self.caller_key(), pattern)
        });
        let sni = of
            .sni
            .as_ref()
            .map(|sni| matcher(self.sni_key(), MatchPattern::Exact(sni.value.clone())));
        caller.into_iter().chain(sni)
    }
}

/// The filter that writes down who calls, for all policies that want to know; `None` when none does.
pub(crate) fn filter(of: &[&Callers]) -> Option<Filter> {
    let values: Vec<FilterStateValue> = of.iter().flat_map(|callers| callers.states()).collect();
    if values.is_empty() {
        return None;
    }
    let config = Config {
        on_downstream_tls_handshake: values,
        ..Config::default()
    };
    Some(listener::filter(FILTER, any(&config)))
}

/// Exact before prefix, with a server name before without, longer prefixes before shorter ones.
fn specificity(matches: &Match) -> (bool, bool, Reverse<usize>) {
    let prefix = matches
        .spiffe_id
        .as_ref()
        .filter(|id| id.kind == SpiffeMatchKind::Prefix)
        .map(|id| id.value.len());
    (
        prefix.is_some(),
        matches.sni.is_none(),
        Reverse(prefix.unwrap_or_default()),
    )
}

/// Whether whatever `narrow` matches, `wide` matches too.
fn subsumes(wide: &Match, narrow: &Match) -> bool {
    let callers = match (&wide.spiffe_id, &narrow.spiffe_id) {
        (None, _) => true,
        (Some(_), None) => false,
        (Some(wide), Some(narrow)) => match wide.kind {
            SpiffeMatchKind::Exact => wide == narrow,
            SpiffeMatchKind::Prefix => narrow.value.starts_with(&wide.value),
        },
    };
    callers && (wide.sni.is_none() || wide.sni == narrow.sni)
}

#[expect(
    deprecated,
    reason = "proxies of other control planes of the mesh get it in this form"
)]
fn state(key: &str, format: &str) -> FilterStateValue {
    FilterStateValue {
        factory_key: "envoy.string".to_owned(),
        read_only: true,
        skip_if_empty: true,
        key: Some(Key::ObjectKey(key.to_owned())),
        value: Some(StateValue::FormatString(SubstitutionFormatString {
            format: Some(Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString(format.to_owned())),
                ..DataSource::default()
            })),
            ..SubstitutionFormatString::default()
        })),
        ..FilterStateValue::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_policy::conf::SpiffeMatch;

    fn caller(kind: SpiffeMatchKind, value: &str) -> Match {
        Match {
            spiffe_id: Some(SpiffeMatch {
                kind,
                value: value.to_owned(),
            }),
            sni: None,
        }
    }

    #[test]
    fn a_prefix_subsumes_longer_prefixes_and_exact_names_below_it() {
        let wide = caller(SpiffeMatchKind::Prefix, "spiffe://a/");
        let narrow = caller(SpiffeMatchKind::Exact, "spiffe://a/web");
        assert!(subsumes(&wide, &narrow) && !subsumes(&narrow, &wide));
        assert!(specificity(&narrow) < specificity(&wide));
    }
}
