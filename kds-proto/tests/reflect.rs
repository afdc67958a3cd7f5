//! Packed trees as JSON and back.

#![cfg(feature = "reflect")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use std::error::Error as _;

use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::core::v3::{TransportSocket, transport_socket::ConfigType};
use kds_proto::envoy::extensions::transport_sockets::tls::v3::UpstreamTlsContext;
use kds_proto::kuma::mesh::v1alpha1::DataplaneInsight;
use kds_proto::reflect::{FieldNames, ReflectError, any_from_json, any_to_json, pool, to_json};
use kds_proto::{Any, Duration, pack, unpack};
use serde_json::json;

fn cluster() -> Cluster {
    let tls = UpstreamTlsContext {
        sni: "a.b".to_owned(),
        ..UpstreamTlsContext::default()
    };
    Cluster {
        name: "backend".to_owned(),
        connect_timeout: Some(Duration {
            seconds: 5,
            nanos: 0,
        }),
        transport_socket: Some(TransportSocket {
            name: "envoy.transport_sockets.tls".to_owned(),
            config_type: Some(ConfigType::TypedConfig(pack(&tls))),
        }),
        ..Cluster::default()
    }
}

#[test]
fn packed_messages_are_shown_with_what_is_packed_inside() {
    let any = pack(&cluster());
    let json = any_to_json(&any, FieldNames::Proto).unwrap();
    assert_eq!(
        json,
        json!({
            "@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster",
            "name": "backend",
            "connect_timeout": "5s",
            "transport_socket": {"name": "envoy.transport_sockets.tls", "typed_config": {
                "@type": "type.googleapis.com/envoy.extensions.transport_sockets.tls.v3.UpstreamTlsContext",
                "sni": "a.b",
            }},
        })
    );
    assert_eq!(
        any_to_json(&any, FieldNames::CamelCase).unwrap()["connectTimeout"],
        "5s"
    );
}

#[test]
fn what_was_shown_can_be_read() {
    let any = pack(&cluster());
    for names in [FieldNames::Proto, FieldNames::CamelCase] {
        let again = any_from_json(&any_to_json(&any, names).unwrap()).unwrap();
        assert_eq!(unpack::<Cluster>(&again).unwrap(), cluster());
    }
}

#[test]
fn a_mistyped_field_is_an_error() {
    let json = json!({"@type": "type.googleapis.com/envoy.config.cluster.v3.Cluster", "nam": "x"});
    let error = any_from_json(&json).unwrap_err();
    assert!(matches!(error, ReflectError::Json { .. }));
    assert!(
        error.source().unwrap().to_string().contains("nam"),
        "{error:?}"
    );
}

#[test]
fn an_unknown_type_is_an_error() {
    let any = Any {
        type_url: "type.googleapis.com/a.B".to_owned(),
        ..Any::default()
    };
    assert_eq!(
        any_to_json(&any, FieldNames::Proto)
            .unwrap_err()
            .to_string(),
        "no message of type `type.googleapis.com/a.B` is known"
    );
}

#[test]
fn both_json_writers_agree() {
    let text = json!({
        "metadata": {"a": {"n": 1, "f": 1.5, "l": [true, null]}},
        "subscriptions": [{"id": "1", "status": {"cds": {"responsesSent": "7"}}}],
    });
    let message: DataplaneInsight = serde_json::from_value(text).unwrap();
    let mut reflected = to_json(&message, FieldNames::CamelCase).unwrap();
    // The one difference: integral numbers of a free-form value.
    kds_proto::json::normalise_except(&mut reflected, &[]);
    let mut generated = serde_json::to_value(&message).unwrap();
    kds_proto::json::normalise_except(&mut generated, &[]);
    assert_eq!(reflected, generated);
}

#[test]
fn types_that_configuration_needs_are_known() {
    for name in [
        "envoy.admin.v3.ConfigDump",
        "envoy.config.bootstrap.v3.Bootstrap",
        "envoy.config.listener.v3.Listener",
        "envoy.config.route.v3.RouteConfiguration",
        "envoy.extensions.access_loggers.file.v3.FileAccessLog",
        "envoy.extensions.access_loggers.grpc.v3.TcpGrpcAccessLogConfig",
        "envoy.extensions.access_loggers.open_telemetry.v3.OpenTelemetryAccessLogConfig",
        "envoy.extensions.bootstrap.internal_listener.v3.InternalListener",
        "envoy.extensions.filters.http.fault.v3.HTTPFault",
        "envoy.extensions.filters.http.health_check.v3.HealthCheck",
        "envoy.extensions.filters.http.local_ratelimit.v3.LocalRateLimit",
        "envoy.extensions.filters.http.rbac.v3.RBAC",
        "envoy.extensions.filters.http.router.v3.Router",
        "envoy.extensions.filters.listener.original_dst.v3.OriginalDst",
        "envoy.extensions.filters.listener.tls_inspector.v3.TlsInspector",
        "envoy.extensions.filters.network.direct_response.v3.Config",
        "envoy.extensions.filters.network.http_connection_manager.v3.HttpConnectionManager",
        "envoy.extensions.filters.network.rbac.v3.RBAC",
        "envoy.extensions.filters.network.set_filter_state.v3.Config",
        "envoy.extensions.filters.network.tcp_proxy.v3.TcpProxy",
        "envoy.extensions.load_balancing_policies.least_request.v3.LeastRequest",
        "envoy.extensions.load_balancing_policies.maglev.v3.Maglev",
        "envoy.extensions.load_balancing_policies.ring_hash.v3.RingHash",
        "envoy.extensions.load_balancing_policies.wrr_locality.v3.WrrLocality",
        "envoy.extensions.transport_sockets.internal_upstream.v3.InternalUpstreamTransport",
        "envoy.extensions.transport_sockets.raw_buffer.v3.RawBuffer",
        "envoy.extensions.transport_sockets.tls.v3.DownstreamTlsContext",
        "envoy.extensions.transport_sockets.tls.v3.Secret",
        "envoy.extensions.upstreams.http.v3.HttpProtocolOptions",
        "envoy.type.matcher.v3.StringMatcher",
        "xds.type.matcher.v3.Matcher",
        "zonal.ingress.v1.Route",
    ] {
        assert!(pool().get_message_by_name(name).is_some(), "{name}");
    }
}
