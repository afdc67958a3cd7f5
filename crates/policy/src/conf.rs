//! The typed forms of merged confs, as their readers want them. Unknown members are passed over.

use std::collections::BTreeMap;
use std::time::Duration;

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zonal_model::{GoDuration, Kind};

use crate::targets::BackendRef;

/// Whose connection, or under which name, an inbound rule is about. Both given means both have to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
pub struct Match {
    /// The caller's identity.
    #[serde(default, rename = "spiffeID")]
    pub spiffe_id: Option<SpiffeMatch>,
    /// The server name asked for.
    #[serde(default)]
    pub sni: Option<SniMatch>,
}

/// How a caller's identity is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SpiffeMatch {
    /// Whole or from the start.
    #[serde(rename = "type")]
    pub kind: SpiffeMatchKind,
    /// The identity or its beginning.
    pub value: String,
}

/// Exact or prefix.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum SpiffeMatchKind {
    /// The whole identity.
    Exact,
    /// A plain string prefix.
    Prefix,
}

/// How a server name is compared: always exactly.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct SniMatch {
    /// The name.
    pub value: String,
}

/// Who may call an inbound: MeshTrafficPermission.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PermissionConf {
    /// Refused, whatever else is said.
    pub deny: Option<Vec<Match>>,
    /// Allowed, and reported as if it were refused.
    pub allow_with_shadow_deny: Option<Vec<Match>>,
    /// Allowed.
    pub allow: Option<Vec<Match>>,
}

/// MeshTimeout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TimeoutConf {
    /// To establish a connection.
    #[serde(deserialize_with = "optional")]
    pub connection_timeout: Option<Duration>,
    /// Of a connection without traffic.
    #[serde(deserialize_with = "optional")]
    pub idle_timeout: Option<Duration>,
    /// For HTTP only.
    pub http: Option<HttpTimeouts>,
}

/// The HTTP part of MeshTimeout.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpTimeouts {
    /// Of a whole request.
    #[serde(deserialize_with = "optional")]
    pub request_timeout: Option<Duration>,
    /// Of a stream without traffic.
    #[serde(deserialize_with = "optional")]
    pub stream_idle_timeout: Option<Duration>,
    /// Of a stream's life.
    #[serde(deserialize_with = "optional")]
    pub max_stream_duration: Option<Duration>,
    /// Of a connection's life.
    #[serde(deserialize_with = "optional")]
    pub max_connection_duration: Option<Duration>,
    /// To receive a request's headers.
    #[serde(deserialize_with = "optional")]
    pub request_headers_timeout: Option<Duration>,
}

/// MeshRetry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct RetryConf {
    /// Connections.
    pub tcp: Option<TcpRetry>,
    /// HTTP requests.
    pub http: Option<HttpRetry>,
    /// gRPC requests.
    pub grpc: Option<HttpRetry>,
}

/// The TCP part of MeshRetry.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRetry {
    /// Attempts to connect, the first included.
    pub max_connect_attempt: Option<u32>,
}

/// The HTTP or gRPC part of MeshRetry; gRPC has no header and host members.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRetry {
    /// Attempts beside the first.
    pub num_retries: Option<u32>,
    /// Of each attempt.
    #[serde(deserialize_with = "optional")]
    pub per_try_timeout: Option<Duration>,
    /// The wait between attempts.
    pub back_off: Option<BackOff>,
    /// The wait that the answer asked for.
    pub rate_limited_back_off: Option<RateLimitedBackOff>,
    /// What is tried again.
    pub retry_on: Option<Vec<String>>,
    /// Answers with these headers are tried again.
    pub retriable_response_headers: Option<Vec<HeaderMatch>>,
    /// Only requests with these headers are tried again.
    pub retriable_request_headers: Option<Vec<HeaderMatch>>,
    /// Which hosts are tried next.
    pub host_selection: Option<Vec<HostSelection>>,
    /// How often a host is looked for.
    pub host_selection_max_attempts: Option<i64>,
}

/// A growing wait.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BackOff {
    /// The first wait.
    #[serde(deserialize_with = "optional")]
    pub base_interval: Option<Duration>,
    /// The longest wait.
    #[serde(deserialize_with = "optional")]
    pub max_interval: Option<Duration>,
}

/// A wait told by the answer's headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RateLimitedBackOff {
    /// The headers that tell it.
    pub reset_headers: Option<Vec<ResetHeader>>,
    /// The longest wait.
    #[serde(deserialize_with = "optional")]
    pub max_interval: Option<Duration>,
}

/// A header that tells when to try again.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct ResetHeader {
    /// Its name.
    pub name: String,
    /// `Seconds` or `UnixTimestamp`.
    pub format: String,
}

/// How hosts for another attempt are chosen.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostSelection {
    /// `OmitPreviousHosts`, `OmitHostsWithTags` or `OmitPreviousPriorities`.
    pub predicate: String,
    /// For `OmitHostsWithTags`.
    #[serde(default)]
    pub tags: BTreeMap<String, String>,
    /// For `OmitPreviousPriorities`; 2 unless given.
    #[serde(default)]
    pub update_frequency: Option<i32>,
}

/// MeshCircuitBreaker.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CircuitBreakerConf {
    /// How much at once.
    pub connection_limits: Option<ConnectionLimits>,
    /// When a host is left out for a while.
    pub outlier_detection: Option<OutlierDetection>,
}

/// Limits per destination.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ConnectionLimits {
    /// Connections.
    pub max_connections: Option<u32>,
    /// Connection pools.
    pub max_connection_pools: Option<u32>,
    /// Requests waiting for a connection.
    pub max_pending_requests: Option<u32>,
    /// Retries.
    pub max_retries: Option<u32>,
    /// Requests.
    pub max_requests: Option<u32>,
}

/// How sick hosts are found.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OutlierDetection {
    /// Switched off, whatever the rest says.
    pub disabled: Option<bool>,
    /// Between two sweeps.
    #[serde(deserialize_with = "optional")]
    pub interval: Option<Duration>,
    /// The first time out.
    #[serde(deserialize_with = "optional")]
    pub base_ejection_time: Option<Duration>,
    /// The share of hosts that may be out.
    pub max_ejection_percent: Option<u32>,
    /// Tell failures to connect from failures told by the host.
    pub split_external_and_local_errors: Option<bool>,
    /// Below this share of healthy hosts all are used.
    #[serde(deserialize_with = "number")]
    pub healthy_panic_threshold: Option<String>,
    /// What counts as sick.
    pub detectors: Option<Detectors>,
}

/// What counts as sick.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Detectors {
    /// 5xx in a row.
    pub total_failures: Option<Consecutive>,
    /// 502, 503, 504 in a row.
    pub gateway_failures: Option<Consecutive>,
    /// Failures to connect in a row.
    pub local_origin_failures: Option<Consecutive>,
    /// A rate far from the others'.
    pub success_rate: Option<SuccessRate>,
    /// A rate of failures.
    pub failure_percentage: Option<FailurePercentage>,
}

/// A number in a row.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Consecutive {
    /// How many.
    pub consecutive: Option<u32>,
}

/// Compared with the other hosts.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SuccessRate {
    /// Hosts needed to compare.
    pub minimum_hosts: Option<u32>,
    /// Requests needed of a host.
    pub request_volume: Option<u32>,
    /// How far off is too far; a decimal as text.
    #[serde(deserialize_with = "number")]
    pub standard_deviation_factor: Option<String>,
}

/// Compared with a fixed share.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct FailurePercentage {
    /// Hosts needed.
    pub minimum_hosts: Option<u32>,
    /// Requests needed of a host.
    pub request_volume: Option<u32>,
    /// The share.
    pub threshold: Option<u32>,
}

/// The merged conf of MeshHTTPRoute for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HttpRouteConf {
    /// In order of precedence.
    pub rules: Vec<HttpRule>,
}

/// Requests that match, and what happens to them.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HttpRule {
    /// One of them has to hold.
    pub matches: Vec<HttpMatch>,
    /// What happens.
    #[serde(default)]
    pub default: HttpRuleConf,
}

/// What happens to a request.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpRuleConf {
    /// Changes of request or answer, in order.
    pub filters: Option<Vec<Filter>>,
    /// Where it goes.
    pub backend_refs: Option<Vec<BackendRef>>,
}

/// What a request looks like; everything given has to hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct HttpMatch {
    /// Its path.
    pub path: Option<PathMatch>,
    /// Its method.
    pub method: Option<String>,
    /// Its query.
    pub query_params: Option<Vec<QueryMatch>>,
    /// Its headers.
    pub headers: Option<Vec<HeaderMatch>>,
}

/// How a path is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct PathMatch {
    /// Whole, by element prefix or by expression.
    #[serde(rename = "type")]
    pub kind: PathMatchKind,
    /// With what.
    pub value: String,
}

/// The ways to compare a path, most specific first.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
pub enum PathMatchKind {
    /// The whole path.
    Exact,
    /// Whole path elements from the start.
    PathPrefix,
    /// A regular expression over the whole path.
    RegularExpression,
}

/// How a query parameter is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct QueryMatch {
    /// `Exact` or `RegularExpression`.
    #[serde(rename = "type")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// With what.
    pub value: String,
}

/// How a header is compared.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderMatch {
    /// `Exact`, `Present`, `RegularExpression`, `Absent` or `Prefix`; `None` means `Exact`.
    #[serde(default, rename = "type")]
    pub kind: Option<String>,
    /// Its name.
    pub name: String,
    /// With what.
    #[serde(default)]
    pub value: Option<String>,
}

/// One change of a request or answer.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(tag = "type")]
pub enum Filter {
    /// Headers of the request.
    RequestHeaderModifier {
        /// How.
        #[serde(default, rename = "requestHeaderModifier")]
        modifier: HeaderModifier,
    },
    /// Headers of the answer.
    ResponseHeaderModifier {
        /// How.
        #[serde(default, rename = "responseHeaderModifier")]
        modifier: HeaderModifier,
    },
    /// The caller is sent elsewhere.
    RequestRedirect {
        /// Where to.
        #[serde(default, rename = "requestRedirect")]
        redirect: Redirect,
    },
    /// Host or path of the request.
    #[serde(rename = "URLRewrite")]
    UrlRewrite {
        /// How.
        #[serde(default, rename = "urlRewrite")]
        rewrite: Rewrite,
    },
    /// A copy goes elsewhere.
    RequestMirror {
        /// Where to.
        #[serde(rename = "requestMirror")]
        mirror: Mirror,
    },
}

/// Changes of headers.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct HeaderModifier {
    /// Overwritten.
    pub set: Vec<HeaderValue>,
    /// Added beside what is there.
    pub add: Vec<HeaderValue>,
    /// Taken out.
    pub remove: Vec<String>,
}

/// One header; several values may be joined by commas.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
pub struct HeaderValue {
    /// Its name.
    pub name: String,
    /// Its value.
    pub value: String,
}

/// Where a caller is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Redirect {
    /// `http` or `https`.
    pub scheme: Option<String>,
    /// The host.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
    /// The port.
    pub port: Option<u32>,
    /// 302 unless given.
    pub status_code: Option<u16>,
}

/// How a request is changed on its way.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Rewrite {
    /// The host header.
    pub hostname: Option<String>,
    /// The path.
    pub path: Option<PathRewrite>,
}

/// How a path is changed.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PathRewrite {
    /// `ReplaceFullPath` or `ReplacePrefixMatch`.
    #[serde(rename = "type")]
    pub kind: String,
    /// For the first.
    pub replace_full_path: Option<String>,
    /// For the second.
    pub replace_prefix_match: Option<String>,
}

/// Where copies go.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Mirror {
    /// The share of requests; a decimal as text; all unless given.
    #[serde(default, deserialize_with = "number")]
    pub percentage: Option<String>,
    /// The destination.
    pub backend_ref: BackendRef,
}

/// The merged conf of MeshTCPRoute for one destination.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct TcpRouteConf {
    /// What happens.
    pub default: TcpRuleConf,
}

/// Where a connection goes.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TcpRuleConf {
    /// The destinations and their shares.
    pub backend_refs: Option<Vec<BackendRef>>,
}

/// Whether a conf of one policy can be read where there is a typed form of it. Checked before it is merged with those of
/// others, which it would make unreadable too.
pub(crate) fn check(
    kind: Kind,
    conf: &Value,
) -> Result<(), serde_path_to_error::Error<serde_json::Error>> {
    fn read<'a, T: Deserialize<'a>>(
        conf: &'a Value,
    ) -> Result<(), serde_path_to_error::Error<serde_json::Error>> {
        serde_path_to_error::deserialize::<_, T>(conf).map(|_| ())
    }
    match kind {
        Kind::MeshTimeout => read::<TimeoutConf>(conf),
        Kind::MeshRetry => read::<RetryConf>(conf),
        Kind::MeshCircuitBreaker => read::<CircuitBreakerConf>(conf),
        Kind::MeshTrafficPermission => read::<PermissionConf>(conf),
        Kind::MeshHTTPRoute => read::<HttpRouteConf>(conf),
        Kind::MeshTCPRoute => read::<TcpRouteConf>(conf),
        _ => read::<serde::de::IgnoredAny>(conf),
    }
}

/// A member that is a number or a number as text, kept as text.
fn number<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<String>, D::Error> {
    match Option::<Value>::deserialize(reader)? {
        None | Some(Value::Null) => Ok(None),
        Some(Value::Number(number)) => Ok(Some(number.to_string())),
        Some(Value::String(text)) => Ok(Some(text)),
        Some(_) => Err(serde::de::Error::custom("neither a number nor text")),
    }
}

/// A Go duration; a negative one counts as zero.
fn optional<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<Duration>, D::Error> {
    Ok(Option::<GoDuration>::deserialize(reader)?.map(GoDuration::to_std))
}
