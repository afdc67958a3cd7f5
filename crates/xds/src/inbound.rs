//! Traffic into the workload: a listener and a cluster for each inbound.

use std::time::Duration;

use kds_proto::envoy::config::listener::v3::{Filter, FilterChain, Listener};
use kds_proto::envoy::config::route::v3::{Route, route::Action};
use serde::Deserialize;
use serde_json::Value;
use zonal_catalogue::Protocol;
use zonal_model::{Kind, Kri, labels};
use zonal_policy::InboundKey;
use zonal_policy::conf::TimeoutConf;

use crate::access_log::{self, Place};
use crate::callers::{self, Callers};
use crate::confs::{PermissionRule, Permissions, Timeouts};
use crate::dataplane::Inbound;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, internal_ranges};
use crate::envoy::cluster::{self, Upstream};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{duration, endpoints, listener, metadata, rbac, routes, tls};
use crate::fault;
use crate::names;
use crate::rate_limit::RateLimit;
use crate::trace::{self, Span};
use crate::transparent::{INBOUND_SOURCE_V4, INBOUND_SOURCE_V6};
use crate::view::ProxyView;

/// The metadata key under which listeners carry labels, for access logs.
const TAGS: &str = "io.kuma.tags";
const UNIFIED_NAME: &str = "kuma.io/unified-name";
/// An internal header that callers may not bring along.
const INTERNAL_HEADER: &str = "x-kuma-tags";

/// What MeshTLS says about an inbound.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TlsConf {
    mode: Option<String>,
    #[serde(flatten)]
    pub(crate) parameters: tls::Parameters,
}

impl TlsConf {
    fn permissive(&self) -> bool {
        self.mode.as_deref() == Some("Permissive")
    }
}

pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    for inbound in &view.dataplane.inbounds {
        if inbound.port == names::SERVICELESS_PORT {
            continue;
        }
        let name = names::inbound(&inbound.section);
        if !out.claim(&inbound.address, inbound.port, &name) {
            continue;
        }
        let key = InboundKey {
            address: inbound.address.as_str().into(),
            port: inbound.port,
        };
        let timeouts = timeouts(view, &key);
        out.put(
            type_url::CLUSTER,
            &*name,
            Encoded::new(&cluster(view, inbound, &name, &key, &timeouts)),
        );
        out.put(
            type_url::LISTENER,
            &*name,
            Encoded::new(&listener(view, inbound, &name, &key, &timeouts)),
        );
    }
}

/// Whether the proxy has inbounds that take nothing but TLS; the last one decides for the listeners they share.
pub(crate) fn takes_only_tls(view: &ProxyView<'_>) -> bool {
    let Some(inbound) = view
        .dataplane
        .inbounds
        .last()
        .filter(|_| view.identity.is_some())
    else {
        return false;
    };
    let key = InboundKey {
        address: inbound.address.as_str().into(),
        port: inbound.port,
    };
    let conf: TlsConf = view
        .policies
        .inbound(Kind::MeshTLS, &key)
        .unwrap_or_default();
    !conf.permissive()
}

/// A policy that speaks only about certain callers leaves the rest at what an inbound has without any policy.
fn timeouts(view: &ProxyView<'_>, key: &InboundKey) -> Timeouts {
    match view.policies.inbound_timeout(key) {
        Some(conf) => Timeouts::of(&conf),
        None if view
            .policies
            .kind(Kind::MeshTimeout)
            .inbound_rules(key)
            .is_empty() =>
        {
            Timeouts::default()
        }
        None => Timeouts {
            connect: Duration::from_secs(10),
            idle: Duration::from_secs(7200),
            stream_idle: Duration::ZERO,
            ..Timeouts::default()
        },
    }
}

fn cluster(
    view: &ProxyView<'_>,
    inbound: &Inbound,
    name: &str,
    key: &InboundKey,
    timeouts: &Timeouts,
) -> kds_proto::envoy::config::cluster::v3::Cluster {
    let workload = address::socket(&inbound.workload_address, u32::from(inbound.workload_port));
    let mut cluster = cluster::fixed(name, endpoints::fixed(name, workload), timeouts.connect);
    let (upstream, http) = match inbound.protocol {
        Protocol::Tcp => (Upstream::Tcp, None),
        Protocol::Http => (Upstream::Http1, Some(timeouts)),
        Protocol::Http2 => (Upstream::Http2, Some(timeouts)),
        Protocol::Grpc => (Upstream::Http2, None),
    };
    cluster::speak(&mut cluster, upstream, http);
    if view.redirect().is_some() && !is_loopback(&inbound.workload_address) {
        let v6 = inbound.workload_address.contains(':');
        let source = if v6 {
            INBOUND_SOURCE_V6
        } else {
            INBOUND_SOURCE_V4
        };
        cluster.upstream_bind_config = Some(address::source(source));
    }
    if let Some(conf) = view.policies.inbound_circuit_breaker(key) {
        if let Some(limits) = &conf.connection_limits {
            cluster::limit(&mut cluster, limits);
        }
        if let Some(detection) = &conf.outlier_detection {
            cluster::eject(&mut cluster, detection);
        }
    }
    cluster
}

fn is_loopback(address: &str) -> bool {
    address
        .parse::<std::net::IpAddr>()
        .is_ok_and(|address| address.is_loopback())
}

fn listener(
    view: &ProxyView<'_>,
    inbound: &Inbound,
    name: &str,
    key: &InboundKey,
    timeouts: &Timeouts,
) -> Listener {
    let mut listener = listener::inbound(
        name,
        address::socket(&inbound.address, u32::from(inbound.port)),
        view.node.reuse_port(),
    );
    if view.redirect().is_some() {
        listener::unbound(&mut listener);
    }
    let own = &view.dataplane.labels;
    listener.metadata = Some(if own.is_empty() {
        metadata(&[TAGS], [(UNIFIED_NAME, name)])
    } else {
        metadata(
            &[TAGS],
            own.iter()
                .map(|(key, value)| (key.as_str(), value.as_str())),
        )
    });

    let Some(identity) = view.identity else {
        listener.filter_chains = vec![listener::chain(filters(
            view, inbound, name, None, timeouts,
        ))];
        return listener;
    };
    let permissions = permissions(view, key);
    let conf: TlsConf = view
        .policies
        .inbound(Kind::MeshTLS, key)
        .unwrap_or_default();
    let socket = tls::downstream(
        identity.secret,
        view.trust.iter().map(|domain| domain.name.as_str()),
        &conf.parameters,
    );
    let guarded = filters(view, inbound, name, Some(&permissions), timeouts);
    let logs = view.policies.kind(Kind::MeshAccessLog).inbound_rules(key);
    if permissions.rules.iter().any(|rule| rule.mentions_sni())
        || logs
            .iter()
            .any(|rule| rule.matches.as_ref().is_some_and(|of| of.sni.is_some()))
    {
        listener.listener_filters.push(listener::tls_inspector());
    }
    if conf.permissive() {
        let open = || filters(view, inbound, name, None, timeouts);
        listener.filter_chains = vec![
            FilterChain {
                filter_chain_match: Some(listener::transport_match("raw_buffer", &[])),
                ..listener::chain(open())
            },
            FilterChain {
                filter_chain_match: Some(listener::transport_match("tls", &[])),
                ..listener::chain(open())
            },
            FilterChain {
                filter_chain_match: Some(listener::transport_match("tls", &[tls::MESH_ALPN])),
                ..listener::secured(guarded, socket)
            },
        ];
        if listener.listener_filters.is_empty() {
            listener.listener_filters.push(listener::tls_inspector());
        }
    } else {
        listener.filter_chains = vec![listener::secured(guarded, socket)];
    }
    listener
}

pub(crate) fn permissions(view: &ProxyView<'_>, key: &InboundKey) -> Permissions {
    Permissions {
        rules: view
            .policies
            .permissions(key)
            .into_iter()
            .map(|(origin, conf)| PermissionRule {
                origin: origin.to_string(),
                conf,
            })
            .collect(),
    }
}

/// What happens on a connection; with `permissions` only permitted callers get that far.
fn filters(
    view: &ProxyView<'_>,
    inbound: &Inbound,
    name: &str,
    permissions: Option<&Permissions>,
    timeouts: &Timeouts,
) -> Vec<Filter> {
    let key = InboundKey {
        address: inbound.address.as_str().into(),
        port: inbound.port,
    };
    let said = |kind| view.policies.kind(kind).inbound_rules(&key);
    let base_limit: Option<Value> = view.policies.inbound(Kind::MeshRateLimit, &key);
    let limit = base_limit.as_ref().map(RateLimit::read).unwrap_or_default();
    let place = Place::inbound(destination_name(view, inbound), inbound.protocol.is_http());
    let log = access_log::of_rules(view, said(Kind::MeshAccessLog), &place);
    if !inbound.protocol.is_http() {
        let proxy = listener::tcp_proxy_to(name, name, Some(timeouts.idle), log);
        return permissions
            .map(|permissions| rbac::network_filter(name, permissions))
            .into_iter()
            .chain(limit.network_filter())
            .chain([proxy])
            .collect();
    }
    // Without TLS nobody knows who calls.
    let (limited, timed) = match permissions {
        Some(_) => (
            Callers::of(
                LIMITS,
                said(Kind::MeshRateLimit),
                RateLimit::limits_http,
                base_limit.as_ref(),
            ),
            Callers::of(TIMEOUTS, said(Kind::MeshTimeout), limits_requests, None),
        ),
        None => (Callers::none(LIMITS), Callers::none(TIMEOUTS)),
    };
    let mut everything = route(name, timeouts);
    limit.limit_route(&mut everything);
    let per_limit = limited.routes(&[everything], |route, conf| {
        RateLimit::read(conf).limit_route(route);
    });
    let per_timeout = timed.routes(&per_limit, change_timeouts);
    let mut configuration = routes::configuration(name, name, per_timeout);
    configuration
        .request_headers_to_remove
        .push(INTERNAL_HEADER.to_owned());
    let manager = http::manager(Manager {
        stat: name.to_owned(),
        side: Side::Inbound,
        filters: permissions.map(rbac::http_filter).into_iter().collect(),
        late_filters: fault::filters(said(Kind::MeshFaultInjection))
            .into_iter()
            .chain(limit.http_filter().or_else(|| {
                limited
                    .confs()
                    .find_map(|conf| RateLimit::read(conf).http_filter())
            }))
            .collect(),
        log,
        tracing: trace::tracing(view, Span::Inbound),
        grpc: inbound.protocol == Protocol::Grpc,
        routes: configuration,
        internal: internal_ranges(view.node.ipv6_enabled),
        request_headers_timeout: timeouts.request_headers,
    });
    callers::filter(&[&limited, &timed])
        .into_iter()
        .chain(limit.network_filter())
        .chain([manager])
        .collect()
}

const LIMITS: &str = "kuma.mesh_rate_limit";
const TIMEOUTS: &str = "kuma.mesh_timeout";

/// Whether a MeshTimeout conf says something about requests.
fn limits_requests(conf: &Value) -> bool {
    TimeoutConf::deserialize(conf)
        .ok()
        .and_then(|conf| conf.http)
        .is_some_and(|http| http.request_timeout.is_some() || http.stream_idle_timeout.is_some())
}

/// Only the members that are set change a route.
fn change_timeouts(route: &mut Route, conf: &Value) {
    let Some(http) = TimeoutConf::deserialize(conf)
        .ok()
        .and_then(|conf| conf.http)
    else {
        return;
    };
    if let Some(Action::Route(action)) = &mut route.action {
        if let Some(timeout) = http.request_timeout {
            action.timeout = Some(duration(timeout));
        }
        if let Some(timeout) = http.stream_idle_timeout {
            action.idle_timeout = Some(duration(timeout));
        }
    }
}

/// What access logs call the inbound: the proxy's identifier with its name, or the workload where it has none.
fn destination_name(view: &ProxyView<'_>, inbound: &Inbound) -> String {
    if !inbound.named {
        return access_log::workload(view).unwrap_or("unknown").to_owned();
    }
    let label = |key| view.dataplane.labels.get(key).cloned();
    Kri {
        kind: Kind::Dataplane,
        mesh: view.mesh.to_owned(),
        zone: label(labels::ZONE).unwrap_or_default(),
        namespace: label(labels::NAMESPACE).unwrap_or_default(),
        name: label(labels::DISPLAY_NAME).unwrap_or_else(|| view.node.name.clone()),
        section: inbound.section.clone(),
    }
    .to_string()
}

fn route(cluster: &str, timeouts: &Timeouts) -> Route {
    let mut route = routes::everything_to("", cluster);
    if let Some(Action::Route(action)) = &mut route.action {
        action.timeout = Some(duration(timeouts.request));
        action.idle_timeout = Some(duration(timeouts.stream_idle));
    }
    route
}
