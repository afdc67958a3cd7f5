//! The embedded store: one file, one writer thread.
//!
//! A commit is answered after its bytes are on the disk. Batches that wait while the disk is busy are written
//! together. A disk that is full or failing makes the write fail; what was kept before stays readable, and the next
//! write tries again.

mod db;
mod disk;
mod seal;
mod writer;

use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};

use futures::future::BoxFuture;
use tokio::sync::{mpsc, oneshot, watch};

use crate::backup::Backup;
use crate::batch::{Batch, Committed};
use crate::error::StoreError;
use crate::revision::Epoch;
use crate::snapshot::{Snapshot, TOMBSTONES_MAX};
use crate::watch::Watch;
use crate::{Store, WallClock};

use writer::{Request, Writer};

/// Batches that may wait for the disk; beyond it writers wait for their turn.
const WAITING_MAX: usize = 1024;

/// How a file store behaves.
#[derive(Clone, Copy, Debug)]
pub struct FileOptions {
    /// How many removals are remembered.
    pub tombstones_max: usize,
    /// Bytes of the file that are cached while writing. Reading needs none: all content is in memory.
    pub cache_bytes: usize,
}

impl Default for FileOptions {
    fn default() -> Self {
        Self {
            tombstones_max: TOMBSTONES_MAX,
            cache_bytes: 16 << 20,
        }
    }
}

/// What is done with a file that is in the place of a new one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Existing {
    /// It stays, and the new one is not made.
    Keep,
    /// It is lost.
    Replace,
}

/// Keeps resources in one file, and all of them in memory for reading.
pub struct RedbStore {
    path: PathBuf,
    requests: Mutex<Option<mpsc::Sender<Request>>>,
    published: watch::Receiver<Arc<Snapshot>>,
    thread: Mutex<Option<std::thread::JoinHandle<()>>>,
}

impl RedbStore {
    /// Opens the file, or makes it.
    ///
    /// # Errors
    /// The file belongs to somebody else, is damaged, or cannot be read or written; the error names it and says what
    /// to do.
    pub fn open(path: impl AsRef<Path>, now: WallClock) -> Result<Self, StoreError> {
        Self::open_with(path, now, FileOptions::default())
    }

    /// As [`RedbStore::open`] with chosen limits.
    ///
    /// # Errors
    /// As [`RedbStore::open`].
    pub fn open_with(
        path: impl AsRef<Path>,
        now: WallClock,
        options: FileOptions,
    ) -> Result<Self, StoreError> {
        let path = path.as_ref().to_path_buf();
        if !path.exists() {
            let made = disk::put(&path, &Snapshot::empty(Epoch::fresh()), Existing::Keep);
            // If another process made one meanwhile, the error is that it has it open.
            if !path.exists() {
                made?;
            }
        }
        let opener = disk::on_disk(path.clone(), options.cache_bytes);
        Self::start(path, opener, now, options)
    }

    /// Makes a file of a backup's content. It begins a new epoch, so that peers who saw what came after the backup
    /// start over instead of believing that they are in sync; the file's epoch is returned.
    ///
    /// # Errors
    /// There is a file already and it is not to be replaced; a process has it open; or the new one cannot be written.
    /// Then nothing has changed.
    pub fn restore(
        path: impl AsRef<Path>,
        backup: &Backup,
        existing: Existing,
    ) -> Result<Epoch, StoreError> {
        let snapshot = backup.snapshot.clone().in_epoch(Epoch::fresh());
        disk::put(path.as_ref(), &snapshot, existing)?;
        Ok(snapshot.epoch().clone())
    }

    fn start(
        path: PathBuf,
        opener: disk::Opener,
        now: WallClock,
        options: FileOptions,
    ) -> Result<Self, StoreError> {
        let (tables, snapshot) = disk::open(&path, &opener)?;
        let (publish, published) = watch::channel(Arc::new(snapshot));
        let (requests, waiting) = mpsc::channel(WAITING_MAX);
        let writer = Writer::new(
            path.clone(),
            opener,
            tables,
            publish,
            now,
            options.tombstones_max,
        );
        // Ends when the last sender is dropped, which is when the store is closed or dropped.
        let thread = std::thread::Builder::new()
            .name("store-writer".to_owned())
            .spawn(move || writer.run(waiting))
            .map_err(|error| StoreError::Open {
                path: path.clone(),
                problem: format!("no thread for its writer: {error}"),
                hint: "raise the limit on threads of this user",
            })?;
        Ok(Self {
            path,
            requests: Mutex::new(Some(requests)),
            published,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// The file.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Takes no more batches, finishes those that wait, and closes the file. Blocks meanwhile.
    pub fn close(&self) {
        drop(
            self.requests
                .lock()
                .unwrap_or_else(PoisonError::into_inner)
                .take(),
        );
        let thread = self
            .thread
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!(path = %self.path.display(), "the store's writer ended in a panic");
        }
    }
}

impl Drop for RedbStore {
    fn drop(&mut self) {
        self.close();
    }
}

impl Store for RedbStore {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        let requests = self
            .requests
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clone();
        Box::pin(async move {
            let (answer, answered) = oneshot::channel();
            let requests = requests.ok_or(StoreError::Closed)?;
            let request = Request { batch, answer };
            requests
                .send(request)
                .await
                .map_err(|_gone| StoreError::Closed)?;
            drop(requests);
            answered.await.map_err(|_gone| StoreError::Closed)?
        })
    }

    fn watch(&self) -> Watch {
        Watch::new(self.published.clone())
    }
}

impl fmt::Debug for RedbStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RedbStore")
            .field("path", &self.path)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests;
