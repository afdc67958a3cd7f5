//! Metrics: one registry per process, rendered as text.

use prometheus_client::encoding::text::encode;
use prometheus_client::metrics::counter::Counter;
use prometheus_client::metrics::gauge::Gauge;
pub use prometheus_client::registry::Registry;

/// The content type of [`render`]'s text.
pub const CONTENT_TYPE: &str = "application/openmetrics-text; version=1.0.0; charset=utf-8";

/// Renders every metric of the registry.
pub fn render(registry: &Registry) -> String {
    let mut text = String::new();
    // Writing to a string cannot fail; a metric that cannot be encoded ends the page where it stands.
    if encode(&mut text, registry).is_err() {
        tracing::warn!("a metric could not be rendered");
    }
    text
}

/// What a listener counts. Made by the caller's registry and handed to [`crate::net::serve`].
#[derive(Clone, Debug, Default)]
pub struct ListenerMetrics {
    /// Connections open now.
    pub open: Gauge,
    /// Connections accepted since the start.
    pub accepted: Counter,
    /// Handshakes that failed or took too long.
    pub handshakes_failed: Counter,
    /// Times when a connection had to wait because all permits were taken.
    pub full: Counter,
}

impl ListenerMetrics {
    /// Registers the metrics under `listener_<name>_…`.
    pub fn register(registry: &mut Registry, name: &str) -> Self {
        let metrics = Self::default();
        let group = registry.sub_registry_with_prefix(format!("listener_{name}"));
        group.register("connections", "Connections open now", metrics.open.clone());
        group.register("accepted", "Connections accepted", metrics.accepted.clone());
        group.register(
            "handshakes_failed",
            "TLS handshakes that failed; a rise means clients that do not trust us, or a scanner",
            metrics.handshakes_failed.clone(),
        );
        group.register(
            "full",
            "Times when all connection permits were taken; a rise means the limit is too low",
            metrics.full.clone(),
        );
        metrics
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn metrics_render_with_help() {
        let mut registry = Registry::default();
        let metrics = ListenerMetrics::register(&mut registry, "rest");
        metrics.accepted.inc();
        let text = render(&registry);
        assert!(text.contains("listener_rest_accepted_total 1"), "{text}");
        assert!(
            text.contains("# HELP listener_rest_connections Connections open now"),
            "{text}"
        );
    }
}
