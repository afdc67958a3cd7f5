//! Command line: flags win over the environment, which wins over the file.

use std::path::PathBuf;

use clap::Parser;
use zonal_process::config::{Loaded, Loader, Problems, Shape, Variable};

use crate::config::RawConfig;

/// Runs one Envoy beside one workload.
#[derive(Debug, Default, Parser)]
#[command(name = "sidecar", version, about)]
pub struct Args {
    /// Configuration file (YAML).
    #[arg(long, env = "ZONAL_SIDECAR_CONFIG")]
    pub config: Option<PathBuf>,
    /// Where the zone control plane serves proxies, e.g. `https://zone-cp:5678`.
    #[arg(long)]
    pub cp_address: Option<String>,
    /// File with the authorities that vouch for the control plane (PEM).
    #[arg(long)]
    pub ca_cert_file: Option<String>,
    /// Fingerprint of the control plane's certificate, as it prints it at start.
    #[arg(long)]
    pub ca_fingerprint: Option<String>,
    /// Trusts any control plane. For experiments only.
    #[arg(long)]
    pub skip_verify: bool,
    /// The mesh, when the Dataplane file does not name it.
    #[arg(long, short)]
    pub mesh: Option<String>,
    /// The proxy's name, when the Dataplane file does not name it.
    #[arg(long)]
    pub name: Option<String>,
    /// File with the dataplane token. Read again for every request, so it may be renewed.
    #[arg(long)]
    pub dataplane_token_file: Option<String>,
    /// The dataplane token itself. Prefer the file: arguments are visible to others.
    #[arg(long)]
    pub dataplane_token: Option<String>,
    /// File with the Dataplane (YAML), registered at start.
    #[arg(long, short)]
    pub dataplane_file: Option<String>,
    /// The Dataplane itself.
    #[arg(long)]
    pub dataplane: Option<String>,
    /// A value for `{{ NAME }}` in the Dataplane file.
    #[arg(long, short = 'v', value_name = "NAME=VALUE")]
    pub dataplane_var: Vec<String>,
    /// The Envoy to run.
    #[arg(long)]
    pub binary_path: Option<String>,
    /// Where the bootstrap and sockets are kept.
    #[arg(long)]
    pub work_dir: Option<String>,
    /// Envoy's worker threads.
    #[arg(long)]
    pub concurrency: Option<u32>,
    /// Envoy's log level; follows the sidecar's when absent.
    #[arg(long)]
    pub envoy_log_level: Option<String>,
    /// Envoy's log levels by component, e.g. `upstream:debug`.
    #[arg(long)]
    pub envoy_component_log_level: Option<String>,
    /// How long connections may go on after SIGTERM.
    #[arg(long)]
    pub drain_time: Option<String>,
    /// Port of `/ready` and `/status`; 0 turns them off.
    #[arg(long)]
    pub readiness_port: Option<u16>,
    /// Address and port of `/ready` and `/status`.
    #[arg(long)]
    pub readiness_address: Option<String>,
    /// Envoy's admin port when it is not a socket in the work folder.
    #[arg(long)]
    pub admin_port: Option<u16>,
    /// How often the workload is probed; 0s turns probing off.
    #[arg(long)]
    pub probe_interval: Option<String>,
    /// Binds outbounds to real ports instead of redirecting traffic.
    #[arg(long)]
    pub bind_outbounds: bool,
    /// The sidecar's log filter, e.g. `info` or `debug`.
    #[arg(long)]
    pub log_level: Option<String>,
    /// `text` or `json`.
    #[arg(long)]
    pub log_format: Option<String>,
}

const fn text(path: &'static str, names: &'static [&'static str]) -> Variable {
    Variable {
        path,
        names,
        shape: Shape::Text,
    }
}

const fn number(path: &'static str, names: &'static [&'static str]) -> Variable {
    Variable {
        path,
        names,
        shape: Shape::Number,
    }
}

const fn truth(path: &'static str, names: &'static [&'static str]) -> Variable {
    Variable {
        path,
        names,
        shape: Shape::Bool,
    }
}

/// Environment variables; the second name of each is the one that Kuma's sidecar knows.
pub const VARIABLES: &[Variable] = &[
    text(
        "controlPlane.url",
        &["ZONAL_CP_ADDRESS", "KUMA_CONTROL_PLANE_URL"],
    ),
    text(
        "controlPlane.caCertFile",
        &["ZONAL_CA_CERT_FILE", "KUMA_CONTROL_PLANE_CA_CERT_FILE"],
    ),
    text(
        "controlPlane.caCert",
        &["ZONAL_CA_CERT", "KUMA_CONTROL_PLANE_CA_CERT"],
    ),
    text("controlPlane.caFingerprint", &["ZONAL_CA_FINGERPRINT"]),
    truth(
        "controlPlane.skipVerify",
        &["ZONAL_SKIP_VERIFY", "KUMA_CONTROL_PLANE_TLS_SKIP_VERIFY"],
    ),
    text("dataplane.mesh", &["ZONAL_MESH", "KUMA_DATAPLANE_MESH"]),
    text("dataplane.name", &["ZONAL_NAME", "KUMA_DATAPLANE_NAME"]),
    text(
        "dataplane.resource",
        &["ZONAL_DATAPLANE", "KUMA_DATAPLANE_RUNTIME_RESOURCE"],
    ),
    text(
        "dataplane.resourcePath",
        &[
            "ZONAL_DATAPLANE_FILE",
            "KUMA_DATAPLANE_RUNTIME_RESOURCE_PATH",
        ],
    ),
    text(
        "dataplane.tokenPath",
        &["ZONAL_TOKEN_FILE", "KUMA_DATAPLANE_RUNTIME_TOKEN_PATH"],
    ),
    text(
        "dataplane.token",
        &["ZONAL_TOKEN", "KUMA_DATAPLANE_RUNTIME_TOKEN"],
    ),
    text(
        "dataplane.drainTime",
        &["ZONAL_DRAIN_TIME", "KUMA_DATAPLANE_DRAIN_TIME"],
    ),
    text(
        "envoy.binaryPath",
        &["ZONAL_ENVOY", "KUMA_DATAPLANE_RUNTIME_BINARY_PATH"],
    ),
    number(
        "envoy.concurrency",
        &[
            "ZONAL_ENVOY_CONCURRENCY",
            "KUMA_DATAPLANE_RUNTIME_CONCURRENCY",
        ],
    ),
    text(
        "envoy.logLevel",
        &[
            "ZONAL_ENVOY_LOG_LEVEL",
            "KUMA_DATAPLANE_RUNTIME_ENVOY_LOG_LEVEL",
        ],
    ),
    text(
        "envoy.componentLogLevel",
        &[
            "ZONAL_ENVOY_COMPONENT_LOG_LEVEL",
            "KUMA_DATAPLANE_RUNTIME_ENVOY_COMPONENT_LOG_LEVEL",
        ],
    ),
    text(
        "workDir",
        &["ZONAL_WORK_DIR", "KUMA_DATAPLANE_RUNTIME_WORK_DIR"],
    ),
    number(
        "readiness.port",
        &["ZONAL_READINESS_PORT", "KUMA_READINESS_PORT"],
    ),
    text("readiness.address", &["ZONAL_READINESS_ADDRESS"]),
    text("probe.interval", &["ZONAL_PROBE_INTERVAL"]),
    truth(
        "bindOutbounds",
        &[
            "ZONAL_BIND_OUTBOUNDS",
            "KUMA_DATAPLANE_RUNTIME_BIND_OUTBOUNDS",
        ],
    ),
    text("log.level", &["ZONAL_LOG_LEVEL"]),
    text("log.format", &["ZONAL_LOG_FORMAT"]),
];

impl Args {
    /// Merges the file, the environment and these flags.
    ///
    /// # Errors
    /// Every problem of every layer.
    pub fn load(
        &self,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Loaded<RawConfig>, Problems> {
        let given = |flag: bool| flag.then_some(true);
        let variables = (!self.dataplane_var.is_empty()).then_some(&self.dataplane_var);
        Loader::new()
            .file(self.config.as_deref())
            .environment(VARIABLES, environment)
            .flag("controlPlane.url", self.cp_address.as_ref())
            .flag("controlPlane.caCertFile", self.ca_cert_file.as_ref())
            .flag("controlPlane.caFingerprint", self.ca_fingerprint.as_ref())
            .flag("controlPlane.skipVerify", given(self.skip_verify))
            .flag("dataplane.mesh", self.mesh.as_ref())
            .flag("dataplane.name", self.name.as_ref())
            .flag("dataplane.tokenPath", self.dataplane_token_file.as_ref())
            .flag("dataplane.token", self.dataplane_token.as_ref())
            .flag("dataplane.resourcePath", self.dataplane_file.as_ref())
            .flag("dataplane.resource", self.dataplane.as_ref())
            .flag("dataplane.variables", variables)
            .flag("dataplane.drainTime", self.drain_time.as_ref())
            .flag("envoy.binaryPath", self.binary_path.as_ref())
            .flag("envoy.concurrency", self.concurrency)
            .flag("envoy.logLevel", self.envoy_log_level.as_ref())
            .flag(
                "envoy.componentLogLevel",
                self.envoy_component_log_level.as_ref(),
            )
            .flag("envoy.adminPort", self.admin_port)
            .flag("workDir", self.work_dir.as_ref())
            .flag("readiness.port", self.readiness_port)
            .flag("readiness.address", self.readiness_address.as_ref())
            .flag("probe.interval", self.probe_interval.as_ref())
            .flag("bindOutbounds", given(self.bind_outbounds))
            .flag("log.level", self.log_level.as_ref())
            .flag("log.format", self.log_format.as_ref())
            .load()
    }
}
