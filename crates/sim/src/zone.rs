//! A zone's control plane: the shells of its streams, as `zone-cp` has them, around the real cores.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use kds_proto::envoy::config::core::v3::Node;
use zonal_catalogue::derive::{self, Op as Derived};
use zonal_catalogue::status;
use zonal_catalogue::vips::{Allocator, Range, vip_of, with_vip};
use zonal_delta::wire as delta_wire;
use zonal_federation::{Encodings, Features, wire};
use zonal_kds::{Direction, From, Publisher, Subscriber};
use zonal_model::{Key, Kind, Resource};
use zonal_mutants::mutant;
use zonal_store::{Batch, Expect, MemoryStore, Revision, Snapshot, Store};

use crate::keeper::{Keeper, Progress};
use crate::link::{Between, ConnId, End, Frame};
use crate::oracle::{Actor, Checked, Place, violation, zone_name};
use crate::proxy::Proxy;
use crate::views::Views;
use crate::world::{Event, World, encodings};

/// A zone's connection with global.
#[derive(Debug)]
struct Session {
    conn: ConnId,
    down: Subscriber,
    keeper: Keeper,
    publisher: Option<Publisher>,
    /// States that wait for their turn: none, but for a mutant.
    backlog: VecDeque<Arc<Snapshot>>,
    timer: Option<u64>,
    since: u64,
}

/// A zone's control plane and what is around it.
#[derive(Debug)]
pub(crate) struct Zone {
    pub(crate) store: MemoryStore,
    pub(crate) up: bool,
    /// Counts its starts.
    pub(crate) life: u64,
    /// Global cannot be dialled before.
    pub(crate) cut_off_until: u64,
    pub(crate) views: Views,
    pub(crate) proxies: Vec<Proxy>,
    encodings: Arc<Encodings>,
    session: Option<Session>,
    earlier: Option<Subscriber>,
    failures: u32,
    settings: derive::Settings,
    allocators: BTreeMap<Kind, Allocator>,
    flush_due: bool,
    derive_due: bool,
    /// The address each service was given, for as long as the zone knows the service.
    addresses: BTreeMap<Key, (Revision, String)>,
    /// To whom each address was given since the process started.
    given: BTreeMap<String, Key>,
    /// Policies of global in whose place there was something else at some time: they may come late.
    pub(crate) squatted: BTreeSet<String>,
}

const ADDRESSED: [Kind; 2] = [Kind::MeshService, Kind::MeshMultiZoneService];
/// Short, so that services without proxies go while somebody still looks.
const GRACE: Duration = Duration::from_secs(5);

impl Zone {
    pub(crate) fn new(zone: usize, store: MemoryStore, proxies: usize) -> Self {
        Self {
            views: Views::new(store.snapshot()),
            store,
            up: true,
            life: 0,
            cut_off_until: 0,
            proxies: (0..proxies).map(Proxy::new).collect(),
            encodings: encodings(),
            session: None,
            earlier: None,
            failures: 0,
            settings: derive::Settings {
                zone: zone_name(zone),
                deletion_grace_period: GRACE,
            },
            allocators: allocators(),
            flush_due: false,
            derive_due: false,
            addresses: BTreeMap::new(),
            given: BTreeMap::new(),
            squatted: BTreeSet::new(),
        }
    }

    /// Its connection with global, if it has one.
    pub(crate) fn conn(&self) -> Option<ConnId> {
        self.session.as_ref().map(|session| session.conn)
    }

    /// Whether everything that global holds for it has arrived once on the present stream.
    pub(crate) fn is_quiet(&self) -> bool {
        self.session
            .as_ref()
            .is_some_and(|session| session.down.is_live())
    }

    /// Whether both ends have heard of each other on both streams.
    pub(crate) fn has_met_global(&self) -> bool {
        let session = self.session.as_ref();
        session.is_some_and(|session| session.down.is_live() && session.publisher.is_some())
    }
}

fn allocators() -> BTreeMap<Kind, Allocator> {
    ADDRESSED
        .iter()
        .filter_map(|kind| Some((*kind, Allocator::new(Range::default_of(*kind)?))))
        .collect()
}

/// The node of a message.
pub(crate) fn node(id: &str) -> Node {
    Node {
        id: id.to_owned(),
        ..Node::default()
    }
}

impl World {
    pub(crate) fn wake_zone(&mut self, zone: usize) {
        if !self.zones[zone].up {
            return;
        }
        let life = self.zones[zone].life;
        if !self.zones[zone].flush_due {
            self.zones[zone].flush_due = true;
            let wait = self.between(10, 2_000);
            self.after(wait, Event::ZoneFlush { zone, life });
        }
        if !self.zones[zone].derive_due {
            self.zones[zone].derive_due = true;
            let wait = self.between(10, 2_000);
            self.after(wait, Event::Derive { zone, life });
        }
    }

    /// A zone's process ends.
    pub(crate) fn crash_zone(&mut self, zone: usize, tells: bool) -> Checked {
        if !self.zones[zone].up {
            return Ok(());
        }
        self.trace.note(
            self.time.micros(),
            format_args!("{} crashes", zone_name(zone)),
        );
        let of_zone = |between| match between {
            Between::Federation { zone: of } if of == zone => Some(End::Dialer),
            Between::Xds { zone: of, .. } if of == zone => Some(End::Listener),
            Between::Federation { .. } | Between::Xds { .. } => None,
        };
        let ends: Vec<(ConnId, End)> = self
            .conns
            .iter()
            .filter_map(|(id, conn)| Some((*id, of_zone(conn.between)?)))
            .collect();
        self.zones[zone].up = false;
        for (conn, end) in ends {
            self.close(conn, end, tells)?;
        }
        let gone = &mut self.zones[zone];
        gone.life += 1;
        gone.session = None;
        gone.earlier = None;
        gone.flush_due = false;
        gone.derive_due = false;
        let away = self.between(1_000, 20_000_000);
        self.after(away, Event::StartZone { zone });
        Ok(())
    }

    pub(crate) fn start_zone(&mut self, zone: usize) -> Checked {
        let at = self.time.micros();
        let started = &mut self.zones[zone];
        if started.life > 0 && started.up {
            return Ok(());
        }
        started.up = true;
        started.encodings = encodings();
        started.allocators = allocators();
        started.views = Views::new(started.store.snapshot());
        started.failures = 0;
        started.given.clear();
        let life = started.life;
        self.trace
            .note(at, format_args!("{} starts", zone_name(zone)));
        self.views_started(zone);
        self.wake_zone(zone);
        let wait = self.between(100, 5_000);
        self.after(wait, Event::Dial { zone, life });
        Ok(())
    }

    /// Opens a connection with global, or tries again later.
    pub(crate) fn dial(&mut self, zone: usize) -> Checked {
        let now = self.time.micros();
        if !self.zones[zone].up || self.zones[zone].session.is_some() {
            return Ok(());
        }
        if !self.global.up || self.zones[zone].cut_off_until > now {
            self.dial_later(zone);
            return Ok(());
        }
        let conn = self.open(Between::Federation { zone });
        let dialer = &mut self.zones[zone];
        let earlier = dialer.earlier.take();
        let mut down =
            Subscriber::resuming(From::Global, &dialer.store.snapshot(), earlier.as_ref());
        // A zone that has met its global knows that it understands sums; one that has just started does not.
        if earlier.is_some() {
            down = down.giving_sums();
        }
        dialer.session = Some(Session {
            conn,
            down,
            keeper: Keeper::default(),
            publisher: None,
            backlog: VecDeque::new(),
            timer: None,
            since: now,
        });
        self.trace.note(
            now,
            format_args!("{} opens connection {conn}", zone_name(zone)),
        );
        if self.chance(50) {
            self.zone_answers(zone)?;
            self.send(conn, End::Listener, Frame::UpOpen)
        } else {
            self.send(conn, End::Listener, Frame::UpOpen)?;
            self.zone_answers(zone)
        }
    }

    fn dial_later(&mut self, zone: usize) {
        let dialer = &mut self.zones[zone];
        let ceiling = 50_000_u64 << dialer.failures.min(6);
        dialer.failures += 1;
        let life = dialer.life;
        let wait = self.between(1_000, ceiling);
        self.after(wait, Event::Dial { zone, life });
    }

    pub(crate) fn zone_disconnected(&mut self, conn: ConnId, zone: usize) -> Checked {
        let now = self.time.micros();
        let dialer = &mut self.zones[zone];
        if let Some(session) = dialer.session.take_if(|session| session.conn == conn) {
            if now.saturating_sub(session.since) > 30_000_000 {
                dialer.failures = 0;
            }
            dialer.earlier = Some(session.down);
            if dialer.up {
                self.dial_later(zone);
            }
        }
        Ok(())
    }

    pub(crate) fn zone_receives(&mut self, conn: ConnId, zone: usize, frame: Frame) -> Checked {
        let (now, snapshot) = (self.now(), self.zones[zone].store.snapshot());
        let bytes = self.size.message_bytes;
        let at = &mut self.zones[zone];
        let Some(session) = at.session.as_mut().filter(|session| session.conn == conn) else {
            return Ok(());
        };
        match frame {
            Frame::DownResponse(message) => {
                let response = delta_wire::parse_response(*message)
                    .map_err(|error| violation("wire", error.to_string()))?;
                session.keeper.receive(response);
                crate::global::bounded(&session.keeper)?;
                self.zone_starts_keeping(zone)
            }
            Frame::UpRequest(message) => {
                let request = delta_wire::parse_request(*message)
                    .map_err(|error| violation("wire", error.to_string()))?;
                let encodings = &at.encodings;
                let publisher = session.publisher.get_or_insert_with(|| {
                    let direction = Direction::Up {
                        zone: zone_name(zone).into(),
                        features: Features::ALL,
                    };
                    let mut publisher =
                        Publisher::new(direction, Arc::clone(encodings)).cutting_after(bytes);
                    publisher.handle_snapshot(&snapshot);
                    publisher
                });
                drop(publisher.handle_request(now, request));
                self.zone_publishes(zone)
            }
            Frame::UpOpen | Frame::DownRequest(_) | Frame::UpResponse(_) | Frame::Close => Ok(()),
        }
    }

    /// Writes what the downward subscriber has to say.
    fn zone_answers(&mut self, zone: usize) -> Checked {
        loop {
            let Some(session) = &mut self.zones[zone].session else {
                return Ok(());
            };
            let conn = session.conn;
            let Some(request) = session.down.poll_request() else {
                return Ok(());
            };
            let message = delta_wire::request(request, node(&zone_name(zone)));
            self.send(conn, End::Listener, Frame::DownRequest(Box::new(message)))?;
        }
    }

    fn zone_starts_keeping(&mut self, zone: usize) -> Checked {
        let at = &mut self.zones[zone];
        let Some(session) = &mut at.session else {
            return Ok(());
        };
        let conn = session.conn;
        if let Progress::Working = session.keeper.start(&mut session.down, &at.store) {
            let mut wait = self.between(100, 20_000);
            if mutant!(SleepsWhileReceiving) {
                wait += 1_000_000;
            }
            self.after(
                wait,
                Event::Keep {
                    conn,
                    at: End::Dialer,
                },
            );
        }
        if mutant!(AckBeforeKept) {
            return self.zone_answers(zone);
        }
        Ok(())
    }

    pub(crate) fn zone_keeps(&mut self, conn: ConnId) -> Checked {
        let Some(Between::Federation { zone }) = self.conns.get(&conn).map(|link| link.between)
        else {
            return Ok(());
        };
        let at = &mut self.zones[zone];
        let old = at.store.snapshot();
        let Some(session) = at.session.as_mut().filter(|session| session.conn == conn) else {
            return Ok(());
        };
        let progress = session.keeper.step(&mut session.down, &at.store);
        self.committed(Place::Zone(zone), Actor::Peer, &old)?;
        match progress {
            Progress::Idle => Ok(()),
            Progress::Working => {
                let wait = self.between(10, 2_000);
                self.after(
                    wait,
                    Event::Keep {
                        conn,
                        at: End::Dialer,
                    },
                );
                Ok(())
            }
            Progress::Answered => {
                self.zone_answers(zone)?;
                self.zone_starts_keeping(zone)
            }
            Progress::Starved => self.close(conn, End::Dialer, true),
        }
    }

    pub(crate) fn zone_timer(&mut self, conn: ConnId, zone: usize) -> Checked {
        let now = self.now();
        let Some(session) = self.zones[zone]
            .session
            .as_mut()
            .filter(|session| session.conn == conn)
        else {
            return Ok(());
        };
        session.timer = None;
        let Some(publisher) = &mut session.publisher else {
            return Ok(());
        };
        if publisher.handle_timeout(now).is_empty() || mutant!(SilenceIgnored) {
            self.zone_publishes(zone)
        } else {
            self.close(conn, End::Dialer, true)
        }
    }

    fn zone_publishes(&mut self, zone: usize) -> Checked {
        let now = self.now();
        loop {
            let Some(session) = &mut self.zones[zone].session else {
                return Ok(());
            };
            let (conn, set) = (session.conn, session.timer);
            let Some(publisher) = &mut session.publisher else {
                return Ok(());
            };
            if let Some(said) = session.backlog.front()
                && publisher.reached() >= Some(said.revision())
            {
                session.backlog.pop_front();
                if let Some(next) = session.backlog.front() {
                    publisher.handle_snapshot(next);
                }
            }
            let Some(response) = publisher.poll_response(now) else {
                let due = publisher.next_timeout();
                let set = self.arm(conn, End::Dialer, set, due)?;
                if let Some(session) = &mut self.zones[zone].session {
                    session.timer = set;
                }
                return Ok(());
            };
            let message = delta_wire::response(response, wire::ENVELOPE, &zone_name(zone));
            self.send(conn, End::Listener, Frame::UpResponse(Box::new(message)))?;
        }
    }

    pub(crate) fn zone_flush(&mut self, zone: usize) -> Checked {
        self.zones[zone].flush_due = false;
        let snapshot = self.zones[zone].store.snapshot();
        self.check_addresses(zone, &snapshot)?;
        if let Some(session) = &mut self.zones[zone].session
            && let Some(publisher) = &mut session.publisher
        {
            if mutant!(EveryStateInTurn) {
                session.backlog.push_back(Arc::clone(&snapshot));
            }
            if session.backlog.len() <= 1 {
                publisher.handle_snapshot(&snapshot);
            }
            self.zone_publishes(zone)?;
        }
        self.views_advance(zone, snapshot)
    }

    /// Services, workloads and addresses follow from what the zone holds, in one commit.
    pub(crate) fn derive(&mut self, zone: usize) -> Checked {
        self.zones[zone].derive_due = false;
        let now = self.time.wall();
        let at = &mut self.zones[zone];
        let snapshot = at.store.snapshot();
        if snapshot.get(&Key::global(Kind::Mesh, MESH)).is_none() {
            return Ok(());
        }
        let list = |kind| -> Vec<&Resource> {
            snapshot
                .list_in_mesh(kind, MESH)
                .map(|stored| &stored.resource)
                .collect()
        };
        let (dataplanes, services) = (list(Kind::Dataplane), list(Kind::MeshService));
        let mut ops = derive::workloads(MESH, &dataplanes, &list(Kind::Workload), &at.settings);
        ops.extend(derive::mesh_services(
            MESH,
            &dataplanes,
            &services,
            now,
            &at.settings,
        ));
        let mut written: BTreeMap<Key, Option<Resource>> = BTreeMap::new();
        for op in ops {
            match op {
                Derived::Put(resource) => written.insert(resource.key.clone(), Some(resource)),
                Derived::Remove(key) => written.insert(key, None),
            };
        }
        // The status of a copy is the zone's own: global may change the copy at the same time.
        let members: Vec<&Resource> = snapshot
            .list(Kind::MeshService)
            .map(|stored| &stored.resource)
            .filter(|service| !written.contains_key(&service.key))
            .chain(written.values().flatten())
            .collect();
        let matched: Vec<Resource> = snapshot
            .list(Kind::MeshMultiZoneService)
            .filter_map(|stored| {
                status::multi_zone_service(&stored.resource, members.iter().copied())
            })
            .collect();
        for service in matched {
            written.insert(service.key.clone(), Some(service));
        }
        for (kind, allocator) in &mut at.allocators {
            let known = snapshot.list(*kind).map(|stored| &stored.resource);
            let all: Vec<Resource> = known
                .filter(|resource| !written.contains_key(&resource.key))
                .cloned()
                .chain(
                    written
                        .values()
                        .flatten()
                        .filter(|resource| resource.key.kind == *kind)
                        .cloned(),
                )
                .collect();
            let going = written
                .iter()
                .filter(|(key, new)| key.kind == *kind && new.is_none())
                .filter_map(|(key, _)| snapshot.get(key));
            allocator.retire(going.map(|stored| &stored.resource));
            let assigned = allocator.assign(all.iter());
            for mut service in all {
                if let Some(vip) = assigned.get(&service.key) {
                    service.status = Some(with_vip(&service, *vip));
                    written.insert(service.key.clone(), Some(service));
                }
            }
        }
        let mut batch = Batch::new();
        for (key, resource) in written {
            let expect = snapshot
                .get(&key)
                .map_or(Expect::Absent, |stored| Expect::Revision(stored.revision));
            batch = match resource {
                Some(resource) => batch.put_if(resource, expect),
                None => batch.remove_if(key, expect),
            };
        }
        if let Some(due) = derive::next_removal(&services, &at.settings) {
            let wait = Duration::try_from(due.duration_since(now)).unwrap_or_default();
            let life = at.life;
            let wait = u64::try_from(wait.as_micros())
                .unwrap_or(u64::MAX)
                .max(1_000);
            if wait < 60_000_000 {
                self.after(wait, Event::Derive { zone, life });
            }
        }
        if !batch.is_empty() && self.commit(Place::Zone(zone), batch)?.is_none() {
            self.wake_zone(zone);
        }
        Ok(())
    }

    /// A service keeps its address for as long as the zone knows it, and no other gets it afterwards.
    fn check_addresses(&mut self, zone: usize, snapshot: &Snapshot) -> Checked {
        let mut now = BTreeMap::new();
        for stored in ADDRESSED.iter().flat_map(|kind| snapshot.list(*kind)) {
            if let Some(address) = vip_of(&stored.resource) {
                now.insert(
                    stored.resource.key.clone(),
                    (stored.created, address.to_string()),
                );
            }
        }
        let before = &self.zones[zone].addresses;
        for (key, address) in before {
            let stays = snapshot
                .get(key)
                .is_some_and(|stored| stored.created == address.0);
            if stays && now.get(key) != Some(address) {
                let text = format!(
                    "{key} had {} in {}, now {:?}",
                    address.1,
                    zone_name(zone),
                    now.get(key)
                );
                return Err(violation("addresses stay", text));
            }
        }
        for (key, (_, address)) in &now {
            let given = &mut self.zones[zone].given;
            let before = given.entry(address.clone()).or_insert_with(|| key.clone());
            if *before != *key {
                let text = format!("{address} of {before} is given to {key}");
                return Err(violation("addresses stay", text));
            }
        }
        self.zones[zone].addresses = now;
        Ok(())
    }
}

/// The mesh in which the workloads are.
pub(crate) const MESH: &str = "default";
