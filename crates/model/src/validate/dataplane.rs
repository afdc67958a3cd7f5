//! Rules of Dataplane.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::common::{is_address, is_wildcard};
use crate::node::{Node, is_port};
use crate::violations::Violations;

const PORT: &str = "port must be in the range [1, 65535]";

pub(super) fn dataplane(spec: &Node<'_>, violations: &mut Violations) {
    let networking = spec.at("networking");
    if !networking.is_set() {
        networking.report(violations, "must be defined");
        return;
    }
    let address = networking.at("address");
    if address.is_empty() {
        address.report(violations, "address can't be empty");
    } else {
        reachable_address(&address, violations);
    }
    admin_port(&networking, violations);
    gateway(&networking, violations);
    for inbound in networking.at("inbound").items() {
        self::inbound(&inbound, address.text(), violations);
    }
    for outbound in networking.at("outbound").items() {
        self::outbound(&outbound, violations);
    }
    reachable_backends(&networking, violations);
    listeners(&networking, violations);
}

fn reachable_address(address: &Node<'_>, violations: &mut Violations) {
    if is_wildcard(address.text()) {
        address.report(violations, "must not be 0.0.0.0 or ::");
    } else if !is_address(address.text()) {
        address.report(
            violations,
            "address has to be valid IP address or domain name",
        );
    }
}

fn is_ip(text: &str) -> bool {
    text.parse::<IpAddr>().is_ok()
}

fn admin_port(networking: &Node<'_>, violations: &mut Violations) {
    let admin = networking.down("admin.port");
    let port = admin.number();
    if port <= 0.0 {
        return;
    }
    let covers_loopback =
        |address: &str| address == "127.0.0.1" || address == "::1" || is_wildcard(address);
    let own_address = networking.at("address").text();
    let clashes = |entry: &Node<'_>, default: &str| {
        let address = entry.at("address").text();
        let address = if address.is_empty() { default } else { address };
        entry.at("port").number().total_cmp(&port).is_eq() && covers_loopback(address)
    };
    // An application's own port on the loopback address counts as well.
    let service = |entry: &Node<'_>| {
        let service_port = entry.at("servicePort").number();
        let used = if service_port > 0.0 {
            service_port
        } else {
            entry.at("port").number()
        };
        used.total_cmp(&port).is_eq() && covers_loopback(entry.at("serviceAddress").text())
    };
    if networking
        .at("inbound")
        .items()
        .any(|entry| clashes(&entry, own_address) || service(&entry))
    {
        admin.report(violations, "must differ from inbound");
    }
    if networking
        .at("outbound")
        .items()
        .any(|entry| clashes(&entry, "127.0.0.1"))
    {
        admin.report(violations, "must differ from outbound");
    }
}

fn gateway(networking: &Node<'_>, violations: &mut Violations) {
    let gateway = networking.at("gateway");
    if !gateway.is_set() {
        return;
    }
    for member in ["inbound", "listeners"] {
        if !networking.at(member).is_empty() {
            networking.at(member).report(
                violations,
                format!("{member} cannot be defined for delegated gateways"),
            );
        }
    }
    let tags = gateway.at("tags");
    if tags.is_empty() {
        return;
    }
    let tag = |key: &str| {
        tags.texts()
            .find(|(found, _)| *found == key)
            .map(|(_, value)| value)
    };
    if tag("kuma.io/service").is_none_or(str::is_empty) {
        tags.report(violations, "mandatory tag \"kuma.io/service\" is missing");
    }
    if let Some(protocol) = tag("kuma.io/protocol")
        && protocol != "tcp"
    {
        violations.add(
            format!("{}[\"kuma.io/protocol\"]", tags.path()),
            format!("other values than tcp are not allowed, provided value \"{protocol}\""),
        );
    }
}

fn inbound(inbound: &Node<'_>, dataplane_address: &str, violations: &mut Violations) {
    let (port, service_port) = (inbound.at("port"), inbound.at("servicePort"));
    if !is_port(port.number()) {
        port.report(violations, PORT);
    }
    if service_port.number() != 0.0 && !is_port(service_port.number()) {
        service_port.report(violations, PORT);
    }
    let (address, service_address) = (inbound.at("address"), inbound.at("serviceAddress"));
    if !service_address.is_empty() {
        let text = service_address.text();
        if !is_ip(text) {
            service_address.report(violations, "serviceAddress has to be valid IP address");
        }
        let same_port =
            service_port.number() == 0.0 || service_port.number().total_cmp(&port.number()).is_eq();
        if (text == dataplane_address || text == address.text()) && same_port {
            service_address.report(
                violations,
                "serviceAddress and servicePort has to differ from address and port",
            );
        }
    }
    if !address.is_empty() && !is_ip(address.text()) {
        address.report(violations, "address has to be valid IP address");
    }
    let protocol = inbound.at("protocol");
    let known = ["grpc", "http", "http2", "tcp", "tls", "mysql"];
    if !protocol.is_empty() && !known.contains(&&*protocol.text().to_lowercase()) {
        let message = format!(
            "has an invalid value \"{}\". Allowed values: grpc, http, http2, tcp",
            protocol.text()
        );
        protocol.report(violations, message);
    }
    service_probe(&inbound.at("serviceProbe"), violations);
}

fn service_probe(probe: &Node<'_>, violations: &mut Violations) {
    for member in ["interval", "timeout"] {
        let node = probe.at(member);
        match node.duration() {
            None if node.is_set() => node.report(violations, "must have a valid value"),
            Some(duration) if duration.nanos() <= 0 => {
                node.report(violations, "must have a positive value");
            }
            None | Some(_) => {}
        }
    }
    for member in ["unhealthyThreshold", "healthyThreshold"] {
        let node = probe.at(member);
        if node.is_set() && node.number() <= 0.0 {
            node.report(violations, "must have a positive value");
        }
    }
}

const SERVICES: &str =
    "invalid value. Available values are: MeshExternalService,MeshMultiZoneService,MeshService";

fn is_service_kind(kind: &str) -> bool {
    matches!(
        kind,
        "MeshExternalService" | "MeshMultiZoneService" | "MeshService"
    )
}

fn outbound(outbound: &Node<'_>, violations: &mut Violations) {
    let (port, address) = (outbound.at("port"), outbound.at("address"));
    if !is_port(port.number()) {
        port.report(violations, PORT);
    }
    if !address.is_empty() && !is_ip(address.text()) {
        address.report(violations, "address has to be valid IP address");
    }
    let reference = outbound.at("backendRef");
    if !reference.is_set() {
        reference.report(violations, "must be defined");
        return;
    }
    let (kind, port) = (reference.at("kind"), reference.at("port"));
    if !is_service_kind(kind.text()) {
        kind.report(violations, SERVICES);
    }
    if reference.at("name").is_empty() == reference.at("labels").is_empty() {
        reference.report(violations, "either 'name' or 'labels' should be specified");
    }
    if kind.text() != "MeshExternalService" && !is_port(port.number()) {
        port.report(violations, PORT);
    }
}

fn reachable_backends(networking: &Node<'_>, violations: &mut Violations) {
    // Clients know this path with its spelling.
    let refs = networking
        .down("transparentProxying.reachableBackends.refs")
        .renamed(format!(
            "{}.transparentProxing.reachableBackends.refs",
            networking.path()
        ));
    for reference in refs.items() {
        let (kind, name) = (reference.at("kind"), reference.at("name"));
        let (labels, namespace) = (reference.at("labels"), reference.at("namespace"));
        if !is_service_kind(kind.text()) {
            kind.report(violations, SERVICES);
        }
        if name.is_empty() && labels.is_empty() {
            let message = if namespace.is_empty() {
                "name or labels are required"
            } else {
                "name is required, when namespace is defined"
            };
            name.report(violations, message);
        } else if name.is_empty() && !namespace.is_empty() {
            name.report(violations, "name is required, when namespace is defined");
        }
        if !name.is_empty() && !labels.is_empty() {
            labels.report(
                violations,
                "labels cannot be defined when name is specified",
            );
        }
    }
}

fn listeners(networking: &Node<'_>, violations: &mut Violations) {
    let mut names = BTreeSet::new();
    let mut inbounds = BTreeSet::new();
    let own_address = networking.at("address").text();
    for inbound in networking.at("inbound").items() {
        unique_name(&inbound, &mut names, violations);
        let address = inbound.at("address").text();
        let address = if address.is_empty() {
            own_address
        } else {
            address
        };
        inbounds.insert(endpoint(&inbound, address));
    }
    let mut used: BTreeMap<String, &str> = BTreeMap::new();
    for listener in networking.at("listeners").items() {
        let (listener_type, address, port) = (
            listener.at("type"),
            listener.at("address"),
            listener.at("port"),
        );
        if !matches!(listener_type.text(), "ZoneIngress" | "ZoneEgress") {
            listener_type.report(violations, "type must be ZoneIngress or ZoneEgress");
        }
        if address.is_empty() {
            address.report(violations, "address can't be empty");
        } else {
            reachable_address(&address, violations);
        }
        if !is_port(port.number()) {
            port.report(violations, PORT);
        }
        unique_name(&listener, &mut names, violations);
        let at = endpoint(&listener, address.text());
        match used.get(&at) {
            Some(other) if *other == listener_type.text() => listener.report(
                violations,
                format!("address:port {at} is already used by another listener"),
            ),
            Some(_) => listener.report(
                violations,
                format!("address:port {at} is used by listeners of different types"),
            ),
            None => {}
        }
        if inbounds.contains(&at) {
            let message = format!("address:port {at} collides with an inbound listener");
            listener.report(violations, message);
        }
        used.entry(at).or_insert_with(|| listener_type.text());
    }
}

fn endpoint(entry: &Node<'_>, address: &str) -> String {
    format!("{address}:{}", entry.at("port").number())
}

fn unique_name<'a>(entry: &Node<'a>, names: &mut BTreeSet<&'a str>, violations: &mut Violations) {
    let name = entry.at("name");
    if !name.is_empty() && !names.insert(name.text()) {
        let message = format!(
            "name \"{}\" must be unique across inbounds and listeners",
            name.text()
        );
        name.report(violations, message);
    }
}
