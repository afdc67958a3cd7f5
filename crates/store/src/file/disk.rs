//! Where the file is: making it, opening it, and what is wrong with it.

use std::ffi::OsString;
use std::fs::File;
use std::io::{self, Read as _, Write as _};
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};

use redb::backends::InMemoryBackend;
use redb::{Builder, Database, DatabaseError, ReadOnlyDatabase, StorageBackend as _, StorageError};

use super::Existing;
use super::db::{TableProblem, Tables};
use crate::error::StoreError;
use crate::snapshot::Snapshot;

/// Opens the database beneath: a file, or what a test puts in its place.
pub(super) type Opener = Box<dyn Fn() -> Result<Database, DatabaseError> + Send>;

const RESTORE: &str = "the file is damaged or is no store, and was left as it is: move it away and put a backup in its \
                       place with `zonal restore BACKUP --store FILE`, or start empty: a zone gets its policies again \
                       from global, and proxies register again";

/// How the database is opened: every page is compared with its sum before anything is believed.
pub(super) fn builder(cache_bytes: usize) -> Builder {
    let mut builder = Database::builder();
    builder.set_cache_size(cache_bytes);
    builder.set_check_integrity_on_open(true);
    builder
}

/// Opens a file that is there.
pub(super) fn on_disk(path: PathBuf, cache_bytes: usize) -> Opener {
    Box::new(move || {
        settle(&path)?;
        builder(cache_bytes).open(&path)
    })
}

/// Opens and reads all of it.
pub(super) fn open(path: &Path, opener: &Opener) -> Result<(Tables, Snapshot), StoreError> {
    guarded(path, || {
        let db = opener().map_err(|error| open_error(path, error))?;
        Tables::load(db).map_err(|problem| table_error(path, problem))
    })
}

/// A damaged file may trip an assertion of the engine; that is an error like any other here.
pub(super) fn guarded<T>(
    path: &Path,
    work: impl FnOnce() -> Result<T, StoreError>,
) -> Result<T, StoreError> {
    catch_unwind(AssertUnwindSafe(work))
        .unwrap_or_else(|_panic| Err(damaged(path, "its pages contradict each other".to_owned())))
}

/// Makes a file with all of a snapshot in it. It appears under its name whole, or not at all: what is found there later
/// and is empty or half was cut off.
pub(super) fn put(path: &Path, snapshot: &Snapshot, existing: Existing) -> Result<(), StoreError> {
    if path.exists() {
        if existing == Existing::Keep {
            return Err(taken(path));
        }
        if in_use(path) {
            return Err(open_error(path, DatabaseError::DatabaseAlreadyOpen));
        }
    }
    let making = beside(path, &format!("new-{}", std::process::id()));
    let made = make(&making, snapshot).and_then(|()| {
        let named = match existing {
            Existing::Keep => name_it(&making, path),
            Existing::Replace => std::fs::rename(&making, path).and_then(|()| sync_folder(path)),
        };
        named.map_err(|error| match error.kind() {
            io::ErrorKind::AlreadyExists => taken(path),
            _ => io_error(path, &error),
        })
    });
    if made.is_err() {
        // It is of no use, and may not even be there.
        let _gone = std::fs::remove_file(&making);
    }
    made
}

fn taken(path: &Path) -> StoreError {
    StoreError::Open {
        path: path.to_path_buf(),
        problem: "there is a file in its place already".to_owned(),
        hint: "move it away, or say that it may be lost with `--force`",
    }
}

fn in_use(path: &Path) -> bool {
    // A damaged file is nobody's, whatever the engine thinks of it.
    let opened = catch_unwind(|| ReadOnlyDatabase::open(path).map(drop));
    matches!(opened, Ok(Err(DatabaseError::DatabaseAlreadyOpen)))
}

fn make(path: &Path, snapshot: &Snapshot) -> Result<(), StoreError> {
    private_file(path).map_err(|error| io_error(path, &error))?;
    let db = Database::builder()
        .create(path)
        .map_err(|error| open_error(path, error))?;
    Tables::create(db, snapshot)
        .map(drop)
        .map_err(|problem| table_error(path, problem))
}

/// An empty file that only its owner can read: a store holds signing keys and those of authorities.
fn private_file(path: &Path) -> io::Result<File> {
    let mut options = File::options();
    options.read(true).write(true).create(true).truncate(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

/// Gives a file a name that nothing has yet.
fn name_it(made: &Path, path: &Path) -> io::Result<()> {
    match std::fs::hard_link(made, path) {
        // Not every file system has hard links.
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists && !path.exists() => {
            std::fs::rename(made, path)?;
        }
        linked => {
            linked?;
            std::fs::remove_file(made)?;
        }
    }
    sync_folder(path)
}

/// A file of the same folder.
pub(super) fn beside(path: &Path, ending: &str) -> PathBuf {
    let mut name = path
        .file_name()
        .map_or_else(OsString::new, ToOwned::to_owned);
    name.push(".");
    name.push(ending);
    path.with_file_name(name)
}

/// Makes names in a file's folder durable.
pub(super) fn sync_folder(path: &Path) -> io::Result<()> {
    let folder = match path.parent() {
        Some(folder) if !folder.as_os_str().is_empty() => folder,
        _ => Path::new("."),
    };
    File::open(folder)?.sync_all()
}

/// Where the file says which of its two newest commits counts, and where each has its number.
const CHOICE: usize = 9;
const COMMITS: [usize; 2] = [64 + 104, 64 + 128 + 104];
const HEADER: usize = 320;

/// Whether the commit that does not count is newer than the one that does. That is so after a crash in the middle of a
/// commit, and when the one unchecked byte of the file was altered, which would undo the last commit.
fn newest_is_set_aside(header: &[u8]) -> bool {
    let number = |at: usize| -> Option<u64> {
        let bytes = header.get(at..)?.first_chunk()?;
        Some(u64::from_le_bytes(*bytes))
    };
    let [first, second] = COMMITS.map(number);
    match (header.get(CHOICE), first, second) {
        (Some(choice), Some(first), Some(second)) if choice & 1 == 0 => second > first,
        (Some(_), Some(first), Some(second)) => first > second,
        _ => false,
    }
}

/// Sees to it that the newest commit that is whole counts.
fn settle(path: &Path) -> Result<(), DatabaseError> {
    let header = {
        let mut header = Vec::with_capacity(HEADER);
        let limit = u64::try_from(HEADER).unwrap_or(u64::MAX);
        File::open(path)?.take(limit).read_to_end(&mut header)?;
        header
    };
    if !newest_is_set_aside(&header) {
        return Ok(());
    }
    if in_use(path) {
        return Err(DatabaseError::DatabaseAlreadyOpen);
    }
    let mut bytes = std::fs::read(path)?;
    if let Some(choice) = bytes.get_mut(CHOICE) {
        *choice ^= 1;
    }
    if !is_whole(&bytes) {
        // A commit that a crash cut short: nobody was told that it is kept.
        return Ok(());
    }
    let settled = beside(path, "settled");
    let mut file = private_file(&settled)?;
    file.write_all(&bytes)?;
    file.sync_all()?;
    std::fs::rename(&settled, path)?;
    sync_folder(path)?;
    tracing::warn!(path = %path.display(), "the store's newest commit was whole and not marked so; it counts again");
    Ok(())
}

/// Whether these bytes of a file can be read without a doubt.
fn is_whole(bytes: &[u8]) -> bool {
    let whole = || -> Option<()> {
        let memory = InMemoryBackend::new();
        memory.set_len(u64::try_from(bytes.len()).ok()?).ok()?;
        memory.write(0, bytes).ok()?;
        let db = builder(1 << 20).create_with_backend(memory).ok()?;
        Tables::load(db).ok()?;
        Some(())
    };
    catch_unwind(AssertUnwindSafe(whole)).is_ok_and(|whole| whole.is_some())
}

fn is_full(error: &io::Error) -> bool {
    matches!(
        error.kind(),
        io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded | io::ErrorKind::FileTooLarge
    )
}

fn damaged(path: &Path, problem: String) -> StoreError {
    StoreError::Open {
        path: path.to_path_buf(),
        problem,
        hint: RESTORE,
    }
}

fn io_error(path: &Path, error: &io::Error) -> StoreError {
    if is_full(error) {
        return StoreError::Full {
            place: place(path),
            problem: error.to_string(),
        };
    }
    match error.kind() {
        io::ErrorKind::InvalidData | io::ErrorKind::UnexpectedEof => {
            damaged(path, error.to_string())
        }
        _ => StoreError::Open {
            path: path.to_path_buf(),
            problem: error.to_string(),
            hint: "check that the folder exists, its permissions and the disk",
        },
    }
}

pub(super) fn place(path: &Path) -> String {
    format!("`{}`", path.display())
}

fn open_error(path: &Path, error: DatabaseError) -> StoreError {
    match error {
        DatabaseError::DatabaseAlreadyOpen => StoreError::Open {
            path: path.to_path_buf(),
            problem: "another process has it open".to_owned(),
            hint: "stop the other process, or give this one a file of its own",
        },
        DatabaseError::UpgradeRequired(version) => damaged(
            path,
            format!("it names file format {version}, which no version of this program writes"),
        ),
        DatabaseError::Storage(StorageError::Io(error)) => io_error(path, &error),
        other => damaged(path, other.to_string()),
    }
}

/// What a problem with the tables is to whoever opens the file.
pub(super) fn table_error(path: &Path, problem: TableProblem) -> StoreError {
    match problem {
        TableProblem::Damaged(problem) => damaged(path, problem),
        TableProblem::Format(format) => StoreError::Open {
            path: path.to_path_buf(),
            problem: format!("it has format {format}, which this program does not know"),
            hint: "run the version that wrote it, or a newer one",
        },
        TableProblem::Engine(redb::Error::Io(error)) => io_error(path, &error),
        TableProblem::Engine(error) => damaged(path, error.to_string()),
    }
}

/// What it is to whoever writes that the file cannot be used.
pub(super) fn as_write_error(path: &Path, error: StoreError) -> StoreError {
    match error {
        StoreError::Open { problem, .. } => StoreError::Write {
            place: place(path),
            problem,
        },
        other => other,
    }
}
