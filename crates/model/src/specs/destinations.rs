//! The three kinds of services, where zones are entered, and workloads.

use serde::{Deserialize, Serialize};

use super::common::{
    Address, Condition, DataSource, Extension, HostnameGeneratorStatus, IntOrText, LabelSelector,
    MatchType, TlsVersion, Vip,
};
use super::is_zero;

/// Whether a service has proxies to send traffic to.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum MeshServiceState {
    /// It has.
    Available,
    /// It has none.
    #[default]
    Unavailable,
}

/// A service of one zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshServiceSpec {
    /// Computed: whether it has proxies.
    pub state: MeshServiceState,
    /// Its proxies.
    pub selector: MeshServiceSelector,
    /// Its ports.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<MeshServicePort>,
    /// Computed: SPIFFE ids of its proxies.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub identities: Vec<MeshServiceIdentity>,
}

/// The proxies of a service; at most one member is set.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshServiceSelector {
    /// One proxy.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_ref: Option<DataplaneRef>,
    /// All proxies with these labels.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_labels: Option<LabelSelector>,
}

/// One proxy.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct DataplaneRef {
    /// Its stored name.
    pub name: String,
}

/// A port of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshServicePort {
    /// Its name; empty means its number.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its number.
    pub port: u32,
    /// The inbound's port or name; absent means the same number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_port: Option<IntOrText>,
    /// `tcp`, `http`, `http2` or `grpc`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_protocol: String,
}

impl MeshServicePort {
    /// Its name, or its number where it has none.
    #[must_use]
    pub fn section_name(&self) -> String {
        if self.name.is_empty() {
            self.port.to_string()
        } else {
            self.name.clone()
        }
    }
}

/// An identity of a service's proxies.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct MeshServiceIdentity {
    /// Always `SpiffeID`.
    #[serde(rename = "type")]
    pub identity_type: String,
    /// The id.
    pub value: String,
}

/// What was observed about a MeshService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshServiceStatus {
    /// Host names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Virtual addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<Vip>,
    /// Whether all its proxies have an identity.
    pub tls: MeshServiceTls,
    /// What generators did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostname_generators: Vec<HostnameGeneratorStatus>,
    /// Its proxies, counted.
    pub dataplane_proxies: ProxyCounts,
}

/// Whether callers use TLS.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshServiceTls {
    /// `Ready` or `NotReady`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub status: Option<String>,
}

/// Proxies counted; zeros are not printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ProxyCounts {
    /// Connected to a control plane.
    #[serde(skip_serializing_if = "is_zero")]
    pub connected: u32,
    /// Healthy.
    #[serde(skip_serializing_if = "is_zero")]
    pub healthy: u32,
    /// All.
    #[serde(skip_serializing_if = "is_zero")]
    pub total: u32,
}

/// A service outside of the mesh.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshExternalServiceSpec {
    /// What traffic is meant.
    #[serde(rename = "match")]
    pub matching: ExternalMatch,
    /// Set where something outside of this project provides endpoints and TLS.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<Extension>,
    /// Where it is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub endpoints: Vec<Endpoint>,
    /// How TLS is made to it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub tls: Option<ExternalTls>,
}

/// The traffic meant for an external service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExternalMatch {
    /// Always `HostnameGenerator`.
    #[serde(rename = "type", skip_serializing_if = "String::is_empty")]
    pub match_type: String,
    /// Its port.
    pub port: u32,
    /// `tcp`, `grpc`, `http` or `http2`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub protocol: String,
}

/// One address of an external service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Endpoint {
    /// IP or host name.
    pub address: String,
    /// Port.
    pub port: u32,
    /// Envoy's priority.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub priority: Option<u32>,
}

/// TLS to an external service.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalTls {
    /// Bounds of the version.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub version: Option<TlsVersion>,
    /// Whether TLS is used.
    pub enabled: bool,
    /// Whether the peer may renegotiate.
    pub allow_renegotiation: bool,
    /// Whom to trust and who we are.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub verification: Option<ExternalVerification>,
}

/// What is checked about the peer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum VerificationMode {
    /// Not the names.
    SkipSAN,
    /// Not the authority.
    SkipCA,
    /// Nothing.
    SkipAll,
    /// Everything.
    #[default]
    Secured,
}

/// Whom to trust and who we are.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ExternalVerification {
    /// What is checked.
    pub mode: VerificationMode,
    /// The name we ask for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub server_name: Option<String>,
    /// Names we accept.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub subject_alt_names: Vec<SubjectAltName>,
    /// Authorities we accept.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_cert: Option<DataSource>,
    /// Our certificate.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_cert: Option<DataSource>,
    /// Its key.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub client_key: Option<DataSource>,
}

/// A name that is accepted in a certificate.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SubjectAltName {
    /// How it is compared.
    #[serde(rename = "type")]
    pub match_type: MatchType,
    /// The name.
    pub value: String,
}

/// What was observed about a MeshExternalService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshExternalServiceStatus {
    /// The virtual address.
    pub vip: Vip,
    /// Host names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// What generators did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostname_generators: Vec<HostnameGeneratorStatus>,
}

/// One service over all zones' MeshServices that it selects.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshMultiZoneServiceSpec {
    /// The MeshServices.
    pub selector: MultiZoneSelector,
    /// Its ports; a port meets a MeshService's port by name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<MultiZonePort>,
}

/// Which MeshServices a MeshMultiZoneService is made of.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiZoneSelector {
    /// By labels.
    pub mesh_service: LabelSelector,
}

/// A port of a MeshMultiZoneService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MultiZonePort {
    /// Its name; absent means its number.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub name: Option<String>,
    /// Its number.
    pub port: u32,
    /// `tcp`, `http`, `http2` or `grpc`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub app_protocol: String,
}

impl MultiZonePort {
    /// Its name, or its number where it has none.
    #[must_use]
    pub fn section_name(&self) -> String {
        match self.name.as_deref() {
            Some(name) if !name.is_empty() => name.to_owned(),
            _ => self.port.to_string(),
        }
    }
}

/// What was observed about a MeshMultiZoneService.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshMultiZoneServiceStatus {
    /// Host names.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Virtual addresses.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub vips: Vec<Vip>,
    /// The MeshServices it is made of.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub mesh_services: Vec<MatchedMeshService>,
    /// What generators did.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub hostname_generators: Vec<HostnameGeneratorStatus>,
    /// Observed facts.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// One MeshService of a MeshMultiZoneService.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(default)]
pub struct MatchedMeshService {
    /// Its display name.
    pub name: String,
    /// Its namespace, or empty.
    pub namespace: String,
    /// Its zone.
    pub zone: String,
    /// Its mesh.
    pub mesh: String,
}

/// Where the zone ingress of a zone is reached for one mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(default)]
pub struct MeshZoneAddressSpec {
    /// IP or DNS name.
    pub address: String,
    /// Port.
    pub port: u32,
}

/// A workload has no spec.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct WorkloadSpec {}

/// What was observed about a Workload; zeros are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct WorkloadStatus {
    /// Its proxies, counted.
    #[serde(serialize_with = "all_counts")]
    pub dataplane_proxies: ProxyCounts,
}

fn all_counts<S: serde::Serializer>(
    counts: &ProxyCounts,
    serializer: S,
) -> Result<S::Ok, S::Error> {
    use serde::ser::SerializeStruct as _;
    let mut members = serializer.serialize_struct("ProxyCounts", 3)?;
    members.serialize_field("connected", &counts.connected)?;
    members.serialize_field("healthy", &counts.healthy)?;
    members.serialize_field("total", &counts.total)?;
    members.end()
}
