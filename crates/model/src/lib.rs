//! Kinds of resources, their names, labels and specs: parse, default, validate.
//!
//! ```text
//! YAML / JSON ──parse──▶ Resource ──validate──▶ good, or every violation at once
//! ```
//!
//! Start at [`Resource`] and [`Kind`].
//!
//! Always true: a [`Json`] is canonical text, so equal text means equal value; every kind is in one closed enum, so a
//! kind that some table forgot does not compile.
//!
//! Deliberately absent: protobuf (see `federation`), storage (see `store`), any clock.

pub mod admission;
pub mod defaults;
mod duration;
mod json;
mod kind;
mod kri;
pub mod labels;
pub mod legacy;
mod legacy_shapes;
pub mod names;
mod node;
pub mod parse;
mod print;
mod resource;
pub mod schema;
mod sni;
pub mod specs;
pub mod template;
mod validate;
mod violations;
pub mod yaml;

pub use duration::{DurationError, GoDuration};
pub use json::Json;
pub use kind::{Descriptor, Form, KdsFlags, Kind, Mode, PolicyTraits, Scope, UnknownKind};
pub use kri::{Kri, KriError};
pub use names::{MeshName, NameError, ZoneName, hashed_name};
pub use print::{OverviewJson, RestJson, time_text, to_pretty};
pub use resource::{Key, Labels, Meta, Resource, SpecError};
pub use sni::{ports_of, resource_sni, sni, sni_warnings, snis_of};
pub use validate::validate;
pub use violations::{Violation, Violations};
