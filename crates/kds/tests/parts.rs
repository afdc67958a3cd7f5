//! A store that takes little at once keeps all of what a peer sends nevertheless.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test may stop at once")]
#![allow(
    clippy::disallowed_methods,
    reason = "a test may make up its own start of time"
)]

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Instant;

use futures::future::BoxFuture;
use zonal_federation::{Border, Encodings, Features};
use zonal_kds::{Direction, From, Publisher, Subscriber, keep};
use zonal_model::{Json, Key, Kind, Resource, labels};
use zonal_store::{Batch, Committed, MemoryStore, Snapshot, Store, StoreError, Watch};

/// Takes a number of operations in one batch and no more.
struct Narrow {
    store: MemoryStore,
    ops_max: usize,
    commits: AtomicUsize,
}

impl Store for Narrow {
    fn snapshot(&self) -> Arc<Snapshot> {
        self.store.snapshot()
    }
    fn commit(&self, batch: Batch) -> BoxFuture<'_, Result<Committed, StoreError>> {
        if batch.ops.len() > self.ops_max {
            let error = StoreError::TooLarge {
                place: "made up".to_owned(),
                problem: format!("{} operations", batch.ops.len()),
                hint: "none",
            };
            return Box::pin(async move { Err(error) });
        }
        self.commits.fetch_add(1, Ordering::Relaxed);
        self.store.commit(batch)
    }
    fn watch(&self) -> Watch {
        self.store.watch()
    }
}

const KIND: Kind = Kind::HostnameGenerator;

#[tokio::test]
async fn what_a_store_cannot_take_at_once_is_kept_in_parts_and_answered_once() {
    let now = Instant::now();
    let clock = || -> zonal_store::WallClock { Arc::new(|| jiff::Timestamp::UNIX_EPOCH) };
    let global = MemoryStore::new(clock());
    let batch = (0..300).fold(Batch::new(), |batch, n| {
        let spec = serde_json::json!({
            "selector": {"meshService": {}},
            "template": format!("{{{{ .DisplayName }}}}.n{n}.mesh"),
        });
        let key = Key::global(KIND, format!("n{n}"));
        let mut resource = Resource::new(key, Json::from_value(&spec));
        let labels = &mut resource.meta.labels;
        labels.insert(labels::ORIGIN.to_owned(), "global".to_owned());
        batch.put(resource)
    });
    global.commit_now(batch).unwrap();
    let direction = Direction::Down {
        zone: "east".into(),
        features: Features::ALL,
    };
    let mut publisher = Publisher::new(direction, Arc::new(Encodings::new(Border::default())));
    let mut east = Subscriber::new(From::Global);
    publisher.handle_snapshot(&global.snapshot());
    while let Some(request) = east.poll_request() {
        drop(publisher.handle_request(now, request));
    }
    let zone = Narrow {
        store: MemoryStore::new(clock()),
        ops_max: 64,
        commits: AtomicUsize::new(0),
    };
    let mut puts = 0;
    while let Some(response) = publisher.poll_response(now) {
        let Some(pending) = east.handle_response(response) else {
            continue;
        };
        let kept = keep(&mut east, &pending, &zone).await.unwrap();
        assert!(kept.refused.is_empty(), "{:?}", kept.refused);
        puts += kept.puts;
        while let Some(request) = east.poll_request() {
            drop(publisher.handle_request(now, request));
        }
    }
    assert_eq!(zone.snapshot().count(KIND), 300);
    assert_eq!(puts, 300, "they are counted once");
    assert!(zone.commits.load(Ordering::Relaxed) >= 5);
    assert_eq!(publisher.reached(), Some(global.snapshot().revision()));
}
