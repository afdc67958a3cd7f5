//! MeshMetric: where Prometheus finds a proxy's metrics, and what its process should expose.

use std::time::Duration;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::listener::v3::Listener;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use zonal_model::{Kind, labels};

use crate::access_log::workload;
use crate::bootstrap::socket_path;
use crate::dataplane::ZoneRole;
use crate::dynamic_config::DynamicConfig;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, loopback_ranges};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{cluster, endpoints, listener, routes};
use crate::view::ProxyView;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    sidecar: Option<Value>,
    applications: Option<Vec<Application>>,
    backends: Option<Vec<Backend>>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Backend {
    #[serde(rename = "type")]
    kind: String,
    prometheus: Option<Prometheus>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct Prometheus {
    client_id: Option<String>,
    port: u16,
    path: Option<String>,
    tls: Option<Tls>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Tls {
    mode: String,
}

/// An application's own metrics; read from the policy and written for the process.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
struct Application {
    #[serde(skip_serializing_if = "Option::is_none")]
    name: Option<String>,
    path: String,
    port: u16,
    address: String,
}

#[derive(Debug, Serialize)]
struct Body {
    observability: Observability,
}

#[derive(Debug, Serialize)]
struct Observability {
    metrics: Metrics,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Metrics {
    applications: Option<Vec<Application>>,
    backends: Option<Vec<BackendBody>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sidecar: Option<SidecarBody>,
    extra_labels: Map<String, Value>,
}

#[derive(Debug, Serialize)]
struct BackendBody {
    #[serde(rename = "type")]
    kind: &'static str,
    name: Option<String>,
}

/// In the order in which the process's own definition has the members.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct SidecarBody {
    #[serde(skip_serializing_if = "Option::is_none")]
    profiles: Option<Profiles>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include_unused: Option<Value>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Profiles {
    #[serde(skip_serializing_if = "Option::is_none")]
    append_profiles: Option<Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    exclude: Option<Vec<Selector>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    include: Option<Vec<Selector>>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Selector {
    #[serde(rename = "type")]
    kind: String,
    r#match: String,
}

pub(crate) fn generate(view: &ProxyView<'_>, dynamic: &mut DynamicConfig, out: &mut Generated) {
    let Some(rule) = &view.policies.kind(Kind::MeshMetric).proxy else {
        return;
    };
    let Ok(conf) = Conf::deserialize(&rule.conf) else {
        out.problem(
            "MeshMetric",
            "the merged conf cannot be read; no metrics are exposed",
        );
        return;
    };
    let backends = conf.backends.clone().unwrap_or_default();
    if backends.is_empty() {
        return;
    }
    let mut prometheus = false;
    for backend in &backends {
        match (backend.kind.as_str(), &backend.prometheus) {
            ("Prometheus", Some(backend)) => {
                prometheus = true;
                put_prometheus(view, backend, out);
            }
            (other, _) => out.problem(
                "MeshMetric",
                format!("backends of type {other} have no effect in this version; use Prometheus"),
            ),
        }
    }
    let zone_proxy =
        view.dataplane.inbounds.is_empty() && !view.dataplane.zone_listeners.is_empty();
    dynamic.add(
        "meshmetric",
        &Body {
            observability: Observability {
                metrics: Metrics {
                    applications: conf
                        .applications
                        .filter(|_| !zone_proxy)
                        .filter(|list| !list.is_empty()),
                    backends: prometheus.then(|| {
                        vec![BackendBody {
                            kind: "Prometheus",
                            name: None,
                        }]
                    }),
                    sidecar: conf.sidecar.as_ref().map(sidecar),
                    extra_labels: extra_labels(view, zone_proxy),
                },
            },
        },
    );
}

fn put_prometheus(view: &ProxyView<'_>, backend: &Prometheus, out: &mut Generated) {
    if backend
        .tls
        .as_ref()
        .is_some_and(|tls| tls.mode == "ProvidedTLS")
    {
        out.problem(
            "MeshMetric",
            "tls.mode ProvidedTLS has no effect in this version; metrics are exposed without TLS",
        );
    }
    let id = backend.client_id.as_deref().unwrap_or("default-backend");
    let clean: String = id
        .chars()
        .map(|c| {
            if c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_' || c == '-' {
                c
            } else {
                '-'
            }
        })
        .collect();
    let name = format!("system_meshmetric_prometheus_{clean}");
    let port = if backend.port == 0 {
        5670
    } else {
        backend.port
    };
    if !out.claim(&view.dataplane.address, port, &name) {
        return;
    }
    let socket = socket_path(
        &view.node.work_dir,
        &format!("kuma-mh-{}-{}", view.node.name, view.mesh),
    );
    let process = Cluster {
        circuit_breakers: None,
        ..cluster::fixed(
            &name,
            endpoints::fixed(&name, address::pipe(&socket, 0)),
            CONNECT_TIMEOUT,
        )
    };
    out.put(type_url::CLUSTER, &*name, Encoded::new(&process));
    let path = backend.path.as_deref().unwrap_or("/metrics");
    let manager = http::manager(Manager {
        stat: name.clone(),
        side: Side::System,
        filters: Vec::new(),
        late_filters: Vec::new(),
        log: Vec::new(),
        tracing: None,
        grpc: false,
        routes: routes::configuration(
            "",
            &name,
            vec![routes::rewritten(path, "/meshmetric", &name)],
        ),
        internal: loopback_ranges(view.node.ipv6_enabled),
        request_headers_timeout: Duration::ZERO,
    });
    let message = Listener {
        filter_chains: vec![listener::chain(vec![manager])],
        ..listener::inbound(
            &name,
            address::socket(&view.dataplane.address, u32::from(port)),
            view.node.reuse_port(),
        )
    };
    out.put(type_url::LISTENER, name, Encoded::new(&message));
}

fn sidecar(conf: &Value) -> SidecarBody {
    let selectors = |value: Option<&Value>| {
        value
            .and_then(|list| Vec::<Selector>::deserialize(list).ok())
            .filter(|list| !list.is_empty())
    };
    SidecarBody {
        profiles: conf.get("profiles").map(|profiles| Profiles {
            append_profiles: profiles.get("appendProfiles").cloned(),
            exclude: selectors(profiles.get("exclude")),
            include: selectors(profiles.get("include")),
        }),
        include_unused: conf.get("includeUnused").cloned(),
    }
}

fn extra_labels(view: &ProxyView<'_>, zone_proxy: bool) -> Map<String, Value> {
    let has = |role| {
        view.dataplane
            .zone_listeners
            .iter()
            .any(|listener| listener.role == role)
    };
    let role = match (has(ZoneRole::Ingress), has(ZoneRole::Egress)) {
        (true, true) => "zone-proxy",
        (true, false) => "zone-ingress",
        (false, true) => "zone-egress",
        (false, false) => "sidecar",
    };
    let mut members = Map::new();
    let mut put = |key: &str, value: &str| {
        members.insert(key.to_owned(), Value::String(value.to_owned()));
    };
    put("kuma.proxy_role", role);
    if let Some(workload) = workload(view).filter(|_| !zone_proxy) {
        put("kuma.workload", workload);
    }
    put("mesh", view.mesh);
    if let Some(zone) = view.dataplane.labels.get(labels::ZONE) {
        put("zone", zone);
    }
    members
}
