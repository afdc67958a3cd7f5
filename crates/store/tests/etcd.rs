//! What only a real etcd shows: several stores over one, compaction, its end and its return.

#![cfg(feature = "etcd")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing,
    clippy::print_stdout
)]

use std::net::TcpListener;
use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::sync::Arc;
use std::time::Duration;

use tempfile::TempDir;
use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{
    Batch, EtcdOptions, EtcdStore, Expect, Mirror, Revision, Snapshot, Store, StoreError, Stored,
    WallClock, Watch,
};

/// Longer than any healthy machine needs; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

fn clock() -> WallClock {
    Arc::new(|| jiff::Timestamp::UNIX_EPOCH)
}

fn named(name: &str) -> Resource {
    let spec = Json::parse(&format!(r#"{{"name":"{name}"}}"#)).unwrap();
    Resource::new(Key::new(Kind::MeshTimeout, "default", name), spec)
}

/// An etcd of the test's own, so that it can be ended and started again.
struct Etcd {
    folder: TempDir,
    clients: u16,
    peers: u16,
    arguments: Vec<String>,
    process: Option<Child>,
}

impl Etcd {
    /// `None`, said aloud, where the tests run without etcd.
    fn start(arguments: &[&str]) -> Option<Self> {
        if std::env::var("ZONAL_TEST_ETCD").is_err() {
            println!("skipped: ZONAL_TEST_ETCD is not set");
            return None;
        }
        let mut etcd = Self {
            folder: tempfile::tempdir().unwrap(),
            clients: free_port(),
            peers: free_port(),
            arguments: arguments.iter().map(|text| (*text).to_owned()).collect(),
            process: None,
        };
        etcd.resume();
        Some(etcd)
    }

    fn endpoint(&self) -> String {
        format!("http://127.0.0.1:{}", self.clients)
    }

    fn data(&self) -> PathBuf {
        self.folder.path().join("data")
    }

    fn resume(&mut self) {
        let (clients, peers) = (self.endpoint(), format!("http://127.0.0.1:{}", self.peers));
        let mut command = Command::new("etcd");
        command
            .arg("--data-dir")
            .arg(self.data())
            .args([
                "--listen-client-urls",
                &clients,
                "--advertise-client-urls",
                &clients,
            ])
            .args([
                "--listen-peer-urls",
                &peers,
                "--initial-advertise-peer-urls",
                &peers,
            ])
            .args(["--initial-cluster", &format!("default={peers}")])
            .args(&self.arguments)
            .stdout(Stdio::null())
            .stderr(Stdio::null());
        self.process = Some(command.spawn().unwrap());
    }

    fn kill(&mut self) {
        if let Some(mut process) = self.process.take() {
            process.kill().unwrap();
            process.wait().unwrap();
        }
    }

    async fn connect(&self) -> (Arc<EtcdStore>, Mirror) {
        let options = EtcdOptions {
            endpoints: vec![self.endpoint()],
            timeout: Duration::from_secs(5),
            ..EtcdOptions::default()
        };
        let (store, mirror) = retried("connecting", async || {
            Box::pin(EtcdStore::connect(options.clone(), clock())).await
        })
        .await;
        (Arc::new(store), mirror)
    }

    async fn store(&self) -> Arc<EtcdStore> {
        let (store, mirror) = self.connect().await;
        tokio::spawn(mirror.run());
        store
    }
}

impl Drop for Etcd {
    fn drop(&mut self) {
        self.kill();
    }
}

fn free_port() -> u16 {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    listener.local_addr().unwrap().port()
}

/// Tries until it succeeds; with the deadline, says the last error.
async fn retried<T, E: std::fmt::Display>(
    what: &str,
    mut work: impl AsyncFnMut() -> Result<T, E>,
) -> T {
    let mut tick = tokio::time::interval(Duration::from_millis(50));
    let deadline = tokio::time::Instant::now() + DEADLINE;
    loop {
        tick.tick().await;
        match work().await {
            Ok(done) => return done,
            Err(error) if tokio::time::Instant::now() > deadline => panic!("{what}: {error}"),
            Err(_) => {}
        }
    }
}

/// Follows until what is seen is as wanted; every step must be a step forward.
async fn until(watch: &mut Watch, wanted: impl Fn(&Snapshot) -> bool) -> Arc<Snapshot> {
    let follow = async {
        while !wanted(watch.seen()) {
            let changes = watch.next().await.unwrap();
            if changes.from.epoch() == changes.to.epoch() {
                assert!(
                    changes.from.revision() < changes.to.revision(),
                    "{changes:?}"
                );
            }
        }
        Arc::clone(watch.seen())
    };
    match tokio::time::timeout(DEADLINE, follow).await {
        Ok(snapshot) => snapshot,
        Err(_) => panic!("last seen: {:?}", watch.seen()),
    }
}

fn all(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot.all().map(|stored| Stored::clone(stored)).collect()
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn two_stores_over_one_etcd_count_one_line_of_revisions() {
    let Some(etcd) = Etcd::start(&[]) else { return };
    let (one, two) = (etcd.store().await, etcd.store().await);
    assert_eq!(one.snapshot().epoch(), two.snapshot().epoch());
    let mut watches = [one.watch(), two.watch()];
    let write = |store: &Arc<EtcdStore>, who: &'static str| {
        let store = Arc::clone(store);
        tokio::spawn(async move {
            let mut revisions = Vec::new();
            for n in 0..30 {
                let batch = Batch::new().put(named(&format!("{who}-{n}")));
                let committed = store.commit(batch).await.unwrap();
                let own = store.snapshot();
                assert!(
                    own.revision() >= committed.revision,
                    "it reads what it wrote"
                );
                revisions.push(committed.revision.0);
            }
            revisions
        })
    };
    let (first, second) = (write(&one, "one"), write(&two, "two"));
    let mut revisions = [first.await.unwrap(), second.await.unwrap()].concat();
    revisions.sort_unstable();
    let expected: Vec<u64> = (1..=60).collect();
    assert_eq!(revisions, expected, "no revision twice, none left out");
    let mut seen = Vec::new();
    for watch in &mut watches {
        seen.push(until(watch, |snapshot| snapshot.revision() == Revision(60)).await);
    }
    assert_eq!(all(&seen[0]), all(&seen[1]));

    // One of two who want the same name gets it.
    let batch = || Batch::new().put_if(named("wanted"), Expect::Absent);
    let (first, second) = tokio::join!(one.commit(batch()), two.commit(batch()));
    let lost = [first, second].into_iter().filter_map(Result::err);
    let lost: Vec<StoreError> = lost.collect();
    assert!(
        matches!(lost.as_slice(), [StoreError::Conflict { .. }]),
        "{lost:?}"
    );
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_mirror_that_slept_through_a_compaction_catches_up() {
    let Some(etcd) = Etcd::start(&[]) else { return };
    let writer = etcd.store().await;
    let first = Batch::new().put(named("stays")).put(named("goes"));
    writer.commit(first).await.unwrap();
    let (sleeper, mirror) = etcd.connect().await;
    let mut watch = sleeper.watch();
    let kept = Arc::clone(sleeper.snapshot().get(&named("stays").key).unwrap());
    writer
        .commit(Batch::new().remove(named("goes").key))
        .await
        .unwrap();
    for n in 0..20 {
        let batch = Batch::new().put(named(&format!("n{n}")));
        writer.commit(batch).await.unwrap();
    }
    let mut client = etcd_client::Client::connect([etcd.endpoint()], None)
        .await
        .unwrap();
    let newest = client.get("/", None).await.unwrap();
    let newest = newest.header().unwrap().revision();
    client.compact(newest, None).await.unwrap();
    assert_eq!(watch.seen().revision(), Revision(1), "it sleeps");
    tokio::spawn(mirror.run());
    let before = Arc::clone(watch.seen());
    let after = until(&mut watch, |snapshot| snapshot.revision() == Revision(22)).await;
    assert_eq!(all(&after), all(&writer.snapshot()));
    let changes = after.changes_since(&before);
    assert_eq!(
        changes.len(),
        21,
        "20 new ones, one gone, nothing else: {changes:?}"
    );
    assert!(
        Arc::ptr_eq(after.get(&named("stays").key).unwrap(), &kept),
        "what did not change is not read as changed"
    );
    let gone = after.tombstones_since(Revision(1)).unwrap();
    assert_eq!(gone, [(named("goes").key, Revision(2))]);
    // It follows again as it goes on, not only by reading everything.
    writer
        .commit(Batch::new().put(named("last")))
        .await
        .unwrap();
    until(&mut watch, |snapshot| snapshot.revision() == Revision(23)).await;
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn etcd_killed_and_started_again_loses_nothing() {
    let Some(mut etcd) = Etcd::start(&[]) else {
        return;
    };
    let (one, two) = (etcd.store().await, etcd.store().await);
    let mut watch = two.watch();
    one.commit(Batch::new().put(named("before"))).await.unwrap();
    let epoch = one.snapshot().epoch().clone();
    for round in 1..=2 {
        etcd.kill();
        let error = one
            .commit(Batch::new().put(named("meanwhile")))
            .await
            .unwrap_err();
        assert!(error.is_transient(), "{error}");
        assert!(error.to_string().contains("not known"), "{error}");
        assert_eq!(
            one.snapshot().count(Kind::MeshTimeout),
            round,
            "reading goes on"
        );
        etcd.resume();
        let name = format!("after-{round}");
        let committed = retried("writing again", async || {
            one.commit(Batch::new().put(named(&name))).await
        })
        .await;
        let seen = until(&mut watch, |snapshot| {
            snapshot.revision() >= committed.revision
        })
        .await;
        assert_eq!(seen.epoch(), &epoch);
        assert_eq!(all(&seen), all(&one.snapshot()));
        assert!(seen.get(&named("before").key).is_some());
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn an_older_state_of_etcd_is_a_new_epoch_for_all() {
    let Some(mut etcd) = Etcd::start(&[]) else {
        return;
    };
    let (one, two) = (etcd.store().await, etcd.store().await);
    one.commit(Batch::new().put(named("old"))).await.unwrap();
    let epoch = one.snapshot().epoch().clone();
    etcd.kill();
    let backup = etcd.folder.path().join("backup");
    copy(&etcd.data(), &backup);
    etcd.resume();
    for name in ["new", "newer"] {
        retried("writing again", async || {
            one.commit(Batch::new().put(named(name))).await
        })
        .await;
    }
    until(&mut two.watch(), |snapshot| {
        snapshot.revision() >= Revision(3)
    })
    .await;
    etcd.kill();
    std::fs::remove_dir_all(etcd.data()).unwrap();
    std::fs::rename(&backup, etcd.data()).unwrap();
    let mut watches = [one.watch(), two.watch()];
    etcd.resume();
    let mut seen = Vec::new();
    for watch in &mut watches {
        seen.push(until(watch, |snapshot| snapshot.epoch() != &epoch).await);
    }
    retried("agreeing on the epoch", async || {
        let (one, two) = (one.snapshot(), two.snapshot());
        let agreed = one.epoch() == two.epoch() && one.epoch() != &epoch;
        agreed.then_some(()).ok_or("they differ")
    })
    .await;
    assert_eq!(one.snapshot().count(Kind::MeshTimeout), 1, "{seen:?}");
    let committed = retried("writing again", async || {
        two.commit(Batch::new().put(named("again"))).await
    })
    .await;
    let seen = until(&mut one.watch(), |snapshot| {
        snapshot.revision() >= committed.revision
    })
    .await;
    assert_eq!(all(&seen), all(&two.snapshot()));
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = Command::new("cp").arg("-a").args([from, to]).status();
    assert!(done.unwrap().success());
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn a_batch_is_as_large_as_etcd_allows_and_a_larger_one_changes_nothing() {
    let large = || (0..500).fold(Batch::new(), |batch, n| batch.put(named(&format!("n{n}"))));
    let Some(etcd) = Etcd::start(&[]) else { return };
    let store = etcd.store().await;
    let error = store.commit(large()).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert!(!error.is_transient());
    assert!(error.to_string().contains("--max-txn-ops"), "{error}");
    let heavy = Json::parse(&format!(r#"{{"filler":"{}"}}"#, "x".repeat(2 << 20))).unwrap();
    let heavy = Resource::new(named("heavy").key, heavy);
    let error = store.commit(Batch::new().put(heavy)).await.unwrap_err();
    assert!(matches!(error, StoreError::TooLarge { .. }), "{error}");
    assert_eq!(store.snapshot().revision(), Revision::ZERO);
    store
        .commit(Batch::new().put(named("small")))
        .await
        .unwrap();

    let Some(etcd) = Etcd::start(&["--max-txn-ops=1000"]) else {
        return;
    };
    let (store, other) = (etcd.store().await, etcd.store().await);
    store.commit(large()).await.unwrap();
    let seen = until(&mut other.watch(), |snapshot| {
        snapshot.revision() == Revision(1)
    })
    .await;
    assert_eq!(
        seen.count(Kind::MeshTimeout),
        500,
        "all of it in one revision"
    );
}
