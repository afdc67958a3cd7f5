//! Resources to and from the envelope in which they travel.

use std::sync::Arc;

use bytes::Bytes;
use kds_proto::kuma::mesh::v1alpha1::kuma_resource::Meta;
use kds_proto::kuma::mesh::v1alpha1::{
    Dataplane, DataplaneInsight, KumaResource, Mesh, ServiceInsight,
};
use kds_proto::kuma::system::v1alpha1::{Config, Secret};
use pbjson_types::Any;
use prost::Message as _;
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use sha2::{Digest as _, Sha256};
use zonal_model::{Form, Json, Key, Kind, Resource, Scope, UnknownKind, legacy};

use crate::border::Offered;
use crate::public_half::KeyError;
use crate::shape::Shaped;

/// The type of the envelope, as every peer expects it.
pub const ENVELOPE: &str = "type.googleapis.com/kuma.mesh.v1alpha1.KumaResource";

/// Why a resource could not be written for a peer.
#[derive(Debug, thiserror::Error)]
pub enum EncodeError {
    /// The spec is not what its kind's message holds.
    #[error("cannot write {key} for a peer: {cause}")]
    Spec {
        /// The resource.
        key: Key,
        /// What does not fit.
        #[source]
        cause: serde_json::Error,
    },
    /// A signing key without a public half.
    #[error("cannot write {key} for a zone")]
    SigningKey {
        /// The resource.
        key: Key,
        /// What is wrong with it.
        #[source]
        cause: KeyError,
    },
    /// A kind that has no form on the wire.
    #[error("{0} is of a kind that does not travel")]
    NotSynced(Key),
}

/// Why a received resource could not be read.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// No envelope.
    #[error("it is no resource envelope: {0}")]
    Envelope(#[source] prost::DecodeError),
    /// Another type than the envelope's.
    #[error("it is of type `{0}`, not a resource envelope")]
    NotAnEnvelope(String),
    /// Nothing says what it is.
    #[error("it has no name")]
    NoName,
    /// A kind that lives inside a mesh, and no mesh.
    #[error("it has no mesh")]
    NoMesh,
    /// Nothing in it.
    #[error("it has no spec")]
    NoSpec,
    /// A protobuf spec of another type.
    #[error("its spec is of type `{got}`, not `{want}`")]
    OtherSpec {
        /// What the kind holds.
        want: &'static str,
        /// What came.
        got: String,
    },
    /// A protobuf spec that is none.
    #[error("its spec cannot be read: {0}")]
    Spec(#[source] prost::DecodeError),
    /// A JSON spec that is none.
    #[error("its {part} is no JSON object: {cause}")]
    Json {
        /// `spec` or `status`.
        part: &'static str,
        /// What is wrong with it.
        cause: String,
    },
    /// A kind that has no form on the wire.
    #[error("it is of a kind that does not travel")]
    NotSynced,
}

/// The messages behind the legacy kinds that travel.
macro_rules! legacy_messages {
    ($macro_kind:expr, $message:ident => $body:expr, $otherwise:expr) => {
        match $macro_kind {
            Kind::Mesh => {
                type $message = Mesh;
                $body
            }
            Kind::Dataplane => {
                type $message = Dataplane;
                $body
            }
            Kind::DataplaneInsight => {
                type $message = DataplaneInsight;
                $body
            }
            Kind::ServiceInsight => {
                type $message = ServiceInsight;
                $body
            }
            Kind::Secret | Kind::GlobalSecret => {
                type $message = Secret;
                $body
            }
            Kind::Config => {
                type $message = Config;
                $body
            }
            _ => $otherwise,
        }
    };
}

/// Writes a resource.
///
/// # Errors
/// Its spec does not fit its kind's message.
pub fn encode(shaped: &Shaped) -> Result<Offered, EncodeError> {
    let Shaped {
        key,
        labels,
        spec,
        status,
    } = shaped;
    let spec = match key.kind.descriptor().form {
        Form::Plugin => Any {
            type_url: String::new(),
            value: text_bytes(spec),
        },
        Form::Legacy => legacy_messages!(
            key.kind,
            M => encode_legacy::<M>(spec, message_type(key.kind))
                .map_err(|cause| EncodeError::Spec { key: key.clone(), cause })?,
            return Err(EncodeError::NotSynced(key.clone()))
        ),
    };
    let status = status.as_ref().map(|status| Any {
        type_url: String::new(),
        value: text_bytes(status),
    });
    let envelope = KumaResource {
        meta: Some(Meta {
            name: key.name.to_string(),
            mesh: key.mesh.to_string(),
            version: String::new(),
            labels: labels
                .iter()
                .map(|(key, value)| (key.clone(), value.clone()))
                .collect(),
        }),
        spec: Some(spec),
        status,
    };
    let body = Bytes::from(envelope.encode_to_vec());
    Ok(Offered {
        name: wire_name(key).into(),
        version: version_of(&body),
        body,
    })
}

/// Reads a resource of a kind. The result has no times and no owner.
///
/// # Errors
/// It is not a resource of that kind.
pub fn decode(kind: Kind, body_type: Option<&str>, body: Bytes) -> Result<Resource, DecodeError> {
    if let Some(other) = body_type.filter(|got| *got != ENVELOPE) {
        return Err(DecodeError::NotAnEnvelope(other.to_owned()));
    }
    let envelope = KumaResource::decode(body).map_err(DecodeError::Envelope)?;
    let meta = envelope.meta.unwrap_or_default();
    if meta.name.is_empty() {
        return Err(DecodeError::NoName);
    }
    if meta.mesh.is_empty() && kind.descriptor().scope == Scope::Mesh {
        return Err(DecodeError::NoMesh);
    }
    let spec = envelope.spec.ok_or(DecodeError::NoSpec)?;
    let spec = match kind.descriptor().form {
        Form::Plugin => object("spec", &spec.value)?,
        Form::Legacy => {
            let want = message_type(kind);
            let got = spec.type_url.rsplit('/').next().unwrap_or_default();
            if got != want {
                return Err(DecodeError::OtherSpec {
                    want,
                    got: spec.type_url,
                });
            }
            legacy_messages!(kind, M => decode_legacy::<M>(kind, spec.value)?, return Err(DecodeError::NotSynced))
        }
    };
    let mut resource = Resource::new(Key::new(kind, &meta.mesh, &meta.name), spec);
    resource.meta.labels = meta.labels.into_iter().collect();
    resource.status = match envelope.status {
        Some(status) if kind.descriptor().has_status && !status.value.is_empty() => {
            Some(object("status", &status.value)?)
        }
        _ => None,
    };
    Ok(resource)
}

/// A resource's name on the wire. That of a kind of global scope ends in a dot.
#[must_use]
pub fn wire_name(key: &Key) -> String {
    format!("{}.{}", key.name, key.mesh)
}

/// Reads a name from the wire: what stands behind the last dot is the mesh.
#[must_use]
pub fn parse_wire_name(kind: Kind, name: &str) -> Key {
    let (name, mesh) = name.rsplit_once('.').unwrap_or((name, ""));
    Key::new(kind, mesh, name)
}

/// The type URL under which a kind's resources travel.
#[must_use]
pub const fn type_url(kind: Kind) -> &'static str {
    kind.name()
}

/// The kind that travels under a type URL.
///
/// # Errors
/// No kind does.
pub fn parse_type_url(type_url: &str) -> Result<Kind, UnknownKind> {
    type_url.parse()
}

const fn message_type(kind: Kind) -> &'static str {
    match kind {
        Kind::Mesh => "kuma.mesh.v1alpha1.Mesh",
        Kind::Dataplane => "kuma.mesh.v1alpha1.Dataplane",
        Kind::DataplaneInsight => "kuma.mesh.v1alpha1.DataplaneInsight",
        Kind::ServiceInsight => "kuma.mesh.v1alpha1.ServiceInsight",
        Kind::Secret | Kind::GlobalSecret => "kuma.system.v1alpha1.Secret",
        Kind::Config => "kuma.system.v1alpha1.Config",
        _ => "",
    }
}

fn encode_legacy<M>(spec: &Json, name: &str) -> Result<Any, serde_json::Error>
where
    M: prost::Message + DeserializeOwned,
{
    let mut value = spec.to_value();
    kds_proto::json::normalise_except(&mut value, &["metadata"]);
    let message: M = serde_json::from_value(value)?;
    Ok(Any {
        type_url: format!("type.googleapis.com/{name}"),
        value: message.encode_to_vec().into(),
    })
}

fn decode_legacy<M>(kind: Kind, value: Bytes) -> Result<Json, DecodeError>
where
    M: prost::Message + Default + Serialize,
{
    let message = M::decode(value).map_err(DecodeError::Spec)?;
    let unreadable = |cause: String| DecodeError::Json {
        part: "spec",
        cause,
    };
    let value = serde_json::to_value(&message).map_err(|cause| unreadable(cause.to_string()))?;
    let value = legacy::normalise(kind, &value).map_err(unreadable)?;
    Ok(Json::from_value(&value))
}

fn object(part: &'static str, bytes: &[u8]) -> Result<Json, DecodeError> {
    let wrong = |cause: String| DecodeError::Json { part, cause };
    match serde_json::from_slice::<Value>(bytes) {
        Ok(value @ Value::Object(_)) => Ok(Json::from_value(&value)),
        Ok(_) => Err(wrong("it is another sort of value".to_owned())),
        Err(cause) => Err(wrong(cause.to_string())),
    }
}

fn text_bytes(json: &Json) -> Bytes {
    Bytes::copy_from_slice(json.as_str().as_bytes())
}

/// Half of the SHA-256 in hex: a peer compares it with what it was told before and with nothing else.
fn version_of(body: &[u8]) -> Arc<str> {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let digest = Sha256::digest(body);
    let mut text = String::with_capacity(32);
    for byte in digest.iter().take(16) {
        for digit in [byte >> 4, byte & 15] {
            text.push(HEX.get(usize::from(digit)).copied().map_or('0', char::from));
        }
    }
    text.into()
}
