//! Starting, finding and stopping the processes of a federation.

mod crash;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tempfile::TempDir;

use crate::addresses::Block;
use crate::process::Process;
use crate::tools::{Tools, wait_for};
use crate::zonal::Zonal;

/// How long a start or a reaction may take before the story gives up; generous, as machines may be slow.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Where the global control plane stands in the block, and the hosts of a zone.
const CONTROL_PLANE: u8 = 1;
const INGRESS: u8 = 90;
/// Well-known ports, free in our own block of addresses.
const REST: u16 = 5682;
const KDS: u16 = 5685;
const DATAPLANES: u16 = 5678;
const INGRESS_PORT: u16 = 10001;
const INGRESS_ADMIN: u16 = 9901;

/// What to start.
#[derive(Clone, Debug)]
pub struct Options {
    /// Zone names, in order; `east` and `west` play the story's parts.
    pub zones: Vec<String>,
}

impl Options {
    /// `east`, `west`, and as many more as asked for.
    #[must_use]
    pub fn with_zones(count: usize) -> Self {
        let zones = ["east", "west"]
            .into_iter()
            .map(str::to_owned)
            .chain((3..).map(|number| format!("zone-{number}")))
            .take(count.max(2))
            .collect();
        Self { zones }
    }
}

/// A workload: an application, a sidecar beside it, and the Dataplane that describes them.
#[derive(Clone, Debug)]
pub struct WorkloadSpec {
    /// The workload, and the service it becomes.
    pub name: String,
    /// The zone it runs in.
    pub zone: String,
    /// Its host in the zone's addresses.
    pub host: u8,
    /// The port others call.
    pub port: u16,
    /// Echoes lines over TCP instead of answering HTTP.
    pub tcp: bool,
    /// What it says its version is.
    pub version: String,
    /// Port of each outbound, and the rest of its Dataplane entry as YAML flow text.
    pub outbounds: Vec<(u16, String)>,
    /// The workload whose token its sidecar shows; its own when `None`.
    pub token_of: Option<String>,
}

impl WorkloadSpec {
    /// The name of the Dataplane, which tells zones apart.
    #[must_use]
    pub fn proxy(&self) -> String {
        format!("{}-{}", self.name, self.zone)
    }

    fn dataplane(&self, block: Block, zone: u8) -> String {
        let address = block.at(zone, self.host);
        let protocol = if self.tcp { "tcp" } else { "http" };
        let mut yaml = format!(
            "type: Dataplane\nmesh: default\nname: {proxy}\nlabels:\n  kuma.io/workload: {name}\nnetworking:\n  address: \
             {address}\n  inbound:\n    - name: {inbound}\n      port: {port}\n      servicePort: {service}\n      \
             protocol: {protocol}\n",
            proxy = self.proxy(),
            name = self.name,
            inbound = if self.tcp { "main" } else { "http" },
            port = self.port,
            service = self.application_port(),
        );
        if !self.outbounds.is_empty() {
            yaml.push_str("  outbound:\n");
        }
        for (port, backend) in &self.outbounds {
            yaml.push_str(&format!(
                "    - address: {address}\n      port: {port}\n      backendRef: {backend}\n"
            ));
        }
        yaml
    }

    fn application_port(&self) -> u16 {
        self.port + 1
    }
}

/// A running workload.
#[derive(Debug)]
pub struct Workload {
    /// What it was made from.
    pub spec: WorkloadSpec,
    /// The application; `None` after it was killed.
    pub application: Option<Process>,
    /// The sidecar; `None` after it was stopped.
    pub sidecar: Option<Process>,
}

#[derive(Debug)]
struct ZoneProcesses {
    number: u8,
    control_plane: Option<Process>,
    ingress: Option<Process>,
}

/// A global control plane, zones, ingresses and workloads, all on this machine.
#[derive(Debug)]
pub struct Federation {
    tools: Tools,
    block: Block,
    folder: TempDir,
    /// Held so that no other federation takes the same addresses.
    _claim: TcpListener,
    global: Option<Process>,
    zones: BTreeMap<String, ZoneProcesses>,
    workloads: BTreeMap<String, Workload>,
}

impl Federation {
    /// Makes the folder and claims the addresses; starts nothing.
    ///
    /// # Errors
    /// A program is missing, or no addresses are free.
    pub fn new(options: &Options) -> anyhow::Result<Self> {
        zonal_process::tls::install_provider();
        let tools = Tools::find()?;
        let (block, claim) = Block::find()?;
        let folder = TempDir::with_prefix("zonal-").context("cannot make a temporary folder")?;
        std::fs::create_dir(folder.path().join("logs"))
            .context("cannot make the folder of logs")?;
        let zones = options
            .zones
            .iter()
            .zip(1_u8..)
            .map(|(name, number)| {
                (
                    name.clone(),
                    ZoneProcesses {
                        number,
                        control_plane: None,
                        ingress: None,
                    },
                )
            })
            .collect();
        Ok(Self {
            tools,
            block,
            folder,
            _claim: claim,
            global: None,
            zones,
            workloads: BTreeMap::new(),
        })
    }

    /// The folder with all state and logs.
    #[must_use]
    pub fn folder(&self) -> &Path {
        self.folder.path()
    }

    /// Keeps the folder when the federation is dropped, for a look at what went wrong.
    pub fn keep_folder(&mut self) {
        self.folder.disable_cleanup(true);
    }

    /// The names of the zones.
    #[must_use]
    pub fn zone_names(&self) -> Vec<String> {
        let mut names: Vec<(u8, String)> = self
            .zones
            .iter()
            .map(|(name, zone)| (zone.number, name.clone()))
            .collect();
        names.sort();
        names.into_iter().map(|(_, name)| name).collect()
    }

    fn logs(&self) -> PathBuf {
        self.folder.path().join("logs")
    }

    fn home(&self, process: &str) -> anyhow::Result<PathBuf> {
        let home = self.folder.path().join(process);
        std::fs::create_dir_all(&home)
            .with_context(|| format!("cannot make `{}`", home.display()))?;
        Ok(home)
    }

    fn zone(&self, name: &str) -> anyhow::Result<&ZoneProcesses> {
        self.zones
            .get(name)
            .with_context(|| format!("there is no zone `{name}`"))
    }

    /// The command-line client towards global.
    #[must_use]
    pub fn at_global(&self) -> Zonal {
        Zonal {
            program: self.tools.binaries.join("zonal"),
            address: format!("https://{}", self.block.socket(0, CONTROL_PLANE, REST)),
            ca: self.folder.path().join("global-cp").join("tls.crt"),
        }
    }

    /// The command-line client towards a zone.
    ///
    /// # Errors
    /// There is no such zone.
    pub fn at_zone(&self, zone: &str) -> anyhow::Result<Zonal> {
        let number = self.zone(zone)?.number;
        Ok(Zonal {
            program: self.tools.binaries.join("zonal"),
            address: format!("https://{}", self.block.socket(number, CONTROL_PLANE, REST)),
            ca: self.zone_home(zone).join("tls.crt"),
        })
    }

    fn zone_home(&self, zone: &str) -> PathBuf {
        self.folder.path().join(format!("zone-cp-{zone}"))
    }

    /// Starts (or starts again) the global control plane and waits until it is ready.
    ///
    /// # Errors
    /// It does not start, or does not become ready.
    pub async fn start_global(&mut self) -> anyhow::Result<Duration> {
        let home = self.home("global-cp")?;
        let address = self.block.at(0, CONTROL_PLANE);
        let config = format!(
            "general:\n  workDir: {home}\nstore:\n  type: file\napiServer:\n  http:\n    enabled: false\n  https:\n    \
             interface: {address}\n    port: {REST}\ndiagnostics:\n  interface: {address}\n  serverPort: 5680\nmultizone:\n  \
             global:\n    kds:\n      interface: {address}\n      grpcPort: {KDS}\n",
            home = home.display(),
        );
        let file = home.join("global-cp.yaml");
        std::fs::write(&file, config).context("cannot write the configuration of global-cp")?;
        let mut command = self.tools.command("global-cp");
        command.arg("--config").arg(&file);
        self.global = Some(Process::start("global-cp", command, &self.logs())?);
        let zonal = self.at_global();
        self.ready("global-cp", &zonal).await
    }

    /// Waits until a control plane answers over REST.
    async fn ready(&mut self, name: &str, zonal: &Zonal) -> anyhow::Result<Duration> {
        let (_, took) = wait_for(&format!("`{name}` to answer"), PATIENCE, async || {
            zonal.json(&["get", "meshes"]).await
        })
        .await
        .with_context(|| self.tail(name))?;
        Ok(took)
    }

    /// The last lines of a process's log, for an error message.
    fn tail(&self, name: &str) -> String {
        let path = self.logs().join(format!("{name}.log"));
        let text = std::fs::read_to_string(&path).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(15);
        format!(
            "last lines of `{}`:\n{}",
            path.display(),
            lines.get(from..).unwrap_or_default().join("\n")
        )
    }

    /// Starts (or starts again) a zone's control plane and waits until it is ready.
    ///
    /// # Errors
    /// There is no such zone, no token can be had at the first start, or it does not become ready.
    pub async fn start_zone(&mut self, zone: &str) -> anyhow::Result<Duration> {
        let number = self.zone(zone)?.number;
        let name = format!("zone-cp-{zone}");
        let home = self.home(&name)?;
        let token = home.join("zone-token");
        if !token.exists() {
            self.zone_token(zone, zone).await?;
        }
        let address = self.block.at(number, CONTROL_PLANE);
        let config = format!(
            "general:\n  workDir: {home}\nstore:\n  type: file\napiServer:\n  http:\n    enabled: false\n  https:\n    \
             interface: {address}\n    port: {REST}\ndiagnostics:\n  interface: {address}\n  serverPort: 5680\ndpServer:\n  \
             interface: {address}\n  port: {DATAPLANES}\nmultizone:\n  zone:\n    name: {zone}\n    globalAddress: \
             grpcs://{global}\n    tokenFile: {token}\n    kds:\n      rootCaFile: {ca}\n",
            home = home.display(),
            token = token.display(),
            global = self.block.socket(0, CONTROL_PLANE, KDS),
            ca = self.at_global().ca.display(),
        );
        let file = home.join("zone-cp.yaml");
        std::fs::write(&file, config).context("cannot write the configuration of zone-cp")?;
        let mut command = self.tools.command("zone-cp");
        command.arg("--config").arg(&file);
        let process = Process::start(&name, command, &self.logs())?;
        if let Some(zone) = self.zones.get_mut(zone) {
            zone.control_plane = Some(process);
        }
        let zonal = self.at_zone(zone)?;
        self.ready(&name, &zonal).await
    }

    /// Registers the zone's ingress address and starts (or starts again) its ingress.
    ///
    /// # Errors
    /// There is no such zone, or the ingress does not become ready.
    pub async fn start_ingress(&mut self, zone: &str) -> anyhow::Result<Duration> {
        let number = self.zone(zone)?.number;
        let name = format!("zone-ingress-{zone}");
        let home = self.home(&name)?;
        let address = self.block.at(number, INGRESS);
        let zonal = self.at_zone(zone)?;
        let zone_address = home.join("address.yaml");
        std::fs::write(
            &zone_address,
            format!(
                "type: MeshZoneAddress\nmesh: default\nname: zone-ingress\nlabels:\n  kuma.io/origin: zone\nspec:\n  address: \
                 {address}\n  port: {INGRESS_PORT}\n"
            ),
        )
        .context("cannot write the zone's address")?;
        zonal
            .run(&["apply", "-f", &zone_address.to_string_lossy()])
            .await?;
        let dataplane = home.join("dataplane.yaml");
        std::fs::write(
            &dataplane,
            format!(
                "type: Dataplane\nmesh: default\nname: ingress-{zone}\nlabels:\n  kuma.io/workload: \
                 zone-ingress\nnetworking:\n  address: {address}\n  listeners:\n    - type: ZoneIngress\n      name: main\n      \
                 address: {address}\n      port: {INGRESS_PORT}\n"
            ),
        )
        .context("cannot write the ingress's Dataplane")?;
        let token = home.join("token");
        self.dataplane_token(zone, &format!("ingress-{zone}"), "zone-ingress", &token)
            .await?;
        self.run_ingress(zone).await
    }

    /// Starts a zone's ingress with the files that `start_ingress` wrote.
    async fn run_ingress(&mut self, zone: &str) -> anyhow::Result<Duration> {
        let number = self.zone(zone)?.number;
        let name = format!("zone-ingress-{zone}");
        let home = self.home(&name)?;
        let address = self.block.at(number, INGRESS);
        let mut command = self.tools.command("zone-ingress");
        command
            .arg("--cp-address")
            .arg(format!(
                "https://{}",
                self.block.socket(number, CONTROL_PLANE, DATAPLANES)
            ))
            .arg("--ca-cert-file")
            .arg(self.at_zone(zone)?.ca)
            .arg("--dataplane-token-file")
            .arg(home.join("token"))
            .arg("--dataplane-file")
            .arg(home.join("dataplane.yaml"))
            .arg("--work-dir")
            .arg(&home)
            .arg("--admin-address")
            .arg(SocketAddr::new(address, INGRESS_ADMIN).to_string());
        let process = Process::start(&name, command, &self.logs())?;
        if let Some(zone) = self.zones.get_mut(zone) {
            zone.ingress = Some(process);
        }
        let client = reqwest::Client::new();
        let url = format!("http://{}/ready", SocketAddr::new(address, INGRESS_ADMIN));
        let (_, took) = wait_for(&format!("`{name}` to be ready"), PATIENCE, async || {
            let status = client.get(&url).send().await?.status();
            anyhow::ensure!(status.is_success(), "it answers {status}");
            Ok(())
        })
        .await
        .with_context(|| self.tail(&name))?;
        Ok(took)
    }

    /// Connections and bytes at a zone's ingress, as its admin page tells.
    ///
    /// # Errors
    /// There is no such zone, or the ingress does not answer.
    pub async fn ingress_page(&self, zone: &str, page: &str) -> anyhow::Result<String> {
        let number = self.zone(zone)?.number;
        let url = format!(
            "http://{}{page}",
            self.block.socket(number, INGRESS, INGRESS_ADMIN)
        );
        let response = reqwest::get(&url)
            .await
            .with_context(|| format!("no answer from `{url}`"))?;
        response.text().await.context("the answer broke off")
    }

    async fn dataplane_token(
        &self,
        zone: &str,
        proxy: &str,
        workload: &str,
        file: &Path,
    ) -> anyhow::Result<()> {
        let zonal = self.at_zone(zone)?;
        let arguments = [
            "token",
            "dataplane",
            "--mesh",
            "default",
            "--name",
            proxy,
            "--workload",
            workload,
        ];
        // The signing key of the mesh comes from global: just after the zone's first start it may not be there yet.
        let (token, _) = wait_for("a dataplane token", PATIENCE, async || {
            zonal.run(&arguments).await
        })
        .await
        .with_context(|| self.tail(&format!("zone-cp-{zone}")))?;
        write_secret(file, token.trim())
    }

    /// Starts a workload's application, and its sidecar with Envoy; does not wait for them.
    ///
    /// # Errors
    /// A token cannot be had, or a program cannot be started.
    pub async fn start_workload(&mut self, spec: WorkloadSpec) -> anyhow::Result<()> {
        let proxy = spec.proxy();
        let application = self.start_application_of(&spec)?;
        let sidecar = self.start_sidecar_of(&spec).await?;
        self.workloads.insert(
            proxy,
            Workload {
                spec,
                application: Some(application),
                sidecar: Some(sidecar),
            },
        );
        Ok(())
    }

    fn start_application_of(&self, spec: &WorkloadSpec) -> anyhow::Result<Process> {
        let number = self.zone(&spec.zone)?.number;
        let mut command = self.tools.command("workload");
        command
            .args([
                "--name",
                &spec.name,
                "--zone",
                &spec.zone,
                "--version",
                &spec.version,
                "--listen",
            ])
            .arg(
                self.block
                    .socket(number, spec.host, spec.application_port())
                    .to_string(),
            );
        if spec.tcp {
            command.arg("--tcp");
        }
        Process::start(
            &format!("{}-application", spec.proxy()),
            command,
            &self.logs(),
        )
    }

    async fn start_sidecar_of(&self, spec: &WorkloadSpec) -> anyhow::Result<Process> {
        let number = self.zone(&spec.zone)?.number;
        let proxy = spec.proxy();
        let home = self.home(&format!("sidecar-{proxy}"))?;
        let dataplane = home.join("dataplane.yaml");
        std::fs::write(&dataplane, spec.dataplane(self.block, number))
            .context("cannot write the Dataplane")?;
        let token = home.join("token");
        if !token.exists() {
            let (named, workload) = match &spec.token_of {
                Some(other) => (format!("{other}-{}", spec.zone), other.as_str()),
                None => (proxy.clone(), spec.name.as_str()),
            };
            self.dataplane_token(&spec.zone, &named, workload, &token)
                .await?;
        }
        let mut command = self.tools.command("sidecar");
        command
            .arg("--cp-address")
            .arg(format!(
                "https://{}",
                self.block.socket(number, CONTROL_PLANE, DATAPLANES)
            ))
            .arg("--ca-cert-file")
            .arg(self.at_zone(&spec.zone)?.ca)
            .arg("--dataplane-token-file")
            .arg(&token)
            .arg("--dataplane-file")
            .arg(&dataplane)
            .arg("--work-dir")
            .arg(&home)
            .arg("--binary-path")
            .arg(&self.tools.envoy)
            .args(["--drain-time", "5s", "--concurrency", "1"])
            .arg("--readiness-address")
            .arg(self.block.socket(number, spec.host, 9902).to_string());
        Process::start(&format!("sidecar-{proxy}"), command, &self.logs())
    }

    /// A running workload by its proxy's name.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn workload(&mut self, proxy: &str) -> anyhow::Result<&mut Workload> {
        self.workloads
            .get_mut(proxy)
            .with_context(|| format!("there is no workload `{proxy}`"))
    }

    /// Waits until a workload's sidecar says that its Envoy is ready.
    ///
    /// # Errors
    /// It does not become ready.
    pub async fn workload_ready(&mut self, proxy: &str) -> anyhow::Result<Duration> {
        let spec = self.workload(proxy)?.spec.clone();
        let url = format!(
            "http://{}/ready",
            self.address(&spec.zone, spec.host, 9902)?
        );
        let client = reqwest::Client::new();
        let (_, took) = wait_for(&format!("the sidecar of `{proxy}`"), PATIENCE, async || {
            let status = client.get(&url).send().await?.status();
            anyhow::ensure!(status.is_success(), "it answers {status}");
            Ok(())
        })
        .await
        .with_context(|| self.tail(&format!("sidecar-{proxy}")))?;
        Ok(took)
    }

    /// An address of a host in a zone.
    ///
    /// # Errors
    /// There is no such zone.
    pub fn address(&self, zone: &str, host: u8, port: u16) -> anyhow::Result<SocketAddr> {
        Ok(self.block.socket(self.zone(zone)?.number, host, port))
    }

    /// The global control plane's answer to `inspect zones`.
    ///
    /// # Errors
    /// It does not answer.
    pub async fn zones_overview(&self) -> anyhow::Result<Value> {
        self.at_global().json(&["inspect", "zones"]).await
    }

    /// Memory and processor time of every process.
    #[must_use]
    pub fn usage(&self) -> Vec<Vec<String>> {
        let zones = self
            .zones
            .values()
            .flat_map(|zone| [&zone.control_plane, &zone.ingress]);
        let workloads = self
            .workloads
            .values()
            .flat_map(|workload| [&workload.application, &workload.sidecar]);
        std::iter::once(&self.global)
            .chain(zones)
            .chain(workloads)
            .flatten()
            .flat_map(Process::usage)
            .map(|(name, usage)| {
                vec![
                    name,
                    format!("{} MiB", usage.resident_kib / 1024),
                    format!("{:.2} s", usage.cpu.as_secs_f64()),
                ]
            })
            .collect()
    }

    /// Stops everything in order: sidecars, applications, ingresses, zones, global.
    ///
    /// # Errors
    /// Something did not stop as asked; it is killed all the same when the federation is dropped.
    pub async fn stop(&mut self) -> anyhow::Result<()> {
        let limit = Duration::from_secs(20);
        let mut failures = Vec::new();
        // Draining takes its time, so all sidecars do it at once; their applications end after them.
        let mut draining = tokio::task::JoinSet::new();
        for workload in self.workloads.values_mut() {
            if let Some(mut sidecar) = workload.sidecar.take() {
                draining.spawn(async move { sidecar.terminate(limit).await });
            }
        }
        while let Some(ended) = draining.join_next().await {
            if let Err(error) = ended.context("cannot await a sidecar")? {
                failures.push(format!("{error:#}"));
            }
        }
        for workload in self.workloads.values_mut() {
            if let Some(mut application) = workload.application.take() {
                application.kill().await?;
            }
        }
        let mut end = async |process: Option<Process>| {
            if let Some(mut process) = process
                && let Err(error) = process.terminate(limit).await
            {
                failures.push(format!("{error:#}"));
            }
        };
        for zone in self.zones.values_mut() {
            end(zone.ingress.take()).await;
            end(zone.control_plane.take()).await;
        }
        end(self.global.take()).await;
        anyhow::ensure!(failures.is_empty(), "{}", failures.join("\n"));
        Ok(())
    }
}

fn write_secret(path: &Path, text: &str) -> anyhow::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let mut file = std::fs::File::options()
        .create(true)
        .truncate(true)
        .write(true)
        .mode(0o600)
        .open(path)
        .with_context(|| format!("cannot write `{}`", path.display()))?;
    file.write_all(text.as_bytes())
        .with_context(|| format!("cannot write `{}`", path.display()))
}
