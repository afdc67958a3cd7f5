//! The file's tables: loading and writing.
//!
//! ```text
//! resources    kind/mesh/name → seal, record
//! tombstones   revision       → seal, names
//! meta         format, epoch, revision, compacted, total (over the entries above), seal (over these five)
//! ```

use redb::{
    Database, ReadTransaction, ReadableDatabase, ReadableTable, TableDefinition, TableError,
    WriteTransaction,
};
use zonal_model::Key;

use super::seal::{Total, seal, seal_of_head, unseal};
use crate::plan::Plan;
use crate::record;
use crate::revision::{Epoch, Revision};
use crate::snapshot::{Snapshot, Stored};

type Table<'a, K> = redb::Table<'a, K, &'static [u8]>;
type Meta<'a> = redb::Table<'a, &'static str, &'static str>;

const RESOURCES: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("resources");
const TOMBSTONES: TableDefinition<'_, u64, &[u8]> = TableDefinition::new("tombstones");
const META: TableDefinition<'_, &str, &str> = TableDefinition::new("meta");

/// The form of the tables that is written.
const FORMAT: &str = "2";
/// The form before entries had seals. It is read, and written anew at once.
const FORMAT_UNSEALED: &str = "1";

/// Why the tables cannot be used.
#[derive(Debug)]
pub(super) enum TableProblem {
    /// They are not what was written.
    Damaged(String),
    /// Another version's.
    Format(String),
    /// The engine failed.
    Engine(redb::Error),
}

impl<E: Into<redb::Error>> From<E> for TableProblem {
    fn from(error: E) -> Self {
        Self::Engine(error.into())
    }
}

/// An open file.
pub(super) struct Tables {
    db: Database,
    total: Total,
}

/// What a file says about itself.
struct Head {
    epoch: Epoch,
    revision: Revision,
    compacted: Revision,
    total: Total,
}

impl Tables {
    /// Makes a new file's tables, with all of a snapshot in them.
    pub(super) fn create(db: Database, snapshot: &Snapshot) -> Result<Self, TableProblem> {
        let write = begin(&db)?;
        let mut total = Total::default();
        {
            let mut resources = write.open_table(RESOURCES)?;
            let mut tombstones = write.open_table(TOMBSTONES)?;
            for stored in snapshot.all() {
                put_resource(&mut resources, &mut total, stored)?;
            }
            for (revision, keys) in snapshot.tombstones() {
                put_tombstone(&mut tombstones, &mut total, revision, keys)?;
            }
            write_head(&write, &Head::of(snapshot, total))?;
        }
        write.commit()?;
        Ok(Self { db, total })
    }

    /// Reads everything.
    pub(super) fn load(db: Database) -> Result<(Self, Snapshot), TableProblem> {
        let read = db.begin_read()?;
        let meta = match read.open_table(META) {
            Ok(meta) => meta,
            Err(TableError::TableDoesNotExist(_)) => {
                let what = match read.list_tables()?.next() {
                    Some(_) => "it is a database of another program",
                    None => "it has no content, not even its own description",
                };
                return Err(TableProblem::Damaged(what.to_owned()));
            }
            Err(error) => return Err(error.into()),
        };
        let sealed = match text(&meta, "format")?.as_str() {
            FORMAT => true,
            FORMAT_UNSEALED => false,
            other => return Err(TableProblem::Format(other.to_owned())),
        };
        let head = Head::read(&meta, sealed)?;
        let mut snapshot = Snapshot::empty(head.epoch.clone());
        let mut total = Total::default();
        load_resources(&read, &mut snapshot, sealed.then_some(&mut total))?;
        load_tombstones(&read, &mut snapshot, sealed.then_some(&mut total))?;
        snapshot.set_revision(head.revision);
        snapshot.set_compacted(head.compacted);
        if total != head.total {
            return Err(TableProblem::Damaged(format!(
                "it should have {} entries and has {}, or some are not the newest",
                head.total.entries(),
                total.entries()
            )));
        }
        drop((meta, read));
        if !sealed {
            total = seal_entries(&db)?;
            tracing::info!("the store's file has sums over its content from now on");
        }
        Ok((Self { db, total }, snapshot))
    }

    /// Makes plans durable, all in one transaction. They follow each other.
    pub(super) fn write(&mut self, plans: &[&Plan]) -> Result<(), TableProblem> {
        let mut total = self.total;
        let write = begin(&self.db)?;
        {
            let mut resources = write.open_table(RESOURCES)?;
            let mut tombstones = write.open_table(TOMBSTONES)?;
            for plan in plans {
                for (key, new) in &plan.writes {
                    match new {
                        Some(stored) => put_resource(&mut resources, &mut total, stored)?,
                        None => remove_resource(&mut resources, &mut total, key)?,
                    }
                }
                let revision = plan.committed.snapshot.revision();
                if !plan.buried.is_empty() {
                    put_tombstone(&mut tombstones, &mut total, revision, &plan.buried)?;
                }
                for revision in &plan.forgotten {
                    remove_tombstone(&mut tombstones, &mut total, *revision)?;
                }
            }
            if let Some(last) = plans.last() {
                write_head(&write, &Head::of(&last.committed.snapshot, total))?;
            }
        }
        write.commit()?;
        self.total = total;
        Ok(())
    }
}

impl Head {
    fn of(snapshot: &Snapshot, total: Total) -> Self {
        Self {
            epoch: snapshot.epoch().clone(),
            revision: snapshot.revision(),
            compacted: snapshot.compacted(),
            total,
        }
    }

    fn read(
        meta: &impl ReadableTable<&'static str, &'static str>,
        sealed: bool,
    ) -> Result<Self, TableProblem> {
        let head = Self {
            epoch: Epoch::named(&text(meta, "epoch")?),
            revision: number(meta, "revision")?,
            compacted: number(meta, "compacted")?,
            total: if sealed {
                let total = text(meta, "total")?;
                total
                    .parse()
                    .map_err(|_error| TableProblem::Damaged(format!("its total is `{total}`")))?
            } else {
                Total::default()
            },
        };
        if sealed && text(meta, "seal")? != head.seal() {
            return Err(TableProblem::Damaged(
                "what it says about itself is not what was written".to_owned(),
            ));
        }
        Ok(head)
    }

    fn seal(&self) -> String {
        seal_of_head(&[
            FORMAT,
            self.epoch.as_str(),
            &self.revision.to_string(),
            &self.compacted.to_string(),
            &self.total.to_string(),
        ])
    }
}

/// Begins a transaction that is on the disk, whole, before it counts. The file is checked whenever it is opened, so
/// nothing is kept to make that shorter.
fn begin(db: &Database) -> Result<WriteTransaction, TableProblem> {
    let mut write = db.begin_write()?;
    write.set_two_phase_commit(true);
    Ok(write)
}

fn write_head(write: &WriteTransaction, head: &Head) -> Result<(), TableProblem> {
    let mut meta: Meta<'_> = write.open_table(META)?;
    meta.insert("format", FORMAT)?;
    meta.insert("epoch", head.epoch.as_str())?;
    meta.insert("revision", head.revision.to_string().as_str())?;
    meta.insert("compacted", head.compacted.to_string().as_str())?;
    meta.insert("total", head.total.to_string().as_str())?;
    meta.insert("seal", head.seal().as_str())?;
    Ok(())
}

fn text(
    meta: &impl ReadableTable<&'static str, &'static str>,
    name: &str,
) -> Result<String, TableProblem> {
    let value = meta.get(name)?.map(|value| value.value().to_owned());
    value.ok_or_else(|| TableProblem::Damaged(format!("it does not say its {name}")))
}

fn number(
    meta: &impl ReadableTable<&'static str, &'static str>,
    name: &str,
) -> Result<Revision, TableProblem> {
    let text = text(meta, name)?;
    text.parse()
        .map(Revision)
        .map_err(|_error| TableProblem::Damaged(format!("its {name} is `{text}`")))
}

/// An entry's bytes, its seal counted in; without a total there are no seals yet.
fn opened<'a>(
    name: &str,
    kept: &'a [u8],
    total: Option<&mut Total>,
) -> Result<&'a [u8], TableProblem> {
    let Some(total) = total else { return Ok(kept) };
    let (bytes, seal) = unseal(name, kept).ok_or_else(|| altered(name))?;
    total.add(seal);
    Ok(bytes)
}

fn altered(name: &str) -> TableProblem {
    TableProblem::Damaged(format!("`{name}` is not what was written"))
}

fn load_resources(
    read: &ReadTransaction,
    snapshot: &mut Snapshot,
    mut total: Option<&mut Total>,
) -> Result<(), TableProblem> {
    for entry in read.open_table(RESOURCES)?.iter()? {
        let (name, kept) = entry?;
        let name = name.value();
        let bytes = opened(name, kept.value(), total.as_deref_mut())?;
        let Some(key) = record::parse_key(name) else {
            // A newer version's kind: left in the file, served again after an upgrade.
            tracing::warn!(key = name, "the store has a resource of an unknown kind");
            continue;
        };
        let stored = record::decode(key, bytes)
            .map_err(|error| TableProblem::Damaged(format!("`{name}`: {error}")))?;
        snapshot.insert(stored);
    }
    Ok(())
}

fn load_tombstones(
    read: &ReadTransaction,
    snapshot: &mut Snapshot,
    mut total: Option<&mut Total>,
) -> Result<(), TableProblem> {
    for entry in read.open_table(TOMBSTONES)?.iter()? {
        let (revision, kept) = entry?;
        let revision = Revision(revision.value());
        let name = tombstone_name(revision);
        let bytes = opened(&name, kept.value(), total.as_deref_mut())?;
        let keys: Vec<String> = serde_json::from_slice(bytes)
            .map_err(|error| TableProblem::Damaged(format!("{name}: {error}")))?;
        let keys = keys
            .iter()
            .filter_map(|key| record::parse_key(key))
            .collect();
        snapshot.bury(revision, keys, usize::MAX);
    }
    Ok(())
}

fn put_resource(
    resources: &mut Table<'_, &'static str>,
    total: &mut Total,
    stored: &Stored,
) -> Result<(), TableProblem> {
    let name = record::key_text(&stored.resource.key);
    let bytes = record::encode(stored).map_err(not_encodable)?;
    let (sealed, seal) = seal(&name, &bytes);
    total.add(seal);
    if let Some(old) = resources.insert(name.as_str(), sealed.as_slice())? {
        let (_, seal) = unseal(&name, old.value()).ok_or_else(|| altered(&name))?;
        total.remove(seal);
    }
    Ok(())
}

fn remove_resource(
    resources: &mut Table<'_, &'static str>,
    total: &mut Total,
    key: &Key,
) -> Result<(), TableProblem> {
    let name = record::key_text(key);
    if let Some(old) = resources.remove(name.as_str())? {
        let (_, seal) = unseal(&name, old.value()).ok_or_else(|| altered(&name))?;
        total.remove(seal);
    }
    Ok(())
}

fn tombstone_name(revision: Revision) -> String {
    format!("removals of {revision}")
}

fn put_tombstone(
    tombstones: &mut Table<'_, u64>,
    total: &mut Total,
    revision: Revision,
    keys: &[Key],
) -> Result<(), TableProblem> {
    let keys: Vec<String> = keys.iter().map(record::key_text).collect();
    let bytes = serde_json::to_vec(&keys).map_err(not_encodable)?;
    let (sealed, seal) = seal(&tombstone_name(revision), &bytes);
    total.add(seal);
    tombstones.insert(revision.0, sealed.as_slice())?;
    Ok(())
}

fn remove_tombstone(
    tombstones: &mut Table<'_, u64>,
    total: &mut Total,
    revision: Revision,
) -> Result<(), TableProblem> {
    if let Some(old) = tombstones.remove(revision.0)? {
        let name = tombstone_name(revision);
        let (_, seal) = unseal(&name, old.value()).ok_or_else(|| altered(&name))?;
        total.remove(seal);
    }
    Ok(())
}

/// Brings a file from the form without seals to the one with them.
fn seal_entries(db: &Database) -> Result<Total, TableProblem> {
    let mut total = Total::default();
    let write = begin(db)?;
    {
        let mut resources: Table<'_, &'static str> = write.open_table(RESOURCES)?;
        let mut all: Vec<(String, Vec<u8>)> = Vec::new();
        for entry in resources.iter()? {
            let (name, bytes) = entry?;
            all.push((name.value().to_owned(), bytes.value().to_vec()));
        }
        for (name, bytes) in all {
            let (sealed, seal) = seal(&name, &bytes);
            total.add(seal);
            resources.insert(name.as_str(), sealed.as_slice())?;
        }
        let mut tombstones: Table<'_, u64> = write.open_table(TOMBSTONES)?;
        let mut all: Vec<(Revision, Vec<u8>)> = Vec::new();
        for entry in tombstones.iter()? {
            let (revision, bytes) = entry?;
            all.push((Revision(revision.value()), bytes.value().to_vec()));
        }
        for (revision, bytes) in all {
            let (sealed, seal) = seal(&tombstone_name(revision), &bytes);
            total.add(seal);
            tombstones.insert(revision.0, sealed.as_slice())?;
        }
    }
    let head = {
        let meta: Meta<'_> = write.open_table(META)?;
        Head {
            total,
            ..Head::read(&meta, false)?
        }
    };
    write_head(&write, &head)?;
    write.commit()?;
    Ok(total)
}

fn not_encodable(error: serde_json::Error) -> redb::Error {
    redb::Error::Io(std::io::Error::other(error))
}
