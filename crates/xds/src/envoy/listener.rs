//! Listeners, filter chains and network filters.

use std::time::Duration;

use kds_proto::envoy::config::accesslog::v3::AccessLog;
use kds_proto::envoy::config::core::v3::{Address, TrafficDirection, TransportSocket};
use kds_proto::envoy::config::listener::v3::{
    Filter, FilterChain, FilterChainMatch, Listener, ListenerFilter, filter, listener_filter,
};
use kds_proto::envoy::extensions::filters::listener::tls_inspector::v3::TlsInspector;
use kds_proto::envoy::extensions::filters::network::tcp_proxy::v3::{
    TcpProxy,
    tcp_proxy::{
        ClusterSpecifier, TcpAccessLogOptions, WeightedCluster, weighted_cluster::ClusterWeight,
    },
};
use pbjson_types::Any;

use super::{any, boolean, duration, number};
use crate::names;

const TLS_INSPECTOR: &str = "envoy.filters.listener.tls_inspector";
const TCP_PROXY: &str = "envoy.filters.network.tcp_proxy";

/// One destination cluster and its share.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub(crate) struct Share {
    /// The cluster's name.
    pub(crate) cluster: String,
    /// Its weight among the shares.
    pub(crate) weight: u32,
}

pub(crate) fn filter(name: &str, config: Any) -> Filter {
    Filter {
        name: name.to_owned(),
        config_type: Some(filter::ConfigType::TypedConfig(config)),
    }
}

pub(crate) fn listener_filter(name: &str, config: Any) -> ListenerFilter {
    ListenerFilter {
        name: name.to_owned(),
        config_type: Some(listener_filter::ConfigType::TypedConfig(config)),
        ..ListenerFilter::default()
    }
}

pub(crate) fn tls_inspector() -> ListenerFilter {
    listener_filter(TLS_INSPECTOR, any(&TlsInspector::default()))
}

/// A listener for traffic into the workload or the zone.
pub(crate) fn inbound(name: &str, address: Address, reuse_port: bool) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(address),
        stat_prefix: names::stat(name),
        traffic_direction: TrafficDirection::Inbound.into(),
        enable_reuse_port: Some(boolean(reuse_port)),
        ..Listener::default()
    }
}

/// A listener for traffic of the workload towards `name`.
pub(crate) fn outbound(name: &str, address: Address) -> Listener {
    Listener {
        name: name.to_owned(),
        address: Some(address),
        stat_prefix: names::stat(name),
        traffic_direction: TrafficDirection::Outbound.into(),
        ..Listener::default()
    }
}

pub(crate) fn unbound(listener: &mut Listener) {
    listener.bind_to_port = Some(boolean(false));
}

pub(crate) fn chain(filters: Vec<Filter>) -> FilterChain {
    FilterChain {
        filters,
        ..FilterChain::default()
    }
}

pub(crate) fn secured(filters: Vec<Filter>, socket: TransportSocket) -> FilterChain {
    FilterChain {
        transport_socket: Some(socket),
        ..chain(filters)
    }
}

/// Matches by what the TLS inspector saw: `raw_buffer` or `tls`, and the application protocols offered.
pub(crate) fn transport_match(transport: &str, application: &[&str]) -> FilterChainMatch {
    FilterChainMatch {
        transport_protocol: transport.to_owned(),
        application_protocols: application.iter().map(|&name| name.to_owned()).collect(),
        ..FilterChainMatch::default()
    }
}

/// Matches TLS connections for one server name.
pub(crate) fn sni_match(sni: &str) -> FilterChainMatch {
    FilterChainMatch {
        server_names: vec![sni.to_owned()],
        ..transport_match("tls", &[])
    }
}

/// Matches connections whose original destination was `port`.
pub(crate) fn port_match(port: u16) -> FilterChainMatch {
    FilterChainMatch {
        destination_port: Some(number(u32::from(port))),
        ..FilterChainMatch::default()
    }
}

/// Passes bytes on to one cluster, or to one of several by weight.
pub(crate) fn tcp_proxy(
    stat: &str,
    shares: &[Share],
    idle: Option<Duration>,
    connect_attempts: Option<u32>,
    log: Vec<AccessLog>,
) -> Filter {
    let clusters = match shares {
        [only] => ClusterSpecifier::Cluster(only.cluster.clone()),
        several => ClusterSpecifier::WeightedClusters(WeightedCluster {
            clusters: several
                .iter()
                .map(|share| ClusterWeight {
                    name: share.cluster.clone(),
                    weight: share.weight,
                    ..ClusterWeight::default()
                })
                .collect(),
        }),
    };
    let config = TcpProxy {
        stat_prefix: names::stat(stat),
        idle_timeout: idle.map(duration),
        max_connect_attempts: connect_attempts.map(number),
        access_log: log,
        cluster_specifier: Some(clusters),
        ..TcpProxy::default()
    };
    filter(TCP_PROXY, any(&config))
}

/// [`tcp_proxy`] to a single cluster.
pub(crate) fn tcp_proxy_to(
    stat: &str,
    cluster: &str,
    idle: Option<Duration>,
    log: Vec<AccessLog>,
) -> Filter {
    tcp_proxy(
        stat,
        &[Share {
            cluster: cluster.to_owned(),
            weight: 1,
        }],
        idle,
        None,
        log,
    )
}

/// [`tcp_proxy_to`] in a zone proxy, whose connections live long: they are logged when they begin, too.
pub(crate) fn zone_tcp_proxy(name: &str, idle: Option<Duration>, log: Vec<AccessLog>) -> Filter {
    let logged = !log.is_empty();
    let config = TcpProxy {
        stat_prefix: names::stat(name),
        idle_timeout: idle.map(duration),
        access_log: log,
        access_log_options: logged.then(|| TcpAccessLogOptions {
            flush_access_log_on_connected: true,
            ..TcpAccessLogOptions::default()
        }),
        cluster_specifier: Some(ClusterSpecifier::Cluster(name.to_owned())),
        ..TcpProxy::default()
    };
    filter(TCP_PROXY, any(&config))
}
