//! What the sidecar runs with.

use std::collections::BTreeMap;
use std::fmt;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use serde::{Deserialize, Serialize};
use zonal_process::config::{HumanDuration, Problems};
use zonal_process::logs::Format;
use zonal_process::tls::Trust;

use crate::dataplane::Dataplane;
use crate::template;

/// What the operator wrote: everything optional, nothing checked.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawConfig {
    pub control_plane: RawControlPlane,
    pub dataplane: RawDataplane,
    pub envoy: RawEnvoy,
    pub work_dir: Option<PathBuf>,
    pub readiness: RawReadiness,
    pub probe: RawProbe,
    pub bind_outbounds: Option<bool>,
    pub log: RawLog,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawControlPlane {
    pub url: Option<String>,
    pub ca_cert_file: Option<PathBuf>,
    pub ca_cert: Option<String>,
    pub ca_fingerprint: Option<String>,
    pub skip_verify: Option<bool>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawDataplane {
    pub mesh: Option<String>,
    pub name: Option<String>,
    pub resource: Option<String>,
    pub resource_path: Option<PathBuf>,
    /// `NAME=VALUE` each.
    pub variables: Option<Vec<String>>,
    pub token: Option<String>,
    pub token_path: Option<PathBuf>,
    pub drain_time: Option<HumanDuration>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawEnvoy {
    pub binary_path: Option<PathBuf>,
    pub concurrency: Option<u32>,
    pub log_level: Option<String>,
    pub component_log_level: Option<String>,
    pub admin_port: Option<u16>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawReadiness {
    pub port: Option<u16>,
    pub address: Option<String>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawProbe {
    pub interval: Option<HumanDuration>,
}

#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RawLog {
    pub level: Option<String>,
    pub format: Option<Format>,
}

/// What the process runs with: complete and possible.
#[derive(Clone, Debug)]
pub struct Config {
    /// Base address without a trailing slash, e.g. `https://zone-cp:5678`.
    pub control_plane: String,
    pub trust: Trust,
    pub token: Option<Token>,
    pub mesh: String,
    pub name: String,
    /// The Dataplane to register; `None` when it is kept at the control plane already.
    pub dataplane: Option<Dataplane>,
    pub envoy: Envoy,
    pub work_dir: PathBuf,
    /// Where `/ready` and `/status` are served.
    pub readiness: Option<SocketAddr>,
    pub drain: Duration,
    /// `None` turns probing off.
    pub probe_interval: Option<Duration>,
    pub bind_outbounds: bool,
}

/// How Envoy is run.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envoy {
    pub binary: PathBuf,
    pub concurrency: Option<u32>,
    pub log_level: String,
    pub component_log_level: Option<String>,
    /// Envoy's admin port, when the bootstrap's own is to be overruled.
    pub admin_port: Option<u16>,
}

/// Where the dataplane token comes from.
#[derive(Clone, PartialEq, Eq)]
pub enum Token {
    /// Read again for every request.
    File(PathBuf),
    Text(String),
}

impl fmt::Debug for Token {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::File(path) => f.debug_tuple("File").field(path).finish(),
            Self::Text(_) => f.write_str("<hidden>"),
        }
    }
}

impl Token {
    /// The token's text.
    ///
    /// # Errors
    /// When its file cannot be read.
    pub fn read(&self) -> std::io::Result<String> {
        match self {
            Self::File(path) => std::fs::read_to_string(path).map(|text| text.trim().to_owned()),
            Self::Text(text) => Ok(text.clone()),
        }
    }
}

const DRAIN_DEFAULT: Duration = Duration::from_secs(30);
/// Short, so that callers leave a dead workload after few failures; a probe is one local connect.
const PROBE_INTERVAL_DEFAULT: Duration = Duration::from_millis(250);
const READINESS_PORT_DEFAULT: u16 = 9902;

impl Config {
    /// Checks what was written. Every problem is reported at once.
    ///
    /// # Errors
    /// All problems.
    pub fn from_raw(raw: RawConfig) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let control_plane = control_plane(&raw.control_plane, &mut problems);
        let trust = trust(&raw.control_plane, &control_plane, &mut problems);
        let token = token(&raw.dataplane, &mut problems);
        let dataplane = dataplane(&raw.dataplane, &mut problems);
        let (mesh, name) = match &dataplane {
            Some(dataplane) => (dataplane.mesh.clone(), Some(dataplane.name.clone())),
            None => (
                raw.dataplane.mesh.unwrap_or_else(|| "default".to_owned()),
                raw.dataplane.name,
            ),
        };
        if name.is_none() && problems.is_empty() {
            problems.add(
                "dataplane.name",
                "is required without a Dataplane file (`--name`)",
            );
        }
        let name = name.unwrap_or_default();
        let work_dir = raw
            .work_dir
            .unwrap_or_else(|| std::env::temp_dir().join(format!("zonal-sidecar-{mesh}.{name}")));
        let readiness = readiness(&raw.readiness, &mut problems);
        let probe = raw
            .probe
            .interval
            .map_or(PROBE_INTERVAL_DEFAULT, |interval| interval.0);
        let envoy = Envoy {
            binary: raw
                .envoy
                .binary_path
                .unwrap_or_else(|| PathBuf::from("envoy")),
            concurrency: raw.envoy.concurrency,
            log_level: raw.envoy.log_level.unwrap_or_else(|| "warning".to_owned()),
            component_log_level: raw.envoy.component_log_level,
            admin_port: raw.envoy.admin_port,
        };
        problems.into_result()?;
        Ok(Self {
            control_plane,
            trust,
            token,
            mesh,
            name,
            dataplane,
            envoy,
            work_dir,
            readiness,
            drain: raw
                .dataplane
                .drain_time
                .map_or(DRAIN_DEFAULT, |drain| drain.0),
            probe_interval: Some(probe).filter(|interval| !interval.is_zero()),
            bind_outbounds: raw.bind_outbounds.unwrap_or(false),
        })
    }
}

fn control_plane(raw: &RawControlPlane, problems: &mut Problems) -> String {
    let url = raw
        .url
        .clone()
        .unwrap_or_else(|| "https://localhost:5678".to_owned());
    if !url.starts_with("https://") && !url.starts_with("http://") {
        problems.add(
            "controlPlane.url",
            format!("`{url}` is no address, e.g. `https://zone-cp:5678`"),
        );
    }
    url.trim_end_matches('/').to_owned()
}

fn trust(raw: &RawControlPlane, url: &str, problems: &mut Problems) -> Trust {
    if let Some(file) = &raw.ca_cert_file {
        if let Err(error) = std::fs::metadata(file) {
            problems.add(
                "controlPlane.caCertFile",
                format!("`{}`: {error}", file.display()),
            );
        }
        return Trust::AuthorityFile(file.clone());
    }
    if let Some(pem) = &raw.ca_cert {
        return Trust::Authorities(pem.clone());
    }
    if let Some(text) = &raw.ca_fingerprint {
        return match text.parse() {
            Ok(fingerprint) => Trust::Pinned(fingerprint),
            Err(error) => {
                problems.add("controlPlane.caFingerprint", error.to_string());
                Trust::Anyone
            }
        };
    }
    if url.starts_with("https://") && raw.skip_verify != Some(true) {
        problems.add(
            "controlPlane",
            "nothing says which control plane to trust: give `--ca-cert-file`, `--ca-fingerprint` (printed by the \
             control plane at start), or `--skip-verify` for an experiment",
        );
    }
    Trust::Anyone
}

fn token(raw: &RawDataplane, problems: &mut Problems) -> Option<Token> {
    let token = match (&raw.token_path, &raw.token) {
        (Some(path), _) => Token::File(path.clone()),
        (None, Some(text)) => Token::Text(text.trim().to_owned()),
        (None, None) => return None,
    };
    match token.read() {
        Ok(text) if text.split('.').count() == 3 => {}
        Ok(_) => problems.add(
            "dataplane.token",
            "is no token: it does not have three parts",
        ),
        Err(error) => problems.add("dataplane.tokenPath", format!("cannot read: {error}")),
    }
    Some(token)
}

fn dataplane(raw: &RawDataplane, problems: &mut Problems) -> Option<Dataplane> {
    let (place, text) = match (&raw.resource_path, &raw.resource) {
        (Some(path), _) => match std::fs::read_to_string(path) {
            Ok(text) => (path.display().to_string(), text),
            Err(error) => {
                problems.add(path.display().to_string(), format!("cannot read: {error}"));
                return None;
            }
        },
        (None, Some(text)) => ("dataplane.resource".to_owned(), text.clone()),
        (None, None) => return None,
    };
    let mut values = BTreeMap::new();
    for (key, value) in [("mesh", &raw.mesh), ("name", &raw.name)] {
        if let Some(value) = value {
            values.insert(key.to_owned(), value.clone());
        }
    }
    for variable in raw.variables.iter().flatten() {
        match variable.split_once('=') {
            Some((name, value)) => {
                values.insert(name.trim().to_owned(), value.to_owned());
            }
            None => problems.add(
                "dataplane.variables",
                format!("`{variable}` is not NAME=VALUE"),
            ),
        }
    }
    let parsed = template::render(&text, &values)
        .map_err(|error| error.to_string())
        .and_then(|text| {
            Dataplane::parse(&text, raw.mesh.as_deref(), raw.name.as_deref())
                .map_err(|error| error.to_string())
        });
    match parsed {
        Ok(dataplane) => {
            for (flag, asked, written) in [
                ("dataplane.mesh", &raw.mesh, &dataplane.mesh),
                ("dataplane.name", &raw.name, &dataplane.name),
            ] {
                if let Some(asked) = asked
                    && asked != written
                {
                    problems.add(
                        flag,
                        format!("is `{asked}`, yet `{place}` says `{written}`"),
                    );
                }
            }
            Some(dataplane)
        }
        Err(message) => {
            problems.add(place, message);
            None
        }
    }
}

fn readiness(raw: &RawReadiness, problems: &mut Problems) -> Option<SocketAddr> {
    let port = raw.port.unwrap_or(READINESS_PORT_DEFAULT);
    let Some(text) = &raw.address else {
        let loopback = SocketAddr::new(IpAddr::V4(Ipv4Addr::LOCALHOST), port);
        return (port != 0).then_some(loopback);
    };
    if let Ok(addr) = text.parse::<SocketAddr>() {
        return Some(addr);
    }
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(SocketAddr::new(ip, port));
    }
    problems.add(
        "readiness.address",
        format!("`{text}` is no address, e.g. `127.0.0.1:9902`"),
    );
    None
}

#[cfg(test)]
mod tests {
    use clap::Parser;

    use super::*;
    use crate::args::Args;

    fn load(flags: &[&str], environment: &[(&str, &str)]) -> Result<Config, String> {
        let args = Args::try_parse_from([&["sidecar"], flags].concat()).unwrap();
        let find = |name: &str| {
            environment
                .iter()
                .find(|(have, _)| *have == name)
                .map(|(_, value)| (*value).to_owned())
        };
        let loaded = args.load(&find).map_err(|problems| problems.to_string())?;
        assert_eq!(loaded.warnings, [], "every path of the table is known");
        Config::from_raw(loaded.raw).map_err(|problems| problems.to_string())
    }

    #[test]
    fn flags_win_over_the_environment() {
        let dir = tempfile::tempdir().unwrap();
        let file = dir.path().join("dp.yaml");
        std::fs::write(
            &file,
            "{type: Dataplane, mesh: m, name: '{{ name }}', networking: {address: 10.0.0.1}}",
        )
        .unwrap();
        let file = file.display().to_string();
        let config = load(
            &[
                "--skip-verify",
                "-d",
                &file,
                "--dataplane-var",
                "name=web",
                "--drain-time",
                "5s",
            ],
            &[
                ("KUMA_CONTROL_PLANE_URL", "https://cp:5678/"),
                ("KUMA_DATAPLANE_DRAIN_TIME", "9s"),
                ("ZONAL_ENVOY", "/opt/envoy"),
                ("KUMA_READINESS_PORT", "0"),
            ],
        )
        .unwrap();
        assert_eq!(config.control_plane, "https://cp:5678");
        assert_eq!((config.mesh.as_str(), config.name.as_str()), ("m", "web"));
        assert_eq!(config.drain, Duration::from_secs(5));
        assert_eq!(config.envoy.binary, PathBuf::from("/opt/envoy"));
        assert_eq!(config.readiness, None);
        assert_eq!(config.trust, Trust::Anyone);
    }

    #[test]
    fn every_problem_is_reported_at_once() {
        let problems = load(
            &[
                "--cp-address",
                "cp:5678",
                "--ca-fingerprint",
                "xyz",
                "--dataplane-token",
                "abc",
                "--dataplane",
                "networking: {address: '{{ ip }}'}",
                "--readiness-address",
                "nowhere",
            ],
            &[],
        )
        .unwrap_err();
        for part in [
            "5 problems",
            "`cp:5678` is no address",
            "`xyz` is not a fingerprint",
            "does not have three parts",
            "no value for `ip`",
            "`nowhere` is no address",
        ] {
            assert!(problems.contains(part), "{part} in {problems}");
        }
    }

    #[test]
    fn control_plane_must_be_trusted_explicitly() {
        let problems = load(&["--name", "web"], &[]).unwrap_err();
        assert!(
            problems.contains("nothing says which control plane to trust"),
            "{problems}"
        );
    }

    #[test]
    fn flag_and_file_may_not_disagree() {
        let problems = load(
            &[
                "--skip-verify",
                "--name",
                "a",
                "--dataplane",
                "{name: b, networking: {}}",
            ],
            &[],
        )
        .unwrap_err();
        assert!(
            problems.contains("is `a`, yet `dataplane.resource` says `b`"),
            "{problems}"
        );
    }
}
