//! The shell: does what the lifecycle says and tells it what happened.

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use rustix::process::{Pid, Signal};
use tokio::net::TcpListener;
use tokio::sync::watch;
use tracing::{info, warn};
use zonal_process::net::{self, Limits};
use zonal_process::tasks::TaskFailure;
use zonal_process::{CancellationToken, Clock, Tasks, files};

use crate::config::Config;
use crate::control_plane::{
    BootstrapRequest, ConnectError, ControlPlane, SidecarVersion, Versions, ca_text,
};
use crate::envoy::{self, Admin, AdminAddress, EnvoyError};
use crate::lifecycle::{Action, Ending, Input, Lifecycle};
use crate::probe;
use crate::report::Reporter;
use crate::status::{self, Status};

/// What the sidecar is given beside its configuration.
#[derive(Debug)]
pub struct Parts {
    /// Where `/ready` and `/status` are served.
    pub readiness: Option<TcpListener>,
    pub clock: Arc<dyn Clock>,
    /// The sidecar's own binary, so that Envoy dies with it. See [`envoy::become_envoy`].
    pub guard: Option<PathBuf>,
    /// Where back-offs take their chance from.
    pub seed: u64,
}

/// Why the sidecar could not do its work.
#[derive(Debug, thiserror::Error)]
pub enum RunError {
    #[error(transparent)]
    Connect(#[from] ConnectError),
    #[error(transparent)]
    Envoy(#[from] EnvoyError),
    #[error("cannot use the work folder `{dir}`: {cause}")]
    WorkDir { dir: String, cause: std::io::Error },
    #[error("cannot read the authorities: {0}")]
    Authorities(std::io::Error),
    #[error("cannot go on: {0}")]
    Failed(String),
    #[error(transparent)]
    Task(#[from] TaskFailure),
}

/// How long the readiness page may take to end.
const PAGE_DRAIN: Duration = Duration::from_secs(1);

/// Runs Envoy until `stop`, then drains and ends it.
///
/// # Errors
/// When Envoy cannot be run, or the control plane refuses the proxy for good.
pub async fn run(config: Config, parts: Parts, stop: CancellationToken) -> Result<(), RunError> {
    std::fs::DirBuilder::new()
        .recursive(true)
        .mode(0o711)
        .create(&config.work_dir)
        .map_err(|cause| RunError::WorkDir {
            dir: config.work_dir.display().to_string(),
            cause,
        })?;
    let control_plane = ControlPlane::connect(&config)?;
    let request = bootstrap_request(&config, envoy::version(&config.envoy.binary).await?)?;

    // Ends the helpers after the last word was said; `stop` only begins the end.
    let over = CancellationToken::new();
    let mut tasks = Tasks::new(over.clone());
    let inbounds = config
        .dataplane
        .as_ref()
        .map(|d| d.inbounds.clone())
        .unwrap_or_default();
    let states = watch::Sender::new(probe::initial(&inbounds, config.probe_interval.is_some()));
    let envoy_ready = watch::Sender::new(false);
    let registered = watch::Sender::new(false);
    let failure = watch::Sender::new(None);
    let (admin, admin_seen) = watch::channel(None);
    let status = watch::Sender::new(Status::default());

    if let Some(listener) = parts.readiness {
        let limits = Limits {
            drain: PAGE_DRAIN,
            ..Limits::default()
        };
        let page = status::router(status.subscribe());
        // Without it nobody learns whether the proxy is ready.
        tasks.essential(
            "readiness",
            net::serve(listener, None, page, limits, over.clone()),
        );
    }
    if let Some(interval) = config.probe_interval {
        for inbound in inbounds.clone() {
            let name = format!("probe {}", inbound.port);
            let (states, over) = (states.clone(), over.clone());
            tasks.restarted(name, move || {
                probe::watch_inbound(inbound.clone(), interval, states.clone(), over.clone())
            });
        }
    }
    let (ready, over_seen) = (envoy_ready.clone(), over.clone());
    tasks.restarted("envoy readiness", move || {
        watch_readiness(admin_seen.clone(), ready.clone(), over_seen.clone())
    });
    let reporter = Reporter {
        mesh: config.mesh.clone(),
        name: config.name.clone(),
        control_plane: control_plane.clone(),
        clock: parts.clock.clone(),
        states: states.subscribe(),
        envoy_ready: envoy_ready.subscribe(),
        registered: registered.subscribe(),
        failure: failure.clone(),
    };
    // Ends with the stop: a report after the announcement would call the callers back.
    tasks.spawner().spawn("report", reporter.run(stop.clone()));

    let (lifecycle, first) = Lifecycle::start(config.drain, parts.seed);
    let mut shell = Shell {
        ports: inbounds.iter().map(|inbound| inbound.port).collect(),
        config,
        request,
        control_plane,
        clock: parts.clock,
        guard: parts.guard,
        lifecycle,
        effects: FuturesUnordered::new(),
        interface: None,
        admin,
        envoy_ready: envoy_ready.clone(),
        registered,
        envoy_pid: None,
        bootstrap_failure: None,
    };
    shell.act(first);
    let ending = shell.drive(&stop, &status, &states, &failure).await;
    // A stop that was never asked for ends the reporter as well.
    stop.cancel();
    over.cancel();
    tasks.finish(PAGE_DRAIN * 2).await?;
    match ending {
        Ending::Stopped => Ok(()),
        Ending::Failed(reason) => Err(RunError::Failed(reason)),
    }
}

struct Shell {
    config: Config,
    request: BootstrapRequest,
    control_plane: ControlPlane,
    clock: Arc<dyn Clock>,
    guard: Option<PathBuf>,
    lifecycle: Lifecycle,
    /// What is under way; each ends in one input. Bounded by the lifecycle: at most one of each action.
    effects: FuturesUnordered<BoxFuture<'static, Effect>>,
    /// The admin interface that the newest bootstrap gives to whichever Envoy is started with it.
    interface: Option<Admin>,
    /// The admin interface of the Envoy that runs.
    admin: watch::Sender<Option<Admin>>,
    /// Whether the Envoy that runs is ready.
    envoy_ready: watch::Sender<bool>,
    registered: watch::Sender<bool>,
    envoy_pid: Option<Pid>,
    ports: Vec<u16>,
    bootstrap_failure: Option<String>,
}

/// What an effect ended with, and what the shell has to remember of it.
struct Effect {
    input: Input,
    admin: Option<AdminAddress>,
    bootstrap_failure: Option<Option<String>>,
}

impl From<Input> for Effect {
    fn from(input: Input) -> Self {
        Self {
            input,
            admin: None,
            bootstrap_failure: None,
        }
    }
}

impl Shell {
    async fn drive(
        &mut self,
        stop: &CancellationToken,
        status: &watch::Sender<Status>,
        states: &watch::Sender<probe::States>,
        failure: &watch::Sender<Option<String>>,
    ) -> Ending {
        let mut stopping = false;
        let (mut states, mut ready) = (states.subscribe(), self.envoy_ready.subscribe());
        loop {
            let now = Status {
                mesh: self.config.mesh.clone(),
                name: self.config.name.clone(),
                phase: self.lifecycle.phase().name(),
                is_ending: self.lifecycle.is_ending(),
                envoy_ready: *ready.borrow_and_update(),
                envoy_pid: self.envoy_pid.map(Pid::as_raw_pid),
                envoy_restarts: self.lifecycle.restarts(),
                inbounds: states.borrow_and_update().clone(),
                bootstrap_failure: self.bootstrap_failure.clone(),
                report_failure: failure.borrow().clone(),
            };
            status.send_replace(now);
            if let crate::lifecycle::Phase::Done(ending) = self.lifecycle.phase() {
                return ending.clone();
            }
            let input = tokio::select! {
                () = stop.cancelled(), if !stopping => {
                    stopping = true;
                    info!("stopping: callers are told to leave first");
                    Some(Input::StopRequested)
                }
                Some(effect) = self.effects.next(), if !self.effects.is_empty() => {
                    Some(self.remember(effect))
                }
                () = self.clock.sleep_until(self.lifecycle.next_timeout()) => Some(Input::Timeout),
                // Only the status page changes.
                _changed = states.changed() => None,
                _changed = ready.changed() => None,
            };
            let Some(input) = input else { continue };
            for action in self.lifecycle.handle(self.clock.now(), input) {
                self.act(action);
            }
        }
    }

    fn remember(&mut self, effect: Effect) -> Input {
        if let Some(failure) = effect.bootstrap_failure {
            // Said on the first occurrence and on change.
            if let Some(reason) = &failure
                && self.bootstrap_failure != failure
            {
                warn!(reason, "no bootstrap yet; asking again");
            }
            self.bootstrap_failure = failure;
        }
        if let Some(address) = effect.admin {
            match Admin::connect(&address) {
                Ok(admin) => self.interface = Some(admin),
                Err(error) => warn!(%error, "Envoy's admin interface cannot be used"),
            }
        }
        match &effect.input {
            Input::BootstrapReady => {
                self.registered.send_replace(true);
            }
            Input::EnvoyExited => {
                self.envoy_pid = None;
                // In this order: an answer of the dead one that is still under way is then seen to be stale.
                self.admin.send_replace(None);
                self.envoy_ready.send_replace(false);
            }
            _ => {}
        }
        effect.input
    }

    fn act(&mut self, action: Action) {
        match action {
            Action::Bootstrap => {
                let ask = ask_bootstrap(
                    self.control_plane.clone(),
                    self.request.clone(),
                    self.config.work_dir.clone(),
                    self.config.envoy.admin_port,
                );
                self.effects.push(Box::pin(ask));
            }
            Action::StartEnvoy => self.start_envoy(),
            Action::Announce => {
                let control_plane = self.control_plane.clone();
                let (mesh, name) = (self.config.mesh.clone(), self.config.name.clone());
                self.effects.push(Box::pin(async move {
                    let told = control_plane.announce_drain(&mesh, &name).await;
                    if let Err(error) = &told {
                        warn!(%error, "callers could not be told; they get the whole drain time");
                    }
                    Input::Announced {
                        agreed: told.is_ok(),
                    }
                    .into()
                }));
            }
            Action::StartDraining => {
                if let Some(admin) = self.admin.borrow().clone() {
                    // Its end is of no interest: connections are counted next.
                    self.effects.push(Box::pin(async move {
                        admin.drain().await;
                        Input::Timeout.into()
                    }));
                }
            }
            Action::CountConnections => {
                let (admin, ports) = (self.admin.borrow().clone(), self.ports.clone());
                self.effects.push(Box::pin(async move {
                    let count = match admin {
                        Some(admin) => admin.connections(&ports).await,
                        None => None,
                    };
                    Input::Connections(count).into()
                }));
            }
            Action::Terminate => envoy::signal(self.envoy_pid, Signal::TERM),
            Action::Kill => {
                warn!("Envoy does not end and is killed");
                envoy::signal(self.envoy_pid, Signal::KILL);
            }
            Action::Leave => {
                let control_plane = self.control_plane.clone();
                let (mesh, name) = (self.config.mesh.clone(), self.config.name.clone());
                self.effects.push(Box::pin(async move {
                    if let Err(error) = control_plane.leave(&mesh, &name).await {
                        info!(%error, "could not say goodbye; the control plane notices by itself");
                    }
                    Input::Left.into()
                }));
            }
        }
    }

    fn start_envoy(&mut self) {
        let bootstrap = self.config.work_dir.join(BOOTSTRAP_FILE);
        let arguments = envoy::arguments(&self.config.envoy, &bootstrap, self.config.drain);
        match envoy::start(self.guard.as_deref(), &self.config.envoy.binary, &arguments) {
            Ok(process) => {
                self.envoy_pid = process.pid();
                info!(pid = self.envoy_pid.map(Pid::as_raw_pid), "Envoy started");
                self.admin.send_replace(self.interface.clone());
                self.effects.push(Box::pin(async move {
                    let how = process.wait().await;
                    info!(how, "Envoy ended");
                    Input::EnvoyExited.into()
                }));
            }
            Err(error) => {
                let input = Input::EnvoyUnusable(error.to_string());
                self.effects.push(Box::pin(async move { input.into() }));
            }
        }
    }
}

const BOOTSTRAP_FILE: &str = "bootstrap.yaml";

async fn ask_bootstrap(
    control_plane: ControlPlane,
    request: BootstrapRequest,
    work_dir: PathBuf,
    admin_port: Option<u16>,
) -> Effect {
    let failed = |reason: String, fatal: bool| Effect {
        input: Input::BootstrapFailed {
            fatal: fatal.then(|| reason.clone()),
        },
        admin: None,
        bootstrap_failure: Some(Some(reason)),
    };
    let text = match control_plane.bootstrap(&request).await {
        Ok(text) => text,
        Err(error) => return failed(error.to_string(), !error.is_transient()),
    };
    let prepared = match envoy::prepare_bootstrap(&text, admin_port, &work_dir) {
        Ok(prepared) => prepared,
        Err(reason) => return failed(format!("the bootstrap cannot be used: {reason}"), false),
    };
    // It holds the token: nobody else may read it.
    if let Err(error) = files::write_private(&work_dir.join(BOOTSTRAP_FILE), &prepared.text) {
        return failed(format!("cannot write the bootstrap: {error}"), false);
    }
    Effect {
        input: Input::BootstrapReady,
        admin: Some(prepared.admin),
        bootstrap_failure: Some(None),
    }
}

/// Looks often until the Envoy that runs is ready, and seldom afterwards. An answer counts only for the Envoy that was
/// asked: whoever takes its interface out of `admin` may say "not ready" and is not contradicted.
async fn watch_readiness(
    mut admin: watch::Receiver<Option<Admin>>,
    ready: watch::Sender<bool>,
    over: CancellationToken,
) {
    loop {
        let current = admin.borrow_and_update().clone();
        let answer = match &current {
            Some(current) => tokio::select! {
                () = over.cancelled() => return,
                changed = admin.changed() => if changed.is_err() { return } else { continue },
                is_ready = current.is_ready() => is_ready,
            },
            None => false,
        };
        settle(&ready, &admin, answer);
        let pause = if answer {
            READY_INTERVAL
        } else {
            NOT_READY_INTERVAL
        };
        tokio::select! {
            () = over.cancelled() => return,
            changed = admin.changed() => if changed.is_err() { return },
            () = tokio::time::sleep(pause), if current.is_some() => {}
        }
    }
}

/// Takes an answer of the interface last seen in `admin`, unless another one took its place since.
fn settle(ready: &watch::Sender<bool>, admin: &watch::Receiver<Option<Admin>>, answer: bool) {
    ready.send_if_modified(|before| {
        let is_ready = answer && matches!(admin.has_changed(), Ok(false));
        std::mem::replace(before, is_ready) != is_ready
    });
}

const READY_INTERVAL: Duration = Duration::from_secs(1);
const NOT_READY_INTERVAL: Duration = Duration::from_millis(50);

fn bootstrap_request(
    config: &Config,
    envoy: crate::control_plane::EnvoyVersion,
) -> Result<BootstrapRequest, RunError> {
    let mut features = vec!["feature-strict-inbound-ports", "feature-reuse-port"];
    if config.dataplane.is_some() {
        features.push(FEATURE_WORKLOAD_HEALTH);
    }
    if config.bind_outbounds {
        features.push("feature-bind-outbounds");
    }
    let sidecar = SidecarVersion {
        version: env!("CARGO_PKG_VERSION"),
        git_tag: "",
        git_commit: "",
        build_date: "",
    };
    Ok(BootstrapRequest {
        mesh: config.mesh.clone(),
        name: config.name.clone(),
        proxy_type: "dataplane",
        dataplane_token: None,
        dataplane_resource: config
            .dataplane
            .as_ref()
            .map(|dataplane| dataplane.text.clone()),
        version: Versions {
            kuma_dp: sidecar,
            envoy,
        },
        ca_cert: ca_text(&config.trust).map_err(RunError::Authorities)?,
        dynamic_metadata: std::collections::BTreeMap::new(),
        operating_system: std::env::consts::OS,
        features,
        workdir: config.work_dir.display().to_string(),
        readiness_port: config
            .readiness
            .map(|addr| addr.port())
            .filter(|port| *port != 0),
        system_ca_path: system_ca_path(),
        ipv6_enabled: Path::new("/proc/net/if_inet6").exists(),
    })
}

/// Announces that we report how each inbound stands: until the first report none is ready. Ours; others ignore it.
const FEATURE_WORKLOAD_HEALTH: &str = "feature-workload-health";

/// The first of the places where systems keep the authorities they trust.
fn system_ca_path() -> String {
    [
        "/etc/ssl/certs/ca-certificates.crt",
        "/etc/pki/tls/certs/ca-bundle.crt",
        "/etc/ssl/ca-bundle.pem",
        "/etc/pki/ca-trust/extracted/pem/tls-ca-bundle.pem",
        "/etc/ssl/cert.pem",
    ]
    .into_iter()
    .find(|path| Path::new(path).exists())
    .unwrap_or_default()
    .to_owned()
}
