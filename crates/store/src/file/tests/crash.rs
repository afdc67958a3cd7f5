//! The end of the process, of the machine's power, or of the room on the disk, between any two steps.

use std::io;
use std::sync::Mutex;

use redb::StorageBackend;
use zonal_model::{Json, Key, Kind, Resource};

use super::super::*;
use crate::memory::MemoryStore;
use crate::revision::Revision;
use crate::snapshot::Stored;

fn clock() -> WallClock {
    Arc::new(|| jiff::Timestamp::UNIX_EPOCH)
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

#[derive(Clone, Debug)]
enum Step {
    Write(usize, Vec<u8>),
    Resize(usize),
}

fn apply(bytes: &mut Vec<u8>, step: &Step) {
    match step {
        Step::Resize(len) => bytes.resize(*len, 0),
        Step::Write(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

/// How a disk stops taking what it is given.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum End {
    Dead,
    Full,
}

#[derive(Debug)]
struct Platter {
    /// What programs see.
    seen: Vec<u8>,
    /// What outlives the power.
    synced: Vec<u8>,
    /// What was done since.
    unsynced: Vec<Step>,
    /// Steps until the end.
    left: usize,
    end: End,
}

/// A disk that takes a number of steps and no more.
#[derive(Clone, Debug)]
struct Fragile(Arc<Mutex<Platter>>);

impl Fragile {
    fn new(bytes: Vec<u8>, left: usize, end: End) -> Self {
        Self(Arc::new(Mutex::new(Platter {
            seen: bytes.clone(),
            synced: bytes,
            unsynced: Vec::new(),
            left,
            end,
        })))
    }

    fn opener(&self) -> disk::Opener {
        let disk = self.clone();
        Box::new(move || disk::builder(1 << 20).create_with_backend(disk.clone()))
    }

    fn start(&self) -> Result<RedbStore, StoreError> {
        RedbStore::start(
            "made-up".into(),
            self.opener(),
            clock(),
            FileOptions::default(),
        )
    }

    fn allow(&self, steps: usize) {
        self.0.lock().unwrap().left = steps;
    }

    fn step(&self, work: impl FnOnce(&mut Platter)) -> io::Result<()> {
        let mut platter = self.0.lock().unwrap();
        if platter.left == 0 {
            let kind = match platter.end {
                End::Dead => io::ErrorKind::Other,
                End::Full => io::ErrorKind::StorageFull,
            };
            return Err(io::Error::new(kind, "made up"));
        }
        platter.left -= 1;
        work(&mut platter);
        Ok(())
    }

    fn change(&self, step: Step) -> io::Result<()> {
        self.step(|platter| {
            apply(&mut platter.seen, &step);
            platter.unsynced.push(step);
        })
    }

    /// What is found after `kill -9`: all that was done.
    fn after_a_kill(&self) -> Vec<u8> {
        self.0.lock().unwrap().seen.clone()
    }

    /// What is found after a loss of power: of what was not synced some, in any order, and parts of sectors' size.
    fn after_a_power_cut(&self, dice: &mut Dice) -> Vec<u8> {
        let platter = self.0.lock().unwrap();
        let mut bytes = platter.synced.clone();
        for step in &platter.unsynced {
            match step {
                Step::Write(at, data) => match dice.below(3) {
                    0 => {}
                    1 => apply(&mut bytes, step),
                    _ => {
                        let sectors = dice.below(data.len() / 512 + 1);
                        let part = data[..sectors * 512].to_vec();
                        apply(&mut bytes, &Step::Write(*at, part));
                    }
                },
                Step::Resize(_) => apply(&mut bytes, step),
            }
        }
        bytes
    }
}

impl StorageBackend for Fragile {
    fn len(&self) -> io::Result<u64> {
        Ok(self.0.lock().unwrap().seen.len() as u64)
    }
    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        let platter = self.0.lock().unwrap();
        let found = platter.seen.get(at..at + out.len());
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }
    fn set_len(&self, len: u64) -> io::Result<()> {
        self.change(Step::Resize(usize::try_from(len).unwrap()))
    }
    fn sync_data(&self) -> io::Result<()> {
        self.step(|platter| {
            platter.synced = platter.seen.clone();
            platter.unsynced.clear();
        })
    }
    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let at = usize::try_from(offset).unwrap();
        self.change(Step::Write(at, data.to_vec()))
    }
}

/// What is written one after the other: pairs that belong together, some of them large, some removed again.
fn batches() -> Vec<Batch> {
    let key = |n: usize, half: &str| Key::new(Kind::MeshTimeout, "default", format!("t{n}-{half}"));
    (0..6)
        .map(|n| {
            let spec = format!(r#"{{"filler":"{}"}}"#, "x".repeat(n * 4000));
            let put = |half| Resource::new(key(n, half), Json::parse(&spec).unwrap());
            let batch = Batch::new().put(put("left")).put(put("right"));
            if n % 2 == 0 {
                batch
            } else {
                batch.remove(key(n - 1, "left")).remove(key(n - 1, "right"))
            }
        })
        .collect()
}

fn resources(snapshot: &Snapshot) -> Vec<Stored> {
    snapshot.all().map(|stored| Stored::clone(stored)).collect()
}

/// An empty file, and what a store shows at each revision.
fn story() -> (Vec<u8>, Vec<Vec<Stored>>) {
    let epoch = Epoch::named("e");
    let disk = Fragile::new(Vec::new(), usize::MAX, End::Dead);
    let db = disk.opener()().unwrap();
    drop(db::Tables::create(db, &Snapshot::empty(epoch.clone())).unwrap());
    let model = MemoryStore::with_epoch(epoch, clock());
    let mut states = vec![Vec::new()];
    for batch in batches() {
        states.push(resources(&model.commit_now(batch).unwrap().snapshot));
    }
    (disk.after_a_kill(), states)
}

/// Writes until the disk ends. The newest revision that was acknowledged, and whether that was all.
async fn write_all(disk: &Fragile) -> (Revision, bool) {
    let mut acknowledged = Revision::ZERO;
    let Ok(store) = disk.start() else {
        return (acknowledged, false);
    };
    for batch in batches() {
        match store.commit(batch).await {
            Ok(committed) => acknowledged = committed.revision,
            Err(_) => return (acknowledged, false),
        }
    }
    (acknowledged, true)
}

/// Opens what was left: it shows the last acknowledged state or the one after it, and takes the rest.
async fn check_left(left: Vec<u8>, acknowledged: Revision, states: &[Vec<Stored>], what: &str) {
    let disk = Fragile::new(left, usize::MAX, End::Dead);
    let store = disk
        .start()
        .unwrap_or_else(|error| panic!("{what}: {error}"));
    let found = store.snapshot();
    let at = usize::try_from(found.revision().0).unwrap();
    let allowed = [acknowledged, acknowledged.next()];
    assert!(allowed.contains(&found.revision()), "{what}: {found:?}");
    assert!(resources(&found) == states[at], "{what}: {found:?}");
    assert_eq!(found.epoch(), &Epoch::named("e"), "{what}");
    for batch in batches().into_iter().skip(at) {
        store.commit(batch).await.unwrap();
    }
    store.close();
    let again = disk.start().unwrap().snapshot();
    assert!(resources(&again) == *states.last().unwrap(), "{what}");
}

#[tokio::test]
async fn an_end_between_any_two_steps_loses_nothing_acknowledged_and_leaves_no_half() {
    let (empty, states) = story();
    let mut steps = 0;
    loop {
        let disk = Fragile::new(empty.clone(), steps, End::Dead);
        let (acknowledged, done) = write_all(&disk).await;
        let what = format!("killed after {steps} steps");
        check_left(disk.after_a_kill(), acknowledged, &states, &what).await;
        for seed in 1..=3 {
            let mut dice = Dice(seed * 0x9e37_79b9 + steps as u64);
            let what = format!("power cut after {steps} steps, seed {seed}");
            let left = disk.after_a_power_cut(&mut dice);
            check_left(left, acknowledged, &states, &what).await;
        }
        if done {
            break;
        }
        steps += 1;
    }
    assert!(steps > 30, "{steps} steps were looked at");
}

#[tokio::test]
async fn a_disk_that_fills_at_any_step_says_so_and_goes_on_when_there_is_room() {
    let (empty, states) = story();
    let mut steps = 0;
    let mut refused = 0;
    loop {
        let disk = Fragile::new(empty.clone(), usize::MAX, End::Full);
        let store = disk.start().unwrap();
        disk.allow(steps);
        let mut done = true;
        for (n, batch) in batches().into_iter().enumerate() {
            if let Err(error) = store.commit(batch.clone()).await {
                done = false;
                refused += 1;
                let full = matches!(error, StoreError::Full { .. });
                assert!(full, "after {steps} steps: {error}");
                assert!(resources(&store.snapshot()) == states[n], "nothing changed");
                disk.allow(usize::MAX);
                // It may have reached the disk all the same; then there is nothing to do.
                store.commit(batch).await.unwrap();
            }
            assert!(
                resources(&store.snapshot()) == states[n + 1],
                "after {steps} steps"
            );
        }
        drop(store);
        if done {
            break;
        }
        steps += 1;
    }
    assert!(refused > 20, "{refused}");
}
