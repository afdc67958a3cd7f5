//! Where host names used as addresses are.
//!
//! ```text
//! store ──names──▶ Names ──due──▶ Lookup ──answer──▶ Names ──differs?──▶ engine
//! ```
//!
//! A new name is looked up at once, a known one again and again. While a lookup fails, the last good answer stays: a
//! broken resolver must not take endpoints away.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::StreamExt as _;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use serde_json::Value;
use tokio::sync::oneshot;
use tracing::{info, warn};
use zonal_model::{Key, Kind, Resource};
use zonal_process::{CancellationToken, Clock};
use zonal_store::Store;

use crate::metrics::ZoneMetrics;
use crate::views::EngineHandle;

/// How old an answer may become.
const REFRESH: Duration = Duration::from_secs(30);
/// When a name that was never found is looked up again.
const RETRY: Duration = Duration::from_secs(5);
/// How long one lookup may take.
const LOOKUP_TIMEOUT: Duration = Duration::from_secs(5);
/// Lookups under way at once; each may hold a thread.
const LOOKUPS_MAX: usize = 16;

/// Asks where a name is.
pub(crate) trait Lookup: Send + Sync {
    /// All addresses of a name.
    fn addresses(&self, name: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>>;
}

/// As this machine resolves names.
pub(crate) struct SystemLookup;

impl Lookup for SystemLookup {
    fn addresses(&self, name: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
        Box::pin(async move {
            let found = tokio::net::lookup_host((&*name, 0)).await?;
            Ok(found.map(|address| address.ip()).collect())
        })
    }
}

/// The host names among a resource's addresses.
pub(crate) fn host_names(resource: &Resource) -> BTreeSet<Arc<str>> {
    let spec = resource.spec.to_value();
    let mut texts = Vec::new();
    match resource.key.kind {
        Kind::Dataplane => {
            texts.push(spec.pointer("/networking/address"));
            for list in ["/networking/inbound", "/networking/listeners"] {
                let members = spec.pointer(list).and_then(Value::as_array);
                texts.extend(members.into_iter().flatten().map(|m| m.get("address")));
            }
        }
        Kind::MeshZoneAddress => texts.push(spec.get("address")),
        _ => {}
    }
    texts
        .into_iter()
        .filter_map(|text| text?.as_str())
        .filter(|text| !text.is_empty() && text.parse::<IpAddr>().is_err())
        .map(Into::into)
        .collect()
}

#[derive(Debug)]
struct Known {
    users: usize,
    address: Option<IpAddr>,
    is_tried: bool,
    is_failing: bool,
    /// `None` while a lookup is under way.
    due: Option<Instant>,
}

/// Which names there are, and when each is to be looked up. Holds no socket and reads no clock.
#[derive(Debug, Default)]
struct Names {
    users: BTreeMap<Key, BTreeSet<Arc<str>>>,
    known: BTreeMap<Arc<str>, Known>,
}

impl Names {
    /// Takes over what a resource names now; the names that nobody uses any more.
    fn read(&mut self, key: &Key, resource: Option<&Resource>, now: Instant) -> Vec<Arc<str>> {
        let after = resource.map(host_names).unwrap_or_default();
        let before = self.users.remove(key).unwrap_or_default();
        for name in after.difference(&before) {
            let known = self.known.entry(Arc::clone(name)).or_insert(Known {
                users: 0,
                address: None,
                is_tried: false,
                is_failing: false,
                due: Some(now),
            });
            known.users += 1;
        }
        let mut unused = Vec::new();
        for name in before.difference(&after) {
            if let Some(known) = self.known.get_mut(name) {
                known.users -= 1;
                if known.users == 0 {
                    self.known.remove(name);
                    unused.push(Arc::clone(name));
                }
            }
        }
        if !after.is_empty() {
            self.users.insert(key.clone(), after);
        }
        unused
    }

    /// A name to look up now; it counts as under way.
    fn start(&mut self, now: Instant) -> Option<Arc<str>> {
        let (name, known) = self
            .known
            .iter_mut()
            .find(|(_, known)| known.due.is_some_and(|due| due <= now))?;
        known.due = None;
        Some(Arc::clone(name))
    }

    /// Takes an answer over; the name's new address if it is another one than before.
    fn answered(&mut self, name: &str, found: Option<&[IpAddr]>, now: Instant) -> Option<IpAddr> {
        let known = self.known.get_mut(name)?;
        known.is_tried = true;
        let found = found.unwrap_or_default();
        if known.address.is_some_and(|known| found.contains(&known)) {
            // Still there: a resolver that answers in turns must not make endpoints wander.
            known.due = Some(now + REFRESH);
            return None;
        }
        // Of several the first as text, whatever their order.
        let first = found
            .iter()
            .min_by_key(|address| address.to_string())
            .copied();
        let wait = if known.address.or(first).is_some() {
            REFRESH
        } else {
            RETRY
        };
        known.due = Some(now + wait);
        let first = first.filter(|first| known.address != Some(*first))?;
        known.address = Some(first);
        Some(first)
    }

    /// Notes whether the last lookup of a name worked; whether that is news.
    fn note_failing(&mut self, name: &str, is_failing: bool) -> bool {
        self.known
            .get_mut(name)
            .is_some_and(|known| std::mem::replace(&mut known.is_failing, is_failing) != is_failing)
    }

    fn next_due(&self) -> Option<Instant> {
        self.known.values().filter_map(|known| known.due).min()
    }

    fn all_tried(&self) -> bool {
        self.known.values().all(|known| known.is_tried)
    }
}

/// Tells the engine where host names are, until `stop`. `tried` is told once every name that was there at the start has
/// been looked up.
pub(crate) async fn run(
    store: Arc<dyn Store>,
    engine: EngineHandle,
    lookup: Arc<dyn Lookup>,
    clock: Arc<dyn Clock>,
    metrics: ZoneMetrics,
    tried: oneshot::Sender<()>,
    stop: CancellationToken,
) {
    let mut watch = store.watch();
    let mut names = Names::default();
    for kind in [Kind::Dataplane, Kind::MeshZoneAddress] {
        for stored in watch.seen().list(kind) {
            let resource = &stored.resource;
            names.read(&resource.key, Some(resource), clock.now());
        }
    }
    let mut tried = Some(tried);
    let mut running = FuturesUnordered::new();
    loop {
        if names.all_tried()
            && let Some(tried) = tried.take()
        {
            // Whoever waited may have stopped waiting.
            let _gone = tried.send(());
        }
        while running.len() < LOOKUPS_MAX
            && let Some(name) = names.start(clock.now())
        {
            running.push(look_up(&*lookup, &*clock, name));
        }
        let due = names.next_due().filter(|_| running.len() < LOOKUPS_MAX);
        tokio::select! {
            () = stop.cancelled() => return,
            changes = watch.next() => {
                let Ok(changes) = changes else { return };
                for change in changes.list() {
                    if matches!(change.key.kind, Kind::Dataplane | Kind::MeshZoneAddress) {
                        let resource = change.new.as_ref().map(|stored| &stored.resource);
                        for unused in names.read(&change.key, resource, clock.now()) {
                            engine.resolved(unused, None).await;
                        }
                    }
                }
            }
            Some((name, found)) = running.next(), if !running.is_empty() => {
                let found = match found {
                    Ok(found) => {
                        names.note_failing(&name, false);
                        Some(found)
                    }
                    Err(error) => {
                        metrics.lookup_failed();
                        if names.note_failing(&name, true) {
                            warn!(%name, %error, "a host name cannot be looked up; what was known of it stays");
                        }
                        None
                    }
                };
                if let Some(address) = names.answered(&name, found.as_deref(), clock.now()) {
                    info!(%name, %address, "a host name has an address");
                    engine.resolved(name, Some(address)).await;
                }
            }
            () = clock.sleep_until(due) => {}
        }
    }
}

fn look_up(
    lookup: &dyn Lookup,
    clock: &dyn Clock,
    name: Arc<str>,
) -> BoxFuture<'static, (Arc<str>, io::Result<Vec<IpAddr>>)> {
    let asked = lookup.addresses(Arc::clone(&name));
    let late = clock.sleep_until(Some(clock.now() + LOOKUP_TIMEOUT));
    Box::pin(async move {
        let found = tokio::select! {
            found = asked => found,
            () = late => Err(io::Error::from(io::ErrorKind::TimedOut)),
        };
        (name, found)
    })
}

#[cfg(test)]
mod tests {
    use jiff::Timestamp;
    use serde_json::json;
    use zonal_model::Json;
    use zonal_process::{ManualClock, RealClock};
    use zonal_store::{Batch, MemoryStore};

    use super::*;
    use crate::insights::Insights;
    use crate::views::{Engine, EngineSettings, ProxyConfig};

    fn address(name: &str, host: &str) -> Resource {
        let key = Key::new(Kind::MeshZoneAddress, "default", name);
        Resource::new(
            key,
            Json::from_value(&json!({ "address": host, "port": 10001 })),
        )
    }

    fn ips(texts: &[&str]) -> Vec<IpAddr> {
        texts.iter().map(|text| text.parse().unwrap()).collect()
    }

    #[test]
    fn names_are_found_wherever_an_address_may_be() {
        let key = Key::new(Kind::Dataplane, "default", "web");
        let spec = json!({ "networking": {
            "address": "web.example",
            "inbound": [{ "port": 80 }, { "port": 81, "address": "10.0.0.1" }, { "port": 82, "address": "in.example" }],
            "listeners": [{ "port": 83, "address": "zone.example" }],
        }});
        let dataplane = Resource::new(key, Json::from_value(&spec));
        let names: Vec<_> = host_names(&dataplane).into_iter().collect();
        assert_eq!(
            names,
            ["in.example", "web.example", "zone.example"].map(Arc::<str>::from)
        );
        assert!(host_names(&address("west", "10.1.2.3")).is_empty());
    }

    #[test]
    fn a_new_name_is_due_at_once_and_a_known_one_later() {
        let now = RealClock.now();
        let mut names = Names::default();
        let west = address("west", "west.example");
        assert!(names.read(&west.key, Some(&west), now).is_empty());
        assert_eq!(names.start(now).as_deref(), Some("west.example"));
        assert_eq!(names.start(now), None, "one lookup at a time");
        let found = ips(&["10.0.0.9", "10.0.0.10"]);
        assert_eq!(
            names.answered("west.example", Some(&found), now),
            Some(found[1]),
            "the first as text"
        );
        assert!(names.all_tried());
        assert_eq!(names.next_due(), Some(now + REFRESH));
    }

    #[test]
    fn a_failed_lookup_keeps_the_last_good_answer() {
        let now = RealClock.now();
        let mut names = Names::default();
        let west = address("west", "west.example");
        names.read(&west.key, Some(&west), now);
        names.start(now);
        assert_eq!(names.answered("west.example", None, now), None);
        assert_eq!(names.next_due(), Some(now + RETRY), "never found: soon");
        names.start(now + RETRY);
        let found = ips(&["10.0.0.9"]);
        names.answered("west.example", Some(&found), now);
        names.start(now + REFRESH);
        assert_eq!(names.answered("west.example", None, now), None);
        assert_eq!(names.answered("west.example", Some(&found), now), None);
        assert_eq!(names.answered("west.example", Some(&[]), now), None);
        assert!(names.note_failing("west.example", true));
        assert!(!names.note_failing("west.example", true), "said once");
    }

    #[test]
    fn an_address_that_is_still_among_the_answers_stays() {
        let now = RealClock.now();
        let mut names = Names::default();
        let west = address("west", "west.example");
        names.read(&west.key, Some(&west), now);
        let old = ips(&["10.0.0.2"]);
        names.answered("west.example", Some(&old), now);
        let more = ips(&["10.0.0.1", "10.0.0.2"]);
        assert_eq!(names.answered("west.example", Some(&more), now), None);
        let other = ips(&["10.0.0.3", "10.0.0.1"]);
        assert_eq!(
            names.answered("west.example", Some(&other), now),
            Some(other[1])
        );
    }

    /// Answers with what the test wrote down.
    #[derive(Default)]
    struct WrittenDown(std::sync::Mutex<Vec<IpAddr>>);

    impl Lookup for WrittenDown {
        fn addresses(&self, _name: Arc<str>) -> BoxFuture<'static, io::Result<Vec<IpAddr>>> {
            let known = self.0.lock().unwrap().clone();
            Box::pin(async move {
                if known.is_empty() {
                    Err(io::Error::other("unknown"))
                } else {
                    Ok(known)
                }
            })
        }
    }

    #[tokio::test]
    async fn a_proxy_follows_its_host_name() {
        let clock = ManualClock::starting_at(Timestamp::UNIX_EPOCH);
        let wall = clock.clone();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(move || wall.wall())));
        let spec = json!({ "networking": {
            "address": "web.example",
            "inbound": [{ "name": "http", "port": 8080, "servicePort": 8081 }],
        }});
        let batch = Batch::new()
            .put(Resource::new(
                Key::global(Kind::Mesh, "default"),
                Json::empty_object(),
            ))
            .put(Resource::new(
                Key::new(Kind::Dataplane, "default", "web"),
                Json::from_value(&spec),
            ));
        store.commit(batch).await.unwrap();
        let shared: Arc<dyn Clock> = Arc::new(clock.clone());
        let (engine, handle) = Engine::new(
            EngineSettings {
                zone: "east".into(),
            },
            Arc::clone(&store),
            Arc::clone(&shared),
            Insights::new("cp".into()),
        );
        let stop = CancellationToken::new();
        let written = Arc::new(WrittenDown::default());
        let (tried, was_tried) = oneshot::channel();
        let resolver = run(
            store,
            handle.clone(),
            Arc::clone(&written) as Arc<dyn Lookup>,
            shared,
            ZoneMetrics::default(),
            tried,
            stop.clone(),
        );
        let test = async {
            let node = zonal_xds::Node {
                mesh: "default".to_owned(),
                name: "web".to_owned(),
                ..zonal_xds::Node::default()
            };
            let session = handle.connect(node).await.unwrap();
            was_tried.await.unwrap();
            let mut config = session.config;
            assert!(config.borrow().is_none(), "nothing rather than half of it");
            for (wait, address) in [(RETRY, "10.0.0.7"), (REFRESH, "10.0.0.8")] {
                *written.0.lock().unwrap() = ips(&[address]);
                clock.advance(wait);
                let is_there = |config: &Option<Arc<ProxyConfig>>| {
                    let types = config.iter().flat_map(|config| &config.types);
                    types
                        .flat_map(|(_, offered)| offered.values())
                        .any(|entry| {
                            let body = &entry.body;
                            body.windows(address.len())
                                .any(|part| part == address.as_bytes())
                        })
                };
                drop(config.wait_for(is_there).await.unwrap());
            }
            stop.cancel();
        };
        tokio::join!(engine.run(stop.clone()), resolver, test);
    }

    #[test]
    fn a_name_is_forgotten_with_its_last_user() {
        let now = RealClock.now();
        let mut names = Names::default();
        let (west, other) = (
            address("west", "west.example"),
            address("other", "west.example"),
        );
        names.read(&west.key, Some(&west), now);
        names.read(&other.key, Some(&other), now);
        assert!(names.read(&west.key, None, now).is_empty());
        let moved = address("other", "10.0.0.1");
        assert_eq!(
            names.read(&moved.key, Some(&moved), now),
            ["west.example".into()]
        );
        assert_eq!(names.next_due(), None);
        let found = ips(&["10.0.0.9"]);
        assert_eq!(
            names.answered("west.example", Some(&found), now),
            None,
            "too late"
        );
    }
}
