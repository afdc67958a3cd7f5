//! Load assignments: which addresses serve a cluster.

use std::collections::BTreeMap;

use kds_proto::envoy::config::core::v3::Locality;
use kds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints, cluster_load_assignment,
    lb_endpoint::HostIdentifier,
};

use super::{address, metadata, number};

const LB: &str = "envoy.lb";
const SOCKET_MATCH: &str = "envoy.transport_socket_match";

/// One address of a destination, as a caller sees it.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Host {
    /// IP address, or a host name in a cluster that looks names up.
    pub(crate) address: String,
    /// TCP port.
    pub(crate) port: u16,
    /// The zone it is in; `None` means that no locality is written.
    pub(crate) zone: Option<String>,
    /// Finer than the zone, where a policy groups by it.
    pub(crate) sub_zone: Option<String>,
    /// 0 is tried first.
    pub(crate) priority: u32,
    /// Share among the hosts of its locality.
    pub(crate) weight: u32,
    /// Share of the locality; the first host of a locality decides.
    pub(crate) locality_weight: Option<u32>,
    /// What load balancing and transport-socket matching may look at.
    pub(crate) tags: BTreeMap<String, String>,
}

/// Groups hosts by locality and priority.
///
/// The order never depends on the order of `hosts`: localities by zone, sub-zone and priority, hosts by address text
/// and port.
pub(crate) fn load_assignment(
    cluster: &str,
    hosts: &[Host],
    overprovisioning: Option<u32>,
) -> ClusterLoadAssignment {
    type Group<'a> = (&'a Option<String>, &'a Option<String>, u32);
    let mut groups: BTreeMap<Group<'_>, Vec<&Host>> = BTreeMap::new();
    for host in hosts {
        groups
            .entry((&host.zone, &host.sub_zone, host.priority))
            .or_default()
            .push(host);
    }
    let endpoints = groups
        .into_iter()
        .map(|((zone, sub_zone, priority), mut members)| {
            members.sort_by(|a, b| (&a.address, a.port).cmp(&(&b.address, b.port)));
            let locality_weight = members.iter().find_map(|host| host.locality_weight);
            LocalityLbEndpoints {
                locality: (zone.is_some() || sub_zone.is_some()).then(|| Locality {
                    zone: zone.clone().unwrap_or_default(),
                    sub_zone: sub_zone.clone().unwrap_or_default(),
                    ..Locality::default()
                }),
                lb_endpoints: members.into_iter().map(host_endpoint).collect(),
                load_balancing_weight: locality_weight.map(number),
                priority,
                ..LocalityLbEndpoints::default()
            }
        })
        .collect();
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints,
        policy: overprovisioning.map(|factor| cluster_load_assignment::Policy {
            overprovisioning_factor: Some(number(factor)),
            ..cluster_load_assignment::Policy::default()
        }),
        ..ClusterLoadAssignment::default()
    }
}

fn host_endpoint(host: &Host) -> LbEndpoint {
    let tags = host
        .tags
        .iter()
        .map(|(key, value)| (key.as_str(), value.as_str()));
    LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(address::socket(&host.address, u32::from(host.port))),
            ..Endpoint::default()
        })),
        metadata: (!host.tags.is_empty()).then(|| metadata(&[LB, SOCKET_MATCH], tags)),
        load_balancing_weight: Some(number(host.weight.max(1))),
        ..LbEndpoint::default()
    }
}

/// The inline assignment of a cluster with one fixed address.
pub(crate) fn fixed(
    cluster: &str,
    address: kds_proto::envoy::config::core::v3::Address,
) -> ClusterLoadAssignment {
    ClusterLoadAssignment {
        cluster_name: cluster.to_owned(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: vec![LbEndpoint {
                host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
                    address: Some(address),
                    ..Endpoint::default()
                })),
                ..LbEndpoint::default()
            }],
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}
