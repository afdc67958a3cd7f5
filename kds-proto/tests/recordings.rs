//! Every message of recorded exchanges between control planes decodes, and encodes to the same bytes.
//!
//! The recordings are not part of this tree: `ZONAL_CONFORMANCE` names their folder, `../shared/conformance` beside
//! the workspace is looked at otherwise, and without either the tests say that they skip.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout,
    missing_docs
)]

use std::collections::BTreeMap;
use std::fmt::Debug;
use std::io::Read as _;
use std::path::{Path, PathBuf};
use std::{env, fs};

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kds_proto::kuma::mesh::v1alpha1 as mesh;
use kds_proto::kuma::mesh::v1alpha1::KumaResource;
use kds_proto::kuma::system::v1alpha1 as system;
use kds_proto::{Any, unpack};
use prost::{Message, Name};
use sha2::{Digest, Sha256};

fn recordings() -> Option<Vec<PathBuf>> {
    let folder = env::var_os("ZONAL_CONFORMANCE")
        .map_or_else(
            || Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance"),
            PathBuf::from,
        )
        .join("wire");
    let Ok(entries) = fs::read_dir(&folder) else {
        println!("skipped: no recordings in {}", folder.display());
        return None;
    };
    let files = entries.map(|entry| entry.unwrap().path());
    let mut files: Vec<_> = files
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    files.sort();
    Some(files)
}

/// Decodes a message; its encoding must have the same fields. Maps may stand in another order in the recording.
#[track_caller]
fn round_trip<M: Message + Default + PartialEq + Debug>(
    bytes: &[u8],
    context: &str,
    counts: &mut Counts,
) -> M {
    let message = M::decode(bytes).unwrap_or_else(|error| panic!("{context}: {error}"));
    let again = message.encode_to_vec();
    assert_eq!(
        again.len(),
        bytes.len(),
        "{context}: a field is unknown here"
    );
    assert_eq!(M::decode(again.as_slice()).unwrap(), message, "{context}");
    *counts
        .entry(if again == bytes {
            "same bytes"
        } else {
            "same fields"
        })
        .or_default() += 1;
    message
}

type Counts = BTreeMap<&'static str, usize>;

#[test]
fn every_recorded_message_round_trips() {
    let Some(files) = recordings() else { return };
    let mut counts = Counts::new();
    for file in files {
        let text = fs::read_to_string(&file).unwrap();
        for (number, line) in text.lines().enumerate() {
            let line: serde_json::Value = serde_json::from_str(line).unwrap();
            if line["kind"] == "message" {
                let context = format!(
                    "{}:{}",
                    file.file_name().unwrap().to_string_lossy(),
                    number + 1
                );
                check_message(&line, &context, &mut counts);
            }
        }
    }
    println!("{counts:?}");
    assert!(counts["messages"] > 100, "{counts:?}");
    assert!(counts["resources"] > 50, "{counts:?}");
}

fn check_message(line: &serde_json::Value, context: &str, counts: &mut Counts) {
    let mut body = STANDARD.decode(line["data"].as_str().unwrap()).unwrap();
    if line["compressed"] == true {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(body.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        body = plain;
    }
    assert_eq!(
        body.len() as u64,
        line["len"].as_u64().unwrap(),
        "{context}"
    );
    *counts.entry("messages").or_default() += 1;
    let from_zone = line["dir"] == "zone->global";
    match (line["method"].as_str().unwrap(), from_zone) {
        ("GlobalToZoneSync", true) | ("ZoneToGlobalSync", false) => {
            let request: DeltaDiscoveryRequest = round_trip(&body, context, counts);
            assert_eq!(
                line["summary"]["type"].as_str().unwrap(),
                request.type_url,
                "{context}"
            );
        }
        ("GlobalToZoneSync", false) | ("ZoneToGlobalSync", true) => {
            let response: DeltaDiscoveryResponse = round_trip(&body, context, counts);
            assert_eq!(
                line["summary"]["nonce"].as_str().unwrap_or_default(),
                response.nonce,
                "{context}"
            );
            for resource in &response.resources {
                check_resource(
                    &resource.name,
                    &resource.version,
                    resource.resource.as_ref().unwrap(),
                    context,
                    counts,
                );
            }
        }
        ("HealthCheck", true) => drop(round_trip::<mesh::ZoneHealthCheckRequest>(
            &body, context, counts,
        )),
        ("HealthCheck", false) => drop(round_trip::<mesh::ZoneHealthCheckResponse>(
            &body, context, counts,
        )),
        ("StreamXDSConfigs", true) => drop(round_trip::<mesh::XdsConfigResponse>(
            &body, context, counts,
        )),
        ("StreamXDSConfigs", false) => {
            drop(round_trip::<mesh::XdsConfigRequest>(&body, context, counts));
        }
        ("StreamStats", true) => drop(round_trip::<mesh::StatsResponse>(&body, context, counts)),
        ("StreamStats", false) => drop(round_trip::<mesh::StatsRequest>(&body, context, counts)),
        ("StreamClusters", true) => {
            drop(round_trip::<mesh::ClustersResponse>(&body, context, counts));
        }
        ("StreamClusters", false) => {
            drop(round_trip::<mesh::ClustersRequest>(&body, context, counts));
        }
        (method, _) => panic!("{context}: method {method}"),
    }
}

fn check_resource(name: &str, version: &str, any: &Any, context: &str, counts: &mut Counts) {
    *counts.entry("resources").or_default() += 1;
    let context = &format!("{context} {name}");
    assert_eq!(any.type_url, KumaResource::type_url());
    let resource: KumaResource = round_trip(&any.value, context, counts);
    assert_eq!(
        resource.encode_to_vec(),
        any.value,
        "{context}: resources have the same bytes everywhere"
    );
    assert_eq!(resource, unpack(any).unwrap());
    let meta = resource.meta.unwrap();
    assert_eq!(name, format!("{}.{}", meta.name, meta.mesh), "{context}");
    let hash: String = Sha256::digest(&any.value)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect();
    // Only what a control plane of another make sent is versioned by its hash.
    *counts
        .entry(if version == hash {
            "version is the hash"
        } else {
            "version is no hash"
        })
        .or_default() += 1;

    let spec = resource.spec.unwrap();
    match spec.type_url.rsplit('/').next().unwrap() {
        "" => drop(serde_json::from_slice::<serde_json::Value>(&spec.value).unwrap()),
        "kuma.mesh.v1alpha1.Mesh" => check_spec::<mesh::Mesh>(&spec, context, counts),
        "kuma.mesh.v1alpha1.Dataplane" => check_spec::<mesh::Dataplane>(&spec, context, counts),
        "kuma.mesh.v1alpha1.DataplaneInsight" => {
            check_spec::<mesh::DataplaneInsight>(&spec, context, counts);
        }
        "kuma.mesh.v1alpha1.ServiceInsight" => {
            check_spec::<mesh::ServiceInsight>(&spec, context, counts);
        }
        "kuma.system.v1alpha1.Secret" => check_spec::<system::Secret>(&spec, context, counts),
        "kuma.system.v1alpha1.Config" => check_spec::<system::Config>(&spec, context, counts),
        other => panic!("{context}: spec of type {other}"),
    }
}

/// The spec round-trips as bytes, and as JSON.
fn check_spec<M>(spec: &Any, context: &str, counts: &mut Counts)
where
    M: Message
        + Default
        + PartialEq
        + Debug
        + Name
        + serde::Serialize
        + serde::de::DeserializeOwned,
{
    let message: M = round_trip(&spec.value, context, counts);
    assert_eq!(
        message.encode_to_vec(),
        spec.value,
        "{context}: specs have the same bytes everywhere"
    );
    let json = serde_json::to_value(&message).unwrap();
    assert_eq!(
        serde_json::from_value::<M>(json).unwrap(),
        message,
        "{context}"
    );
    *counts.entry("protobuf specs").or_default() += 1;
}
