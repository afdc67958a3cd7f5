//! Rules of routes.

use std::collections::BTreeSet;

use super::common::{SERVICE_KINDS, backend_ref, target_ref, top_target_ref};
use crate::names::dns_1123_subdomain_problems;
use crate::node::Node;
use crate::violations::Violations;

pub(super) fn mesh_http_route(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    for entry in spec.at("to").items() {
        target_ref(&entry.at("targetRef"), SERVICE_KINDS, violations);
        let hostnames = entry.at("hostnames");
        if !hostnames.is_empty() {
            hostnames.report(violations, "must not be defined");
        }
        for rule in entry.at("rules").items() {
            for matching in rule.at("matches").items() {
                http_match(&matching, violations);
            }
            let only_prefixes = rule
                .at("matches")
                .items()
                .all(|matching| matching.down("path.type").text() == "PathPrefix");
            for filter in rule.down("default.filters").items() {
                http_filter(&filter, only_prefixes, violations);
            }
            for reference in rule.down("default.backendRefs").items() {
                backend_ref(&reference, violations);
            }
        }
    }
}

pub(super) fn mesh_tcp_route(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    for entry in spec.at("to").items() {
        target_ref(&entry.at("targetRef"), SERVICE_KINDS, violations);
        for rule in entry.at("rules").items() {
            let references = rule.down("default.backendRefs");
            if references.is_empty() {
                references.report(violations, "must be defined");
            }
            for reference in references.items() {
                backend_ref(&reference, violations);
            }
        }
    }
}

fn http_match(matching: &Node<'_>, violations: &mut Violations) {
    let path = matching.down("path.value");
    let text = path.text();
    match matching.down("path.type").text() {
        "PathPrefix" if text != "/" => {
            if text.ends_with('/') {
                path.report(violations, "does not need a trailing slash because only a `/`-separated prefix or an entire path is matched");
            }
            if !text.starts_with('/') {
                path.report(violations, "must be an absolute path");
            }
        }
        "Exact" if !text.starts_with('/') => path.report(violations, "must be an absolute path"),
        _ => {}
    }
    let mut names = BTreeSet::new();
    for parameter in matching.at("queryParams").items() {
        let name = parameter.at("name");
        if !names.insert(name.text()) {
            name.report(
                violations,
                format!("multiple entries for name {}", name.text()),
            );
        }
    }
    for header in matching.at("headers").items() {
        let value = header.at("value");
        if matches!(header.at("type").text(), "Present" | "Absent") && !value.is_empty() {
            value.report(violations, "must not be defined");
        }
    }
}

fn http_filter(filter: &Node<'_>, only_prefixes: bool, violations: &mut Violations) {
    let member = match filter.at("type").text() {
        "RequestHeaderModifier" => filter.at("requestHeaderModifier"),
        "ResponseHeaderModifier" => filter.at("responseHeaderModifier"),
        "RequestRedirect" => filter.at("requestRedirect"),
        "URLRewrite" => filter.at("urlRewrite"),
        "RequestMirror" => filter.at("requestMirror"),
        _ => return,
    };
    if !member.is_set() {
        member.report(violations, "must be defined");
        return;
    }
    match filter.at("type").text() {
        "RequestHeaderModifier" | "ResponseHeaderModifier" => header_modifier(&member, violations),
        "RequestRedirect" => {
            path_rewrite(&member, only_prefixes, violations);
            hostname(&member.at("hostname"), violations);
        }
        "URLRewrite" => {
            path_rewrite(&member, only_prefixes, violations);
            hostname(&member.at("hostname"), violations);
            let to_backend = member.at("hostToBackendHostname");
            if to_backend.is_true() {
                if member.at("hostname").is_set() {
                    to_backend.report(violations, "cannot be set together with hostname");
                }
                to_backend.report(violations, "must not be set");
            }
        }
        _ => backend_ref(&member.at("backendRef"), violations),
    }
}

fn header_modifier(modifier: &Node<'_>, violations: &mut Violations) {
    let lists = ["set", "add", "remove"];
    if lists.iter().all(|list| modifier.at(list).is_empty()) {
        modifier.report(
            violations,
            "must have at least one defined: set, add, remove",
        );
    }
    let mut names = BTreeSet::new();
    for list in lists {
        for entry in modifier.at(list).items() {
            let name = if list == "remove" {
                let path = format!("{}.name", entry.path());
                entry.renamed(path)
            } else {
                entry.at("name")
            };
            if !names.insert(name.text().to_lowercase()) {
                name.report(violations, "duplicate header name");
            }
        }
    }
}

fn path_rewrite(member: &Node<'_>, only_prefixes: bool, violations: &mut Violations) {
    let prefix = member.down("path.replacePrefixMatch");
    if prefix.is_set() && !only_prefixes {
        prefix.report(
            violations,
            "can only appear if all matches match a path prefix",
        );
    }
}

fn hostname(hostname: &Node<'_>, violations: &mut Violations) {
    if !hostname.is_set() {
        return;
    }
    if hostname.text().parse::<std::net::IpAddr>().is_ok() {
        hostname.report(violations, "cannot be an IP address");
    }
    for problem in dns_1123_subdomain_problems(hostname.text()) {
        hostname.report(violations, problem);
    }
}
