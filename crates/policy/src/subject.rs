//! The proxy that policies are matched with.

use std::fmt;
use std::sync::Arc;

use serde::Deserialize;
use zonal_model::{Labels, Resource, labels};

/// Where an inbound or zone proxy listener accepts: what its rules are kept under.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct InboundKey {
    /// The listener's address, or the proxy's where it has none of its own.
    pub address: Arc<str>,
    /// The listener's port.
    pub port: u16,
}

impl fmt::Display for InboundKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.address, self.port)
    }
}

/// One inbound or zone proxy listener, as far as matching goes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Address and port.
    pub key: InboundKey,
    /// Its name, or its port as text: what `sectionName` is compared with.
    pub section: Arc<str>,
}

/// One dataplane as policy matching sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Subject {
    /// The mesh.
    pub mesh: Arc<str>,
    /// The display name.
    pub display_name: Arc<str>,
    /// All labels, computed ones included.
    pub labels: Labels,
    /// Inbounds, then zone proxy listeners.
    pub inbounds: Vec<Inbound>,
    /// A delegated gateway is selected without having inbounds.
    pub delegated_gateway: bool,
}

impl Subject {
    /// Reads a Dataplane.
    ///
    /// # Errors
    /// Its spec is not one.
    pub fn from_dataplane(dataplane: &Resource) -> Result<Self, serde_json::Error> {
        let spec: DataplaneForm = serde_json::from_str(dataplane.spec.as_str())?;
        let networking = spec.networking;
        let inbounds = networking
            .inbound
            .into_iter()
            .chain(networking.listeners)
            .map(|listener| Inbound {
                section: listener.section(),
                key: InboundKey {
                    address: match listener.address {
                        Some(address) if !address.is_empty() => address.into(),
                        _ => networking.address.as_str().into(),
                    },
                    port: listener.port,
                },
            })
            .collect();
        Ok(Self {
            mesh: Arc::clone(&dataplane.key.mesh),
            display_name: dataplane.display_name().into(),
            labels: dataplane.meta.labels.clone(),
            inbounds,
            delegated_gateway: networking.gateway.is_some(),
        })
    }

    /// A label's value; the display name also where its label is missing.
    pub(crate) fn selectable(&self, key: &str) -> Option<&str> {
        if key == labels::DISPLAY_NAME {
            Some(&self.display_name)
        } else {
            self.label(key)
        }
    }

    pub(crate) fn label(&self, key: &str) -> Option<&str> {
        self.labels.get(key).map(String::as_str)
    }
}

#[derive(Deserialize)]
struct DataplaneForm {
    #[serde(default)]
    networking: NetworkingForm,
}

#[derive(Default, Deserialize)]
#[serde(default)]
struct NetworkingForm {
    address: String,
    inbound: Vec<ListenerForm>,
    listeners: Vec<ListenerForm>,
    gateway: Option<serde::de::IgnoredAny>,
}

#[derive(Deserialize)]
struct ListenerForm {
    #[serde(default)]
    name: Option<String>,
    #[serde(default)]
    address: Option<String>,
    port: u16,
}

impl ListenerForm {
    fn section(&self) -> Arc<str> {
        match &self.name {
            Some(name) if !name.is_empty() => name.as_str().into(),
            _ => self.port.to_string().into(),
        }
    }
}
