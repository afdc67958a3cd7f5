//! What a subscriber holds of a type, in half a kilobyte.
//!
//! Names are spread over buckets, and each bucket has the sum of its members' hashes. A publisher that knows the sums
//! repeats the buckets that differ and no others: a reconnect after which nothing differs costs the sums alone, and one
//! change among ten thousand resources costs a thirty-second part of them.

use std::collections::BTreeMap;
use std::fmt::Write as _;

use xxhash_rust::xxh3::xxh3_64;

use crate::name::{Name, Version};

const BUCKETS: usize = 32;
/// Below this many resources their versions are shorter than a digest.
const WORTH_FROM: usize = 12;
/// The name under which a digest travels among versions; no resource can have it.
const NAME: &str = "*";
const PREFIX: &str = "sums:";

/// A set of buckets.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Buckets(pub(crate) u32);

impl Buckets {
    /// Whether a name is in one of them.
    #[must_use]
    pub fn contain(self, name: &Name) -> bool {
        self.0 & (1 << bucket_of(name)) != 0
    }

    /// Whether there are none.
    #[must_use]
    pub const fn is_empty(self) -> bool {
        self.0 == 0
    }
}

/// The sums of all buckets.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Digest([u64; BUCKETS]);

impl Digest {
    pub(crate) fn of<'a>(held: impl IntoIterator<Item = (&'a Name, &'a Version)>) -> Self {
        let mut sums = [0_u64; BUCKETS];
        for (name, version) in held {
            if let Some(sum) = sums.get_mut(bucket_of(name)) {
                let both = [name.as_str().as_bytes(), &[0], version.as_str().as_bytes()].concat();
                *sum = sum.wrapping_add(xxh3_64(&both));
            }
        }
        Self(sums)
    }

    /// The buckets whose sums are not the same.
    pub(crate) fn differing(&self, other: &Self) -> Buckets {
        let pairs = self.0.iter().zip(&other.0).enumerate();
        let differing = pairs.filter(|(_, (a, b))| a != b);
        Buckets(differing.fold(0, |bits, (index, _)| bits | (1 << index)))
    }

    /// Instead of the versions themselves, where that is shorter.
    pub(crate) fn for_versions(held: &BTreeMap<Name, Version>) -> Option<BTreeMap<Name, Version>> {
        if held.len() < WORTH_FROM {
            return None;
        }
        let mut text = String::from(PREFIX);
        for sum in Self::of(held).0 {
            // Writing to a string cannot fail.
            write!(text, "{sum:016x}").ok();
        }
        Some([(Name::from(NAME), Version::from(text))].into())
    }

    /// Reads a digest out of what a subscriber gave as versions.
    pub(crate) fn parse(versions: &BTreeMap<Name, Version>) -> Option<Self> {
        let text = versions.get(NAME)?.as_str().strip_prefix(PREFIX)?;
        let mut sums = [0_u64; BUCKETS];
        let mut rest = text;
        for sum in &mut sums {
            let (digits, tail) = rest.split_at_checked(16)?;
            *sum = u64::from_str_radix(digits, 16).ok()?;
            rest = tail;
        }
        rest.is_empty().then_some(Self(sums))
    }
}

#[expect(clippy::cast_possible_truncation, reason = "the remainder is below 32")]
fn bucket_of(name: &Name) -> usize {
    (xxh3_64(name.as_str().as_bytes()) % BUCKETS as u64) as usize
}

#[cfg(test)]
mod tests {
    use super::*;

    fn held(count: u32) -> BTreeMap<Name, Version> {
        (0..count)
            .map(|n| (format!("n{n}").into(), format!("v{n}").into()))
            .collect()
    }

    #[test]
    fn one_change_differs_in_one_bucket() {
        let before = held(1000);
        let mut after = before.clone();
        after.insert("n7".into(), "v8".into());
        let differing = Digest::of(&before).differing(&Digest::of(&after));
        assert_eq!(differing.0.count_ones(), 1);
        assert!(differing.contain(&"n7".into()));
        assert!(
            Digest::of(&before)
                .differing(&Digest::of(&held(1000)))
                .is_empty()
        );
    }

    #[test]
    fn a_digest_is_short_and_reads_back() {
        assert_eq!(Digest::for_versions(&held(3)), None);
        let text = Digest::for_versions(&held(1000)).unwrap();
        assert!(text["*"].as_str().len() < 600);
        assert_eq!(Digest::parse(&text), Some(Digest::of(&held(1000))));
        assert_eq!(Digest::parse(&held(3)), None);
        assert_eq!(
            Digest::parse(&[("*".into(), "sums:zz".into())].into()),
            None
        );
    }
}
