//! Resources that several proxies share, built once.

use std::collections::HashMap;
use std::hash::{Hash, Hasher};
use std::sync::{Arc, Mutex, PoisonError};

use xxhash_rust::xxh3::Xxh3;
use zonal_catalogue::Endpoint;

use crate::encoded::Encoded;

/// The fingerprint of everything a resource is made of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct InputHash(u128);

impl InputHash {
    /// Hashes a builder's name and its input.
    pub fn of(builder: &str, input: &impl Hash) -> Self {
        let mut hasher = Wide(Xxh3::new());
        builder.hash(&mut hasher);
        input.hash(&mut hasher);
        Self(hasher.0.digest128())
    }
}

/// Feeds all of 128 bits where the standard trait would give 64.
struct Wide(Xxh3);

impl Hasher for Wide {
    fn finish(&self) -> u64 {
        self.0.digest()
    }

    fn write(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }
}

/// Remembers resources by the hash of their input, so that the replicas of a service share one encoding of what they
/// share.
///
/// Bounded: what was not asked for between two calls of [`Cache::sweep`] is forgotten, and when the limit is reached
/// the half that was not asked for lately goes at once.
#[derive(Debug)]
pub struct Cache {
    entries: Mutex<Entries>,
    limit: usize,
}

#[derive(Debug, Default)]
struct Entries {
    /// Asked for since the last sweep.
    young: HashMap<InputHash, Kept>,
    /// Asked for before it only.
    old: HashMap<InputHash, Kept>,
    hits: u64,
    misses: u64,
}

#[derive(Debug)]
struct Kept {
    encoded: Encoded,
    /// Keeps the list's place in memory from being used by another.
    _held: Option<Arc<[Endpoint]>>,
}

impl Default for Cache {
    fn default() -> Self {
        Self::with_limit(262_144)
    }
}

impl Cache {
    /// A cache of at most `limit` resources.
    #[must_use]
    pub fn with_limit(limit: usize) -> Self {
        Self {
            entries: Mutex::default(),
            limit: limit.max(2),
        }
    }

    /// The resource made of `input`, by `build` if it is not known yet.
    pub fn get_or_build<I: Hash>(
        &self,
        builder: &str,
        input: &I,
        build: impl FnOnce() -> Encoded,
    ) -> Encoded {
        self.find_or_build(InputHash::of(builder, input), None, build)
    }

    fn find_or_build(
        &self,
        hash: InputHash,
        held: Option<&Arc<[Endpoint]>>,
        build: impl FnOnce() -> Encoded,
    ) -> Encoded {
        {
            let mut entries = self.lock();
            if let Some(found) = entries.young.get(&hash).map(|kept| kept.encoded.clone()) {
                entries.hits += 1;
                return found;
            }
            if let Some(found) = entries.old.remove(&hash) {
                entries.hits += 1;
                let encoded = found.encoded.clone();
                entries.young.insert(hash, found);
                return encoded;
            }
            entries.misses += 1;
        }
        // Built outside of the lock: two who miss at once both build, and the results are equal.
        let built = build();
        let mut entries = self.lock();
        if entries.young.len() >= self.limit / 2 {
            entries.old = std::mem::take(&mut entries.young);
        }
        entries.young.insert(
            hash,
            Kept {
                encoded: built.clone(),
                _held: held.cloned(),
            },
        );
        built
    }

    /// The resource made of `input` and an endpoint list. Lists are told apart by where they are in memory, so that
    /// a long one costs nothing to look up; the cache holds the list as long as the entry.
    pub fn get_or_build_from<I: Hash>(
        &self,
        builder: &str,
        input: &I,
        endpoints: &Arc<[Endpoint]>,
        build: impl FnOnce() -> Encoded,
    ) -> Encoded {
        let place = Arc::as_ptr(endpoints).cast::<()>().addr();
        self.find_or_build(
            InputHash::of(builder, &(input, place, endpoints.len())),
            Some(endpoints),
            build,
        )
    }

    /// The one copy of a resource that is known already, or this one. Saves memory, not work.
    pub fn intern(&self, encoded: Encoded) -> Encoded {
        let hash = InputHash::of("intern", &encoded.version);
        self.find_or_build(hash, None, || encoded)
    }

    /// Forgets what was not asked for since the last sweep.
    pub fn sweep(&self) {
        let mut entries = self.lock();
        entries.old = std::mem::take(&mut entries.young);
    }

    /// How often a resource was found, and how often it had to be built.
    #[must_use]
    pub fn hits_and_misses(&self) -> (u64, u64) {
        let entries = self.lock();
        (entries.hits, entries.misses)
    }

    fn lock(&self) -> std::sync::MutexGuard<'_, Entries> {
        // Nothing in here leaves the maps half-changed, so a panic of another holder does not matter.
        self.entries.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use kds_proto::envoy::config::cluster::v3::Cluster;

    fn cluster(name: &str) -> Encoded {
        Encoded::new(&Cluster {
            name: name.to_owned(),
            ..Cluster::default()
        })
    }

    #[test]
    fn equal_inputs_are_built_once() {
        let cache = Cache::default();
        let first = cache.get_or_build("cluster", &"a", || cluster("a"));
        let again = cache.get_or_build("cluster", &"a", || unreachable!("it is known"));
        assert_eq!(first, again);
        assert_eq!(cache.hits_and_misses(), (1, 1));
    }

    #[test]
    fn what_nobody_asks_for_is_forgotten_after_two_sweeps() {
        let cache = Cache::default();
        cache.get_or_build("cluster", &"a", || cluster("a"));
        cache.sweep();
        cache.get_or_build("cluster", &"a", || unreachable!("one sweep keeps it"));
        cache.sweep();
        cache.sweep();
        cache.get_or_build("cluster", &"a", || cluster("a"));
        assert_eq!(cache.hits_and_misses(), (1, 2));
    }

    #[test]
    fn it_never_grows_beyond_its_limit() {
        let cache = Cache::with_limit(10);
        for n in 0..100_u32 {
            cache.get_or_build("cluster", &n, || cluster("a"));
        }
        let entries = cache.lock();
        assert!(entries.young.len() + entries.old.len() <= 10);
    }
}
