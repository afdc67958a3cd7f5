//! HTTP routes: what a request must look like, where it goes, and what is changed on the way.

use std::collections::BTreeSet;

use kds_proto::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source::Specifier,
    header_value_option::HeaderAppendAction,
};
use kds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use kds_proto::envoy::config::route::v3::query_parameter_matcher::QueryParameterMatchSpecifier;
use kds_proto::envoy::config::route::v3::redirect_action::{
    PathRewriteSpecifier, RedirectResponseCode, SchemeRewriteSpecifier,
};
use kds_proto::envoy::config::route::v3::route::Action;
use kds_proto::envoy::config::route::v3::route_action::{
    ClusterSpecifier, HostRewriteSpecifier, RequestMirrorPolicy,
};
use kds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use kds_proto::envoy::config::route::v3::weighted_cluster::ClusterWeight;
use kds_proto::envoy::config::route::v3::{
    DirectResponseAction, HeaderMatcher, QueryParameterMatcher, RedirectAction, Route, RouteAction,
    RouteConfiguration, RouteMatch, VirtualHost, WeightedCluster,
};
use kds_proto::envoy::r#type::matcher::v3::{
    RegexMatchAndSubstitute, RegexMatcher, StringMatcher, string_matcher::MatchPattern,
};
use zonal_policy::conf::{
    HeaderMatch, HeaderModifier, HttpMatch, PathMatchKind, PathRewrite, QueryMatch, Redirect,
    Rewrite,
};

use super::listener::Share;
use super::{boolean, duration, number, percent};

/// A configuration with one virtual host for every name.
pub(crate) fn configuration(name: &str, host: &str, routes: Vec<Route>) -> RouteConfiguration {
    RouteConfiguration {
        name: name.to_owned(),
        validate_clusters: Some(boolean(false)),
        virtual_hosts: vec![VirtualHost {
            name: host.to_owned(),
            domains: vec!["*".to_owned()],
            routes,
            ..VirtualHost::default()
        }],
        ..RouteConfiguration::default()
    }
}

fn prefix(value: &str) -> RouteMatch {
    RouteMatch {
        path_specifier: Some(PathSpecifier::Prefix(value.to_owned())),
        ..RouteMatch::default()
    }
}

fn to_cluster(cluster: &str) -> RouteAction {
    RouteAction {
        cluster_specifier: Some(ClusterSpecifier::Cluster(cluster.to_owned())),
        ..RouteAction::default()
    }
}

/// Requests below `path` go to `cluster` with the same path; timeouts are Envoy's own.
pub(crate) fn prefix_rewritten(path: &str, cluster: &str) -> Route {
    rewritten(path, path, cluster)
}

/// Requests below `path` go to `cluster` as requests below `to`; timeouts are Envoy's own.
pub(crate) fn rewritten(path: &str, to: &str, cluster: &str) -> Route {
    Route {
        r#match: Some(prefix(path)),
        action: Some(Action::Route(RouteAction {
            prefix_rewrite: to.to_owned(),
            ..to_cluster(cluster)
        })),
        ..Route::default()
    }
}

/// Every request goes to `cluster`.
pub(crate) fn everything_to(name: &str, cluster: &str) -> Route {
    Route {
        name: name.to_owned(),
        r#match: Some(prefix("/")),
        action: Some(Action::Route(to_cluster(cluster))),
        ..Route::default()
    }
}

/// Which half of a prefix match a route is: `/x` is split into the path `/x` and the prefix `/x/`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Half {
    /// Made of a match that is no prefix.
    Whole,
    /// The path itself.
    Path,
    /// What is below it.
    Below,
}

/// The Envoy matches of one match of a rule: one, or two for a prefix other than `/`.
pub(crate) fn matches(of: &HttpMatch) -> Vec<(Half, RouteMatch)> {
    let mut headers = Vec::new();
    if let Some(method) = &of.method {
        headers.push(header_matcher(
            ":method",
            HeaderMatchSpecifier::StringMatch(pattern(MatchPattern::Exact(method.clone()))),
        ));
    }
    headers.extend(header_matches(
        of.headers.as_deref().unwrap_or_default(),
        true,
    ));
    let base = RouteMatch {
        headers,
        query_parameters: query_matches(of.query_params.as_deref().unwrap_or_default()),
        ..RouteMatch::default()
    };
    let with = |path| RouteMatch {
        path_specifier: Some(path),
        ..base.clone()
    };
    let Some(path) = &of.path else {
        return vec![(Half::Below, with(PathSpecifier::Prefix("/".to_owned())))];
    };
    match path.kind {
        PathMatchKind::Exact => vec![(Half::Whole, with(PathSpecifier::Path(path.value.clone())))],
        PathMatchKind::RegularExpression => {
            vec![(
                Half::Whole,
                with(PathSpecifier::SafeRegex(regex(&path.value))),
            )]
        }
        PathMatchKind::PathPrefix => match path.value.trim_end_matches('/') {
            "" => vec![(Half::Below, with(PathSpecifier::Prefix("/".to_owned())))],
            trimmed => vec![
                (Half::Path, with(PathSpecifier::Path(trimmed.to_owned()))),
                (
                    Half::Below,
                    with(PathSpecifier::Prefix(format!("{trimmed}/"))),
                ),
            ],
        },
    }
}

fn pattern(pattern: MatchPattern) -> StringMatcher {
    StringMatcher {
        match_pattern: Some(pattern),
        ..StringMatcher::default()
    }
}

fn regex(text: &str) -> RegexMatcher {
    RegexMatcher {
        regex: text.to_owned(),
        ..RegexMatcher::default()
    }
}

fn header_matcher(name: &str, how: HeaderMatchSpecifier) -> HeaderMatcher {
    HeaderMatcher {
        name: name.to_owned(),
        header_match_specifier: Some(how),
        ..HeaderMatcher::default()
    }
}

/// Header matchers in order; a name that comes again is passed over. `empty_prefix_is_present` says what a prefix
/// match without a value means.
pub(crate) fn header_matches(
    of: &[HeaderMatch],
    empty_prefix_is_present: bool,
) -> Vec<HeaderMatcher> {
    let mut seen = BTreeSet::new();
    of.iter()
        .filter(|header| seen.insert(header.name.to_ascii_lowercase()))
        .map(|header| {
            let value = header.value.clone().unwrap_or_default();
            let how = match header.kind.as_deref().unwrap_or("Exact") {
                "Present" => HeaderMatchSpecifier::PresentMatch(true),
                "Absent" => HeaderMatchSpecifier::PresentMatch(false),
                "Prefix" if value.is_empty() && empty_prefix_is_present => {
                    HeaderMatchSpecifier::PresentMatch(true)
                }
                "Prefix" => HeaderMatchSpecifier::StringMatch(pattern(MatchPattern::Prefix(value))),
                "RegularExpression" => HeaderMatchSpecifier::StringMatch(pattern(
                    MatchPattern::SafeRegex(regex(&value)),
                )),
                _ => HeaderMatchSpecifier::StringMatch(pattern(MatchPattern::Exact(value))),
            };
            header_matcher(&header.name, how)
        })
        .collect()
}

fn query_matches(of: &[QueryMatch]) -> Vec<QueryParameterMatcher> {
    let mut seen = BTreeSet::new();
    of.iter()
        .filter(|query| seen.insert(query.name.clone()))
        .map(|query| {
            let how = match query.kind.as_str() {
                "RegularExpression" => MatchPattern::SafeRegex(regex(&query.value)),
                _ => MatchPattern::Exact(query.value.clone()),
            };
            QueryParameterMatcher {
                name: query.name.clone(),
                query_parameter_match_specifier: Some(QueryParameterMatchSpecifier::StringMatch(
                    pattern(how),
                )),
            }
        })
        .collect()
}

/// Forwards to the shares; `rewrite_host` takes the host's own name, which services outside of the mesh expect.
pub(crate) fn forward(shares: &[Share], rewrite_host: bool) -> RouteAction {
    let clusters = match shares {
        [only] => ClusterSpecifier::Cluster(only.cluster.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|share| ClusterWeight {
                    name: share.cluster.clone(),
                    weight: Some(number(share.weight)),
                    ..ClusterWeight::default()
                })
                .collect(),
            ..WeightedCluster::default()
        }),
    };
    RouteAction {
        cluster_specifier: Some(clusters),
        host_rewrite_specifier: rewrite_host
            .then(|| HostRewriteSpecifier::AutoHostRewrite(boolean(true))),
        timeout: Some(duration(std::time::Duration::ZERO)),
        ..RouteAction::default()
    }
}

/// Every request is answered with `status` and `body`.
pub(crate) fn everything_answered(status: u32, body: &str) -> Route {
    Route {
        r#match: Some(prefix("/")),
        action: Some(answer_with(status, body)),
        ..Route::default()
    }
}

/// Answers with `status` and an empty body.
pub(crate) fn answer(status: u32) -> Action {
    answer_with(status, "")
}

fn answer_with(status: u32, body: &str) -> Action {
    Action::DirectResponse(DirectResponseAction {
        status,
        body: Some(DataSource {
            specifier: Some(Specifier::InlineString(body.to_owned())),
            ..DataSource::default()
        }),
        ..DirectResponseAction::default()
    })
}

fn added(
    header: &zonal_policy::conf::HeaderValue,
    action: HeaderAppendAction,
) -> HeaderValueOption {
    HeaderValueOption {
        header: Some(HeaderValue {
            key: header.name.clone(),
            value: header.value.clone(),
            ..HeaderValue::default()
        }),
        append_action: action.into(),
        ..HeaderValueOption::default()
    }
}

/// Headers of checks and of refusals: those added, then those set; a value with commas becomes one per piece.
pub(crate) fn limit_headers(
    add: &[zonal_policy::conf::HeaderValue],
    set: &[zonal_policy::conf::HeaderValue],
) -> Vec<HeaderValueOption> {
    let pieces = |header: &zonal_policy::conf::HeaderValue, action: HeaderAppendAction| {
        header
            .value
            .split(',')
            .map(|value| {
                let piece = zonal_policy::conf::HeaderValue {
                    name: header.name.clone(),
                    value: value.to_owned(),
                };
                added(&piece, action)
            })
            .collect::<Vec<_>>()
    };
    let added = add
        .iter()
        .flat_map(|h| pieces(h, HeaderAppendAction::AppendIfExistsOrAdd));
    added
        .chain(
            set.iter()
                .flat_map(|h| pieces(h, HeaderAppendAction::OverwriteIfExistsOrAdd)),
        )
        .collect()
}

fn additions(of: &HeaderModifier) -> impl Iterator<Item = HeaderValueOption> {
    let set = of
        .set
        .iter()
        .map(|h| added(h, HeaderAppendAction::OverwriteIfExistsOrAdd));
    set.chain(
        of.add
            .iter()
            .map(|h| added(h, HeaderAppendAction::AppendIfExistsOrAdd)),
    )
}

pub(crate) fn modify_request(route: &mut Route, modifier: &HeaderModifier) {
    route.request_headers_to_add.extend(additions(modifier));
    route
        .request_headers_to_remove
        .extend(modifier.remove.iter().cloned());
}

pub(crate) fn modify_response(route: &mut Route, modifier: &HeaderModifier) {
    route.response_headers_to_add.extend(additions(modifier));
    route
        .response_headers_to_remove
        .extend(modifier.remove.iter().cloned());
}

/// A path change as Envoy does it for one half of a prefix match.
enum PathChange {
    Regex(RegexMatchAndSubstitute),
    Prefix(String),
}

/// `None` where the conf says nothing that fits the half, e.g. a type without its member.
fn path_change(conf: Option<&PathRewrite>, half: Half) -> Option<PathChange> {
    let conf = conf?;
    let whole = |substitution: &str| {
        PathChange::Regex(RegexMatchAndSubstitute {
            pattern: Some(regex(".*")),
            substitution: substitution.to_owned(),
        })
    };
    match conf.kind.as_str() {
        "ReplaceFullPath" => conf.replace_full_path.as_deref().map(whole),
        "ReplacePrefixMatch" => {
            let value = conf.replace_prefix_match.as_deref()?;
            match half {
                Half::Path => Some(whole(value)),
                Half::Below => Some(PathChange::Prefix(value.to_owned())),
                Half::Whole => None,
            }
        }
        _ => None,
    }
}

pub(crate) fn redirect(conf: &Redirect, half: Half) -> RedirectAction {
    let code = match conf.status_code {
        Some(301) => RedirectResponseCode::MovedPermanently,
        Some(303) => RedirectResponseCode::SeeOther,
        Some(307) => RedirectResponseCode::TemporaryRedirect,
        Some(308) => RedirectResponseCode::PermanentRedirect,
        _ => RedirectResponseCode::Found,
    };
    RedirectAction {
        host_redirect: conf.hostname.clone().unwrap_or_default(),
        port_redirect: conf.port.unwrap_or_default(),
        response_code: code.into(),
        scheme_rewrite_specifier: conf
            .scheme
            .clone()
            .map(SchemeRewriteSpecifier::SchemeRedirect),
        path_rewrite_specifier: path_change(conf.path.as_ref(), half).map(|change| match change {
            PathChange::Regex(regex) => PathRewriteSpecifier::RegexRewrite(regex),
            PathChange::Prefix(prefix) => PathRewriteSpecifier::PrefixRewrite(prefix),
        }),
        ..RedirectAction::default()
    }
}

pub(crate) fn rewrite(action: &mut RouteAction, conf: &Rewrite, half: Half) {
    if let Some(host) = &conf.hostname {
        action.host_rewrite_specifier =
            Some(HostRewriteSpecifier::HostRewriteLiteral(host.clone()));
    }
    match path_change(conf.path.as_ref(), half) {
        Some(PathChange::Regex(regex)) => action.regex_rewrite = Some(regex),
        Some(PathChange::Prefix(prefix)) => action.prefix_rewrite = prefix,
        None => {}
    }
}

/// Sends a copy to `cluster`, of every request or of a percentage.
pub(crate) fn mirror(action: &mut RouteAction, cluster: &str, percentage: Option<f64>) {
    action.request_mirror_policies.push(RequestMirrorPolicy {
        cluster: cluster.to_owned(),
        runtime_fraction: percentage
            .map(|percentage| percent::runtime(percent::fraction(percentage))),
        ..RequestMirrorPolicy::default()
    });
}
