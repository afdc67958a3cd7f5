//! Crashes, restarts and a look inside, for stories about what goes wrong.

use std::time::Duration;

use anyhow::Context as _;
use serde_json::Value;
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;

use super::{Federation, write_secret};
use crate::crashes::Victim;
use crate::process::Process;

impl Federation {
    /// Crashes the global control plane (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub async fn crash_global(&mut self) -> anyhow::Result<()> {
        let mut process = self.global.take().context("global-cp does not run")?;
        process.crash().await
    }

    /// Crashes a zone's control plane (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub async fn crash_zone(&mut self, zone: &str) -> anyhow::Result<()> {
        let process = self
            .zones
            .get_mut(zone)
            .and_then(|zone| zone.control_plane.take());
        process
            .with_context(|| format!("zone-cp of `{zone}` does not run"))?
            .crash()
            .await
    }

    /// Crashes a zone's ingress (SIGKILL).
    ///
    /// # Errors
    /// It does not run.
    pub async fn crash_ingress(&mut self, zone: &str) -> anyhow::Result<()> {
        let process = self
            .zones
            .get_mut(zone)
            .and_then(|zone| zone.ingress.take());
        process
            .with_context(|| format!("zone-ingress of `{zone}` does not run"))?
            .crash()
            .await
    }

    /// Starts a zone's ingress again as it was registered before; asks no control plane for anything.
    ///
    /// # Errors
    /// It was never started, or does not become ready.
    pub async fn restart_ingress(&mut self, zone: &str) -> anyhow::Result<Duration> {
        self.run_ingress(zone).await
    }

    /// Crashes a workload's sidecar (SIGKILL); its Envoy goes with it.
    ///
    /// # Errors
    /// It does not run.
    pub async fn crash_sidecar(&mut self, proxy: &str) -> anyhow::Result<()> {
        let mut sidecar = self
            .workload(proxy)?
            .sidecar
            .take()
            .with_context(|| format!("`{proxy}` has no sidecar"))?;
        sidecar.crash().await
    }

    /// Starts a workload's sidecar again; does not wait for it.
    ///
    /// # Errors
    /// There is no such workload, or it cannot be started.
    pub async fn restart_sidecar(&mut self, proxy: &str) -> anyhow::Result<()> {
        let spec = self.workload(proxy)?.spec.clone();
        let sidecar = self.start_sidecar_of(&spec).await?;
        self.workload(proxy)?.sidecar = Some(sidecar);
        Ok(())
    }

    /// Crashes only the Envoy of a workload (SIGKILL).
    ///
    /// # Errors
    /// The sidecar does not run, or has no Envoy.
    pub fn crash_envoy(&mut self, proxy: &str) -> anyhow::Result<()> {
        let sidecar = self.workload(proxy)?.sidecar.as_ref();
        let killed = sidecar.map_or(Ok(0), Process::crash_children)?;
        anyhow::ensure!(killed > 0, "`{proxy}` has no Envoy");
        Ok(())
    }

    /// Starts the application of a workload again after it was killed.
    ///
    /// # Errors
    /// There is no such workload, or it cannot be started.
    pub fn restart_application(&mut self, proxy: &str) -> anyhow::Result<()> {
        let spec = self.workload(proxy)?.spec.clone();
        let application = self.start_application_of(&spec)?;
        self.workload(proxy)?.application = Some(application);
        Ok(())
    }

    /// Where a process is kept, so that it can be taken out, disturbed and put back; `None` where there is no such zone
    /// or workload.
    pub(crate) fn place(&mut self, victim: &Victim) -> Option<&mut Option<Process>> {
        match victim {
            Victim::Global => Some(&mut self.global),
            Victim::ZoneControlPlane(zone) => Some(&mut self.zones.get_mut(zone)?.control_plane),
            Victim::Ingress(zone) => Some(&mut self.zones.get_mut(zone)?.ingress),
            Victim::Application(proxy) => Some(&mut self.workloads.get_mut(proxy)?.application),
            Victim::Sidecar(proxy) | Victim::Envoy(proxy) => {
                Some(&mut self.workloads.get_mut(proxy)?.sidecar)
            }
        }
    }

    /// Every process that runs, in a fixed order.
    pub(crate) fn victims(&self) -> Vec<Victim> {
        let zones = self.zones.keys().flat_map(|zone| {
            [
                Victim::ZoneControlPlane(zone.clone()),
                Victim::Ingress(zone.clone()),
            ]
        });
        let workloads = self.workloads.keys().flat_map(|proxy| {
            [
                Victim::Sidecar(proxy.clone()),
                Victim::Envoy(proxy.clone()),
                Victim::Application(proxy.clone()),
            ]
        });
        std::iter::once(Victim::Global)
            .chain(zones)
            .chain(workloads)
            .collect()
    }

    /// Everything a process has logged.
    #[must_use]
    pub fn log(&self, process: &str) -> String {
        std::fs::read_to_string(self.logs().join(format!("{process}.log"))).unwrap_or_default()
    }

    /// What a workload's sidecar says about itself.
    ///
    /// # Errors
    /// There is no such workload, or its sidecar does not answer.
    pub async fn sidecar_status(&mut self, proxy: &str) -> anyhow::Result<Value> {
        let spec = self.workload(proxy)?.spec.clone();
        let url = format!(
            "http://{}/status",
            self.address(&spec.zone, spec.host, 9902)?
        );
        let response = reqwest::get(&url)
            .await
            .with_context(|| format!("no answer from `{url}`"))?;
        response.json().await.context("the status is no JSON")
    }

    /// The counters of a workload's Envoy whose names match a regular expression, one `name: value` each, sorted.
    ///
    /// # Errors
    /// Its Envoy does not answer.
    pub async fn envoy_counters(
        &self,
        proxy: &str,
        expression: &str,
    ) -> anyhow::Result<Vec<String>> {
        let path = self
            .folder()
            .join(format!("sidecar-{proxy}"))
            .join("kuma-envoy-admin.sock");
        let ask = async {
            let mut stream = UnixStream::connect(&path)
                .await
                .with_context(|| format!("cannot connect to `{}`", path.display()))?;
            let request = format!(
                "GET /stats?filter={expression} HTTP/1.1\r\nhost: envoy\r\nconnection: close\r\n\r\n"
            );
            stream.write_all(request.as_bytes()).await?;
            let mut answer = String::new();
            stream.read_to_string(&mut answer).await?;
            anyhow::Ok(answer)
        };
        let answer = tokio::time::timeout(Duration::from_secs(10), ask)
            .await
            .context("Envoy's admin interface does not answer within 10 s")??;
        let (_, body) = answer
            .split_once("\r\n\r\n")
            .context("an answer without a body")?;
        let mut counters: Vec<String> = body
            .lines()
            .map(str::trim)
            .filter(|line| line.contains(": "))
            .map(str::to_owned)
            .collect();
        counters.sort();
        Ok(counters)
    }

    /// Lays a zone token where the control plane of `shown_by` looks for its own.
    ///
    /// # Errors
    /// Global does not give one out.
    pub async fn zone_token(&self, made_for: &str, shown_by: &str) -> anyhow::Result<()> {
        let home = self.home(&format!("zone-cp-{shown_by}"))?;
        let text = self
            .at_global()
            .run(&["token", "zone", "--zone", made_for])
            .await?;
        write_secret(&home.join("zone-token"), text.trim())
    }
}
