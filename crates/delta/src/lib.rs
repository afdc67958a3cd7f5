//! The incremental discovery protocol, both halves, without input or output.
//!
//! ```text
//! what a peer should hold ──set_offered──▶ Source ──poll_response──▶ wire ──handle_response──▶ Sink ──▶ batch to keep
//!                     Acked, Nacked ◀── Source ◀──handle_request── wire ◀──poll_request── Sink ◀──applied── outcome
//! ```
//!
//! Start at [`Source`] and [`Sink`]. One of each serves every stream there is: KDS down, KDS up, and xDS to proxies.
//!
//! Always true: one message per type is unanswered at most; what changes ten times while the peer is busy is said once,
//! newest; memory grows with the number of resources, never with the number of changes; an answer leaves a sink only
//! after the caller said what became of the batch.
//!
//! Deliberately absent: sockets and clocks (the caller passes `now`), and any idea of what the bytes mean.

mod channel;
mod digest;
mod message;
mod name;
mod settings;
mod sink;
mod source;
pub mod wire;

pub use digest::Buckets;
pub use message::{Answer, Batch, Nack, Refused, Request, Response, Upsert};
pub use name::{Entry, Name, Nonce, Offered, TypeUrl, Version};
pub use settings::Settings;
pub use sink::{Held, Interest, Sink, UnknownType, Wanted};
pub use source::{Event, Mark, Source};
