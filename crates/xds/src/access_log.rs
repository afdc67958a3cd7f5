//! MeshAccessLog: who logs what of a connection or request, in which words.

use kds_proto::envoy::config::accesslog::v3::access_log_filter::FilterSpecifier;
use kds_proto::envoy::config::accesslog::v3::{
    AccessLog, AccessLogFilter, ExtensionFilter, MetadataFilter, access_log, extension_filter,
};
use kds_proto::envoy::config::core::v3::{
    DataSource, SubstitutionFormatString, data_source::Specifier,
    substitution_format_string::Format,
};
use kds_proto::envoy::extensions::access_loggers::file::v3::{
    FileAccessLog, file_access_log::AccessLogFormat,
};
use kds_proto::envoy::extensions::access_loggers::filters::cel::v3::ExpressionFilter;
use kds_proto::envoy::extensions::filters::http::lua::v3::Lua;
use kds_proto::envoy::extensions::filters::network::http_connection_manager::v3::HttpFilter;
use kds_proto::envoy::r#type::matcher::v3::{
    MetadataMatcher, StringMatcher, ValueMatcher,
    metadata_matcher::{PathSegment, path_segment::Segment},
    string_matcher::MatchPattern as TextPattern,
    value_matcher::{MatchPattern, NullMatch},
};
use kds_proto::google::protobuf::{Struct, value};
use serde::Deserialize;
use serde_json::Value;
use zonal_model::{Kind, Kri, labels};
use zonal_policy::InboundRule;
use zonal_policy::conf::{Match, SpiffeMatchKind};

use crate::bootstrap::socket_path;
use crate::encoded::Generated;
use crate::envoy::{any, boolean, http, text, text_struct};
use crate::view::ProxyView;

const NETWORK_FORMAT: &str = "[%START_TIME%] %RESPONSE_FLAGS% %KUMA_MESH% %KUMA_SOURCE_ADDRESS_WITHOUT_PORT%(%KUMA_SOURCE_SERVICE%)->%UPSTREAM_HOST%(%KUMA_DESTINATION_SERVICE%) took %DURATION%ms, sent %BYTES_SENT% bytes, received: %BYTES_RECEIVED% bytes";
const HTTP_FORMAT: &str = r#"[%START_TIME%] %KUMA_MESH% "%REQ(:METHOD)% %REQ(X-ENVOY-ORIGINAL-PATH?:PATH)% %PROTOCOL%" %RESPONSE_CODE% %RESPONSE_FLAGS% %BYTES_RECEIVED% %BYTES_SENT% %DURATION% %RESP(X-ENVOY-UPSTREAM-SERVICE-TIME)% "%REQ(X-FORWARDED-FOR)%" "%REQ(USER-AGENT)%" "%REQ(X-B3-TRACEID?X-DATADOG-TRACEID)%" "%REQ(X-REQUEST-ID)%" "%REQ(:AUTHORITY)%" "%KUMA_SOURCE_SERVICE%" "%KUMA_DESTINATION_SERVICE%" "%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%" "%UPSTREAM_HOST%""#;
const FILE: &str = "envoy.access_loggers.file";
/// Copies the identifier of the route into what access logs can look at.
const REMEMBER_ROUTE: &str = "function envoy_on_request(handle)\n  local meta = handle:metadata():get(\"route_kri\")\n  if meta ~= nil then\n    handle:streamInfo():dynamicMetadata():set(\"kuma.routes\", \"route_kri\", meta)\n  end\nend\n";
/// The filter whose metadata on a route holds the route's identifier.
pub(crate) const LUA: &str = "envoy.filters.http.lua";
pub(crate) const ROUTE_KEY: &str = "route_kri";
const ROUTES: &str = "kuma.routes";

/// Where traffic is seen.
#[derive(Clone, Debug)]
pub(crate) struct Place {
    /// Whose it is, as far as that is known here.
    pub(crate) source: String,
    /// Where it goes.
    pub(crate) destination: String,
    /// `INBOUND`, `OUTBOUND` or `UNSPECIFIED`.
    pub(crate) direction: &'static str,
    /// The words where the policy gives none.
    pub(crate) default_format: &'static str,
}

impl Place {
    pub(crate) fn inbound(destination: String, is_http: bool) -> Self {
        let source = "unknown".to_owned();
        Self {
            source,
            destination,
            direction: "INBOUND",
            default_format: default_format(is_http),
        }
    }

    pub(crate) fn zone_proxy() -> Self {
        let unknown = || "unknown".to_owned();
        Self {
            source: unknown(),
            destination: unknown(),
            direction: "UNSPECIFIED",
            default_format: NETWORK_FORMAT,
        }
    }

    pub(crate) fn outbound(view: &ProxyView<'_>, destination: String, is_http: bool) -> Self {
        Self {
            source: workload(view).unwrap_or("unknown").to_owned(),
            destination,
            direction: "OUTBOUND",
            default_format: default_format(is_http),
        }
    }

    pub(crate) fn passthrough(view: &ProxyView<'_>) -> Self {
        Self {
            default_format: "tcp",
            ..Self::outbound(view, "external".to_owned(), false)
        }
    }
}

fn default_format(is_http: bool) -> &'static str {
    if is_http { HTTP_FORMAT } else { NETWORK_FORMAT }
}

pub(crate) fn workload<'v>(view: &ProxyView<'v>) -> Option<&'v str> {
    view.dataplane
        .labels
        .get(labels::WORKLOAD)
        .map(String::as_str)
}

/// The identifier of the proxy's workload.
pub(crate) fn workload_kri(view: &ProxyView<'_>) -> String {
    let Some(name) = workload(view) else {
        return String::new();
    };
    let label = |key| view.dataplane.labels.get(key).cloned().unwrap_or_default();
    Kri {
        kind: Kind::Workload,
        mesh: view.mesh.to_owned(),
        zone: label(labels::ZONE),
        namespace: label(labels::NAMESPACE),
        name: name.to_owned(),
        section: String::new(),
    }
    .to_string()
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Conf {
    backends: Vec<Backend>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
struct Backend {
    #[serde(rename = "type")]
    kind: String,
    file: Option<FileConf>,
    tcp: Option<TcpConf>,
}

#[derive(Clone, Debug, Deserialize)]
struct FileConf {
    path: String,
    #[serde(default)]
    format: Option<FormatConf>,
}

#[derive(Clone, Debug, Deserialize)]
struct TcpConf {
    address: String,
    #[serde(default)]
    format: Option<FormatConf>,
}

#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct FormatConf {
    #[serde(rename = "type")]
    kind: String,
    plain: Option<String>,
    json: Option<Vec<Member>>,
    omit_empty_values: Option<bool>,
}

#[derive(Clone, Debug, Deserialize)]
struct Member {
    key: String,
    value: String,
}

fn backends(conf: &Value) -> Vec<Backend> {
    Conf::deserialize(conf)
        .map(|conf| conf.backends)
        .unwrap_or_default()
}

/// The logs of an inbound: every rule's backends, for the callers that the rule is about.
pub(crate) fn of_rules(
    view: &ProxyView<'_>,
    rules: &[InboundRule],
    place: &Place,
) -> Vec<AccessLog> {
    rules
        .iter()
        .flat_map(|rule| {
            let filter = rule.matches.as_ref().and_then(caller_filter);
            backends(&rule.conf)
                .into_iter()
                .filter_map(move |backend| backend.log(view, place, filter.clone()))
        })
        .collect()
}

/// The logs of a conf, for everything.
pub(crate) fn of_conf(view: &ProxyView<'_>, conf: &Value, place: &Place) -> Vec<AccessLog> {
    backends(conf)
        .iter()
        .filter_map(|backend| backend.log(view, place, None))
        .collect()
}

/// The logs of a conf, for requests of one route, or with `None` for those of routes without logs of their own.
pub(crate) fn of_route(
    view: &ProxyView<'_>,
    conf: &Value,
    place: &Place,
    route: Option<&str>,
) -> Vec<AccessLog> {
    let pattern = match route {
        Some(route) => MatchPattern::StringMatch(StringMatcher {
            match_pattern: Some(TextPattern::Exact(route.to_owned())),
            ..StringMatcher::default()
        }),
        None => MatchPattern::NullMatch(NullMatch::default()),
    };
    let filter = AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::MetadataFilter(MetadataFilter {
            match_if_key_not_found: Some(boolean(route.is_none())),
            matcher: Some(MetadataMatcher {
                filter: ROUTES.to_owned(),
                path: vec![PathSegment {
                    segment: Some(Segment::Key(ROUTE_KEY.to_owned())),
                }],
                value: Some(ValueMatcher {
                    match_pattern: Some(pattern),
                }),
                ..MetadataMatcher::default()
            }),
        })),
    };
    backends(conf)
        .iter()
        .filter_map(|backend| backend.log(view, place, Some(filter.clone())))
        .collect()
}

/// The logs of connections that no service is known for: what is said about the whole mesh.
pub(crate) fn of_mesh(view: &ProxyView<'_>) -> Vec<AccessLog> {
    let said = view.policies.kind(Kind::MeshAccessLog);
    let rule = said.to.values().find(|rule| rule.kri.kind == Kind::Mesh);
    rule.map(|rule| of_conf(view, &rule.conf, &Place::passthrough(view)))
        .unwrap_or_default()
}

/// The filter that lets logs tell routes apart.
pub(crate) fn remember_route() -> HttpFilter {
    let config = Lua {
        default_source_code: Some(DataSource {
            specifier: Some(Specifier::InlineString(REMEMBER_ROUTE.to_owned())),
            ..DataSource::default()
        }),
        ..Lua::default()
    };
    http::http_filter(LUA, any(&config))
}

/// Names the backends of all policies that are passed over.
pub(crate) fn name_unsupported(view: &ProxyView<'_>, out: &mut Generated) {
    let said = view.policies.kind(Kind::MeshAccessLog);
    let confs = said
        .inbound
        .values()
        .flatten()
        .map(|rule| &*rule.conf)
        .chain(said.to.values().map(|rule| &rule.conf));
    if confs
        .flat_map(backends)
        .any(|backend| backend.kind == "OpenTelemetry")
    {
        out.problem(
            "MeshAccessLog",
            "backends of type OpenTelemetry have no effect in this version; use File or Tcp",
        );
    }
}

fn caller_filter(of: &Match) -> Option<AccessLogFilter> {
    let mut parts = Vec::new();
    if let Some(id) = &of.spiffe_id {
        let value = id.value.replace('\\', "\\\\").replace('"', "\\\"");
        parts.push(match id.kind {
            SpiffeMatchKind::Exact => {
                format!("connection.uri_san_peer_certificate == \"{value}\"")
            }
            SpiffeMatchKind::Prefix => {
                format!("connection.uri_san_peer_certificate.startsWith(\"{value}\")")
            }
        });
    }
    if let Some(sni) = &of.sni {
        let value = sni.value.replace('\\', "\\\\").replace('"', "\\\"");
        parts.push(format!("connection.requested_server_name == \"{value}\""));
    }
    if parts.is_empty() {
        return None;
    }
    let config = ExpressionFilter {
        expression: parts.join(" && "),
        ..ExpressionFilter::default()
    };
    Some(AccessLogFilter {
        filter_specifier: Some(FilterSpecifier::ExtensionFilter(ExtensionFilter {
            name: "envoy.access_loggers.extension_filters.cel".to_owned(),
            config_type: Some(extension_filter::ConfigType::TypedConfig(any(&config))),
        })),
    })
}

impl Backend {
    fn log(
        &self,
        view: &ProxyView<'_>,
        place: &Place,
        filter: Option<AccessLogFilter>,
    ) -> Option<AccessLog> {
        let (path, format) = match self.kind.as_str() {
            "File" => {
                let file = self.file.as_ref()?;
                (file.path.clone(), words(view, place, file.format.as_ref()))
            }
            "Tcp" => {
                let tcp = self.tcp.as_ref()?;
                let base = format!("kuma-al-{}-{}", view.node.name, view.mesh);
                let message = match words(view, place, tcp.format.as_ref()).format {
                    Some(Format::JsonFormat(members)) => value::Kind::StructValue(members),
                    Some(Format::TextFormatSource(DataSource {
                        specifier: Some(Specifier::InlineString(line)),
                        ..
                    })) => value::Kind::StringValue(line),
                    _ => return None,
                };
                let mut members = text_struct([("address", tcp.address.as_str())]);
                members.fields.insert(
                    "message".to_owned(),
                    kds_proto::google::protobuf::Value {
                        kind: Some(message),
                    },
                );
                let format = SubstitutionFormatString {
                    format: Some(Format::JsonFormat(members)),
                    ..SubstitutionFormatString::default()
                };
                (socket_path(&view.node.work_dir, &base), format)
            }
            _ => return None,
        };
        let config = FileAccessLog {
            path,
            access_log_format: Some(AccessLogFormat::LogFormat(format)),
        };
        Some(AccessLog {
            name: FILE.to_owned(),
            filter,
            config_type: Some(access_log::ConfigType::TypedConfig(any(&config))),
        })
    }
}

/// The format with every placeholder of ours replaced.
fn words(
    view: &ProxyView<'_>,
    place: &Place,
    format: Option<&FormatConf>,
) -> SubstitutionFormatString {
    let fill = |text: &str| fill(view, place, text);
    let format_of = match format {
        Some(FormatConf {
            kind,
            json: Some(members),
            ..
        }) if kind == "Json" => Format::JsonFormat(Struct {
            fields: members
                .iter()
                .map(|member| (member.key.clone(), text(&fill(&member.value))))
                .collect(),
        }),
        _ => {
            let plain = format.and_then(|format| format.plain.as_deref());
            let line = fill(plain.unwrap_or(place.default_format)) + "\n";
            Format::TextFormatSource(DataSource {
                specifier: Some(Specifier::InlineString(line)),
                ..DataSource::default()
            })
        }
    };
    SubstitutionFormatString {
        omit_empty_values: format
            .and_then(|format| format.omit_empty_values)
            .unwrap_or_default(),
        format: Some(format_of),
        ..SubstitutionFormatString::default()
    }
}

fn fill(view: &ProxyView<'_>, place: &Place, text: &str) -> String {
    if !text.contains("%KUMA_") {
        return text.to_owned();
    }
    let address = &view.dataplane.address;
    let with_port = if address.contains(':') {
        format!("[{address}]:0")
    } else {
        format!("{address}:0")
    };
    let zone = view
        .dataplane
        .labels
        .get(labels::ZONE)
        .map_or("", String::as_str);
    text.replace("%KUMA_SOURCE_ADDRESS%", &with_port)
        .replace("%KUMA_SOURCE_ADDRESS_WITHOUT_PORT%", address)
        .replace("%KUMA_SOURCE_SERVICE%", &place.source)
        .replace("%KUMA_DESTINATION_SERVICE%", &place.destination)
        .replace("%KUMA_MESH%", view.mesh)
        .replace("%KUMA_ZONE%", zone)
        .replace("%KUMA_WORKLOAD%", &workload_kri(view))
        .replace("%KUMA_TRAFFIC_DIRECTION%", place.direction)
}
