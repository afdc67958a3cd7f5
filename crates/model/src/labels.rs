//! The label keys that carry meaning.

/// Where the original is: `global` or `zone`.
pub const ORIGIN: &str = "kuma.io/origin";
/// The zone in which the resource was made.
pub const ZONE: &str = "kuma.io/zone";
/// The name before any hash suffix.
pub const DISPLAY_NAME: &str = "kuma.io/display-name";
/// The mesh.
pub const MESH: &str = "kuma.io/mesh";
/// `universal` or `kubernetes`.
pub const ENV: &str = "kuma.io/env";
/// The Kubernetes namespace of the original.
pub const NAMESPACE: &str = "k8s.kuma.io/namespace";
/// `system`, `producer`, `consumer` or `workload-owner`.
pub const POLICY_ROLE: &str = "kuma.io/policy-role";
/// `enabled` or `disabled`: whether this one resource is synced.
pub const KDS_SYNC: &str = "kuma.io/kds-sync";
/// `shadow`: the policy has no effect but in previews.
pub const EFFECT: &str = "kuma.io/effect";
/// Which generator writes the resource.
pub const MANAGED_BY: &str = "kuma.io/managed-by";
/// When the generator started to wait before deleting a service without proxies; RFC 3339.
pub const DELETION_GRACE_PERIOD_STARTED_AT: &str = "kuma.io/deletion-grace-period-started-at";
/// Computed on Dataplanes that have a zone ingress listener.
pub const LISTENER_ZONE_INGRESS: &str = "kuma.io/listener-zoneingress";
/// Computed on Dataplanes that have a zone egress listener.
pub const LISTENER_ZONE_EGRESS: &str = "kuma.io/listener-zoneegress";
/// The workload a Dataplane belongs to.
pub const WORKLOAD: &str = "kuma.io/workload";
/// Removed from Dataplanes; older versions computed it.
pub const PROXY_TYPE: &str = "kuma.io/proxy-type";
/// The Kubernetes service account of a Dataplane.
pub const SERVICE_ACCOUNT: &str = "k8s.kuma.io/service-account";
/// `true` on a zone's record at global: the other zones are not told how to reach it.
pub const DRAINED: &str = "zonal.io/drained";
