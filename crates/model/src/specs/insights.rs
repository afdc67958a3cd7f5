//! What proxies and zones reported, and what is counted over a mesh.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use super::{is_false, is_zero};

/// A 64-bit count; a text in JSON, left out when it is 0.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Uint64(pub u64);

impl Uint64 {
    fn is_zero(&self) -> bool {
        self.0 == 0
    }
}

impl Serialize for Uint64 {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for Uint64 {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        #[derive(Deserialize)]
        #[serde(untagged)]
        enum Form {
            Number(u64),
            Text(String),
        }
        match Form::deserialize(deserializer)? {
            Form::Number(number) => Ok(Self(number)),
            Form::Text(text) => text.parse().map(Self).map_err(serde::de::Error::custom),
        }
    }
}

/// Messages counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Counts {
    /// Sent.
    #[serde(skip_serializing_if = "Uint64::is_zero")]
    pub responses_sent: Uint64,
    /// ACKed.
    #[serde(skip_serializing_if = "Uint64::is_zero")]
    pub responses_acknowledged: Uint64,
    /// NACKed.
    #[serde(skip_serializing_if = "Uint64::is_zero")]
    pub responses_rejected: Uint64,
}

/// A stay of a peer: from connecting to disconnecting.
pub trait Subscription {
    /// When it began, RFC 3339.
    fn connect_time(&self) -> Option<&str>;
    /// When it ended; `None` while it lasts.
    fn disconnect_time(&self) -> Option<&str>;
    /// Ends it.
    fn disconnect(&mut self, time: &str);

    /// Whether it lasts.
    fn is_online(&self) -> bool {
        self.connect_time().is_some() && self.disconnect_time().is_none()
    }
}

macro_rules! subscription {
    ($subscription:ident) => {
        impl Subscription for $subscription {
            fn connect_time(&self) -> Option<&str> {
                self.connect_time.as_deref()
            }
            fn disconnect_time(&self) -> Option<&str> {
                self.disconnect_time.as_deref()
            }
            fn disconnect(&mut self, time: &str) {
                self.disconnect_time = Some(time.to_owned());
            }
        }
    };
}

subscription!(DataplaneSubscription);
subscription!(ZoneSubscription);

/// Puts a subscription into a list: replaces the one with the same id, or ends the others that still last and appends
/// it. Keeps at most `limit`, dropping the oldest; 0 empties the list.
fn put<S: Subscription>(
    list: &mut Vec<S>,
    subscription: S,
    limit: usize,
    now: &str,
    same: impl Fn(&S, &S) -> bool,
) {
    if let Some(found) = list.iter_mut().find(|found| same(found, &subscription)) {
        *found = subscription;
    } else {
        for open in list
            .iter_mut()
            .filter(|open| open.disconnect_time().is_none())
        {
            open.disconnect(now);
        }
        list.push(subscription);
    }
    let surplus = list.len().saturating_sub(limit);
    list.drain(..surplus);
}

/// What a proxy reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataplaneInsightSpec {
    /// Its stays, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<DataplaneSubscription>,
    /// Its certificate.
    #[serde(rename = "mTLS", skip_serializing_if = "Option::is_none")]
    pub mtls: Option<ProxyMtls>,
    /// What it says about itself.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub metadata: Option<serde_json::Value>,
    /// Its telemetry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub open_telemetry: Option<serde_json::Value>,
}

impl DataplaneInsightSpec {
    /// Whether the proxy is connected.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.subscriptions.iter().any(Subscription::is_online)
    }

    /// The newest stay.
    #[must_use]
    pub fn last_subscription(&self) -> Option<&DataplaneSubscription> {
        self.subscriptions.last()
    }

    /// Puts a stay: replaces the one with its id, or ends the ones that last and appends it. At most `limit` are kept.
    pub fn put_subscription(&mut self, new: DataplaneSubscription, limit: usize, now: &str) {
        put(&mut self.subscriptions, new, limit, now, |a, b| {
            a.id == b.id
        });
    }
}

/// One stay of a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataplaneSubscription {
    /// A unique id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The control plane process it is connected to.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub control_plane_instance_id: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect_time: Option<String>,
    /// Messages.
    pub status: DataplaneSubscriptionStatus,
    /// What runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<SubscriptionVersion>,
    /// Counts while the control plane process lives.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u32,
}

/// Messages to a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DataplaneSubscriptionStatus {
    /// When it last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// All.
    pub total: Counts,
    /// Clusters.
    pub cds: Counts,
    /// Endpoints.
    pub eds: Counts,
    /// Listeners.
    pub lds: Counts,
    /// Routes.
    pub rds: Counts,
}

/// What runs at a proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SubscriptionVersion {
    /// The process beside Envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kuma_dp: Option<KumaDpVersion>,
    /// Envoy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy: Option<EnvoyVersion>,
    /// What else.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub dependencies: BTreeMap<String, String>,
}

/// The process beside Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KumaDpVersion {
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The tag it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_tag: String,
    /// The commit it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_commit: String,
    /// When it was built.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build_date: String,
    /// Whether it fits the control plane.
    #[serde(skip_serializing_if = "is_false")]
    pub kuma_cp_compatible: bool,
}

/// Envoy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EnvoyVersion {
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// Its build.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build: String,
    /// Whether it fits the process beside it.
    #[serde(skip_serializing_if = "is_false")]
    pub kuma_dp_compatible: bool,
}

/// A proxy's certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyMtls {
    /// When it ends.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub certificate_expiration_time: Option<String>,
    /// When it was made.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_certificate_regeneration: Option<String>,
    /// How often one was made.
    #[serde(skip_serializing_if = "is_zero")]
    pub certificate_regenerations: u32,
    /// The identifier of the MeshIdentity.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub issued_backend: String,
    /// The identifiers of the MeshTrusts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub supported_backends: Vec<String>,
}

/// What a zone reported.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneInsightSpec {
    /// Its stays, oldest first.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subscriptions: Vec<ZoneSubscription>,
    /// An older form of the streams.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub envoy_admin_streams: Option<serde_json::Value>,
    /// When it last said it lives.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub health_check: Option<ZoneHealth>,
    /// Which streams are open, and to which process.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kds_streams: Option<KdsStreams>,
}

impl ZoneInsightSpec {
    /// Whether the zone is connected.
    #[must_use]
    pub fn is_online(&self) -> bool {
        self.subscriptions.iter().any(Subscription::is_online)
    }

    /// The newest stay.
    #[must_use]
    pub fn last_subscription(&self) -> Option<&ZoneSubscription> {
        self.subscriptions.last()
    }

    /// Puts a stay: replaces the one with its id, or ends the ones that last and appends it. At most `limit` are kept.
    pub fn put_subscription(&mut self, new: ZoneSubscription, limit: usize, now: &str) {
        put(&mut self.subscriptions, new, limit, now, |a, b| {
            a.id == b.id
        });
    }
}

/// When a zone last said it lives.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneHealth {
    /// RFC 3339.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time: Option<String>,
}

/// A zone's streams.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KdsStreams {
    /// Resources down.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub global_to_zone: Option<KdsStream>,
    /// Resources up.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone_to_global: Option<KdsStream>,
    /// Questions about a proxy's configuration.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub config_dump: Option<KdsStream>,
    /// Questions about a proxy's counters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub stats: Option<KdsStream>,
    /// Questions about a proxy's clusters.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub clusters: Option<KdsStream>,
}

/// One stream of a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KdsStream {
    /// The process at global.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub global_instance_id: String,
    /// When it was opened.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<String>,
}

/// One stay of a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneSubscription {
    /// A unique id.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub id: String,
    /// The process at global.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub global_instance_id: String,
    /// When it began.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub connect_time: Option<String>,
    /// When it ended.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub disconnect_time: Option<String>,
    /// Messages.
    pub status: ZoneSubscriptionStatus,
    /// What runs there.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<ZoneVersion>,
    /// Counts while the process at global lives.
    #[serde(skip_serializing_if = "is_zero")]
    pub generation: u32,
    /// The zone's configuration, a JSON text.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config: String,
    /// Whether the zone showed a token.
    #[serde(skip_serializing_if = "is_false")]
    pub auth_token_provided: bool,
    /// The process in the zone.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub zone_instance_id: String,
}

/// Messages to a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneSubscriptionStatus {
    /// When it last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<String>,
    /// All.
    pub total: Counts,
    /// By kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub stat: BTreeMap<String, Counts>,
}

/// What runs in a zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ZoneVersion {
    /// The control plane.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kuma_cp: Option<KumaCpVersion>,
}

/// A control plane's version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct KumaCpVersion {
    /// Its version.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub version: String,
    /// The tag it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_tag: String,
    /// The commit it was built from.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub git_commit: String,
    /// When it was built.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub build_date: String,
    /// Whether it fits global.
    #[serde(skip_serializing_if = "is_false")]
    pub kuma_cp_global_compatible: bool,
}

/// Proxies counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ProxyStat {
    /// All.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u32,
    /// Connected and ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub online: u32,
    /// Not connected, or not ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub offline: u32,
    /// Connected, some inbounds not ready.
    #[serde(skip_serializing_if = "is_zero")]
    pub partially_degraded: u32,
}

/// What is counted over a mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshInsightSpec {
    /// All proxies.
    pub dataplanes: ProxyStat,
    /// By version.
    pub dp_versions: MeshInsightVersions,
    /// By authority.
    #[serde(rename = "mTLS")]
    pub mtls: MeshInsightMtls,
    /// By type.
    pub dataplanes_by_type: MeshInsightDataplanesByType,
    /// Resources by kind.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub resources: BTreeMap<String, ResourceStat>,
}

/// Proxies by version.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshInsightVersions {
    /// Of the process beside Envoy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub kuma_dp: BTreeMap<String, ProxyStat>,
    /// Of Envoy.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub envoy: BTreeMap<String, ProxyStat>,
}

/// Proxies by authority.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshInsightMtls {
    /// That issued their certificate.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issued_backends: BTreeMap<String, ProxyStat>,
    /// That they trust.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub supported_backends: BTreeMap<String, ProxyStat>,
}

/// Proxies by type.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshInsightDataplanesByType {
    /// No gateway.
    pub standard: ProxyStat,
    /// Gateways.
    pub gateway: ProxyStat,
    /// Delegated gateways.
    pub gateway_delegated: ProxyStat,
}

/// Resources counted.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ResourceStat {
    /// All.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u32,
}

/// Services by name; kept for clients that ask, never written.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ServiceInsightSpec {
    /// The services.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub services: BTreeMap<String, ServiceStat>,
}

/// One service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceStat {
    /// `offline`, `partially_degraded`, `online` or `not_available`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
    /// Its proxies.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplanes: Option<ProxyStat>,
    /// Proxies by authority.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub issued_backends: BTreeMap<String, u32>,
    /// `internal` where absent, `external` or `gateway_delegated`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub service_type: Option<String>,
    /// Its address.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub address_port: String,
    /// Its zones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub zones: Vec<String>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn stay(id: &str) -> DataplaneSubscription {
        DataplaneSubscription {
            id: id.to_owned(),
            connect_time: Some("2026-01-01T00:00:00Z".to_owned()),
            ..Default::default()
        }
    }

    #[test]
    fn a_new_stay_ends_the_one_before() {
        let mut insight = DataplaneInsightSpec::default();
        assert!(!insight.is_online());
        insight.put_subscription(stay("1"), 2, "2026-01-01T00:00:01Z");
        assert!(insight.is_online());
        insight.put_subscription(stay("2"), 2, "2026-01-01T00:00:02Z");
        insight.put_subscription(stay("3"), 2, "2026-01-01T00:00:03Z");
        let ids: Vec<_> = insight
            .subscriptions
            .iter()
            .map(|s| (&*s.id, s.is_online()))
            .collect();
        assert_eq!(ids, [("2", false), ("3", true)]);
        insight.put_subscription(stay("4"), 0, "2026-01-01T00:00:04Z");
        assert!(insight.subscriptions.is_empty());
    }

    #[test]
    fn counts_are_texts() {
        let counts = Counts {
            responses_sent: Uint64(12),
            ..Default::default()
        };
        let text = serde_json::to_string(&counts).unwrap();
        assert_eq!(text, r#"{"responsesSent":"12"}"#);
        assert_eq!(
            serde_json::from_str::<Counts>(r#"{"responsesSent":12}"#).unwrap(),
            counts
        );
    }
}
