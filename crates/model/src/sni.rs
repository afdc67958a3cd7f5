//! The server names by which zones' ingresses tell services apart.

use crate::kind::Kind;
use crate::labels;
use crate::names::{NAME_LEN_MAX, dns_1123_label_problems};
use crate::resource::Resource;

/// Makes the server name of one port of a destination.
///
/// The zone is part of it where there is one; the namespace only where there is a zone.
///
/// ```
/// use zonal_model::{Kind, sni};
/// assert_eq!(
///     sni(Kind::MeshService, "default", Some("east"), Some("demo"), "backend", "http"),
///     "sni.msvc.default.east.demo.backend.http"
/// );
/// assert_eq!(sni(Kind::MeshExternalService, "default", None, Some("demo"), "google", "443"),
///     "sni.extsvc.default.google.443");
/// ```
#[must_use]
pub fn sni(
    kind: Kind,
    mesh: &str,
    zone: Option<&str>,
    namespace: Option<&str>,
    name: &str,
    section: &str,
) -> String {
    let mut parts = vec!["sni", kind.descriptor().short.unwrap_or_default(), mesh];
    if let Some(zone) = zone.filter(|zone| !zone.is_empty()) {
        parts.push(zone);
        parts.extend(namespace.filter(|namespace| !namespace.is_empty()));
    }
    parts.extend([name, section]);
    parts.join(".")
}

/// The server name of one section (port name, or number where unnamed) of a stored destination.
#[must_use]
pub fn resource_sni(resource: &Resource, section: &str) -> String {
    sni(
        resource.key.kind,
        &resource.key.mesh,
        resource.label(labels::ZONE),
        resource.label(labels::NAMESPACE),
        resource.display_name(),
        section,
    )
}

/// Port number and section name of every port of a destination, sorted by number; empty for other kinds.
#[must_use]
pub fn ports_of(resource: &Resource) -> Vec<(u32, String)> {
    if !resource.key.kind.descriptor().destination {
        return Vec::new();
    }
    let spec = resource.spec.to_value();
    let number = |port: &serde_json::Value| {
        port.get("port")
            .and_then(serde_json::Value::as_u64)
            .and_then(|n| u32::try_from(n).ok())
    };
    let mut ports: Vec<(u32, String)> = match resource.key.kind {
        Kind::MeshExternalService => spec
            .get("match")
            .and_then(number)
            .map(|port| (port, port.to_string()))
            .into_iter()
            .collect(),
        _ => spec
            .get("ports")
            .and_then(serde_json::Value::as_array)
            .into_iter()
            .flatten()
            .filter_map(|port| {
                let number = number(port)?;
                let name = port
                    .get("name")
                    .and_then(serde_json::Value::as_str)
                    .unwrap_or_default();
                let section = if name.is_empty() {
                    number.to_string()
                } else {
                    name.to_owned()
                };
                Some((number, section))
            })
            .collect(),
    };
    ports.sort();
    ports
}

/// Port number and server name of every port of a destination, sorted by number.
#[must_use]
pub fn snis_of(resource: &Resource) -> Vec<(u32, String)> {
    ports_of(resource)
        .into_iter()
        .map(|(port, section)| (port, resource_sni(resource, &section)))
        .collect()
}

/// One sentence per server name of the resource that is no valid host name. Such a resource is still taken.
#[must_use]
pub fn sni_warnings(resource: &Resource) -> Vec<String> {
    let mut warnings = Vec::new();
    for (_, section) in ports_of(resource) {
        let sni = resource_sni(resource, &section);
        let problem = if sni.len() > NAME_LEN_MAX {
            Some("must be no more than 253 characters")
        } else {
            sni.split('.').flat_map(dns_1123_label_problems).next()
        };
        if let Some(problem) = problem {
            warnings.push(format!(
                "Invalid {} SNI (port \"{section}\"): {problem}. This is deprecated.",
                resource.key.kind
            ));
        }
    }
    warnings
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::json::Json;
    use crate::resource::Key;

    #[test]
    fn a_service_has_one_server_name_per_port_in_order() {
        let mut service = Resource::new(
            Key::new(Kind::MeshService, "default", "redis"),
            Json::parse(r#"{"ports":[{"port":16739,"name":"some-port"},{"port":6739}]}"#).unwrap(),
        );
        assert_eq!(
            snis_of(&service),
            [
                (6739, "sni.msvc.default.redis.6739".to_owned()),
                (16739, "sni.msvc.default.redis.some-port".to_owned())
            ]
        );
        assert!(sni_warnings(&service).is_empty());
        service.key.name = "a_b".into();
        assert_eq!(sni_warnings(&service).len(), 2);
    }
}
