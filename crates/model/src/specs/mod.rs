//! Typed specs and statuses, one file per family of kinds. Read them with
//! [`Resource::spec_as`](crate::Resource::spec_as) and [`Resource::status_as`](crate::Resource::status_as).
//!
//! Unknown members are ignored and missing ones have their zero value, so that a spec from a peer of another version
//! reads. Defaults that a person's file would get are written into the spec by [`schema::apply`](crate::schema::apply).

mod common;
mod dataplane;
mod destinations;
mod identity;
mod insights;
mod policies;
mod routes;
mod system;

pub use common::{
    Address, BackendRef, Condition, ConditionStatus, DataSource, DataSourceType, Extension,
    HeaderMatch, HeaderMatchType, HostnameGeneratorRef, HostnameGeneratorStatus, HostnameOrigin,
    IntOrText, LabelSelector, Match, MatchType, NamedValue, PathValue, SniMatch, SpiffeMatch,
    TargetKind, TargetRef, TlsVersion, Vip,
};
pub use dataplane::{
    Admin, BackendReference, DataplaneSpec, Gateway, Health, Inbound, InboundState, IpFamilyMode,
    Listener, ListenerState, ListenerType, Networking, Outbound, ReachableBackend,
    ReachableBackends, ServiceProbe, TransparentProxying,
};
pub use destinations::{
    DataplaneRef, Endpoint, ExternalMatch, ExternalTls, ExternalVerification, MatchedMeshService,
    MeshExternalServiceSpec, MeshExternalServiceStatus, MeshMultiZoneServiceSpec,
    MeshMultiZoneServiceStatus, MeshServiceIdentity, MeshServicePort, MeshServiceSelector,
    MeshServiceSpec, MeshServiceState, MeshServiceStatus, MeshServiceTls, MeshZoneAddressSpec,
    MultiZonePort, MultiZoneSelector, ProxyCounts, SubjectAltName, VerificationMode, WorkloadSpec,
    WorkloadStatus,
};
pub use identity::{
    Bundled, BundledCa, CaBundle, CertificateParameters, IdentityExtension, IdentityProvider,
    IdentitySelector, MeshIdentitySpec, MeshIdentityStatus, MeshTrustSpec, MeshTrustStatus, Pem,
    ProviderType, SpiffeIdTemplates, Spire, SpireAgent, Switch, TrustCreation, TrustOrigin,
};
pub use insights::{
    Counts, DataplaneInsightSpec, DataplaneSubscription, DataplaneSubscriptionStatus, EnvoyVersion,
    KdsStream, KdsStreams, KumaCpVersion, KumaDpVersion, MeshInsightDataplanesByType,
    MeshInsightMtls, MeshInsightSpec, MeshInsightVersions, ProxyMtls, ProxyStat, ResourceStat,
    ServiceInsightSpec, ServiceStat, Subscription, SubscriptionVersion, Uint64, ZoneHealth,
    ZoneInsightSpec, ZoneSubscription, ZoneSubscriptionStatus, ZoneVersion,
};
pub use policies::{
    BackOff, CircuitBreakerConf, ConnectionLimits, Consecutive, Detectors, FailurePercentage,
    GrpcRetry, HostSelection, HttpRetry, HttpTimeouts, MeshCircuitBreakerSpec, MeshRetrySpec,
    MeshTimeoutSpec, MeshTrafficPermissionSpec, OutlierDetection, PermissionConf, PermissionRule,
    PolicySpec, RateLimitedBackOff, ResetHeader, RetryConf, Rule, SuccessRate, TcpRetry,
    TimeoutConf, To,
};
pub use routes::{
    FilterType, HeaderModifier, HeaderValue, HttpConf, HttpFilter, HttpRouteMatch, HttpRouteRule,
    HttpRouteTo, MeshHTTPRouteSpec, MeshTCPRouteSpec, PathMatch, PathMatchType, PathRewrite,
    PathRewriteType, QueryMatchType, QueryParameter, RequestMirror, RequestRedirect, TcpConf,
    TcpRouteRule, TcpRouteTo, UrlRewrite,
};
pub use system::{
    ConfigSpec, GeneratorSelector, HostnameGeneratorSpec, MeshSpec, OtelBackendSpec, OtelEndpoint,
    OtelEnv, SecretSpec, ZoneSpec,
};

/// A plain protobuf or JSON number that is left out when it is 0.
pub(crate) fn is_zero(number: &u32) -> bool {
    *number == 0
}

/// For `skip_serializing_if` on flags.
pub(crate) fn is_false(flag: &bool) -> bool {
    !*flag
}
