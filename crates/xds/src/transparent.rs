//! The listeners of a transparent proxy: where redirected connections arrive, and what happens to those that no other
//! listener knows.

use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::listener::v3::{FilterChain, Listener};

use crate::access_log;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::{address, boolean, cluster, listener};
use crate::names;
use crate::passthrough::{self, Outside};
use crate::view::ProxyView;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
/// The source address by which the redirection rules recognise what Envoy sends to the workload.
pub(crate) const INBOUND_SOURCE_V4: &str = "127.0.0.6";
pub(crate) const INBOUND_SOURCE_V6: &str = "::6";

pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    let Some(redirect) = view.transparent_proxy() else {
        return;
    };
    let nowhere = cluster::nowhere(names::NO_DESTINATION, CONNECT_TIMEOUT);
    out.put(
        type_url::CLUSTER,
        names::NO_DESTINATION,
        Encoded::new(&nowhere),
    );
    let outside = passthrough::outside(view, out);
    let passes = matches!(outside, Outside::Open);
    let families: &[u8] = if redirect.ipv6 { &[4, 6] } else { &[4] };
    for &family in families {
        let any_address = if family == 4 { "0.0.0.0" } else { "::" };
        let name = names::passthrough("outbound", family);
        let mut outbound = listener::outbound(
            &name,
            address::socket(any_address, u32::from(redirect.outbound_port)),
        );
        outbound.use_original_dst = Some(boolean(true));
        let log = access_log::of_mesh(view);
        let proxy = listener::tcp_proxy_to(&name, &name, None, log);
        outbound.filter_chains = vec![listener::chain(vec![proxy])];
        if let Outside::Only(matchers) = &outside {
            passthrough::restrict(view, matchers, family == 6, &mut outbound, out);
        }
        put_outbound(out, &name, &outbound, passes);

        let name = names::passthrough("inbound", family);
        let mut inbound = listener::inbound(
            &name,
            address::socket(any_address, u32::from(redirect.inbound_port)),
            view.node.reuse_port(),
        );
        inbound.use_original_dst = Some(boolean(true));
        let strict = view.node.strict_inbound_ports() && crate::inbound::takes_only_tls(view);
        let ports = if strict {
            inbound_ports(view)
        } else {
            Vec::new()
        };
        inbound.filter_chains = if ports.is_empty() {
            vec![open_chain(&name)]
        } else {
            ports.iter().map(|&port| port_chain(&name, port)).collect()
        };
        if ports.contains(&names::SERVICELESS_PORT) {
            let nowhere = cluster::nowhere(names::NO_DESTINATION, CONNECT_TIMEOUT);
            out.put(
                type_url::CLUSTER,
                names::NO_DESTINATION,
                Encoded::new(&nowhere),
            );
        }
        let source = if family == 4 {
            INBOUND_SOURCE_V4
        } else {
            INBOUND_SOURCE_V6
        };
        let cluster = Cluster {
            upstream_bind_config: Some(address::source(source)),
            ..cluster::original_destination(&name, CONNECT_TIMEOUT)
        };
        put(out, &name, &inbound, &cluster);
    }
}

/// Without its cluster the listener refuses what arrives.
fn put_outbound(out: &mut Generated, name: &str, listener: &Listener, passes: bool) {
    out.put(type_url::LISTENER, name, Encoded::new(listener));
    if passes {
        let cluster = cluster::original_destination(name, CONNECT_TIMEOUT);
        out.put(type_url::CLUSTER, name, Encoded::new(&cluster));
    }
}

fn put(out: &mut Generated, name: &str, listener: &Listener, cluster: &Cluster) {
    out.put(type_url::LISTENER, name, Encoded::new(listener));
    out.put(type_url::CLUSTER, name, Encoded::new(cluster));
}

fn open_chain(name: &str) -> FilterChain {
    listener::chain(vec![listener::tcp_proxy_to(name, name, None, Vec::new())])
}

fn port_chain(name: &str, port: u16) -> FilterChain {
    let cluster = if port == names::SERVICELESS_PORT {
        names::NO_DESTINATION
    } else {
        name
    };
    FilterChain {
        filter_chain_match: Some(listener::port_match(port)),
        ..listener::chain(vec![listener::tcp_proxy_to(
            name,
            cluster,
            None,
            Vec::new(),
        )])
    }
}

/// The distinct ports of the inbounds.
fn inbound_ports(view: &ProxyView<'_>) -> Vec<u16> {
    let mut ports: Vec<u16> = view
        .dataplane
        .inbounds
        .iter()
        .map(|inbound| inbound.port)
        .collect();
    ports.sort_unstable();
    ports.dedup();
    ports
}
