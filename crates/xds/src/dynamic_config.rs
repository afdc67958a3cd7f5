//! What the process beside Envoy reads through it: one listener on a Unix socket that answers with fixed bodies.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use kds_proto::envoy::config::core::v3::{
    DataSource, HeaderValue, HeaderValueOption, data_source::Specifier,
};
use kds_proto::envoy::config::listener::v3::Listener;
use kds_proto::envoy::config::route::v3::header_matcher::HeaderMatchSpecifier;
use kds_proto::envoy::config::route::v3::route::Action;
use kds_proto::envoy::config::route::v3::route_match::PathSpecifier;
use kds_proto::envoy::config::route::v3::{DirectResponseAction, HeaderMatcher, Route, RouteMatch};
use kds_proto::envoy::r#type::matcher::v3::{StringMatcher, string_matcher::MatchPattern};
use serde::Serialize;
use sha2::{Digest, Sha256};
use zonal_model::labels;

use crate::access_log::workload;
use crate::bootstrap::socket_path;
use crate::encoded::{Encoded, Generated, type_url};
use crate::envoy::address::{self, loopback_ranges};
use crate::envoy::http::{self, Manager, Side};
use crate::envoy::{listener, number, routes};
use crate::node::feature;
use crate::view::ProxyView;

const NAME: &str = "system_dynamicconfig";

/// Bodies by the path under which they are asked for.
#[derive(Debug, Default)]
pub(crate) struct DynamicConfig {
    bodies: Vec<(&'static str, String)>,
}

impl DynamicConfig {
    /// Adds a body; one that cannot be written is left out.
    pub(crate) fn add(&mut self, path: &'static str, body: &impl Serialize) {
        if let Ok(text) = serde_json::to_string(body) {
            self.bodies.push((path, text));
        }
    }

    /// Puts the listener, where there is something to say.
    pub(crate) fn put(self, view: &ProxyView<'_>, out: &mut Generated) {
        let Some(longest) = self.bodies.iter().map(|(_, body)| body.len()).max() else {
            return;
        };
        let made = self
            .bodies
            .iter()
            .flat_map(|(path, body)| answers(path, body))
            .collect();
        let mut configuration = routes::configuration("", NAME, made);
        let longest = u32::try_from(longest).unwrap_or(u32::MAX);
        configuration.max_direct_response_body_size_bytes = Some(number(longest));
        let manager = http::manager(Manager {
            stat: NAME.to_owned(),
            side: Side::System,
            filters: Vec::new(),
            late_filters: Vec::new(),
            log: Vec::new(),
            tracing: None,
            grpc: false,
            routes: configuration,
            internal: loopback_ranges(view.node.ipv6_enabled),
            request_headers_timeout: Duration::ZERO,
        });
        let socket = socket_path(&view.node.work_dir, "kuma-mesh-metric-config");
        let message = Listener {
            filter_chains: vec![listener::chain(vec![manager])],
            ..listener::inbound(NAME, address::pipe(&socket, 0), view.node.reuse_port())
        };
        out.put(type_url::LISTENER, NAME, Encoded::new(&message));
    }
}

/// "Not modified" for those who hold the body already, and the body.
fn answers(path: &str, body: &str) -> [Route; 2] {
    let tag = Sha256::digest(body.as_bytes())
        .iter()
        .fold(String::new(), |mut text, byte| {
            // Writing to a string cannot fail.
            let _ = write!(text, "{byte:02x}");
            text
        });
    let matched = RouteMatch {
        path_specifier: Some(PathSpecifier::Path(format!("/{path}"))),
        ..RouteMatch::default()
    };
    let not_modified = Route {
        name: format!("{NAME}_{path}_not_modified"),
        r#match: Some(RouteMatch {
            headers: vec![HeaderMatcher {
                name: "If-None-Match".to_owned(),
                header_match_specifier: Some(HeaderMatchSpecifier::StringMatch(StringMatcher {
                    match_pattern: Some(MatchPattern::Exact(tag.clone())),
                    ..StringMatcher::default()
                })),
                ..HeaderMatcher::default()
            }],
            ..matched.clone()
        }),
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: 304,
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    };
    let whole = Route {
        name: format!("{NAME}_{path}"),
        r#match: Some(matched),
        response_headers_to_add: vec![HeaderValueOption {
            header: Some(HeaderValue {
                key: "Etag".to_owned(),
                value: tag,
                ..HeaderValue::default()
            }),
            ..HeaderValueOption::default()
        }],
        action: Some(Action::DirectResponse(DirectResponseAction {
            status: 200,
            body: Some(DataSource {
                specifier: Some(Specifier::InlineString(body.to_owned())),
                ..DataSource::default()
            }),
            ..DirectResponseAction::default()
        })),
        ..Route::default()
    };
    [not_modified, whole]
}

/// The names that the process's DNS proxy answers.
#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct Names {
    records: Vec<Record>,
    ttl: u32,
    extra_labels: BTreeMap<&'static str, String>,
}

#[derive(Debug, Serialize)]
struct Record {
    name: String,
    ips: Vec<String>,
}

/// Adds the host names of everything the proxy listens for.
pub(crate) fn add_names(view: &ProxyView<'_>, to: &mut DynamicConfig) {
    let Some(redirect) = view.redirect() else {
        return;
    };
    if view.node.dns_port.is_none() || view.node.has(feature::BIND_OUTBOUNDS) {
        return;
    }
    let mut records: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for outbound in view.outbounds {
        let Some(first) = outbound.service.vips.first() else {
            continue;
        };
        if first.to_string() != *outbound.address {
            continue;
        }
        let mut ips = vec![first.to_string()];
        if let (true, std::net::IpAddr::V4(v4)) = (redirect.ipv6, first) {
            let [a, b, c, d] = v4.octets();
            ips.push(format!(
                "::ffff:{:x}:{:x}",
                u16::from_be_bytes([a, b]),
                u16::from_be_bytes([c, d])
            ));
        }
        for hostname in &outbound.service.hostnames {
            records.insert(hostname.to_string(), ips.clone());
        }
    }
    let label = |key| view.dataplane.labels.get(key).cloned();
    let extra = [
        ("kuma_workload", workload(view).map(str::to_owned)),
        ("mesh", Some(view.mesh.to_owned())),
        ("kuma_io_zone", label(labels::ZONE)),
        ("k8s_kuma_io_namespace", label(labels::NAMESPACE)),
    ];
    let names = Names {
        records: records
            .into_iter()
            .map(|(name, ips)| Record { name, ips })
            .collect(),
        ttl: 30,
        extra_labels: extra
            .into_iter()
            .filter_map(|(key, value)| Some((key, value?)))
            .collect(),
    };
    to.add("dns", &names);
}
