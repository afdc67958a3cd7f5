//! Measures the file store: `cargo run --release -p zonal-store --example speed [RESOURCES]`.

#![allow(clippy::unwrap_used, clippy::print_stdout, clippy::disallowed_methods)]

use std::sync::Arc;
use std::time::Instant;

use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{Batch, RedbStore, Store};

fn dataplane(n: usize, version: usize) -> Resource {
    let spec = format!(
        r#"{{"networking":{{"address":"10.0.0.1","inbound":[{{"port":8080,"servicePort":80,"state":"Ready","version":{version}}}]}}}}"#
    );
    let key = Key::new(Kind::Dataplane, "default", format!("dataplane-{n}"));
    let mut resource = Resource::new(key, Json::from_canonical(&spec));
    for label in ["display-name", "env", "mesh", "origin", "zone", "workload"] {
        resource
            .meta
            .labels
            .insert(format!("kuma.io/{label}"), "value".to_owned());
    }
    resource
}

#[tokio::main]
async fn main() {
    let count: usize = std::env::args()
        .nth(1)
        .map_or(100_000, |text| text.parse().unwrap());
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let open = || RedbStore::open(&path, Arc::new(|| jiff::Timestamp::UNIX_EPOCH)).unwrap();

    let store = Arc::new(open());
    let begun = Instant::now();
    for first in (0..count).step_by(1000) {
        let range = first..(first + 1000).min(count);
        let batch = range.fold(Batch::new(), |batch, n| batch.put(dataplane(n, 0)));
        store.commit(batch).await.unwrap();
    }
    println!(
        "{count} resources in batches of 1000: {:?}",
        begun.elapsed()
    );

    let mut taken: Vec<_> = Vec::new();
    for n in 0..500 {
        let begun = Instant::now();
        store
            .commit(Batch::new().put(dataplane(n, 1)))
            .await
            .unwrap();
        taken.push(begun.elapsed());
    }
    taken.sort();
    println!(
        "one write at a time: median {:?}, slowest {:?}",
        taken.get(250),
        taken.last()
    );

    let begun = Instant::now();
    let writers: Vec<_> = (0..64)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in 0..50 {
                    store
                        .commit(Batch::new().put(dataplane(writer * 50 + n, 2)))
                        .await
                        .unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    println!("3200 writes of 64 writers: {:?}", begun.elapsed());

    let before = store.snapshot();
    store
        .commit(Batch::new().put(dataplane(7, 3)))
        .await
        .unwrap();
    let begun = Instant::now();
    let changes = store.snapshot().changes_since(&before).len();
    println!(
        "{changes} change among {count} found in {:?}",
        begun.elapsed()
    );

    drop(before);
    drop(store);
    let begun = Instant::now();
    let store = open();
    println!(
        "opened again with {} in {:?}",
        store.snapshot().count(Kind::Dataplane),
        begun.elapsed()
    );
    println!(
        "file: {} MiB",
        std::fs::metadata(&path).unwrap().len() >> 20
    );
}
