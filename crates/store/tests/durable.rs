//! What the file store keeps across its own end, also a violent one.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::io::{BufRead, BufReader, Read, Write};
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::Arc;

use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{Batch, FileOptions, RedbStore, Revision, Store, WallClock};

fn clock() -> WallClock {
    Arc::new(|| "2026-11-24T10:00:00.123456789Z".parse().unwrap())
}

fn key(n: usize) -> Key {
    Key::new(Kind::MeshTimeout, "default", format!("t{n}"))
}

fn numbered(n: usize) -> Resource {
    let mut resource = Resource::new(key(n), Json::parse(&format!(r#"{{"n":{n}}}"#)).unwrap());
    resource
        .meta
        .labels
        .insert("kuma.io/display-name".into(), format!("ü-{n}"));
    resource.status = Some(Json::parse(r#"{"a":[1,2]}"#).unwrap());
    resource.owner = Some(Key::global(Kind::Mesh, "default"));
    resource
}

#[tokio::test]
async fn everything_is_there_after_reopening() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let options = FileOptions {
        tombstones_max: 3,
        ..FileOptions::default()
    };
    let before = {
        let store = RedbStore::open_with(&path, clock(), options).unwrap();
        for n in 0..10 {
            store.commit(Batch::new().put(numbered(n))).await.unwrap();
        }
        for n in 0..5 {
            store.commit(Batch::new().remove(key(n))).await.unwrap();
        }
        store.snapshot()
    };
    let store = RedbStore::open_with(&path, clock(), options).unwrap();
    let after = store.snapshot();
    assert_eq!(after.epoch(), before.epoch());
    assert_eq!(after.revision(), Revision(15));
    let content = |snapshot: &zonal_store::Snapshot| -> Vec<zonal_store::Stored> {
        snapshot
            .all()
            .map(|stored| zonal_store::Stored::clone(stored))
            .collect()
    };
    assert_eq!(content(&after), content(&before));
    for revision in 0..=15 {
        let revision = Revision(revision);
        assert_eq!(
            after.tombstones_since(revision),
            before.tombstones_since(revision)
        );
    }
    assert_eq!(
        after.tombstones_since(Revision(11)),
        None,
        "two of five removals were forgotten"
    );
    assert_eq!(
        after.tombstones_since(Revision(12)).unwrap(),
        [
            (key(2), Revision(13)),
            (key(3), Revision(14)),
            (key(4), Revision(15))
        ]
    );
    let next = store.commit(Batch::new().put(numbered(77))).await.unwrap();
    assert_eq!(next.revision, Revision(16), "the counter goes on");
}

#[tokio::test]
async fn a_closed_store_refuses_and_its_watchers_learn_it() {
    let folder = tempfile::tempdir().unwrap();
    let store = RedbStore::open(folder.path().join("store.redb"), clock()).unwrap();
    let mut watch = store.watch();
    store.commit(Batch::new().put(numbered(1))).await.unwrap();
    store.close();
    assert!(
        watch.next().await.is_ok(),
        "what was published is handed out first"
    );
    assert!(watch.next().await.is_err());
    assert!(store.commit(Batch::new().put(numbered(2))).await.is_err());
    assert_eq!(store.snapshot().revision(), Revision(1), "reading goes on");
}

const HELPER_FILE: &str = "ZONAL_KILL_TEST_FILE";

/// Not a test of its own: the process that the next test kills. Four writers, each acknowledged write on a line.
#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn helper_that_writes_until_it_is_killed() {
    let Ok(path) = std::env::var(HELPER_FILE) else {
        return;
    };
    let store = Arc::new(RedbStore::open(Path::new(&path), clock()).unwrap());
    let first = store.snapshot().count(Kind::MeshTimeout);
    let writers: Vec<_> = (0..4)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                for n in (first * 10 + writer..).step_by(4) {
                    let batch = Batch::new().put(numbered(n)).put(numbered(n + 1_000_000));
                    let committed = store.commit(batch).await.unwrap();
                    let mut out = std::io::stdout().lock();
                    writeln!(out, "kept {n} {}", committed.revision).unwrap();
                    out.flush().unwrap();
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
}

#[tokio::test]
async fn killing_it_in_mid_write_loses_no_acknowledged_write() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    let mut kept: Vec<(usize, Revision)> = Vec::new();
    for round in 1..=5 {
        let mut helper = Command::new(std::env::current_exe().unwrap())
            .args([
                "--exact",
                "helper_that_writes_until_it_is_killed",
                "--nocapture",
            ])
            .env(HELPER_FILE, &path)
            .stdout(Stdio::piped())
            .stderr(Stdio::null())
            .spawn()
            .unwrap();
        let mut output = BufReader::new(helper.stdout.take().unwrap());
        let mut take = |line: &str| {
            let mut words = line
                .split_whitespace()
                .skip_while(|word| !word.ends_with("kept"))
                .skip(1);
            if let (Some(n), Some(revision)) = (words.next(), words.next()) {
                kept.push((n.parse().unwrap(), Revision(revision.parse().unwrap())));
                return true;
            }
            false
        };
        let mut seen = 0;
        while seen < 20 * round {
            let mut line = String::new();
            assert!(
                output.read_line(&mut line).unwrap() > 0,
                "the helper writes until it is killed"
            );
            seen += usize::from(take(&line));
        }
        helper.kill().unwrap();
        helper.wait().unwrap();
        // What it acknowledged between our decision and its end counts too; the last line may be cut.
        let mut rest = String::new();
        output.read_to_string(&mut rest).unwrap();
        for line in rest
            .split_inclusive('\n')
            .filter(|line| line.ends_with('\n'))
        {
            take(line);
        }
        let store = RedbStore::open(&path, clock()).unwrap();
        let snapshot = store.snapshot();
        let newest = kept.iter().map(|(_, revision)| *revision).max().unwrap();
        assert!(snapshot.revision() >= newest, "round {round}");
        for (n, revision) in &kept {
            for n in [*n, *n + 1_000_000] {
                let stored = snapshot
                    .get(&key(n))
                    .unwrap_or_else(|| panic!("round {round}: {n}"));
                assert_eq!(stored.revision, *revision);
            }
        }
        let halves = snapshot.count(Kind::MeshTimeout) % 2;
        assert_eq!(
            halves, 0,
            "round {round}: a batch is there whole or not at all"
        );
    }
}
