//! The thread that owns the file.

use std::path::PathBuf;
use std::sync::Arc;

use tokio::sync::{mpsc, oneshot, watch};

use super::db::Tables;
use super::disk::{self, Opener};
use crate::WallClock;
use crate::batch::{Batch, Committed};
use crate::error::StoreError;
use crate::plan::{Plan, plan};
use crate::snapshot::Snapshot;

/// Batches written in one transaction at most: bounds what one failure takes along, and how long the first waits.
const GROUP_MAX: usize = 128;

/// A batch and whom to tell.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) batch: Batch,
    pub(super) answer: oneshot::Sender<Result<Committed, StoreError>>,
}

type Answer = (
    oneshot::Sender<Result<Committed, StoreError>>,
    Result<Plan, StoreError>,
);

pub(super) struct Writer {
    path: PathBuf,
    opener: Opener,
    /// `None` after an error: the engine refuses further work until the file is opened again.
    tables: Option<Tables>,
    publish: watch::Sender<Arc<Snapshot>>,
    now: WallClock,
    tombstones_max: usize,
}

impl Writer {
    pub(super) fn new(
        path: PathBuf,
        opener: Opener,
        tables: Tables,
        publish: watch::Sender<Arc<Snapshot>>,
        now: WallClock,
        tombstones_max: usize,
    ) -> Self {
        Self {
            path,
            opener,
            tables: Some(tables),
            publish,
            now,
            tombstones_max,
        }
    }

    pub(super) fn run(mut self, mut waiting: mpsc::Receiver<Request>) {
        while let Some(first) = waiting.blocking_recv() {
            let mut group = vec![first];
            while group.len() < GROUP_MAX
                && let Ok(request) = waiting.try_recv()
            {
                group.push(request);
            }
            self.handle(group);
        }
    }

    fn handle(&mut self, group: Vec<Request>) {
        if let Err(error) = self.reopen() {
            for request in group {
                tell(request.answer, Err(error.clone()));
            }
            return;
        }
        let mut state = Arc::clone(&self.publish.borrow());
        let mut answers: Vec<Answer> = Vec::with_capacity(group.len());
        for request in group {
            let planned = plan(&state, request.batch, (self.now)(), self.tombstones_max);
            if let Ok(plan) = &planned {
                state = Arc::clone(&plan.committed.snapshot);
            }
            answers.push((request.answer, planned));
        }
        match self.keep(&answers) {
            Ok(()) => {
                self.publish.send_if_modified(|published| {
                    let newer = published.revision() != state.revision();
                    *published = state;
                    newer
                });
                for (answer, planned) in answers {
                    tell(answer, planned.map(|plan| plan.committed));
                }
            }
            Err(error) => {
                tracing::error!(path = %self.path.display(), %error, "the store cannot write");
                // Whatever each was told by its conditions, it was told on a state that never came to be.
                for (answer, _) in answers {
                    tell(answer, Err(error.clone()));
                }
            }
        }
    }

    fn keep(&mut self, answers: &[Answer]) -> Result<(), StoreError> {
        let plans: Vec<&Plan> = answers
            .iter()
            .filter_map(|(_, planned)| planned.as_ref().ok())
            .filter(|plan| plan.changes_anything())
            .collect();
        if plans.is_empty() {
            return Ok(());
        }
        let Some(tables) = &mut self.tables else {
            return Err(self.write_error("the file is not open"));
        };
        let path = &self.path;
        let kept = disk::guarded(path, || {
            tables
                .write(&plans)
                .map_err(|problem| disk::table_error(path, problem))
        });
        kept.map_err(|error| {
            self.tables = None;
            disk::as_write_error(&self.path, error)
        })
    }

    /// Opens the file again after an error. A commit that failed may still have reached the disk: then its state is
    /// what counts, and watchers are shown it.
    fn reopen(&mut self) -> Result<(), StoreError> {
        if self.tables.is_some() {
            return Ok(());
        }
        let (tables, found) = disk::open(&self.path, &self.opener)
            .map_err(|error| disk::as_write_error(&self.path, error))?;
        self.tables = Some(tables);
        tracing::info!(path = %self.path.display(), "the store can write again");
        self.publish.send_if_modified(|published| {
            let differs = published.revision() != found.revision();
            if differs {
                *published = Arc::new(found);
            }
            differs
        });
        Ok(())
    }

    fn write_error(&self, problem: &str) -> StoreError {
        StoreError::Write {
            place: disk::place(&self.path),
            problem: problem.to_owned(),
        }
    }
}

fn tell(
    answer: oneshot::Sender<Result<Committed, StoreError>>,
    result: Result<Committed, StoreError>,
) {
    // Whoever asked may have gone; the batch is kept all the same.
    drop(answer.send(result));
}
