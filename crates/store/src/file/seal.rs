//! What proves that an entry of the file is what was written.
//!
//! The engine checks its pages when a file is opened. While the file is in use it takes what the disk hands it, changes
//! a part of a page and sums the page anew; damage in the rest of that page would pass from then on. So every entry
//! carries a sum of its own, and the file one over all entries: an entry that was altered, lost or brought back is
//! noticed.

use std::fmt;
use std::str::FromStr;

use xxhash_rust::xxh3::{xxh3_64, xxh3_64_with_seed};

/// The sum of one entry: of its name and its bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Seal(u64);

impl Seal {
    fn of(name: &str, bytes: &[u8]) -> Self {
        Self(xxh3_64_with_seed(bytes, xxh3_64(name.as_bytes())))
    }
}

/// The bytes to keep for an entry, and their seal.
pub(super) fn seal(name: &str, bytes: &[u8]) -> (Vec<u8>, Seal) {
    let seal = Seal::of(name, bytes);
    let mut sealed = Vec::with_capacity(size_of::<u64>() + bytes.len());
    sealed.extend_from_slice(&seal.0.to_le_bytes());
    sealed.extend_from_slice(bytes);
    (sealed, seal)
}

/// What [`seal`] was given; `None`: it is not what was written.
pub(super) fn unseal<'a>(name: &str, sealed: &'a [u8]) -> Option<(&'a [u8], Seal)> {
    let (sum, bytes) = sealed.split_first_chunk()?;
    let seal = Seal(u64::from_le_bytes(*sum));
    (seal == Seal::of(name, bytes)).then_some((bytes, seal))
}

/// The sum over all entries. Their order does not matter, so that a change costs the entries it touches.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Total {
    entries: u64,
    sum: u64,
}

impl Total {
    pub(super) const fn add(&mut self, seal: Seal) {
        self.entries = self.entries.wrapping_add(1);
        self.sum = self.sum.wrapping_add(seal.0);
    }

    pub(super) const fn remove(&mut self, seal: Seal) {
        self.entries = self.entries.wrapping_sub(1);
        self.sum = self.sum.wrapping_sub(seal.0);
    }

    pub(super) const fn entries(self) -> u64 {
        self.entries
    }
}

impl fmt::Display for Total {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{:016x}", self.entries, self.sum)
    }
}

/// No total is written like this.
#[derive(Clone, Copy, Debug)]
pub(super) struct NoTotal;

impl FromStr for Total {
    type Err = NoTotal;

    fn from_str(text: &str) -> Result<Self, NoTotal> {
        let (entries, sum) = text.split_once(':').ok_or(NoTotal)?;
        Ok(Self {
            entries: entries.parse().map_err(|_error| NoTotal)?,
            sum: u64::from_str_radix(sum, 16).map_err(|_error| NoTotal)?,
        })
    }
}

/// The sum over what the file says about itself.
pub(super) fn seal_of_head(parts: &[&str]) -> String {
    format!("{:016x}", xxh3_64(parts.join("\n").as_bytes()))
}
