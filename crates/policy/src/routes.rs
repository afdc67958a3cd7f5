//! The routes of one destination, in the order in which a proxy has to try them.

use std::cmp::{Ordering, Reverse};
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde_json::Value;
use sha2::{Digest, Sha256};
use zonal_model::Kri;

use crate::conf::{Filter, HttpMatch, PathMatch, PathMatchKind};
use crate::dataplane::DataplanePolicies;
use crate::merge::rules_of;
use crate::targets::{BackendRef, ResolvedBackend, Targets};

/// The weight of a destination that no reference names.
pub const IMPLICIT_WEIGHT: u32 = 100;

/// Requests of one shape, and where they go.
#[derive(Clone, Debug, PartialEq)]
pub struct HttpRoute {
    /// The identifier of the policy with section `rule_<index of the to item>`, or the hash of the implicit route's
    /// matches.
    pub name: Arc<str>,
    /// The policy; `None` for the implicit route.
    pub origin: Option<Kri>,
    /// What the requests look like; the path is always there.
    pub matches: HttpMatch,
    /// Changes of request or answer, in order.
    pub filters: Vec<Filter>,
    /// Where they go, with a port's name or number as section where the reference gives one; empty when
    /// [`all_unresolved`](Self::all_unresolved) is set or a redirect has no backends.
    pub backends: Vec<ResolvedBackend>,
    /// The share of requests whose destination does not exist: they have to fail with 500.
    pub unresolved_weight: u64,
    /// All references are unresolved: every request fails with 500.
    pub all_unresolved: bool,
}

impl HttpRoute {
    /// Whether the caller is sent elsewhere; the backends do not matter then.
    #[must_use]
    pub fn redirects(&self) -> bool {
        self.filters
            .iter()
            .any(|filter| matches!(filter, Filter::RequestRedirect { .. }))
    }
}

/// The routes towards `destination`, most specific first, with an implicit one for the rest. `http` says whether the
/// destination's port is HTTP-like; `None` means that there is nothing for an HTTP listener here.
#[must_use]
pub fn http_routes(
    policies: &DataplanePolicies,
    targets: &Targets,
    destination: &Kri,
    http: bool,
) -> Option<Vec<HttpRoute>> {
    let mut routes = Vec::new();
    match policies.http_rules(destination) {
        Some((conf, said)) => {
            // The same rules twice: as read, and as written, which is what their fingerprint is made of.
            for (rule, written) in conf.rules.into_iter().zip(rules_of(&said.conf)) {
                let hash = matches_hash(written.get("matches").unwrap_or(&Value::Null));
                let origin = said
                    .origin_by_matches
                    .get(&hash)
                    .or_else(|| said.origins.last());
                let Some(origin) = origin else { continue };
                let name = origin
                    .policy
                    .kri
                    .clone()
                    .with_section(format!("rule_{}", origin.index));
                let refs = rule.default.backend_refs.unwrap_or_default();
                let (backends, unresolved_weight) =
                    resolve_backends(&refs, targets, &origin.policy.kri);
                let all_unresolved = !refs.is_empty() && backends.is_empty();
                routes.extend(rule.matches.into_iter().map(|matches| HttpRoute {
                    name: name.to_string().into(),
                    origin: Some(origin.policy.kri.clone()),
                    matches,
                    filters: rule.default.filters.clone().unwrap_or_default(),
                    backends: backends.clone(),
                    unresolved_weight,
                    all_unresolved,
                }));
            }
        }
        None if !http => return None,
        None => {}
    }
    routes.sort_by(|a, b| compare_matches(&a.matches, &b.matches));
    let everything = HttpMatch {
        path: Some(PathMatch {
            kind: PathMatchKind::PathPrefix,
            value: "/".to_owned(),
        }),
        ..HttpMatch::default()
    };
    if !routes.iter().any(|route| route.matches == everything) {
        routes.push(HttpRoute {
            name: matches_hash(
                &serde_json::json!([{"path": {"value": "/", "type": "PathPrefix"}}]),
            ),
            origin: None,
            matches: everything.clone(),
            filters: Vec::new(),
            backends: Vec::new(),
            unresolved_weight: 0,
            all_unresolved: false,
        });
    }
    for route in &mut routes {
        if route.matches.path.is_none() {
            route.matches.path.clone_from(&everything.path);
        }
        if route.backends.is_empty() && !route.all_unresolved {
            route.backends = vec![ResolvedBackend {
                kri: destination.clone(),
                weight: IMPLICIT_WEIGHT,
            }];
        }
    }
    Some(routes)
}

/// Where connections to `destination` go: what a MeshTCPRoute says, else the destination itself. Empty means that no
/// reference leads anywhere.
#[must_use]
pub fn tcp_backends(
    policies: &DataplanePolicies,
    targets: &Targets,
    destination: &Kri,
) -> Vec<ResolvedBackend> {
    let itself = || {
        vec![ResolvedBackend {
            kri: destination.clone(),
            weight: IMPLICIT_WEIGHT,
        }]
    };
    let Some((conf, said)) = policies.tcp_rule(destination) else {
        return itself();
    };
    let Some(origin) = said.origins.last() else {
        return itself();
    };
    let Some(refs) = conf.default.backend_refs.filter(|refs| !refs.is_empty()) else {
        return itself();
    };
    refs.iter()
        .filter_map(|backend| resolve_port(backend, targets, &origin.policy.kri, false))
        .filter(|backend| backend.weight > 0)
        .collect()
}

/// The backend that a mirror filter of the route `origin` copies to.
#[must_use]
pub fn mirror_backend(
    backend: &BackendRef,
    targets: &Targets,
    origin: &Kri,
) -> Option<ResolvedBackend> {
    resolve_port(backend, targets, origin, true)
}

fn resolve_backends(
    refs: &[BackendRef],
    targets: &Targets,
    origin: &Kri,
) -> (Vec<ResolvedBackend>, u64) {
    let mut backends = Vec::new();
    let mut unresolved = 0_u64;
    for backend in refs {
        match resolve_port(backend, targets, origin, true) {
            Some(resolved) if resolved.weight > 0 => backends.push(resolved),
            Some(_) => {}
            None => unresolved += u64::from(backend.weight.unwrap_or(1)),
        }
    }
    (backends, unresolved)
}

/// Resolves a reference whose port has to exist, and be the only one where none is named.
fn resolve_port(
    backend: &BackendRef,
    targets: &Targets,
    origin: &Kri,
    http_only: bool,
) -> Option<ResolvedBackend> {
    let resolved = targets.resolve_backend(backend, origin)?;
    let target = targets.get(&resolved.kri)?;
    let port = if resolved.kri.section.is_empty() {
        match target.ports.as_slice() {
            [only] => only,
            _ => return None,
        }
    } else {
        target.port(&resolved.kri.section)?
    };
    (port.is_http() || !http_only).then_some(resolved)
}

/// Which of two matches is tried first.
fn compare_matches(a: &HttpMatch, b: &HttpMatch) -> Ordering {
    compare_paths(a.path.as_ref(), b.path.as_ref())
        .then_with(|| a.method.is_none().cmp(&b.method.is_none()))
        .then_with(|| {
            let count = |matches: &HttpMatch| Reverse(matches.headers.as_ref().map_or(0, Vec::len));
            count(a).cmp(&count(b))
        })
        .then_with(|| {
            let count =
                |matches: &HttpMatch| Reverse(matches.query_params.as_ref().map_or(0, Vec::len));
            count(a).cmp(&count(b))
        })
}

fn compare_paths(a: Option<&PathMatch>, b: Option<&PathMatch>) -> Ordering {
    match (a, b) {
        (None, None) => Ordering::Equal,
        (Some(_), None) => Ordering::Less,
        (None, Some(_)) => Ordering::Greater,
        (Some(a), Some(b)) => a.kind.cmp(&b.kind).then_with(|| match a.kind {
            PathMatchKind::Exact => Ordering::Equal,
            PathMatchKind::PathPrefix | PathMatchKind::RegularExpression => {
                b.value.len().cmp(&a.value.len())
            }
        }),
    }
}

/// The fingerprint of a list of matches: base64 of SHA-256 of its JSON, with members in the order of their definition.
#[must_use]
pub fn matches_hash(matches: &Value) -> Arc<str> {
    let mut text = String::new();
    let list = matches.as_array().map(Vec::as_slice).unwrap_or_default();
    text.push('[');
    for (index, one) in list.iter().enumerate() {
        if index > 0 {
            text.push(',');
        }
        write_object(
            &mut text,
            one,
            &["path", "method", "queryParams", "headers"],
            |text, name, value| match name {
                "path" => write_object(text, value, &["value", "type"], write_scalar),
                "queryParams" | "headers" => {
                    text.push('[');
                    for (index, item) in value.as_array().into_iter().flatten().enumerate() {
                        if index > 0 {
                            text.push(',');
                        }
                        write_object(text, item, &["type", "name", "value"], write_scalar);
                    }
                    text.push(']');
                }
                _ => write_scalar(text, name, value),
            },
        );
    }
    text.push(']');
    STANDARD.encode(Sha256::digest(text.as_bytes())).into()
}

fn write_object(
    text: &mut String,
    object: &Value,
    order: &[&str],
    write_member: impl Fn(&mut String, &str, &Value),
) {
    text.push('{');
    let mut first = true;
    for name in order {
        let Some(value) = object.get(name).filter(|value| !is_absent(value)) else {
            continue;
        };
        if !first {
            text.push(',');
        }
        first = false;
        text.push('"');
        text.push_str(name);
        text.push_str("\":");
        write_member(text, name, value);
    }
    text.push('}');
}

fn is_absent(value: &Value) -> bool {
    value.is_null() || value.as_array().is_some_and(Vec::is_empty)
}

/// JSON as Go prints it: the characters that matter to HTML are escaped.
fn write_scalar(text: &mut String, _name: &str, value: &Value) {
    for character in value.to_string().chars() {
        match character {
            '<' => text.push_str("\\u003c"),
            '>' => text.push_str("\\u003e"),
            '&' => text.push_str("\\u0026"),
            '\u{2028}' => text.push_str("\\u2028"),
            '\u{2029}' => text.push_str("\\u2029"),
            other => text.push(other),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_hash_of_everything_is_the_known_one() {
        let hash =
            matches_hash(&serde_json::json!([{"path": {"type": "PathPrefix", "value": "/"}}]));
        assert_eq!(&*hash, "9Zuf5Tg79OuZcQITwBbQykxAk2u4fRKrwYn3//AL4Yo=");
    }

    #[test]
    fn more_specific_matches_are_tried_first() {
        let path = |kind, value: &str| HttpMatch {
            path: Some(PathMatch {
                kind,
                value: value.to_owned(),
            }),
            ..HttpMatch::default()
        };
        let check = |first: &HttpMatch, second: &HttpMatch| {
            assert_eq!(
                compare_matches(first, second),
                Ordering::Less,
                "{first:?} {second:?}"
            );
        };
        let method = HttpMatch {
            method: Some("GET".to_owned()),
            ..HttpMatch::default()
        };
        check(
            &path(PathMatchKind::Exact, "/a"),
            &path(PathMatchKind::PathPrefix, "/a/long"),
        );
        check(
            &path(PathMatchKind::PathPrefix, "/abc"),
            &path(PathMatchKind::PathPrefix, "/a"),
        );
        check(
            &path(PathMatchKind::PathPrefix, "/"),
            &path(PathMatchKind::RegularExpression, "/.*"),
        );
        check(&path(PathMatchKind::PathPrefix, "/"), &method);
        check(&method, &HttpMatch::default());
    }
}
