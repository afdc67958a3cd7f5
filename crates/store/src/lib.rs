//! Resources with revisions, and watching them.
//!
//! ```text
//! Batch ──commit──▶ kept durably ──▶ Snapshot (revision n+1) ──▶ every Watch: (what you saw, what is now)
//! ```
//!
//! Start at [`Store`] and [`Snapshot`]. Backends: [`MemoryStore`] (tests), [`RedbStore`] (one file; the default), and
//! with feature `etcd` one over etcd that several control planes share (building it needs `protoc`; on Debian
//! `apt-get install protobuf-compiler`).
//!
//! A snapshot of any of them is put into a file by [`backup()`], and a file store made of it by [`RedbStore::restore`].
//!
//! Always true: a snapshot never changes and is published only after it is durable; a commit is one revision and all
//! or nothing; a commit that changes nothing makes no revision; what a watch hands out is the difference between two
//! snapshots, so nothing is lost, nothing comes out of order, and a slow watcher costs no queue.
//!
//! Deliberately absent: HTTP, gRPC, what a spec means, and the clock (the caller hands in the time of day).

mod backup;
mod batch;
mod error;
#[cfg(feature = "etcd")]
mod etcd;
mod file;
mod memory;
mod plan;
mod record;
mod revision;
mod snapshot;
mod watch;

use std::sync::Arc;

use futures::future::BoxFuture;
use jiff::Timestamp;

pub use backup::{Backup, BackupHead, InvalidBackup, backup};
pub use batch::{Batch, Committed, Expect, Op, Outcome};
pub use error::{ConflictReason, StoreError};
#[cfg(feature = "etcd")]
pub use etcd::{EtcdOptions, EtcdStore, Mirror};
pub use file::{Existing, FileOptions, RedbStore};
pub use memory::MemoryStore;
pub use revision::{Epoch, Revision};
pub use snapshot::{Change, Snapshot, Stored, TOMBSTONES_MAX};
pub use watch::{Changes, Closed, Watch};

/// The time of day, for the stamps that people read. Nothing is decided by it.
pub type WallClock = Arc<dyn Fn() -> Timestamp + Send + Sync>;

/// Keeps resources.
pub trait Store: Send + Sync {
    /// The newest durable state.
    fn snapshot(&self) -> Arc<Snapshot>;

    /// Keeps all of a batch, or nothing of it.
    ///
    /// The batch may be kept even when the returned future is dropped before it ends.
    ///
    /// # Errors
    /// A condition of the batch is not met, or the backend cannot write; then nothing has changed.
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>>;

    /// Follows the state from now on.
    fn watch(&self) -> Watch;
}
