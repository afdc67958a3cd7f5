//! The rules of each kind, beyond what the schema says.

mod common;
mod core;
mod dataplane;
mod identity;
mod observability;
mod policies;
mod proxy_patch;
mod routes;
mod traffic;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::kind::{Form, Kind};
use crate::node::Node;
use crate::resource::Resource;
use crate::specs;
use crate::violations::Violations;

/// Everything that is wrong with a resource: the rules of its kind, and whether its spec has the shape of its type.
/// Paths begin with `spec` for plugin kinds.
///
/// ```
/// use zonal_model::{Json, Key, Kind, Resource, validate};
/// let address = Resource::new(
///     Key::new(Kind::MeshZoneAddress, "default", "east"),
///     Json::parse(r#"{"address":"0.0.0.0","port":10001}"#).unwrap(),
/// );
/// assert_eq!(validate(&address).to_string(), "spec.address: must not be 0.0.0.0 or ::");
/// ```
#[must_use]
pub fn validate(resource: &Resource) -> Violations {
    let value = resource.spec.to_value();
    let root = match resource.key.kind.descriptor().form {
        Form::Legacy => "",
        Form::Plugin => "spec",
    };
    let mut violations = Violations::new();
    if !value.is_object() {
        violations.add(root, format!("must be an object, not {value}"));
        return violations;
    }
    let spec = Node::root(&value, root);
    rules(resource, &spec, &mut violations);
    if violations.is_empty() {
        shape(resource, root, &value, &mut violations);
    }
    violations
}

fn rules(resource: &Resource, spec: &Node<'_>, violations: &mut Violations) {
    match resource.key.kind {
        Kind::Dataplane => dataplane::dataplane(spec, violations),
        Kind::Zone => core::display_name(resource, violations),
        Kind::HostnameGenerator => core::hostname_generator(spec, violations),
        Kind::MeshService => core::mesh_service(resource, spec, violations),
        Kind::MeshExternalService => core::mesh_external_service(resource, spec, violations),
        Kind::MeshMultiZoneService => core::mesh_multi_zone_service(resource, spec, violations),
        Kind::MeshZoneAddress => core::mesh_zone_address(spec, violations),
        Kind::Workload => core::workload(resource, violations),
        Kind::MeshOpenTelemetryBackend => core::otel_backend(spec, violations),
        Kind::MeshIdentity => identity::mesh_identity(spec, violations),
        Kind::MeshTrust => identity::mesh_trust(spec, violations),
        Kind::MeshHTTPRoute => routes::mesh_http_route(spec, violations),
        Kind::MeshTCPRoute => routes::mesh_tcp_route(spec, violations),
        Kind::MeshTimeout => policies::mesh_timeout(spec, violations),
        Kind::MeshTrafficPermission => policies::mesh_traffic_permission(spec, violations),
        Kind::MeshCircuitBreaker => policies::mesh_circuit_breaker(spec, violations),
        Kind::MeshRetry => policies::mesh_retry(spec, violations),
        Kind::MeshTLS => traffic::mesh_tls(spec, violations),
        Kind::MeshLoadBalancingStrategy => traffic::mesh_load_balancing_strategy(spec, violations),
        Kind::MeshPassthrough => traffic::mesh_passthrough(spec, violations),
        Kind::MeshFaultInjection => traffic::mesh_fault_injection(spec, violations),
        Kind::MeshRateLimit => traffic::mesh_rate_limit(spec, violations),
        Kind::MeshHealthCheck => traffic::mesh_health_check(spec, violations),
        Kind::MeshAccessLog => observability::mesh_access_log(spec, violations),
        Kind::MeshTrace => observability::mesh_trace(spec, violations),
        Kind::MeshMetric => observability::mesh_metric(spec, violations),
        Kind::MeshProxyPatch => proxy_patch::mesh_proxy_patch(spec, violations),
        Kind::Mesh
        | Kind::DataplaneInsight
        | Kind::DataplaneOverview
        | Kind::MeshInsight
        | Kind::ServiceInsight
        | Kind::ZoneInsight
        | Kind::ZoneOverview
        | Kind::Secret
        | Kind::GlobalSecret
        | Kind::Config => {}
    }
}

/// Whether the spec reads as the type of its kind, where it has one.
fn shape(resource: &Resource, root: &str, value: &Value, violations: &mut Violations) {
    let check: fn(&Resource, &str, &mut Violations) = match resource.key.kind {
        Kind::Mesh => reads_as::<specs::MeshSpec>,
        Kind::Dataplane => reads_as::<specs::DataplaneSpec>,
        Kind::DataplaneInsight => reads_as::<specs::DataplaneInsightSpec>,
        Kind::MeshInsight => reads_as::<specs::MeshInsightSpec>,
        Kind::ServiceInsight => reads_as::<specs::ServiceInsightSpec>,
        Kind::Zone => reads_as::<specs::ZoneSpec>,
        Kind::ZoneInsight => reads_as::<specs::ZoneInsightSpec>,
        Kind::Secret | Kind::GlobalSecret => reads_as::<specs::SecretSpec>,
        Kind::Config => reads_as::<specs::ConfigSpec>,
        Kind::HostnameGenerator => reads_as::<specs::HostnameGeneratorSpec>,
        Kind::MeshService => reads_as::<specs::MeshServiceSpec>,
        Kind::MeshExternalService => reads_as::<specs::MeshExternalServiceSpec>,
        Kind::MeshMultiZoneService => reads_as::<specs::MeshMultiZoneServiceSpec>,
        Kind::MeshZoneAddress => reads_as::<specs::MeshZoneAddressSpec>,
        Kind::MeshIdentity => reads_as::<specs::MeshIdentitySpec>,
        Kind::MeshTrust => reads_as::<specs::MeshTrustSpec>,
        Kind::Workload => reads_as::<specs::WorkloadSpec>,
        Kind::MeshOpenTelemetryBackend => reads_as::<specs::OtelBackendSpec>,
        Kind::MeshHTTPRoute => reads_as::<specs::MeshHTTPRouteSpec>,
        Kind::MeshTCPRoute => reads_as::<specs::MeshTCPRouteSpec>,
        Kind::MeshTimeout => reads_as::<specs::MeshTimeoutSpec>,
        Kind::MeshTrafficPermission => reads_as::<specs::MeshTrafficPermissionSpec>,
        Kind::MeshCircuitBreaker => reads_as::<specs::MeshCircuitBreakerSpec>,
        Kind::MeshRetry => reads_as::<specs::MeshRetrySpec>,
        // Kinds without a typed spec: their schema is the check of the shape.
        Kind::MeshTLS
        | Kind::MeshLoadBalancingStrategy
        | Kind::MeshPassthrough
        | Kind::MeshAccessLog
        | Kind::MeshTrace
        | Kind::MeshFaultInjection
        | Kind::MeshRateLimit
        | Kind::MeshHealthCheck
        | Kind::MeshMetric
        | Kind::MeshProxyPatch => {
            if let Err(found) = crate::schema::apply(resource.key.kind, value) {
                violations.extend(found);
            }
            return;
        }
        Kind::DataplaneOverview | Kind::ZoneOverview => return,
    };
    check(resource, root, violations);
}

fn reads_as<T: DeserializeOwned>(resource: &Resource, root: &str, violations: &mut Violations) {
    if let Err(error) = resource.spec_as::<T>() {
        let separator = if root.is_empty() || error.path == "." {
            ""
        } else {
            "."
        };
        let path = if error.path == "." { "" } else { &error.path };
        violations.add(format!("{root}{separator}{path}"), error.message);
    }
}

#[cfg(test)]
mod tests;
