//! A resource: key, meta, spec, status.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use jiff::Timestamp;
use serde::de::DeserializeOwned;

use crate::json::Json;
use crate::kind::{Kind, Mode, Scope};
use crate::labels;

/// Labels by key, ordered.
pub type Labels = BTreeMap<String, String>;

/// What identifies a stored resource. Ordered by kind, then mesh, then name: the order in which lists are served.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Key {
    /// The kind.
    pub kind: Kind,
    /// The mesh, or the empty string for a kind of global scope.
    pub mesh: Arc<str>,
    /// The name as stored, which for synced resources has a hash suffix.
    pub name: Arc<str>,
}

impl Key {
    /// A key of a mesh-scoped kind; for a kind of global scope the mesh is dropped.
    pub fn new(kind: Kind, mesh: impl AsRef<str>, name: impl AsRef<str>) -> Self {
        let mesh = match kind.descriptor().scope {
            Scope::Mesh => mesh.as_ref(),
            Scope::Global => "",
        };
        Self {
            kind,
            mesh: mesh.into(),
            name: name.as_ref().into(),
        }
    }

    /// A key of a kind of global scope.
    pub fn global(kind: Kind, name: impl AsRef<str>) -> Self {
        Self::new(kind, "", name)
    }
}

impl fmt::Display for Key {
    /// `MeshTimeout default/slow`, or `Zone east` where there is no mesh.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.mesh.is_empty() {
            write!(f, "{} {}", self.kind, self.name)
        } else {
            write!(f, "{} {}/{}", self.kind, self.mesh, self.name)
        }
    }
}

/// What is said about a resource beside its content.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Meta {
    /// The labels, computed ones included.
    pub labels: Labels,
    /// When this store first kept it. Not synced: each store stamps its own.
    pub creation_time: Timestamp,
    /// When this store last changed it.
    pub modification_time: Timestamp,
}

impl Default for Meta {
    fn default() -> Self {
        Self {
            labels: Labels::new(),
            creation_time: Timestamp::UNIX_EPOCH,
            modification_time: Timestamp::UNIX_EPOCH,
        }
    }
}

/// One named record.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    /// Kind, mesh and name.
    pub key: Key,
    /// Labels and times.
    pub meta: Meta,
    /// What is wanted. For legacy kinds the message's JSON form without the meta members.
    pub spec: Json,
    /// What was observed; `None` for kinds without a status, and where none was written yet.
    pub status: Option<Json>,
    /// Whose removal removes this one too; `None` means its mesh owns it where it has one.
    pub owner: Option<Key>,
}

/// Positions in our own canonical text mean nothing to anybody.
fn without_position(message: &str) -> &str {
    message
        .rsplit_once(" at line ")
        .map_or(message, |(sentence, _)| sentence)
}

/// A spec or status that does not have the shape of the type it was read as.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{key}: {part} at `{path}`: {message}")]
pub struct SpecError {
    /// Whose.
    pub key: Key,
    /// `spec` or `status`.
    pub part: &'static str,
    /// The member.
    pub path: String,
    /// What is wrong with it.
    pub message: String,
}

impl Resource {
    /// A resource without labels, status and owner.
    #[must_use]
    pub fn new(key: Key, spec: Json) -> Self {
        Self {
            key,
            meta: Meta::default(),
            spec,
            status: None,
            owner: None,
        }
    }

    /// The label's value.
    #[must_use]
    pub fn label(&self, key: &str) -> Option<&str> {
        self.meta.labels.get(key).map(String::as_str)
    }

    /// The name given by whoever made it: the display-name label where it is set, else the stored name.
    #[must_use]
    pub fn display_name(&self) -> &str {
        match self.label(labels::DISPLAY_NAME) {
            Some(name) if !name.is_empty() => name,
            _ => &self.key.name,
        }
    }

    /// Reads the spec as a type of [`specs`](crate::specs).
    ///
    /// # Errors
    /// The spec does not have the type's shape, e.g. because a peer of another version sent it.
    pub fn spec_as<T: DeserializeOwned>(&self) -> Result<T, SpecError> {
        self.read(&self.spec, "spec")
    }

    /// Reads the status as a type of [`specs`](crate::specs); the type's default where there is none.
    ///
    /// # Errors
    /// The status does not have the type's shape.
    pub fn status_as<T: DeserializeOwned + Default>(&self) -> Result<T, SpecError> {
        self.status
            .as_ref()
            .map_or_else(|| Ok(T::default()), |status| self.read(status, "status"))
    }

    fn read<T: DeserializeOwned>(&self, json: &Json, part: &'static str) -> Result<T, SpecError> {
        json.typed().map_err(|error| SpecError {
            key: self.key.clone(),
            part,
            path: error.path().to_string(),
            message: without_position(&error.inner().to_string()).to_owned(),
        })
    }

    /// Whether it originates at a control plane of this mode: it has no origin label, or the label says so.
    #[must_use]
    pub fn is_local(&self, mode: Mode) -> bool {
        self.label(labels::ORIGIN)
            .is_none_or(|origin| origin == mode.origin())
    }

    /// The zone in which it originated, as its label says.
    #[must_use]
    pub fn zone(&self) -> Option<&str> {
        self.label(labels::ZONE).filter(|zone| !zone.is_empty())
    }

    /// Whether the content differs from `other`'s: spec, status or labels; times and owner do not count.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.spec != other.spec
            || self.status != other.status
            || self.meta.labels != other.meta.labels
    }
}
