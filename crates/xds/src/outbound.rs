//! Traffic of the workload: a listener for each outbound, a cluster and its hosts for each destination.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kds_proto::envoy::config::accesslog::v3::AccessLog;
use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::listener::v3::Filter;
use kds_proto::envoy::config::route::v3::Route;
use zonal_catalogue::{Outbound, Port, Protocol, Service};
use zonal_model::{Kind, Kri};
use zonal_policy::routes::{HttpRoute, http_routes, tcp_backends};

use crate::access_log::{self, Place};
use crate::balance::Balance;
use crate::cache::Cache;
use crate::confs::Timeouts;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, internal_ranges};
use crate::envoy::cluster::{self, Upstream};
use crate::envoy::endpoints::load_assignment;
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::listener::Share;
use crate::envoy::{listener, metadata, routes, tls};
use crate::health;
use crate::node::feature;
use crate::routing::{self, Routing};
use crate::trace::{self, Span};
use crate::view::{Identity, ProxyView};

const TAGS: &str = "io.kuma.tags";
const UNIFIED_NAME: &str = "kuma.io/unified-name";

/// A port of a service as listeners and routes refer to it.
#[derive(Clone, Debug)]
pub(crate) struct Destination<'a> {
    /// The name of its cluster: the section is as the reference wrote it.
    pub(crate) cluster: String,
    /// Its identifier with the port's name: what policies know it by.
    pub(crate) kri: Kri,
    pub(crate) service: &'a Arc<Service>,
    pub(crate) port: &'a Port,
}

impl Destination<'_> {
    pub(crate) fn is_external(&self) -> bool {
        self.service.kri.kind == Kind::MeshExternalService
    }
}

pub(crate) fn generate(view: &ProxyView<'_>, cache: &Cache, out: &mut Generated) {
    let mut destinations: BTreeMap<String, Destination<'_>> = BTreeMap::new();
    for outbound in view.outbounds {
        let name = outbound.kri.to_string();
        // Several virtual addresses of one service: the first keeps the plain name.
        let mut unique = name.clone();
        if out.contains(type_url::LISTENER, &unique) {
            unique = format!("{name}_{}", crate::names::stat(&outbound.address));
        }
        if !out.claim(&outbound.address, outbound.port, &unique) {
            continue;
        }
        let mut used = Vec::new();
        let encoded = if routed_or_observed(view, &outbound.destination()) {
            let Some(filter) = filter(view, outbound, &mut used) else {
                out.problem(
                    name,
                    "its routes lead nowhere; it gets no listener until a backendRef of them resolves",
                );
                continue;
            };
            let listener = outbound_listener(view, outbound, &unique, &name, filter);
            cache.intern(Encoded::new(&listener))
        } else {
            used.push(implicit(outbound));
            plain(view, cache, outbound, &unique, &name)
        };
        for destination in used {
            destinations
                .entry(destination.cluster.clone())
                .or_insert(destination);
        }
        out.put(type_url::LISTENER, unique, encoded);
    }
    for destination in destinations.values() {
        put_destination(view, cache, destination, out);
    }
}

/// Whether more than limits is said about a destination: then its listener depends on other services, or on the proxy.
fn routed_or_observed(view: &ProxyView<'_>, destination: &Kri) -> bool {
    [Kind::MeshHTTPRoute, Kind::MeshTCPRoute, Kind::MeshAccessLog]
        .into_iter()
        .any(|kind| view.policies.kind(kind).nearest(destination).is_some())
        || view.policies.kind(Kind::MeshTrace).proxy.is_some()
        || view.faults_exist
}

/// The listener of an outbound that leads to its service and nowhere else: replicas of a caller share it.
fn plain(
    view: &ProxyView<'_>,
    cache: &Cache,
    outbound: &Outbound,
    unique: &str,
    name: &str,
) -> Encoded {
    let destination = outbound.destination();
    let said = |kind| {
        view.policies
            .kind(kind)
            .nearest(&destination)
            .map(|rule| &rule.conf)
    };
    let input = (
        (unique, name, &outbound.address, outbound.port),
        outbound.service_port.protocol,
        (
            view.redirect().is_some(),
            view.node.has(feature::BIND_OUTBOUNDS),
            view.node.ipv6_enabled,
        ),
        (
            said(Kind::MeshTimeout),
            said(Kind::MeshRetry),
            said(Kind::MeshLoadBalancingStrategy),
        ),
    );
    cache.get_or_build("outbound listener", &input, || {
        // The destination itself always resolves, so there always is a filter.
        let filters = filter(view, outbound, &mut Vec::new());
        let mut listener = outbound_listener(view, outbound, unique, name, Filter::default());
        listener.filter_chains = vec![listener::chain(filters.into_iter().collect())];
        Encoded::new(&listener)
    })
}

/// What an outbound leads to where no route says otherwise.
fn implicit(outbound: &Outbound) -> Destination<'_> {
    Destination {
        cluster: outbound.kri.to_string(),
        kri: outbound.destination(),
        service: &outbound.service,
        port: &outbound.service_port,
    }
}

fn outbound_listener(
    view: &ProxyView<'_>,
    outbound: &Outbound,
    name: &str,
    destination: &str,
    filter: Filter,
) -> kds_proto::envoy::config::listener::v3::Listener {
    let mut listener = listener::outbound(
        name,
        address::socket(&outbound.address, u32::from(outbound.port)),
    );
    if view.redirect().is_some() && !view.node.has(feature::BIND_OUTBOUNDS) {
        listener::unbound(&mut listener);
    }
    listener.metadata = Some(metadata(&[TAGS], [(UNIFIED_NAME, destination)]));
    listener.filter_chains = vec![listener::chain(vec![filter])];
    listener
}

/// What happens on an outbound's connections, and where they can lead; `None` when nowhere.
fn filter<'a>(
    view: &ProxyView<'a>,
    outbound: &'a Outbound,
    used: &mut Vec<Destination<'a>>,
) -> Option<Filter> {
    let destination = implicit(outbound);
    let http = destination.port.protocol.is_http();
    // A route for connections, where none speaks about requests, makes the port one of bytes.
    let as_bytes = !http
        || (view.policies.tcp_rule(&destination.kri).is_some()
            && view.policies.http_rules(&destination.kri).is_none());
    if !as_bytes
        && let Some(routes) = http_routes(view.policies, view.targets, &destination.kri, http)
    {
        return Some(manager(view, &destination, &routes, used));
    }
    let timeouts = Timeouts::of(&view.policies.timeout(&destination.kri, None));
    let shares = shares(
        view,
        &destination,
        tcp_backends(view.policies, view.targets, &destination.kri),
        used,
    );
    if shares.is_empty() {
        return None;
    }
    let attempts = view
        .policies
        .retry(&destination.kri, None)
        .tcp
        .and_then(|tcp| tcp.max_connect_attempt);
    let log = view
        .policies
        .kind(Kind::MeshAccessLog)
        .nearest(&destination.kri)
        .map(|rule| access_log::of_conf(view, &rule.conf, &place(view, &destination)))
        .unwrap_or_default();
    Some(listener::tcp_proxy(
        &destination.cluster,
        &shares,
        Some(timeouts.idle),
        attempts,
        log,
    ))
}

/// The clusters of backends; what the implicit backend means is named as the outbound names it.
pub(crate) fn shares<'a>(
    view: &ProxyView<'a>,
    implicit: &Destination<'a>,
    backends: Vec<zonal_policy::ResolvedBackend>,
    used: &mut Vec<Destination<'a>>,
) -> Vec<Share> {
    let mut shares: Vec<Share> = Vec::new();
    for backend in backends {
        let Some(destination) = resolve(view, implicit, &backend.kri) else {
            continue;
        };
        shares.push(Share {
            cluster: destination.cluster.clone(),
            weight: backend.weight,
        });
        used.push(destination);
    }
    shares
}

/// The destination that a reference of a route means.
pub(crate) fn resolve<'a>(
    view: &ProxyView<'a>,
    implicit: &Destination<'a>,
    kri: &Kri,
) -> Option<Destination<'a>> {
    if *kri == implicit.kri {
        return Some(implicit.clone());
    }
    let service = view.catalogue.service(kri)?;
    let port = if kri.section.is_empty() {
        match service.ports.as_slice() {
            [only] => only,
            _ => return None,
        }
    } else {
        service.port(&kri.section)?
    };
    let named = if kri.section.is_empty() && kri.kind == Kind::MeshService {
        kri.clone().with_section(&*port.name)
    } else {
        kri.clone()
    };
    Some(Destination {
        cluster: named.to_string(),
        kri: service.port_kri(port),
        service,
        port,
    })
}

fn manager<'a>(
    view: &ProxyView<'a>,
    destination: &Destination<'a>,
    of: &[HttpRoute],
    used: &mut Vec<Destination<'a>>,
) -> Filter {
    let timeouts = Timeouts::of(&view.policies.timeout(&destination.kri, None));
    let mut routing = Routing::new(view, destination, used);
    let mut routes: Vec<Route> = of.iter().flat_map(|route| routing.routes(route)).collect();
    let (log, remembers) = logs(view, destination, of, &mut routes);
    let name = &destination.cluster;
    let mut configuration = routes::configuration(name, name, routes);
    configuration.request_headers_to_add = routing::headers_for_faults(view);
    http::manager(Manager {
        stat: name.clone(),
        side: Side::Outbound,
        filters: if remembers {
            vec![access_log::remember_route()]
        } else {
            Vec::new()
        },
        late_filters: Vec::new(),
        log,
        tracing: if destination.is_external() {
            None
        } else {
            trace::tracing(view, Span::Outbound(name))
        },
        grpc: destination.port.protocol == Protocol::Grpc,
        routes: configuration,
        internal: internal_ranges(view.node.ipv6_enabled),
        request_headers_timeout: timeouts.request_headers,
    })
}

fn place(view: &ProxyView<'_>, destination: &Destination<'_>) -> Place {
    let name = destination.kri.name.clone();
    Place::outbound(view, name, destination.port.protocol.is_http())
}

/// The logs of requests: the service's for those of routes without logs of their own, and each such route's. Marks the
/// routes that have their own, and says whether there are any.
fn logs(
    view: &ProxyView<'_>,
    destination: &Destination<'_>,
    of: &[HttpRoute],
    routes: &mut [Route],
) -> (Vec<AccessLog>, bool) {
    let said = view.policies.kind(Kind::MeshAccessLog);
    let place = place(view, destination);
    let mut log = said
        .nearest(&destination.kri)
        .map(|rule| access_log::of_route(view, &rule.conf, &place, None))
        .unwrap_or_default();
    let mut own: BTreeMap<String, &serde_json::Value> = BTreeMap::new();
    for route in of {
        let Some(rule) = route.origin.as_ref().and_then(|origin| said.to.get(origin)) else {
            continue;
        };
        // The identifier as it is after it was read once: without the underscore in its section.
        let Ok(kri) = route.name.parse::<Kri>() else {
            continue;
        };
        let id = kri.to_string();
        for made in routes.iter_mut().filter(|made| *made.name == *route.name) {
            made.metadata = Some(metadata(
                &[access_log::LUA],
                [(access_log::ROUTE_KEY, id.as_str())],
            ));
        }
        own.insert(id, &rule.conf);
    }
    let mut remembers = false;
    for (id, conf) in own {
        let of_route = access_log::of_route(view, conf, &place, Some(&id));
        remembers |= !of_route.is_empty();
        log.extend(of_route);
    }
    (log, remembers)
}

/// How a destination's proxies are told from others; `None` for plain text.
fn upstream_identity<'v>(
    view: &ProxyView<'v>,
    destination: &Destination<'_>,
) -> Option<Identity<'v>> {
    let identity = view.identity?;
    let speaks_tls = if destination.is_external() {
        !view.egress_identities.is_empty()
    } else {
        destination.service.tls_ready
    };
    speaks_tls.then_some(identity)
}

fn put_destination(
    view: &ProxyView<'_>,
    cache: &Cache,
    destination: &Destination<'_>,
    out: &mut Generated,
) {
    let name = destination.cluster.as_str();
    let identity = upstream_identity(view, destination);
    if identity.is_some() && !destination.port.sni_valid() {
        out.problem(
            name,
            format!(
                "its server name `{}` is not valid; it gets no cluster until service and port have names of 63 characters at most",
                destination.port.sni
            ),
        );
        return;
    }
    let policies = view.policies;
    let said = |kind| {
        policies
            .kind(kind)
            .nearest(&destination.kri)
            .map(|rule| &rule.conf)
    };
    let balance_conf = said(Kind::MeshLoadBalancingStrategy);
    let tls_conf = outbound_tls_conf(view);
    let input = (
        name,
        identity.map(|identity| identity.secret),
        (
            &destination.service.identities,
            destination.is_external().then_some(view.egress_identities),
        ),
        &destination.port.sni,
        destination.port.protocol,
        (
            said(Kind::MeshTimeout),
            said(Kind::MeshCircuitBreaker),
            balance_conf,
        ),
        said(Kind::MeshHealthCheck).map(|conf| (conf, &view.dataplane.labels)),
        &tls_conf,
    );
    let encoded = cache.get_or_build("cluster", &input, || {
        Encoded::new(&destination_cluster(view, destination, identity, &tls_conf))
    });
    out.put(type_url::CLUSTER, name, encoded);

    let endpoints = view
        .catalogue
        .endpoints(&destination.service.kri)
        .port(&destination.port.name);
    // Without a list of identities any proxy of the mesh would pass for the service's.
    let anybody = identity.is_some()
        && !destination.is_external()
        && destination.service.identities.is_empty();
    let balance = Balance::read(balance_conf);
    let own = balance.uses_labels().then_some(&view.dataplane.labels);
    let input = (name, anybody, balance_conf, own, view.zone);
    let encoded = cache.get_or_build_from("endpoints", &input, &endpoints, || {
        let listed = if anybody { &[][..] } else { &*endpoints };
        let (hosts, overprovisioning) = balance.hosts(listed, view.zone, &view.dataplane.labels);
        Encoded::new(&load_assignment(name, &hosts, overprovisioning))
    });
    out.put(type_url::ENDPOINTS, name, encoded);
}

/// Versions and ciphers that the mesh allows. Only policies for a whole mesh can limit them, so any inbound tells.
fn outbound_tls_conf(view: &ProxyView<'_>) -> tls::Parameters {
    let inbounds: BTreeSet<_> = view.policies.kind(Kind::MeshTLS).inbound.keys().collect();
    inbounds
        .into_iter()
        .find_map(|key| {
            view.policies
                .inbound::<crate::inbound::TlsConf>(Kind::MeshTLS, key)
        })
        .map(|conf| conf.parameters)
        .unwrap_or_default()
}

fn destination_cluster(
    view: &ProxyView<'_>,
    destination: &Destination<'_>,
    identity: Option<Identity<'_>>,
    tls_conf: &tls::Parameters,
) -> Cluster {
    let timeouts = Timeouts::of(&view.policies.timeout(&destination.kri, None));
    let mut cluster = cluster::eds(&destination.cluster, timeouts.connect);
    let protocol = destination.port.protocol;
    let http = matches!(protocol, Protocol::Http | Protocol::Http2).then_some(&timeouts);
    // Between sidecars it is always HTTP/2, even where the application's bytes are something else.
    let upstream = match protocol {
        _ if !destination.is_external() => Upstream::Http2,
        Protocol::Tcp => Upstream::Tcp,
        Protocol::Http => Upstream::Http1,
        Protocol::Http2 | Protocol::Grpc => Upstream::Http2,
    };
    cluster::speak(&mut cluster, upstream, http);
    if let Some(identity) = identity {
        let accepted: Vec<&str> = if destination.is_external() {
            view.egress_identities.iter().map(String::as_str).collect()
        } else {
            destination
                .service
                .identities
                .iter()
                .map(AsRef::as_ref)
                .collect()
        };
        let socket = tls::upstream(identity.secret, &destination.port.sni, accepted, tls_conf);
        cluster::secure(&mut cluster, socket);
    }
    if let Some(conf) = view.policies.circuit_breaker(&destination.kri) {
        if let Some(limits) = &conf.connection_limits {
            cluster::limit(&mut cluster, limits);
        }
        if let Some(detection) = &conf.outlier_detection {
            cluster::eject(&mut cluster, detection);
        }
    }
    let conf = view
        .policies
        .kind(Kind::MeshLoadBalancingStrategy)
        .nearest(&destination.kri)
        .map(|rule| &rule.conf);
    Balance::read(conf).apply(&mut cluster);
    let check: Option<health::Conf> =
        view.policies
            .outbound(Kind::MeshHealthCheck, &destination.kri, None);
    if let Some(check) = check {
        check.apply(&mut cluster, protocol, &view.dataplane.labels);
    }
    cluster
}
