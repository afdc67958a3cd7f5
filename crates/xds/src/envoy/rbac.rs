//! Who may call: matchers over the caller's identity, as an HTTP filter or a network filter.

use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::rbac::v3::{Action, rbac::Action as Verdict};
use kds_proto::envoy::extensions::filters::http::rbac::v3::Rbac as HttpRbac;
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use kds_proto::envoy::extensions::filters::network::rbac::v3::Rbac as NetworkRbac;
use kds_proto::envoy::extensions::matching::common_inputs::network::v3::ServerNameInput;
use kds_proto::envoy::extensions::matching::common_inputs::ssl::v3::UriSanInput;
use kds_proto::xds::core::v3::TypedExtensionConfig;
use kds_proto::xds::r#type::matcher::v3::matcher::matcher_list::predicate::{
    MatchType, PredicateList, SinglePredicate, single_predicate,
};
use kds_proto::xds::r#type::matcher::v3::matcher::matcher_list::{FieldMatcher, Predicate};
use kds_proto::xds::r#type::matcher::v3::matcher::{MatcherList, MatcherType, OnMatch, on_match};
use kds_proto::xds::r#type::matcher::v3::{Matcher, StringMatcher, string_matcher::MatchPattern};

use super::{any, http, listener};
use crate::confs::Permissions;
use crate::names;
use zonal_policy::conf::{Match as CallerMatch, SpiffeMatchKind};

const HTTP: &str = "envoy.filters.http.rbac";
const NETWORK: &str = "envoy.filters.network.rbac";
const ACTION: &str = "envoy.filters.rbac.action";
const URI_SAN: &str = "envoy.matching.inputs.uri_san";
const SERVER_NAME: &str = "envoy.matching.inputs.server_name";

/// Refuses a request with 403 unless a permission lets it in.
pub(crate) fn http_filter(permissions: &Permissions) -> HttpFilter {
    let config = HttpRbac {
        matcher: Some(enforced(permissions)),
        shadow_matcher: shadow(permissions),
        ..HttpRbac::default()
    };
    http::http_filter(HTTP, any(&config))
}

/// Closes a connection unless a permission lets it in.
pub(crate) fn network_filter(listener_name: &str, permissions: &Permissions) -> Filter {
    let config = NetworkRbac {
        matcher: Some(enforced(permissions)),
        shadow_matcher: shadow(permissions),
        stat_prefix: format!("{}.", names::stat(listener_name)),
        ..NetworkRbac::default()
    };
    listener::filter(NETWORK, any(&config))
}

/// Denials first: no permission, however precise, outweighs one.
fn enforced(permissions: &Permissions) -> Matcher {
    let denials = permissions
        .rules
        .iter()
        .filter_map(|rule| field(&rule.origin, Verdict::Deny, rule.conf.deny.iter().flatten()));
    let allowances = permissions.rules.iter().filter_map(|rule| {
        let conf = &rule.conf;
        let allowed = conf
            .allow
            .iter()
            .flatten()
            .chain(conf.allow_with_shadow_deny.iter().flatten());
        field(&rule.origin, Verdict::Allow, allowed)
    });
    matcher(denials.chain(allowances).collect())
}

/// Counts what would be refused; `None` where no rule asks for it.
fn shadow(permissions: &Permissions) -> Option<Matcher> {
    let with_shadow: Vec<_> = permissions
        .rules
        .iter()
        .filter_map(|rule| {
            rule.conf
                .allow_with_shadow_deny
                .as_ref()
                .map(|list| (&rule.origin, list))
        })
        .collect();
    if with_shadow.is_empty() {
        return None;
    }
    Some(matcher(
        with_shadow
            .into_iter()
            .filter_map(|(origin, list)| field(origin, Verdict::Deny, list.iter()))
            .collect(),
    ))
}

fn matcher(fields: Vec<FieldMatcher>) -> Matcher {
    Matcher {
        on_no_match: Some(Box::new(act("default", Verdict::Deny))),
        matcher_type: (!fields.is_empty())
            .then_some(MatcherType::MatcherList(MatcherList { matchers: fields })),
    }
}

/// A matcher that does `action` with whatever `callers` does not match.
pub(crate) fn unless(callers: &CallerMatch, name: &str, action: pbjson_types::Any) -> Matcher {
    let Some(predicate) = caller(callers) else {
        return Matcher::default();
    };
    let negated = Predicate {
        match_type: Some(MatchType::NotMatcher(Box::new(predicate))),
    };
    Matcher {
        on_no_match: None,
        matcher_type: Some(MatcherType::MatcherList(MatcherList {
            matchers: vec![FieldMatcher {
                predicate: Some(negated),
                on_match: Some(OnMatch {
                    on_match: Some(on_match::OnMatch::Action(TypedExtensionConfig {
                        name: name.to_owned(),
                        typed_config: Some(action),
                    })),
                    ..OnMatch::default()
                }),
            }],
        })),
    }
}

fn act(name: &str, verdict: Verdict) -> OnMatch {
    let action = Action {
        name: name.to_owned(),
        action: verdict.into(),
    };
    OnMatch {
        on_match: Some(on_match::OnMatch::Action(TypedExtensionConfig {
            name: ACTION.to_owned(),
            typed_config: Some(any(&action)),
        })),
        ..OnMatch::default()
    }
}

/// `None` when nothing in the list can match.
fn field<'a>(
    origin: &str,
    verdict: Verdict,
    callers: impl Iterator<Item = &'a CallerMatch>,
) -> Option<FieldMatcher> {
    let mut predicates: Vec<Predicate> = callers.filter_map(caller).collect();
    let predicate = match predicates.len() {
        0 => return None,
        1 => predicates.pop()?,
        _ => joined(MatchType::OrMatcher, predicates),
    };
    Some(FieldMatcher {
        predicate: Some(predicate),
        on_match: Some(act(origin, verdict)),
    })
}

fn joined(how: impl FnOnce(PredicateList) -> MatchType, predicates: Vec<Predicate>) -> Predicate {
    Predicate {
        match_type: Some(how(PredicateList {
            predicate: predicates,
        })),
    }
}

fn caller(caller: &CallerMatch) -> Option<Predicate> {
    let identity = caller.spiffe_id.as_ref().map(|pattern| {
        let value = match pattern.kind {
            SpiffeMatchKind::Exact => MatchPattern::Exact(pattern.value.clone()),
            SpiffeMatchKind::Prefix => MatchPattern::Prefix(pattern.value.clone()),
        };
        single(URI_SAN, any(&UriSanInput::default()), value)
    });
    let name = caller.sni.as_ref().map(|sni| {
        single(
            SERVER_NAME,
            any(&ServerNameInput::default()),
            MatchPattern::Exact(sni.value.clone()),
        )
    });
    match (identity, name) {
        (Some(identity), Some(name)) => Some(joined(MatchType::AndMatcher, vec![identity, name])),
        (one, other) => one.or(other),
    }
}

fn single(input: &str, config: pbjson_types::Any, pattern: MatchPattern) -> Predicate {
    Predicate {
        match_type: Some(MatchType::SinglePredicate(SinglePredicate {
            input: Some(TypedExtensionConfig {
                name: input.to_owned(),
                typed_config: Some(config),
            }),
            matcher: Some(single_predicate::Matcher::ValueMatch(StringMatcher {
                match_pattern: Some(pattern),
                ..StringMatcher::default()
            })),
        })),
    }
}
