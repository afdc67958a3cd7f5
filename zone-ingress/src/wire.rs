//! Resources of the control plane to our own types. The only file here that reads generated messages.
//!
//! Two dialects give the same thing: from our own zone control plane one `Route` per server name;
//! from a Kuma zone control plane the listener and clusters an Envoy ingress would get. What would
//! change where traffic goes or what happens to it is understood or refused; what only observes it
//! is ignored.

use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::cluster::v3::cluster::{ClusterDiscoveryType, DiscoveryType};
use kds_proto::envoy::config::core::v3::address::Address as AddressKind;
use kds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use kds_proto::envoy::config::core::v3::{Address, HealthStatus};
use kds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment;
use kds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use kds_proto::envoy::config::listener::v3::filter::ConfigType;
use kds_proto::envoy::config::listener::v3::{Filter, FilterChain, FilterChainMatch, Listener};
use kds_proto::envoy::extensions::filters::network::tcp_proxy::v3::TcpProxy;
use kds_proto::envoy::extensions::filters::network::tcp_proxy::v3::tcp_proxy::ClusterSpecifier;
use kds_proto::zonal::ingress::v1 as ours;
use prost::{Message, Name};

use crate::hello::Sni;
use crate::routes::{Health, Placed, Route};

/// What one resource says.
#[derive(Debug, PartialEq)]
pub enum Told {
    /// These server names are routed by the resource.
    Routes(Vec<Route>),
    /// These endpoints serve the cluster of the resource's name.
    Endpoints(Vec<Placed>),
    /// Nothing that concerns us.
    Nothing,
}

/// The types a control plane can send.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Type {
    /// Our own: one server name.
    Route,
    Listener,
    Cluster,
    /// `ClusterLoadAssignment`.
    Endpoints,
}

impl Type {
    /// Every type.
    pub const ALL: [Self; 4] = [Self::Route, Self::Listener, Self::Cluster, Self::Endpoints];

    /// Its type URL.
    pub fn url(self) -> String {
        match self {
            Self::Route => ours::Route::type_url(),
            Self::Listener => Listener::type_url(),
            Self::Cluster => Cluster::type_url(),
            Self::Endpoints => ClusterLoadAssignment::type_url(),
        }
    }

    /// Reads one resource of this type.
    ///
    /// # Errors
    /// The reason in words, for the person who wrote what it came from.
    pub fn parse(self, name: &str, body: &[u8]) -> Result<Told, String> {
        match self {
            Self::Route => route(decode(body)?).map(|route| Told::Routes(vec![route])),
            Self::Listener => listener(decode(body)?),
            Self::Cluster => cluster(decode(body)?),
            Self::Endpoints => assignment(name, decode(body)?).map(Told::Endpoints),
        }
    }
}

fn decode<M: Message + Default + Name>(body: &[u8]) -> Result<M, String> {
    M::decode(body).map_err(|cause| format!("the bytes are no `{}`: {cause}", M::full_name()))
}

fn route(message: ours::Route) -> Result<Route, String> {
    let ours::Route {
        sni,
        cluster,
        service_kri,
        mesh,
        zone: _,
        port: _,
        service,
    } = message;
    let label = [service_kri, service, cluster.clone()]
        .into_iter()
        .find(|text| !text.is_empty());
    Ok(Route {
        sni: name("sni", &sni)?,
        service: label.unwrap_or_default().into(),
        cluster: required("cluster", cluster)?,
        mesh: mesh.into(),
        idle_timeout: None,
    })
}

fn name(field: &str, text: &str) -> Result<Sni, String> {
    Sni::new(text).ok_or_else(|| format!("{field}: `{text}` is not a server name"))
}

fn required(field: &str, text: String) -> Result<Arc<str>, String> {
    if text.is_empty() {
        return Err(format!("{field}: is empty"));
    }
    // Bytes of another message can look like one of these; a name in use never looks like that.
    if text.contains(char::is_control) {
        return Err(format!("{field}: `{}` is not a name", text.escape_debug()));
    }
    Ok(text.into())
}

fn assignment(name: &str, message: ClusterLoadAssignment) -> Result<Vec<Placed>, String> {
    if message.cluster_name != name {
        return Err(format!(
            "cluster_name: `{}` is not the resource's name",
            message.cluster_name
        ));
    }
    let mut placed = Vec::new();
    for (i, locality) in message.endpoints.into_iter().enumerate() {
        let zone = locality
            .locality
            .map(|locality| locality.zone)
            .unwrap_or_default();
        for (j, endpoint) in locality.lb_endpoints.into_iter().enumerate() {
            let at = || format!("endpoints[{i}].lb_endpoints[{j}]");
            let Some(HostIdentifier::Endpoint(host)) = endpoint.host_identifier else {
                return Err(format!("{}: has no address", at()));
            };
            let address = socket_address(host.address).map_err(|why| format!("{}: {why}", at()))?;
            placed.push(Placed {
                address,
                weight: endpoint
                    .load_balancing_weight
                    .map_or(1, |weight| weight.value)
                    .max(1),
                health: health(endpoint.health_status),
                priority: locality.priority,
                zone: zone.clone(),
            });
        }
    }
    Ok(placed)
}

fn health(status: i32) -> Health {
    match HealthStatus::try_from(status) {
        Ok(HealthStatus::Unknown | HealthStatus::Healthy) => Health::Healthy,
        Ok(HealthStatus::Degraded) => Health::Degraded,
        // A state we do not know is one we cannot vouch for.
        Ok(HealthStatus::Unhealthy | HealthStatus::Draining | HealthStatus::Timeout) | Err(_) => {
            Health::Unusable
        }
    }
}

fn socket_address(address: Option<Address>) -> Result<SocketAddr, String> {
    let Some(AddressKind::SocketAddress(socket)) = address.and_then(|address| address.address)
    else {
        return Err("address: is not a socket address".to_owned());
    };
    let ip: IpAddr = socket
        .address
        .parse()
        .map_err(|_not_ip| format!("address: `{}` is not an IP address", socket.address))?;
    let Some(PortSpecifier::PortValue(port)) = socket.port_specifier else {
        return Err("port_value: is missing".to_owned());
    };
    let port = u16::try_from(port).ok().filter(|port| *port > 0);
    let port = port.ok_or_else(|| "port_value: is not a port".to_owned())?;
    Ok(SocketAddr::new(ip, port))
}

/// Clusters are known by the endpoints that come for their name. One that has its endpoints inside
/// gives them; one that would change the bytes is refused.
fn cluster(message: Cluster) -> Result<Told, String> {
    let kind = match message.cluster_discovery_type {
        Some(ClusterDiscoveryType::Type(kind)) => DiscoveryType::try_from(kind).ok(),
        Some(ClusterDiscoveryType::ClusterType(_)) | None => None,
    };
    match kind {
        Some(DiscoveryType::Eds) => {
            let service = message.eds_cluster_config.map(|eds| eds.service_name);
            let service = service.unwrap_or_default();
            if !service.is_empty() && service != message.name {
                return Err(format!(
                    "eds_cluster_config.service_name: `{service}` is not the cluster's name"
                ));
            }
            if message.transport_socket.is_some() || !message.transport_socket_matches.is_empty() {
                return Err("transport_socket: an ingress passes TLS through".to_owned());
            }
            Ok(Told::Nothing)
        }
        Some(DiscoveryType::Static) if message.transport_socket.is_none() => {
            let Some(inside) = message.load_assignment else {
                return Ok(Told::Nothing);
            };
            let name = inside.cluster_name.clone();
            // Pipes and the like: a cluster for something else than routed traffic.
            Ok(assignment(&name, inside).map_or(Told::Nothing, Told::Endpoints))
        }
        // Clusters of other sorts belong to what an Envoy does besides; no route of ours names them.
        _ => Ok(Told::Nothing),
    }
}

fn listener(message: Listener) -> Result<Told, String> {
    let named = |chain: &FilterChain| {
        chain
            .filter_chain_match
            .as_ref()
            .is_some_and(|chain| !chain.server_names.is_empty())
    };
    if !message.filter_chains.iter().any(named) {
        // The admin listener and the like.
        return Ok(Told::Nothing);
    }
    if message.default_filter_chain.is_some() {
        return Err("default_filter_chain: callers without a known name are refused".to_owned());
    }
    let mut routes: Vec<Route> = Vec::new();
    for (index, chain) in message.filter_chains.into_iter().enumerate() {
        for route in chain_routes(chain).map_err(|why| format!("filter_chains[{index}].{why}"))? {
            // The first of several wins.
            if !routes.iter().any(|other| other.sni == route.sni) {
                routes.push(route);
            }
        }
    }
    Ok(Told::Routes(routes))
}

fn chain_routes(chain: FilterChain) -> Result<Vec<Route>, String> {
    if chain.transport_socket.is_some() {
        return Err("transport_socket: an ingress passes TLS through".to_owned());
    }
    let names = chain_names(chain.filter_chain_match.unwrap_or_default())?;
    let proxy = tcp_proxy(chain.filters)?;
    let Some(ClusterSpecifier::Cluster(cluster)) = proxy.cluster_specifier else {
        return Err("filters: tcp_proxy has to name one cluster".to_owned());
    };
    let cluster = required("filters: tcp_proxy.cluster", cluster)?;
    let idle_timeout = match proxy.idle_timeout {
        Some(wait) => {
            Some(Duration::try_from(wait).map_err(|_negative| "idle_timeout: is negative")?)
            // Zero turns it off, as in Envoy.
            .map(|wait| if wait.is_zero() { FOREVER } else { wait })
        }
        None => None,
    };
    names
        .iter()
        .map(|text| {
            Ok(Route {
                sni: name("filter_chain_match.server_names", text)?,
                cluster: Arc::clone(&cluster),
                service: Arc::clone(&cluster),
                mesh: mesh_of(&cluster).into(),
                idle_timeout,
            })
        })
        .collect()
}

/// Longer than any process lives, and still a deadline one can add to a time.
const FOREVER: Duration = Duration::from_secs(100 * 365 * 24 * 3600);

fn chain_names(chain: FilterChainMatch) -> Result<Vec<String>, String> {
    // Taken apart by name: a condition added to the message breaks the build here.
    let FilterChainMatch {
        destination_port,
        prefix_ranges,
        address_suffix,
        suffix_len,
        direct_source_prefix_ranges,
        source_type,
        source_prefix_ranges,
        source_ports,
        server_names,
        transport_protocol,
        application_protocols,
    } = chain;
    let other = destination_port.is_some()
        || !prefix_ranges.is_empty()
        || !address_suffix.is_empty()
        || suffix_len.is_some()
        || !direct_source_prefix_ranges.is_empty()
        || source_type != 0
        || !source_prefix_ranges.is_empty()
        || !source_ports.is_empty()
        || !application_protocols.is_empty();
    if other || !matches!(transport_protocol.as_str(), "" | "tls") {
        return Err("filter_chain_match: only `server_names` of TLS can be matched".to_owned());
    }
    if server_names.is_empty() {
        return Err("filter_chain_match.server_names: is empty".to_owned());
    }
    if let Some(wild) = server_names.iter().find(|name| name.contains('*')) {
        return Err(format!(
            "filter_chain_match.server_names: `{wild}` is not one name"
        ));
    }
    Ok(server_names)
}

/// The one filter that carries the traffic. Any other could change it.
fn tcp_proxy(filters: Vec<Filter>) -> Result<TcpProxy, String> {
    let mut found = None;
    for filter in filters {
        let Some(ConfigType::TypedConfig(any)) = filter.config_type else {
            return Err(format!(
                "filters: `{}` has no typed configuration",
                filter.name
            ));
        };
        if any.type_url != TcpProxy::type_url() {
            return Err(format!(
                "filters: `{}` (`{}`) is not known",
                filter.name, any.type_url
            ));
        }
        let proxy: TcpProxy = decode(&any.value)?;
        if proxy.tunneling_config.is_some() {
            return Err("filters: tcp_proxy.tunneling_config is not supported".to_owned());
        }
        found = Some(proxy);
    }
    found.ok_or_else(|| "filters: there is no tcp_proxy".to_owned())
}

/// The mesh in a KRI (`kri_<kind>_<mesh>_<zone>_<namespace>_<name>_<section>`), for the admin page.
fn mesh_of(cluster: &str) -> &str {
    let mut parts = cluster.split('_');
    match (parts.next(), parts.next(), parts.next()) {
        (Some("kri"), Some(_kind), Some(mesh)) => mesh,
        _ => "",
    }
}
