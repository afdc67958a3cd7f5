//! The Dataplane file: what this sidecar stands for.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use serde_json::{Value, json};
use zonal_model::yaml;
use zonal_process::config::parse_duration;

/// A Dataplane as the sidecar needs it.
#[derive(Clone, Debug, PartialEq)]
pub struct Dataplane {
    pub mesh: String,
    pub name: String,
    pub inbounds: Vec<Inbound>,
    /// The whole resource as JSON text, for registration.
    pub text: String,
}

/// One inbound: what the proxy listens on, and the workload behind it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Inbound {
    /// The proxy's port, by which the control plane knows the inbound.
    pub port: u16,
    /// Where the workload listens; `None` when there is nothing to probe.
    pub workload: Option<SocketAddr>,
    pub check: Check,
}

/// How a workload is asked whether it serves.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Check {
    /// `None` opens a TCP connection; a path asks for it over HTTP.
    pub http_path: Option<String>,
    /// `None` takes the sidecar's setting.
    pub interval: Option<Duration>,
    pub timeout: Duration,
    /// Failures in a row that make it not ready. A refused connection needs only one.
    pub unhealthy_threshold: u32,
    /// Successes in a row that make it ready.
    pub healthy_threshold: u32,
}

impl Default for Check {
    fn default() -> Self {
        Self {
            http_path: None,
            interval: None,
            timeout: Duration::from_secs(2),
            unhealthy_threshold: 1,
            healthy_threshold: 1,
        }
    }
}

/// Why a Dataplane file cannot be used.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DataplaneError {
    #[error("not YAML: {0}")]
    Yaml(yaml::YamlError),
    #[error("it has {0} documents; exactly one Dataplane is expected")]
    Documents(usize),
    #[error("`type` is `{0}`, expected `Dataplane`")]
    Type(String),
    #[error("`{0}` is missing")]
    Missing(&'static str),
    #[error("`{path}` is `{got}`: {want}")]
    Wrong {
        path: String,
        got: String,
        want: &'static str,
    },
}

impl Dataplane {
    /// Reads the file's text; `mesh` and `name` fill in what it leaves out.
    ///
    /// # Errors
    /// When it is not one usable Dataplane.
    pub fn parse(
        text: &str,
        mesh: Option<&str>,
        name: Option<&str>,
    ) -> Result<Self, DataplaneError> {
        let mut documents = yaml::documents(text).map_err(DataplaneError::Yaml)?;
        let count = documents.len();
        let (Some(mut document), 1) = (documents.pop(), count) else {
            return Err(DataplaneError::Documents(count));
        };
        let kind = document
            .get("type")
            .and_then(Value::as_str)
            .unwrap_or("Dataplane")
            .to_owned();
        if kind != "Dataplane" {
            return Err(DataplaneError::Type(kind));
        }
        let Some(members) = document.as_object_mut() else {
            return Err(DataplaneError::Missing("type"));
        };
        members.entry("type").or_insert_with(|| json!("Dataplane"));
        let mut take = |key: &'static str, fallback: Option<&str>| {
            let written = members
                .get(key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty());
            let value = written.or(fallback).map(str::to_owned);
            let value = value.ok_or(DataplaneError::Missing(key))?;
            members.insert(key.to_owned(), json!(value));
            Ok(value)
        };
        let mesh = take("mesh", Some(mesh.unwrap_or("default")))?;
        let name = take("name", name)?;
        let inbounds = inbounds(&document)?;
        Ok(Self {
            mesh,
            name,
            inbounds,
            text: document.to_string(),
        })
    }
}

fn inbounds(document: &Value) -> Result<Vec<Inbound>, DataplaneError> {
    let networking = document
        .pointer("/networking")
        .ok_or(DataplaneError::Missing("networking"))?;
    let address = networking.get("address").and_then(Value::as_str);
    let list = networking
        .get("inbound")
        .and_then(Value::as_array)
        .map(Vec::as_slice);
    list.unwrap_or_default()
        .iter()
        .enumerate()
        .map(|(index, inbound)| one_inbound(index, inbound, address))
        .collect()
}

/// The port of an inbound that nothing listens behind, as Kubernetes pods without a service have it.
const SERVICELESS_PORT: u16 = 49151;

fn one_inbound(
    index: usize,
    inbound: &Value,
    networking: Option<&str>,
) -> Result<Inbound, DataplaneError> {
    let port_of = |key: &'static str| match inbound.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_u64()
            .and_then(|port| u16::try_from(port).ok())
            .map(|port| Some(port).filter(|port| *port != 0))
            .ok_or_else(|| DataplaneError::Wrong {
                path: format!("networking.inbound[{index}].{key}"),
                got: value.to_string(),
                want: "a port is a number from 1 to 65535",
            }),
    };
    let port = port_of("port")?.ok_or_else(|| DataplaneError::Wrong {
        path: format!("networking.inbound[{index}].port"),
        got: "nothing".to_owned(),
        want: "every inbound has a port",
    })?;
    let service_port = port_of("servicePort")?.unwrap_or(port);
    let address = ["serviceAddress", "address"]
        .iter()
        .find_map(|key| {
            inbound
                .get(*key)
                .and_then(Value::as_str)
                .filter(|text| !text.is_empty())
        })
        .or(networking);
    // A name instead of an address is resolved by the control plane; here it is this machine.
    let address: IpAddr = address
        .and_then(|text| text.parse().ok())
        .unwrap_or(IpAddr::V4(Ipv4Addr::LOCALHOST));
    let ignored = inbound.get("state").and_then(Value::as_str) == Some("Ignored");
    let workload =
        (port != SERVICELESS_PORT && !ignored).then(|| SocketAddr::new(address, service_port));
    Ok(Inbound {
        port,
        workload,
        check: check(index, inbound.get("serviceProbe"))?,
    })
}

fn check(index: usize, probe: Option<&Value>) -> Result<Check, DataplaneError> {
    let defaults = Check::default();
    let Some(probe) = probe else {
        return Ok(defaults);
    };
    let duration = |key: &'static str| match probe.get(key) {
        None | Some(Value::Null) => Ok(None),
        Some(value) => value
            .as_str()
            .and_then(|text| parse_duration(text).ok())
            .filter(|duration| !duration.is_zero())
            .map(Some)
            .ok_or_else(|| DataplaneError::Wrong {
                path: format!("networking.inbound[{index}].serviceProbe.{key}"),
                got: value.to_string(),
                want: "must have a positive value, e.g. `1s`",
            }),
    };
    let threshold = |key: &str, default: u32| {
        let count = probe
            .get(key)
            .and_then(Value::as_u64)
            .and_then(|n| u32::try_from(n).ok());
        count.filter(|count| *count > 0).unwrap_or(default)
    };
    let http = probe.get("http").filter(|http| http.is_object());
    let path = |http: &Value| {
        http.get("path")
            .and_then(Value::as_str)
            .unwrap_or("/")
            .to_owned()
    };
    Ok(Check {
        http_path: http.map(path),
        interval: duration("interval")?,
        timeout: duration("timeout")?.unwrap_or(defaults.timeout),
        unhealthy_threshold: threshold("unhealthyThreshold", defaults.unhealthy_threshold),
        healthy_threshold: threshold("healthyThreshold", defaults.healthy_threshold),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = "
type: Dataplane
mesh: default
name: web-1
networking:
  address: 10.0.0.7
  inbound:
  - port: 8080
    serviceAddress: 127.0.0.1
    servicePort: 80
  - {port: 9090, serviceProbe: {interval: 5s, timeout: 1s, unhealthyThreshold: 3, http: {path: /healthz}}}
  - {port: 49151}
";

    #[test]
    fn dataplane_names_its_workloads_and_how_to_probe_them() {
        let dataplane = Dataplane::parse(FILE, None, None).unwrap();
        assert_eq!(
            (dataplane.mesh.as_str(), dataplane.name.as_str()),
            ("default", "web-1")
        );
        let [web, admin, none] = dataplane.inbounds.try_into().unwrap();
        assert_eq!(web.workload, Some("127.0.0.1:80".parse().unwrap()));
        assert_eq!((web.port, web.check), (8080, Check::default()));
        assert_eq!(admin.workload, Some("10.0.0.7:9090".parse().unwrap()));
        assert_eq!(admin.check.http_path.as_deref(), Some("/healthz"));
        assert_eq!(admin.check.interval, Some(Duration::from_secs(5)));
        assert_eq!(
            (
                admin.check.unhealthy_threshold,
                admin.check.healthy_threshold
            ),
            (3, 1)
        );
        assert_eq!(none.workload, None);
    }

    #[test]
    fn flags_fill_in_what_the_file_leaves_out() {
        let text = "networking: {address: 10.0.0.7}";
        let dataplane = Dataplane::parse(text, Some("m"), Some("n")).unwrap();
        assert_eq!(
            (dataplane.mesh.as_str(), dataplane.name.as_str()),
            ("m", "n")
        );
        let again: Value = serde_json::from_str(&dataplane.text).unwrap();
        assert_eq!(
            again,
            json!({"type": "Dataplane", "mesh": "m", "name": "n", "networking": {"address": "10.0.0.7"}})
        );
    }

    #[track_caller]
    fn refused(text: &str, want: &str) {
        assert_eq!(
            Dataplane::parse(text, None, Some("n"))
                .unwrap_err()
                .to_string(),
            want
        );
    }

    #[test]
    fn unusable_files_are_refused_with_the_place() {
        refused("", "it has 0 documents; exactly one Dataplane is expected");
        refused(
            "type: Mesh\nname: a",
            "`type` is `Mesh`, expected `Dataplane`",
        );
        refused("name: a", "`networking` is missing");
        refused(
            "networking: {inbound: [{port: 99999}]}",
            "`networking.inbound[0].port` is `99999`: a port is a number from 1 to 65535",
        );
        refused(
            "networking: {inbound: [{port: 1, serviceProbe: {interval: 0s}}]}",
            "`networking.inbound[0].serviceProbe.interval` is `\"0s\"`: must have a positive value, e.g. `1s`",
        );
        assert_eq!(
            Dataplane::parse("networking: {}", None, None)
                .unwrap_err()
                .to_string(),
            "`name` is missing"
        );
    }
}
