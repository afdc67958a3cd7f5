//! What the data path counts.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{
    DescriptorEncoder, EncodeLabelSet, EncodeLabelValue, EncodeMetric, LabelValueEncoder,
};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::counter::{ConstCounter, Counter};
use prometheus_client::metrics::family::Family;
use prometheus_client::metrics::gauge::{ConstGauge, Gauge};
use prometheus_client::metrics::histogram::{Histogram, exponential_buckets};
use prometheus_client::registry::Registry;

use crate::outcome::Reason;
use crate::routes::{Ledger, Routes};

/// Counters of the data path. Made once, handed to the workers.
#[derive(Clone, Debug)]
pub struct Metrics {
    pub accepted: Counter,
    pub open: Gauge,
    pub hellos_open: Gauge,
    pub hello_seconds: Histogram,
    pub connect_seconds: Histogram,
    pub connect_retries: Counter,
    connections: Family<Ended, Counter>,
    limits: Family<Reached, Counter>,
}

/// A bound of the data path, for the metric of bounds that were reached.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Limit {
    /// All places for connections are taken; callers wait in the kernel's queue.
    Connections,
    /// The system gave no descriptor.
    Descriptors,
    Hellos,
    HellosPerSource,
    LocalPorts,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Ended {
    result: Word,
    reason: Word,
}

#[derive(Clone, Debug, PartialEq, Eq, Hash, EncodeLabelSet)]
struct Reached {
    limit: Word,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
struct Word(&'static str);

impl EncodeLabelValue for Word {
    fn encode(&self, encoder: &mut LabelValueEncoder<'_>) -> Result<(), fmt::Error> {
        self.0.encode(encoder)
    }
}

impl Limit {
    const ALL: [Self; 5] = [
        Self::Connections,
        Self::Descriptors,
        Self::Hellos,
        Self::HellosPerSource,
        Self::LocalPorts,
    ];

    const fn as_str(self) -> &'static str {
        match self {
            Self::Connections => "connections",
            Self::Descriptors => "descriptors",
            Self::Hellos => "hellos",
            Self::HellosPerSource => "hellos_per_source",
            Self::LocalPorts => "local_ports",
        }
    }
}

impl Metrics {
    /// Registers everything; each counter exists from the start.
    pub fn register(registry: &mut Registry) -> Self {
        let metrics = Self {
            accepted: Counter::default(),
            open: Gauge::default(),
            hellos_open: Gauge::default(),
            hello_seconds: Histogram::new(exponential_buckets(0.0005, 4.0, 9)),
            connect_seconds: Histogram::new(exponential_buckets(0.0001, 4.0, 9)),
            connect_retries: Counter::default(),
            connections: Family::default(),
            limits: Family::default(),
        };
        for reason in Reason::ALL {
            let _created = metrics.connections.get_or_create(&Ended::by(reason));
        }
        for limit in Limit::ALL {
            let _created = metrics.limits.get_or_create(&Reached {
                limit: Word(limit.as_str()),
            });
        }
        let ingress = registry.sub_registry_with_prefix("zonal_ingress");
        ingress.register(
            "accepted_connections",
            "Callers accepted; compare with `connections` to see what became of them",
            metrics.accepted.clone(),
        );
        ingress.register(
            "open_connections",
            "Callers connected now, unfinished hellos included",
            metrics.open.clone(),
        );
        ingress.register(
            "open_hellos",
            "Callers whose hello is not complete; a rise without traffic is an attack or a cut path",
            metrics.hellos_open.clone(),
        );
        ingress.register(
            "connections",
            "Connections that ended, by result and reason",
            metrics.connections.clone(),
        );
        ingress.register(
            "hello_seconds",
            "From accepting a caller to its complete hello; a rise means slow or lossy callers",
            metrics.hello_seconds.clone(),
        );
        ingress.register(
            "connect_seconds",
            "From the hello to a connection to an endpoint; a rise means busy endpoints",
            metrics.connect_seconds.clone(),
        );
        ingress.register(
            "connect_retries",
            "Connections for which a second endpoint was tried",
            metrics.connect_retries.clone(),
        );
        ingress.register(
            "limits_reached",
            "Times when a bound was reached; see the documentation for each one's setting",
            metrics.limits.clone(),
        );
        metrics
    }

    /// Counts the end of a connection.
    pub fn ended(&self, reason: Reason) {
        self.connections.get_or_create(&Ended::by(reason)).inc();
    }

    /// How many connections ended for this reason.
    pub fn ended_for(&self, reason: Reason) -> u64 {
        self.connections.get_or_create(&Ended::by(reason)).get()
    }

    /// Counts that a bound was reached.
    pub fn reached(&self, limit: Limit) {
        self.limits
            .get_or_create(&Reached {
                limit: Word(limit.as_str()),
            })
            .inc();
    }

    /// How often a bound was reached.
    pub fn reached_count(&self, limit: Limit) -> u64 {
        self.limits
            .get_or_create(&Reached {
                limit: Word(limit.as_str()),
            })
            .get()
    }
}

impl Ended {
    fn by(reason: Reason) -> Self {
        Self {
            result: Word(reason.outcome().as_str()),
            reason: Word(reason.as_str()),
        }
    }
}

/// Reads routes and traffic when somebody asks, so that moving bytes costs one addition.
#[derive(Debug)]
pub struct RouteCollector {
    pub routes: Arc<Routes>,
    pub ledger: Arc<Ledger>,
}

impl Collector for RouteCollector {
    fn encode(&self, mut encoder: DescriptorEncoder<'_>) -> Result<(), fmt::Error> {
        let table = self.routes.load();
        let count = |size: usize| ConstGauge::new(i64::try_from(size).unwrap_or(i64::MAX));
        let routes = count(table.routes.len());
        let metric = encoder.encode_descriptor(
            "zonal_ingress_routes",
            "Server names that are routed; a fall to 0 means that every caller is refused",
            None,
            routes.metric_type(),
        )?;
        routes.encode(metric)?;
        let endpoints = count(
            table
                .clusters
                .values()
                .map(|endpoints| endpoints.len())
                .sum(),
        );
        let metric = encoder.encode_descriptor(
            "zonal_ingress_endpoints",
            "Addresses behind all routes",
            None,
            endpoints.metric_type(),
        )?;
        endpoints.encode(metric)?;

        // Names are labels here against the custom: bytes per service are what this page is for,
        // and they are as few as the zone has services.
        let ledger = self.ledger.all();
        let mut metric = encoder.encode_descriptor(
            "zonal_ingress_bytes",
            "Bytes written, by server name and direction",
            None,
            MetricType::Counter,
        )?;
        for (sni, traffic) in &ledger {
            for (direction, bytes) in [
                ("to_service", &traffic.to_service),
                ("to_callers", &traffic.to_callers),
            ] {
                let labels = [
                    ("sni", sni.as_str()),
                    ("service", &*traffic.service),
                    ("direction", direction),
                ];
                let counter = ConstCounter::new(bytes.load(Ordering::Relaxed));
                counter.encode(metric.encode_family(&labels)?)?;
            }
        }
        let mut metric = encoder.encode_descriptor(
            "zonal_ingress_service_connections",
            "Connections established, by server name",
            None,
            MetricType::Counter,
        )?;
        for (sni, traffic) in &ledger {
            let labels = [("sni", sni.as_str()), ("service", &*traffic.service)];
            let counter = ConstCounter::new(traffic.connections.load(Ordering::Relaxed));
            counter.encode(metric.encode_family(&labels)?)?;
        }
        Ok(())
    }
}
