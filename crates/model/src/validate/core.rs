//! Rules of services, addresses, generators and telemetry backends.

use super::common::{PROTOCOLS, data_source, is_address, is_wildcard, tls_version};
use crate::names::{dns_1035_label_problems, dns_1123_subdomain_problems, is_dns_name};
use crate::node::{Node, one_of_quoted};
use crate::resource::Resource;
use crate::template::{Template, Values};
use crate::violations::Violations;

/// Names that become part of host names are DNS labels.
pub(super) fn display_name(resource: &Resource, violations: &mut Violations) {
    let problems = dns_1035_label_problems(resource.display_name());
    if !problems.is_empty() {
        violations.add("name", problems.join(", "));
    }
}

pub(super) fn hostname_generator(spec: &Node<'_>, violations: &mut Violations) {
    let selector = spec.at("selector");
    let selectors = ["meshService", "meshExternalService", "meshMultiZoneService"];
    if selectors
        .iter()
        .filter(|member| selector.at(member).is_set())
        .count()
        != 1
    {
        selector.report(
            violations,
            "exact one selector (meshService, meshExternalService) must be defined",
        );
    }
    let template = spec.at("template");
    if template.is_empty() {
        template.report(violations, "must not be empty");
    } else if let Err(message) = renders_to_name(template.text()) {
        template.report(violations, message);
    }
    let extension = spec.at("extension");
    if extension.is_set() && extension.at("type").is_empty() {
        extension.at("type").report(violations, "must not be empty");
    }
}

fn renders_to_name(text: &str) -> Result<(), String> {
    let template =
        Template::parse(text).map_err(|error| format!("couldn't parse template: {error}"))?;
    let field = |name: &str| {
        let stub = match name {
            "Name" => "name",
            "DisplayName" => "displayname",
            "Namespace" => "namespace",
            "Mesh" => "mesh",
            "Zone" => "zone",
            _ => return None,
        };
        Some(stub.to_owned())
    };
    let label = |_key: &str| Some("label".to_owned());
    let name = template
        .render(&Values {
            field: &field,
            label: &label,
        })
        .map_err(|error| format!("couldn't render template with stub values: {error}"))?;
    let problems = dns_1123_subdomain_problems(&name);
    if problems.is_empty() {
        Ok(())
    } else {
        let problems = problems.join(", ");
        Err(format!(
            "template renders to \"{name}\" which is not a valid DNS name: {problems}"
        ))
    }
}

pub(super) fn mesh_service(resource: &Resource, spec: &Node<'_>, violations: &mut Violations) {
    display_name(resource, violations);
    let selector = spec.at("selector");
    if selector.at("dataplaneRef").is_set() && selector.at("dataplaneLabels").is_set() {
        selector.report(
            violations,
            "must specify only one of: dataplaneRef or dataplaneLabels",
        );
    }
    for port in spec.at("ports").items() {
        let protocol = port.at("appProtocol");
        if !protocol.is_empty() {
            app_protocol(&protocol, &protocol.text().to_lowercase(), violations);
        }
    }
}

fn app_protocol(node: &Node<'_>, protocol: &str, violations: &mut Violations) {
    if !PROTOCOLS.contains(&protocol) {
        let message = format!("appProtocol must be one of: {}", PROTOCOLS.join(", "));
        node.report(violations, message);
    }
}

pub(super) fn mesh_multi_zone_service(
    resource: &Resource,
    spec: &Node<'_>,
    violations: &mut Violations,
) {
    display_name(resource, violations);
    let labels = spec.down("selector.meshService.matchLabels");
    if labels.is_empty() {
        labels.report(violations, "cannot be empty");
    }
    let ports = spec.at("ports");
    if ports.is_empty() {
        ports.report(violations, "cannot be empty");
    }
    for port in ports.items() {
        let name = port.at("name");
        if name.is_set() && name.is_empty() {
            name.report(violations, "must not be empty");
        }
        let protocol = port.at("appProtocol");
        if protocol.is_set() {
            app_protocol(&protocol, protocol.text(), violations);
        }
    }
}

pub(super) fn mesh_external_service(
    resource: &Resource,
    spec: &Node<'_>,
    violations: &mut Violations,
) {
    display_name(resource, violations);
    let matching = spec.at("match");
    let match_type = matching.at("type");
    if !match_type.is_empty() && match_type.text() != "HostnameGenerator" {
        let message = format!(
            "unrecognized type '{}' - only 'HostnameGenerator' is supported",
            match_type.text()
        );
        match_type.report(violations, message);
    }
    matching.at("port").must_be_port(violations);
    let protocol = matching.at("protocol");
    if !protocol.is_empty() {
        protocol.must_be_one_of("protocol", &["tcp", "grpc", "http", "http2"], violations);
    }
    let extension = spec.at("extension");
    if extension.is_set() && extension.at("type").is_empty() {
        extension.at("type").report(violations, "must not be empty");
    }
    for endpoint in spec.at("endpoints").items() {
        let address = endpoint.at("address");
        if !is_address(address.text()) {
            address.report(violations, "address has to be a valid IP or hostname");
        }
        endpoint.at("port").must_be_port(violations);
    }
    let tls = spec.at("tls");
    if tls.is_set() {
        tls_version(&tls.at("version"), violations);
        external_verification(&tls.at("verification"), violations);
    }
}

fn external_verification(verification: &Node<'_>, violations: &mut Violations) {
    if !verification.is_set() {
        return;
    }
    let server_name = verification.at("serverName");
    if server_name.is_set() && !is_dns_name(server_name.text()) {
        server_name.report(violations, "must be a valid DNS name");
    }
    let mode = verification.at("mode");
    if mode.is_set() {
        mode.must_be_one_of(
            "mode",
            &["SkipSAN", "SkipCA", "SkipAll", "Secured"],
            violations,
        );
    }
    for name in verification.at("subjectAltNames").items() {
        let match_type = name.at("type");
        if match_type.is_set() {
            match_type.must_be_one_of("type", &["Prefix", "Exact"], violations);
        }
    }
    let (certificate, key) = (verification.at("clientCert"), verification.at("clientKey"));
    if certificate.is_set() && !key.is_set() {
        key.report(violations, "must be defined when clientCert is defined");
    }
    if key.is_set() && !certificate.is_set() {
        certificate.report(violations, "must be defined when clientKey is defined");
    }
    for source in [verification.at("caCert"), certificate, key] {
        if !source.is_set() {
            continue;
        }
        match source.at("type").text() {
            "Secret" | "InsecureInline" => data_source(&source, violations),
            other => source.at("type").report(
                violations,
                format!("{other} must be one of: Secret, InsecureInline"),
            ),
        }
    }
}

pub(super) fn mesh_zone_address(spec: &Node<'_>, violations: &mut Violations) {
    let address = spec.at("address");
    if address.is_empty() {
        address.report(violations, "must not be empty");
    } else if is_wildcard(address.text()) {
        address.report(violations, "must not be 0.0.0.0 or ::");
    } else if !is_address(address.text()) {
        address.report(violations, "must be a valid IP address or domain name");
    }
    spec.at("port").must_be_port(violations);
}

pub(super) fn workload(resource: &Resource, violations: &mut Violations) {
    if resource.key.name.len() > crate::names::NAME_LEN_MAX {
        violations.add("name", "must not be longer than 253 characters");
    }
}

pub(super) fn otel_backend(spec: &Node<'_>, violations: &mut Violations) {
    let (endpoint, protocol) = (spec.at("endpoint"), spec.at("protocol"));
    let address = endpoint.at("address");
    if address.is_set() {
        if address.is_empty() {
            address.report(violations, "must not be empty");
        } else if !is_address(address.text()) {
            address.report(violations, "address has to be a valid IP or hostname");
        }
    }
    if endpoint.at("port").is_set() {
        endpoint.at("port").must_be_port(violations);
    }
    let path = endpoint.at("path");
    if path.is_set() {
        if protocol.text() != "http" {
            path.report(violations, "must not be set when protocol is grpc");
        }
        if !path.text().starts_with('/') {
            path.report(violations, "must start with /");
        }
        if path.text().contains(['?', '#']) {
            path.report(violations, "must not contain query or fragment");
        }
    }
    let env = spec.at("env");
    for (node, name, allowed) in [
        (protocol, "protocol", &["grpc", "http"][..]),
        (
            env.at("mode"),
            "mode",
            &["Disabled", "Optional", "Required"][..],
        ),
        (
            env.at("precedence"),
            "precedence",
            &["ExplicitFirst", "EnvFirst"][..],
        ),
    ] {
        if node.is_set() && !allowed.contains(&node.text()) {
            node.report(violations, one_of_quoted(name, allowed));
        }
    }
}
