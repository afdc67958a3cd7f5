//! Clusters.

use std::collections::BTreeMap;
use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::circuit_breakers::Thresholds;
use kds_proto::envoy::config::cluster::v3::cluster::{
    ClusterDiscoveryType, DiscoveryType, EdsClusterConfig, LbPolicy,
};
use kds_proto::envoy::config::cluster::v3::{
    CircuitBreakers, Cluster, OutlierDetection as OutlierDetectionMessage,
};
use kds_proto::envoy::config::core::v3::{
    Http1ProtocolOptions, Http2ProtocolOptions, HttpProtocolOptions as CommonOptions,
    TransportSocket,
};
use kds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use kds_proto::envoy::extensions::upstreams::http::v3::HttpProtocolOptions;
use kds_proto::envoy::extensions::upstreams::http::v3::http_protocol_options::{
    ExplicitHttpConfig, UpstreamProtocolOptions, explicit_http_config::ProtocolConfig,
};

use kds_proto::envoy::r#type::v3::Percent;

use super::{ads, any, duration, number, optional_duration, percent};
use crate::confs::Timeouts;
use crate::names;
use zonal_policy::conf::{ConnectionLimits, Consecutive, OutlierDetection};

const HTTP_OPTIONS: &str = "envoy.extensions.upstreams.http.v3.HttpProtocolOptions";

/// What is spoken to the hosts of a cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub(crate) enum Upstream {
    /// Bytes.
    Tcp,
    /// HTTP/1.1.
    Http1,
    /// HTTP/2, also for gRPC.
    Http2,
}

/// A cluster without hosts, timeouts and options but with what every cluster has.
fn bare(name: &str, kind: DiscoveryType, connect: Duration) -> Cluster {
    let stat_name = names::stat(name);
    Cluster {
        name: name.to_owned(),
        alt_stat_name: if stat_name == name {
            String::new()
        } else {
            stat_name
        },
        cluster_discovery_type: Some(ClusterDiscoveryType::Type(kind.into())),
        connect_timeout: Some(duration(connect)),
        circuit_breakers: Some(CircuitBreakers {
            thresholds: vec![Thresholds {
                track_remaining: true,
                ..Thresholds::default()
            }],
            ..CircuitBreakers::default()
        }),
        ..Cluster::default()
    }
}

/// A cluster whose hosts come by EDS under the cluster's own name.
pub(crate) fn eds(name: &str, connect: Duration) -> Cluster {
    Cluster {
        eds_cluster_config: Some(EdsClusterConfig {
            eds_config: Some(ads()),
            ..EdsClusterConfig::default()
        }),
        ..bare(name, DiscoveryType::Eds, connect)
    }
}

/// A cluster with the hosts given.
pub(crate) fn fixed(name: &str, hosts: ClusterLoadAssignment, connect: Duration) -> Cluster {
    Cluster {
        load_assignment: Some(hosts),
        ..bare(name, DiscoveryType::Static, connect)
    }
}

/// A cluster whose hosts are given by name.
pub(crate) fn looked_up(name: &str, hosts: ClusterLoadAssignment, connect: Duration) -> Cluster {
    Cluster {
        load_assignment: Some(hosts),
        ..bare(name, DiscoveryType::StrictDns, connect)
    }
}

/// A cluster that never has a host.
pub(crate) fn nowhere(name: &str, connect: Duration) -> Cluster {
    Cluster {
        alt_stat_name: name.to_owned(),
        ..bare(name, DiscoveryType::Static, connect)
    }
}

/// A cluster that connects to where the caller wanted to go.
pub(crate) fn original_destination(name: &str, connect: Duration) -> Cluster {
    Cluster {
        lb_policy: LbPolicy::ClusterProvided.into(),
        ..bare(name, DiscoveryType::OriginalDst, connect)
    }
}

/// Says what is spoken, and for HTTP between applications how long connections and streams may be idle.
pub(crate) fn speak(cluster: &mut Cluster, upstream: Upstream, http: Option<&Timeouts>) {
    let protocol = match upstream {
        Upstream::Tcp => None,
        Upstream::Http1 => Some(ProtocolConfig::HttpProtocolOptions(
            Http1ProtocolOptions::default(),
        )),
        Upstream::Http2 => Some(ProtocolConfig::Http2ProtocolOptions(
            Http2ProtocolOptions::default(),
        )),
    };
    let Some(protocol) = protocol else { return };
    let options = HttpProtocolOptions {
        common_http_protocol_options: http.map(|timeouts| CommonOptions {
            idle_timeout: Some(duration(timeouts.idle)),
            max_connection_duration: Some(duration(timeouts.connection_max)),
            max_stream_duration: Some(duration(timeouts.stream_max)),
            ..CommonOptions::default()
        }),
        upstream_protocol_options: Some(UpstreamProtocolOptions::ExplicitHttpConfig(
            ExplicitHttpConfig {
                protocol_config: Some(protocol),
            },
        )),
        ..HttpProtocolOptions::default()
    };
    cluster.typed_extension_protocol_options =
        BTreeMap::from([(HTTP_OPTIONS.to_owned(), any(&options))]);
}

/// Bounds what may be open towards the cluster at once.
pub(crate) fn limit(cluster: &mut Cluster, limits: &ConnectionLimits) {
    let thresholds = Thresholds {
        max_connections: limits.max_connections.map(number),
        max_connection_pools: limits.max_connection_pools.map(number),
        max_pending_requests: limits.max_pending_requests.map(number),
        max_requests: limits.max_requests.map(number),
        max_retries: limits.max_retries.map(number),
        track_remaining: true,
        ..Thresholds::default()
    };
    cluster.circuit_breakers = Some(CircuitBreakers {
        thresholds: vec![thresholds],
        ..CircuitBreakers::default()
    });
}

/// Leaves hosts out for a while after they failed.
pub(crate) fn eject(cluster: &mut Cluster, conf: &OutlierDetection) {
    if conf.disabled == Some(true) {
        return;
    }
    let on = |present: bool| Some(number(if present { 100 } else { 0 }));
    let detectors = conf.detectors.clone().unwrap_or_default();
    let count = |detector: Option<Consecutive>| detector.and_then(|d| d.consecutive).map(number);
    let mut message = OutlierDetectionMessage {
        interval: optional_duration(conf.interval),
        base_ejection_time: optional_duration(conf.base_ejection_time),
        max_ejection_percent: conf.max_ejection_percent.map(number),
        split_external_local_origin_errors: conf
            .split_external_and_local_errors
            .unwrap_or_default(),
        consecutive_5xx: count(detectors.total_failures),
        enforcing_consecutive_5xx: on(detectors.total_failures.is_some()),
        consecutive_gateway_failure: count(detectors.gateway_failures),
        enforcing_consecutive_gateway_failure: on(detectors.gateway_failures.is_some()),
        consecutive_local_origin_failure: count(detectors.local_origin_failures),
        enforcing_consecutive_local_origin_failure: on(detectors.local_origin_failures.is_some()),
        ..OutlierDetectionMessage::default()
    };
    if conf.detectors.is_some() {
        let rate = detectors.success_rate;
        message.enforcing_success_rate = on(rate.is_some());
        message.enforcing_local_origin_success_rate = on(rate.is_some());
        if let Some(rate) = rate {
            message.success_rate_minimum_hosts = rate.minimum_hosts.map(number);
            message.success_rate_request_volume = rate.request_volume.map(number);
            message.success_rate_stdev_factor = rate
                .standard_deviation_factor
                .and_then(|factor| factor.parse::<f64>().ok())
                .map(|factor| number(percent::whole(factor * 1000.0)));
        }
        let share = detectors.failure_percentage;
        message.enforcing_failure_percentage = on(share.is_some());
        message.enforcing_failure_percentage_local_origin = on(share.is_some());
        if let Some(share) = share {
            message.failure_percentage_minimum_hosts = share.minimum_hosts.map(number);
            message.failure_percentage_request_volume = share.request_volume.map(number);
            message.failure_percentage_threshold = share.threshold.map(number);
        }
    }
    cluster.outlier_detection = Some(message);
    if let Some(share) = conf
        .healthy_panic_threshold
        .as_ref()
        .and_then(|text| text.parse().ok())
    {
        cluster
            .common_lb_config
            .get_or_insert_default()
            .healthy_panic_threshold = Some(Percent { value: share });
    }
}

pub(crate) fn secure(cluster: &mut Cluster, socket: TransportSocket) {
    cluster.transport_socket = Some(socket);
}
