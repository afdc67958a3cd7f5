//! The made-up world: everybody in it, the order of what happens, and how it gets from one to the other.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

use fastrand::Rng;
use zonal_federation::{Border, Encodings};
use zonal_mutants::mutant;
use zonal_store::{Batch, Committed, Epoch, MemoryStore, Snapshot, Store, StoreError};

use crate::global::Global;
use crate::link::{Between, Conn, ConnId, End, Frame};
use crate::oracle::{Actor, Checked, Oracle, Place, Violation, violation};
use crate::time::Time;
use crate::trace::Trace;
use crate::zone::Zone;

/// Something that happens at a moment.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Event {
    /// Frames may have arrived at an end.
    Arrive { conn: ConnId, at: End },
    /// An end looks whether the other one still answers.
    KeepAlive { conn: ConnId, at: End },
    /// A frozen direction moves again.
    Thaw { conn: ConnId },
    /// A zone's end of a connection that stands still goes without a word.
    Leave {
        conn: ConnId,
        zone: usize,
        touches: u32,
    },
    /// The next step of keeping what a peer sent.
    Keep { conn: ConnId, at: End },
    /// A core asked to be called back.
    Timer { conn: ConnId, at: End },
    /// Global's streams look at the newest snapshot.
    GlobalFlush { life: u64 },
    /// A zone's streams and views look at the newest snapshot.
    ZoneFlush { zone: usize, life: u64 },
    /// A zone derives what follows from what it holds.
    Derive { zone: usize, life: u64 },
    /// A zone opens a connection.
    Dial { zone: usize, life: u64 },
    /// A proxy opens a connection.
    DialProxy {
        zone: usize,
        proxy: usize,
        life: u64,
    },
    /// Global is back.
    StartGlobal,
    /// A zone is back.
    StartZone { zone: usize },
    /// A proxy is back.
    StartProxy { zone: usize, proxy: usize },
    /// Somebody changes something.
    Work,
    /// What somebody removed comes again.
    Again,
    /// Something breaks.
    Fault,
}

/// How large a world is and how long it is busy.
#[derive(Clone, Copy, Debug)]
pub struct Size {
    /// Zones.
    pub zones: usize,
    /// Proxies in each zone.
    pub proxies: usize,
    /// Names that global's policies have; where they are many, all are there from the start.
    pub policies: u32,
    /// Messages of publishers are cut after so many bytes.
    pub message_bytes: usize,
    /// Changes made by people.
    pub changes: u32,
    /// Things that break.
    pub faults: u32,
}

/// How long a peer may be silent before a connection counts as dead: the interval of the keep-alive and its answer.
pub(crate) const KEEP_ALIVE_MICROS: u64 = 35_000_000;

/// Everybody, and what is going to happen.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) rng: Rng,
    pub(crate) time: Time,
    pub(crate) trace: Trace,
    pub(crate) oracle: Oracle,
    pub(crate) global: Global,
    pub(crate) zones: Vec<Zone>,
    pub(crate) conns: BTreeMap<ConnId, Conn>,
    pub(crate) size: Size,
    /// Nothing breaks any more.
    pub(crate) calm: bool,
    pub(crate) work_left: u32,
    pub(crate) faults_left: u32,
    /// What is made again a little later.
    pub(crate) again: VecDeque<Batch>,
    /// Makes every written content different.
    pub(crate) serial: u64,
    pub(crate) messages: u64,
    queue: BTreeMap<(u64, u64), Event>,
    sequence: u64,
    next_conn: ConnId,
}

impl World {
    pub(crate) fn new(seed: u64, size: Size, print: Option<fn(&str)>) -> Self {
        let time = Time::new();
        let store = |name: &str| MemoryStore::with_epoch(Epoch::named(name), time.wall_clock());
        let global = Global::new(store("global"));
        let zones = (0..size.zones)
            .map(|zone| Zone::new(zone, store(&format!("zone-{zone}")), size.proxies))
            .collect();
        Self {
            rng: Rng::with_seed(seed),
            time,
            trace: Trace::new(print),
            oracle: Oracle::default(),
            global,
            zones,
            conns: BTreeMap::new(),
            size,
            calm: false,
            work_left: size.changes,
            faults_left: size.faults,
            again: VecDeque::new(),
            serial: 0,
            messages: 0,
            queue: BTreeMap::new(),
            sequence: 0,
            next_conn: 1,
        }
    }

    pub(crate) fn now(&self) -> Instant {
        self.time.instant()
    }

    /// Makes something happen a while from now.
    pub(crate) fn after(&mut self, micros: u64, event: Event) {
        self.at(self.time.micros() + micros, event);
    }

    pub(crate) fn at(&mut self, micros: u64, event: Event) {
        self.sequence += 1;
        self.queue
            .insert((micros.max(self.time.micros()), self.sequence), event);
    }

    /// A while of some microseconds.
    pub(crate) fn between(&mut self, from: u64, to: u64) -> u64 {
        self.rng.u64(from..=to)
    }

    pub(crate) fn chance(&mut self, percent: u32) -> bool {
        self.rng.u32(0..100) < percent
    }

    /// Takes the next event that happens before `until`; `None` when there is none.
    pub(crate) fn next_event(&mut self, until: u64) -> Option<Event> {
        let first = self.queue.first_entry()?;
        let at = first.key().0;
        if at > until {
            self.time.advance_to(until);
            return None;
        }
        let event = first.remove();
        self.time.advance_to(at);
        Some(event)
    }

    /// Lets it happen.
    pub(crate) fn handle(&mut self, event: Event) -> Checked {
        match event {
            Event::Arrive { conn, at } => self.arrive(conn, at),
            Event::KeepAlive { conn, at } => self.keep_alive(conn, at),
            Event::Thaw { conn } => {
                self.thaw(conn);
                Ok(())
            }
            Event::Leave {
                conn,
                zone,
                touches,
            } => {
                self.close(conn, End::Dialer, false)?;
                self.touch(zone, touches)
            }
            Event::Keep { conn, at } => self.keep_step(conn, at),
            Event::Timer { conn, at } => self.timer(conn, at),
            Event::GlobalFlush { life } if life == self.global.life => self.global_flush(),
            Event::ZoneFlush { zone, life } if life == self.zones[zone].life => {
                self.zone_flush(zone)
            }
            Event::Derive { zone, life } if life == self.zones[zone].life => self.derive(zone),
            Event::Dial { zone, life } if life == self.zones[zone].life => self.dial(zone),
            Event::DialProxy { zone, proxy, life }
                if life == self.zones[zone].proxies[proxy].life =>
            {
                self.dial_proxy(zone, proxy)
            }
            Event::StartGlobal => self.start_global(),
            Event::StartZone { zone } => self.start_zone(zone),
            Event::StartProxy { zone, proxy } => {
                self.start_proxy(zone, proxy);
                Ok(())
            }
            Event::Work => self.work(),
            Event::Again => self.again(),
            Event::Fault => self.fault(),
            Event::GlobalFlush { .. }
            | Event::ZoneFlush { .. }
            | Event::Derive { .. }
            | Event::Dial { .. }
            | Event::DialProxy { .. } => Ok(()),
        }
    }

    pub(crate) fn store(&self, place: Place) -> &MemoryStore {
        match place {
            Place::Global => &self.global.store,
            Place::Zone(zone) => &self.zones[zone].store,
        }
    }

    /// Commits what a place itself writes.
    pub(crate) fn commit(
        &mut self,
        place: Place,
        batch: Batch,
    ) -> Result<Option<Committed>, Violation> {
        let old = self.store(place).snapshot();
        match self.store(place).commit_now(batch) {
            Ok(committed) => {
                self.committed(place, Actor::Own, &old)?;
                Ok(Some(committed))
            }
            Err(StoreError::Conflict { .. }) => Ok(None),
            Err(error) => Err(violation("store", format!("{place}: {error}"))),
        }
    }

    /// Judges a commit and wakes whoever follows the store.
    pub(crate) fn committed(&mut self, place: Place, actor: Actor, old: &Snapshot) -> Checked {
        let new = self.store(place).snapshot();
        if new.revision() == old.revision() {
            return Ok(());
        }
        self.trace.note(
            self.time.micros(),
            format_args!("{place} is at revision {}", new.revision()),
        );
        self.oracle.observe(place, actor, old, &new)?;
        for link in self.conns.values_mut() {
            match (place, link.between) {
                (Place::Global, Between::Federation { .. }) => link.may_say_more(End::Listener),
                (Place::Zone(at), Between::Federation { zone }) if at == zone => {
                    link.may_say_more(End::Dialer);
                }
                (Place::Zone(at), Between::Xds { zone, .. }) if at == zone => {
                    link.may_say_more(End::Listener);
                }
                (Place::Global | Place::Zone(_), _) => {}
            }
        }
        match place {
            Place::Global => self.wake_global(),
            Place::Zone(zone) => self.wake_zone(zone),
        }
        Ok(())
    }

    // --- connections

    pub(crate) fn open(&mut self, between: Between) -> ConnId {
        let id = self.next_conn;
        self.next_conn += 1;
        self.conns.insert(id, Conn::new(between));
        id
    }

    pub(crate) fn send(&mut self, conn: ConnId, to: End, frame: Frame) -> Checked {
        let delay = if self.rng.u32(0..20) == 0 {
            self.between(1_000, 80_000)
        } else {
            self.between(50, 3_000)
        };
        let now = self.time.micros();
        self.messages += 1;
        let Some(link) = self.conns.get_mut(&conn) else {
            return Ok(());
        };
        link.note_answers(&frame)?;
        let pipe = link.pipe(to);
        let arrives = pipe.push(now, delay, frame);
        if pipe.len() > Conn::FRAMES_MAX {
            return Err(violation(
                "bounded by resources",
                format!(
                    "{} frames are on the way over connection {conn}",
                    pipe.len()
                ),
            ));
        }
        if let Some(arrives) = arrives {
            self.at(arrives, Event::Arrive { conn, at: to });
        }
        Ok(())
    }

    fn arrive(&mut self, conn: ConnId, at: End) -> Checked {
        loop {
            let now = self.time.micros();
            let Some(link) = self.conns.get_mut(&conn) else {
                return Ok(());
            };
            let (between, open) = (link.between, link.is_open(at));
            if mutant!(ReceivesOnlyWhenSent) && link.pipe(at.other()).is_full() {
                return Ok(());
            }
            let Some(frame) = link.pipe(at).pop(now) else {
                return Ok(());
            };
            if let Some(arrives) = link.pipe(at).push_waiting(now) {
                self.at(arrives, Event::Arrive { conn, at });
                if mutant!(ReceivesOnlyWhenSent) {
                    let at = at.other();
                    self.after(0, Event::Arrive { conn, at });
                }
            }
            if !open {
                continue;
            }
            self.trace.note(
                now,
                format_args!("{between:?} #{conn} to {at:?}: {}", frame.words()),
            );
            match (between, at, frame) {
                // What arrived before is kept first: global reads its streams in order.
                (Between::Federation { zone }, End::Listener, frame) => {
                    self.global_receives(conn, zone, frame)?;
                }
                (_, _, Frame::Close) if mutant!(CleanEndIgnored) => {}
                (_, _, Frame::Close) => self.close(conn, at, true)?,
                (Between::Federation { zone }, End::Dialer, frame) => {
                    self.zone_receives(conn, zone, frame)?;
                }
                (Between::Xds { zone, proxy }, End::Listener, frame) => {
                    self.views_receive(conn, zone, proxy, frame)?;
                }
                (Between::Xds { zone, proxy }, End::Dialer, frame) => {
                    self.proxy_receives(conn, zone, proxy, frame)?;
                }
            }
        }
    }

    /// One end goes. With `says` the other end hears of it once everything sent before has arrived; without, it has to
    /// find out.
    pub(crate) fn close(&mut self, conn: ConnId, end: End, says: bool) -> Checked {
        let Some(link) = self.conns.get_mut(&conn) else {
            return Ok(());
        };
        if !link.is_open(end) {
            return Ok(());
        }
        link.shut(end);
        let (between, other_open) = (link.between, link.is_open(end.other()));
        self.trace.note(
            self.time.micros(),
            format_args!("{between:?} #{conn}: {end:?} is gone"),
        );
        if other_open {
            if says {
                self.send(conn, end.other(), Frame::Close)?;
            }
            let notice = self.between(KEEP_ALIVE_MICROS / 2, KEEP_ALIVE_MICROS);
            self.after(
                notice,
                Event::KeepAlive {
                    conn,
                    at: end.other(),
                },
            );
        } else {
            self.conns.remove(&conn);
        }
        match (between, end) {
            (Between::Federation { zone }, End::Dialer) => self.zone_disconnected(conn, zone),
            (Between::Federation { zone }, End::Listener) => {
                self.global.sessions.remove(&conn);
                if mutant!(StatePerZone) {
                    let sessions = &mut self.global.sessions;
                    sessions.retain(|_, session| session.zone != zone);
                }
                Ok(())
            }
            (Between::Xds { zone, proxy }, End::Dialer) => {
                self.proxy_disconnected(conn, zone, proxy);
                Ok(())
            }
            (Between::Xds { zone, proxy }, End::Listener) => {
                self.views_disconnected(conn, zone, proxy);
                Ok(())
            }
        }
    }

    fn keep_alive(&mut self, conn: ConnId, at: End) -> Checked {
        let gone = self
            .conns
            .get(&conn)
            .is_some_and(|link| link.is_stuck() || (!link.is_open(at.other()) && !link.kept_up));
        if gone {
            self.close(conn, at, true)
        } else {
            Ok(())
        }
    }

    /// A load balancer ends a connection's streams in order and keeps the connection to the dialer.
    pub(crate) fn end_in_order(&mut self, conn: ConnId) -> Checked {
        // Who is gone without a word can say nothing in order.
        let link = self.conns.get_mut(&conn);
        if let Some(link) = link.filter(|link| link.is_open(End::Listener)) {
            link.kept_up = true;
        }
        self.close(conn, End::Listener, true)
    }

    /// From now on one direction loses what is said, and nobody is told.
    pub(crate) fn swallow(&mut self, conn: ConnId, to: End) {
        if let Some(link) = self.conns.get_mut(&conn) {
            link.pipe(to).swallows = true;
        }
    }

    /// Nothing arrives in one direction for a while.
    pub(crate) fn freeze(&mut self, conn: ConnId, to: End, micros: u64) {
        let Some(link) = self.conns.get_mut(&conn) else {
            return;
        };
        link.pipe(to).frozen = true;
        self.after(micros, Event::Thaw { conn });
        if micros > KEEP_ALIVE_MICROS / 2 {
            for at in [End::Dialer, End::Listener] {
                let notice = self.between(KEEP_ALIVE_MICROS / 2, KEEP_ALIVE_MICROS);
                self.after(notice, Event::KeepAlive { conn, at });
            }
        }
    }

    fn thaw(&mut self, conn: ConnId) {
        let Some(link) = self.conns.get_mut(&conn) else {
            return;
        };
        for end in [End::Dialer, End::Listener] {
            link.pipe(end).frozen = false;
        }
        if self.calm {
            for end in [End::Dialer, End::Listener] {
                link.pipe(end).swallows = false;
            }
        }
        for at in [End::Dialer, End::Listener] {
            self.after(0, Event::Arrive { conn, at });
        }
    }

    /// Everything in flight is lost; each end notices in its own time.
    pub(crate) fn cut(&mut self, conn: ConnId) {
        let Some(link) = self.conns.get_mut(&conn) else {
            return;
        };
        for end in [End::Dialer, End::Listener] {
            link.pipe(end).kill();
        }
        for at in [End::Dialer, End::Listener] {
            let notice = if self.chance(60) {
                self.between(0, 200_000)
            } else {
                self.between(KEEP_ALIVE_MICROS / 2, KEEP_ALIVE_MICROS)
            };
            self.after(notice, Event::KeepAlive { conn, at });
        }
    }

    /// What moves again when nothing breaks any more.
    pub(crate) fn thaw_all(&mut self) {
        let all: BTreeSet<ConnId> = self.conns.keys().copied().collect();
        for conn in all {
            self.thaw(conn);
        }
    }

    fn keep_step(&mut self, conn: ConnId, at: End) -> Checked {
        match at {
            End::Listener => self.global_keeps(conn),
            End::Dialer => self.zone_keeps(conn),
        }
    }

    fn timer(&mut self, conn: ConnId, at: End) -> Checked {
        let Some(link) = self.conns.get_mut(&conn) else {
            return Ok(());
        };
        link.may_say_more(at);
        match (link.between, at) {
            (Between::Federation { .. }, End::Listener) => self.global_timer(conn),
            (Between::Federation { zone }, End::Dialer) => self.zone_timer(conn, zone),
            (Between::Xds { zone, proxy }, End::Listener) => self.views_timer(conn, zone, proxy),
            (Between::Xds { .. }, End::Dialer) => Ok(()),
        }
    }

    /// Keeps one timer per end: `set` is when the end is called next; returns what is set now.
    pub(crate) fn arm(
        &mut self,
        conn: ConnId,
        at: End,
        set: Option<u64>,
        due: Option<Instant>,
    ) -> Result<Option<u64>, Violation> {
        let Some(due) = due.map(|due| self.time.micros_of(due)) else {
            return Ok(None);
        };
        let now = self.time.micros();
        if due <= now {
            return Err(violation(
                "progress",
                format!("connection {conn} asks to be called back at once, for ever"),
            ));
        }
        if set != Some(due) {
            self.at(due, Event::Timer { conn, at });
        }
        Ok(Some(due))
    }
}

/// The encodings of a process that has just started.
pub(crate) fn encodings() -> Arc<Encodings> {
    Arc::new(Encodings::new(Border::default()))
}
