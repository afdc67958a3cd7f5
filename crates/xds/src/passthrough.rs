//! MeshPassthrough: which destinations outside of the mesh a transparent proxy lets through.

use std::cmp::Reverse;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::time::Duration;

use kds_proto::envoy::config::core::v3::CidrRange;
use kds_proto::envoy::config::listener::v3::listener_filter_chain_match_predicate::{
    MatchSet, Rule,
};
use kds_proto::envoy::config::listener::v3::{
    FilterChain, FilterChainMatch, Listener, ListenerFilter, ListenerFilterChainMatchPredicate,
};
use kds_proto::envoy::config::route::v3::{RouteConfiguration, VirtualHost};
use kds_proto::envoy::extensions::filters::listener::http_inspector::v3::HttpInspector;
use kds_proto::envoy::extensions::filters::listener::original_dst::v3::OriginalDst;
use kds_proto::envoy::r#type::v3::Int32Range;
use serde::Deserialize;
use zonal_model::Kind;

use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::loopback_ranges;
use crate::envoy::cluster::{self, Upstream};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{any, boolean, listener, number, routes};
use crate::view::ProxyView;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const NO_MATCH: &str = "This response comes from Kuma Sidecar. No routes matched this domain - check configuration of your MeshPassthrough policy.\n";

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Conf {
    passthrough_mode: Option<String>,
    append_match: Vec<MatchConf>,
}

#[derive(Clone, Debug, Deserialize)]
struct MatchConf {
    #[serde(rename = "type")]
    kind: String,
    value: String,
    #[serde(default)]
    port: Option<u16>,
    #[serde(default)]
    protocol: Option<String>,
}

/// In the order in which chains are tried.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Protocol {
    Tls,
    Mysql,
    Tcp,
    Http,
    Http2,
    Grpc,
}

impl Protocol {
    fn parse(text: Option<&str>) -> Option<Self> {
        Some(match text.unwrap_or("tcp") {
            "tls" => Self::Tls,
            "mysql" => Self::Mysql,
            "tcp" => Self::Tcp,
            "http" => Self::Http,
            "http2" => Self::Http2,
            "grpc" => Self::Grpc,
            _ => return None,
        })
    }

    const fn name(self) -> &'static str {
        match self {
            Self::Tls => "tls",
            Self::Mysql => "mysql",
            Self::Tcp => "tcp",
            Self::Http => "http",
            Self::Http2 => "http2",
            Self::Grpc => "grpc",
        }
    }

    /// What chains and clusters are called by.
    const fn chain_name(self) -> &'static str {
        match self {
            Self::Mysql => "tcp",
            other => other.name(),
        }
    }

    const fn is_http(self) -> bool {
        matches!(self, Self::Http | Self::Http2 | Self::Grpc)
    }

    /// TLS and MySQL are tried together.
    const fn rank(self) -> u8 {
        match self {
            Self::Tls | Self::Mysql => 0,
            Self::Tcp => 1,
            Self::Http => 2,
            Self::Http2 => 3,
            Self::Grpc => 4,
        }
    }
}

/// What a destination is given by, in the order in which chains are tried.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
enum Target {
    Ip(IpAddr),
    Cidr(IpAddr, u8),
    Domain(String),
    Wildcard(String),
    /// All domains of one protocol and port: their requests are told apart by routes.
    Hosts,
}

impl Target {
    fn parse(of: &MatchConf, protocol: Protocol) -> Option<Self> {
        match of.kind.as_str() {
            "IP" => of.value.parse().ok().map(Self::Ip),
            "CIDR" => {
                let (address, bits) = of.value.split_once('/')?;
                let (address, bits): (IpAddr, u8) = (address.parse().ok()?, bits.parse().ok()?);
                let bits_max = if address.is_ipv4() { 32 } else { 128 };
                (bits <= bits_max).then(|| Self::Cidr(network(address, bits), bits))
            }
            "Domain" if protocol.is_http() => Some(Self::Hosts),
            "Domain" if of.value.starts_with('*') => Some(Self::Wildcard(of.value.clone())),
            "Domain" => Some(Self::Domain(of.value.clone())),
            _ => None,
        }
    }

    const fn rank(&self) -> u8 {
        match self {
            Self::Ip(IpAddr::V6(_)) => 0,
            Self::Ip(IpAddr::V4(_)) => 1,
            Self::Cidr(IpAddr::V6(_), _) => 2,
            Self::Cidr(IpAddr::V4(_), _) => 3,
            Self::Domain(_) | Self::Hosts => 4,
            Self::Wildcard(_) => 5,
        }
    }

    fn text(&self) -> String {
        match self {
            Self::Ip(address) => address.to_string(),
            Self::Cidr(address, bits) => format!("{address}/{bits}"),
            Self::Domain(value) | Self::Wildcard(value) => value.clone(),
            Self::Hosts => String::new(),
        }
    }

    /// Whether a listener for this family of addresses can see it.
    const fn concerns(&self, v6: bool) -> bool {
        match self {
            Self::Ip(address) | Self::Cidr(address, _) => address.is_ipv6() == v6,
            Self::Domain(_) | Self::Wildcard(_) | Self::Hosts => true,
        }
    }
}

/// The address with all bits behind the mask cleared.
fn network(address: IpAddr, bits: u8) -> IpAddr {
    match address {
        IpAddr::V4(v4) => {
            let mask = u32::MAX.checked_shl(32 - u32::from(bits)).unwrap_or(0);
            IpAddr::V4((u32::from(v4) & mask).into())
        }
        IpAddr::V6(v6) => {
            let mask = u128::MAX.checked_shl(128 - u32::from(bits)).unwrap_or(0);
            IpAddr::V6((u128::from(v6) & mask).into())
        }
    }
}

/// More labels first.
fn domain_order(value: &str) -> (Reverse<usize>, String) {
    (Reverse(value.split('.').count()), value.to_owned())
}

type Key = (Protocol, u16, Target);

/// What of the outside a proxy lets through.
#[derive(Debug)]
pub(crate) enum Outside {
    /// Everything.
    Open,
    /// What these match; nothing when there are none.
    Only(Vec<Matcher>),
}

/// Connections that get through, and how.
#[derive(Clone, Debug)]
pub(crate) struct Matcher {
    protocol: Protocol,
    /// Zero means any.
    port: u16,
    target: Target,
    /// The domains of [`Target::Hosts`].
    domains: BTreeSet<String>,
}

/// What the policy says; without one everything gets through.
pub(crate) fn outside(view: &ProxyView<'_>, out: &mut Generated) -> Outside {
    let Some(rule) = &view.policies.kind(Kind::MeshPassthrough).proxy else {
        return Outside::Open;
    };
    let conf = Conf::deserialize(&rule.conf).unwrap_or_default();
    match conf.passthrough_mode.as_deref() {
        Some("All") => Outside::Open,
        Some("None") => Outside::Only(Vec::new()),
        _ => match matchers(&conf.append_match) {
            Ok(matchers) => Outside::Only(matchers),
            Err(reason) => {
                out.problem(
                    "MeshPassthrough",
                    format!("{reason}; nothing unknown gets through"),
                );
                Outside::Only(Vec::new())
            }
        },
    }
}

fn matchers(of: &[MatchConf]) -> Result<Vec<Matcher>, String> {
    let mut by_key: BTreeMap<Key, BTreeSet<String>> = BTreeMap::new();
    for conf in of {
        let Some(protocol) = Protocol::parse(conf.protocol.as_deref()) else {
            continue;
        };
        let Some(target) = Target::parse(conf, protocol) else {
            continue;
        };
        let domains = by_key
            .entry((protocol, conf.port.unwrap_or(0), target.clone()))
            .or_default();
        if target == Target::Hosts {
            domains.insert(conf.value.clone());
        }
    }
    // An Envoy chooses by port first, so what holds for every port is repeated for each that is named.
    let ports: BTreeSet<u16> = by_key
        .keys()
        .map(|key| key.1)
        .filter(|port| *port != 0)
        .collect();
    let everywhere: Vec<(Key, BTreeSet<String>)> = by_key
        .iter()
        .filter(|(key, _)| key.1 == 0)
        .map(|(k, d)| (k.clone(), d.clone()))
        .collect();
    for ((protocol, _, target), domains) in everywhere {
        for port in &ports {
            let key = (protocol, *port, target.clone());
            by_key
                .entry(key)
                .or_default()
                .extend(domains.iter().cloned());
        }
    }
    let mut http_by_port: BTreeMap<u16, Protocol> = BTreeMap::new();
    for (protocol, port, _) in by_key.keys().filter(|key| key.0.is_http()) {
        if *http_by_port.entry(*port).or_insert(*protocol) != *protocol {
            return Err(format!(
                "you cannot configure http, http2, grpc on the same port {port}"
            ));
        }
    }
    let mut made: Vec<Matcher> = by_key
        .into_iter()
        .map(|((protocol, port, target), domains)| Matcher {
            protocol,
            port,
            target,
            domains,
        })
        .collect();
    made.sort_by_cached_key(Matcher::order);
    Ok(made)
}

impl Matcher {
    #[expect(
        clippy::type_complexity,
        reason = "a sort key is read once, in its order"
    )]
    fn order(
        &self,
    ) -> (
        u8,
        u8,
        Reverse<u16>,
        (Reverse<usize>, String),
        Reverse<u8>,
        Reverse<String>,
        Reverse<usize>,
    ) {
        let domain = match &self.target {
            Target::Domain(value) | Target::Wildcard(value) => domain_order(value),
            Target::Ip(_) | Target::Cidr(..) | Target::Hosts => (Reverse(0), String::new()),
        };
        let (bits, address) = match &self.target {
            Target::Ip(address) => (0, address.to_string()),
            Target::Cidr(address, bits) => (*bits, address.to_string()),
            Target::Domain(_) | Target::Wildcard(_) | Target::Hosts => (0, String::new()),
        };
        (
            self.protocol.rank(),
            self.target.rank(),
            Reverse(self.port),
            domain,
            Reverse(bits),
            Reverse(address),
            Reverse(self.domains.len()),
        )
    }

    fn port_text(&self) -> String {
        if self.port == 0 {
            "*".to_owned()
        } else {
            self.port.to_string()
        }
    }

    fn cluster(&self, value: &str) -> String {
        format!(
            "meshpassthrough_{}_{value}_{}",
            self.protocol.chain_name(),
            self.port_text()
        )
    }

    fn chain_name(&self) -> String {
        match &self.target {
            Target::Hosts => format!(
                "meshpassthrough_{}_{}",
                self.protocol.name(),
                self.port_text()
            ),
            other => self.cluster(&other.text()),
        }
    }

    /// The clusters that the chain leads to.
    fn clusters(&self) -> Vec<String> {
        match &self.target {
            Target::Hosts => self
                .domains
                .iter()
                .map(|domain| self.cluster(domain))
                .collect(),
            other => vec![self.cluster(&other.text())],
        }
    }

    fn chain(&self, view: &ProxyView<'_>) -> FilterChain {
        let name = self.chain_name();
        let mut matched = if self.protocol.is_http() {
            listener::transport_match("raw_buffer", &["http/1.1", "h2c"])
        } else if self.protocol == Protocol::Tls {
            listener::transport_match("tls", &[])
        } else {
            listener::transport_match("raw_buffer", &[])
        };
        self.narrow(&mut matched);
        let filter = if self.protocol.is_http() {
            http::manager(Manager {
                stat: name.clone(),
                side: Side::System,
                filters: Vec::new(),
                late_filters: Vec::new(),
                log: Vec::new(),
                tracing: None,
                grpc: false,
                routes: self.routes(&name),
                internal: loopback_ranges(view.node.ipv6_enabled),
                request_headers_timeout: Duration::ZERO,
            })
        } else {
            let log = crate::access_log::of_mesh(view);
            listener::tcp_proxy_to(&name, &name, None, log)
        };
        FilterChain {
            name,
            filter_chain_match: Some(matched),
            ..listener::chain(vec![filter])
        }
    }

    fn narrow(&self, matched: &mut FilterChainMatch) {
        if self.port != 0 {
            matched.destination_port = Some(number(u32::from(self.port)));
        }
        let range = |address: &IpAddr, bits: u8| CidrRange {
            address_prefix: address.to_string(),
            prefix_len: Some(number(u32::from(bits))),
        };
        match &self.target {
            Target::Ip(address) => {
                let bits = if address.is_ipv4() { 32 } else { 128 };
                matched.prefix_ranges = vec![range(address, bits)];
            }
            Target::Cidr(address, bits) => matched.prefix_ranges = vec![range(address, *bits)],
            Target::Domain(value) | Target::Wildcard(value) => {
                matched.server_names = vec![value.clone()];
            }
            Target::Hosts => {}
        }
    }

    fn routes(&self, name: &str) -> RouteConfiguration {
        let host = |value: &str, domains: Vec<String>| VirtualHost {
            name: value.to_owned(),
            domains,
            routes: vec![routes::everything_to("", &self.cluster(value))],
            ..VirtualHost::default()
        };
        let mut hosts = Vec::new();
        if self.target == Target::Hosts {
            let mut domains: Vec<&String> = self.domains.iter().collect();
            domains.sort_by_key(|domain| (domain.starts_with('*'), domain_order(domain)));
            for domain in domains {
                let mut names = vec![domain.clone()];
                if self.port != 0 {
                    names.push(format!("{domain}:{}", self.port));
                } else if !domain.starts_with('*') {
                    names.push(format!("{domain}:*"));
                }
                hosts.push(host(domain, names));
            }
            hosts.push(VirtualHost {
                name: "no_match".to_owned(),
                domains: vec!["*".to_owned()],
                routes: vec![routes::everything_answered(503, NO_MATCH)],
                ..VirtualHost::default()
            });
        } else {
            let value = self.target.text();
            hosts.push(host(&value, vec!["*".to_owned()]));
        }
        RouteConfiguration {
            name: name.to_owned(),
            validate_clusters: Some(boolean(false)),
            virtual_hosts: hosts,
            ..RouteConfiguration::default()
        }
    }
}

/// Replaces the chains of an outbound passthrough listener, and puts the clusters they lead to.
pub(crate) fn restrict(
    view: &ProxyView<'_>,
    matchers: &[Matcher],
    v6: bool,
    listener: &mut Listener,
    out: &mut Generated,
) {
    let concerned: Vec<&Matcher> = matchers
        .iter()
        .filter(|matcher| matcher.target.concerns(v6))
        .collect();
    if concerned.is_empty() {
        return;
    }
    listener.filter_chains = concerned
        .iter()
        .map(|matcher| matcher.chain(view))
        .collect();
    for matcher in &concerned {
        for name in matcher.clusters() {
            let mut message = cluster::original_destination(&name, CONNECT_TIMEOUT);
            if matches!(matcher.protocol, Protocol::Http2 | Protocol::Grpc) {
                cluster::speak(&mut message, Upstream::Http2, None);
            }
            out.put(type_url::CLUSTER, name, Encoded::new(&message));
        }
    }
    let mysql: Vec<u16> = concerned
        .iter()
        .filter(|matcher| matcher.protocol == Protocol::Mysql && matcher.port != 0)
        .map(|matcher| matcher.port)
        .collect();
    listener.listener_filters = vec![
        listener::listener_filter(
            "envoy.filters.listener.original_dst",
            any(&OriginalDst::default()),
        ),
        ListenerFilter {
            filter_disabled: silent_ports(&mysql),
            ..listener::tls_inspector()
        },
        ListenerFilter {
            filter_disabled: silent_ports(&mysql),
            ..listener::listener_filter(
                "envoy.filters.listener.http_inspector",
                any(&HttpInspector::default()),
            )
        },
    ];
}

/// On these ports the server speaks first, so nothing may wait for the client's first bytes.
fn silent_ports(ports: &[u16]) -> Option<ListenerFilterChainMatchPredicate> {
    let rules: Vec<ListenerFilterChainMatchPredicate> = ports
        .iter()
        .map(|port| {
            let start = i32::from(*port);
            ListenerFilterChainMatchPredicate {
                rule: Some(Rule::DestinationPortRange(Int32Range {
                    start,
                    end: start + 1,
                })),
            }
        })
        .collect();
    match rules.as_slice() {
        [] => None,
        [only] => Some(only.clone()),
        _ => Some(ListenerFilterChainMatchPredicate {
            rule: Some(Rule::OrMatch(MatchSet { rules })),
        }),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Chains in the order in which they are tried.
    #[track_caller]
    fn check(matches: &str, want: &[&str]) {
        let of: Vec<MatchConf> = serde_json::from_str(matches).unwrap();
        let names: Vec<String> = matchers(&of)
            .unwrap()
            .iter()
            .map(Matcher::chain_name)
            .collect();
        assert_eq!(names, want);
    }

    #[test]
    fn more_precise_matches_are_tried_first() {
        check(
            r#"[{"type":"CIDR","value":"10.0.0.7/8"},{"type":"IP","value":"10.1.1.1"},
                {"type":"CIDR","value":"10.1.0.0/16"},
                {"type":"Domain","value":"*.example","protocol":"tls","port":443},
                {"type":"Domain","value":"a.example","protocol":"tls","port":443}]"#,
            &[
                "meshpassthrough_tls_a.example_443",
                "meshpassthrough_tls_*.example_443",
                "meshpassthrough_tcp_10.1.1.1_443",
                "meshpassthrough_tcp_10.1.1.1_*",
                "meshpassthrough_tcp_10.1.0.0/16_443",
                "meshpassthrough_tcp_10.0.0.0/8_443",
                "meshpassthrough_tcp_10.1.0.0/16_*",
                "meshpassthrough_tcp_10.0.0.0/8_*",
            ],
        );
    }

    #[test]
    fn one_port_speaks_one_kind_of_http() {
        let of: Vec<MatchConf> = serde_json::from_str(
            r#"[{"type":"Domain","value":"a","protocol":"http","port":80},{"type":"Domain","value":"b","protocol":"grpc","port":80}]"#,
        )
        .unwrap();
        assert!(matchers(&of).is_err());
    }
}
