//! A zone's ingress: which server name leads to which of the zone's proxies.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use kds_proto::envoy::config::listener::v3::FilterChain;
use kds_proto::zonal::ingress::v1::Route;
use zonal_catalogue::{MeshCatalogue, Port, Service};
use zonal_model::Kind;
use zonal_policy::InboundKey;

use crate::access_log::{self, Place};
use crate::balance::Balance;
use crate::cache::Cache;
use crate::dataplane::{ZoneListener, ZoneRole};
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::endpoints::load_assignment;
use crate::envoy::{address, cluster, listener};
use crate::names;
use crate::view::ProxyView;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

/// A port that the zone's ingresses lead to.
struct Entry<'a> {
    cluster: String,
    service: &'a Arc<Service>,
    port: &'a Port,
}

/// The zone's own services and all multi-zone ones; of two with the same server name the first by identifier.
fn entries<'a>(catalogue: &'a MeshCatalogue) -> Vec<Entry<'a>> {
    let mut entries: Vec<Entry<'a>> = catalogue
        .services()
        .filter(|service| match service.kri.kind {
            Kind::MeshService => service.local,
            Kind::MeshMultiZoneService => true,
            _ => false,
        })
        .flat_map(|service| {
            service.ports.iter().map(move |port| Entry {
                cluster: service.port_kri(port).to_string(),
                service,
                port,
            })
        })
        .collect();
    entries.sort_by(|a, b| a.cluster.cmp(&b.cluster));
    let mut seen = BTreeSet::new();
    entries.retain(|entry| seen.insert(entry.port.sni.to_ascii_lowercase()));
    entries
}

fn put_endpoints(view: &ProxyView<'_>, cache: &Cache, entry: &Entry<'_>, out: &mut Generated) {
    let endpoints = view.catalogue.endpoints(&entry.service.kri);
    let all = endpoints.port(&entry.port.name);
    let encoded = cache.get_or_build_from("ingress endpoints", &entry.cluster, &all, || {
        let direct = endpoints.direct(&entry.port.name);
        let (hosts, _) = Balance::default().hosts(&direct, view.zone, &view.dataplane.labels);
        Encoded::new(&load_assignment(&entry.cluster, &hosts, None))
    });
    out.put(type_url::ENDPOINTS, &*entry.cluster, encoded);
}

/// What an Envoy needs that is the zone's ingress: a listener with one chain per server name.
pub(crate) fn generate(view: &ProxyView<'_>, cache: &Cache, out: &mut Generated) {
    let listeners: Vec<&ZoneListener> = view
        .dataplane
        .zone_listeners
        .iter()
        .filter(|listener| listener.role == ZoneRole::Ingress)
        .collect();
    if listeners.is_empty() {
        return;
    }
    let entries = entries(view.catalogue);
    for entry in &entries {
        let cluster = entry.cluster.as_str();
        let encoded = cache.get_or_build("ingress cluster", &cluster, || {
            Encoded::new(&cluster::eds(cluster, CONNECT_TIMEOUT))
        });
        if !out.contains(type_url::CLUSTER, cluster) {
            out.put(type_url::CLUSTER, cluster, encoded);
            put_endpoints(view, cache, entry, out);
        }
    }
    // Without a service there is nothing to lead anywhere, and Envoy refuses a listener without chains.
    if entries.is_empty() {
        return;
    }
    for zone_listener in listeners {
        let name = names::zone_ingress(&zone_listener.section);
        if !out.claim(&zone_listener.address, zone_listener.port, &name) {
            continue;
        }
        let key = InboundKey {
            address: zone_listener.address.as_str().into(),
            port: zone_listener.port,
        };
        let idle = view
            .policies
            .inbound_timeout(&key)
            .and_then(|conf| conf.idle_timeout);
        let said = view.policies.kind(Kind::MeshAccessLog).inbound_rules(&key);
        let log = access_log::of_rules(view, said, &Place::zone_proxy());
        let mut message = listener::inbound(
            &name,
            address::socket(&zone_listener.address, u32::from(zone_listener.port)),
            view.node.reuse_port(),
        );
        message.listener_filters.push(listener::tls_inspector());
        message.filter_chains = entries
            .iter()
            .map(|entry| FilterChain {
                filter_chain_match: Some(listener::sni_match(&entry.port.sni)),
                ..listener::chain(vec![listener::zone_tcp_proxy(
                    &entry.cluster,
                    idle,
                    log.clone(),
                )])
            })
            .collect();
        out.put(type_url::LISTENER, name, Encoded::new(&message));
    }
}

/// What our own ingress needs: one small resource per server name, and hosts per cluster.
pub(crate) fn generate_native(view: &ProxyView<'_>, cache: &Cache, out: &mut Generated) {
    for entry in entries(view.catalogue) {
        put_endpoints(view, cache, &entry, out);
        let input = (
            &entry.cluster,
            &entry.port.sni,
            entry.port.number,
            view.zone,
        );
        let encoded = cache.get_or_build("ingress route", &input, || {
            Encoded::new(&Route {
                sni: entry.port.sni.to_ascii_lowercase(),
                cluster: entry.cluster.clone(),
                service_kri: entry.service.port_kri(entry.port).to_string(),
                mesh: view.mesh.to_owned(),
                zone: view.zone.to_owned(),
                port: u32::from(entry.port.number),
                service: entry.service.display_name().to_owned(),
            })
        });
        out.put(
            type_url::INGRESS_ROUTE,
            entry.port.sni.to_ascii_lowercase(),
            encoded,
        );
    }
}
