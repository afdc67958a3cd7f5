//! The HTTP connection manager and its filters.

use std::time::Duration;

use kds_proto::envoy::config::accesslog::v3::AccessLog;
use kds_proto::envoy::config::core::v3::{CidrRange, HttpProtocolOptions};
use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::route::v3::RouteConfiguration;
use kds_proto::envoy::extensions::filters::http::grpc_stats::v3::FilterConfig as GrpcStats;
use kds_proto::envoy::extensions::filters::http::router::v3::Router;
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::{
    ForwardClientCertDetails, InternalAddressConfig, RouteSpecifier, SetCurrentClientCertDetails, Tracing,
};
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::{
    HttpConnectionManager, HttpFilter, http_filter,
};
use pbjson_types::Any;

use super::{any, boolean, duration, listener};
use crate::names;

const MANAGER: &str = "envoy.filters.network.http_connection_manager";
const ROUTER: &str = "envoy.filters.http.router";
const GRPC_STATS: &str = "envoy.filters.http.grpc_stats";

/// How long an inbound stream may be silent before the manager ends it; routes set a shorter one of their own.
const STREAM_IDLE_INBOUND: Duration = Duration::from_secs(3600);

/// Which way the traffic of a connection manager goes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Side {
    /// Into the workload: the caller's identity is told to the application.
    Inbound,
    /// Out of the workload: paths are normalised before they are matched.
    Outbound,
    /// Out of the mesh.
    Egress,
    /// The system's own listeners, and others without timeouts.
    System,
}

pub(crate) fn http_filter(name: &str, config: Any) -> HttpFilter {
    HttpFilter {
        name: name.to_owned(),
        config_type: Some(http_filter::ConfigType::TypedConfig(config)),
        ..HttpFilter::default()
    }
}

/// What goes into a connection manager.
#[derive(Debug)]
pub(crate) struct Manager {
    /// Name in statistics.
    pub(crate) stat: String,
    /// Direction.
    pub(crate) side: Side,
    /// Filters before the router.
    pub(crate) filters: Vec<HttpFilter>,
    /// Filters right before the router.
    pub(crate) late_filters: Vec<HttpFilter>,
    /// Who logs what.
    pub(crate) log: Vec<AccessLog>,
    /// Spans.
    pub(crate) tracing: Option<Tracing>,
    /// Adds gRPC statistics.
    pub(crate) grpc: bool,
    /// Where requests go.
    pub(crate) routes: RouteConfiguration,
    /// Callers from these ranges are internal.
    pub(crate) internal: Vec<CidrRange>,
    /// How long the headers of a request may take.
    pub(crate) request_headers_timeout: Duration,
}

pub(crate) fn manager(parts: Manager) -> Filter {
    let mut filters = parts.filters;
    if parts.grpc {
        let stats = GrpcStats {
            emit_filter_state: true,
            ..GrpcStats::default()
        };
        filters.push(http_filter(GRPC_STATS, any(&stats)));
    }
    filters.extend(parts.late_filters);
    filters.push(http_filter(ROUTER, any(&Router::default())));
    let mut manager = HttpConnectionManager {
        stat_prefix: names::stat(&parts.stat),
        http_filters: filters,
        access_log: parts.log,
        tracing: parts.tracing,
        internal_address_config: Some(InternalAddressConfig {
            cidr_ranges: parts.internal,
            ..InternalAddressConfig::default()
        }),
        route_specifier: Some(RouteSpecifier::RouteConfig(parts.routes)),
        ..HttpConnectionManager::default()
    };
    if parts.side != Side::System {
        manager.common_http_protocol_options = Some(HttpProtocolOptions {
            idle_timeout: Some(duration(Duration::ZERO)),
            ..HttpProtocolOptions::default()
        });
        manager.request_headers_timeout = Some(duration(parts.request_headers_timeout));
    }
    match parts.side {
        Side::Inbound => {
            manager.forward_client_cert_details = ForwardClientCertDetails::SanitizeSet.into();
            manager.set_current_client_cert_details = Some(SetCurrentClientCertDetails {
                uri: true,
                ..SetCurrentClientCertDetails::default()
            });
            manager.stream_idle_timeout = Some(duration(STREAM_IDLE_INBOUND));
        }
        Side::Outbound => manager.normalize_path = Some(boolean(true)),
        Side::Egress | Side::System => {}
    }
    listener::filter(MANAGER, any(&manager))
}
