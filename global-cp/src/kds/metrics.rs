//! What is counted on zones' connections.

use prometheus_client::encoding::EncodeLabelSet;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::Gauge;
use zonal_federation::wire;
use zonal_model::Kind;
use zonal_process::metrics::Registry;

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfZone {
    zone: String,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct OfKind {
    zone: String,
    kind: String,
}

/// What is counted on zones' connections. Bounded by zones times kinds.
#[derive(Debug, Default)]
pub(super) struct KdsMetrics {
    streams: Family<OfZone, Gauge>,
    sent: Family<OfZone, Counter>,
    nacked: Family<OfKind, Counter>,
    refused: Family<OfKind, Counter>,
    rewritten: Counter,
}

impl KdsMetrics {
    pub(super) fn register(registry: &mut Registry) -> Self {
        let metrics = Self::default();
        let group = registry.sub_registry_with_prefix("kds");
        group.register(
            "zone_active_connections",
            "Downward streams of a zone; 0 means the zone is away",
            metrics.streams.clone(),
        );
        group.register(
            "responses_sent",
            "Messages offered to a zone",
            metrics.sent.clone(),
        );
        group.register(
            "nacks_received",
            "Messages of which a zone refused something; its log and the receipt say what",
            metrics.nacked.clone(),
        );
        group.register(
            "resources_refused",
            "Resources of a zone that were not kept; the log says why",
            metrics.refused.clone(),
        );
        group.register(
            "zone_attribution_rewrites",
            "Resources that claimed another zone than the one that sent them",
            metrics.rewritten.clone(),
        );
        metrics
    }

    pub(super) fn connected(&self, zone: &str) {
        self.streams
            .get_or_create(&OfZone {
                zone: zone.to_owned(),
            })
            .inc();
    }

    pub(super) fn disconnected(&self, zone: &str) {
        let labels = OfZone {
            zone: zone.to_owned(),
        };
        // None of a zone that was deleted meanwhile.
        if let Some(streams) = self.streams.get(&labels) {
            streams.dec();
        }
    }

    pub(super) fn sent(&self, zone: &str) {
        self.sent
            .get_or_create(&OfZone {
                zone: zone.to_owned(),
            })
            .inc();
    }

    pub(super) fn nacked(&self, zone: &str, kind: &str) {
        let labels = OfKind {
            zone: zone.to_owned(),
            kind: kind.to_owned(),
        };
        self.nacked.get_or_create(&labels).inc();
    }

    pub(super) fn refused(&self, zone: &str, kind: Kind, count: usize) {
        if count > 0 {
            let labels = OfKind {
                zone: zone.to_owned(),
                kind: kind.name().to_owned(),
            };
            self.refused.get_or_create(&labels).inc_by(count as u64);
        }
    }

    /// A zone that is gone has no figures.
    pub(super) fn forget(&self, zone: &str) {
        let labels = OfZone {
            zone: zone.to_owned(),
        };
        self.streams.remove(&labels);
        self.sent.remove(&labels);
        for kind in Kind::ALL {
            for kind in [kind.name().to_owned(), wire::type_url(*kind).to_string()] {
                let labels = OfKind {
                    zone: zone.to_owned(),
                    kind,
                };
                self.nacked.remove(&labels);
                self.refused.remove(&labels);
            }
        }
    }

    pub(super) fn rewritten(&self, count: usize) {
        self.rewritten.inc_by(count as u64);
    }
}
