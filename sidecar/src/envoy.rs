//! The Envoy process: its command line, its output, and its admin interface.

use std::ffi::OsString;
use std::net::SocketAddr;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::Duration;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncRead, BufReader};
use tokio::process::{Child, Command};
use tracing::{debug, error, info, warn};
use zonal_model::yaml;

use crate::config::Envoy;
use crate::control_plane::EnvoyVersion;

/// The hidden first argument that makes the sidecar's binary become Envoy. See [`become_envoy`].
pub const GUARD_ARGUMENT: &str = "__envoy";

/// Envoy's arguments.
pub fn arguments(envoy: &Envoy, bootstrap: &Path, drain: Duration) -> Vec<OsString> {
    let mut arguments: Vec<OsString> = vec!["--config-path".into(), bootstrap.into()];
    let mut add = |flag: &str, value: String| {
        arguments.push(flag.into());
        arguments.push(value.into());
    };
    add("--drain-time-s", drain.as_secs().max(1).to_string());
    add("--drain-strategy", "immediate".to_owned());
    add("--log-level", envoy.log_level.clone());
    add("--log-format", "%l|%n|%v".to_owned());
    if let Some(levels) = &envoy.component_log_level {
        add("--component-log-level", levels.clone());
    }
    if let Some(threads) = envoy.concurrency {
        add("--concurrency", threads.to_string());
    }
    // Restarts are new processes; several sidecars of one machine must not meet in shared memory.
    arguments.push("--disable-hot-restart".into());
    arguments
}

/// Why Envoy cannot be run.
#[derive(Debug, thiserror::Error)]
pub enum EnvoyError {
    #[error(
        "cannot run `{binary}`: {cause}; give the Envoy to run with `--binary-path` or `ZONAL_ENVOY`"
    )]
    Run {
        binary: String,
        cause: std::io::Error,
    },
    #[error("`{binary} --version` ended with {status}")]
    Version { binary: String, status: String },
}

const VERSION_TIMEOUT: Duration = Duration::from_secs(20);

/// Asks the binary for its version.
///
/// # Errors
/// When it cannot be run.
pub async fn version(binary: &Path) -> Result<EnvoyVersion, EnvoyError> {
    let run = |cause| EnvoyError::Run {
        binary: binary.display().to_string(),
        cause,
    };
    let mut command = Command::new(binary);
    command
        .arg("--version")
        .stdin(Stdio::null())
        .stderr(Stdio::null())
        .kill_on_drop(true);
    let output = tokio::time::timeout(VERSION_TIMEOUT, command.output())
        .await
        .map_err(|_elapsed| run(std::io::ErrorKind::TimedOut.into()))?
        .map_err(run)?;
    if !output.status.success() {
        let status = output.status.to_string();
        return Err(EnvoyError::Version {
            binary: binary.display().to_string(),
            status,
        });
    }
    Ok(parse_version(&String::from_utf8_lossy(&output.stdout)))
}

/// `envoy  version: <commit>/<version>/<status>/<type>/<TLS library>`.
fn parse_version(text: &str) -> EnvoyVersion {
    let build = text
        .lines()
        .find_map(|line| line.split_once("version:").map(|(_, build)| build.trim()))
        .unwrap_or_default();
    let version = build.split('/').nth(1).unwrap_or_default();
    EnvoyVersion {
        version: version.to_owned(),
        build: build.to_owned(),
        kuma_dp_compatible: true,
    }
}

/// A running Envoy.
#[derive(Debug)]
pub struct Process {
    child: Child,
    pid: Option<Pid>,
}

/// Starts Envoy. With a `guard` (the sidecar's own binary) it dies with the sidecar, however that ends.
///
/// # Errors
/// When the binary cannot be run.
pub fn start(
    guard: Option<&Path>,
    binary: &Path,
    arguments: &[OsString],
) -> Result<Process, EnvoyError> {
    let mut command = Command::new(guard.unwrap_or(binary));
    if guard.is_some() {
        command.arg(GUARD_ARGUMENT).arg(binary);
    }
    command
        .args(arguments)
        .stdin(Stdio::null())
        .stderr(Stdio::piped())
        // A Ctrl-C in the terminal is for the sidecar, which drains first.
        .process_group(0)
        .kill_on_drop(true);
    let child = command.spawn().map_err(|cause| EnvoyError::Run {
        binary: binary.display().to_string(),
        cause,
    })?;
    let pid = child
        .id()
        .and_then(|id| i32::try_from(id).ok())
        .and_then(Pid::from_raw);
    Ok(Process { child, pid })
}

/// Replaces this process by the program in `arguments`, after asking the kernel to kill it when its parent ends.
/// Returns only when that fails.
pub fn become_envoy(arguments: &[OsString]) -> std::io::Error {
    let Some((program, arguments)) = arguments.split_first() else {
        return std::io::ErrorKind::InvalidInput.into();
    };
    if let Err(error) = rustix::process::set_parent_process_death_signal(Some(Signal::KILL)) {
        return error.into();
    }
    std::process::Command::new(program).args(arguments).exec()
}

impl Process {
    /// The process id, for signals and people.
    pub const fn pid(&self) -> Option<Pid> {
        self.pid
    }

    /// Forwards Envoy's log and completes when it has ended, with how it ended.
    pub async fn wait(mut self) -> String {
        let stderr = self.child.stderr.take();
        let forward = async {
            if let Some(stderr) = stderr {
                forward_log(stderr).await;
            }
        };
        let mut forward = std::pin::pin!(forward);
        let mut is_forwarding = true;
        loop {
            tokio::select! {
                status = self.child.wait() => {
                    if is_forwarding {
                        // What was written last says most; a descendant may hold the pipe open for ever, though.
                        let _rest = tokio::time::timeout(LAST_WORDS, forward).await;
                    }
                    return match status {
                        Ok(status) => status.to_string(),
                        Err(error) => error.to_string(),
                    };
                }
                () = &mut forward, if is_forwarding => is_forwarding = false,
            }
        }
    }
}

const LAST_WORDS: Duration = Duration::from_millis(500);

/// Sends a signal; a process that is gone already is fine.
pub fn signal(pid: Option<Pid>, signal: Signal) {
    if let Some(pid) = pid
        && let Err(error) = kill_process(pid, signal)
    {
        debug!(%error, "Envoy could not be signalled");
    }
}

async fn forward_log(stderr: impl AsyncRead + Unpin) {
    let mut lines = BufReader::new(stderr).lines();
    let mut level = "info".to_owned();
    loop {
        match lines.next_line().await {
            Ok(Some(line)) => {
                let (said, text) = split_level(&line);
                // A line without a level continues the message before.
                if let Some(said) = said {
                    said.clone_into(&mut level);
                }
                match level.as_str() {
                    "critical" | "error" => error!(target: "envoy", "{text}"),
                    "warning" => warn!(target: "envoy", "{text}"),
                    "info" => info!(target: "envoy", "{text}"),
                    _ => debug!(target: "envoy", "{text}"),
                }
            }
            Ok(None) => return,
            Err(error) => {
                warn!(%error, "Envoy's log cannot be read any more");
                return;
            }
        }
    }
}

fn split_level(line: &str) -> (Option<&str>, &str) {
    match line.split_once('|') {
        Some((level @ ("trace" | "debug" | "info" | "warning" | "error" | "critical"), text)) => {
            (Some(level), text)
        }
        _ => (None, line),
    }
}

/// Where Envoy's admin interface is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AdminAddress {
    Socket(PathBuf),
    Tcp(SocketAddr),
}

/// A bootstrap, ready to be written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub text: Vec<u8>,
    pub admin: AdminAddress,
}

/// Reads where the admin interface is, and sees to it that there is one: at `admin_port` when that is given, else
/// where the control plane put it, else on a socket in the work folder.
///
/// # Errors
/// When the bootstrap is not one YAML document.
pub fn prepare_bootstrap(
    text: &[u8],
    admin_port: Option<u16>,
    work_dir: &Path,
) -> Result<Bootstrap, String> {
    let utf8 = std::str::from_utf8(text).map_err(|error| error.to_string())?;
    let mut documents = yaml::documents(utf8).map_err(|error| error.to_string())?;
    let (Some(Value::Object(mut bootstrap)), true) = (documents.pop(), documents.is_empty()) else {
        return Err("it is not one mapping".to_owned());
    };
    let written = bootstrap.get("admin").and_then(admin_address);
    if let (Some(admin), None) = (&written, admin_port) {
        return Ok(Bootstrap {
            text: text.to_vec(),
            admin: admin.clone(),
        });
    }
    let admin = match admin_port {
        Some(port) => AdminAddress::Tcp(SocketAddr::from(([127, 0, 0, 1], port))),
        None => AdminAddress::Socket(work_dir.join("kuma-envoy-admin.sock")),
    };
    let address = match &admin {
        AdminAddress::Socket(path) => json!({"pipe": {"path": path, "mode": 0o600}}),
        AdminAddress::Tcp(addr) => json!({
            "socketAddress": {"address": addr.ip().to_string(), "portValue": addr.port()},
        }),
    };
    bootstrap.insert("admin".to_owned(), json!({ "address": address }));
    // JSON is YAML, too.
    Ok(Bootstrap {
        text: Value::Object(bootstrap).to_string().into_bytes(),
        admin,
    })
}

fn admin_address(admin: &Value) -> Option<AdminAddress> {
    let address = admin.get("address")?;
    if let Some(path) = address.pointer("/pipe/path").and_then(Value::as_str) {
        return Some(AdminAddress::Socket(PathBuf::from(path)));
    }
    let socket = address
        .get("socketAddress")
        .or_else(|| address.get("socket_address"))?;
    let port = socket
        .get("portValue")
        .or_else(|| socket.get("port_value"))?
        .as_u64()?;
    let ip = socket.get("address")?.as_str()?.parse().ok()?;
    Some(AdminAddress::Tcp(SocketAddr::new(
        ip,
        u16::try_from(port).ok()?,
    )))
}

/// Talks to Envoy's admin interface.
#[derive(Clone, Debug)]
pub struct Admin {
    http: reqwest::Client,
    base: String,
}

const ADMIN_TIMEOUT: Duration = Duration::from_secs(2);

impl Admin {
    /// Prepares the connection.
    ///
    /// # Errors
    /// When no HTTP client can be made.
    pub fn connect(address: &AdminAddress) -> Result<Self, reqwest::Error> {
        let builder = reqwest::Client::builder().timeout(ADMIN_TIMEOUT).no_proxy();
        let (builder, base) = match address {
            AdminAddress::Socket(path) => (
                builder.unix_socket(path.as_path()),
                "http://localhost".to_owned(),
            ),
            AdminAddress::Tcp(addr) => (builder, format!("http://{addr}")),
        };
        Ok(Self {
            http: builder.build()?,
            base,
        })
    }

    /// Whether Envoy has its configuration and serves.
    pub async fn is_ready(&self) -> bool {
        match self.http.get(format!("{}/ready", self.base)).send().await {
            Ok(answer) => answer.status().is_success(),
            Err(_not_there) => false,
        }
    }

    /// Tells Envoy that it goes: health checks fail, connections are closed after their running request.
    pub async fn drain(&self) {
        for path in [
            "/healthcheck/fail",
            "/drain_listeners?inboundonly&graceful&skip_exit",
        ] {
            let sent = self.http.post(format!("{}{path}", self.base)).send().await;
            if let Err(error) = sent.and_then(reqwest::Response::error_for_status) {
                warn!(%error, path, "Envoy did not take the order to drain");
            }
        }
    }

    /// How many connections from callers are open; `None` when Envoy does not say.
    pub async fn connections(&self, inbound_ports: &[u16]) -> Option<u64> {
        let url = format!("{}/stats?filter=%5Elistener%5C.", self.base);
        let answer = self
            .http
            .get(url)
            .send()
            .await
            .ok()?
            .error_for_status()
            .ok()?;
        let text = answer.text().await.ok()?;
        Some(count_connections(&text, inbound_ports))
    }
}

/// Sums the open connections of listeners for inbounds: those named `self_inbound…`, and those named by an address
/// with one of the ports.
fn count_connections(stats: &str, inbound_ports: &[u16]) -> u64 {
    let suffixes: Vec<String> = inbound_ports
        .iter()
        .map(|port| format!("_{port}"))
        .collect();
    stats
        .lines()
        .filter_map(|line| {
            let (name, value) = line.split_once(": ")?;
            let listener = name
                .strip_prefix("listener.")?
                .strip_suffix(".downstream_cx_active")?;
            let is_worker = listener.contains(".worker_");
            let is_inbound = listener.contains("inbound")
                || suffixes
                    .iter()
                    .any(|suffix| listener.ends_with(suffix.as_str()));
            (is_inbound && !is_worker).then(|| value.trim().parse::<u64>().ok())?
        })
        .sum()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_line_names_everything_once() {
        let envoy = Envoy {
            binary: PathBuf::from("envoy"),
            concurrency: Some(2),
            log_level: "info".to_owned(),
            component_log_level: Some("upstream:debug".to_owned()),
            admin_port: None,
        };
        let line = arguments(
            &envoy,
            Path::new("/w/bootstrap.yaml"),
            Duration::from_secs(30),
        );
        let line: Vec<&str> = line
            .iter()
            .map(|argument| argument.to_str().unwrap())
            .collect();
        assert_eq!(
            line.join(" "),
            "--config-path /w/bootstrap.yaml --drain-time-s 30 --drain-strategy immediate --log-level info --log-format \
             %l|%n|%v --component-log-level upstream:debug --concurrency 2 --disable-hot-restart"
        );
    }

    #[test]
    fn version_is_read_from_the_binarys_answer() {
        let version =
            parse_version("\nenvoy  version: 1234abcd/1.40.0/Clean/RELEASE/BoringSSL\n\n");
        assert_eq!(version.version, "1.40.0");
        assert_eq!(version.build, "1234abcd/1.40.0/Clean/RELEASE/BoringSSL");
        assert_eq!(parse_version("something else").version, "");
    }

    #[track_caller]
    fn check_admin(text: &str, port: Option<u16>, want: &AdminAddress, unchanged: bool) {
        let prepared = prepare_bootstrap(text.as_bytes(), port, Path::new("/w")).unwrap();
        assert_eq!(&prepared.admin, want);
        assert_eq!(prepared.text == text.as_bytes(), unchanged);
        let again = prepare_bootstrap(&prepared.text, None, Path::new("/w")).unwrap();
        assert_eq!(&again.admin, want, "what was written says the same");
    }

    #[test]
    fn bootstrap_always_has_an_admin_interface() {
        let socket = |path: &str| AdminAddress::Socket(PathBuf::from(path));
        let tcp = |text: &str| AdminAddress::Tcp(text.parse().unwrap());
        let pipe = "admin: {address: {pipe: {path: /x/a.sock}}}\nnode: {id: a.b}\n";
        check_admin(pipe, None, &socket("/x/a.sock"), true);
        check_admin(pipe, Some(9901), &tcp("127.0.0.1:9901"), false);
        check_admin(
            "admin: {address: {socket_address: {address: 127.0.0.1, port_value: 9901}}}\n",
            None,
            &tcp("127.0.0.1:9901"),
            true,
        );
        check_admin(
            "node: {id: a.b}\n",
            None,
            &socket("/w/kuma-envoy-admin.sock"),
            false,
        );
        assert!(prepare_bootstrap(b"- 1\n", None, Path::new("/w")).is_err());
        assert!(prepare_bootstrap(b"\xff", None, Path::new("/w")).is_err());
    }

    #[test]
    fn only_callers_connections_are_counted() {
        let stats = "\
listener.self_inbound_dp_8080.downstream_cx_active: 2
listener.127.0.0.1_9090.downstream_cx_active: 3
listener.127.0.0.1_9090.worker_0.downstream_cx_active: 3
listener.127.0.0.1_10001.downstream_cx_active: 7
listener.admin.downstream_cx_active: 1
listener.self_inbound_dp_8080.downstream_cx_total: 9
";
        assert_eq!(count_connections(stats, &[9090]), 5);
        assert_eq!(count_connections("", &[9090]), 0);
    }

    #[test]
    fn log_lines_carry_their_level() {
        assert_eq!(
            split_level("warning|main|x|y"),
            (Some("warning"), "main|x|y")
        );
        assert_eq!(split_level("plain|text"), (None, "plain|text"));
    }
}
