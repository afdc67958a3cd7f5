//! Which table belongs to which kind.

use super::Schema;
use super::core::{
    HOSTNAME_GENERATOR, MESH_EXTERNAL_SERVICE, MESH_IDENTITY, MESH_MULTI_ZONE_SERVICE,
    MESH_OPEN_TELEMETRY_BACKEND, MESH_SERVICE, MESH_TRUST, MESH_ZONE_ADDRESS, WORKLOAD,
};
use super::observability::{MESH_ACCESS_LOG, MESH_METRIC, MESH_PROXY_PATCH, MESH_TRACE};
use super::policies::{
    MESH_CIRCUIT_BREAKER, MESH_FAULT_INJECTION, MESH_HEALTH_CHECK, MESH_HTTP_ROUTE,
    MESH_LOAD_BALANCING_STRATEGY, MESH_PASSTHROUGH, MESH_RATE_LIMIT, MESH_RETRY, MESH_TCP_ROUTE,
    MESH_TIMEOUT, MESH_TLS, MESH_TRAFFIC_PERMISSION,
};
use crate::kind::Kind;

pub(super) const fn of(kind: Kind) -> Option<&'static Schema> {
    Some(match kind {
        Kind::Mesh
        | Kind::Dataplane
        | Kind::DataplaneInsight
        | Kind::DataplaneOverview
        | Kind::MeshInsight
        | Kind::ServiceInsight
        | Kind::Zone
        | Kind::ZoneInsight
        | Kind::ZoneOverview
        | Kind::Secret
        | Kind::GlobalSecret
        | Kind::Config => return None,
        Kind::HostnameGenerator => &HOSTNAME_GENERATOR,
        Kind::MeshService => &MESH_SERVICE,
        Kind::MeshExternalService => &MESH_EXTERNAL_SERVICE,
        Kind::MeshMultiZoneService => &MESH_MULTI_ZONE_SERVICE,
        Kind::MeshZoneAddress => &MESH_ZONE_ADDRESS,
        Kind::MeshIdentity => &MESH_IDENTITY,
        Kind::MeshTrust => &MESH_TRUST,
        Kind::Workload => &WORKLOAD,
        Kind::MeshOpenTelemetryBackend => &MESH_OPEN_TELEMETRY_BACKEND,
        Kind::MeshHTTPRoute => &MESH_HTTP_ROUTE,
        Kind::MeshTCPRoute => &MESH_TCP_ROUTE,
        Kind::MeshTLS => &MESH_TLS,
        Kind::MeshLoadBalancingStrategy => &MESH_LOAD_BALANCING_STRATEGY,
        Kind::MeshPassthrough => &MESH_PASSTHROUGH,
        Kind::MeshAccessLog => &MESH_ACCESS_LOG,
        Kind::MeshTrace => &MESH_TRACE,
        Kind::MeshFaultInjection => &MESH_FAULT_INJECTION,
        Kind::MeshRateLimit => &MESH_RATE_LIMIT,
        Kind::MeshTimeout => &MESH_TIMEOUT,
        Kind::MeshTrafficPermission => &MESH_TRAFFIC_PERMISSION,
        Kind::MeshHealthCheck => &MESH_HEALTH_CHECK,
        Kind::MeshCircuitBreaker => &MESH_CIRCUIT_BREAKER,
        Kind::MeshRetry => &MESH_RETRY,
        Kind::MeshMetric => &MESH_METRIC,
        Kind::MeshProxyPatch => &MESH_PROXY_PATCH,
    })
}
