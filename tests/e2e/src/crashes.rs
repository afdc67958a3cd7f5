//! Every process, killed at every step of the story and started again at once; the story has to go on and come out right.
//!
//! The checks are those of [`crate::story`], but patient: whoever is refused or cut off while a process is down tries
//! again, as a person or a program would. What is not forgiven is an outcome that stays wrong.

use std::fmt;
use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;

use crate::calls::{self, Caller};
use crate::federation::{Federation, PATIENCE};
use crate::process::Process;
use crate::report::Report;
use crate::story;
use crate::tools::wait_for;
use crate::zonal::Zonal;

/// A crash comes at most this long after its step has begun.
const LATEST: Duration = Duration::from_millis(120);

/// A process to kill with SIGKILL.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Victim {
    /// `global-cp`.
    Global,
    /// The `zone-cp` of a zone.
    ZoneControlPlane(String),
    /// The `zone-ingress` of a zone.
    Ingress(String),
    /// The `sidecar` of a workload, and with it its Envoy.
    Sidecar(String),
    /// Only the Envoy of a workload; its sidecar starts another one.
    Envoy(String),
    /// The application of a workload.
    Application(String),
}

impl Victim {
    /// The workload it belongs to.
    fn proxy(&self) -> Option<&str> {
        match self {
            Self::Sidecar(proxy) | Self::Envoy(proxy) | Self::Application(proxy) => Some(proxy),
            Self::Global | Self::ZoneControlPlane(_) | Self::Ingress(_) => None,
        }
    }
}

impl fmt::Display for Victim {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Global => f.write_str("global-cp"),
            Self::ZoneControlPlane(zone) => write!(f, "zone-cp {zone}"),
            Self::Ingress(zone) => write!(f, "zone-ingress {zone}"),
            Self::Sidecar(proxy) => write!(f, "sidecar {proxy}"),
            Self::Envoy(proxy) => write!(f, "Envoy {proxy}"),
            Self::Application(proxy) => write!(f, "application {proxy}"),
        }
    }
}

/// A step of the story.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Step {
    /// A policy for everybody, with its receipt.
    Apply,
    /// Calls in the zone, across zones, and over TCP.
    Call,
    /// An application dies; calls move to the other zone and come back.
    Failover,
    /// A route sends some calls elsewhere, and is deleted.
    Route,
    /// A permission denies calls, and is deleted.
    Permission,
    /// A new workload joins in west, is called from east, and leaves in order.
    Newcomer,
    /// Global is away: a policy made in a zone works there; global returns.
    Alone,
}

/// All steps, in the order of the story.
pub const STEPS: [Step; 7] = [
    Step::Apply,
    Step::Call,
    Step::Failover,
    Step::Route,
    Step::Permission,
    Step::Newcomer,
    Step::Alone,
];

impl Step {
    /// What it does, for people.
    #[must_use]
    pub const fn name(self) -> &'static str {
        match self {
            Self::Apply => "a policy is applied",
            Self::Call => "web calls",
            Self::Failover => "api in east dies and returns",
            Self::Route => "a route is made and deleted",
            Self::Permission => "web is denied and allowed",
            Self::Newcomer => "billing joins and leaves",
            Self::Alone => "global is away",
        }
    }

    /// Whether the step itself stops or kills this process.
    fn ends(self, victim: &Victim) -> bool {
        match self {
            Self::Failover => *victim == Victim::Application(story::API_EAST.to_owned()),
            Self::Alone => *victim == Victim::Global,
            _ => false,
        }
    }
}

/// Which crashes to go through.
#[derive(Clone, Copy, Debug)]
pub enum Plan {
    /// Every process at every step.
    Every,
    /// Every process once, the steps taken in turn.
    EachOnce,
    /// So many, taken by chance.
    Chance(u32),
}

/// Goes through the crashes of a plan; moments and choices come from `seed`. The story's set-up and first policies come
/// first. Returns how many crashes there were.
///
/// # Errors
/// After a crash something stays wrong; the error names the step, the process and the moment.
pub async fn survive(
    federation: &mut Federation,
    plan: Plan,
    seed: u64,
    report: &Report,
) -> anyhow::Result<usize> {
    let mut chance = fastrand::Rng::with_seed(seed);
    // `billing` comes and goes with its step.
    let billing = story::BILLING_WEST;
    let mut victims = federation.victims();
    victims.retain(|victim| victim.proxy() != Some(billing));
    let all = STEPS
        .iter()
        .flat_map(|step| victims.iter().map(|victim| (*step, victim.clone())))
        .filter(|(step, victim)| !step.ends(victim));
    let cells: Vec<(Step, Victim)> = match plan {
        Plan::Every => all.collect(),
        Plan::EachOnce => victims
            .iter()
            .zip(STEPS.iter().cycle().skip(chance.usize(0..STEPS.len())))
            .filter(|(victim, step)| !step.ends(victim))
            .map(|(victim, step)| (*step, victim.clone()))
            .collect(),
        Plan::Chance(count) => {
            let all: Vec<_> = all.collect();
            (0..count)
                .filter_map(|_| chance.choice(&all).cloned())
                .collect()
        }
    };
    let world = World::of(federation)?;
    let there = federation.workload(billing);
    if there.is_ok_and(|workload| workload.sidecar.is_some()) {
        leave(federation, billing).await?;
    }
    let owned = world.owned().await?;
    let local = Caller::start(world.api);
    let across = Caller::start(world.api_west);
    for (number, (step, victim)) in cells.iter().enumerate() {
        let moment = LATEST.mul_f64(chance.f64());
        let told = || {
            format!(
                "crash {number} of seed {seed}: {victim} killed {moment:.1?} into \"{}\"",
                step.name()
            )
        };
        let mut process = federation
            .place(victim)
            .and_then(Option::take)
            .with_context(|| format!("{victim} does not run"))?;
        drop((local.take(), across.take()));
        let (stepped, crashed) = tokio::join!(
            world.step(*step, federation, number),
            crash(victim, &mut process, moment)
        );
        if let Some(place) = federation.place(victim) {
            *place = Some(process);
        }
        crashed.with_context(told)?;
        stepped.with_context(told)?;
        let (_, took) = wait_for("everything to be right", PATIENCE, async || {
            world.right().await
        })
        .await
        .with_context(told)?;
        let now = world.owned().await.with_context(told)?;
        ensure!(
            now == owned,
            "{}: resources came or went that nobody made or deleted: before {owned:?}, now {now:?}",
            told()
        );
        let (local, across) = (local.take(), across.take());
        report.timed(
            &format!(
                "{:<30} × {victim:<24} calls without 200: {}/{}, {}/{}; right after",
                step.name(),
                local.failures(),
                local.total(),
                across.failures(),
                across.total(),
                victim = victim.to_string(),
            ),
            took,
        );
    }
    Ok(cells.len())
}

/// Kills a process at its moment, and starts it again at once.
async fn crash(victim: &Victim, process: &mut Process, moment: Duration) -> anyhow::Result<()> {
    tokio::time::sleep(moment).await;
    if matches!(victim, Victim::Envoy(_)) {
        // None runs in the moment between the end of one and the start of the next: that is a crash too.
        let _killed = process.crash_children()?;
        return Ok(());
    }
    process.crash().await?;
    process.start_again()
}

/// Stops a workload in order.
async fn leave(federation: &mut Federation, proxy: &str) -> anyhow::Result<()> {
    let workload = federation.workload(proxy)?;
    let (sidecar, application) = (workload.sidecar.take(), workload.application.take());
    sidecar
        .with_context(|| format!("{proxy} has no sidecar"))?
        .terminate(PATIENCE)
        .await?;
    application
        .with_context(|| format!("{proxy} has no application"))?
        .kill()
        .await
}

/// What the steps need of a federation, so that they go on while a process is taken out of it.
struct World {
    global: Zonal,
    east: Zonal,
    west: Zonal,
    folder: std::path::PathBuf,
    client: reqwest::Client,
    api: SocketAddr,
    api_west: SocketAddr,
    orders: SocketAddr,
    billing: SocketAddr,
}

impl World {
    fn of(federation: &Federation) -> anyhow::Result<Self> {
        let outbound = |port| federation.address("east", story::WEB, port);
        Ok(Self {
            global: federation.at_global(),
            east: federation.at_zone("east")?,
            west: federation.at_zone("west")?,
            folder: federation.folder().to_owned(),
            client: calls::client(),
            api: outbound(story::TO_API)?,
            api_west: outbound(story::TO_API_WEST)?,
            orders: outbound(story::TO_ORDERS)?,
            billing: outbound(story::TO_BILLING)?,
        })
    }

    async fn step(
        &self,
        step: Step,
        federation: &mut Federation,
        number: usize,
    ) -> anyhow::Result<()> {
        match step {
            Step::Apply => {
                self.apply(&self.global, &story::timeout("crashes", 20 + number % 40))
                    .await
            }
            Step::Call => self.calls().await,
            Step::Failover => self.failover(federation).await,
            Step::Route => self.route().await,
            Step::Permission => self.permission().await,
            Step::Newcomer => self.newcomer(federation).await,
            Step::Alone => self.alone(federation, number).await,
        }
    }

    /// Applies a resource until the receipt is complete.
    async fn apply(&self, zonal: &Zonal, text: &str) -> anyhow::Result<()> {
        let file = self.folder.join("crashes.yaml");
        std::fs::write(&file, text).context("cannot write the resource")?;
        let file = file.to_string_lossy();
        wait_for("a complete receipt", PATIENCE, async || {
            let answer = zonal
                .json(&["apply", "-f", &file, "--wait", "--timeout", "30s"])
                .await?;
            let complete = answer.pointer("/receipt/complete").and_then(Value::as_bool);
            ensure!(complete == Some(true), "{answer}");
            Ok(())
        })
        .await?;
        Ok(())
    }

    /// Deletes a resource until it is gone.
    async fn delete(&self, zonal: &Zonal, kind: &str, name: &str) -> anyhow::Result<()> {
        wait_for(&format!("`{name}` to be deleted"), PATIENCE, async || {
            let arguments = ["delete", kind, name, "--mesh", "default"];
            let (succeeded, out, error) = zonal.run_any(&arguments).await?;
            // The answer to an earlier try may have been lost with the process that gave it.
            ensure!(succeeded || error.contains("not found"), "{error}{out}");
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn answered(
        &self,
        address: SocketAddr,
        path: &str,
        status: u16,
        zone: &str,
    ) -> anyhow::Result<()> {
        wait_for(
            &format!("`{address}{path}` to answer {status} {zone}"),
            PATIENCE,
            async || {
                let answer = calls::http(&self.client, address, path).await?;
                ensure!(
                    answer.status == status && answer.zone == zone,
                    "{} {}",
                    answer.status,
                    answer.body
                );
                Ok(())
            },
        )
        .await?;
        Ok(())
    }

    async fn calls(&self) -> anyhow::Result<()> {
        self.answered(self.api, "/", 200, "east").await?;
        self.answered(self.api_west, "/", 200, "west").await?;
        let (_, _took) = wait_for("orders to answer", PATIENCE, async || {
            let line = calls::tcp_line(self.orders, "one tea").await?;
            ensure!(line == "orders@west: one tea", "got {line:?}");
            Ok(())
        })
        .await?;
        Ok(())
    }

    async fn failover(&self, federation: &mut Federation) -> anyhow::Result<()> {
        let application = Victim::Application(story::API_EAST.to_owned());
        let mut process = federation
            .place(&application)
            .and_then(Option::take)
            .context("api in east does not run")?;
        process.crash().await?;
        let moved = self.answered(self.api, "/", 200, "west").await;
        process.start_again()?;
        if let Some(place) = federation.place(&application) {
            *place = Some(process);
        }
        moved?;
        self.answered(self.api, "/", 200, "east").await
    }

    async fn route(&self) -> anyhow::Result<()> {
        self.apply(&self.global, story::ROUTE).await?;
        self.answered(self.api, "/v2/hello", 200, "west").await?;
        self.delete(&self.global, "meshhttproute", "v2-in-west")
            .await?;
        self.answered(self.api, "/v2/hello", 200, "east").await
    }

    async fn permission(&self) -> anyhow::Result<()> {
        self.apply(&self.global, story::DENY_WEB).await?;
        self.answered(self.api, "/", 403, "").await?;
        self.delete(&self.global, "meshtrafficpermission", "deny-web")
            .await?;
        self.answered(self.api, "/", 200, "east").await
    }

    async fn newcomer(&self, federation: &mut Federation) -> anyhow::Result<()> {
        wait_for("billing to be started", PATIENCE, async || {
            federation.start_workload(story::billing()).await
        })
        .await?;
        self.answered(self.billing, "/", 200, "west").await?;
        leave(federation, story::BILLING_WEST).await
    }

    async fn alone(&self, federation: &mut Federation, number: usize) -> anyhow::Result<()> {
        federation.crash_global().await?;
        let gone = async {
            self.calls().await?;
            self.apply(
                &self.west,
                &story::zone_timeout("crashes-west", 20 + number % 40),
            )
            .await?;
            self.delete(&self.west, "meshtimeout", "crashes-west").await
        }
        .await;
        federation.start_global().await?;
        gone
    }

    /// Whether every zone is in sync and every call goes where it should.
    async fn right(&self) -> anyhow::Result<()> {
        let overview = self.global.json(&["inspect", "zones"]).await?;
        for zone in ["east", "west"] {
            let state = story::zone_member(&overview, zone, "state");
            ensure!(state == "in-sync", "zone `{zone}` is {state}");
        }
        self.calls().await
    }

    /// The dataplanes that global knows and the services that each zone knows. `billing` comes and goes with its step.
    async fn owned(&self) -> anyhow::Result<Vec<String>> {
        let mut names = Vec::new();
        for (zonal, at, kind) in [
            (&self.global, "global", "dataplanes"),
            (&self.east, "east", "meshservices"),
            (&self.west, "west", "meshservices"),
        ] {
            let list = zonal.json(&["get", kind, "--mesh", "default"]).await?;
            let items = list.get("items").and_then(Value::as_array);
            for item in items.with_context(|| format!("no items: {list}"))? {
                let name = item.get("name").and_then(Value::as_str).unwrap_or_default();
                if !name.starts_with("billing") {
                    names.push(format!("{kind} at {at}: {name}"));
                }
            }
        }
        names.sort();
        Ok(names)
    }
}
