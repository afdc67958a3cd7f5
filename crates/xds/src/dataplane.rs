//! What of a Dataplane decides its proxy's configuration.

use serde::Deserialize;
use serde_json::Value;
use zonal_catalogue::Protocol;
use zonal_model::{Json, Labels, Resource};

use crate::node::Redirect;

/// One proxy's record, read for configuration.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Dataplane {
    /// The proxy's address.
    pub address: String,
    /// All labels, computed ones included.
    pub labels: Labels,
    /// Its inbounds, except ignored ones.
    pub inbounds: Vec<Inbound>,
    /// Its zone proxy listeners.
    pub zone_listeners: Vec<ZoneListener>,
    /// Redirection as the Dataplane describes it.
    pub redirect: Option<Redirect>,
}

/// One inbound.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// Its name, or its port as text.
    pub section: String,
    /// Whether it has a name of its own.
    pub named: bool,
    /// Where the proxy listens.
    pub address: String,
    /// The port there.
    pub port: u16,
    /// Where the workload listens.
    pub workload_address: String,
    /// The port there.
    pub workload_port: u16,
    /// What is spoken.
    pub protocol: Protocol,
}

/// One listener of a zone proxy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ZoneListener {
    /// What it does.
    pub role: ZoneRole,
    /// Its name, or its port as text.
    pub section: String,
    /// Where it listens.
    pub address: String,
    /// The port there.
    pub port: u16,
}

/// What a zone proxy's listener does.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ZoneRole {
    /// Lets traffic into the zone.
    Ingress,
    /// Lets traffic out of the mesh.
    Egress,
}

impl Dataplane {
    /// Reads a stored Dataplane.
    ///
    /// # Errors
    /// Its spec is not one; the error names the member.
    pub fn read(resource: &Resource) -> Result<Self, serde_json::Error> {
        Self::from_spec(&resource.spec, &resource.meta.labels)
    }

    /// Reads a Dataplane's spec.
    ///
    /// ```
    /// use zonal_model::{Json, Labels};
    /// let spec = r#"{"networking":{"address":"10.0.0.1","inbound":[{"port":80,"servicePort":8080}]}}"#;
    /// let read = zonal_xds::Dataplane::from_spec(&Json::parse(spec)?, &Labels::new())?;
    /// assert_eq!(read.inbounds[0].workload_port, 8080);
    /// # Ok::<(), serde_json::Error>(())
    /// ```
    ///
    /// # Errors
    /// It is not one.
    pub fn from_spec(spec: &Json, labels: &Labels) -> Result<Self, serde_json::Error> {
        let form: Form = serde_json::from_str(spec.as_str())?;
        let networking = form.networking;
        let own = networking.address;
        let inbounds = networking
            .inbound
            .into_iter()
            .filter(|inbound| !inbound.ignored())
            .map(|inbound| inbound.read(&own))
            .collect();
        let zone_listeners = networking
            .listeners
            .into_iter()
            .filter_map(|listener| listener.read(&own))
            .collect();
        let redirect = networking.transparent_proxying.and_then(|form| form.read());
        Ok(Self {
            address: own,
            labels: labels.clone(),
            inbounds,
            zone_listeners,
            redirect,
        })
    }
}

#[derive(Deserialize)]
struct Form {
    #[serde(default)]
    networking: Networking,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Networking {
    address: String,
    inbound: Vec<InboundForm>,
    listeners: Vec<ListenerForm>,
    transparent_proxying: Option<RedirectForm>,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct InboundForm {
    #[serde(default)]
    name: String,
    #[serde(default)]
    address: String,
    port: u16,
    #[serde(default)]
    service_address: String,
    #[serde(default)]
    service_port: u16,
    #[serde(default)]
    protocol: Option<String>,
    #[serde(default)]
    state: Value,
}

fn or_else(text: String, otherwise: &str) -> String {
    if text.is_empty() {
        otherwise.to_owned()
    } else {
        text
    }
}

impl InboundForm {
    /// The enum's name or number.
    fn ignored(&self) -> bool {
        self.state == "Ignored" || self.state == 2
    }

    fn read(self, own: &str) -> Inbound {
        let address = or_else(self.address, own);
        Inbound {
            named: !self.name.is_empty(),
            section: or_else(self.name, &self.port.to_string()),
            workload_address: or_else(self.service_address, &address),
            workload_port: if self.service_port == 0 {
                self.port
            } else {
                self.service_port
            },
            protocol: Protocol::parse(self.protocol.as_deref()),
            port: self.port,
            address,
        }
    }
}

#[derive(Deserialize)]
struct ListenerForm {
    #[serde(default, rename = "type")]
    kind: Value,
    #[serde(default)]
    name: String,
    #[serde(default)]
    address: String,
    port: u16,
}

impl ListenerForm {
    fn read(self, own: &str) -> Option<ZoneListener> {
        let role = if self.kind == "ZoneIngress" || self.kind == 1 {
            ZoneRole::Ingress
        } else if self.kind == "ZoneEgress" || self.kind == 2 {
            ZoneRole::Egress
        } else {
            return None;
        };
        Some(ZoneListener {
            role,
            section: or_else(self.name, &self.port.to_string()),
            address: or_else(self.address, own),
            port: self.port,
        })
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", default)]
#[derive(Default)]
struct RedirectForm {
    redirect_port_inbound: u16,
    redirect_port_outbound: u16,
    ip_family_mode: Value,
}

impl RedirectForm {
    fn read(self) -> Option<Redirect> {
        (self.redirect_port_outbound != 0).then(|| Redirect {
            inbound_port: self.redirect_port_inbound,
            outbound_port: self.redirect_port_outbound,
            ipv6: self.ip_family_mode != "IPv4" && self.ip_family_mode != 2,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(networking: &str) -> Dataplane {
        let spec = Json::parse(&format!(r#"{{"networking":{networking}}}"#)).unwrap();
        Dataplane::from_spec(&spec, &Labels::new()).unwrap()
    }

    #[test]
    fn an_inbound_falls_back_to_the_proxys_address_and_port() {
        let read = read(
            r#"{"address":"10.0.0.1","inbound":[{"port":80,"servicePort":8080,"protocol":"http"},{"port":81,"state":"Ignored"}]}"#,
        );
        let [inbound] = read.inbounds.as_slice() else {
            panic!("one is ignored")
        };
        assert_eq!(
            (
                &*inbound.section,
                &*inbound.workload_address,
                inbound.workload_port
            ),
            ("80", "10.0.0.1", 8080)
        );
    }

    #[test]
    fn a_listener_without_a_known_type_is_no_zone_listener() {
        let read = read(
            r#"{"address":"10.0.0.1","listeners":[{"type":"ZoneIngress","port":1},{"port":2},{"type":2,"port":3}]}"#,
        );
        let roles: Vec<_> = read
            .zone_listeners
            .iter()
            .map(|l| (l.role, l.port))
            .collect();
        assert_eq!(roles, [(ZoneRole::Ingress, 1), (ZoneRole::Egress, 3)]);
    }
}
