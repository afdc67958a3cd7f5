//! The listener through which the control plane reaches Envoy's admin interface, and the readiness probe.

use std::time::Duration;

use kds_proto::envoy::config::listener::v3::{FilterChain, Listener};
use kds_proto::envoy::config::route::v3::Route;

use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, loopback_ranges};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{cluster, endpoints, listener, routes, tls};
use crate::names;
use crate::view::ProxyView;

/// The DNS name in the certificate of the control plane that may use the admin listener.
const CLIENT_DNS_NAME: &str = "kuma-cp";
const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    let Some(port) = view.node.admin_port else {
        return;
    };
    let admin_address = match view.node.admin_address.as_str() {
        "" | "0.0.0.0" => "127.0.0.1",
        "::" => "::1",
        other => other,
    };
    if view.dataplane.address == admin_address {
        // Envoy's own interface is on that address already.
        return;
    }
    let Some(readiness_port) = view.node.readiness_port else {
        out.problem(
            names::ADMIN,
            "the proxy has an admin port but no readiness port; its admin listener is left out. Start it with a readiness port",
        );
        return;
    };
    if !out.claim(&view.dataplane.address, port, names::ADMIN) {
        return;
    }
    let readiness = endpoints::fixed(
        names::READINESS,
        address::socket(admin_address, u32::from(readiness_port)),
    );
    put_cluster(out, names::READINESS, readiness);
    let admin = match &view.node.admin_socket_path {
        Some(path) => address::pipe(path, 0),
        None => address::socket(admin_address, u32::from(port)),
    };
    put_cluster(out, names::ADMIN, endpoints::fixed(names::ADMIN, admin));

    let mut listener = Listener {
        // This listener's statistics are named by its address.
        stat_prefix: String::new(),
        ..listener::inbound(
            names::ADMIN,
            address::socket(&view.dataplane.address, u32::from(port)),
            view.node.reuse_port(),
        )
    };
    listener.listener_filters.push(listener::tls_inspector());
    let ready = || routes::prefix_rewritten("/ready", names::READINESS);
    listener
        .filter_chains
        .push(listener::chain(vec![chain_filter(view, vec![ready()])]));
    if let Some(admin_tls) = view.admin_tls {
        let everything = routes::prefix_rewritten("/", names::ADMIN);
        listener.filter_chains.push(FilterChain {
            filter_chain_match: Some(listener::transport_match("tls", &[])),
            ..listener::secured(
                vec![chain_filter(view, vec![ready(), everything])],
                tls::downstream_inline(
                    &admin_tls.certificate_pem,
                    &admin_tls.key_pem,
                    &admin_tls.client_ca_pem,
                    CLIENT_DNS_NAME,
                ),
            )
        });
    }
    out.put(type_url::LISTENER, names::ADMIN, Encoded::new(&listener));
}

fn put_cluster(
    out: &mut Generated,
    name: &str,
    hosts: kds_proto::envoy::config::endpoint::v3::ClusterLoadAssignment,
) {
    out.put(
        type_url::CLUSTER,
        name,
        Encoded::new(&cluster::fixed(name, hosts, CONNECT_TIMEOUT)),
    );
}

fn chain_filter(
    view: &ProxyView<'_>,
    routes: Vec<Route>,
) -> kds_proto::envoy::config::listener::v3::Filter {
    http::manager(Manager {
        stat: names::ADMIN.to_owned(),
        side: Side::System,
        filters: Vec::new(),
        late_filters: Vec::new(),
        log: Vec::new(),
        tracing: None,
        grpc: false,
        routes: routes::configuration("", names::ADMIN, routes),
        internal: loopback_ranges(view.node.ipv6_enabled),
        request_headers_timeout: Duration::ZERO,
    })
}
