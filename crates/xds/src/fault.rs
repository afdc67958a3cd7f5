//! MeshFaultInjection: aborts, delays and slow answers, for some requests of some callers.

use kds_proto::envoy::config::core::v3::TypedExtensionConfig;
use kds_proto::envoy::extensions::common::matching::v3::ExtensionWithMatcher;
use kds_proto::envoy::extensions::filters::common::fault::v3::{
    FaultDelay, FaultRateLimit,
    fault_delay::FaultDelaySecifier,
    fault_rate_limit::{FixedLimit, LimitType},
};
use kds_proto::envoy::extensions::filters::common::matcher::action::v3::SkipFilter;
use kds_proto::envoy::extensions::filters::http::fault::v3::{
    FaultAbort, HttpFault, fault_abort::ErrorType,
};
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use kds_proto::envoy::r#type::v3::FractionalPercent;
use kds_proto::xds::r#type::matcher::v3::Matcher;
use serde::Deserialize;
use serde_json::Value;
use zonal_model::GoDuration;
use zonal_policy::InboundRule;

use crate::envoy::{any, duration, http, percent, rbac};

const FAULT: &str = "envoy.filters.http.fault";

#[derive(Default, Deserialize)]
#[serde(default)]
struct Conf {
    http: Vec<Fault>,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Fault {
    abort: Option<Abort>,
    delay: Option<Delay>,
    response_bandwidth: Option<Bandwidth>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Abort {
    http_status: u32,
    #[serde(default)]
    percentage: Value,
}

#[derive(Deserialize)]
struct Delay {
    value: GoDuration,
    #[serde(default)]
    percentage: Value,
}

#[derive(Deserialize)]
struct Bandwidth {
    limit: String,
    #[serde(default)]
    percentage: Value,
}

/// One filter per fault of each rule, in order.
pub(crate) fn filters(rules: &[InboundRule]) -> Vec<HttpFilter> {
    let mut made = Vec::new();
    for rule in rules {
        let Ok(conf) = Conf::deserialize(&*rule.conf) else {
            continue;
        };
        for fault in &conf.http {
            made.push(filter(rule, fault));
        }
    }
    made
}

#[expect(
    deprecated,
    reason = "the field that replaces it is the one that is set"
)]
fn filter(rule: &InboundRule, fault: &Fault) -> HttpFilter {
    let skip = TypedExtensionConfig {
        name: FAULT.to_owned(),
        typed_config: Some(any(&fault.message())),
    };
    let matcher = rule
        .matches
        .as_ref()
        .map_or_else(Matcher::default, |matches| {
            rbac::unless(matches, "skip", any(&SkipFilter::default()))
        });
    let config = ExtensionWithMatcher {
        matcher: None,
        xds_matcher: Some(matcher),
        extension_config: Some(skip),
    };
    http::http_filter(&rule.origin.policy.kri.to_string(), any(&config))
}

impl Fault {
    fn message(&self) -> HttpFault {
        HttpFault {
            abort: self.abort.as_ref().map(|abort| FaultAbort {
                percentage: share(&abort.percentage),
                error_type: Some(ErrorType::HttpStatus(abort.http_status)),
                ..FaultAbort::default()
            }),
            delay: self.delay.as_ref().map(|delay| FaultDelay {
                percentage: share(&delay.percentage),
                fault_delay_secifier: Some(FaultDelaySecifier::FixedDelay(duration(
                    delay.value.to_std(),
                ))),
            }),
            response_rate_limit: self.response_bandwidth.as_ref().and_then(|bandwidth| {
                Some(FaultRateLimit {
                    percentage: share(&bandwidth.percentage),
                    limit_type: Some(LimitType::FixedLimit(FixedLimit {
                        limit_kbps: kilobits(&bandwidth.limit)?,
                    })),
                })
            }),
            ..HttpFault::default()
        }
    }
}

fn share(value: &Value) -> Option<FractionalPercent> {
    let percentage = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    Some(percent::fraction(percentage))
}

/// `50 kbps`, `1Mbps` or `2gbps` in kilobits.
fn kilobits(text: &str) -> Option<u64> {
    let lower = text.trim().to_ascii_lowercase();
    let (digits, factor) = [("kbps", 1), ("mbps", 1000), ("gbps", 1_000_000)]
        .into_iter()
        .find_map(|(unit, factor)| Some((lower.strip_suffix(unit)?, factor)))?;
    digits.trim().parse::<u64>().ok()?.checked_mul(factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bandwidths_are_told_in_kilobits() {
        assert_eq!(kilobits("50 kbps"), Some(50));
        assert_eq!(kilobits("2Mbps"), Some(2000));
        assert_eq!(kilobits("1 Gbps"), Some(1_000_000));
        assert_eq!(kilobits("fast"), None);
    }
}
