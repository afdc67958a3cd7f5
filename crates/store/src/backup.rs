//! A store's content as a file that describes and proves itself.
//!
//! ```text
//! {"zonalBackup":1,"product":"zonal 0.1.0","epoch":"…","revision":1207,"compacted":0,"resources":2,"removals":1}
//! {"key":"MeshTimeout/default/slow","record":{…}}        every resource
//! {"removedAt":1100,"keys":["MeshTimeout/default/old"]}  what is remembered of removals
//! {"end":4,"sum":"…"}                                    how many lines came before, and their sum
//! ```
//!
//! It holds the secrets that the store holds.

use std::io::{self, BufRead};
use std::sync::Arc;

use serde::{Deserialize, Serialize};
use xxhash_rust::xxh3::Xxh3;
use zonal_model::Key;

use crate::record::{self, Record};
use crate::revision::{Epoch, Revision};
use crate::snapshot::{Snapshot, Stored};

/// The only form so far.
const FORMAT: u32 = 1;
/// Lines are handed out in pieces of about this size.
const CHUNK_BYTES: usize = 64 << 10;
/// The longest line that is read: more than any resource is.
const LINE_BYTES_MAX: u64 = 64 << 20;

/// What a backup says about itself.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BackupHead {
    /// The form of the file.
    #[serde(rename = "zonalBackup")]
    pub format: u32,
    /// The program that made it, with its version.
    pub product: String,
    /// The life of the store that it is from.
    pub epoch: Epoch,
    /// What it shows.
    pub revision: Revision,
    /// The newest revision whose removals were forgotten.
    pub compacted: Revision,
    /// How many resources are in it.
    pub resources: usize,
    /// How many revisions with removals.
    pub removals: usize,
}

#[derive(Serialize, Deserialize)]
#[serde(untagged)]
enum Line {
    Resource {
        key: String,
        record: Record,
    },
    Removals {
        #[serde(rename = "removedAt")]
        removed_at: Revision,
        keys: Vec<String>,
    },
    End {
        end: u64,
        sum: String,
    },
}

/// Why a file is no backup that can be trusted.
#[derive(Debug, thiserror::Error)]
pub enum InvalidBackup {
    /// It cannot be read.
    #[error("it cannot be read: {0}")]
    Io(#[from] io::Error),
    /// It does not begin as a backup does.
    #[error("it is no backup: its first line does not say so")]
    NoBackup,
    /// It was made by a version that is too new for this one.
    #[error("it has format {0}, this program knows {FORMAT}: use the version that made it")]
    Format(u32),
    /// A kind that this version does not have.
    #[error(
        "line {line} has `{key}`, of a kind that this version does not know: use the version that made it"
    )]
    UnknownKind {
        /// Where.
        line: u64,
        /// The name.
        key: String,
    },
    /// A line is not what a line can be.
    #[error("line {line} cannot be understood: {problem}")]
    Line {
        /// Where.
        line: u64,
        /// Why.
        problem: String,
    },
    /// It ends before its end.
    #[error("it was cut off after {0} lines")]
    CutOff(u64),
    /// Its content is not what was written.
    #[error("it is damaged: {0}")]
    Damaged(String),
}

/// The lines of a backup of a snapshot, in pieces. Nothing is copied ahead of who takes them.
///
/// # Errors
/// Of the iterator: a resource cannot be printed, which ends the backup before its end.
pub fn backup(
    snapshot: Arc<Snapshot>,
    product: &str,
) -> impl Iterator<Item = io::Result<Vec<u8>>> + Send + use<> {
    let head = BackupHead {
        format: FORMAT,
        product: product.to_owned(),
        epoch: snapshot.epoch().clone(),
        revision: snapshot.revision(),
        compacted: snapshot.compacted(),
        resources: snapshot.all().count(),
        removals: snapshot.tombstones().count(),
    };
    let resources: Vec<Arc<Stored>> = snapshot.all().map(Arc::clone).collect();
    let mut printer = Printer {
        head: Some(head),
        resources: resources.into_iter(),
        snapshot,
        buried: None,
        sum: Xxh3::new(),
        lines: 0,
        ended: false,
    };
    std::iter::from_fn(move || printer.chunk().transpose())
}

struct Printer {
    head: Option<BackupHead>,
    resources: std::vec::IntoIter<Arc<Stored>>,
    snapshot: Arc<Snapshot>,
    /// The revision of the removals that were printed last.
    buried: Option<Revision>,
    sum: Xxh3,
    lines: u64,
    ended: bool,
}

impl Printer {
    fn chunk(&mut self) -> io::Result<Option<Vec<u8>>> {
        let mut chunk = Vec::with_capacity(CHUNK_BYTES + 4096);
        while chunk.len() < CHUNK_BYTES
            && let Some(mut line) = self.line()?
        {
            line.push(b'\n');
            self.sum.update(&line);
            self.lines += 1;
            chunk.append(&mut line);
        }
        Ok((!chunk.is_empty()).then_some(chunk))
    }

    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        let line = if let Some(head) = self.head.take() {
            return Ok(Some(serde_json::to_vec(&head)?));
        } else if let Some(stored) = self.resources.next() {
            Line::Resource {
                key: record::key_text(&stored.resource.key),
                record: Record::of(&stored),
            }
        } else if let Some((at, keys)) = self.snapshot.tombstones_after(self.buried) {
            self.buried = Some(at);
            Line::Removals {
                removed_at: at,
                keys: keys.iter().map(record::key_text).collect(),
            }
        } else if self.ended {
            return Ok(None);
        } else {
            self.ended = true;
            Line::End {
                end: self.lines,
                sum: format!("{:032x}", self.sum.digest128()),
            }
        };
        Ok(Some(serde_json::to_vec(&line)?))
    }
}

/// A backup that was read to its end and is what was written.
#[derive(Clone, Debug)]
pub struct Backup {
    /// What it says about itself.
    pub head: BackupHead,
    /// Its content, as the store had it.
    pub snapshot: Snapshot,
}

impl Backup {
    /// Reads and checks all of a backup.
    ///
    /// # Errors
    /// It is none, is cut off, damaged, or from a version that knows more.
    pub fn read(mut source: impl BufRead) -> Result<Self, InvalidBackup> {
        let mut sum = Xxh3::new();
        let mut line = Vec::new();
        let first = next_line(&mut source, &mut line)?;
        let head: BackupHead = first
            .and_then(|text| serde_json::from_slice(text).ok())
            .ok_or(InvalidBackup::NoBackup)?;
        if head.format != FORMAT {
            return Err(InvalidBackup::Format(head.format));
        }
        let mut snapshot = Snapshot::empty(head.epoch.clone());
        let mut removals = 0;
        for lines in 1.. {
            sum.update(&line);
            let Some(text) = next_line(&mut source, &mut line)? else {
                return Err(InvalidBackup::CutOff(lines));
            };
            let number = lines + 1;
            let known = |name: &str| {
                record::parse_key(name).ok_or_else(|| InvalidBackup::UnknownKind {
                    line: number,
                    key: name.to_owned(),
                })
            };
            match serde_json::from_slice(text) {
                Ok(Line::Resource { key, record }) => {
                    snapshot.insert(record.into_stored(known(&key)?));
                }
                Ok(Line::Removals { removed_at, keys }) => {
                    let keys: Result<Vec<Key>, _> = keys.iter().map(|key| known(key)).collect();
                    snapshot.bury(removed_at, keys?, usize::MAX);
                    removals += 1;
                }
                Ok(Line::End { end, sum: wanted }) => {
                    let found = format!("{:032x}", sum.digest128());
                    check_end(&head, &snapshot, removals, (lines, end), (&found, &wanted))?;
                    if next_line(&mut source, &mut line)?.is_some() {
                        return Err(InvalidBackup::Damaged(
                            "it goes on after its end".to_owned(),
                        ));
                    }
                    break;
                }
                Err(error) => {
                    return Err(InvalidBackup::Line {
                        line: number,
                        problem: error.to_string(),
                    });
                }
            }
        }
        snapshot.set_revision(head.revision);
        snapshot.set_compacted(head.compacted);
        Ok(Self { head, snapshot })
    }
}

/// The next whole line without its end; `None` when there is none. `line` has it with its end.
fn next_line<'a>(source: &mut impl BufRead, line: &'a mut Vec<u8>) -> io::Result<Option<&'a [u8]>> {
    use io::Read as _;
    line.clear();
    source.take(LINE_BYTES_MAX).read_until(b'\n', line)?;
    Ok(line.strip_suffix(b"\n"))
}

fn check_end(
    head: &BackupHead,
    snapshot: &Snapshot,
    removals: usize,
    (lines, end): (u64, u64),
    (sum, wanted): (&str, &str),
) -> Result<(), InvalidBackup> {
    let resources = snapshot.all().count();
    let counts = |what: &str, found: usize, wanted: usize| {
        let text = format!("it should have {wanted} {what} and has {found}");
        (found == wanted)
            .then_some(())
            .ok_or(InvalidBackup::Damaged(text))
    };
    counts("resources", resources, head.resources)?;
    counts("revisions with removals", removals, head.removals)?;
    if lines != end || sum != wanted {
        return Err(InvalidBackup::Damaged(
            "its lines do not have the sum that its end names".to_owned(),
        ));
    }
    Ok(())
}
