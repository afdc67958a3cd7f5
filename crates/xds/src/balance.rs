//! MeshLoadBalancingStrategy: which hosts are tried first, and how one is chosen.

use std::collections::BTreeMap;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::cluster::v3::cluster::{
    CommonLbConfig, LbConfig, LbPolicy, LeastRequestLbConfig, MaglevLbConfig, RingHashLbConfig,
    common_lb_config::{LocalityConfigSpecifier, LocalityWeightedLbConfig},
    ring_hash_lb_config::HashFunction,
};
use kds_proto::envoy::config::core::v3::RuntimeDouble;
use kds_proto::envoy::config::route::v3::route_action::HashPolicy;
use kds_proto::envoy::config::route::v3::route_action::hash_policy::{
    ConnectionProperties, Cookie, FilterState, Header, PolicySpecifier, QueryParameter,
};
use serde::{Deserialize, Deserializer};
use serde_json::Value;
use zonal_catalogue::Endpoint;
use zonal_model::{GoDuration, Labels};

use crate::envoy::endpoints::Host;
use crate::envoy::{number, percent};

/// The conf of one destination.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct Balance {
    locality_awareness: Option<LocalityAwareness>,
    load_balancer: Option<LoadBalancer>,
    hash_policies: Option<Vec<HashPolicyConf>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LocalityAwareness {
    disabled: Option<bool>,
    local_zone: Option<LocalZone>,
    cross_zone: Option<CrossZone>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LocalZone {
    affinity_tags: Option<Vec<AffinityTag>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct AffinityTag {
    key: String,
    weight: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct CrossZone {
    failover: Option<Vec<Failover>>,
    failover_threshold: Option<Threshold>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Failover {
    from: Option<Zones>,
    to: Zones,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Zones {
    #[serde(rename = "type")]
    kind: String,
    zones: Option<Vec<String>>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Threshold {
    #[serde(deserialize_with = "decimal")]
    percentage: f64,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LoadBalancer {
    #[serde(rename = "type")]
    kind: String,
    ring_hash: Option<RingHash>,
    least_request: Option<LeastRequest>,
    maglev: Option<Maglev>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct RingHash {
    hash_function: Option<String>,
    min_ring_size: Option<u32>,
    max_ring_size: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct LeastRequest {
    choice_count: Option<u32>,
    #[serde(deserialize_with = "optional_decimal")]
    active_request_bias: Option<f64>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Maglev {
    table_size: Option<u32>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct HashPolicyConf {
    #[serde(rename = "type")]
    kind: String,
    terminal: Option<bool>,
    header: Option<Named>,
    cookie: Option<CookieConf>,
    query_parameter: Option<Named>,
    filter_state: Option<Keyed>,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Named {
    name: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct Keyed {
    key: String,
}

#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
struct CookieConf {
    name: String,
    path: Option<String>,
    ttl: Option<String>,
}

fn read_decimal(value: &Value) -> Option<f64> {
    match value {
        Value::Number(number) => number.as_f64(),
        Value::String(text) => text.parse().ok(),
        _ => None,
    }
}

fn decimal<'de, D: Deserializer<'de>>(reader: D) -> Result<f64, D::Error> {
    read_decimal(&Value::deserialize(reader)?)
        .ok_or_else(|| serde::de::Error::custom("neither a number nor a number as text"))
}

fn optional_decimal<'de, D: Deserializer<'de>>(reader: D) -> Result<Option<f64>, D::Error> {
    Ok(read_decimal(&Value::deserialize(reader)?))
}

impl Balance {
    /// Reads a merged conf; what cannot be read is as if it were not there.
    pub(crate) fn read(conf: Option<&Value>) -> Self {
        conf.and_then(|conf| Self::deserialize(conf).ok())
            .unwrap_or_default()
    }

    /// Whether the proxy's own labels decide about hosts.
    pub(crate) fn uses_labels(&self) -> bool {
        self.affinity_tags().next().is_some()
    }

    fn affinity_tags(&self) -> impl DoubleEndedIterator<Item = &AffinityTag> + ExactSizeIterator {
        self.locality_awareness
            .as_ref()
            .and_then(|awareness| awareness.local_zone.as_ref())
            .and_then(|zone| zone.affinity_tags.as_deref())
            .unwrap_or_default()
            .iter()
    }

    /// The hosts of an endpoint list, and the overprovisioning factor where the conf decides about localities.
    pub(crate) fn hosts(
        &self,
        endpoints: &[Endpoint],
        zone: &str,
        own: &Labels,
    ) -> (Vec<Host>, Option<u32>) {
        let plain = |endpoint: &Endpoint, priority| Host {
            address: endpoint.address.to_string(),
            port: endpoint.port,
            zone: endpoint.zone.as_deref().map(str::to_owned),
            sub_zone: None,
            priority,
            weight: 1,
            locality_weight: None,
            tags: endpoint
                .metadata
                .iter()
                .filter(|(key, _)| *key != "kuma.io/service")
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect::<BTreeMap<_, _>>(),
        };
        let awareness = self.locality_awareness.clone().unwrap_or_default();
        if awareness.local_zone.is_none() && awareness.cross_zone.is_none() {
            let flat = awareness.disabled == Some(true);
            let priority = |endpoint: &Endpoint| if flat { 0 } else { endpoint.priority };
            return (
                endpoints.iter().map(|e| plain(e, priority(e))).collect(),
                None,
            );
        }
        let near = self.local_groups(own);
        let far = awareness
            .cross_zone
            .as_ref()
            .map(|cross| cross.groups(zone))
            .unwrap_or_default();
        let hosts = endpoints
            .iter()
            .filter_map(|endpoint| match endpoint.zone.as_deref() {
                None => Some(plain(endpoint, 0)),
                Some(of) if of == zone => {
                    let mut host = plain(endpoint, 0);
                    let group = near.iter().find(|(key, value, _)| {
                        host.tags.get(*key).map(String::as_str) == Some(value)
                    });
                    host.locality_weight = Some(group.map_or(1, |(_, _, weight)| *weight));
                    host.sub_zone = group.map(|(key, value, _)| format!("{key}={value}"));
                    Some(host)
                }
                Some(of) => far
                    .iter()
                    .find(|(_, to)| to.admits(of))
                    .map(|(priority, _)| plain(endpoint, *priority)),
            })
            .collect();
        (hosts, Some(overprovisioning(awareness.cross_zone.as_ref())))
    }

    /// Key, value and weight of each group of near hosts.
    fn local_groups<'a>(&'a self, own: &'a Labels) -> Vec<(&'a str, &'a str, u32)> {
        let count = self.affinity_tags().len();
        self.affinity_tags()
            .enumerate()
            .filter_map(|(index, tag)| {
                let value = own.get(&tag.key)?;
                let rank = u32::try_from(count - index - 1).unwrap_or(u32::MAX);
                let weight = tag
                    .weight
                    .unwrap_or_else(|| 10_u32.saturating_pow(rank).saturating_mul(9));
                Some((tag.key.as_str(), value.as_str(), weight))
            })
            .collect()
    }

    /// Writes the choice of hosts into a cluster.
    pub(crate) fn apply(&self, cluster: &mut Cluster) {
        if self.uses_labels() {
            let common: &mut CommonLbConfig = cluster.common_lb_config.get_or_insert_default();
            common.locality_config_specifier =
                Some(LocalityConfigSpecifier::LocalityWeightedLbConfig(
                    LocalityWeightedLbConfig::default(),
                ));
        }
        let Some(balancer) = &self.load_balancer else {
            return;
        };
        let size = |value: Option<u32>| {
            value.map(|value| pbjson_types::UInt64Value {
                value: u64::from(value),
            })
        };
        let policy = match balancer.kind.as_str() {
            "LeastRequest" => {
                cluster.lb_config = balancer.least_request.as_ref().map(|conf| {
                    LbConfig::LeastRequestLbConfig(LeastRequestLbConfig {
                        choice_count: conf.choice_count.map(number),
                        active_request_bias: conf.active_request_bias.map(|value| RuntimeDouble {
                            default_value: value,
                            ..RuntimeDouble::default()
                        }),
                        ..LeastRequestLbConfig::default()
                    })
                });
                LbPolicy::LeastRequest
            }
            "Random" => LbPolicy::Random,
            "RingHash" => {
                cluster.lb_config = balancer.ring_hash.as_ref().map(|conf| {
                    let murmur = conf.hash_function.as_deref() == Some("MurmurHash2");
                    let function = if murmur {
                        HashFunction::MurmurHash2
                    } else {
                        HashFunction::XxHash
                    };
                    LbConfig::RingHashLbConfig(RingHashLbConfig {
                        minimum_ring_size: size(conf.min_ring_size),
                        maximum_ring_size: size(conf.max_ring_size),
                        hash_function: function.into(),
                    })
                });
                LbPolicy::RingHash
            }
            "Maglev" => {
                cluster.lb_config = balancer.maglev.as_ref().map(|conf| {
                    LbConfig::MaglevLbConfig(MaglevLbConfig {
                        table_size: size(conf.table_size),
                    })
                });
                LbPolicy::Maglev
            }
            _ => LbPolicy::RoundRobin,
        };
        cluster.lb_policy = policy.into();
    }

    /// What requests are hashed by.
    pub(crate) fn hash_policies(&self) -> Vec<HashPolicy> {
        self.hash_policies
            .iter()
            .flatten()
            .filter_map(HashPolicyConf::message)
            .collect()
    }
}

impl CrossZone {
    /// The rules that hold for callers in `zone`, with the priority that each gives.
    fn groups(&self, zone: &str) -> Vec<(u32, &Zones)> {
        (1..)
            .zip(self.failover.iter().flatten())
            .filter(|(_, rule)| {
                rule.from
                    .as_ref()
                    .is_none_or(|from| from.zones.iter().flatten().any(|from| from == zone))
            })
            .map(|(priority, rule)| (priority, &rule.to))
            .collect()
    }
}

impl Zones {
    fn admits(&self, zone: &str) -> bool {
        let named = self.zones.iter().flatten().any(|name| name == zone);
        match self.kind.as_str() {
            "Any" => true,
            "Only" => named,
            "AnyExcept" => !named,
            _ => false,
        }
    }
}

/// How much more than its load a locality is trusted with, in percent.
fn overprovisioning(cross_zone: Option<&CrossZone>) -> u32 {
    let threshold = cross_zone
        .and_then(|cross| cross.failover_threshold.as_ref())
        .map_or(0.0, |threshold| threshold.percentage);
    if threshold <= 0.0 {
        return 200;
    }
    // The quotient is cut to a whole number first, as Kuma does it.
    percent::whole(100.0 / threshold).saturating_mul(100)
}

impl HashPolicyConf {
    fn message(&self) -> Option<HashPolicy> {
        let specifier = match self.kind.as_str() {
            "Header" => PolicySpecifier::Header(Header {
                header_name: self.header.as_ref()?.name.clone(),
                ..Header::default()
            }),
            "Cookie" => {
                let cookie = self.cookie.as_ref()?;
                PolicySpecifier::Cookie(Cookie {
                    name: cookie.name.clone(),
                    path: cookie.path.clone().unwrap_or_default(),
                    ttl: cookie
                        .ttl
                        .as_deref()
                        .and_then(|ttl| ttl.parse::<GoDuration>().ok())
                        .map(|ttl| crate::envoy::duration(ttl.to_std())),
                    ..Cookie::default()
                })
            }
            "Connection" | "SourceIP" => {
                PolicySpecifier::ConnectionProperties(ConnectionProperties { source_ip: true })
            }
            "QueryParameter" => PolicySpecifier::QueryParameter(QueryParameter {
                name: self.query_parameter.as_ref()?.name.clone(),
            }),
            "FilterState" => PolicySpecifier::FilterState(FilterState {
                key: self.filter_state.as_ref()?.key.clone(),
            }),
            _ => return None,
        };
        Some(HashPolicy {
            terminal: self.terminal.unwrap_or_default(),
            policy_specifier: Some(specifier),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;
    use std::sync::Arc;
    use zonal_catalogue::Way;

    fn endpoint(zone: &str, address: &str, tags: &[(&str, &str)]) -> Endpoint {
        let metadata = tags
            .iter()
            .map(|&(k, v)| (k.to_owned(), v.to_owned()))
            .collect::<Labels>();
        Endpoint {
            zone: Some(zone.into()),
            address: address.into(),
            port: 80,
            priority: u32::from(zone != "east"),
            metadata: Arc::new(metadata),
            way: Way::Ingress,
        }
    }

    /// Address, sub-zone, priority and locality weight of each host.
    #[track_caller]
    fn check(conf: &Value, want: &[(&str, Option<&str>, u32, Option<u32>)], factor: Option<u32>) {
        let endpoints = [
            endpoint("east", "1", &[("rack", "a")]),
            endpoint("east", "2", &[("rack", "b")]),
            endpoint("west", "3", &[]),
            endpoint("north", "4", &[]),
        ];
        let own = Labels::from([("rack".to_owned(), "a".to_owned())]);
        let (hosts, got_factor) = Balance::read(Some(conf)).hosts(&endpoints, "east", &own);
        let got: Vec<_> = hosts
            .iter()
            .map(|h| {
                (
                    &*h.address,
                    h.sub_zone.as_deref(),
                    h.priority,
                    h.locality_weight,
                )
            })
            .collect();
        assert_eq!(got, want);
        assert_eq!(got_factor, factor);
    }

    #[test]
    fn without_a_policy_the_own_zone_comes_first() {
        check(
            &json!({}),
            &[
                ("1", None, 0, None),
                ("2", None, 0, None),
                ("3", None, 1, None),
                ("4", None, 1, None),
            ],
            None,
        );
    }

    #[test]
    fn disabled_awareness_makes_all_zones_equal() {
        check(
            &json!({"localityAwareness": {"disabled": true}}),
            &[
                ("1", None, 0, None),
                ("2", None, 0, None),
                ("3", None, 0, None),
                ("4", None, 0, None),
            ],
            None,
        );
    }

    #[test]
    fn failover_goes_only_where_a_rule_says() {
        check(
            &json!({"localityAwareness": {"crossZone": {
                "failover": [{"from": {"zones": ["south"]}, "to": {"type": "Any"}},
                             {"from": {"zones": ["east"]}, "to": {"type": "Only", "zones": ["west"]}}],
                "failoverThreshold": {"percentage": 25}}}}),
            &[
                ("1", None, 0, Some(1)),
                ("2", None, 0, Some(1)),
                ("3", None, 2, None),
            ],
            Some(400),
        );
    }

    #[test]
    fn affinity_groups_hosts_of_the_own_zone_and_drops_the_others() {
        check(
            &json!({"localityAwareness": {"localZone": {"affinityTags": [{"key": "rack"}]}}}),
            &[("1", Some("rack=a"), 0, Some(9)), ("2", None, 0, Some(1))],
            Some(200),
        );
    }
}
