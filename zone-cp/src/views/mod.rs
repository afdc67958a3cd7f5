//! From a change in the store to the proxies it concerns.
//!
//! ```text
//! store ──changes──▶ Engine ──who is affected──▶ generate ──differs?──▶ that proxy's slot ──▶ its stream
//! streams ──connected, ACK, NACK──▶ Engine ──▶ ledger of receipts
//! ```
//!
//! Start at [`Engine`]. One task owns every view, so there are no locks around them; what others may read (the
//! configuration of a proxy, the ledger) is handed out as immutable values.

mod certificate;
mod config;
mod engine;
mod handle;
mod mesh;
mod place;

pub use engine::{Engine, EngineSettings};
pub use handle::{Answered, EngineHandle, Progress, ProxyConfig, Session, Stopped};
