//! Suite `wire`: what a running Kuma said, read, written again and compared.
//!
//! One case is one recording: every message decodes and encodes to the same meaning, every resource in it is read and
//! written by the border without loss, and its name on the wire is the one we would give it.

use std::io::Read as _;
use std::path::Path;

use base64::Engine as _;
use bytes::Bytes;
use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message;
use serde_json::Value;
use zonal_federation::{Shaped, wire};
use zonal_model::Kind;

use super::{SuiteResult, cases_dir, files_below};

/// One recorded scenario.
#[derive(Clone, Debug)]
pub struct Recording {
    /// Its name.
    pub name: String,
    /// Its messages, in order of time.
    pub messages: Vec<Recorded>,
}

/// One message as it was on the wire, unpacked.
#[derive(Clone, Debug)]
pub struct Recorded {
    /// Whose connection.
    pub zone: String,
    /// Which case of the scenario, where it has several.
    pub case: String,
    /// From the zone to global.
    pub up: bool,
    /// The method's name.
    pub method: String,
    /// The message.
    pub body: Bytes,
}

/// Every recording there is; `None` where the folder is absent.
///
/// # Errors
/// A recording cannot be read.
pub fn recordings() -> Option<Result<Vec<Recording>, String>> {
    let folder = cases_dir()?.join("wire");
    Some(
        files_below(&folder, ".jsonl")
            .iter()
            .map(|path| read(path))
            .collect(),
    )
}

/// Runs the suite; `None` where the cases are absent.
#[must_use]
pub fn wire_suite() -> Option<SuiteResult> {
    let mut result = SuiteResult::new("wire");
    match recordings()? {
        Ok(recordings) => {
            for recording in recordings {
                let outcome = check(&recording);
                result.count(recording.name, outcome);
            }
        }
        Err(problem) => result.count("reading", Err(problem)),
    }
    Some(result)
}

fn read(path: &Path) -> Result<Recording, String> {
    let name = path
        .file_stem()
        .unwrap_or_default()
        .to_string_lossy()
        .into_owned();
    let text = std::fs::read_to_string(path).map_err(|error| format!("{name}: {error}"))?;
    let mut messages = Vec::new();
    let mut case = String::new();
    for line in text.lines() {
        let line: Value = serde_json::from_str(line).map_err(|error| format!("{name}: {error}"))?;
        let text = |member: &str| {
            line.get(member)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match text("kind").as_str() {
            "meta" => case = text("case"),
            "message" => {
                let data = base64::engine::general_purpose::STANDARD
                    .decode(text("data"))
                    .map_err(|error| format!("{name}: {error}"))?;
                let packed = line
                    .get("compressed")
                    .and_then(Value::as_bool)
                    .unwrap_or_default();
                let body = if packed { unpack(&data)? } else { data };
                messages.push(Recorded {
                    zone: text("zone"),
                    case: case.clone(),
                    up: text("dir") == "zone->global",
                    method: text("method"),
                    body: body.into(),
                });
            }
            _ => {}
        }
    }
    Ok(Recording { name, messages })
}

fn unpack(data: &[u8]) -> Result<Vec<u8>, String> {
    let mut plain = Vec::new();
    flate2::read::GzDecoder::new(data)
        .read_to_end(&mut plain)
        .map_err(|error| error.to_string())?;
    Ok(plain)
}

fn check(recording: &Recording) -> Result<(), String> {
    for message in &recording.messages {
        let response = match (message.method.as_str(), message.up) {
            ("GlobalToZoneSync", true) | ("ZoneToGlobalSync", false) => {
                again::<DeltaDiscoveryRequest>(message)?;
                continue;
            }
            ("GlobalToZoneSync", false) | ("ZoneToGlobalSync", true) => {
                again::<DeltaDiscoveryResponse>(message)?
            }
            _ => continue,
        };
        let kind: Kind = response
            .type_url
            .parse()
            .map_err(|error| format!("{}: {error}", response.type_url))?;
        for resource in response.resources {
            let body = resource.resource.unwrap_or_default();
            let name = resource.name;
            let read = wire::decode(kind, Some(&body.type_url), body.value)
                .map_err(|error| format!("{name}: {error}"))?;
            if wire::wire_name(&read.key) != name {
                return Err(format!("{name}: read as {}", read.key));
            }
            let shaped = Shaped {
                key: read.key.clone(),
                labels: read.meta.labels.clone(),
                spec: read.spec.clone(),
                status: read.status.clone(),
            };
            let written = wire::encode(&shaped).map_err(|error| format!("{name}: {error}"))?;
            let reread = wire::decode(kind, None, written.body)
                .map_err(|error| format!("{name}: {error}"))?;
            if reread != read {
                return Err(format!("{name}: written and read again it is another"));
            }
        }
    }
    Ok(())
}

/// Reads a message and makes sure that writing it loses nothing.
fn again<M: Message + Default + PartialEq>(message: &Recorded) -> Result<M, String> {
    let read = M::decode(message.body.clone()).map_err(|error| error.to_string())?;
    let written = read.encode_to_vec();
    if written.len() != message.body.len() {
        return Err(format!(
            "{}: {} of {} bytes",
            message.method,
            written.len(),
            message.body.len()
        ));
    }
    Ok(read)
}
