//! The messages and service stubs of every protocol we speak: Kuma's synchronisation, Envoy's discovery, and our
//! own frames between control planes.
//!
//! ```text
//! proto/kuma/    the resources and services that Kuma's control planes share      kuma::{mesh,system}::v1alpha1
//! proto/zonal/   what only our own processes say to each other                    zonal::{federation,ingress}::v1
//! proto/envoy/   the part of the Envoy API that we generate, vendored             envoy::…, xds::…
//! ```
//!
//! Start at [`kuma::mesh::v1alpha1::KumaResource`], the envelope of every synchronised resource, and at [`pack`].
//!
//! Always true: the same message has the same bytes (maps are ordered, also inside [`google::protobuf::Struct`]);
//! `bytes` fields share memory when they are cloned; there is one `Any`, [`Any`].
//!
//! Deliberately absent: decisions, conversions to our own types (each room has a `wire.rs` for them), transports.
//! Descriptors for messages without a generated type are behind the feature `reflect`.

mod any;
pub mod json;
#[cfg(feature = "reflect")]
pub mod reflect;
mod structs;

#[allow(
    clippy::all,
    clippy::pedantic,
    clippy::restriction,
    deprecated,
    elided_lifetimes_in_paths,
    let_underscore_drop,
    missing_debug_implementations,
    rustdoc::all,
    unreachable_pub,
    unused_qualifications
)]
mod generated {
    include!(concat!(env!("OUT_DIR"), "/all.rs"));
}

pub use any::{UnpackError, pack, unpack};
pub use generated::{cel, envoy, google, kuma, opentelemetry, xds, zonal};
pub use pbjson_types::{Any, Duration, Empty, Timestamp};

/// Scalars that can be absent, as messages hold them.
pub mod wrappers {
    pub use pbjson_types::{
        BoolValue, BytesValue, DoubleValue, FloatValue, Int32Value, Int64Value, StringValue,
        UInt32Value, UInt64Value,
    };
}
