//! Small functions that make Envoy messages from plain parameters: the only rooms of this crate that name fields of
//! generated types.

pub(crate) mod address;
pub(crate) mod cluster;
pub(crate) mod endpoints;
pub(crate) mod http;
pub(crate) mod listener;
pub(crate) mod percent;
pub(crate) mod rbac;
pub(crate) mod routes;
pub(crate) mod tls;

use std::collections::BTreeMap;
use std::time::Duration;

use kds_proto::envoy::config::core::v3::{
    AggregatedConfigSource, ApiVersion, ConfigSource, Metadata, TransportSocket,
    config_source::ConfigSourceSpecifier, transport_socket,
};
use kds_proto::google::protobuf::{Struct, Value, value};
use pbjson_types::{Any, BoolValue, UInt32Value};

/// A message as `Any`.
pub(crate) fn any<M: prost::Name>(message: &M) -> Any {
    kds_proto::pack(message)
}

/// A duration as the wire has it; what does not fit is cut to the largest.
pub(crate) fn duration(of: Duration) -> pbjson_types::Duration {
    pbjson_types::Duration {
        seconds: i64::try_from(of.as_secs()).unwrap_or(i64::MAX),
        nanos: i32::try_from(of.subsec_nanos()).unwrap_or(0),
    }
}

pub(crate) fn optional_duration(of: Option<Duration>) -> Option<pbjson_types::Duration> {
    of.map(duration)
}

pub(crate) fn boolean(value: bool) -> BoolValue {
    BoolValue { value }
}

pub(crate) fn number(value: u32) -> UInt32Value {
    UInt32Value { value }
}

/// "Ask the control plane, on the one stream."
pub(crate) fn ads() -> ConfigSource {
    ConfigSource {
        resource_api_version: ApiVersion::V3.into(),
        config_source_specifier: Some(
            ConfigSourceSpecifier::Ads(AggregatedConfigSource::default()),
        ),
        ..ConfigSource::default()
    }
}

pub(crate) fn transport_socket(name: &str, config: Any) -> TransportSocket {
    TransportSocket {
        name: name.to_owned(),
        config_type: Some(transport_socket::ConfigType::TypedConfig(config)),
    }
}

/// Text as a protobuf JSON value.
pub(crate) fn text(value: &str) -> Value {
    Value {
        kind: Some(value::Kind::StringValue(value.to_owned())),
    }
}

/// A struct of text members.
pub(crate) fn text_struct<'a>(members: impl IntoIterator<Item = (&'a str, &'a str)>) -> Struct {
    Struct {
        fields: members
            .into_iter()
            .map(|(key, value)| (key.to_owned(), text(value)))
            .collect(),
    }
}

/// Filter metadata with the same text members under each of `namespaces`.
pub(crate) fn metadata<'a>(
    namespaces: &[&str],
    members: impl IntoIterator<Item = (&'a str, &'a str)>,
) -> Metadata {
    let members = text_struct(members);
    Metadata {
        filter_metadata: namespaces
            .iter()
            .map(|namespace| ((*namespace).to_owned(), members.clone()))
            .collect::<BTreeMap<_, _>>(),
        ..Metadata::default()
    }
}
