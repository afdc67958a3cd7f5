//! Timeouts of an inbound that hold for certain callers only.
//!
//! A filter chain cannot tell callers apart, routes can: the connection's peer is written into the filter state when the
//! handshake is done, and each rule gets a copy of the route that matches on it.

use std::cmp::Reverse;
use std::time::Duration;

use kds_proto::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::route::v3::{Route, route::Action};
use kds_proto::envoy::extensions::filters::common::set_filter_state::v3::FilterStateValue;
use kds_proto::envoy::extensions::filters::common::set_filter_state::v3::filter_state_value::{
    Key, Value as StateValue,
};
use kds_proto::envoy::extensions::filters::network::set_filter_state::v3::Config;
use kds_proto::envoy::r#type::matcher::v3::{
    FilterStateMatcher, StringMatcher, filter_state_matcher, string_matcher::MatchPattern,
};
use serde::Deserialize;
use zonal_policy::InboundRule;
use zonal_policy::conf::{Match, SpiffeMatchKind, TimeoutConf};

use crate::envoy::{any, duration, listener};

const FILTER: &str = "envoy.filters.network.set_filter_state";
const CALLER_KEY: &str = "kuma.mesh_timeout.match.spiffe_id";
const SNI_KEY: &str = "kuma.mesh_timeout.match.sni";

/// Rules about callers, most specific first.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct CallerTimeouts {
    rules: Vec<(Match, Limits)>,
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Limits {
    request: Option<Duration>,
    stream_idle: Option<Duration>,
}

impl CallerTimeouts {
    /// Takes the rules that name callers and say something about requests.
    pub(crate) fn of(rules: &[InboundRule]) -> Self {
        let mut said: Vec<(Match, Limits)> = rules
            .iter()
            .filter_map(|rule| {
                let matches = rule
                    .matches
                    .clone()
                    .filter(|matches| matches.spiffe_id.is_some())?;
                let http = TimeoutConf::deserialize(&*rule.conf).ok()?.http?;
                let limits = Limits {
                    request: http.request_timeout,
                    stream_idle: http.stream_idle_timeout,
                };
                (limits != Limits::default()).then_some((matches, limits))
            })
            .collect();
        said.sort_by_key(|(matches, _)| specificity(matches));
        let mut distinct: Vec<&Match> = Vec::new();
        for (matches, _) in &said {
            if !distinct.contains(&matches) {
                distinct.push(matches);
            }
        }
        let rules = distinct
            .into_iter()
            .map(|of| {
                let mut merged = Limits::default();
                // Least specific first, so that the more specific overrides.
                for (_, limits) in said.iter().rev().filter(|(wider, _)| subsumes(wider, of)) {
                    merged.request = limits.request.or(merged.request);
                    merged.stream_idle = limits.stream_idle.or(merged.stream_idle);
                }
                (of.clone(), merged)
            })
            .collect();
        Self { rules }
    }

    /// The filter that writes down who calls; `None` without rules.
    pub(crate) fn filter(&self) -> Option<Filter> {
        if self.rules.is_empty() {
            return None;
        }
        let mut values = vec![state(CALLER_KEY, "%DOWNSTREAM_PEER_URI_SAN%")];
        if self.rules.iter().any(|(matches, _)| matches.sni.is_some()) {
            values.push(state(SNI_KEY, "%REQUESTED_SERVER_NAME%"));
        }
        let config = Config {
            on_downstream_tls_handshake: values,
            ..Config::default()
        };
        Some(listener::filter(FILTER, any(&config)))
    }

    /// A copy of `route` per rule, then the route itself.
    pub(crate) fn routes(&self, route: &Route) -> Vec<Route> {
        let copies = self.rules.iter().map(|(matches, limits)| {
            let mut copy = route.clone();
            if let Some(request) = &mut copy.r#match {
                request.filter_state.extend(state_matchers(matches));
            }
            if let Some(Action::Route(action)) = &mut copy.action {
                if let Some(timeout) = limits.request {
                    action.timeout = Some(duration(timeout));
                }
                if let Some(timeout) = limits.stream_idle {
                    action.idle_timeout = Some(duration(timeout));
                }
            }
            copy
        });
        copies.chain([route.clone()]).collect()
    }
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

fn state_matchers(of: &Match) -> impl Iterator<Item = FilterStateMatcher> {
    let matcher = |key: &str, pattern| FilterStateMatcher {
        key: key.to_owned(),
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
        matcher(CALLER_KEY, pattern)
    });
    let sni = of
        .sni
        .as_ref()
        .map(|sni| matcher(SNI_KEY, MatchPattern::Exact(sni.value.clone())));
    caller.into_iter().chain(sni)
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
