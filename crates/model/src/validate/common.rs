//! Rules of the building blocks that several kinds share.

use crate::names::{dns_1123_subdomain_problems, is_dns_name, spiffe_id_problem};
use crate::node::{Node, one_of_quoted};
use crate::violations::Violations;

/// Kinds a `to` entry may name in policies on outgoing traffic.
pub(super) const TO_KINDS: &[&str] = &[
    "Mesh",
    "MeshService",
    "MeshExternalService",
    "MeshMultiZoneService",
    "MeshHTTPRoute",
];
/// The same without routes.
pub(super) const TO_KINDS_WITHOUT_ROUTES: &[&str] = &[
    "Mesh",
    "MeshService",
    "MeshExternalService",
    "MeshMultiZoneService",
];
/// The three kinds of services.
pub(super) const SERVICE_KINDS: &[&str] =
    &["MeshService", "MeshExternalService", "MeshMultiZoneService"];
pub(super) const PROTOCOLS: &[&str] = &["grpc", "http", "http2", "tcp"];

/// The policy's own `targetRef`. Only policies on incoming traffic may name a section of a proxy.
pub(super) fn top_target_ref(target: &Node<'_>, inbound: bool, violations: &mut Violations) {
    if !target.is_set() {
        return;
    }
    let section = target.at("sectionName");
    match target.at("kind").text() {
        "Dataplane" => {
            if !section.is_empty() && !inbound {
                section.report(violations, "can only be used with inbound policies");
            }
        }
        _ => target_ref(target, &["Mesh", "Dataplane"], violations),
    }
}

/// A `targetRef` that may name one of these kinds.
pub(super) fn target_ref(target: &Node<'_>, allowed: &[&str], violations: &mut Violations) {
    let (kind, labels, section) = (
        target.at("kind"),
        target.at("labels"),
        target.at("sectionName"),
    );
    let name = kind.text();
    if name.is_empty() {
        kind.report(violations, "must be defined");
        return;
    }
    if !allowed.contains(&name) {
        kind.report(violations, format!("value '{name}' is not supported"));
        return;
    }
    let must_not_be_set = format!("must not be set with kind {name}");
    match name {
        "Mesh" => {
            if !labels.is_empty() {
                labels.report(violations, &*must_not_be_set);
            }
            if !section.is_empty() {
                section.report(violations, must_not_be_set);
            }
        }
        "Dataplane" => {}
        _ => {
            if labels.is_empty() {
                labels.report(violations, format!("must be set when kind is {name}"));
            }
            if matches!(name, "MeshExternalService" | "MeshHTTPRoute") && !section.is_empty() {
                section.report(violations, must_not_be_set);
            }
        }
    }
}

/// A `backendRef`.
pub(super) fn backend_ref(reference: &Node<'_>, violations: &mut Violations) {
    target_ref(reference, SERVICE_KINDS, violations);
    let port = reference.at("port");
    if reference.at("kind").text() == "MeshMultiZoneService" && !port.is_set() {
        port.report(violations, "must be defined with kind MeshMultiZoneService");
    }
    let weight = reference.at("weight");
    if weight.is_set() && !(0.0..=4_294_967_295.0).contains(&weight.number()) {
        weight.report(violations, "must be in inclusive range [0, 4294967295]");
    }
}

/// A condition on incoming traffic. Strict kinds want a condition, and a type of the SPIFFE id.
pub(super) fn inbound_match(matching: &Node<'_>, strict: bool, violations: &mut Violations) {
    let (spiffe, sni) = (matching.at("spiffeID"), matching.at("sni"));
    if strict && !spiffe.is_set() && !sni.is_set() {
        matching.report(
            violations,
            "must specify at least one of 'spiffeID' or 'sni'",
        );
    }
    if spiffe.is_set() {
        if strict {
            match_type(&spiffe.at("type"), &["Exact", "Prefix"], violations);
        }
        if let Some(problem) = spiffe_id_problem(spiffe.at("value").text()) {
            spiffe.report(violations, format!("must be a valid Spiffe ID: {problem}"));
        }
    }
    if sni.is_set() {
        match_type(&sni.at("type"), &["Exact"], violations);
        let value = sni.at("value");
        if value.is_empty() {
            value.report(violations, "must be set");
        } else {
            for problem in dns_1123_subdomain_problems(value.text()) {
                value.report(violations, problem);
            }
        }
    }
}

fn match_type(given: &Node<'_>, allowed: &[&str], violations: &mut Violations) {
    let text = given.text();
    if text.is_empty() {
        given.report(violations, "must be set");
    } else if !allowed.contains(&text) {
        let allowed = allowed.join(", ");
        given.report(
            violations,
            format!("unrecognized type \"{text}\", supported values are: {allowed}"),
        );
    }
}

/// A value or where it is found.
pub(super) fn data_source(source: &Node<'_>, violations: &mut Violations) {
    let required = |member: &str, value: &str, violations: &mut Violations| {
        let (object, text) = (source.at(member), source.at(member).at(value));
        if !object.is_set() {
            object.report(violations, "must be defined");
            false
        } else if text.is_empty() {
            text.report(violations, "must be defined");
            false
        } else {
            true
        }
    };
    match source.at("type").text() {
        "EnvVar" => {
            required("envVar", "name", violations);
        }
        "InsecureInline" => {
            required("insecureInline", "value", violations);
        }
        "File" => {
            if required("file", "path", violations) {
                let path = source.down("file.path");
                let text = path.text();
                if text.contains("..") {
                    path.report(
                        violations,
                        format!("file path contains directory traversal sequence: {text}"),
                    );
                } else if !text.starts_with('/') {
                    path.report(violations, format!("file path must be absolute: {text}"));
                }
            }
        }
        "Secret" => {
            let reference = source.at("secretRef");
            let kind = reference.at("kind");
            if reference.is_set() && kind.text() != "Secret" {
                kind.report(
                    violations,
                    format!("{} must be one of: Secret", kind.text()),
                );
            }
            required("secretRef", "name", violations);
        }
        other => source.at("type").report(
            violations,
            format!("{other} must be one of: EnvVar, InsecureInline, File, Secret"),
        ),
    }
}

const TLS_VERSIONS: &[&str] = &["TLSAuto", "TLS10", "TLS11", "TLS12", "TLS13"];

/// Bounds of the TLS version.
pub(super) fn tls_version(version: &Node<'_>, violations: &mut Violations) {
    let position = |bound: &str| {
        let node = version.at(bound);
        if node.is_set() {
            TLS_VERSIONS.iter().position(|known| *known == node.text())
        } else {
            Some(0)
        }
    };
    for bound in ["min", "max"] {
        if position(bound).is_none() {
            version
                .at(bound)
                .report(violations, one_of_quoted(bound, TLS_VERSIONS));
        }
    }
    if let (Some(min @ 1..), Some(max @ 1..)) = (position("min"), position("max"))
        && min > max
    {
        version
            .at("min")
            .report(violations, "min version must be lower than max");
    }
}

/// Whether the text is an IP address or a DNS name.
pub(super) fn is_address(text: &str) -> bool {
    text.parse::<std::net::IpAddr>().is_ok() || is_dns_name(text)
}

/// Whether the text is the address of all interfaces.
pub(super) fn is_wildcard(text: &str) -> bool {
    text.parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_unspecified())
}

/// A percentage or another number that may be given as a text.
pub(super) fn decimal(node: &Node<'_>) -> Result<f64, ()> {
    match node.value() {
        Some(serde_json::Value::String(text)) => text.parse().map_err(|_error| ()),
        _ => Ok(node.number()),
    }
}
