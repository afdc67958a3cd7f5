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

mod json;
mod kind;
pub mod labels;
mod resource;
mod violations;

pub use json::Json;
pub use kind::{Descriptor, Form, KdsFlags, Kind, Mode, PolicyTraits, Scope, UnknownKind};
pub use resource::{Key, Labels, Meta, Resource};
pub use violations::{Violation, Violations};
