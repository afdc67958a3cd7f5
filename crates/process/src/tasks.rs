//! Tasks: each has a name, someone who waits for it, and an answer to "what if it ends".

use std::any::Any;
use std::collections::BTreeMap;
use std::fmt;
use std::future::Future;
use std::panic::AssertUnwindSafe;
use std::sync::Arc;
use std::time::Duration;

use futures::FutureExt;
use parking_lot::Mutex;
use serde::Serialize;
use tokio::task::JoinSet;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tracing::{Instrument, error, info_span, warn};

use crate::backoff::{Backoff, BackoffPolicy};
use crate::clock;

/// The tasks of one process and how they end together.
///
/// An essential task that ends stops everything; a restarted one is started again with back-off. When `stop`
/// is cancelled every task is expected to finish by itself; [`Tasks::finish`] waits for that and cuts the rest.
#[derive(Debug)]
pub struct Tasks {
    stop: CancellationToken,
    cut: CancellationToken,
    tracker: TaskTracker,
    running: JoinSet<()>,
    list: TaskList,
    failure: Arc<Mutex<Option<TaskFailure>>>,
}

/// An essential task ended though nobody had asked the process to stop.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("task `{task}` ended: {reason}")]
pub struct TaskFailure {
    pub task: String,
    pub reason: String,
}

/// How an orderly stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Finished {
    /// Tasks that were still running at the deadline and were dropped.
    pub cut: usize,
}

/// What a task may return: nothing, or a result whose error can be shown.
pub trait Outcome: Send + 'static {
    /// The reason when the task failed.
    fn failure(self) -> Option<String>;
}

impl Outcome for () {
    fn failure(self) -> Option<String> {
        None
    }
}

impl<E: fmt::Display + Send + 'static> Outcome for Result<(), E> {
    fn failure(self) -> Option<String> {
        self.err().map(|error| error.to_string())
    }
}

impl Tasks {
    /// No tasks yet. `stop` is cancelled by signals, by a failing essential task, or by the caller.
    pub fn new(stop: CancellationToken) -> Self {
        Self {
            stop,
            cut: CancellationToken::new(),
            tracker: TaskTracker::new(),
            running: JoinSet::new(),
            list: TaskList::default(),
            failure: Arc::default(),
        }
    }

    /// The token that tells every task to finish.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task without which the process is useless: when it ends before a stop, everything stops.
    pub fn essential<F>(&mut self, name: impl Into<String>, work: F)
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let name = name.into();
        let (stop, failure, list) = (self.stop.clone(), self.failure.clone(), self.list.clone());
        list.started(&name, "essential");
        let span = info_span!("task", task = %name);
        let task = async move {
            let reason = match AssertUnwindSafe(work).catch_unwind().await {
                Ok(outcome) => outcome.failure(),
                Err(panic) => Some(panic_text(panic.as_ref())),
            };
            list.ended(&name, reason.as_deref());
            let reason = match (reason, stop.is_cancelled()) {
                (None, true) => return,
                (None, false) => "it returned early".to_owned(),
                (Some(reason), _) => reason,
            };
            failure.lock().get_or_insert_with(|| TaskFailure {
                task: name.clone(),
                reason: reason.clone(),
            });
            stop.cancel();
            error!(task = %name, reason, "essential task ended");
        };
        self.running
            .spawn(self.tracker.track_future(task.instrument(span)));
    }

    /// Starts a task that nothing is lost without for a while: when it ends it is made and started again.
    pub fn restarted<M, F>(&mut self, name: impl Into<String>, mut make: M)
    where
        M: FnMut() -> F + Send + 'static,
        F: Future<Output: Outcome> + Send + 'static,
    {
        let name = name.into();
        let (stop, list) = (self.stop.clone(), self.list.clone());
        list.started(&name, "restarted");
        let span = info_span!("task", task = %name);
        let task = async move {
            let mut backoff = Backoff::new(BackoffPolicy::default());
            loop {
                let started = clock::monotonic();
                let reason = match AssertUnwindSafe(make()).catch_unwind().await {
                    Ok(outcome) => outcome.failure(),
                    Err(panic) => Some(panic_text(panic.as_ref())),
                };
                list.ended(&name, reason.as_deref());
                if stop.is_cancelled() {
                    return;
                }
                let delay = backoff.next_delay(started.elapsed());
                let reason = reason.unwrap_or_else(|| "it returned early".to_owned());
                warn!(task = %name, reason, ?delay, "task ended and is started again");
                tokio::select! {
                    () = stop.cancelled() => return,
                    () = tokio::time::sleep(delay) => {}
                }
                list.started(&name, "restarted");
            }
        };
        self.running
            .spawn(self.tracker.track_future(task.instrument(span)));
    }

    /// A handle with which tasks start short-lived tasks of their own, one per peer for instance.
    pub fn spawner(&self) -> Spawner {
        Spawner {
            stop: self.stop.clone(),
            cut: self.cut.clone(),
            tracker: self.tracker.clone(),
        }
    }

    /// What runs and how often it was started, for the admin page.
    pub fn list(&self) -> TaskList {
        self.list.clone()
    }

    /// Waits until something stops the process, lets what runs finish within `drain`, and cuts the rest.
    ///
    /// # Errors
    /// When the stop was caused by an essential task that ended.
    pub async fn finish(mut self, drain: Duration) -> Result<Finished, TaskFailure> {
        self.stop.cancelled().await;
        self.tracker.close();
        let cut = match tokio::time::timeout(drain, self.tracker.wait()).await {
            Ok(()) => 0,
            Err(_elapsed) => {
                let count = self.tracker.len();
                warn!(count, names = ?self.list.running(), "tasks did not finish in time and are cut");
                self.cut.cancel();
                self.running.abort_all();
                count
            }
        };
        while self.running.join_next().await.is_some() {}
        match self.failure.lock().take() {
            Some(failure) => Err(failure),
            None => Ok(Finished { cut }),
        }
    }
}

/// Starts short-lived tasks that the process still waits for when it stops.
#[derive(Clone, Debug)]
pub struct Spawner {
    stop: CancellationToken,
    cut: CancellationToken,
    tracker: TaskTracker,
}

impl Spawner {
    /// A spawner of its own, for tests and for programs without [`Tasks`].
    pub fn detached(stop: CancellationToken) -> Self {
        Self {
            stop,
            cut: CancellationToken::new(),
            tracker: TaskTracker::new(),
        }
    }

    /// The token that tells every task to finish.
    pub fn stop(&self) -> CancellationToken {
        self.stop.clone()
    }

    /// Starts a task whose end concerns nobody else. A failure or panic is logged with its name.
    pub fn spawn<F>(&self, name: &'static str, work: F) -> tokio::task::JoinHandle<()>
    where
        F: Future<Output: Outcome> + Send + 'static,
    {
        let cut = self.cut.clone();
        self.tracker.spawn(async move {
            let reason = tokio::select! {
                () = cut.cancelled() => return,
                outcome = AssertUnwindSafe(work).catch_unwind() => match outcome {
                    Ok(outcome) => outcome.failure(),
                    Err(panic) => Some(panic_text(panic.as_ref())),
                },
            };
            if let Some(reason) = reason {
                warn!(task = name, reason, "task failed");
            }
        })
    }
}

/// The named tasks and their state, shared with the admin page.
#[derive(Clone, Debug, Default)]
pub struct TaskList(Arc<Mutex<BTreeMap<String, TaskState>>>);

/// One named task.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct TaskState {
    /// `essential` or `restarted`.
    pub kind: &'static str,
    pub running: bool,
    /// How often it was started.
    pub starts: u64,
    /// Why it ended last, when it failed.
    pub last_failure: Option<String>,
}

impl TaskList {
    /// Every named task, in order.
    pub fn all(&self) -> BTreeMap<String, TaskState> {
        self.0.lock().clone()
    }

    fn running(&self) -> Vec<String> {
        let list = self.0.lock();
        list.iter()
            .filter(|(_, state)| state.running)
            .map(|(name, _)| name.clone())
            .collect()
    }

    fn started(&self, name: &str, kind: &'static str) {
        let mut list = self.0.lock();
        let state = list.entry(name.to_owned()).or_insert(TaskState {
            kind,
            running: false,
            starts: 0,
            last_failure: None,
        });
        state.running = true;
        state.starts += 1;
    }

    fn ended(&self, name: &str, reason: Option<&str>) {
        if let Some(state) = self.0.lock().get_mut(name) {
            state.running = false;
            if let Some(reason) = reason {
                state.last_failure = Some(reason.to_owned());
            }
        }
    }
}

fn panic_text(panic: &(dyn Any + Send)) -> String {
    let text = panic
        .downcast_ref::<&str>()
        .copied()
        .or_else(|| panic.downcast_ref::<String>().map(String::as_str))
        .unwrap_or("no message");
    format!("it panicked: {text}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn essential_task_that_ends_stops_everything() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop();
        tasks.essential("waiter", async move { stop.cancelled().await });
        tasks.essential("rest", async { Err::<(), _>("port is gone") });
        let failure = tasks.finish(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(failure.to_string(), "task `rest` ended: port is gone");
    }

    #[tokio::test]
    async fn panic_of_an_essential_task_is_a_failure_with_its_text() {
        let mut tasks = Tasks::new(CancellationToken::new());
        #[expect(clippy::unused_async, reason = "a task is a future")]
        async fn work() {
            panic!("broken promise");
        }
        tasks.essential("xds", work());
        let failure = tasks.finish(Duration::from_secs(5)).await.unwrap_err();
        assert_eq!(failure.reason, "it panicked: broken promise");
    }

    #[tokio::test(start_paused = true)]
    async fn restarted_task_comes_back_until_the_stop() {
        let mut tasks = Tasks::new(CancellationToken::new());
        let stop = tasks.stop();
        let list = tasks.list();
        let mut starts = 0;
        tasks.restarted("receipts", move || {
            starts += 1;
            let (stop, starts) = (stop.clone(), starts);
            async move {
                if starts == 4 {
                    stop.cancel();
                    return Ok(());
                }
                Err("lost")
            }
        });
        assert_eq!(
            tasks.finish(Duration::from_secs(5)).await,
            Ok(Finished { cut: 0 })
        );
        let state = list.all().remove("receipts").unwrap();
        assert_eq!(state.starts, 4);
        assert_eq!(state.last_failure.as_deref(), Some("lost"));
        assert!(!state.running);
    }

    #[tokio::test(start_paused = true)]
    async fn what_does_not_finish_is_cut_and_counted() {
        let mut tasks = Tasks::new(CancellationToken::new());
        tasks.essential("deaf", std::future::pending::<()>());
        drop(
            tasks
                .spawner()
                .spawn("deaf peer", std::future::pending::<()>()),
        );
        tasks.stop().cancel();
        assert_eq!(
            tasks.finish(Duration::from_secs(1)).await,
            Ok(Finished { cut: 2 })
        );
    }
}
