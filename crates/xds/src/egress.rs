//! A zone's egress: traffic to services outside of the mesh leaves through it.

use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::cluster::v3::cluster::DnsLookupFamily;
use kds_proto::envoy::config::listener::v3::{Filter, FilterChain};
use kds_proto::envoy::config::route::v3::route::Action;
use zonal_catalogue::{External, Port, Protocol, Service};
use zonal_model::{Kind, Kri};
use zonal_policy::InboundKey;

use crate::access_log::{self, Place};
use crate::confs::{Permissions, Timeouts, of_chain};
use crate::dataplane::{ZoneListener, ZoneRole};
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, internal_ranges};
use crate::envoy::cluster::{self, Upstream};
use crate::envoy::endpoints::{Host, load_assignment};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{boolean, duration, listener, rbac, routes, tls};
use crate::external_tls;
use crate::fault;
use crate::health;
use crate::inbound;
use crate::names;
use crate::rate_limit::RateLimit;
use crate::trace::{self, Span};
use crate::view::{Identity, ProxyView};

/// One service outside of the mesh, complete enough to be reached.
struct Entry<'a> {
    name: String,
    kri: Kri,
    service: &'a Service,
    port: &'a Port,
    external: &'a External,
}

pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    let mut listeners = view
        .dataplane
        .zone_listeners
        .iter()
        .filter(|listener| listener.role == ZoneRole::Egress)
        .peekable();
    if listeners.peek().is_none() {
        return;
    }
    let Some(identity) = view.identity else {
        out.problem(
            "zone egress",
            "the proxy has no identity, and an egress without one would let anybody out; its listeners are left out. Let a MeshIdentity select it",
        );
        return;
    };
    let entries = entries(view, out);
    for zone_listener in listeners {
        put_listener(view, identity, zone_listener, &entries, out);
    }
}

/// Puts the clusters, and returns the services that got one.
fn entries<'a>(view: &ProxyView<'a>, out: &mut Generated) -> Vec<Entry<'a>> {
    let mut entries = Vec::new();
    for service in view.catalogue.services() {
        if service.kri.kind != Kind::MeshExternalService {
            continue;
        }
        let (Some(external), [port]) = (&service.external, service.ports.as_slice()) else {
            continue;
        };
        if external.endpoints.is_empty() {
            continue;
        }
        let kri = service.port_kri(port);
        let entry = Entry {
            name: kri.to_string(),
            kri,
            service,
            port,
            external,
        };
        match cluster(view, &entry) {
            Ok(cluster) => {
                out.put(type_url::CLUSTER, &*entry.name, Encoded::new(&cluster));
                entries.push(entry);
            }
            Err(reason) => out.problem(entry.name, reason),
        }
    }
    entries
}

fn cluster(view: &ProxyView<'_>, entry: &Entry<'_>) -> Result<Cluster, String> {
    let hosts: Vec<Host> = entry
        .external
        .endpoints
        .iter()
        .map(|endpoint| Host {
            address: endpoint.address.to_string(),
            port: endpoint.port,
            zone: None,
            sub_zone: Some(format!("priority-{}", endpoint.priority)),
            priority: endpoint.priority,
            weight: 1,
            locality_weight: None,
            tags: entry.service.labels.clone(),
        })
        .collect();
    let timeouts = Timeouts::of(&view.policies.timeout(&entry.kri, None));
    let by_address = hosts
        .iter()
        .all(|host| host.address.parse::<std::net::IpAddr>().is_ok());
    let assignment = load_assignment(&entry.name, &hosts, None);
    let mut cluster = if by_address {
        cluster::fixed(&entry.name, assignment, timeouts.connect)
    } else {
        let v6 = view.dataplane.address.contains(':');
        let family = if v6 {
            DnsLookupFamily::Auto
        } else {
            DnsLookupFamily::V4Only
        };
        Cluster {
            dns_lookup_family: family.into(),
            ..cluster::looked_up(&entry.name, assignment, timeouts.connect)
        }
    };
    let (upstream, http) = match entry.port.protocol {
        Protocol::Tcp => (Upstream::Tcp, None),
        Protocol::Http => (Upstream::Http1, Some(&timeouts)),
        Protocol::Http2 => (Upstream::Http2, Some(&timeouts)),
        Protocol::Grpc => (Upstream::Http2, None),
    };
    cluster::speak(&mut cluster, upstream, http);
    let default_name = hosts
        .first()
        .map(|host| host.address.as_str())
        .unwrap_or_default();
    if let Some(socket) =
        external_tls::socket(&entry.external.tls, default_name, &view.node.system_ca_path)?
    {
        cluster::secure(&mut cluster, socket);
    }
    if let Some(conf) = view.policies.circuit_breaker(&entry.kri) {
        if let Some(limits) = &conf.connection_limits {
            cluster::limit(&mut cluster, limits);
        }
        if let Some(detection) = &conf.outlier_detection {
            cluster::eject(&mut cluster, detection);
        }
    }
    let check: Option<health::Conf> =
        view.policies
            .outbound(Kind::MeshHealthCheck, &entry.kri, None);
    if let Some(check) = check {
        check.apply(&mut cluster, entry.port.protocol, &view.dataplane.labels);
    }
    Ok(cluster)
}

fn put_listener(
    view: &ProxyView<'_>,
    identity: Identity<'_>,
    zone_listener: &ZoneListener,
    entries: &[Entry<'_>],
    out: &mut Generated,
) {
    if entries.is_empty() {
        return;
    }
    let name = names::zone_egress(&zone_listener.section);
    if !out.claim(&zone_listener.address, zone_listener.port, &name) {
        return;
    }
    let key = InboundKey {
        address: zone_listener.address.as_str().into(),
        port: zone_listener.port,
    };
    let permissions = inbound::permissions(view, &key);
    let mut message = listener::inbound(
        &name,
        address::socket(&zone_listener.address, u32::from(zone_listener.port)),
        view.node.reuse_port(),
    );
    message.listener_filters.push(listener::tls_inspector());
    message.filter_chains = entries
        .iter()
        .map(|entry| FilterChain {
            name: entry.name.clone(),
            filter_chain_match: Some(listener::sni_match(&entry.port.sni)),
            ..listener::secured(
                filters(view, &name, entry, &permissions, &key),
                tls::downstream(identity.secret, [], &tls::Parameters::default()),
            )
        })
        .collect();
    out.put(type_url::LISTENER, name, Encoded::new(&message));
}

fn filters(
    view: &ProxyView<'_>,
    listener_name: &str,
    entry: &Entry<'_>,
    permissions: &Permissions,
    key: &InboundKey,
) -> Vec<Filter> {
    let name = entry.name.as_str();
    let policies = view.policies;
    let timeouts = of_chain(policies, Kind::MeshTimeout, key, &entry.port.sni);
    let timeouts = timeouts.map(|conf| Timeouts::of(&conf));
    let limit: RateLimit =
        of_chain(policies, Kind::MeshRateLimit, key, &entry.port.sni).unwrap_or_default();
    let said = |kind| policies.kind(kind).inbound_rules(key);
    let log = access_log::of_rules(view, said(Kind::MeshAccessLog), &Place::zone_proxy());
    if !entry.port.protocol.is_http() {
        let idle = timeouts.map(|timeouts| timeouts.idle);
        return [rbac::network_filter(listener_name, permissions)]
            .into_iter()
            .chain(limit.network_filter())
            .chain([listener::zone_tcp_proxy(name, idle, log)])
            .collect();
    }
    let mut route = routes::everything_to("", name);
    if let Some(Action::Route(action)) = &mut route.action {
        action.host_rewrite_specifier = Some(
            kds_proto::envoy::config::route::v3::route_action::HostRewriteSpecifier::AutoHostRewrite(
                boolean(true),
            ),
        );
        action.timeout = Some(duration(
            timeouts.map_or(Duration::ZERO, |timeouts| timeouts.request),
        ));
        action.idle_timeout = timeouts.map(|timeouts| duration(timeouts.stream_idle));
    }
    limit.limit_route(&mut route);
    let manager = http::manager(Manager {
        stat: name.to_owned(),
        side: if timeouts.is_some() {
            Side::Egress
        } else {
            Side::System
        },
        filters: vec![rbac::http_filter(permissions)],
        late_filters: fault::filters(said(Kind::MeshFaultInjection))
            .into_iter()
            .chain(limit.http_filter())
            .collect(),
        log,
        tracing: trace::tracing(view, Span::ZoneProxy),
        grpc: entry.port.protocol == Protocol::Grpc,
        routes: routes::configuration(name, name, vec![route]),
        internal: internal_ranges(view.node.ipv6_enabled),
        request_headers_timeout: timeouts
            .map_or(Duration::ZERO, |timeouts| timeouts.request_headers),
    });
    limit
        .network_filter()
        .into_iter()
        .chain([manager])
        .collect()
}
