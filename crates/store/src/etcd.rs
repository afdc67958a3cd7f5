//! A store that several control planes share: etcd keeps it, each of them mirrors it.
//!
//! ```text
//! <prefix>meta                     format and epoch
//! <prefix>revision                 the counter; every commit compares and raises it, so commits follow each other
//! <prefix>compacted                newest revision whose removals were forgotten
//! <prefix>r/<kind>/<mesh>/<name>   a resource
//! <prefix>t/<revision>             what a revision removed
//! ```
//!
//! A commit is one etcd transaction; etcd refuses one that is larger than its own limits, by default 128 operations and
//! 1.5 MiB, which is too little for a federation (`--max-txn-ops`, `--max-request-bytes`). It is answered after the mirror has it, so whoever wrote reads what they wrote.

mod mirror;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, Compare, CompareOp, ConnectOptions, Txn, TxnOp};
use futures::future::BoxFuture;
use tokio::sync::{Mutex, watch};

use crate::batch::{Batch, Committed};
use crate::error::StoreError;
use crate::plan::{Plan, plan};
use crate::record;
use crate::revision::Revision;
use crate::snapshot::{Snapshot, TOMBSTONES_MAX};
use crate::watch::Watch;
use crate::{Store, WallClock};

pub use mirror::Mirror;

/// How often a commit that others overtook is planned again.
const ATTEMPTS: usize = 100;

/// Where etcd is, and what belongs to this store in it.
#[derive(Clone, Debug)]
pub struct EtcdOptions {
    /// Addresses, e.g. `http://127.0.0.1:2379`.
    pub endpoints: Vec<String>,
    /// Every key begins with it; ends in `/`.
    pub prefix: String,
    /// User name and password.
    pub user: Option<(String, String)>,
    /// How long one call may take.
    pub timeout: Duration,
    /// How many removals are remembered. The same for all who share the store.
    pub tombstones_max: usize,
}

impl Default for EtcdOptions {
    fn default() -> Self {
        Self {
            endpoints: vec!["http://127.0.0.1:2379".to_owned()],
            prefix: "/zonal/".to_owned(),
            user: None,
            timeout: Duration::from_secs(10),
            tombstones_max: TOMBSTONES_MAX,
        }
    }
}

/// Keeps resources in etcd, and a copy of all of them in memory for reading.
pub struct EtcdStore {
    client: Client,
    options: EtcdOptions,
    published: watch::Receiver<Arc<Snapshot>>,
    /// Held by the one commit that is under way from here: others would only lose the race to it.
    committing: Mutex<()>,
    now: WallClock,
}

impl EtcdStore {
    /// Connects and reads everything. The caller runs the [`Mirror`] as long as the store is used; without it
    /// snapshots stand still and commits fail.
    ///
    /// # Errors
    /// No endpoint answers, or what is under the prefix is no store of this format.
    pub async fn connect(
        options: EtcdOptions,
        now: WallClock,
    ) -> Result<(Self, Mirror), StoreError> {
        let connecting = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5))
            .with_timeout(options.timeout);
        let connecting = match &options.user {
            Some((name, password)) => connecting.with_user(name, password),
            None => connecting,
        };
        let client = Client::connect(&options.endpoints, Some(connecting.clone()))
            .await
            .map_err(|error| write_error(&options, &error.to_string()))?;
        // Calls have a time limit; a watch is a call that never ends.
        let watching = ConnectOptions::new()
            .with_connect_timeout(options.timeout)
            .with_keep_alive(Duration::from_secs(10), Duration::from_secs(5));
        let watching = match &options.user {
            Some((name, password)) => watching.with_user(name, password),
            None => watching,
        };
        let watcher = Client::connect(&options.endpoints, Some(watching))
            .await
            .map_err(|error| write_error(&options, &error.to_string()))?;
        let (mirror, published) =
            Box::pin(Mirror::start(client.clone(), watcher, options.clone())).await?;
        let store = Self {
            client,
            options,
            published,
            committing: Mutex::new(()),
            now,
        };
        Ok((store, mirror))
    }

    async fn keep(&self, batch: Batch) -> Result<Committed, StoreError> {
        let _committing = self.committing.lock().await;
        let mut mirror = self.published.clone();
        for _ in 0..ATTEMPTS {
            let base = Arc::clone(&mirror.borrow_and_update());
            let plan = plan(
                &base,
                batch.clone(),
                (self.now)(),
                self.options.tombstones_max,
            )?;
            if !plan.changes_anything() {
                return Ok(plan.committed);
            }
            let ops = self.ops(&plan)?;
            let unmoved = vec![
                Compare::value(
                    self.key("meta"),
                    CompareOp::Equal,
                    mirror::meta_text(base.epoch()),
                ),
                Compare::value(
                    self.key("revision"),
                    CompareOp::Equal,
                    base.revision().to_string(),
                ),
            ];
            let txn = Txn::new().when(unmoved).and_then(ops);
            let answer = self.client.kv_client().txn(txn).await;
            let answer = answer.map_err(|error| txn_error(&self.options, &error))?;
            if answer.succeeded() {
                let snapshot = self.wait_beyond(&mut mirror, &base).await?;
                return Ok(Committed {
                    snapshot,
                    ..plan.committed
                });
            }
            // Somebody else was faster: plan again on what they made.
            self.wait_beyond(&mut mirror, &base).await?;
        }
        Err(self.write_error("others write all the time; the batch never got its turn"))
    }

    fn ops(&self, plan: &Plan) -> Result<Vec<TxnOp>, StoreError> {
        let snapshot = &plan.committed.snapshot;
        let encode = |error: serde_json::Error| self.write_error(&error.to_string());
        let mut ops = vec![
            TxnOp::put(self.key("revision"), snapshot.revision().to_string(), None),
            TxnOp::put(
                self.key("compacted"),
                snapshot.compacted().to_string(),
                None,
            ),
        ];
        for (key, new) in &plan.writes {
            let name = self.key(&format!("r/{}", record::key_text(key)));
            ops.push(match new {
                Some(stored) => TxnOp::put(name, record::encode(stored).map_err(encode)?, None),
                None => TxnOp::delete(name, None),
            });
        }
        if !plan.buried.is_empty() {
            let keys: Vec<String> = plan.buried.iter().map(record::key_text).collect();
            let bytes = serde_json::to_vec(&keys).map_err(encode)?;
            ops.push(TxnOp::put(self.tombstone(snapshot.revision()), bytes, None));
        }
        for revision in &plan.forgotten {
            ops.push(TxnOp::delete(self.tombstone(*revision), None));
        }
        Ok(ops)
    }

    /// Waits until the mirror shows more than `base`.
    async fn wait_beyond(
        &self,
        mirror: &mut watch::Receiver<Arc<Snapshot>>,
        base: &Snapshot,
    ) -> Result<Arc<Snapshot>, StoreError> {
        let waiting = mirror.wait_for(|snapshot| {
            snapshot.revision() > base.revision() || snapshot.epoch() != base.epoch()
        });
        match tokio::time::timeout(self.options.timeout, waiting).await {
            Ok(Ok(snapshot)) => Ok(Arc::clone(&snapshot)),
            Ok(Err(_closed)) => Err(StoreError::Closed),
            Err(_elapsed) => Err(StoreError::Unsure {
                place: place(&self.options),
                problem: "the copy of its content does not follow".to_owned(),
            }),
        }
    }

    fn key(&self, name: &str) -> String {
        format!("{}{name}", self.options.prefix)
    }

    fn tombstone(&self, revision: Revision) -> String {
        self.key(&format!("t/{:020}", revision.0))
    }

    fn write_error(&self, problem: &str) -> StoreError {
        write_error(&self.options, problem)
    }
}

fn place(options: &EtcdOptions) -> String {
    format!("etcd at `{}`", options.endpoints.join(","))
}

fn write_error(options: &EtcdOptions, problem: &str) -> StoreError {
    StoreError::Write {
        place: place(options),
        problem: problem.to_owned(),
    }
}

/// etcd's own words for its limits; its codes do not tell them apart.
const TOO_MANY: &str = "etcdserver: too many operations in txn request";
const TOO_LARGE: &str = "etcdserver: request is too large";
/// The words of its gRPC server, where the message alone is too large.
const MESSAGE_TOO_LARGE: &str = "grpc: received message larger than max";
const NO_SPACE: &str = "etcdserver: mvcc: database space exceeded";

/// What became of a transaction that was not answered as such.
fn txn_error(options: &EtcdOptions, error: &etcd_client::Error) -> StoreError {
    let etcd_client::Error::GRpcStatus(status) = error else {
        return StoreError::Unsure {
            place: place(options),
            problem: error.to_string(),
        };
    };
    let problem = status.message().to_owned();
    let too_large =
        matches!(problem.as_str(), TOO_MANY | TOO_LARGE) || problem.starts_with(MESSAGE_TOO_LARGE);
    if too_large {
        return StoreError::TooLarge {
            place: place(options),
            problem,
            hint: "start etcd with larger limits, e.g. `--max-txn-ops=20000 --max-request-bytes=33554432`",
        };
    }
    match problem.as_str() {
        NO_SPACE => StoreError::Full {
            place: place(options),
            problem,
        },
        // Every refusal of etcd's own begins so; it refuses before it keeps anything, unless it ran out of time.
        text if text.starts_with("etcdserver: ") && !text.contains("timed out") => {
            write_error(options, text)
        }
        _ => StoreError::Unsure {
            place: place(options),
            problem,
        },
    }
}

impl Store for EtcdStore {
    fn snapshot(&self) -> Arc<Snapshot> {
        Arc::clone(&self.published.borrow())
    }

    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        Box::pin(self.keep(batch))
    }

    fn watch(&self) -> Watch {
        Watch::new(self.published.clone())
    }
}

impl fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("EtcdStore")
            .field("endpoints", &self.options.endpoints)
            .field("prefix", &self.options.prefix)
            .field("snapshot", &self.snapshot())
            .finish_non_exhaustive()
    }
}
