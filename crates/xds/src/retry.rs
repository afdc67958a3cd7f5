//! MeshRetry: which answers are tried again, how often, how soon and where.

use kds_proto::envoy::config::core::v3::Metadata;
use kds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use kds_proto::envoy::config::route::v3::retry_policy::{
    RateLimitedRetryBackOff, ResetHeader, ResetHeaderFormat, RetryBackOff, RetryHostPredicate,
    RetryPriority, retry_host_predicate, retry_priority,
};
use kds_proto::envoy::config::route::v3::{HeaderMatcher, RetryPolicy};
use kds_proto::envoy::extensions::retry::host::omit_host_metadata::v3::OmitHostMetadataConfig;
use kds_proto::envoy::extensions::retry::host::previous_hosts::v3::PreviousHostsPredicate;
use kds_proto::envoy::extensions::retry::priority::previous_priorities::v3::PreviousPrioritiesConfig;
use kds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use zonal_policy::conf::{BackOff, HostSelection, HttpRetry, RateLimitedBackOff};

use crate::envoy::{any, metadata, number, optional_duration, routes};
use std::time::Duration;

const HTTP_DEFAULT: &str = "gateway-error,connect-failure,refused-stream";
const GRPC_DEFAULT: &str =
    "cancelled,connect-failure,gateway-error,refused-stream,reset,resource-exhausted,unavailable";
const BASE_INTERVAL: Duration = Duration::from_millis(25);

/// The retries of HTTP requests; `None` when there are none.
pub(crate) fn http(conf: &HttpRetry) -> Option<RetryPolicy> {
    let mut policy = common(conf, None)?;
    let mut words = Vec::new();
    let mut codes = Vec::new();
    let mut methods = Vec::new();
    for item in conf.retry_on.iter().flatten() {
        if let Ok(code) = item.parse::<u32>() {
            codes.push(code);
        } else if let Some(method) = item.strip_prefix("HttpMethod") {
            methods.push(HeaderMatcher {
                name: ":method".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    match_pattern: Some(MatchPattern::Exact(method.to_ascii_uppercase())),
                    ..StringMatcher::default()
                })),
                ..HeaderMatcher::default()
            });
        } else {
            words.extend(http_word(item));
        }
    }
    policy.retry_on = if words.is_empty() {
        HTTP_DEFAULT.to_owned()
    } else {
        words.join(",")
    };
    if !codes.is_empty() {
        policy.retry_on.push_str(",retriable-status-codes");
    }
    policy.retriable_status_codes = codes;
    let matchers =
        |list: &Option<Vec<_>>| routes::header_matches(list.as_deref().unwrap_or_default(), false);
    policy.retriable_request_headers = methods;
    policy
        .retriable_request_headers
        .extend(matchers(&conf.retriable_request_headers));
    policy.retriable_headers = matchers(&conf.retriable_response_headers);
    for selection in conf.host_selection.iter().flatten() {
        select_hosts(&mut policy, selection);
    }
    policy.host_selection_retry_max_attempts = conf.host_selection_max_attempts.unwrap_or_default();
    Some(policy)
}

/// The retries of gRPC requests; `None` when there are none.
pub(crate) fn grpc(conf: &HttpRetry) -> Option<RetryPolicy> {
    let mut policy = common(conf, Some(BASE_INTERVAL))?;
    let words: Vec<&str> = conf
        .retry_on
        .iter()
        .flatten()
        .filter_map(|item| grpc_word(item))
        .collect();
    policy.retry_on = if words.is_empty() {
        GRPC_DEFAULT.to_owned()
    } else {
        words.join(",")
    };
    Some(policy)
}

fn common(conf: &HttpRetry, base: Option<Duration>) -> Option<RetryPolicy> {
    if conf.num_retries == Some(0) {
        return None;
    }
    Some(RetryPolicy {
        num_retries: conf.num_retries.map(number),
        per_try_timeout: optional_duration(conf.per_try_timeout),
        retry_back_off: conf.back_off.as_ref().map(|conf| back_off(conf, base)),
        rate_limited_retry_back_off: conf.rate_limited_back_off.as_ref().map(rate_limited),
        ..RetryPolicy::default()
    })
}

fn back_off(conf: &BackOff, base: Option<Duration>) -> RetryBackOff {
    // Envoy refuses a back-off without a first interval.
    let first = conf.base_interval.or(base).or(Some(BASE_INTERVAL));
    RetryBackOff {
        base_interval: optional_duration(first),
        max_interval: optional_duration(conf.max_interval),
    }
}

fn rate_limited(conf: &RateLimitedBackOff) -> RateLimitedRetryBackOff {
    RateLimitedRetryBackOff {
        reset_headers: conf
            .reset_headers
            .iter()
            .flatten()
            .map(|header| {
                let unix = header.format == "UnixTimestamp";
                let format = if unix {
                    ResetHeaderFormat::UnixTimestamp
                } else {
                    ResetHeaderFormat::Seconds
                };
                ResetHeader {
                    name: header.name.clone(),
                    format: format.into(),
                }
            })
            .collect(),
        max_interval: optional_duration(conf.max_interval),
    }
}

fn http_word(item: &str) -> Option<&'static str> {
    Some(match item {
        "5xx" => "5xx",
        "GatewayError" => "gateway-error",
        "Reset" => "reset",
        "Retriable4xx" => "retriable-4xx",
        "ConnectFailure" => "connect-failure",
        "EnvoyRatelimited" => "envoy-ratelimited",
        "RefusedStream" => "refused-stream",
        "Http3PostConnectFailure" => "http3-post-connect-failure",
        _ => return None,
    })
}

fn grpc_word(item: &str) -> Option<&'static str> {
    Some(match item {
        // Envoy's spelling; the one with a single l would never match.
        "Canceled" => "cancelled",
        "DeadlineExceeded" => "deadline-exceeded",
        "Internal" => "internal",
        "ResourceExhausted" => "resource-exhausted",
        "Unavailable" => "unavailable",
        _ => return None,
    })
}

fn select_hosts(policy: &mut RetryPolicy, selection: &HostSelection) {
    let predicate = |name: &str, config| RetryHostPredicate {
        name: name.to_owned(),
        config_type: Some(retry_host_predicate::ConfigType::TypedConfig(config)),
    };
    match selection.predicate.as_str() {
        "OmitPreviousHosts" => policy.retry_host_predicate.push(predicate(
            "envoy.retry_host_predicates.previous_hosts",
            any(&PreviousHostsPredicate::default()),
        )),
        "OmitHostsWithTags" => {
            let tags: Metadata = metadata(
                &["envoy.lb"],
                selection
                    .tags
                    .iter()
                    .filter(|(key, _)| *key != "kuma.io/service")
                    .map(|(key, value)| (key.as_str(), value.as_str())),
            );
            policy.retry_host_predicate.push(predicate(
                "envoy.retry_host_predicates.omit_host_metadata",
                any(&OmitHostMetadataConfig {
                    metadata_match: Some(tags),
                }),
            ));
        }
        "OmitPreviousPriorities" => {
            let config = PreviousPrioritiesConfig {
                update_frequency: selection.update_frequency.unwrap_or(2),
            };
            policy.retry_priority = Some(RetryPriority {
                name: "envoy.retry_priorities.previous_priorities".to_owned(),
                config_type: Some(retry_priority::ConfigType::TypedConfig(any(&config))),
            });
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn status_codes_and_methods_keep_the_default_words() {
        let conf = HttpRetry {
            retry_on: Some(vec!["429".into(), "HttpMethodGet".into()]),
            ..HttpRetry::default()
        };
        let policy = http(&conf).unwrap();
        assert_eq!(
            policy.retry_on,
            format!("{HTTP_DEFAULT},retriable-status-codes")
        );
        assert_eq!(policy.retriable_status_codes, [429]);
        assert_eq!(policy.retriable_request_headers.len(), 1);
    }

    #[test]
    fn zero_retries_are_no_policy() {
        let conf = HttpRetry {
            num_retries: Some(0),
            ..HttpRetry::default()
        };
        assert_eq!(http(&conf), None);
    }
}
