//! What every reader of these messages may rely on: names, bytes, order, JSON.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    missing_docs
)]

use bytes::Bytes;
use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::core::v3::Metadata;
use kds_proto::envoy::service::discovery::v3::Resource;
use kds_proto::google::protobuf::{ListValue, Struct, Value, value::Kind};
use kds_proto::kuma::mesh::v1alpha1 as mesh;
use kds_proto::kuma::mesh::v1alpha1::{
    Dataplane, DataplaneInsight, KumaResource, Mesh, kuma_resource::Meta,
};
use kds_proto::kuma::system::v1alpha1 as system;
use kds_proto::wrappers::{BoolValue, BytesValue};
use kds_proto::{Any, UnpackError, pack, unpack, zonal};
use prost::{Message, Name};
use serde_json::json;
use sha2::{Digest, Sha256};

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn labels<const N: usize>(labels: [(&str, &str); N]) -> std::collections::BTreeMap<String, String> {
    labels
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value.to_owned()))
        .collect()
}

#[test]
fn a_mesh_has_the_bytes_that_a_kuma_global_sends() {
    let resource = KumaResource {
        meta: Some(Meta {
            name: "default".to_owned(),
            labels: labels([("kuma.io/origin", "global")]),
            ..Meta::default()
        }),
        spec: Some(pack(&Mesh::default())),
        status: None,
    };
    let bytes = resource.encode_to_vec();
    assert_eq!(
        hex(&bytes),
        "0a230a0764656661756c7432180a0e6b756d612e696f2f6f726967696e1206676c6f62616c\
         122d0a2b747970652e676f6f676c65617069732e636f6d2f6b756d612e6d6573682e7631616c706861312e4d657368"
    );
    assert_eq!(
        hex(&Sha256::digest(&bytes)),
        "ee3ed1993ca3721e6609c0fb78bb711a00f96c808af6675986293d420dc0d6d1"
    );
}

#[test]
fn a_json_kind_has_a_spec_without_type_url() {
    let resource = KumaResource {
        meta: Some(Meta {
            name: "a".to_owned(),
            mesh: "default".to_owned(),
            ..Meta::default()
        }),
        spec: Some(Any {
            type_url: String::new(),
            value: Bytes::from_static(br#"{"address":"10.0.0.1","port":10001}"#),
        }),
        status: None,
    };
    assert_eq!(
        hex(&resource.encode_to_vec()),
        "0a0c0a0161120764656661756c74122512237b2261646472657373223a2231302e302e302e31222c22706f7274223a31303030317d"
    );
}

#[test]
fn messages_know_their_names() {
    #[track_caller]
    fn check<M: Name>(want: &str) {
        assert_eq!(M::full_name(), want);
        assert_eq!(M::type_url(), format!("type.googleapis.com/{want}"));
    }
    check::<KumaResource>("kuma.mesh.v1alpha1.KumaResource");
    check::<Meta>("kuma.mesh.v1alpha1.KumaResource.Meta");
    check::<Mesh>("kuma.mesh.v1alpha1.Mesh");
    check::<Dataplane>("kuma.mesh.v1alpha1.Dataplane");
    check::<DataplaneInsight>("kuma.mesh.v1alpha1.DataplaneInsight");
    check::<mesh::ServiceInsight>("kuma.mesh.v1alpha1.ServiceInsight");
    check::<system::Secret>("kuma.system.v1alpha1.Secret");
    check::<system::Config>("kuma.system.v1alpha1.Config");
    check::<system::Zone>("kuma.system.v1alpha1.Zone");
    check::<system::ZoneInsight>("kuma.system.v1alpha1.ZoneInsight");
    check::<Cluster>("envoy.config.cluster.v3.Cluster");
    check::<Struct>("google.protobuf.Struct");
    check::<zonal::ingress::v1::Route>("zonal.ingress.v1.Route");
    check::<zonal::federation::v1::ZoneFrame>("zonal.federation.v1.ZoneFrame");
}

#[test]
fn services_are_found_under_the_paths_that_peers_use() {
    use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server as ads;
    use kds_proto::kuma::mesh::v1alpha1::{global_kds_service_server, kds_sync_service_server};
    use kds_proto::kuma::system::v1alpha1::inter_cp_ping_service_server;
    use kds_proto::zonal::federation::v1::federation_server;
    assert_eq!(
        kds_sync_service_server::SERVICE_NAME,
        "kuma.mesh.v1alpha1.KDSSyncService"
    );
    assert_eq!(
        global_kds_service_server::SERVICE_NAME,
        "kuma.mesh.v1alpha1.GlobalKDSService"
    );
    assert_eq!(
        inter_cp_ping_service_server::SERVICE_NAME,
        "kuma.system.v1alpha1.InterCpPingService"
    );
    assert_eq!(
        ads::SERVICE_NAME,
        "envoy.service.discovery.v3.AggregatedDiscoveryService"
    );
    assert_eq!(
        federation_server::SERVICE_NAME,
        "zonal.federation.v1.Federation"
    );
}

#[test]
fn a_packed_message_comes_out_again() {
    let zone = system::Zone {
        enabled: Some(BoolValue { value: true }),
    };
    let mut any = pack(&zone);
    assert_eq!(
        any.type_url,
        "type.googleapis.com/kuma.system.v1alpha1.Zone"
    );
    assert_eq!(unpack::<system::Zone>(&any).unwrap(), zone);

    let error = unpack::<Mesh>(&any).unwrap_err();
    assert!(matches!(error, UnpackError::OtherType { .. }));
    assert_eq!(
        error.to_string(),
        "expected a message of type `kuma.mesh.v1alpha1.Mesh`, got `type.googleapis.com/kuma.system.v1alpha1.Zone`"
    );

    any.value = Bytes::from_static(&[0xff]);
    assert!(matches!(
        unpack::<system::Zone>(&any).unwrap_err(),
        UnpackError::Bytes { .. }
    ));
}

#[test]
fn equal_messages_have_equal_bytes() {
    let names: Vec<String> = (0..40).map(|n| format!("label-{n}")).collect();
    let of = |names: &mut dyn Iterator<Item = &String>| {
        let fields: Struct = names
            .map(|name| (name.clone(), Value::from(name.as_str())))
            .collect();
        let filter_metadata = fields
            .fields
            .keys()
            .map(|name| (name.clone(), fields.clone()))
            .collect();
        Metadata {
            filter_metadata,
            ..Metadata::default()
        }
        .encode_to_vec()
    };
    assert_eq!(of(&mut names.iter()), of(&mut names.iter().rev()));
}

#[test]
fn bytes_are_shared_not_copied() {
    let resource = Resource {
        resource: Some(pack(&Cluster {
            name: "a".to_owned(),
            ..Cluster::default()
        })),
        ..Resource::default()
    };
    let clone = resource.clone();
    let of = |resource: &Resource| resource.resource.as_ref().unwrap().value.as_ptr();
    assert_eq!(of(&resource), of(&clone));
}

#[track_caller]
fn check_struct(input: &serde_json::Value, want: &serde_json::Value) {
    let message: Struct = serde_json::from_value(input.clone()).unwrap();
    let again = Struct::decode(message.encode_to_vec().as_slice()).unwrap();
    assert_eq!(again, message);
    assert_eq!(serde_json::to_string(&again).unwrap(), want.to_string());
}

#[test]
fn free_form_json_comes_back() {
    let value = json!({"a": {"b": [1, "x", true, null, {}, []]}, "n": 1.5, "z": ""});
    check_struct(&value, &value);
}

#[test]
fn integral_numbers_have_no_fraction() {
    check_struct(
        &json!({"port": 80.0, "big": 1e15, "minus": -3.0}),
        &json!({"port": 80, "big": 1_000_000_000_000_000_i64, "minus": -3}),
    );
}

#[test]
fn a_number_that_json_cannot_say_is_an_error() {
    let message: Struct = [("n", f64::NAN)].into_iter().collect();
    assert!(serde_json::to_string(&message).is_err());
}

#[test]
fn lists_and_values_can_be_collected() {
    let list: ListValue = ["a", "b"].into_iter().collect();
    let value = Value {
        kind: Some(Kind::ListValue(list)),
    };
    assert_eq!(serde_json::to_value(&value).unwrap(), json!(["a", "b"]));
}

#[test]
fn a_dataplane_reads_and_writes_the_names_of_the_file_format() {
    let text = json!({"networking": {
        "address": "10.0.0.1",
        "admin": {"port": 9901},
        "gateway": {"tags": {"a": "b"}},
        "inbound": [{"port": 80, "servicePort": 8080, "state": "NotReady", "name": "web", "protocol": "http",
            "serviceProbe": {"interval": "1s", "tcp": {}, "unhealthyThreshold": 3}}],
        "listeners": [{"address": "10.0.0.1", "port": 10001, "type": "ZoneIngress"}],
        "outbound": [{"port": 1, "backendRef": {"kind": "MeshService", "name": "x", "port": 80}}],
        "transparentProxying": {"ipFamilyMode": "IPv4", "redirectPortInbound": 15006,
            "reachableBackends": {"refs": [{"kind": "MeshService", "name": "x"}]}},
    }});
    let message: Dataplane = serde_json::from_value(text.clone()).unwrap();
    assert_eq!(
        message.networking.as_ref().unwrap().inbound[0].service_port,
        8080
    );
    assert_eq!(serde_json::to_value(&message).unwrap(), text);
    let again = Dataplane::decode(message.encode_to_vec().as_slice()).unwrap();
    assert_eq!(again, message);
}

#[test]
fn other_spellings_are_read_and_unknown_members_ignored() {
    let mut text = json!({"networking": {"transparent_proxying": {"redirect_port_inbound": "15006"}, "outbound": null,
        "inbound": [{"port": 80.0, "tags": {"old": "x"}, "state": 1}]}, "metrics": {}});
    kds_proto::json::normalise(&mut text);
    let message: Dataplane = serde_json::from_value(text).unwrap();
    assert_eq!(
        serde_json::to_value(&message).unwrap(),
        json!({"networking": {"inbound": [{"port": 80, "state": "NotReady"}], "transparentProxying": {"redirectPortInbound": 15006}}})
    );
}

#[test]
fn an_insight_keeps_its_free_form_metadata() {
    let text = json!({
        "mTLS": {"certificateExpirationTime": "2026-01-01T00:00:00Z", "issuedBackend": "x"},
        "metadata": {"version": {"n": 1}},
        "subscriptions": [{"id": "1", "connectTime": "2026-01-01T00:00:00.500Z", "status": {
            "cds": {"responsesSent": "18446744073709551615"}}}],
    });
    let message: DataplaneInsight = serde_json::from_value(text.clone()).unwrap();
    let again = serde_json::to_value(&message).unwrap();
    assert_eq!(again["metadata"], text["metadata"]);
    assert_eq!(
        again["subscriptions"][0]["status"],
        text["subscriptions"][0]["status"]
    );
    assert_eq!(again["mTLS"]["issuedBackend"], "x");
    let read: DataplaneInsight = serde_json::from_value(again).unwrap();
    assert_eq!(read, message);
}

#[test]
fn a_secret_is_base64_in_json() {
    let message = system::Secret {
        data: Some(BytesValue {
            value: Bytes::from_static(b"hello"),
        }),
    };
    let text = serde_json::to_value(&message).unwrap();
    assert_eq!(text, json!({"data": "aGVsbG8="}));
    assert_eq!(
        serde_json::from_value::<system::Secret>(text).unwrap(),
        message
    );
}

#[test]
fn a_frame_of_an_unknown_kind_is_empty() {
    use kds_proto::zonal::federation::v1::ZoneFrame;
    // Field 15, length 2: a frame of the future.
    let frame = ZoneFrame::decode(&[0x7a, 0x02, 0x08, 0x01][..]).unwrap();
    assert_eq!(frame, ZoneFrame::default());
}
