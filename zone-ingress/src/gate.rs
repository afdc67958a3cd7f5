//! Who may be inside: descriptors for connections, and places for unfinished hellos.
//!
//! A connection costs two descriptors, and a caller that says nothing costs one until its deadline.
//! Both are bounded here, so that neither a crowd nor an attack takes what the process needs to go
//! on. Hellos are evicted and not refused: the newest caller is more likely to be an honest one
//! than the caller that has been silent for longest.

use std::collections::{BTreeMap, HashMap};
use std::net::IpAddr;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio_util::sync::CancellationToken;

/// Descriptors one connection holds: the caller's side and the service's.
const PER_CONNECTION: usize = 2;

/// The connections that fit into the descriptor budget.
#[derive(Clone, Debug)]
pub struct Descriptors {
    permits: Arc<Semaphore>,
    connections_max: usize,
}

impl Descriptors {
    /// Takes nine tenths of `limit`, less what the process itself keeps open.
    pub fn within(limit: u64) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX).min(MANY);
        let budget = (limit / 10 * 9).saturating_sub(OWN_DESCRIPTORS);
        Self::for_connections((budget / PER_CONNECTION).max(1))
    }

    /// A budget of so many connections.
    pub fn for_connections(connections_max: usize) -> Self {
        let connections_max = connections_max.clamp(1, MANY);
        Self {
            permits: Arc::new(Semaphore::new(connections_max)),
            connections_max,
        }
    }

    /// How many connections fit.
    pub fn connections_max(&self) -> usize {
        self.connections_max
    }

    /// How many places are taken now.
    pub fn taken(&self) -> usize {
        self.connections_max
            .saturating_sub(self.permits.available_permits())
    }

    /// Completes when nobody is inside. Nobody else gets in from this call on.
    pub async fn emptied(&self) {
        let all = u32::try_from(self.connections_max).unwrap_or(u32::MAX);
        // Fails only for a closed semaphore, and nobody closes this one.
        let _all = self.permits.acquire_many(all).await;
    }

    /// A place that is free now.
    pub fn try_take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).try_acquire_owned().ok()
    }

    /// Waits for a place.
    pub async fn take(&self) -> Option<OwnedSemaphorePermit> {
        Arc::clone(&self.permits).acquire_owned().await.ok()
    }
}

/// Beyond what any host gives; keeps arithmetic and the semaphore in range.
const MANY: usize = 1 << 24;

/// Listeners, the admin page, the control plane's connection, the runtime, the state file, logs.
const OWN_DESCRIPTORS: usize = 64;

/// The hellos that are not complete yet.
#[derive(Clone, Debug)]
pub struct Hellos {
    all_max: usize,
    source_max: usize,
    inside: Arc<Mutex<Inside>>,
}

#[derive(Debug, Default)]
struct Inside {
    next: u64,
    /// By arrival, so the first is the oldest.
    waiting: BTreeMap<u64, (IpAddr, CancellationToken)>,
    /// Arrivals per source, oldest first.
    sources: HashMap<IpAddr, BTreeMap<u64, ()>>,
}

/// What admitting a caller cost another one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Evicted {
    Nobody,
    /// The source had too many hellos in progress.
    OldestOfSource,
    /// There were too many altogether.
    OldestOfAll,
}

/// A place among unfinished hellos; dropped when the hello is complete or given up.
#[derive(Debug)]
pub struct HelloGuard {
    inside: Arc<Mutex<Inside>>,
    id: u64,
    /// Cancelled when the place is needed by somebody else.
    pub evicted: CancellationToken,
}

impl Hellos {
    /// At most `all_max` hellos in progress, and `source_max` from one address.
    pub fn new(all_max: usize, source_max: usize) -> Self {
        Self {
            all_max: all_max.max(1),
            source_max: source_max.max(1),
            inside: Arc::default(),
        }
    }

    /// How many are in progress.
    pub fn len(&self) -> usize {
        self.inside.lock().waiting.len()
    }

    /// Whether none is in progress.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The bound on all hellos in progress.
    pub fn all_max(&self) -> usize {
        self.all_max
    }

    /// Admits a caller, at the expense of the oldest one when a bound is reached.
    pub fn admit(&self, source: IpAddr) -> (HelloGuard, Evicted) {
        let mut inside = self.inside.lock();
        let of_source = inside
            .sources
            .get(&source)
            .filter(|ids| ids.len() >= self.source_max);
        let victim = match of_source.and_then(|ids| ids.first_key_value()) {
            Some((oldest, ())) => Some((*oldest, Evicted::OldestOfSource)),
            None if inside.waiting.len() >= self.all_max => inside
                .waiting
                .first_key_value()
                .map(|(oldest, _)| (*oldest, Evicted::OldestOfAll)),
            None => None,
        };
        let evicted = victim.map_or(Evicted::Nobody, |(id, why)| {
            if let Some(token) = inside.remove(id) {
                token.cancel();
            }
            why
        });
        let id = inside.next;
        inside.next += 1;
        let token = CancellationToken::new();
        inside.waiting.insert(id, (source, token.clone()));
        inside.sources.entry(source).or_default().insert(id, ());
        drop(inside);
        (
            HelloGuard {
                inside: Arc::clone(&self.inside),
                id,
                evicted: token,
            },
            evicted,
        )
    }
}

impl Inside {
    fn remove(&mut self, id: u64) -> Option<CancellationToken> {
        let (source, token) = self.waiting.remove(&id)?;
        if let Some(ids) = self.sources.get_mut(&source) {
            ids.remove(&id);
            if ids.is_empty() {
                self.sources.remove(&source);
            }
        }
        Some(token)
    }
}

impl Drop for HelloGuard {
    fn drop(&mut self) {
        self.inside.lock().remove(self.id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn source(last: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, last])
    }

    #[test]
    fn oldest_of_all_makes_room() {
        let hellos = Hellos::new(2, 10);
        let (first, _) = hellos.admit(source(1));
        let (second, _) = hellos.admit(source(2));
        let (third, evicted) = hellos.admit(source(3));
        assert_eq!(evicted, Evicted::OldestOfAll);
        assert!(first.evicted.is_cancelled());
        assert!(!second.evicted.is_cancelled());
        assert_eq!(hellos.len(), 2);
        drop((first, second, third));
        assert!(hellos.is_empty());
        assert!(hellos.inside.lock().sources.is_empty());
    }

    #[test]
    fn crowded_source_evicts_its_own() {
        let hellos = Hellos::new(10, 2);
        let (honest, _) = hellos.admit(source(1));
        let (first, _) = hellos.admit(source(2));
        let (_second, _) = hellos.admit(source(2));
        let (_third, evicted) = hellos.admit(source(2));
        assert_eq!(evicted, Evicted::OldestOfSource);
        assert!(first.evicted.is_cancelled());
        assert!(!honest.evicted.is_cancelled());
        assert_eq!(hellos.len(), 3);
    }

    #[test]
    fn descriptors_leave_a_tenth_and_our_own() {
        assert_eq!(
            Descriptors::within(20_000).connections_max(),
            (18_000 - 64) / 2
        );
        assert_eq!(Descriptors::within(10).connections_max(), 1);
        assert_eq!(
            Descriptors::within(u64::MAX).connections_max(),
            (MANY / 10 * 9 - 64) / 2
        );
        let few = Descriptors::for_connections(1);
        let held = few.try_take();
        assert!(held.is_some() && few.try_take().is_none());
        drop(held);
        assert!(few.try_take().is_some());
    }
}
