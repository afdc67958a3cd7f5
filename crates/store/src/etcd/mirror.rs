//! The copy of etcd's content that snapshots are taken from.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use etcd_client::{
    Client, Compare, CompareOp, EventType, GetOptions, KeyValue, Txn, TxnOp, WatchOptions,
};
use serde::Deserialize;
use tokio::sync::watch;
use zonal_model::Key;

use super::{EtcdOptions, write_error};
use crate::error::StoreError;
use crate::record;
use crate::revision::{Epoch, Revision};
use crate::snapshot::Snapshot;

const FORMAT: &str = "1";
const MESSAGE_BYTES_MAX: usize = 1 << 30;
const RETRY_MIN: Duration = Duration::from_millis(50);
const RETRY_MAX: Duration = Duration::from_secs(5);

#[derive(Deserialize)]
struct Meta {
    format: String,
    epoch: Epoch,
}

/// Follows etcd. Runs as a task for as long as the store is used.
pub struct Mirror {
    client: Client,
    watcher: Client,
    options: EtcdOptions,
    publish: watch::Sender<Arc<Snapshot>>,
    /// etcd's own revision that the published snapshot is from.
    seen: i64,
}

impl Mirror {
    pub(super) async fn start(
        client: Client,
        watcher: Client,
        options: EtcdOptions,
    ) -> Result<(Self, watch::Receiver<Arc<Snapshot>>), StoreError> {
        init(&client, &options).await?;
        let (snapshot, seen) = load(&client, &options).await?;
        let (publish, published) = watch::channel(Arc::new(snapshot));
        Ok((
            Self {
                client,
                watcher,
                options,
                publish,
                seen,
            },
            published,
        ))
    }

    /// Follows until nobody reads the store any more. A lost connection is made again, with growing pauses.
    pub async fn run(mut self) {
        let mut pause = RETRY_MIN;
        while !self.publish.is_closed() {
            let before = self.seen;
            let Err(problem) = self.follow().await else {
                return;
            };
            if self.seen > before {
                pause = RETRY_MIN;
            }
            tracing::warn!(
                problem,
                "lost the view of etcd; reads are served from the last copy"
            );
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(RETRY_MAX);
            if let Err(error) = self.reload().await {
                tracing::warn!(%error, "etcd cannot be read");
            }
        }
    }

    /// Reads everything anew. Where etcd has less than was seen before, somebody put back an older state of it: a new
    /// epoch begins, the same for all who share the store, so that peers start over too.
    async fn reload(&mut self) -> Result<(), StoreError> {
        let (mut snapshot, mut seen) = load(&self.client, &self.options).await?;
        let published = Arc::clone(&self.publish.borrow());
        if snapshot.epoch() == published.epoch() && snapshot.revision() < published.revision() {
            tracing::warn!(
                had = %published.revision(),
                has = %snapshot.revision(),
                "etcd was put back to an earlier state; a new epoch begins"
            );
            begin_epoch(&self.client, &self.options, snapshot.epoch()).await?;
            (snapshot, seen) = load(&self.client, &self.options).await?;
        }
        self.seen = seen;
        self.publish
            .send_replace(Arc::new(snapshot.sharing_with(&published)));
        Ok(())
    }

    async fn follow(&mut self) -> Result<(), String> {
        let options = WatchOptions::new()
            .with_prefix()
            .with_start_revision(self.seen + 1);
        let mut events = self
            .watcher
            .watch_client()
            .max_decoding_message_size(MESSAGE_BYTES_MAX)
            .watch(self.options.prefix.as_str(), Some(options))
            .await
            .map_err(|error| error.to_string())?;
        loop {
            let message = tokio::select! {
                message = events.message() => message,
                () = self.publish.closed() => return Ok(()),
            };
            let message = message
                .map_err(|error| error.to_string())?
                .ok_or_else(|| "the server ended the watch".to_owned())?;
            if message.compact_revision() > 0 {
                return Err(format!(
                    "the changes since {} are not kept any more; everything is read anew",
                    self.seen
                ));
            }
            if message.canceled() {
                return Err(format!("the server ended it: {}", message.cancel_reason()));
            }
            let mut next = Snapshot::clone(&self.publish.borrow());
            let before = next.revision();
            for event in message.events() {
                let Some(kv) = event.kv() else { continue };
                self.seen = self.seen.max(kv.mod_revision());
                let removed = event.event_type() == EventType::Delete;
                take_in(&mut next, &self.options, kv, removed)?;
            }
            // A commit is one transaction, and etcd never splits a transaction's events over messages.
            if next.revision() != before {
                self.publish.send_replace(Arc::new(next));
            }
        }
    }
}

/// What is kept under `meta`: always the same text for an epoch, so that it can be compared.
pub(super) fn meta_text(epoch: &Epoch) -> String {
    let epoch = serde_json::Value::from(epoch.as_str());
    format!(r#"{{"format":"{FORMAT}","epoch":{epoch}}}"#)
}

/// Puts a new epoch in the place of an old one, unless somebody else did.
async fn begin_epoch(
    client: &Client,
    options: &EtcdOptions,
    old: &Epoch,
) -> Result<(), StoreError> {
    let key = format!("{}meta", options.prefix);
    let unmoved = Compare::value(key.as_str(), CompareOp::Equal, meta_text(old));
    let txn = Txn::new().when(vec![unmoved]).and_then(vec![TxnOp::put(
        key,
        meta_text(&Epoch::fresh()),
        None,
    )]);
    let answer = client.kv_client().txn(txn).await;
    answer
        .map(drop)
        .map_err(|error| write_error(options, &error.to_string()))
}

async fn init(client: &Client, options: &EtcdOptions) -> Result<(), StoreError> {
    let problem = |text: String| write_error(options, &text);
    let meta = meta_text(&Epoch::fresh());
    let key = |name: &str| format!("{}{name}", options.prefix);
    let absent = Compare::version(key("meta"), CompareOp::Equal, 0);
    let txn = Txn::new().when(vec![absent]).and_then(vec![
        TxnOp::put(key("meta"), meta, None),
        TxnOp::put(key("revision"), "0", None),
        TxnOp::put(key("compacted"), "0", None),
    ]);
    client
        .kv_client()
        .txn(txn)
        .await
        .map_err(|error| problem(error.to_string()))?;
    Ok(())
}

async fn load(client: &Client, options: &EtcdOptions) -> Result<(Snapshot, i64), StoreError> {
    let problem = |text: &str| write_error(options, text);
    let answer = client
        .kv_client()
        .max_decoding_message_size(MESSAGE_BYTES_MAX)
        .get(
            options.prefix.as_str(),
            Some(GetOptions::new().with_prefix()),
        )
        .await
        .map_err(|error| problem(&error.to_string()))?;
    let seen = answer
        .header()
        .map_or(0, etcd_client::ResponseHeader::revision);
    let meta_key = format!("{}meta", options.prefix);
    let meta = answer
        .kvs()
        .iter()
        .find(|kv| kv.key() == meta_key.as_bytes())
        .ok_or_else(|| problem("there is no store under the prefix any more"))?;
    let meta: Meta = serde_json::from_slice(meta.value())
        .map_err(|error| problem(&format!("what is under the prefix is no store: {error}")))?;
    if meta.format != FORMAT {
        return Err(problem(&format!(
            "the store has format {}, this program knows {FORMAT}",
            meta.format
        )));
    }
    let mut snapshot = Snapshot::empty(meta.epoch);
    for kv in answer.kvs() {
        take_in(&mut snapshot, options, kv, false).map_err(|error| problem(&error))?;
    }
    Ok((snapshot, seen))
}

/// Takes one key's new state into a snapshot.
fn take_in(
    snapshot: &mut Snapshot,
    options: &EtcdOptions,
    kv: &KeyValue,
    removed: bool,
) -> Result<(), String> {
    let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
    let key = text(kv.key());
    let name = key
        .strip_prefix(options.prefix.as_str())
        .unwrap_or_default();
    let number = |bytes: &[u8]| {
        text(bytes)
            .parse()
            .map(Revision)
            .map_err(|_error| format!("`{key}` is no number"))
    };
    if let Some(name) = name.strip_prefix("r/") {
        let Some(resource_key) = record::parse_key(name) else {
            return Ok(());
        };
        if removed {
            snapshot.take(&resource_key);
        } else {
            let stored = record::decode(resource_key, kv.value())
                .map_err(|error| format!("`{key}`: {error}"))?;
            snapshot.insert(stored);
        }
    } else if let Some(revision) = name.strip_prefix("t/") {
        if !removed {
            let revision: u64 = revision
                .parse()
                .map_err(|_error| format!("`{key}` is no number"))?;
            let keys: Vec<String> =
                serde_json::from_slice(kv.value()).map_err(|error| format!("`{key}`: {error}"))?;
            let keys: Vec<Key> = keys
                .iter()
                .filter_map(|key| record::parse_key(key))
                .collect();
            snapshot.bury(Revision(revision), keys, options.tombstones_max);
        }
    } else if name == "revision" && !removed {
        snapshot.set_revision(number(kv.value())?);
    } else if name == "compacted" && !removed {
        snapshot.set_compacted(number(kv.value())?);
    } else if name == "meta" {
        if removed {
            return Err("the store was removed from etcd".to_owned());
        }
        if kv.value() != meta_text(snapshot.epoch()).as_bytes() {
            return Err("the store began a new epoch".to_owned());
        }
    }
    Ok(())
}

impl fmt::Debug for Mirror {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Mirror")
            .field("seen", &self.seen)
            .finish_non_exhaustive()
    }
}
