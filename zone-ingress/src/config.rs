//! What the operator says, and what it means.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::Duration;

use clap::Parser;
use http::Uri;
use serde_json::{Value, json};
use zonal_process::config::{Problems, parse_duration};
use zonal_process::logs::Format;
use zonal_process::tls::Trust;

use crate::ads::ControlPlane;
use crate::feed::Dialect;
use crate::hello::{HANDSHAKE_BYTES_CEILING, HANDSHAKE_BYTES_MAX};
use crate::limits::Limits;
use crate::register::Registration;

/// Lets other zones' TLS traffic into this zone and routes it by server name.
#[derive(Clone, Debug, Parser)]
#[command(name = "zone-ingress", version)]
pub struct Args {
    /// The zone control plane, e.g. `https://localhost:5678`.
    #[arg(
        long,
        env = "ZONAL_CP_ADDRESS",
        value_name = "URL",
        default_value = "https://localhost:5678"
    )]
    pub cp_address: String,
    /// What the control plane speaks.
    #[arg(
        long,
        env = "ZONAL_INGRESS_DIALECT",
        value_enum,
        default_value = "zonal"
    )]
    pub dialect: Dialect,
    /// Authorities (PEM) that vouch for the control plane.
    #[arg(long, env = "ZONAL_CA_CERT_FILE", value_name = "FILE", conflicts_with_all = ["cp_fingerprint", "cp_insecure"])]
    pub ca_cert_file: Option<PathBuf>,
    /// The control plane's own certificate, e.g. `sha256:…` as it prints it at its start.
    #[arg(
        long,
        env = "ZONAL_CP_FINGERPRINT",
        value_name = "SHA256",
        conflicts_with = "cp_insecure"
    )]
    pub cp_fingerprint: Option<String>,
    /// Believes any control plane. For trying things out only.
    #[arg(long, env = "ZONAL_CP_INSECURE")]
    pub cp_insecure: bool,
    /// A dataplane token for this ingress.
    #[arg(long, env = "ZONAL_DATAPLANE_TOKEN_FILE", value_name = "FILE")]
    pub dataplane_token_file: Option<PathBuf>,
    /// The Dataplane of this ingress (YAML or JSON) with a listener of type `ZoneIngress`.
    #[arg(long, env = "ZONAL_DATAPLANE_FILE", value_name = "FILE")]
    pub dataplane_file: PathBuf,
    /// The mesh, in place of the Dataplane's own.
    #[arg(long, env = "ZONAL_MESH")]
    pub mesh: Option<String>,
    /// The name, in place of the Dataplane's own.
    #[arg(long, env = "ZONAL_NAME")]
    pub name: Option<String>,
    /// Where callers are taken, in place of the Dataplane's listeners; may be given several times.
    #[arg(
        long,
        env = "ZONAL_INGRESS_LISTEN",
        value_name = "ADDRESS:PORT",
        value_delimiter = ','
    )]
    pub listen: Vec<SocketAddr>,
    /// The admin page.
    #[arg(
        long,
        env = "ZONAL_INGRESS_ADMIN_ADDRESS",
        value_name = "ADDRESS:PORT",
        default_value = "127.0.0.1:9905"
    )]
    pub admin_address: SocketAddr,
    /// Where the state file is kept.
    #[arg(
        long,
        env = "ZONAL_WORK_DIR",
        value_name = "FOLDER",
        default_value = "."
    )]
    pub work_dir: PathBuf,
    /// The state file, in place of `<work-dir>/zone-ingress.<mesh>.<name>.json`.
    #[arg(long, env = "ZONAL_INGRESS_STATE_FILE", value_name = "FILE")]
    pub state_file: Option<PathBuf>,
    /// How long open connections may go on after SIGTERM.
    #[arg(long, env = "ZONAL_DRAIN_TIME", value_name = "DURATION", default_value = "30s", value_parser = parse_duration)]
    pub drain_time: Duration,
    /// Listeners and accept loops per address; 0 takes one per core.
    #[arg(long, env = "ZONAL_INGRESS_WORKERS", default_value_t = 0)]
    pub workers: usize,
    /// `info`, `debug`, or a filter such as `info,access=debug`. `ZONAL_LOG` wins.
    #[arg(long, env = "ZONAL_INGRESS_LOG", default_value = "info")]
    pub log: String,
    /// Writes log lines as JSON.
    #[arg(long, env = "ZONAL_INGRESS_LOG_JSON")]
    pub log_json: bool,
    #[command(flatten)]
    pub limits: LimitArgs,
}

/// The limits of the data path.
#[derive(Clone, Debug, clap::Args)]
#[command(next_help_heading = "Limits")]
pub struct LimitArgs {
    /// From accepting a caller to its complete hello.
    #[arg(long, env = "ZONAL_INGRESS_HELLO_TIMEOUT", value_name = "DURATION", default_value = "10s", value_parser = parse_duration)]
    pub hello_timeout: Duration,
    /// The largest hello in bytes, at most 65536.
    #[arg(long, env = "ZONAL_INGRESS_HELLO_BYTES_MAX", default_value_t = HANDSHAKE_BYTES_MAX)]
    pub hello_bytes_max: usize,
    /// Unfinished hellos; the default is a tenth of the connections that fit.
    #[arg(long, env = "ZONAL_INGRESS_HELLOS_MAX")]
    pub hellos_max: Option<usize>,
    /// Unfinished hellos from one address.
    #[arg(
        long,
        env = "ZONAL_INGRESS_HELLOS_PER_SOURCE_MAX",
        default_value_t = 64
    )]
    pub hellos_per_source_max: usize,
    /// Until an endpoint takes a connection; then another one is tried once.
    #[arg(long, env = "ZONAL_INGRESS_CONNECT_TIMEOUT", value_name = "DURATION", default_value = "5s", value_parser = parse_duration)]
    pub connect_timeout: Duration,
    /// Without a byte in either direction.
    #[arg(long, env = "ZONAL_INGRESS_IDLE_TIMEOUT", value_name = "DURATION", default_value = "1h", value_parser = parse_duration)]
    pub idle_timeout: Duration,
    /// Without a byte, after one side has finished.
    #[arg(long, env = "ZONAL_INGRESS_HALF_OPEN_TIMEOUT", value_name = "DURATION", default_value = "5m", value_parser = parse_duration)]
    pub half_open_timeout: Duration,
    /// Until a peer counts as gone that confirms, or takes, nothing; 0s for the kernel's default.
    #[arg(long, env = "ZONAL_INGRESS_USER_TIMEOUT", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub user_timeout: Duration,
    /// Silence after which a peer is asked whether it is still there.
    #[arg(long, env = "ZONAL_INGRESS_KEEP_ALIVE", value_name = "DURATION", default_value = "60s", value_parser = parse_duration)]
    pub keep_alive: Duration,
    /// Connections, hellos included; the default is what 90 % of the descriptor limit allows.
    #[arg(long, env = "ZONAL_INGRESS_CONNECTIONS_MAX")]
    pub connections_max: Option<usize>,
    /// One buffer; a direction holds one while bytes are on their way.
    #[arg(long, env = "ZONAL_INGRESS_BUFFER_BYTES", default_value_t = 65_536)]
    pub buffer_bytes: usize,
}

/// What the process runs with: complete and possible.
#[derive(Clone, Debug)]
pub struct Config {
    pub control_plane: ControlPlane,
    pub dialect: Dialect,
    pub registration: Registration,
    pub listen: Vec<SocketAddr>,
    pub admin_address: SocketAddr,
    pub state_file: PathBuf,
    pub drain: Duration,
    /// Accept loops per address.
    pub workers: usize,
    pub limits: Limits,
}

impl Config {
    /// Checks the arguments and reads the Dataplane.
    ///
    /// # Errors
    /// Every problem at once, so that an operator needs one more start and not five.
    pub fn from_args(args: Args) -> Result<Self, Problems> {
        let mut problems = Problems::default();
        let address = cp_address(&args.cp_address, &mut problems);
        let trust = trust(&args, &mut problems);
        let registration = registration(&args, &mut problems);
        let limits = limits(&args.limits, &mut problems);
        if let Some(file) = &args.dataplane_token_file
            && let Err(error) = std::fs::metadata(file)
        {
            problems.add(
                "--dataplane-token-file",
                format!("cannot read `{}`: {error}", file.display()),
            );
        }
        if let Err(error) = std::fs::create_dir_all(&args.work_dir) {
            problems.add(
                "--work-dir",
                format!("cannot make `{}`: {error}", args.work_dir.display()),
            );
        }
        let (Some(address), Some(registration), true) =
            (address, registration, problems.is_empty())
        else {
            return Err(problems);
        };
        let listen = match args.listen.is_empty() {
            true => registration
                .listeners
                .iter()
                .map(|(_, address)| *address)
                .collect(),
            false => args.listen,
        };
        let own_file = || {
            args.work_dir
                .join(format!("zone-ingress.{}.json", registration.node_id()))
        };
        let cores = || std::thread::available_parallelism().map_or(1, usize::from);
        Ok(Self {
            control_plane: ControlPlane {
                address,
                trust,
                token_file: args.dataplane_token_file,
            },
            dialect: args.dialect,
            state_file: args.state_file.unwrap_or_else(own_file),
            registration,
            listen,
            admin_address: args.admin_address,
            drain: args.drain_time,
            workers: if args.workers == 0 {
                cores()
            } else {
                args.workers
            },
            limits,
        })
    }

    /// What the admin page and the first log line show.
    pub fn page(&self) -> Value {
        json!({
            "controlPlane": {
                "address": self.control_plane.address.to_string(),
                "dialect": self.dialect,
                "trust": match &self.control_plane.trust {
                    Trust::Authorities(_) => "authorities".to_owned(),
                    Trust::AuthorityFile(file) => format!("authorities in {}", file.display()),
                    Trust::Pinned(pin) => pin.to_string(),
                    Trust::Anyone => "anyone".to_owned(),
                },
                "tokenFile": self.control_plane.token_file,
            },
            "mesh": self.registration.mesh,
            "name": self.registration.name,
            "dataplane": self.registration.resource,
            "listen": self.listen,
            "adminAddress": self.admin_address,
            "stateFile": self.state_file,
            "drainSeconds": self.drain.as_secs_f64(),
            "workers": self.workers,
            "limits": self.limits,
        })
    }
}

impl Args {
    /// How log lines look.
    pub fn log_format(&self) -> Format {
        if self.log_json {
            Format::Json
        } else {
            Format::Text
        }
    }
}

fn cp_address(text: &str, problems: &mut Problems) -> Option<Uri> {
    let address: Uri = problems.parsed("--cp-address", text)?;
    let whole = matches!(address.scheme_str(), Some("https" | "http"))
        && address.host().is_some()
        && address.port_u16().is_some();
    if !whole {
        problems.add(
            "--cp-address",
            format!("`{text}`: write e.g. `https://localhost:5678`"),
        );
        return None;
    }
    Some(address)
}

fn trust(args: &Args, problems: &mut Problems) -> Trust {
    if let Some(file) = &args.ca_cert_file {
        return Trust::AuthorityFile(file.clone());
    }
    if let Some(text) = &args.cp_fingerprint {
        return problems
            .parsed("--cp-fingerprint", text)
            .map_or(Trust::Anyone, Trust::Pinned);
    }
    if !args.cp_insecure && !args.cp_address.starts_with("http://") {
        problems.add(
            "--ca-cert-file",
            "is required: how else is the control plane known? (or `--cp-fingerprint`, `--cp-insecure`)",
        );
    }
    Trust::Anyone
}

fn registration(args: &Args, problems: &mut Problems) -> Option<Registration> {
    let file = args.dataplane_file.display();
    let text = match std::fs::read_to_string(&args.dataplane_file) {
        Ok(text) => text,
        Err(error) => {
            problems.add("--dataplane-file", format!("cannot read `{file}`: {error}"));
            return None;
        }
    };
    match Registration::parse(&text, args.mesh.as_deref(), args.name.as_deref()) {
        Ok(registration) => Some(registration),
        Err(Problems(found)) => {
            for problem in found {
                problems.add(format!("{file}: {}", problem.place), problem.message);
            }
            None
        }
    }
}

fn limits(args: &LimitArgs, problems: &mut Problems) -> Limits {
    for (flag, wait) in [
        ("--hello-timeout", args.hello_timeout),
        ("--connect-timeout", args.connect_timeout),
        ("--idle-timeout", args.idle_timeout),
        ("--half-open-timeout", args.half_open_timeout),
        ("--keep-alive", args.keep_alive),
    ] {
        if wait.is_zero() {
            problems.add(flag, "has to be longer than nothing");
        }
    }
    if !(512..=HANDSHAKE_BYTES_CEILING).contains(&args.hello_bytes_max) {
        problems.add("--hello-bytes-max", "has to be from 512 to 65536");
    }
    if !(1024..=16 << 20).contains(&args.buffer_bytes) {
        problems.add("--buffer-bytes", "has to be from 1024 to 16777216");
    }
    for (flag, count) in [
        ("--hellos-max", args.hellos_max),
        ("--hellos-per-source-max", Some(args.hellos_per_source_max)),
        ("--connections-max", args.connections_max),
    ] {
        if count == Some(0) {
            problems.add(flag, "has to be at least 1");
        }
    }
    Limits {
        hello_timeout: args.hello_timeout,
        hello_bytes_max: args.hello_bytes_max,
        hellos_max: args.hellos_max,
        hellos_per_source_max: args.hellos_per_source_max,
        connect_timeout: args.connect_timeout,
        idle_timeout: args.idle_timeout,
        half_open_timeout: args.half_open_timeout,
        user_timeout: args.user_timeout,
        keep_alive: args.keep_alive,
        connections_max: args.connections_max,
        buffer_bytes: args.buffer_bytes,
    }
}
