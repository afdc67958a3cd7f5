//! The names of the protocol, and the map of what is offered.

use std::borrow::Borrow;
use std::fmt;
use std::sync::Arc;

use bytes::Bytes;

macro_rules! text {
    ($(#[$doc:meta])* $type:ident) => {
        $(#[$doc])*
        #[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub struct $type(Arc<str>);

        impl $type {
            /// The text.
            #[must_use]
            pub fn as_str(&self) -> &str {
                &self.0
            }
        }

        impl From<&str> for $type {
            fn from(text: &str) -> Self {
                Self(text.into())
            }
        }

        impl From<String> for $type {
            fn from(text: String) -> Self {
                Self(text.into())
            }
        }

        impl From<Arc<str>> for $type {
            fn from(text: Arc<str>) -> Self {
                Self(text)
            }
        }

        impl Borrow<str> for $type {
            fn borrow(&self) -> &str {
                &self.0
            }
        }

        impl fmt::Display for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str(&self.0)
            }
        }

        impl fmt::Debug for $type {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                write!(f, "{:?}", &*self.0)
            }
        }
    };
}

text! {
    /// What is carried: `MeshTimeout` in KDS, a full type URL in xDS.
    TypeUrl
}
text! {
    /// A resource's name within its type, as the peer sees it.
    Name
}
text! {
    /// The fingerprint of one resource's content as a peer sees it; equal versions mean equal bytes.
    Version
}
text! {
    /// The name of one response on one stream.
    Nonce
}

/// One resource as it is offered: its fingerprint and its bytes, shared by all peers that see it in this shape.
#[derive(Clone, Debug)]
pub struct Entry {
    /// The fingerprint of `body`.
    pub version: Version,
    /// The encoded message, without the `Any` around it.
    pub body: Bytes,
}

impl PartialEq for Entry {
    /// Versions stand for their bytes, so a comparison never reads a body.
    fn eq(&self, other: &Self) -> bool {
        self.version == other.version
    }
}

impl Eq for Entry {}

/// What a peer should hold of one type: an immutable map that many peers share by pointer.
pub type Offered = imbl::OrdMap<Name, Entry>;
