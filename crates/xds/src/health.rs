//! MeshHealthCheck: hosts that are asked whether they are well.

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::cluster::v3::cluster::common_lb_config::{
    LocalityConfigSpecifier, ZoneAwareLbConfig,
};
use kds_proto::envoy::config::core::v3::health_check::{
    GrpcHealthCheck, HealthChecker, HttpHealthCheck, Payload, TcpHealthCheck, payload,
};
use kds_proto::envoy::config::core::v3::{HealthCheck, TypedExtensionConfig};
use kds_proto::envoy::extensions::health_check::event_sinks::file::v3::HealthCheckEventFileSink;
use kds_proto::envoy::r#type::v3::{CodecClientType, Int64Range};
use serde::Deserialize;
use zonal_catalogue::Protocol;
use zonal_model::{GoDuration, Labels};
use zonal_policy::conf::HeaderValue;

use crate::envoy::{any, boolean, duration, number, routes};
use std::time::Duration;

/// The conf of one destination.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Conf {
    interval: Option<GoDuration>,
    timeout: Option<GoDuration>,
    unhealthy_threshold: Option<u32>,
    healthy_threshold: Option<u32>,
    initial_jitter: Option<GoDuration>,
    interval_jitter: Option<GoDuration>,
    interval_jitter_percent: Option<u32>,
    no_traffic_interval: Option<GoDuration>,
    fail_traffic_on_panic: Option<bool>,
    event_log_path: Option<String>,
    always_log_health_check_failures: Option<bool>,
    reuse_connection: Option<bool>,
    tcp: Option<Tcp>,
    http: Option<Http>,
    grpc: Option<Grpc>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Tcp {
    disabled: Option<bool>,
    send: Option<String>,
    receive: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Http {
    disabled: Option<bool>,
    path: Option<String>,
    expected_statuses: Option<Vec<i64>>,
    request_headers_to_add: Option<Headers>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Headers {
    set: Vec<HeaderValue>,
    add: Vec<HeaderValue>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Grpc {
    disabled: Option<bool>,
    service_name: Option<String>,
    authority: Option<String>,
}

impl Conf {
    /// Writes the checks into a cluster; `own` are the labels of the proxy that asks.
    pub(crate) fn apply(&self, cluster: &mut Cluster, protocol: Protocol, own: &Labels) {
        if let Some(checker) = self.checker(protocol, own) {
            cluster.health_checks.push(self.check(checker));
        }
        if let Some(fail) = self.fail_traffic_on_panic {
            let common = cluster.common_lb_config.get_or_insert_default();
            if !matches!(
                common.locality_config_specifier,
                Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(_))
            ) {
                common.locality_config_specifier = Some(
                    LocalityConfigSpecifier::ZoneAwareLbConfig(ZoneAwareLbConfig {
                        fail_traffic_on_panic: fail,
                        ..ZoneAwareLbConfig::default()
                    }),
                );
            }
        }
    }

    fn check(&self, checker: HealthChecker) -> HealthCheck {
        let optional = |value: Option<GoDuration>| value.map(|value| duration(value.to_std()));
        let or = |value: Option<GoDuration>, seconds| {
            Some(duration(
                value.map_or(Duration::from_secs(seconds), GoDuration::to_std),
            ))
        };
        HealthCheck {
            interval: or(self.interval, 60),
            timeout: or(self.timeout, 15),
            unhealthy_threshold: Some(number(self.unhealthy_threshold.unwrap_or(5))),
            healthy_threshold: Some(number(self.healthy_threshold.unwrap_or(1))),
            initial_jitter: optional(self.initial_jitter),
            interval_jitter: optional(self.interval_jitter),
            interval_jitter_percent: self.interval_jitter_percent.unwrap_or_default(),
            no_traffic_interval: optional(self.no_traffic_interval),
            always_log_health_check_failures: self
                .always_log_health_check_failures
                .unwrap_or_default(),
            reuse_connection: self.reuse_connection.map(boolean),
            event_logger: self
                .event_log_path
                .iter()
                .map(|path| TypedExtensionConfig {
                    name: "envoy.health_check.event_sinks.file".to_owned(),
                    typed_config: Some(any(&HealthCheckEventFileSink {
                        event_log_path: path.clone(),
                    })),
                })
                .collect(),
            health_checker: Some(checker),
            ..HealthCheck::default()
        }
    }

    fn checker(&self, protocol: Protocol, own: &Labels) -> Option<HealthChecker> {
        let tcp = self.tcp.as_ref().filter(|tcp| tcp.disabled != Some(true));
        let own_section_disabled = match protocol {
            Protocol::Http | Protocol::Http2 => match &self.http {
                Some(http) if http.disabled != Some(true) => {
                    return Some(http.checker(protocol, own));
                }
                section => section.is_some(),
            },
            Protocol::Grpc => match &self.grpc {
                Some(grpc) if grpc.disabled != Some(true) => return Some(grpc.checker()),
                section => section.is_some(),
            },
            Protocol::Tcp => true,
        };
        tcp.filter(|_| own_section_disabled).map(Tcp::checker)
    }
}

impl Tcp {
    fn checker(&self) -> HealthChecker {
        let text = |value: &String| {
            let hex = value.bytes().map(|byte| format!("{byte:02x}")).collect();
            Payload {
                payload: Some(payload::Payload::Text(hex)),
            }
        };
        HealthChecker::TcpHealthCheck(TcpHealthCheck {
            send: self.send.as_ref().map(text),
            receive: self.receive.iter().flatten().map(text).collect(),
            ..TcpHealthCheck::default()
        })
    }
}

impl Http {
    fn checker(&self, protocol: Protocol, own: &Labels) -> HealthChecker {
        let mut headers = Vec::new();
        if !own.is_empty() {
            headers.push(crate::routing::labels_header(own));
        }
        if let Some(given) = &self.request_headers_to_add {
            headers.extend(routes::limit_headers(&given.add, &given.set));
        }
        let http2 = protocol == Protocol::Http2;
        let codec = if http2 {
            CodecClientType::Http2
        } else {
            CodecClientType::Http1
        };
        HealthChecker::HttpHealthCheck(HttpHealthCheck {
            path: self.path.clone().unwrap_or_else(|| "/".to_owned()),
            request_headers_to_add: headers,
            expected_statuses: self
                .expected_statuses
                .iter()
                .flatten()
                .map(|&status| Int64Range {
                    start: status,
                    end: status.saturating_add(1),
                })
                .collect(),
            codec_client_type: codec.into(),
            ..HttpHealthCheck::default()
        })
    }
}

impl Grpc {
    fn checker(&self) -> HealthChecker {
        HealthChecker::GrpcHealthCheck(GrpcHealthCheck {
            service_name: self.service_name.clone().unwrap_or_default(),
            authority: self.authority.clone().unwrap_or_default(),
            ..GrpcHealthCheck::default()
        })
    }
}
