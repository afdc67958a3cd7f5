//! Messages known by their descriptors only: trees of `Any` as JSON, and JSON as messages.
//!
//! For configuration dumps, golden files and raw patches. Slower than generated code by a factor of ten, and its maps
//! are unordered: never hash or compare bytes that were encoded here.

use std::sync::LazyLock;

use pbjson_types::Any;
use prost::Message as _;
use prost_reflect::{DescriptorPool, DeserializeOptions, DynamicMessage, SerializeOptions};
use serde_json::Value;

pub use prost_reflect;

static DESCRIPTORS: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/all.fds"));

#[expect(
    clippy::expect_used,
    reason = "the build script has compiled the same set"
)]
static POOL: LazyLock<DescriptorPool> = LazyLock::new(|| {
    DescriptorPool::decode(DESCRIPTORS)
        .expect("the embedded descriptors come from the build script")
});

/// Returns the descriptors of every message that this crate has, built on first use.
pub fn pool() -> &'static DescriptorPool {
    &POOL
}

/// How fields are spelt in JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum FieldNames {
    /// `load_assignment`, as in the `.proto` files and in Envoy's own dumps.
    Proto,
    /// `loadAssignment`, as protobuf JSON has it.
    CamelCase,
}

/// Why a message could not be shown or read by its descriptor.
#[derive(Debug)]
pub enum ReflectError {
    /// No message of that type is known here.
    UnknownType {
        /// The type URL.
        type_url: String,
    },
    /// The bytes are no message of the named type.
    Bytes {
        /// The type URL.
        type_url: String,
        /// What the decoder stumbled over.
        cause: prost::DecodeError,
    },
    /// The message, or one packed inside it, has no JSON form; or the JSON does not fit the type.
    Json {
        /// The type URL.
        type_url: String,
        /// What was wrong.
        cause: serde_json::Error,
    },
}

impl std::fmt::Display for ReflectError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::UnknownType { type_url } => write!(f, "no message of type `{type_url}` is known"),
            Self::Bytes { type_url, .. } => {
                write!(f, "the bytes are no message of type `{type_url}`")
            }
            Self::Json { type_url, .. } => {
                write!(f, "a message of type `{type_url}` and its JSON do not fit")
            }
        }
    }
}

impl std::error::Error for ReflectError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::UnknownType { .. } => None,
            Self::Bytes { cause, .. } => Some(cause),
            Self::Json { cause, .. } => Some(cause),
        }
    }
}

/// Shows a packed message, and everything packed inside it, as JSON with its type in `@type`. Members come in order of
/// their names; fields with their default value are left out.
///
/// # Errors
///
/// When a type is not known here, or bytes are not of the type they claim.
pub fn any_to_json(any: &Any, names: FieldNames) -> Result<Value, ReflectError> {
    let mut value = decode(any)?.to_json(names, &any.type_url)?;
    if let Some(members) = value.as_object_mut() {
        members.insert("@type".to_owned(), Value::String(any.type_url.clone()));
    } else {
        // A well-known type whose JSON is no object.
        value = serde_json::json!({ "@type": any.type_url, "value": value });
    }
    Ok(value)
}

/// Shows a generated message as JSON, without `@type` at the top.
///
/// # Errors
///
/// As [`any_to_json`].
pub fn to_json<M: prost::Name>(message: &M, names: FieldNames) -> Result<Value, ReflectError> {
    let any = crate::pack(message);
    decode(&any)?.to_json(names, &any.type_url)
}

/// Reads JSON, with field names in either spelling, as the packed message that its `@type` names. Unknown fields are
/// errors: they are typing mistakes of a person.
///
/// # Errors
///
/// When the type is not known here, or the JSON does not fit it.
pub fn any_from_json(json: &Value) -> Result<Any, ReflectError> {
    let type_url = json
        .get("@type")
        .and_then(Value::as_str)
        .unwrap_or_default()
        .to_owned();
    let mut json = json.clone();
    if let Some(members) = json.as_object_mut() {
        members.remove("@type");
    }
    message_from_json(&type_url, &json)
}

/// Reads JSON without `@type` as a packed message of the given type.
///
/// # Errors
///
/// As [`any_from_json`].
pub fn message_from_json(type_url: &str, json: &Value) -> Result<Any, ReflectError> {
    let descriptor = descriptor(type_url)?;
    let options = DeserializeOptions::new().deny_unknown_fields(true);
    let message =
        DynamicMessage::deserialize_with_options(descriptor, json, &options).map_err(|cause| {
            ReflectError::Json {
                type_url: type_url.to_owned(),
                cause,
            }
        })?;
    Ok(Any {
        type_url: type_url.to_owned(),
        value: message.encode_to_vec().into(),
    })
}

fn descriptor(type_url: &str) -> Result<prost_reflect::MessageDescriptor, ReflectError> {
    let name = type_url.rsplit('/').next().unwrap_or_default();
    pool()
        .get_message_by_name(name)
        .ok_or_else(|| ReflectError::UnknownType {
            type_url: type_url.to_owned(),
        })
}

fn decode(any: &Any) -> Result<Shown, ReflectError> {
    DynamicMessage::decode(descriptor(&any.type_url)?, any.value.clone())
        .map(Shown)
        .map_err(|cause| ReflectError::Bytes {
            type_url: any.type_url.clone(),
            cause,
        })
}

struct Shown(DynamicMessage);

impl Shown {
    fn to_json(&self, names: FieldNames, type_url: &str) -> Result<Value, ReflectError> {
        let options = SerializeOptions::new()
            .skip_default_fields(true)
            .use_proto_field_name(names == FieldNames::Proto)
            .stringify_64_bit_integers(true);
        // Through `Value`, which orders the members.
        self.0
            .serialize_with_options(serde_json::value::Serializer, &options)
            .map_err(|cause| ReflectError::Json {
                type_url: type_url.to_owned(),
                cause,
            })
    }
}
