//! Messages of any type, with the name of their type beside them.

use bytes::Bytes;
use pbjson_types::Any;
use prost::Name;

/// Encodes a message and names its type.
///
/// Build a resource once and share it: cloning the result copies no bytes.
pub fn pack<M: Name>(message: &M) -> Any {
    Any {
        type_url: M::type_url(),
        value: Bytes::from(message.encode_to_vec()),
    }
}

/// Decodes a message of the expected type.
///
/// As other readers do, this looks only at what stands behind the last `/` of the type URL.
///
/// # Errors
///
/// When the `Any` names another type, or its bytes are no such message.
pub fn unpack<M: Name + Default>(any: &Any) -> Result<M, UnpackError> {
    let got = any.type_url.rsplit('/').next().unwrap_or_default();
    let want = M::full_name();
    if got != want {
        return Err(UnpackError::OtherType {
            want,
            got: any.type_url.clone(),
        });
    }
    M::decode(any.value.clone()).map_err(|cause| UnpackError::Bytes { want, cause })
}

/// Why an `Any` could not be read as the message that was expected.
#[derive(Debug)]
pub enum UnpackError {
    /// It names another type.
    OtherType {
        /// Full name of the expected message.
        want: String,
        /// The type URL that was there.
        got: String,
    },
    /// Its bytes are not a message of its type.
    Bytes {
        /// Full name of the expected message.
        want: String,
        /// What the decoder stumbled over.
        cause: prost::DecodeError,
    },
}

impl std::fmt::Display for UnpackError {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::OtherType { want, got } => {
                write!(f, "expected a message of type `{want}`, got `{got}`")
            }
            Self::Bytes { want, .. } => write!(f, "the bytes are no message of type `{want}`"),
        }
    }
}

impl std::error::Error for UnpackError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            Self::OtherType { .. } => None,
            Self::Bytes { cause, .. } => Some(cause),
        }
    }
}
