//! A file that is not what was written: it is refused by name, or read exactly as it was.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use tempfile::TempDir;
use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{Batch, Epoch, FileOptions, RedbStore, Revision, Store, Stored, WallClock};

fn clock() -> WallClock {
    Arc::new(|| "2026-11-24T10:00:00Z".parse().unwrap())
}

fn key(n: usize) -> Key {
    Key::new(Kind::MeshTimeout, "default", format!("t{n:03}"))
}

fn numbered(n: usize, generation: usize) -> Resource {
    let filler = "x".repeat(n * 7 % 900);
    let spec =
        format!(r#"{{"filler":"{filler}","generation":{generation},"marker":"marker-{n:03}-"}}"#);
    Resource::new(key(n), Json::parse(&spec).unwrap())
}

/// All that a store shows.
#[derive(PartialEq, Debug)]
struct Content {
    epoch: Epoch,
    revision: Revision,
    resources: Vec<Stored>,
    removals: Option<Vec<(Key, Revision)>>,
}

fn content(store: &RedbStore) -> Content {
    let snapshot = store.snapshot();
    Content {
        epoch: snapshot.epoch().clone(),
        revision: snapshot.revision(),
        resources: snapshot.all().map(|stored| Stored::clone(stored)).collect(),
        removals: snapshot.tombstones_since(Revision::ZERO),
    }
}

/// A file with some history, and what is in it.
struct Case {
    folder: TempDir,
    bytes: Vec<u8>,
    content: Content,
}

impl Case {
    /// As closing leaves it, or as `kill -9` does.
    async fn new(closed: bool) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("whole.redb");
        let store = RedbStore::open(&path, clock()).unwrap();
        for generation in 0..3 {
            let batch = (0..150).fold(Batch::new(), |batch, n| batch.put(numbered(n, generation)));
            store.commit(batch).await.unwrap();
        }
        for n in 0..20 {
            store.commit(Batch::new().remove(key(n))).await.unwrap();
        }
        let content = content(&store);
        if closed {
            store.close();
        }
        let bytes = std::fs::read(&path).unwrap();
        Self {
            folder,
            bytes,
            content,
        }
    }

    /// Whether a file with these bytes was refused; if not, it shows what was committed, all of it, and can be used.
    async fn refuses(&self, bytes: &[u8], what: &str) -> bool {
        let path = self.folder.path().join("damaged.redb");
        std::fs::write(&path, bytes).unwrap();
        match RedbStore::open(&path, clock()) {
            Ok(store) => {
                assert!(content(&store) == self.content, "{what}: other content");
                // What the engine notes for itself, such as which pages are free, is true too.
                let more = (140..160).fold(Batch::new(), |batch, n| batch.put(numbered(n, 7)));
                store.commit(more).await.unwrap();
                let after = content(&store);
                store.close();
                let store = RedbStore::open(&path, clock())
                    .unwrap_or_else(|error| panic!("{what}, used: {error}"));
                assert!(content(&store) == after, "{what}: other content after use");
                false
            }
            Err(error) => {
                let error = error.to_string();
                for part in ["damaged.redb`: ", "hint: ", "zonal restore"] {
                    assert!(error.contains(part), "{what}: {error}");
                }
                assert!(std::fs::read(&path).is_ok(), "{what}: it is left there");
                true
            }
        }
    }
}

/// Repeatable numbers.
struct Dice(u64);

impl Dice {
    fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        usize::try_from(self.0 >> 16).unwrap() % limit
    }
}

#[tokio::test]
async fn a_scribbled_file_is_refused_or_shows_exactly_what_was_committed() {
    for closed in [true, false] {
        let case = Case::new(closed).await;
        assert!(!case.refuses(&case.bytes, "undamaged").await);
        let mut dice = Dice(0x005e_ed0f_da4a_6e00);
        let used = case.bytes.len() - case.bytes.iter().rev().take_while(|b| **b == 0).count();
        let mut refused = 0;
        for round in 0..80 {
            let (at, long) = (dice.below(used), 1 + dice.below(64));
            let mut bytes = case.bytes.clone();
            for byte in bytes.iter_mut().skip(at).take(long) {
                *byte = u8::try_from(dice.below(256)).unwrap();
            }
            let what = format!("closed {closed}, round {round}: {long} bytes at {at}");
            refused += usize::from(case.refuses(&bytes, &what).await);
        }
        assert!(
            refused >= 20,
            "{refused} scribbles hit something that counts"
        );
    }
}

#[tokio::test]
async fn no_bit_of_the_first_page_undoes_a_commit() {
    for closed in [true, false] {
        let case = Case::new(closed).await;
        let mut refused = 0;
        for at in (0..64).chain((64..320).step_by(3)) {
            // The byte that chooses between the two newest commits is looked at bit by bit.
            let bits = if at == 9 { 0..8 } else { at % 8..at % 8 + 1 };
            for bit in bits {
                let mut bytes = case.bytes.clone();
                bytes[at] ^= 1 << bit;
                let what = format!("closed {closed}: bit {bit} of byte {at}");
                refused += usize::from(case.refuses(&bytes, &what).await);
            }
        }
        assert!(refused >= 20, "{refused}");
    }
}

#[tokio::test]
async fn a_truncated_file_is_refused_or_shows_exactly_what_was_committed() {
    for closed in [true, false] {
        let case = Case::new(closed).await;
        let whole = case.bytes.len();
        let mut dice = Dice(0x7a11);
        let mut cuts = vec![
            0,
            1,
            9,
            64,
            319,
            320,
            4095,
            4096,
            8192,
            whole / 2,
            whole - 1,
        ];
        cuts.extend((0..20).map(|_| dice.below(whole)));
        cuts.extend((0..20).map(|_| dice.below(whole / 4096) * 4096));
        let mut refused = 0;
        for cut in &cuts {
            let what = format!("closed {closed}: cut at {cut} of {whole}");
            refused += usize::from(case.refuses(&case.bytes[..*cut], &what).await);
        }
        assert!(refused > cuts.len() / 2, "{refused} of {}", cuts.len());
        assert!(
            case.refuses(&[], "emptied").await,
            "an empty file is no new store"
        );
    }
}

fn places(path: &Path, text: &[u8]) -> Vec<u64> {
    let bytes = std::fs::read(path).unwrap();
    let found = bytes.windows(text.len()).enumerate();
    found
        .filter(|(_, window)| *window == text)
        .map(|(at, _)| u64::try_from(at).unwrap())
        .collect()
}

#[tokio::test]
async fn damage_while_the_file_is_in_use_is_noticed() {
    let folder = tempfile::tempdir().unwrap();
    let path: PathBuf = folder.path().join("store.redb");
    // Without a cache the engine reads each page from the disk that it is to change.
    let options = FileOptions {
        cache_bytes: 0,
        ..FileOptions::default()
    };
    let store = RedbStore::open_with(&path, clock(), options).unwrap();
    let batch = (0..100).fold(Batch::new(), |batch, n| batch.put(numbered(n, 0)));
    store.commit(batch).await.unwrap();
    let file = std::fs::File::options().write(true).open(&path).unwrap();
    let found = places(&path, b"marker-050-");
    assert!(!found.is_empty());
    for at in found {
        file.write_at(b"MARKER", at).unwrap();
    }
    // Everything beside it is written anew, and with it the page that both are in.
    for n in (40..60).filter(|n| *n != 50) {
        store
            .commit(Batch::new().put(numbered(n, 1)))
            .await
            .unwrap();
    }
    store.close();
    let error = RedbStore::open(&path, clock()).unwrap_err().to_string();
    assert!(
        error.contains("`MeshTimeout/default/t050` is not what was written"),
        "{error}"
    );
}

#[tokio::test]
async fn a_file_of_the_form_before_is_read_and_kept_in_the_new_one() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("store.redb");
    {
        let resources = redb::TableDefinition::<&str, &[u8]>::new("resources");
        let tombstones = redb::TableDefinition::<u64, &[u8]>::new("tombstones");
        let meta = redb::TableDefinition::<&str, &str>::new("meta");
        let db = redb::Database::create(&path).unwrap();
        let write = db.begin_write().unwrap();
        {
            let mut meta = write.open_table(meta).unwrap();
            for (name, value) in [
                ("format", "1"),
                ("epoch", "e"),
                ("revision", "7"),
                ("compacted", "2"),
            ] {
                meta.insert(name, value).unwrap();
            }
            let record = br#"{"rev":5,"created":4,"created_at":"2026-01-01T00:00:00Z","modified_at":"2026-01-01T00:00:00Z","labels":{},"spec":"{}"}"#;
            let mut resources = write.open_table(resources).unwrap();
            resources
                .insert("MeshTimeout/default/t001", record.as_slice())
                .unwrap();
            let mut tombstones = write.open_table(tombstones).unwrap();
            tombstones
                .insert(7, br#"["MeshTimeout/default/t002"]"#.as_slice())
                .unwrap();
        }
        write.commit().unwrap();
    }
    for opening in 1..=2 {
        let store = RedbStore::open(&path, clock()).unwrap();
        let content = content(&store);
        assert_eq!(content.epoch, Epoch::named("e"), "opening {opening}");
        assert_eq!(content.revision, Revision(7));
        assert_eq!(content.resources.len(), 1);
        assert_eq!(
            store.snapshot().tombstones_since(Revision(2)).unwrap(),
            [(key(2), Revision(7))]
        );
    }
    let store = RedbStore::open(&path, clock()).unwrap();
    let batch = Batch::new().put(numbered(1, 1)).put(numbered(2, 1));
    store.commit(batch).await.unwrap();
    store.close();
    let store = RedbStore::open(&path, clock()).unwrap();
    assert_eq!(store.snapshot().count(Kind::MeshTimeout), 2);
}
