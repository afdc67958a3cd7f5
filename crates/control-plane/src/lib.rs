//! What global and zones have in common beside the API itself: opening the store, what is made at the first start and
//! with a mesh, certificates, and serving REST.
//!
//! ```text
//! configuration ──▶ open_store ──▶ first_start ──▶ RestParts ──serve──▶ HTTP and HTTPS
//! ```
//!
//! Start at [`RestParts`] and [`first_start`].
//!
//! Always true: what is made by itself is made once and only where it is missing; a mesh and what belongs to it come in
//! one commit.
//!
//! Deliberately absent: what global and zones do with what they keep.

mod first_start;
mod mesh_rules;
mod open;
mod program;
mod questions;
mod serve;

pub use first_start::{FirstStart, FirstStartError, first_start};
pub use mesh_rules::MeshRules;
pub use open::open_store;
pub use program::{Configuration, program};
pub use questions::{AdminQuestion, AskProxies, admin_problem};
pub use serve::{RestParts, RestPeers, instance_id, note_commits, wall_clock};
