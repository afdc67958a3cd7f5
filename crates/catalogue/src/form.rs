//! The members of stored specs and statuses that the catalogue reads, and nothing else of them.

use serde::Deserialize;
use serde_json::Value;
use zonal_model::Labels;

/// MeshService and MeshMultiZoneService.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct ServiceForm {
    pub(crate) selector: SelectorForm,
    pub(crate) ports: Vec<PortForm>,
    pub(crate) identities: Vec<IdentityForm>,
    pub(crate) state: Option<String>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct SelectorForm {
    pub(crate) dataplane_ref: Option<NameForm>,
    pub(crate) dataplane_labels: Option<MatchLabelsForm>,
    pub(crate) mesh_service: Option<MatchLabelsForm>,
    pub(crate) mesh_external_service: Option<MatchLabelsForm>,
    pub(crate) mesh_multi_zone_service: Option<MatchLabelsForm>,
    pub(crate) dataplane: Option<MatchLabelsForm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
pub(crate) struct NameForm {
    #[serde(default)]
    pub(crate) name: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct MatchLabelsForm {
    pub(crate) match_labels: Option<Labels>,
}

impl MatchLabelsForm {
    /// Whether every wanted pair is among `labels`.
    pub(crate) fn matches(&self, labels: &Labels) -> bool {
        self.match_labels
            .iter()
            .flatten()
            .all(|(key, value)| labels.get(key) == Some(value))
    }
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct PortForm {
    #[serde(default)]
    pub(crate) name: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) target_port: Option<Value>,
    #[serde(default)]
    pub(crate) app_protocol: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct IdentityForm {
    #[serde(rename = "type")]
    pub(crate) kind: String,
    pub(crate) value: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct DestinationStatusForm {
    pub(crate) addresses: Vec<AddressForm>,
    pub(crate) vips: Vec<VipForm>,
    pub(crate) vip: Option<VipForm>,
    pub(crate) tls: Option<TlsStatusForm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct AddressForm {
    pub(crate) hostname: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct VipForm {
    pub(crate) ip: String,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct TlsStatusForm {
    pub(crate) status: String,
}

/// MeshExternalService.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ExternalForm {
    pub(crate) r#match: ExternalMatchForm,
    #[serde(default)]
    pub(crate) endpoints: Vec<ExternalEndpointForm>,
    #[serde(default)]
    pub(crate) tls: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ExternalMatchForm {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) protocol: Option<String>,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ExternalEndpointForm {
    pub(crate) address: String,
    #[serde(default)]
    pub(crate) port: Option<u16>,
    #[serde(default)]
    pub(crate) priority: Option<u32>,
}

/// MeshZoneAddress.
#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ZoneAddressForm {
    pub(crate) address: String,
    pub(crate) port: u16,
}

/// Dataplane.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct DataplaneForm {
    pub(crate) networking: NetworkingForm,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct NetworkingForm {
    pub(crate) address: String,
    pub(crate) inbound: Vec<InboundForm>,
    pub(crate) outbound: Vec<OutboundForm>,
    pub(crate) listeners: Vec<ListenerForm>,
    pub(crate) transparent_proxying: Option<TransparentProxyingForm>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct InboundForm {
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) address: Option<String>,
    #[serde(default)]
    pub(crate) protocol: Option<String>,
    #[serde(default)]
    pub(crate) state: Option<Value>,
    #[serde(default)]
    pub(crate) health: Option<HealthForm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct HealthForm {
    pub(crate) ready: bool,
}

#[derive(Clone, Debug, Deserialize)]
pub(crate) struct ListenerForm {
    #[serde(default, rename = "type")]
    pub(crate) kind: Option<Value>,
    #[serde(default)]
    pub(crate) address: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) name: Option<String>,
    #[serde(default)]
    pub(crate) state: Option<Value>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct OutboundForm {
    #[serde(default)]
    pub(crate) address: Option<String>,
    pub(crate) port: u16,
    #[serde(default)]
    pub(crate) backend_ref: Option<BackendRefForm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct BackendRefForm {
    pub(crate) kind: String,
    pub(crate) name: String,
    pub(crate) namespace: String,
    pub(crate) port: Option<u16>,
    pub(crate) labels: Labels,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct TransparentProxyingForm {
    pub(crate) reachable_backends: Option<ReachableForm>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct ReachableForm {
    pub(crate) refs: Vec<BackendRefForm>,
}
