//! What a zone's control plane counts.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use jiff::Timestamp;
use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use zonal_process::CancellationToken;
use zonal_process::metrics::Registry;
use zonal_rest::CommitTimes;
use zonal_store::{Revision, Store};

use crate::convergence::Convergence;

/// Commits whose last ACK is waited for at once; a flood of further ones is measured by its newest.
const WAITING_MAX: usize = 256;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfType {
    r#type: String,
}

type ByType = Family<OfType, Counter>;

/// What a zone's control plane counts. Labelled by nothing but the types of Envoy resources, so its size is fixed.
/// Cheap to clone; the clones count together.
#[derive(Clone, Debug)]
pub struct ZoneMetrics {
    proxies: Gauge,
    generations: Counter,
    changed: Counter,
    generation_seconds: Histogram,
    responses: ByType,
    acks: ByType,
    nacks: ByType,
    ack_seconds: Histogram,
    derived_commits: Counter,
    derived_resources: Counter,
    certificates: Counter,
    certificate_expiry: Gauge,
    names_failed: Counter,
    removed_offline: Counter,
}

impl Default for ZoneMetrics {
    fn default() -> Self {
        Self {
            proxies: Gauge::default(),
            generations: Counter::default(),
            changed: Counter::default(),
            generation_seconds: Histogram::new(exponential_buckets(0.000_1, 2.0, 14)),
            responses: Family::default(),
            acks: Family::default(),
            nacks: Family::default(),
            ack_seconds: Histogram::new(exponential_buckets(0.001, 2.0, 16)),
            derived_commits: Counter::default(),
            derived_resources: Counter::default(),
            certificates: Counter::default(),
            certificate_expiry: Gauge::default(),
            names_failed: Counter::default(),
            removed_offline: Counter::default(),
        }
    }
}

impl ZoneMetrics {
    /// Registers the metrics under `zone_…`.
    #[must_use]
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let group = registry.sub_registry_with_prefix("zone");
        group.register(
            "proxies",
            "Proxies connected now; the rest of the Dataplanes run with what they have",
            metrics.proxies.clone(),
        );
        group.register(
            "generations",
            "Configurations computed",
            metrics.generations.clone(),
        );
        group.register(
            "generations_changed",
            "Configurations computed that differ from the one before; much fewer than `generations` means wasted work",
            metrics.changed.clone(),
        );
        group.register(
            "generation_seconds",
            "Time to compute one proxy's configuration",
            metrics.generation_seconds.clone(),
        );
        group.register(
            "xds_responses",
            "Responses sent to proxies",
            metrics.responses.clone(),
        );
        group.register(
            "xds_acks",
            "Responses that proxies took",
            metrics.acks.clone(),
        );
        group.register(
            "xds_nacks",
            "Responses that proxies refused; the log and the receipts say who and why",
            metrics.nacks.clone(),
        );
        group.register(
            "commit_to_ack_seconds",
            "Time from a commit of the zone's store to the ACK of the last proxy that it concerns",
            metrics.ack_seconds.clone(),
        );
        group.register(
            "derived_commits",
            "Commits of what follows from other resources: services, workloads, addresses, names, authorities",
            metrics.derived_commits.clone(),
        );
        group.register(
            "derived_resources",
            "Resources written by those commits",
            metrics.derived_resources.clone(),
        );
        group.register(
            "certificates_issued",
            "Certificates issued to proxies",
            metrics.certificates.clone(),
        );
        group.register(
            "certificate_expiry_timestamp_seconds",
            "When the first of the proxies' certificates ends, as Unix time; 0 without certificates. In the past it means that renewal fails",
            metrics.certificate_expiry.clone(),
        );
        group.register(
            "name_lookups_failed",
            "Host names of Dataplanes and MeshZoneAddresses that could not be looked up; the last good address is kept",
            metrics.names_failed.clone(),
        );
        group.register(
            "offline_dataplanes_removed",
            "Dataplanes removed because their proxies were away for very long",
            metrics.removed_offline.clone(),
        );
        metrics
    }

    pub(crate) fn connected(&self, proxies: usize) {
        self.proxies.set(i64::try_from(proxies).unwrap_or(i64::MAX));
    }

    pub(crate) fn generated(&self, took: Duration, is_changed: bool) {
        self.generations.inc();
        self.generation_seconds.observe(took.as_secs_f64());
        if is_changed {
            self.changed.inc();
        }
    }

    pub(crate) fn responded(&self, type_url: &str) {
        self.responses.get_or_create(&of_type(type_url)).inc();
    }

    pub(crate) fn acked(&self, type_url: &str) {
        self.acks.get_or_create(&of_type(type_url)).inc();
    }

    pub(crate) fn nacked(&self, type_url: &str) {
        self.nacks.get_or_create(&of_type(type_url)).inc();
    }

    pub(crate) fn derived(&self, resources: usize) {
        self.derived_commits.inc();
        self.derived_resources.inc_by(resources as u64);
    }

    pub(crate) fn certified(&self) {
        self.certificates.inc();
    }

    pub(crate) fn first_expiry(&self, at: Option<Timestamp>) {
        self.certificate_expiry
            .set(at.map_or(0, Timestamp::as_second));
    }

    pub(crate) fn lookup_failed(&self) {
        self.names_failed.inc();
    }

    pub(crate) fn offline_removed(&self) {
        self.removed_offline.inc();
    }

    /// Measures from each commit to its last ACK, until `stop`. A commit that concerns nobody, or that a proxy refuses,
    /// is not measured.
    pub(crate) async fn follow(
        self,
        store: Arc<dyn Store>,
        times: CommitTimes,
        convergence: Convergence,
        stop: CancellationToken,
    ) {
        let mut watch = store.watch();
        let mut changes = convergence.changes();
        let mut waiting: VecDeque<(Revision, Revision)> = VecDeque::new();
        loop {
            // A revision is in use only when everything before it is, so the oldest answers first.
            while let Some(&(after, up_to)) = waiting.front() {
                let receipt = convergence.receipt(after, up_to);
                let is_refused = !receipt.nacks.is_empty();
                if receipt.converged_at.is_none() && !is_refused {
                    break;
                }
                waiting.pop_front();
                let known = receipt.converged_at.zip(times.of(up_to));
                if let Some((at, committed)) = known
                    && receipt.affected > 0
                {
                    let took = at.duration_since(committed).as_secs_f64();
                    self.ack_seconds.observe(took.max(0.0));
                }
            }
            tokio::select! {
                () = stop.cancelled() => return,
                changed = watch.next() => {
                    let Ok(changed) = changed else { return };
                    waiting.push_back((changed.from.revision(), changed.to.revision()));
                    if waiting.len() > WAITING_MAX {
                        waiting.pop_front();
                    }
                }
                () = changes.wait() => {}
            }
        }
    }
}

/// `…/envoy.config.cluster.v3.Cluster` is `Cluster`.
fn of_type(type_url: &str) -> OfType {
    let name = type_url.rsplit(['.', '/']).next().unwrap_or(type_url);
    OfType {
        r#type: name.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn types_are_told_by_their_last_word() {
        let mut registry = Registry::default();
        let metrics = ZoneMetrics::register(&mut registry);
        metrics.acked("type.googleapis.com/envoy.config.cluster.v3.Cluster");
        let text = zonal_process::metrics::render(&registry);
        assert!(
            text.contains("zone_xds_acks_total{type=\"Cluster\"} 1"),
            "{text}"
        );
    }
}
