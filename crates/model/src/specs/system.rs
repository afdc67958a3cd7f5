//! Mesh, Zone, secrets, Config, HostnameGenerator and OpenTelemetry backends.

use std::fmt;

use serde::{Deserialize, Serialize};

use super::common::{Extension, LabelSelector};

/// A mesh.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MeshSpec {
    /// Kinds of default policies that are not made with the mesh; `*` means none is.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skip_creating_initial_policies: Vec<String>,
}

/// A zone.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ZoneSpec {
    /// `Some(false)` stops synchronisation.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub enabled: Option<bool>,
}

impl ZoneSpec {
    /// Whether the zone takes part; it does unless it was switched off.
    #[must_use]
    pub fn is_enabled(&self) -> bool {
        self.enabled.unwrap_or(true)
    }
}

/// A Secret or GlobalSecret. Its value is not shown by `Debug`.
#[derive(Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct SecretSpec {
    /// The value in base64.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub data: Option<String>,
}

impl SecretSpec {
    /// A secret with this value.
    #[must_use]
    pub fn from_bytes(value: &[u8]) -> Self {
        use base64::Engine as _;
        Self {
            data: Some(base64::engine::general_purpose::STANDARD.encode(value)),
        }
    }

    /// The value; empty where there is none, `None` where it is not base64.
    #[must_use]
    pub fn bytes(&self) -> Option<Vec<u8>> {
        use base64::Engine as _;
        let text = self.data.as_deref().unwrap_or_default();
        base64::engine::general_purpose::STANDARD.decode(text).ok()
    }
}

impl fmt::Debug for SecretSpec {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("SecretSpec { data: (hidden) }")
    }
}

/// A value a control plane keeps for itself.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConfigSpec {
    /// The value.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub config: String,
}

/// Gives host names to the services it selects.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct HostnameGeneratorSpec {
    /// Exactly one member is set.
    pub selector: GeneratorSelector,
    /// A Go template, see [`crate::template`].
    pub template: String,
    /// Set where something outside of this project evaluates it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub extension: Option<Extension>,
}

/// Which services get a name.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct GeneratorSelector {
    /// MeshServices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_service: Option<LabelSelector>,
    /// MeshExternalServices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_external_service: Option<LabelSelector>,
    /// MeshMultiZoneServices.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh_multi_zone_service: Option<LabelSelector>,
}

/// Where telemetry is sent.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtelBackendSpec {
    /// The collector.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub endpoint: Option<OtelEndpoint>,
    /// `grpc` (where absent) or `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub protocol: Option<String>,
    /// Whether variables of the sidecar take part.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub env: Option<OtelEnv>,
}

/// The address of a collector.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct OtelEndpoint {
    /// Absent: the proxy's host.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    /// Absent: 4317.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub port: Option<u32>,
    /// Only with `http`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
}

/// How `OTEL_*` variables of the sidecar take part.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OtelEnv {
    /// `Disabled`, `Optional` (where absent) or `Required`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mode: Option<String>,
    /// `EnvFirst` (where absent) or `ExplicitFirst`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub precedence: Option<String>,
    /// Absent: true.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub allow_signal_overrides: Option<bool>,
}
