//! The file's tables: opening, loading, writing.

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::{
    Database, DatabaseError, ReadableDatabase, ReadableTable, StorageError, TableDefinition,
    TableError,
};
use zonal_model::Key;

use crate::error::StoreError;
use crate::plan::Plan;
use crate::record;
use crate::revision::{Epoch, Revision};
use crate::snapshot::Snapshot;

const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const TOMBSTONES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("tombstones");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// The only form of the tables so far.
const FORMAT: &str = "1";

/// Opens the database beneath: a file, or what a test puts in its place.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

pub(super) fn on_disk(path: PathBuf, cache_bytes: usize) -> Opener {
    Box::new(move || {
        let mut builder = Database::builder();
        builder.set_cache_size(cache_bytes);
        builder.create(&path)
    })
}

/// Opens the file and reads all of it.
pub(super) fn open(path: &Path, opener: &Opener) -> Result<(Database, Snapshot), StoreError> {
    // A damaged file may trip an assertion of the engine; that is an error like any other here.
    let opened = catch_unwind(AssertUnwindSafe(|| {
        let db = opener().map_err(|error| open_error(path, &error))?;
        let snapshot = load_or_init(path, &db)?;
        Ok((db, snapshot))
    }));
    opened.unwrap_or_else(|_panic| Err(damaged(path, "its pages contradict each other".to_owned())))
}

fn damaged(path: &Path, problem: String) -> StoreError {
    StoreError::Open {
        path: path.to_path_buf(),
        problem,
        hint: "the file is damaged or is no store; move it away and restore a backup, or start empty: a zone gets its \
               policies again from global, and proxies register again",
    }
}

fn open_error(path: &Path, error: &DatabaseError) -> StoreError {
    let (problem, hint) = match error {
        DatabaseError::DatabaseAlreadyOpen => (
            "another process has it open".to_owned(),
            "stop the other process, or give this one a file of its own",
        ),
        DatabaseError::UpgradeRequired(version) => (
            format!("it was written by an older version, file format {version}"),
            "upgrade in the order that the changelog gives",
        ),
        DatabaseError::Storage(StorageError::Io(error))
            if error.kind() != std::io::ErrorKind::InvalidData
                && error.kind() != std::io::ErrorKind::UnexpectedEof =>
        {
            (
                error.to_string(),
                "check that the folder exists, its permissions and the free space",
            )
        }
        other => return damaged(path, other.to_string()),
    };
    StoreError::Open {
        path: path.to_path_buf(),
        problem,
        hint,
    }
}

fn load_or_init(path: &Path, db: &Database) -> Result<Snapshot, StoreError> {
    let bad = |error: redb::Error| damaged(path, error.to_string());
    let read = db.begin_read().map_err(|error| bad(error.into()))?;
    let meta = match read.open_table(META) {
        Ok(meta) => meta,
        Err(TableError::TableDoesNotExist(_)) => {
            if read
                .list_tables()
                .map_err(|error| bad(error.into()))?
                .next()
                .is_some()
            {
                return Err(damaged(
                    path,
                    "it is a database of another program".to_owned(),
                ));
            }
            return init(db).map_err(bad);
        }
        Err(error) => return Err(bad(error.into())),
    };
    let text = |name: &str| -> Result<String, StoreError> {
        let value = meta.get(name).map_err(|error| bad(error.into()))?;
        value
            .map(|value| value.value().to_owned())
            .ok_or_else(|| damaged(path, format!("it does not say its {name}")))
    };
    let number = |name: &str| -> Result<Revision, StoreError> {
        let text = text(name)?;
        text.parse()
            .map(Revision)
            .map_err(|_error| damaged(path, format!("its {name} is `{text}`")))
    };
    let format = text("format")?;
    if format != FORMAT {
        return Err(StoreError::Open {
            path: path.to_path_buf(),
            problem: format!("it has format {format}, this program knows {FORMAT}"),
            hint: "run the version that wrote it, or a newer one",
        });
    }
    let mut snapshot = Snapshot::empty(Epoch::named(&text("epoch")?));
    let resources = read
        .open_table(RESOURCES)
        .map_err(|error| bad(error.into()))?;
    for entry in resources.iter().map_err(|error| bad(error.into()))? {
        let (name, bytes) = entry.map_err(|error| bad(error.into()))?;
        let Some(key) = record::parse_key(name.value()) else {
            // A newer version's kind: left in the file, served again after an upgrade.
            tracing::warn!(
                key = name.value(),
                "the store has a resource of an unknown kind"
            );
            continue;
        };
        let stored = record::decode(key, bytes.value())
            .map_err(|error| damaged(path, format!("`{}`: {error}", name.value())))?;
        snapshot.insert(stored);
    }
    let tombstones = read
        .open_table(TOMBSTONES)
        .map_err(|error| bad(error.into()))?;
    for entry in tombstones.iter().map_err(|error| bad(error.into()))? {
        let (revision, keys) = entry.map_err(|error| bad(error.into()))?;
        let keys: Vec<String> = serde_json::from_slice(keys.value())
            .map_err(|error| damaged(path, format!("removals of {}: {error}", revision.value())))?;
        let keys: Vec<Key> = keys
            .iter()
            .filter_map(|key| record::parse_key(key))
            .collect();
        snapshot.bury(Revision(revision.value()), keys, usize::MAX);
    }
    snapshot.set_revision(number("revision")?);
    snapshot.set_compacted(number("compacted")?);
    Ok(snapshot)
}

fn init(db: &Database) -> Result<Snapshot, redb::Error> {
    let epoch = Epoch::fresh();
    let mut write = db.begin_write()?;
    write.set_quick_repair(true);
    {
        let mut meta = write.open_table(META)?;
        meta.insert("format", FORMAT)?;
        meta.insert("epoch", epoch.as_str())?;
        meta.insert("revision", "0")?;
        meta.insert("compacted", "0")?;
        write.open_table(RESOURCES)?;
        write.open_table(TOMBSTONES)?;
    }
    write.commit()?;
    Ok(Snapshot::empty(epoch))
}

/// Gives the content a new epoch.
pub(super) fn begin_epoch(
    path: &Path,
    db: &Database,
    snapshot: Snapshot,
) -> Result<Snapshot, StoreError> {
    let epoch = Epoch::fresh();
    let write = || -> Result<(), redb::Error> {
        let mut write = db.begin_write()?;
        write.set_quick_repair(true);
        write.open_table(META)?.insert("epoch", epoch.as_str())?;
        write.commit()?;
        Ok(())
    };
    write().map_err(|error| StoreError::Open {
        path: path.to_path_buf(),
        problem: format!("a new epoch cannot be written: {error}"),
        hint: "check its permissions and the free space",
    })?;
    Ok(snapshot.in_epoch(epoch))
}

/// Makes plans durable, all in one transaction. They follow each other.
pub(super) fn write(db: &Database, plans: &[&Plan]) -> Result<(), redb::Error> {
    let mut write = db.begin_write()?;
    // Costs a little per commit, and makes opening after a crash immediate.
    write.set_quick_repair(true);
    {
        let mut meta = write.open_table(META)?;
        let mut resources = write.open_table(RESOURCES)?;
        let mut tombstones = write.open_table(TOMBSTONES)?;
        for plan in plans {
            for (key, new) in &plan.writes {
                let name = record::key_text(key);
                match new {
                    Some(stored) => {
                        let bytes = record::encode(stored).map_err(not_encodable)?;
                        resources.insert(name.as_str(), bytes.as_slice())?;
                    }
                    None => {
                        resources.remove(name.as_str())?;
                    }
                }
            }
            let snapshot = &plan.committed.snapshot;
            if !plan.buried.is_empty() {
                let keys: Vec<String> = plan.buried.iter().map(record::key_text).collect();
                let bytes = serde_json::to_vec(&keys).map_err(not_encodable)?;
                tombstones.insert(snapshot.revision().0, bytes.as_slice())?;
            }
            for revision in &plan.forgotten {
                tombstones.remove(revision.0)?;
            }
            meta.insert("revision", snapshot.revision().to_string().as_str())?;
            meta.insert("compacted", snapshot.compacted().to_string().as_str())?;
        }
    }
    write.commit()?;
    Ok(())
}

fn not_encodable(error: serde_json::Error) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error))
}
