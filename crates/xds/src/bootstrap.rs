//! What an Envoy starts with: who it is, and where to ask for the rest.
//!
//! The output is JSON, which every YAML reader takes as well.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use zonal_model::labels;

use crate::dataplane::Dataplane;
use crate::node::key;

/// What a proxy's process asks with.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Request {
    /// The mesh.
    pub mesh: String,
    /// The Dataplane's name.
    pub name: String,
    /// `dataplane` or empty; there is no other type of proxy.
    pub proxy_type: String,
    /// The content of the proxy's token. Not to be logged.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_token: Option<String>,
    /// Where the token is on the proxy's disk.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_token_path: Option<String>,
    /// The Dataplane, YAML or JSON; without it the stored one is meant.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_resource: Option<String>,
    /// Versions of the process and of its Envoy.
    pub version: Value,
    /// The authority that vouches for the control plane, PEM; empty means that of the connection.
    pub ca_cert: String,
    /// Free members of the metadata.
    pub dynamic_metadata: Option<BTreeMap<String, String>>,
    /// An inventory of environment variables for telemetry.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub otel_env: Option<Value>,
    /// The DNS proxy's port.
    pub dns_port: u16,
    /// The port that answers `/ready`.
    pub readiness_port: u16,
    /// `true` means that the probe proxy is *enabled*; the name is history and cannot change.
    pub app_probe_proxy_disabled: bool,
    /// Passed over.
    pub operating_system: String,
    /// What the process can do.
    pub features: Vec<String>,
    /// Folder of the process's sockets.
    pub workdir: String,
    /// Certificate of the metrics listener.
    pub metrics_resources: MetricsResources,
    /// The operating system's bundle of authorities.
    pub system_ca_path: String,
    /// Transparent proxying, as the process was told of it.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub dataplane_config: Option<Value>,
    /// Whether the host can use IPv6.
    pub ipv6_enabled: bool,
    /// The SPIRE agent.
    pub spire_resources: SpireResources,
}

/// Certificate of the metrics listener.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct MetricsResources {
    /// Where the certificate is.
    pub cert_path: String,
    /// Where its key is.
    pub key_path: String,
}

/// The SPIRE agent.
#[derive(Clone, Debug, Default, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpireResources {
    /// Its socket.
    pub socket_path: String,
}

/// What the control plane decides for all its proxies.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The host under which proxies reach the control plane: a name or an IP address.
    pub xds_host: String,
    /// The port.
    pub xds_port: u16,
    /// To establish the connection.
    pub connect_timeout: Duration,
    /// Where Envoy's admin interface listens when it uses no socket.
    pub admin_address: String,
    /// The admin port of a Dataplane that names none; zero means no admin interface.
    pub admin_port: u16,
    /// Whether Envoy's admin interface is a Unix socket in the work folder.
    pub admin_unix_socket: bool,
    /// The authority of the control plane's own certificate, PEM.
    pub ca_pem: String,
    /// Whether proxies report their workloads' health over Envoy's health discovery.
    pub health_discovery: bool,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            xds_host: "localhost".to_owned(),
            xds_port: 5678,
            connect_timeout: Duration::from_secs(1),
            admin_address: "127.0.0.1".to_owned(),
            admin_port: 9901,
            admin_unix_socket: true,
            ca_pem: String::new(),
            health_discovery: false,
        }
    }
}

/// A request that cannot be answered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// It does not say whom it is for.
    #[error("`{0}` must not be empty")]
    Missing(&'static str),
    /// There is only one type.
    #[error("unknown proxy type `{0}`; the only one is `dataplane`, also for zone proxies")]
    ProxyType(String),
    /// Neither side knows an authority.
    #[error("no certificate authority is known for this control plane; send one as `caCert`")]
    NoAuthority,
}

/// What Envoy takes out of the names of its statistics as tags: those of Kuma, for the same dashboards. Envoy tries each
/// on the name of every statistic of every listener and cluster it makes, with a slow engine, on the thread that takes
/// configuration; so they say where in the name they apply, which Kuma's do not (decision 17).
const STATS_TAGS: [(&str, &str); 4] = [
    ("name", r"^grpc\.((.+)\.)"),
    ("status", r"^grpc\..*streams_closed(_([0-9]+))"),
    ("worker", r"(worker_([0-9]+)\.)"),
    ("listener", r"^((.+?)\.)rbac\."),
];

/// Makes the bootstrap of the proxy of `dataplane`; `admin_port` is what the Dataplane says.
///
/// # Errors
/// The request is incomplete.
pub fn generate(
    request: &Request,
    dataplane: &Dataplane,
    admin_port: Option<u16>,
    settings: &Settings,
) -> Result<Value, Refusal> {
    if request.mesh.is_empty() {
        return Err(Refusal::Missing("mesh"));
    }
    if request.name.is_empty() {
        return Err(Refusal::Missing("name"));
    }
    if !matches!(request.proxy_type.as_str(), "" | "dataplane") {
        return Err(Refusal::ProxyType(request.proxy_type.clone()));
    }
    let ca_pem = if request.ca_cert.is_empty() {
        &settings.ca_pem
    } else {
        &request.ca_cert
    };
    if ca_pem.trim().is_empty() {
        return Err(Refusal::NoAuthority);
    }
    let admin_port = admin_port.unwrap_or(settings.admin_port);
    let admin_socket = socket_path(&request.workdir, "kuma-envoy-admin");
    let service = grpc_service(request);

    let mut bootstrap = json!({
        "node": {
            "id": format!("{}.{}", request.mesh, request.name),
            "cluster": dataplane.labels.get(labels::WORKLOAD).map_or("unknown", String::as_str),
            "metadata": metadata(request, admin_port, &admin_socket, settings),
        },
        "layeredRuntime": {"layers": [{"name": "kuma", "staticLayer": {
            "re2.max_program_size.error_level": 4_294_967_295_u32,
            "re2.max_program_size.warn_level": 1000,
        }}]},
        "defaultRegexEngine": {
            "name": "envoy.regex_engines.google_re2",
            "typedConfig": {"@type": "type.googleapis.com/envoy.extensions.regex_engines.v3.GoogleRE2"},
        },
        "statsConfig": {"statsTags": STATS_TAGS
            .iter()
            .map(|(name, regex)| json!({"tagName": name, "regex": regex}))
            .collect::<Vec<Value>>()},
        "dynamicResources": {
            "ldsConfig": from_ads(),
            "cdsConfig": from_ads(),
            "adsConfig": {
                "apiType": "DELTA_GRPC",
                "transportApiVersion": "V3",
                "setNodeOnFirstMessageOnly": true,
                "grpcServices": [service],
            },
        },
        "staticResources": {
            "secrets": [validation_secret(&settings.xds_host, ca_pem)],
            "clusters": [access_log_cluster(request, settings), control_plane_cluster(request, settings)],
        },
    });
    if let Value::Object(members) = &mut bootstrap {
        if settings.health_discovery {
            members.insert(
                "hdsConfig".to_owned(),
                json!({
                    "apiType": "GRPC",
                    "transportApiVersion": "V3",
                    "setNodeOnFirstMessageOnly": true,
                    "grpcServices": [grpc_service(request)],
                }),
            );
        }
        if admin_port != 0 {
            let address = if settings.admin_unix_socket {
                json!({"pipe": {"path": admin_socket, "mode": 0o600}})
            } else {
                socket_address(&settings.admin_address, admin_port)
            };
            members.insert("admin".to_owned(), json!({
                "address": address,
                "accessLog": [{"name": "envoy.access_loggers.file", "typedConfig": {
                    "@type": "type.googleapis.com/envoy.extensions.access_loggers.file.v3.FileAccessLog",
                    "path": "/dev/null",
                }}],
            }));
        }
    }
    Ok(bootstrap)
}

/// The answer to a process that asked for JSON: the bootstrap, and what the process itself has to know.
#[must_use]
pub fn answer(bootstrap: &Value, dataplane: &Dataplane) -> Value {
    json!({
        "bootstrap": STANDARD.encode(bootstrap.to_string()),
        "kumaSidecarConfiguration": {
            "networking": {"address": dataplane.address},
            "metrics": {"aggregate": null},
        },
    })
}

/// A Unix socket in the work folder; the system allows no more than about a hundred bytes.
///
/// ```
/// use zonal_xds::bootstrap::socket_path;
/// assert_eq!(socket_path("/run/zonal", "kuma-envoy-admin"), "/run/zonal/kuma-envoy-admin.sock");
/// ```
#[must_use]
pub fn socket_path(work_dir: &str, base: &str) -> String {
    const BYTES_MAX: usize = 98;
    let mut path = if work_dir.is_empty() {
        base.to_owned()
    } else {
        format!("{}/{base}", work_dir.trim_end_matches('/'))
    };
    let mut end = path.len().min(BYTES_MAX);
    while !path.is_char_boundary(end) {
        end -= 1;
    }
    path.truncate(end);
    path + ".sock"
}

fn from_ads() -> Value {
    json!({"ads": {}, "initialFetchTimeout": "0s", "resourceApiVersion": "V3"})
}

fn grpc_service(request: &Request) -> Value {
    let mut service = json!({"envoyGrpc": {"clusterName": "system_ads"}});
    if let (Some(token), Value::Object(members)) = (
        request
            .dataplane_token
            .as_ref()
            .filter(|token| !token.is_empty()),
        &mut service,
    ) {
        members.insert(
            "initialMetadata".to_owned(),
            json!([{"key": "authorization", "value": token.trim()}]),
        );
    }
    service
}

fn socket_address(address: &str, port: u16) -> Value {
    json!({"socketAddress": {"address": address, "portValue": port}})
}

fn seconds(duration: Duration) -> String {
    format!("{}s", duration.as_secs_f64())
}

/// A cluster that speaks HTTP/2 and notices a dead peer.
fn http2_cluster(
    name: &str,
    kind: &str,
    address: &Value,
    settings: &Settings,
) -> Map<String, Value> {
    let cluster = json!({
        "name": name,
        "type": kind,
        "connectTimeout": seconds(settings.connect_timeout),
        "upstreamConnectionOptions": {
            "tcpKeepalive": {"keepaliveProbes": 3, "keepaliveTime": 10, "keepaliveInterval": 10},
        },
        "typedExtensionProtocolOptions": {"envoy.extensions.upstreams.http.v3.HttpProtocolOptions": {
            "@type": "type.googleapis.com/envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
            "explicitHttpConfig": {"http2ProtocolOptions": {}},
        }},
        "loadAssignment": {
            "clusterName": name,
            "endpoints": [{"lbEndpoints": [{"endpoint": {"address": address}}]}],
        },
    });
    match cluster {
        Value::Object(members) => members,
        _ => Map::new(),
    }
}

fn access_log_cluster(request: &Request, settings: &Settings) -> Value {
    let path = socket_path(
        &request.workdir,
        &format!("kuma-al-{}-{}", request.name, request.mesh),
    );
    let pipe = json!({"pipe": {"path": path}});
    Value::Object(http2_cluster(
        "system_access_log_sink",
        "STATIC",
        &pipe,
        settings,
    ))
}

fn control_plane_cluster(request: &Request, settings: &Settings) -> Value {
    let host = settings.xds_host.trim_matches(['[', ']']);
    let is_address = host.parse::<std::net::IpAddr>().is_ok();
    let kind = if is_address { "STATIC" } else { "STRICT_DNS" };
    let mut cluster = http2_cluster(
        "system_ads",
        kind,
        &socket_address(host, settings.xds_port),
        settings,
    );
    if !is_address {
        // A name such as `localhost` may have an address on which nobody listens: with all of them Envoy takes the one
        // that answers.
        let family = if request.ipv6_enabled {
            "ALL"
        } else {
            "V4_ONLY"
        };
        cluster.insert("dnsLookupFamily".to_owned(), json!(family));
    }
    cluster.insert(
        "transportSocket".to_owned(),
        json!({"name": "envoy.transport_sockets.tls", "typedConfig": {
            "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
            "sni": host,
            "commonTlsContext": {
                "tlsParams": {"tlsMinimumProtocolVersion": "TLSv1_2"},
                "validationContextSdsSecretConfig": {"name": "cp_validation_ctx"},
            },
        }}),
    );
    Value::Object(cluster)
}

fn validation_secret(host: &str, ca_pem: &str) -> Value {
    let host = host.trim_matches(['[', ']']);
    json!({"name": "cp_validation_ctx", "validationContext": {
        "matchTypedSubjectAltNames": [
            {"sanType": "DNS", "matcher": {"exact": host}},
            {"sanType": "IP_ADDRESS", "matcher": {"exact": host}},
        ],
        "trustedCa": {"inlineBytes": STANDARD.encode(ca_pem)},
    }})
}

fn metadata(request: &Request, admin_port: u16, admin_socket: &str, settings: &Settings) -> Value {
    let mut version = request.version.clone();
    if let Value::Object(members) = &mut version {
        let dependencies: Map<String, Value> = request
            .dynamic_metadata
            .iter()
            .flatten()
            .filter_map(|(name, value)| {
                let name = name.strip_prefix("version.dependencies.")?;
                Some((name.to_owned(), json!(value)))
            })
            .collect();
        members
            .entry("dependencies")
            .or_insert(Value::Object(dependencies));
    }
    let mut members = Map::new();
    let mut put = |key: &str, value: Value| {
        members.insert(key.to_owned(), value);
    };
    put(
        key::VERSION,
        if version.is_object() {
            version
        } else {
            json!({})
        },
    );
    put(key::FEATURES, json!(request.features));
    put(key::WORK_DIR, json!(request.workdir));
    put(
        key::METRICS_CERT,
        json!(request.metrics_resources.cert_path),
    );
    put(key::METRICS_KEY, json!(request.metrics_resources.key_path));
    put(key::SYSTEM_CA, json!(request.system_ca_path));
    put(
        key::SPIRE_SOCKET,
        json!(request.spire_resources.socket_path),
    );
    put(key::IPV6, json!(request.ipv6_enabled));
    put(key::PROXY_TYPE, json!("dataplane"));
    if let Some(resource) = &request.dataplane_resource {
        put(key::RESOURCE, json!(resource));
    }
    if admin_port != 0 {
        put(key::ADMIN_PORT, json!(admin_port.to_string()));
        put(key::ADMIN_ADDRESS, json!(settings.admin_address));
        if settings.admin_unix_socket {
            put(key::ADMIN_SOCKET_PATH, json!(admin_socket));
        }
    }
    if request.dns_port != 0 {
        put(key::DNS_PORT, json!(request.dns_port.to_string()));
    }
    if request.readiness_port != 0 {
        put(
            key::READINESS_PORT,
            json!(request.readiness_port.to_string()),
        );
    }
    if request.app_probe_proxy_disabled {
        put(key::PROBE_PROXY, json!("true"));
    }
    if let Some(free) = request
        .dynamic_metadata
        .as_ref()
        .filter(|free| !free.is_empty())
    {
        put(key::DYNAMIC_METADATA, json!(free));
    }
    if let Some(config) = request
        .dataplane_config
        .as_ref()
        .filter(|config| config.is_object())
    {
        put(key::TRANSPARENT_PROXY, config.clone());
    }
    if let Some(inventory) = request
        .otel_env
        .as_ref()
        .filter(|inventory| inventory.is_object())
    {
        put(key::OTEL_ENV, inventory.clone());
    }
    Value::Object(members)
}

#[cfg(test)]
mod tests {
    use super::*;
    use zonal_model::{Json, Labels};

    fn dataplane() -> Dataplane {
        let spec = Json::parse(r#"{"networking":{"address":"10.0.0.1"}}"#).unwrap();
        let labels = Labels::from([(labels::WORKLOAD.to_owned(), "web".to_owned())]);
        Dataplane::from_spec(&spec, &labels).unwrap()
    }

    fn request() -> Request {
        Request {
            mesh: "default".into(),
            name: "web-1".into(),
            ca_cert: "PEM".into(),
            workdir: "/run/zonal".into(),
            dataplane_token: Some("token\n".into()),
            ..Request::default()
        }
    }

    #[test]
    fn statistics_are_tagged_as_by_kuma() {
        let kuma = [
            r"^grpc\.((.+)\.)",
            r"^grpc.*streams_closed(_([0-9]+))",
            r"(worker_([0-9]+)\.)",
            r"((.+?)\.)rbac\.",
        ];
        let names = [
            "grpc.ads_cluster.streams_closed_14",
            "grpc.ads_cluster.streams_total",
            "grpcs.streams_closed",
            "cluster.grpc.streams_closed_1",
            "server.worker_0.watchdog_miss",
            "listener.127.0.0.1_80.worker_12.downstream_cx_active",
            "listener_manager.worker_1.dispatcher.loop_duration_us",
            "self_inbound_dp_80.rbac.allowed",
            "http.self_inbound_dp_80.rbac.shadow_denied",
            "http.rbac.rbac.denied",
            "rbac.allowed",
            "cluster.kri_msvc_default_west__api_8080.upstream_cx_total",
        ];
        let mut tagged = 0;
        for ((tag, ours), theirs) in STATS_TAGS.iter().zip(kuma) {
            let [ours, theirs] = [ours, theirs].map(|text| regex::Regex::new(text).unwrap());
            for name in names {
                let groups = |regex: &regex::Regex| {
                    let found = regex.captures(name)?;
                    Some([1, 2].map(|group| found.get(group).map(|found| found.range())))
                };
                assert_eq!(groups(&ours), groups(&theirs), "{tag} of {name}");
                tagged += usize::from(groups(&ours).is_some());
            }
        }
        assert_eq!(tagged, 9);
    }

    #[test]
    fn the_token_goes_with_the_stream_and_nowhere_else() {
        let made = generate(&request(), &dataplane(), None, &Settings::default()).unwrap();
        let service = made
            .pointer("/dynamicResources/adsConfig/grpcServices/0")
            .unwrap();
        assert_eq!(
            service.pointer("/initialMetadata/0/value").unwrap(),
            "token"
        );
        assert_eq!(made.to_string().matches("token").count(), 1);
        assert_eq!(made.pointer("/node/cluster").unwrap(), "web");
    }

    #[test]
    fn a_host_name_is_looked_up_and_an_address_is_not() {
        #[track_caller]
        fn check(host: &str, want: &str) {
            let settings = Settings {
                xds_host: host.into(),
                ..Settings::default()
            };
            let made = generate(&request(), &dataplane(), None, &settings).unwrap();
            assert_eq!(
                made.pointer("/staticResources/clusters/1/type").unwrap(),
                want
            );
        }
        check("cp.example", "STRICT_DNS");
        check("127.0.0.1", "STATIC");
        check("[::1]", "STATIC");
    }

    #[test]
    fn incomplete_requests_are_refused_with_a_reason() {
        #[track_caller]
        fn check(change: impl FnOnce(&mut Request), want: &Refusal) {
            let mut request = request();
            change(&mut request);
            let got = generate(&request, &dataplane(), None, &Settings::default());
            assert_eq!(got.as_ref().unwrap_err(), want);
        }
        check(|r| r.mesh.clear(), &Refusal::Missing("mesh"));
        check(
            |r| r.proxy_type = "ingress".into(),
            &Refusal::ProxyType("ingress".into()),
        );
        check(|r| r.ca_cert.clear(), &Refusal::NoAuthority);
    }

    #[test]
    fn socket_paths_fit_the_system() {
        assert_eq!(
            socket_path("/run/zonal/", "kuma-envoy-admin"),
            "/run/zonal/kuma-envoy-admin.sock"
        );
        assert_eq!(socket_path(&"/long".repeat(30), "x").len(), 98 + 5);
    }
}
