//! MeshTrace: spans of requests, sent to a collector.

use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::trace::v3::{
    DatadogConfig, ZipkinConfig, tracing, zipkin_config::CollectorEndpointVersion,
};
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::http_connection_manager::Tracing;
use kds_proto::envoy::r#type::tracing::v3::{CustomTag, custom_tag};
use kds_proto::envoy::r#type::v3::Percent;
use pbjson_types::Any;
use serde::Deserialize;
use serde_json::Value;
use zonal_model::{Kind, labels};

use crate::access_log::{workload, workload_kri};
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::{address, any, boolean, cluster, endpoints};
use crate::view::ProxyView;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    backends: Vec<Backend>,
    sampling: Option<Sampling>,
    tags: Vec<Tag>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Backend {
    #[serde(rename = "type")]
    kind: String,
    zipkin: Option<Zipkin>,
    datadog: Option<Datadog>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Zipkin {
    url: String,
    #[serde(default)]
    api_version: Option<String>,
    #[serde(default)]
    shared_span_context: Option<bool>,
    #[serde(default, rename = "traceId128bit")]
    trace_id_128bit: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
struct Datadog {
    url: String,
    #[serde(default)]
    split_service: Option<bool>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Sampling {
    overall: Value,
    client: Value,
    random: Value,
}

#[derive(Clone, Debug, Deserialize)]
struct Tag {
    name: String,
    #[serde(default)]
    literal: Option<String>,
    #[serde(default)]
    header: Option<HeaderTag>,
}

#[derive(Clone, Debug, Deserialize)]
struct HeaderTag {
    name: String,
    #[serde(default)]
    default: Option<String>,
}

/// Where a traced connection manager stands.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Span<'a> {
    /// Into the workload.
    Inbound,
    /// Out of it, towards this destination.
    Outbound(&'a str),
    /// Through a zone proxy.
    ZoneProxy,
}

/// A collector's address, out of its URL.
struct Collector {
    cluster: String,
    host: String,
    port: u16,
    authority: String,
    path: String,
    secure: bool,
}

impl Collector {
    fn parse(kind: &str, url: &str) -> Option<Self> {
        let (scheme, rest) = url.split_once("://")?;
        let secure = scheme == "https";
        let (authority, path) = match rest.find('/') {
            Some(at) => rest.split_at(at),
            None => (rest, ""),
        };
        let (host, port) = match authority.rsplit_once(':') {
            Some((host, port)) => (host, port.parse().ok()?),
            None => (authority, if secure { 443 } else { 80 }),
        };
        let clean: String = url
            .chars()
            .map(|c| {
                if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-' {
                    c
                } else {
                    '-'
                }
            })
            .collect();
        Some(Self {
            cluster: format!("system_meshtrace_{kind}_{clean}"),
            host: host.trim_matches(['[', ']']).to_owned(),
            port,
            authority: authority.to_owned(),
            path: path.to_owned(),
            secure,
        })
    }
}

fn conf(view: &ProxyView<'_>) -> Option<Conf> {
    let rule = view.policies.kind(Kind::MeshTrace).proxy.as_ref()?;
    let conf = Conf::deserialize(&rule.conf).ok()?;
    (!conf.backends.is_empty()).then_some(conf)
}

/// Puts the collector's cluster.
pub(crate) fn generate(view: &ProxyView<'_>, out: &mut Generated) {
    let Some(conf) = conf(view) else { return };
    for backend in &conf.backends {
        let Some((collector, _)) = backend.collector() else {
            out.problem(
                "MeshTrace",
                format!("backends of type {} have no effect in this version, or their URL cannot be read", backend.kind),
            );
            continue;
        };
        let host = address::socket(&collector.host, u32::from(collector.port));
        let hosts = endpoints::fixed(&collector.cluster, host);
        let by_address = collector.host.parse::<std::net::IpAddr>().is_ok();
        let mut message: Cluster = if by_address {
            cluster::fixed(&collector.cluster, hosts, CONNECT_TIMEOUT)
        } else {
            cluster::looked_up(&collector.cluster, hosts, CONNECT_TIMEOUT)
        };
        if collector.secure {
            cluster::secure(
                &mut message,
                crate::external_tls::unverified(&collector.host),
            );
        }
        out.put(
            type_url::CLUSTER,
            &*collector.cluster,
            Encoded::new(&message),
        );
    }
}

/// How a connection manager traces; `None` where nothing is traced.
pub(crate) fn tracing(view: &ProxyView<'_>, span: Span<'_>) -> Option<Tracing> {
    let conf = conf(view)?;
    let sampling = conf.sampling.clone().unwrap_or_default();
    Some(Tracing {
        spawn_upstream_span: Some(boolean(false)),
        overall_sampling: percentage(&sampling.overall),
        client_sampling: percentage(&sampling.client),
        random_sampling: percentage(&sampling.random),
        custom_tags: tags(view, &conf.tags),
        provider: conf
            .backends
            .first()
            .and_then(|backend| backend.provider(view, span)),
        ..Tracing::default()
    })
}

fn percentage(value: &Value) -> Option<Percent> {
    let value = match value {
        Value::Number(number) => number.as_f64()?,
        Value::String(text) => text.parse().ok()?,
        _ => return None,
    };
    Some(Percent { value })
}

fn tags(view: &ProxyView<'_>, given: &[Tag]) -> Vec<CustomTag> {
    let literal = |tag: &str, value: String| CustomTag {
        tag: tag.to_owned(),
        r#type: Some(custom_tag::Type::Literal(custom_tag::Literal { value })),
    };
    let mut made: Vec<CustomTag> = given
        .iter()
        .map(|tag| match &tag.header {
            Some(header) => CustomTag {
                tag: tag.name.clone(),
                r#type: Some(custom_tag::Type::RequestHeader(custom_tag::Header {
                    name: header.name.clone(),
                    default_value: header.default.clone().unwrap_or_default(),
                })),
            },
            None => literal(&tag.name, tag.literal.clone().unwrap_or_default()),
        })
        .collect();
    let zone = view
        .dataplane
        .labels
        .get(labels::ZONE)
        .cloned()
        .unwrap_or_default();
    for (name, value) in [
        ("kuma.mesh", view.mesh.to_owned()),
        ("kuma.zone", zone),
        ("kuma.workload", workload_kri(view)),
    ] {
        if !value.is_empty() && made.iter().all(|tag| tag.tag != name) {
            made.push(literal(name, value));
        }
    }
    made
}

impl Backend {
    fn collector(&self) -> Option<(Collector, &str)> {
        let (kind, url) = match self.kind.as_str() {
            "Zipkin" => ("zipkin", &self.zipkin.as_ref()?.url),
            "Datadog" => ("datadog", &self.datadog.as_ref()?.url),
            _ => return None,
        };
        Some((Collector::parse(kind, url)?, url))
    }

    fn provider(&self, view: &ProxyView<'_>, span: Span<'_>) -> Option<tracing::Http> {
        let (collector, _) = self.collector()?;
        let provider = |name: &str, config: Any| tracing::Http {
            name: name.to_owned(),
            config_type: Some(tracing::http::ConfigType::TypedConfig(config)),
        };
        if let Some(zipkin) = &self.zipkin {
            let version = match zipkin.api_version.as_deref() {
                Some("httpProto") => CollectorEndpointVersion::HttpProto,
                _ => CollectorEndpointVersion::HttpJson,
            };
            let config = ZipkinConfig {
                collector_cluster: collector.cluster,
                collector_endpoint: collector.path,
                collector_hostname: collector.authority,
                collector_endpoint_version: version.into(),
                trace_id_128bit: zipkin.trace_id_128bit.unwrap_or_default(),
                shared_span_context: Some(boolean(zipkin.shared_span_context.unwrap_or(true))),
                ..ZipkinConfig::default()
            };
            return Some(provider("envoy.tracers.zipkin", any(&config)));
        }
        let datadog = self.datadog.as_ref()?;
        let service = match workload(view) {
            Some(workload) => workload.to_owned(),
            None if view.dataplane.inbounds.is_empty() => view.node.name.clone(),
            None => "unknown".to_owned(),
        };
        let service_name = match span {
            _ if datadog.split_service != Some(true) => service,
            Span::Inbound => format!("{service}_INBOUND"),
            Span::Outbound(destination) => format!("{service}_OUTBOUND_{destination}"),
            Span::ZoneProxy => service,
        };
        let config = DatadogConfig {
            collector_cluster: collector.cluster,
            service_name,
            ..DatadogConfig::default()
        };
        Some(provider("envoy.tracers.datadog", any(&config)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_collector_is_named_by_its_whole_url() {
        let collector = Collector::parse("zipkin", "http://jaeger.x:9411/a").unwrap();
        assert_eq!(
            collector.cluster,
            "system_meshtrace_zipkin_http---jaeger-x-9411-a"
        );
        assert_eq!(
            (&*collector.host, collector.port, &*collector.path),
            ("jaeger.x", 9411, "/a")
        );
        assert!(Collector::parse("zipkin", "jaeger").is_none());
    }
}
