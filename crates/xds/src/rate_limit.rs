//! MeshRateLimit: how much an inbound takes, per proxy and without asking anybody.

use std::time::Duration;

use kds_proto::envoy::config::core::v3::RuntimeFractionalPercent;
use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::route::v3::Route;
use kds_proto::envoy::extensions::filters::http::local_ratelimit::v3::LocalRateLimit as HttpLimit;
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use kds_proto::envoy::extensions::filters::network::local_ratelimit::v3::LocalRateLimit as TcpLimit;
use kds_proto::envoy::r#type::v3::{HttpStatus, TokenBucket};
use serde::Deserialize;
use serde_json::Value;
use zonal_model::GoDuration;
use zonal_policy::conf::HeaderValue;

use crate::envoy::{any, duration, http, listener, number, percent, routes};

const HTTP: &str = "envoy.filters.http.local_ratelimit";
/// Named by its type, as Kuma names it.
const NETWORK: &str = "envoy.extensions.filters.network.local_ratelimit.v3.LocalRateLimit";

/// The conf of one inbound.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RateLimit {
    local: Local,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Local {
    http: Option<HttpConf>,
    tcp: Option<TcpConf>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HttpConf {
    disabled: Option<bool>,
    request_rate: Option<Rate>,
    on_rate_limit: Option<OnRateLimit>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct TcpConf {
    disabled: Option<bool>,
    connection_rate: Option<Rate>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Rate {
    num: u32,
    interval: Option<GoDuration>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct OnRateLimit {
    status: Option<u32>,
    headers: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Headers {
    set: Vec<HeaderValue>,
    add: Vec<HeaderValue>,
}

impl Rate {
    fn bucket(&self) -> TokenBucket {
        let interval = self
            .interval
            .map_or(Duration::from_secs(1), GoDuration::to_std);
        TokenBucket {
            max_tokens: self.num,
            tokens_per_fill: Some(number(self.num)),
            fill_interval: Some(duration(interval)),
        }
    }
}

impl RateLimit {
    /// Reads a conf; what cannot be read limits nothing.
    pub(crate) fn read(conf: &Value) -> Self {
        Self::deserialize(conf).unwrap_or_default()
    }

    /// Whether a conf says something about requests.
    pub(crate) fn limits_http(conf: &Value) -> bool {
        Self::read(conf).local.http.is_some()
    }

    fn http(&self) -> Option<(&HttpConf, &Rate)> {
        let conf = self
            .local
            .http
            .as_ref()
            .filter(|conf| conf.disabled != Some(true))?;
        Some((
            conf,
            conf.request_rate.as_ref().filter(|rate| rate.num > 0)?,
        ))
    }

    /// The filter that lets routes limit requests; `None` without a limit.
    pub(crate) fn http_filter(&self) -> Option<HttpFilter> {
        self.http()?;
        let config = HttpLimit {
            stat_prefix: "rate_limit".to_owned(),
            ..HttpLimit::default()
        };
        Some(http::http_filter(HTTP, any(&config)))
    }

    /// Limits the requests of a route.
    pub(crate) fn limit_route(&self, route: &mut Route) {
        let Some((conf, rate)) = self.http() else {
            // For some callers a limit that holds for others may be lifted.
            route.typed_per_filter_config.remove(HTTP);
            return;
        };
        let always = |key: &str| RuntimeFractionalPercent {
            runtime_key: key.to_owned(),
            ..percent::runtime(percent::fraction(100.0))
        };
        let answer = conf.on_rate_limit.clone().unwrap_or_default();
        let headers = answer.headers.unwrap_or_default();
        let config = HttpLimit {
            stat_prefix: "rate_limit".to_owned(),
            status: answer
                .status
                .and_then(|status| i32::try_from(status).ok())
                .map(|code| HttpStatus { code }),
            token_bucket: Some(rate.bucket()),
            filter_enabled: Some(always("local_rate_limit_enabled")),
            filter_enforced: Some(always("local_rate_limit_enforced")),
            response_headers_to_add: routes::limit_headers(&headers.add, &headers.set),
            ..HttpLimit::default()
        };
        route
            .typed_per_filter_config
            .insert(HTTP.to_owned(), any(&config));
    }

    /// The filter that limits connections.
    pub(crate) fn network_filter(&self) -> Option<Filter> {
        let conf = self
            .local
            .tcp
            .as_ref()
            .filter(|conf| conf.disabled != Some(true))?;
        let rate = conf.connection_rate.as_ref().filter(|rate| rate.num > 0)?;
        let config = TcpLimit {
            stat_prefix: "tcp_rate_limit".to_owned(),
            token_bucket: Some(rate.bucket()),
            ..TcpLimit::default()
        };
        Some(listener::filter(NETWORK, any(&config)))
    }
}
