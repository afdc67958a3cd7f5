//! A resource as bytes in a store's file.

use std::sync::Arc;

use jiff::Timestamp;
use serde::{Deserialize, Serialize};
use zonal_model::{Json, Key, Kind, Labels, Meta, Resource};

use crate::revision::Revision;
use crate::snapshot::Stored;

/// What is kept of a stored resource beside its key.
#[derive(Serialize, Deserialize)]
pub(crate) struct Record {
    rev: Revision,
    created: Revision,
    created_at: Timestamp,
    modified_at: Timestamp,
    labels: Labels,
    spec: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    status: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    owner: Option<(Kind, String, String)>,
}

impl Record {
    pub(crate) fn of(stored: &Stored) -> Self {
        let resource = &stored.resource;
        let owner = resource.owner.as_ref();
        Self {
            rev: stored.revision,
            created: stored.created,
            created_at: resource.meta.creation_time,
            modified_at: resource.meta.modification_time,
            labels: resource.meta.labels.clone(),
            spec: resource.spec.as_str().to_owned(),
            status: resource
                .status
                .as_ref()
                .map(|status| status.as_str().to_owned()),
            owner: owner.map(|owner| (owner.kind, owner.mesh.to_string(), owner.name.to_string())),
        }
    }

    pub(crate) fn into_stored(self, key: Key) -> Stored {
        Stored {
            revision: self.rev,
            created: self.created,
            resource: Resource {
                key,
                meta: Meta {
                    labels: self.labels,
                    creation_time: self.created_at,
                    modification_time: self.modified_at,
                },
                spec: Json::from_canonical(&self.spec),
                status: self.status.as_deref().map(Json::from_canonical),
                owner: self.owner.map(|(kind, mesh, name)| Key {
                    kind,
                    mesh: mesh.into(),
                    name: name.into(),
                }),
            },
        }
    }
}

/// The bytes of a stored resource's content; the key is kept beside them.
pub(crate) fn encode(stored: &Stored) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(&Record::of(stored))
}

/// Reads back what [`encode`] wrote.
pub(crate) fn decode(key: Key, bytes: &[u8]) -> Result<Stored, serde_json::Error> {
    serde_json::from_slice::<Record>(bytes).map(|record| record.into_stored(key))
}

/// `kind/mesh/name`: a slash is in no kind, mesh or name.
pub(crate) fn key_text(key: &Key) -> String {
    format!("{}/{}/{}", key.kind, key.mesh, key.name)
}

/// Reads back what [`key_text`] wrote; `None` for a kind this program does not know.
pub(crate) fn parse_key(text: &str) -> Option<Key> {
    let mut parts = text.splitn(3, '/');
    let kind = parts.next()?.parse().ok()?;
    let mesh: Arc<str> = parts.next()?.into();
    let name: Arc<str> = parts.next()?.into();
    Some(Key { kind, mesh, name })
}
