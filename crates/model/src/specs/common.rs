//! The building blocks that several specs share.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::resource::Labels;

/// Kinds that a reference may name.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum TargetKind {
    /// Everything in the mesh. A missing `targetRef` means this.
    #[default]
    Mesh,
    /// Proxies.
    Dataplane,
    /// A zone's services.
    MeshService,
    /// Services outside of the mesh.
    MeshExternalService,
    /// Services of several zones.
    MeshMultiZoneService,
    /// HTTP routes.
    MeshHTTPRoute,
    /// A kind this version does not know; it selects nothing.
    #[serde(other)]
    Unknown,
}

impl TargetKind {
    /// The name in files.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Mesh => "Mesh",
            Self::Dataplane => "Dataplane",
            Self::MeshService => "MeshService",
            Self::MeshExternalService => "MeshExternalService",
            Self::MeshMultiZoneService => "MeshMultiZoneService",
            Self::MeshHTTPRoute => "MeshHTTPRoute",
            Self::Unknown => "Unknown",
        }
    }

    /// The resource kind it stands for, except for [`TargetKind::Unknown`].
    #[must_use]
    pub const fn kind(self) -> Option<crate::Kind> {
        Some(match self {
            Self::Mesh => crate::Kind::Mesh,
            Self::Dataplane => crate::Kind::Dataplane,
            Self::MeshService => crate::Kind::MeshService,
            Self::MeshExternalService => crate::Kind::MeshExternalService,
            Self::MeshMultiZoneService => crate::Kind::MeshMultiZoneService,
            Self::MeshHTTPRoute => crate::Kind::MeshHTTPRoute,
            Self::Unknown => return None,
        })
    }
}

impl fmt::Display for TargetKind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// Which resources a policy, or one of its `to` entries, is about.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct TargetRef {
    /// The kind of what is selected.
    pub kind: TargetKind,
    /// Labels the selected resources have; none selects all.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// A port's, inbound's or listener's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
}

/// Where a route sends traffic, and how much of it.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackendRef {
    /// One of the three kinds of services.
    pub kind: TargetKind,
    /// Labels of the service.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub labels: Option<Labels>,
    /// The port's name or number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub section_name: Option<String>,
    /// The share among the entries of the list; `None` means 1.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub weight: Option<u32>,
    /// The port's number.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
}

impl BackendRef {
    /// The share, 1 where none is given.
    #[must_use]
    pub fn weight(&self) -> u32 {
        self.weight.unwrap_or(1)
    }
}

/// How a text is compared.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum MatchType {
    /// Equal.
    #[default]
    Exact,
    /// Begins with.
    Prefix,
}

/// A condition on the caller's SPIFFE id.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SpiffeMatch {
    /// How it is compared.
    #[serde(rename = "type")]
    pub match_type: MatchType,
    /// The id or its beginning.
    pub value: String,
}

/// A condition on the server name the caller asked for.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct SniMatch {
    /// Always exact.
    #[serde(rename = "type", default)]
    pub match_type: MatchType,
    /// The server name.
    pub value: String,
}

/// What incoming traffic a rule is about; conditions that are absent hold always.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Match {
    /// On the caller's identity.
    #[serde(rename = "spiffeID", default, skip_serializing_if = "Option::is_none")]
    pub spiffe_id: Option<SpiffeMatch>,
    /// On the server name.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub sni: Option<SniMatch>,
}

/// How a header is compared.
#[derive(
    Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
pub enum HeaderMatchType {
    /// Has this value.
    #[default]
    Exact,
    /// Is there.
    Present,
    /// Its value matches.
    RegularExpression,
    /// Is not there.
    Absent,
    /// Its value begins with this.
    Prefix,
}

/// A condition on a header.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct HeaderMatch {
    /// How it is compared.
    #[serde(rename = "type", default)]
    pub match_type: HeaderMatchType,
    /// The header's name in lower case.
    pub name: String,
    /// What it is compared with.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub value: Option<String>,
}

/// Whether a condition holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub enum ConditionStatus {
    /// It holds.
    True,
    /// It does not.
    False,
    /// Nobody knows.
    #[default]
    Unknown,
}

/// One observed fact about a resource.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Condition {
    /// Which fact.
    #[serde(rename = "type")]
    pub condition_type: String,
    /// Whether it holds.
    pub status: ConditionStatus,
    /// One word about why.
    pub reason: String,
    /// A sentence about why.
    #[serde(default)]
    pub message: String,
}

/// Where a value comes from.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum DataSourceType {
    /// A file on the control plane's machine.
    File,
    /// A Secret in the resource's mesh.
    #[default]
    Secret,
    /// An environment variable of the control plane.
    EnvVar,
    /// The value itself.
    InsecureInline,
}

/// A value or where it is found; read by the control plane.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct DataSource {
    /// Which of the members counts.
    #[serde(rename = "type")]
    pub source_type: DataSourceType,
    /// The file.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub file: Option<PathValue>,
    /// The variable.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub env_var: Option<NamedValue>,
    /// The value.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub insecure_inline: Option<crate::specs::Pem>,
    /// The Secret.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub secret_ref: Option<NamedValue>,
}

/// `{path}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct PathValue {
    /// An absolute path.
    #[serde(default)]
    pub path: String,
}

/// `{name}`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct NamedValue {
    /// The name.
    #[serde(default)]
    pub name: String,
}

/// Bounds of the TLS version; absent ones are `TLSAuto`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TlsVersion {
    /// At least, e.g. `TLS12`.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub min: Option<String>,
    /// At most.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub max: Option<String>,
}

/// Selects what has all of these labels.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct LabelSelector {
    /// The labels; empty selects everything.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub match_labels: Option<Labels>,
}

impl LabelSelector {
    /// Whether `labels` has everything that is asked for.
    #[must_use]
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.get(key).is_some_and(|found| found == value))
    }
}

/// A number or a text, kept as it was given.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(untagged)]
pub enum IntOrText {
    /// A number.
    Int(i64),
    /// A text, e.g. a port's name or a percentage with decimals.
    Text(String),
}

impl IntOrText {
    /// The number that is given as a number or as a decimal text.
    #[must_use]
    pub fn as_f64(&self) -> Option<f64> {
        match self {
            #[expect(
                clippy::cast_precision_loss,
                reason = "percentages and factors are small"
            )]
            Self::Int(number) => Some(*number as f64),
            Self::Text(text) => text.parse().ok(),
        }
    }
}

impl fmt::Display for IntOrText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Int(number) => write!(f, "{number}"),
            Self::Text(text) => f.write_str(text),
        }
    }
}

/// Configuration for something outside of this project.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
pub struct Extension {
    /// Which extension.
    #[serde(rename = "type", default)]
    pub extension_type: String,
    /// What it is told.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub config: Option<serde_json::Value>,
}

/// Who gave a service a host name.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub enum HostnameOrigin {
    /// A HostnameGenerator.
    #[default]
    HostnameGenerator,
    /// Kubernetes.
    Kubernetes,
}

/// Names a HostnameGenerator.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostnameGeneratorRef {
    /// Its stored name.
    pub core_name: String,
}

/// A host name of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Address {
    /// The name.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub hostname: String,
    /// Who gave it.
    #[serde(default)]
    pub origin: HostnameOrigin,
    /// The generator, where it was one.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub hostname_generator_ref: Option<HostnameGeneratorRef>,
}

/// What one HostnameGenerator did for a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct HostnameGeneratorStatus {
    /// Which generator.
    pub hostname_generator_ref: HostnameGeneratorRef,
    /// Condition `Generated`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// A virtual address of a service.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
pub struct Vip {
    /// The address.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub ip: String,
}
