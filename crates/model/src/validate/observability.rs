//! Rules of access logs, traces and metrics.

use super::common::{TO_KINDS, decimal, inbound_match, target_ref, top_target_ref};
use crate::node::{Node, one_of_quoted};
use crate::violations::Violations;

fn must_be_defined(node: &Node<'_>, violations: &mut Violations) -> bool {
    if !node.is_set() {
        node.report(violations, "must be defined");
    }
    node.is_set()
}

/// A reference to a telemetry backend, which has to be there.
fn otel_backend_ref(otel: &Node<'_>, violations: &mut Violations) {
    let reference = otel.at("backendRef");
    if !must_be_defined(&reference, violations) {
        return;
    }
    let kind = reference.at("kind");
    if kind.text() != "MeshOpenTelemetryBackend" {
        kind.report(
            violations,
            one_of_quoted("kind", &["MeshOpenTelemetryBackend"]),
        );
    }
    if reference.at("labels").is_empty() {
        reference.report(
            violations,
            "backendRef must have exactly one defined: labels",
        );
    }
}

pub(super) fn mesh_access_log(spec: &Node<'_>, violations: &mut Violations) {
    let (to, rules) = (spec.at("to"), spec.at("rules"));
    top_target_ref(&spec.at("targetRef"), !rules.is_empty(), violations);
    if !to.is_empty() && !rules.is_empty() {
        spec.report(violations, "'to' must be empty when 'rules' is defined");
    }
    if to.is_empty() && rules.is_empty() {
        spec.report(
            violations,
            "at least one of 'to' or 'rules' has to be defined",
        );
    }
    for entry in to.items() {
        target_ref(&entry.at("targetRef"), TO_KINDS, violations);
        log_backends(&entry.down("default.backends"), violations);
    }
    for rule in rules.items() {
        for matching in rule.at("matches").items() {
            inbound_match(&matching, false, violations);
        }
        log_backends(&rule.down("default.backends"), violations);
    }
}

fn log_backends(backends: &Node<'_>, violations: &mut Violations) {
    must_be_defined(backends, violations);
    for backend in backends.items() {
        match backend.at("type").text() {
            "File" => {
                let file = backend.at("file");
                if must_be_defined(&file, violations) {
                    log_format(&file.at("format"), violations);
                    if !file.at("path").text().starts_with('/') {
                        file.at("path")
                            .report(violations, "file backend requires a valid path");
                    }
                }
            }
            "Tcp" => {
                let tcp = backend.at("tcp");
                if must_be_defined(&tcp, violations) {
                    log_format(&tcp.at("format"), violations);
                    if !is_host_and_port(tcp.at("address").text()) {
                        tcp.at("address")
                            .report(violations, "tcp backend requires valid address");
                    }
                }
            }
            "OpenTelemetry" => {
                let otel = backend.at("openTelemetry");
                if must_be_defined(&otel, violations) {
                    otel_backend_ref(&otel, violations);
                    for attribute in otel.at("attributes").items() {
                        attribute_key(&attribute.at("key"), violations);
                    }
                }
            }
            // The schema has refused other types.
            _ => {}
        }
    }
}

fn is_host_and_port(text: &str) -> bool {
    text.rsplit_once(':')
        .is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok_and(|p| p > 0))
}

fn log_format(format: &Node<'_>, violations: &mut Violations) {
    match format.at("type").text() {
        "Plain" => {
            let plain = format.at("plain");
            if must_be_defined(&plain, violations) && plain.is_empty() {
                plain.report(violations, "must not be empty");
            }
        }
        "Json" => {
            let json = format.at("json");
            if must_be_defined(&json, violations) && json.is_empty() {
                json.report(violations, "must not be empty");
            }
            for entry in json.items() {
                for member in ["key", "value"] {
                    if entry.at(member).is_empty() {
                        entry
                            .at(member)
                            .report(violations, format!("{member} cannot be empty"));
                    }
                }
            }
        }
        _ => {}
    }
}

fn attribute_key(key: &Node<'_>, violations: &mut Violations) {
    let text = key.text();
    let bytes = text.as_bytes();
    let alnum = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit();
    if text.is_empty() {
        key.report(violations, "must be defined");
    } else if text.contains('%') {
        key.report(violations, "must be a static OpenTelemetry attribute name; placeholders are only supported in values");
    } else if text.starts_with("otel.") {
        key.report(
            violations,
            "must not use the reserved OpenTelemetry prefix 'otel.'",
        );
    } else if !(bytes.first().is_some_and(u8::is_ascii_lowercase)
        && bytes.last().is_some_and(alnum)
        && bytes.iter().all(|b| alnum(b) || b"._".contains(b))
        && bytes.windows(2).all(|pair| pair.iter().any(alnum)))
    {
        key.report(violations, "must start with a lowercase letter, use only lowercase letters, digits, '.' or '_', avoid consecutive delimiters, and end with a letter or digit");
    }
}

pub(super) fn mesh_trace(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    let default = spec.at("default");
    let backends = default.at("backends");
    must_be_defined(&backends, violations);
    if backends.items().count() > 1 {
        backends.report(violations, "must have zero or one backend defined");
    }
    for backend in backends.items() {
        match backend.at("type").text() {
            "Zipkin" => {
                let zipkin = backend.at("zipkin");
                if must_be_defined(&zipkin, violations) {
                    let url = zipkin.at("url");
                    if url.is_empty() {
                        url.report(violations, "must not be empty");
                    } else if Url::parse(url.text()).is_none_or(|parts| parts.host.is_empty()) {
                        url.report(violations, "must be a valid url");
                    }
                }
            }
            "Datadog" => {
                let datadog = backend.at("datadog");
                if must_be_defined(&datadog, violations) {
                    datadog_url(&datadog.at("url"), violations);
                }
            }
            "OpenTelemetry" => {
                let otel = backend.at("openTelemetry");
                if must_be_defined(&otel, violations) {
                    otel_backend_ref(&otel, violations);
                }
            }
            _ => {}
        }
    }
    for tag in default.at("tags").items() {
        if tag.at("name").is_empty() {
            tag.at("name").report(violations, "must not be empty");
        }
        if tag.at("header").is_set() == tag.at("literal").is_set() {
            tag.report(
                violations,
                "tag must have only one type defined: header, literal",
            );
        }
    }
    for member in ["overall", "client", "random"] {
        let share = default.at("sampling").at(member);
        if share.is_set() {
            match decimal(&share) {
                Err(()) => share.report(violations, "string is not a number"),
                Ok(number) if !(0.0..=100.0).contains(&number) => {
                    share.report(violations, "must be between 0 and 100");
                }
                Ok(_) => {}
            }
        }
    }
}

/// The parts of a URL that rules look at.
struct Url<'a> {
    scheme: &'a str,
    user: bool,
    host: &'a str,
    port: Option<&'a str>,
    path: bool,
    query: bool,
    fragment: bool,
}

impl<'a> Url<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (scheme, rest) = text.split_once("://")?;
        let valid = |b: u8| b.is_ascii_alphanumeric() || b"+-.".contains(&b);
        if scheme.is_empty() || !scheme.bytes().all(valid) || rest.contains(char::is_whitespace) {
            return None;
        }
        let (rest, fragment) = rest
            .split_once('#')
            .map_or((rest, false), |(rest, part)| (rest, !part.is_empty()));
        let (rest, query) = rest
            .split_once('?')
            .map_or((rest, false), |(rest, part)| (rest, !part.is_empty()));
        let (authority, path) = rest
            .split_once('/')
            .map_or((rest, false), |(a, _)| (a, true));
        let (user, authority) = authority
            .rsplit_once('@')
            .map_or((false, authority), |(_, rest)| (true, rest));
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) if !port.contains(']') => (host, Some(port)),
            _ => (authority, None),
        };
        if port.is_some_and(|port| !port.bytes().all(|b| b.is_ascii_digit())) {
            return None;
        }
        Some(Self {
            scheme,
            user,
            host,
            port,
            path,
            query,
            fragment,
        })
    }
}

fn datadog_url(url: &Node<'_>, violations: &mut Violations) {
    let Some(parts) = Url::parse(url.text()).filter(|parts| !parts.host.is_empty()) else {
        url.report(violations, "must be a valid url");
        return;
    };
    if parts.scheme != "http" {
        url.report(violations, "scheme must be http");
    }
    match parts.port {
        None | Some("") => url.report(violations, "port must be defined"),
        Some(port) if port.parse::<u16>().is_ok_and(|port| port > 0) => {}
        Some(_) => url.report(violations, "port must be a valid (1-65535)"),
    }
    for (name, found) in [
        ("user", parts.user),
        ("path", parts.path),
        ("query", parts.query),
        ("fragment", parts.fragment),
    ] {
        if found {
            url.report(violations, format!("{name} must not be defined"));
        }
    }
}

pub(super) fn mesh_metric(spec: &Node<'_>, violations: &mut Violations) {
    top_target_ref(&spec.at("targetRef"), false, violations);
    let default = spec.at("default");
    let profiles = default.down("sidecar.profiles");
    for list in ["exclude", "include"] {
        for selector in profiles.at(list).items() {
            let selector_type = selector.at("type");
            match selector_type.text() {
                "Regex" => {
                    if regex::Regex::new(selector.at("match").text()).is_err() {
                        selector.at("match").report(violations, "invalid regex");
                    }
                }
                "Prefix" | "Exact" | "Contains" => {}
                other => selector_type.report(
                    violations,
                    format!(
                        "unrecognized type '{other}' - 'Regex', 'Prefix', 'Exact' are supported"
                    ),
                ),
            }
        }
    }
    for profile in profiles.at("appendProfiles").items() {
        let name = profile.at("name");
        if !matches!(name.text(), "All" | "None" | "Basic") {
            let message = format!(
                "unrecognized profile name '{}' - 'All', 'None', 'Basic' are supported",
                name.text()
            );
            name.report(violations, message);
        }
    }
    // Clients know these paths with the singular doubled.
    for (index, application) in default.at("applications").items().enumerate() {
        let path = format!("{}.applications.application[{index}]", default.path());
        if !crate::node::is_port(application.at("port").number()) {
            violations.add(path, "port must be a valid (1-65535)");
        }
    }
    for (index, backend) in default.at("backends").items().enumerate() {
        let backend = backend.renamed(format!("{}.backends.backend[{index}]", default.path()));
        match backend.at("type").text() {
            "Prometheus" => {
                let prometheus = backend.at("prometheus");
                if must_be_defined(&prometheus, violations) {
                    let port = prometheus.at("port");
                    if port.is_set() {
                        let path = format!("{}.port", backend.path());
                        port.renamed(path).must_be_port(violations);
                    }
                }
            }
            "OpenTelemetry" => {
                let otel = backend.at("openTelemetry");
                if must_be_defined(&otel, violations) {
                    otel_backend_ref(&otel, violations);
                }
            }
            _ => backend.report(violations, "unrecognized type"),
        }
    }
}
