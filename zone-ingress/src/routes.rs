//! Where connections go: server name → service → endpoints.
//!
//! A [`RouteTable`] is immutable and shares structure with the one before it, so a change of one
//! name among many costs one path of a tree. Workers read it through [`Routes`]; a connection
//! looks once, when it arrives, and no later change touches it.

use std::collections::HashMap;
use std::fmt;
use std::net::{IpAddr, SocketAddr};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Weak};
use std::time::Duration;

use arc_swap::ArcSwap;
use imbl::OrdMap;
use parking_lot::Mutex;
use serde::{Deserialize, Serialize};

use crate::hello::Sni;

/// How long an endpoint that did not take a connection is asked last.
const FAILURE_MEMORY: Duration = Duration::from_secs(10);

/// The table in use; replaced whole, read without waiting.
#[derive(Debug, Default)]
pub struct Routes(ArcSwap<RouteTable>);

impl Routes {
    /// The newest table.
    pub fn load(&self) -> Arc<RouteTable> {
        self.0.load_full()
    }

    /// Lets new connections follow `table`. Open ones keep theirs.
    pub fn publish(&self, table: RouteTable) {
        self.0.store(Arc::new(table));
    }

    /// The route for a server name and the endpoints behind it.
    pub fn find(&self, sni: &Sni) -> Option<(Arc<Route>, Option<Arc<Endpoints>>)> {
        let table = self.0.load();
        let route = table.routes.get(sni)?;
        Some((
            Arc::clone(route),
            table.clusters.get(&route.cluster).cloned(),
        ))
    }
}

/// Every route and every group of endpoints at one moment.
#[derive(Clone, Debug, Default)]
pub struct RouteTable {
    pub routes: OrdMap<Sni, Arc<Route>>,
    /// By the cluster name that routes give.
    pub clusters: OrdMap<Arc<str>, Arc<Endpoints>>,
}

/// One server name and what it stands for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Route {
    pub sni: Sni,
    /// The name under which the endpoints are known.
    pub cluster: Arc<str>,
    /// The identifier (KRI) of the service's port; what metrics and logs call it.
    pub service: Arc<str>,
    pub mesh: Arc<str>,
    /// How long a connection may be silent, where the control plane says so.
    pub idle_timeout: Option<Duration>,
}

/// The endpoints of one cluster.
#[derive(Debug, Default)]
pub struct Endpoints(Vec<Endpoint>);

/// One address that serves a service, and how busy we keep it.
#[derive(Clone, Debug)]
pub struct Endpoint {
    pub placed: Placed,
    pub load: Arc<Load>,
}

/// An endpoint as the control plane describes it.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Placed {
    pub address: SocketAddr,
    /// The share of connections relative to its neighbours, at least 1.
    pub weight: u32,
    pub health: Health,
    /// 0 is used first; the next number only when nothing lower is usable.
    pub priority: u32,
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub zone: String,
}

/// Whether an endpoint may be used.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Health {
    Healthy,
    /// Used when nothing healthy is left.
    Degraded,
    /// Not used: unhealthy, draining or timed out.
    Unusable,
}

/// What we know of an address by using it; shared by every cluster that contains it.
#[derive(Debug, Default)]
pub struct Load {
    connections: AtomicUsize,
    /// Milliseconds of the process's own time, plus one; 0 for never.
    failed_at: AtomicU64,
}

impl Load {
    /// Connections open to this address now.
    pub fn connections(&self) -> usize {
        self.connections.load(Ordering::Relaxed)
    }

    /// Counts a connection until the guard is dropped.
    pub fn hold(self: &Arc<Self>) -> LoadGuard {
        self.connections.fetch_add(1, Ordering::Relaxed);
        LoadGuard(Arc::clone(self))
    }

    /// Remembers that the address did not take a connection, `at` after the process's start.
    pub fn failed(&self, at: Duration) {
        self.failed_at
            .store(millis(at).saturating_add(1), Ordering::Relaxed);
    }

    /// Forgets failures: the address took a connection.
    pub fn succeeded(&self) {
        self.failed_at.store(0, Ordering::Relaxed);
    }

    /// Whether the address failed lately.
    pub fn is_doubtful(&self, at: Duration) -> bool {
        match self.failed_at.load(Ordering::Relaxed) {
            0 => false,
            failed => millis(at) < failed.saturating_add(millis(FAILURE_MEMORY)),
        }
    }
}

fn millis(duration: Duration) -> u64 {
    u64::try_from(duration.as_millis()).unwrap_or(u64::MAX)
}

/// One connection counted at an address.
#[derive(Debug)]
pub struct LoadGuard(Arc<Load>);

impl Drop for LoadGuard {
    fn drop(&mut self) {
        self.0.connections.fetch_sub(1, Ordering::Relaxed);
    }
}

impl Endpoints {
    /// Endpoints with the load their addresses already carry.
    pub fn new(placed: impl IntoIterator<Item = Placed>, loads: &LoadBook) -> Self {
        let mut book = loads.0.lock();
        Self(
            placed
                .into_iter()
                .map(|placed| Endpoint {
                    load: LoadBook::of(&mut book, placed.address),
                    placed,
                })
                .collect(),
        )
    }

    /// All of them, in the order the control plane gave.
    pub fn iter(&self) -> impl Iterator<Item = &Endpoint> {
        self.0.iter()
    }

    /// How many there are.
    pub fn len(&self) -> usize {
        self.0.len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The endpoint for the next connection: of the best usable ones, one with the fewest
    /// connections for its weight, by chance where several are equal.
    ///
    /// Addresses that failed lately come last, but they come: an address that may work is better
    /// than none.
    pub fn pick(
        &self,
        tried: Option<SocketAddr>,
        at: Duration,
        chance: &mut fastrand::Rng,
    ) -> Option<&Endpoint> {
        let usable = self.0.iter().filter(|endpoint| {
            endpoint.placed.health != Health::Unusable && Some(endpoint.placed.address) != tried
        });
        let mut best: Option<(&Endpoint, Rank)> = None;
        let mut equals = 0_usize;
        for endpoint in usable {
            let rank = Rank::of(endpoint, at);
            let order = best
                .as_ref()
                .map_or(std::cmp::Ordering::Less, |(_, best)| rank.cmp(best));
            match order {
                std::cmp::Ordering::Less => {
                    best = Some((endpoint, rank));
                    equals = 1;
                }
                std::cmp::Ordering::Equal => {
                    equals += 1;
                    if chance.usize(..equals) == 0 {
                        best = Some((endpoint, rank));
                    }
                }
                std::cmp::Ordering::Greater => {}
            }
        }
        best.map(|(endpoint, _)| endpoint)
    }
}

/// What makes one endpoint preferable; less is better.
#[derive(PartialEq, Eq, PartialOrd, Ord)]
struct Rank {
    doubtful: bool,
    priority: u32,
    health: Health,
    load: Share,
}

impl Rank {
    fn of(endpoint: &Endpoint, at: Duration) -> Self {
        Self {
            doubtful: endpoint.load.is_doubtful(at),
            priority: endpoint.placed.priority,
            health: endpoint.placed.health,
            load: Share {
                connections: endpoint.load.connections() as u64,
                weight: u64::from(endpoint.placed.weight.max(1)),
            },
        }
    }
}

/// Connections over weight, compared without division.
struct Share {
    connections: u64,
    weight: u64,
}

impl Ord for Share {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let left = u128::from(self.connections) * u128::from(other.weight);
        let right = u128::from(other.connections) * u128::from(self.weight);
        left.cmp(&right)
    }
}

impl PartialOrd for Share {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

impl PartialEq for Share {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other).is_eq()
    }
}

impl Eq for Share {}

/// The loads of all addresses in use, so that they outlive a change of endpoints.
#[derive(Debug, Default)]
pub struct LoadBook(Mutex<HashMap<SocketAddr, Weak<Load>>>);

impl LoadBook {
    fn of(book: &mut HashMap<SocketAddr, Weak<Load>>, address: SocketAddr) -> Arc<Load> {
        if let Some(load) = book.get(&address).and_then(Weak::upgrade) {
            return load;
        }
        // Forgets the addresses nobody uses before the map would grow.
        if book.len() == book.capacity() {
            book.retain(|_, load| load.strong_count() > 0);
        }
        let load = Arc::new(Load::default());
        book.insert(address, Arc::downgrade(&load));
        load
    }
}

/// Bytes and connections of one server name since the process started.
#[derive(Debug)]
pub struct Traffic {
    pub service: Arc<str>,
    /// From callers to the service, counted as they are written.
    pub to_service: AtomicU64,
    /// From the service to callers, counted as they are written.
    pub to_callers: AtomicU64,
    pub connections: AtomicU64,
    pub open: AtomicUsize,
}

/// The traffic of every server name. Grows with the names that were routed, not with callers.
#[derive(Debug, Default)]
pub struct Ledger(Mutex<OrdMap<Sni, Arc<Traffic>>>);

impl Ledger {
    /// The counters of a route.
    pub fn of(&self, route: &Route) -> Arc<Traffic> {
        let mut book = self.0.lock();
        if let Some(traffic) = book.get(&route.sni)
            && traffic.service == route.service
        {
            return Arc::clone(traffic);
        }
        let traffic = Arc::new(Traffic {
            service: Arc::clone(&route.service),
            to_service: AtomicU64::new(0),
            to_callers: AtomicU64::new(0),
            connections: AtomicU64::new(0),
            open: AtomicUsize::new(0),
        });
        book.insert(route.sni.clone(), Arc::clone(&traffic));
        traffic
    }

    /// Every counter, by name.
    pub fn all(&self) -> OrdMap<Sni, Arc<Traffic>> {
        self.0.lock().clone()
    }

    /// Forgets names that are not routed any more and have no connection left.
    pub fn forget_unrouted(&self, table: &RouteTable) {
        let all = self.all();
        let gone = all
            .iter()
            .filter(|(sni, traffic)| {
                !table.routes.contains_key(*sni) && traffic.open.load(Ordering::Relaxed) == 0
            })
            .map(|(sni, _)| sni);
        let mut book = self.0.lock();
        for sni in gone {
            book.remove(sni);
        }
    }
}

impl fmt::Display for Health {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Healthy => "healthy",
            Self::Degraded => "degraded",
            Self::Unusable => "unusable",
        })
    }
}

/// The address as sources are counted: an IPv4 address written as IPv6 is the same source.
pub fn source_of(peer: SocketAddr) -> IpAddr {
    peer.ip().to_canonical()
}

#[cfg(test)]
mod tests {
    use super::*;

    const START: Duration = Duration::ZERO;

    fn placed(port: u16) -> Placed {
        Placed {
            address: SocketAddr::from(([127, 0, 0, 1], port)),
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            zone: String::new(),
        }
    }

    fn picked(endpoints: &Endpoints, tried: Option<u16>, at: Duration, seed: u64) -> Option<u16> {
        let tried = tried.map(|port| SocketAddr::from(([127, 0, 0, 1], port)));
        let mut chance = fastrand::Rng::with_seed(seed);
        endpoints
            .pick(tried, at, &mut chance)
            .map(|endpoint| endpoint.placed.address.port())
    }

    #[test]
    fn fewest_connections_for_its_weight_wins() {
        let book = LoadBook::default();
        let heavy = Placed {
            weight: 3,
            ..placed(2)
        };
        let endpoints = Endpoints::new([placed(1), heavy], &book);
        let first = endpoints.0[0].load.hold();
        let second = endpoints.0[1].load.hold();
        assert_eq!(
            picked(&endpoints, None, START, 1),
            Some(2),
            "1 of 3 is less than 1 of 1"
        );
        drop(first);
        assert_eq!(picked(&endpoints, None, START, 1), Some(1));
        drop(second);
    }

    #[test]
    fn chance_decides_between_equals() {
        let endpoints = Endpoints::new([placed(1), placed(2), placed(3)], &LoadBook::default());
        let mut seen: Vec<_> = (0..60)
            .filter_map(|seed| picked(&endpoints, None, START, seed))
            .collect();
        seen.sort_unstable();
        seen.dedup();
        assert_eq!(seen, [1, 2, 3]);
    }

    #[test]
    fn worse_endpoints_wait_until_they_are_needed() {
        let degraded = Placed {
            health: Health::Degraded,
            ..placed(2)
        };
        let further = Placed {
            priority: 1,
            ..placed(3)
        };
        let unusable = Placed {
            health: Health::Unusable,
            ..placed(4)
        };
        let endpoints = Endpoints::new(
            [placed(1), degraded, further, unusable],
            &LoadBook::default(),
        );
        assert_eq!(picked(&endpoints, None, START, 1), Some(1));
        assert_eq!(picked(&endpoints, Some(1), START, 1), Some(2));
        let only = Endpoints::new(
            [Placed {
                health: Health::Unusable,
                ..placed(4)
            }],
            &LoadBook::default(),
        );
        assert_eq!(picked(&only, None, START, 1), None);
    }

    #[test]
    fn failure_is_remembered_for_a_while_and_across_changes() {
        let book = LoadBook::default();
        let endpoints = Endpoints::new([placed(1), placed(2)], &book);
        endpoints.0[0].load.failed(START);
        let newer = Endpoints::new([placed(1), placed(2)], &book);
        drop(endpoints);
        for seed in 0..20 {
            assert_eq!(picked(&newer, None, Duration::from_secs(9), seed), Some(2));
        }
        assert_eq!(
            picked(&newer, Some(2), Duration::from_secs(9), 0),
            Some(1),
            "better than none"
        );
        let later: Vec<_> = (0..20)
            .filter_map(|seed| picked(&newer, None, Duration::from_secs(11), seed))
            .collect();
        assert!(later.contains(&1));
    }

    #[test]
    fn unused_addresses_are_forgotten() {
        let book = LoadBook::default();
        for port in 1..10_000 {
            drop(Endpoints::new([placed(port)], &book));
        }
        assert!(book.0.lock().len() < 16);
    }
}
