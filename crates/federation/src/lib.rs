//! The border between zones: what crosses it, in which direction, in which shape.
//!
//! ```text
//! global resource ──offer_down(zone)──▶ what that zone sees   (or nothing)
//! zone resource   ──offer_up(zone)────▶ what global keeps     (or nothing)
//! received batch  ──plan(side)────────▶ what to put, what to remove, what is refused and why
//! ```
//!
//! Start at [`Border`] and [`plan`]. Which kinds cross which way stands in one table, the sync flags of
//! [`zonal_model::Kind`]; this crate turns those flags into answers about single resources.
//!
//! Always true: a resource never travels back to its origin; names on the far side never collide, because they carry a
//! hash of everything that tells two resources apart; a bad resource is refused by name and its neighbours go through;
//! what a peer sends is attributed to the peer that sent it, whatever it claims.
//!
//! Deliberately absent: streams and sessions (see `delta`), storage (see `store`), validation of specs (the caller
//! passes it in, so that both sides of a border use the rules of the API).

mod border;
mod encodings;
mod features;
mod plan;
mod public_half;
mod role;
mod shape;
pub mod wire;

pub use border::{Border, Offered, Receiver};
pub use encodings::Encodings;
pub use features::Features;
pub use plan::{Holdings, Incoming, Plan, Put, Received, Refusal, Side, plan};
pub use shape::{Shape, Shaped};
pub use wire::{DecodeError, EncodeError};
