//! The two ends of a sync stream, each joined to a store: what a control plane offers, and what it takes.
//!
//! ```text
//! Snapshot ──handle_snapshot──▶ Publisher ──poll_response──▶ wire ──▶ Subscriber ──plan──▶ Batch for the store
//!     reached revision ◀──── Publisher ◀──handle_request── wire ◀──poll_request── Subscriber ◀──applied── what was kept
//! ```
//!
//! Start at [`Publisher`] and [`Subscriber`]. Global publishes down and subscribes up; a zone the other way round; a
//! simulation runs both in one thread.
//!
//! Always true: what is published follows the newest snapshot and costs the difference; a batch is planned on a
//! snapshot and written on the condition that it still holds; nothing is deleted because of a stream that broke.
//!
//! Deliberately absent: sockets, clocks, tasks (the shells in `global-cp` and `zone-cp`), and the rules of the border
//! (see `federation`).

mod keep;
mod layer;
mod membership;
mod publisher;
mod subscriber;

pub use keep::{Kept, keep};
pub use layer::Shelf;
pub use membership::{Share, deleted_at, deletion_told, forget_deletion, note_of_deletion};
pub use publisher::{Direction, Problem, Publisher};
pub use subscriber::{From, Pending, Planned, Subscriber, zone_record};
