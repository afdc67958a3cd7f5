//! Reads recordings: one JSON line per event; see the folder's own README for the members.

use std::io::Read as _;
use std::path::PathBuf;

use base64::Engine as _;
use bytes::Bytes;
use serde_json::Value;

/// One recorded scenario.
pub(crate) struct Recording {
    pub(crate) name: String,
    messages: Vec<Recorded>,
}

/// One message as it was on the wire, decompressed.
pub(crate) struct Recorded {
    pub(crate) zone: String,
    /// From the zone to global.
    pub(crate) up: bool,
    pub(crate) method: String,
    pub(crate) body: Bytes,
}

impl Recording {
    pub(crate) fn messages(&self) -> impl Iterator<Item = &Recorded> {
        self.messages.iter()
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.messages.is_empty()
    }
}

fn folder() -> PathBuf {
    std::env::var_os("ZONAL_CONFORMANCE").map_or_else(
        || PathBuf::from(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
        PathBuf::from,
    )
}

/// Every recording there is; none, said aloud, where the folder is absent.
pub(crate) fn recordings() -> Vec<Recording> {
    let folder = folder().join("wire");
    let Ok(entries) = std::fs::read_dir(&folder) else {
        eprintln!("skipped: no recordings in {}", folder.display());
        return Vec::new();
    };
    let mut paths: Vec<_> = entries
        .map(|entry| entry.unwrap().path())
        .filter(|path| {
            path.extension()
                .is_some_and(|extension| extension == "jsonl")
        })
        .collect();
    paths.sort();
    paths
        .iter()
        .map(|path| Recording {
            name: path.file_stem().unwrap().to_string_lossy().into_owned(),
            messages: std::fs::read_to_string(path)
                .unwrap()
                .lines()
                .filter_map(message)
                .collect(),
        })
        .collect()
}

fn message(line: &str) -> Option<Recorded> {
    let line: Value = serde_json::from_str(line).unwrap();
    let text = |name: &str| line[name].as_str().unwrap().to_owned();
    if line["kind"] != "message" {
        return None;
    }
    let data = base64::engine::general_purpose::STANDARD
        .decode(text("data"))
        .unwrap();
    let body = if line["compressed"] == true {
        let mut plain = Vec::new();
        flate2::read::GzDecoder::new(data.as_slice())
            .read_to_end(&mut plain)
            .unwrap();
        plain
    } else {
        data
    };
    Some(Recorded {
        zone: text("zone"),
        up: text("dir") == "zone->global",
        method: text("method"),
        body: body.into(),
    })
}
