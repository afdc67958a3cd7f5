//! The global control plane: the shells of its streams, as `global-cp` has them, around the real cores.

use std::collections::BTreeMap;
use std::sync::Arc;

use zonal_delta::wire as delta_wire;
use zonal_federation::{Features, wire};
use zonal_kds::{Direction, From, Publisher, Shelf, Subscriber, zone_record};
use zonal_model::{Key, Kind};
use zonal_mutants::mutant;
use zonal_store::{Batch, Expect, MemoryStore, Revision, Snapshot, Store};

use crate::keeper::{Keeper, Progress};
use crate::link::{Between, ConnId, End, Frame};
use crate::oracle::{Actor, Checked, Identity, Oracle, Place, violation, zone_name};
use crate::world::{Event, World, encodings};

/// What zones see, in a process that has just started.
fn shelf() -> Arc<Shelf> {
    Arc::new(Shelf::new(encodings()))
}

/// What global holds for one zone's connection.
#[derive(Debug)]
pub(crate) struct Session {
    pub(crate) zone: usize,
    publisher: Option<Publisher>,
    upward: Option<(Subscriber, Keeper)>,
    timer: Option<u64>,
    /// A newer upward stream of the same zone has come: what arrives here is old.
    superseded: bool,
    /// The zone's record, by the revision that made it, when the session looked last.
    record: Option<Revision>,
    /// Where the session looked last whether meshes have come again.
    looked: Arc<Snapshot>,
    /// The zone's end is gone; what arrived before is still being kept.
    closing: bool,
}

impl Session {
    /// Whether what the zone brought went with a mesh that is there again. While something is being kept, what is held is
    /// not what is stored; when it is answered, somebody looks again.
    fn has_lost(&mut self, snapshot: &Arc<Snapshot>) -> bool {
        let Some((subscriber, keeper)) = &self.upward else {
            return false;
        };
        if keeper.is_busy() || snapshot.same_kind(Kind::Mesh, &self.looked) {
            return false;
        }
        self.looked = Arc::clone(snapshot);
        !mutant!(MeshComesEmpty) && subscriber.has_lost(snapshot)
    }

    /// Whether something that arrived is not kept yet.
    fn keeps(&self) -> bool {
        self.upward
            .as_ref()
            .is_some_and(|(_, keeper)| keeper.is_busy())
    }
}

/// The global control plane.
#[derive(Debug)]
pub(crate) struct Global {
    pub(crate) store: MemoryStore,
    pub(crate) up: bool,
    /// Counts its starts.
    pub(crate) life: u64,
    pub(crate) sessions: BTreeMap<ConnId, Session>,
    shelf: Arc<Shelf>,
    flush_due: bool,
}

impl Global {
    pub(crate) fn new(store: MemoryStore) -> Self {
        Self {
            store,
            up: true,
            life: 0,
            sessions: BTreeMap::new(),
            shelf: shelf(),
            flush_due: false,
        }
    }
}

impl World {
    pub(crate) fn wake_global(&mut self) {
        if self.global.up && !self.global.flush_due {
            self.global.flush_due = true;
            let (life, wait) = (self.global.life, self.between(10, 2_000));
            self.after(wait, Event::GlobalFlush { life });
        }
    }

    /// Global's process ends. `tells`: the system closes its connections; else peers have to find out.
    pub(crate) fn crash_global(&mut self, tells: bool) -> Checked {
        if !self.global.up {
            return Ok(());
        }
        self.trace
            .note(self.time.micros(), format_args!("global crashes"));
        self.global.up = false;
        self.global.life += 1;
        self.global.flush_due = false;
        let conns: Vec<ConnId> = self
            .conns
            .iter()
            .filter(|(_, conn)| matches!(conn.between, Between::Federation { .. }))
            .map(|(id, _)| *id)
            .collect();
        for conn in conns {
            self.close(conn, End::Listener, tells)?;
        }
        let away = self.between(1_000, 20_000_000);
        self.after(away, Event::StartGlobal);
        Ok(())
    }

    pub(crate) fn start_global(&mut self) -> Checked {
        if !self.global.up {
            self.trace
                .note(self.time.micros(), format_args!("global starts"));
            self.global.up = true;
            self.global.shelf = shelf();
        }
        Ok(())
    }

    pub(crate) fn global_flush(&mut self) -> Checked {
        self.global.flush_due = false;
        let conns: Vec<ConnId> = self.global.sessions.keys().copied().collect();
        for conn in conns {
            let snapshot = self.global.store.snapshot();
            let seen = self
                .global
                .sessions
                .get(&conn)
                .map(|session| (session.zone, session.record));
            if let Some((zone, Some(made))) = seen
                && record(&snapshot, zone) != Some(made)
                && !mutant!(DeletedZoneGoesOn)
            {
                // The zone was deleted, and what it brought with it: on a new stream it brings it again.
                self.close(conn, End::Listener, true)?;
                continue;
            }
            if let Some(session) = self.global.sessions.get_mut(&conn)
                && session.has_lost(&snapshot)
            {
                self.close(conn, End::Listener, true)?;
                continue;
            }
            if let Some(session) = self.global.sessions.get_mut(&conn)
                && let Some(publisher) = &mut session.publisher
            {
                publisher.handle_snapshot(&snapshot);
                self.global_publishes(conn)?;
            }
        }
        Ok(())
    }

    pub(crate) fn global_receives(&mut self, conn: ConnId, zone: usize, frame: Frame) -> Checked {
        if !self.global.sessions.contains_key(&conn) {
            self.ensure_zone(zone)?;
        }
        let snapshot = self.global.store.snapshot();
        let record = record(&snapshot, zone);
        self.global.sessions.entry(conn).or_insert_with(|| Session {
            zone,
            publisher: None,
            upward: None,
            timer: None,
            superseded: false,
            record,
            looked: snapshot,
            closing: false,
        });
        match frame {
            Frame::UpOpen => self.global_opens_upward(conn, zone),
            Frame::DownRequest(message) => {
                let request = delta_wire::parse_request(*message)
                    .map_err(|error| violation("wire", error.to_string()))?;
                let (now, snapshot) = (self.now(), self.global.store.snapshot());
                let Some(session) = self.global.sessions.get_mut(&conn) else {
                    return Ok(());
                };
                let (shelf, bytes) = (&self.global.shelf, self.size.message_bytes);
                let publisher = session.publisher.get_or_insert_with(|| {
                    let direction = Direction::Down {
                        zone: zone_name(zone).into(),
                        features: Features::ALL,
                    };
                    let mut publisher =
                        Publisher::sharing(direction, Arc::clone(shelf)).cutting_after(bytes);
                    publisher.handle_snapshot(&snapshot);
                    publisher
                });
                // What the events say is for people; nothing here is decided by it.
                drop(publisher.handle_request(now, request));
                self.global_publishes(conn)?;
                self.check_reached(conn)
            }
            Frame::UpResponse(message) => {
                let response = delta_wire::parse_response(*message)
                    .map_err(|error| violation("wire", error.to_string()))?;
                if let Some(session) = self.global.sessions.get_mut(&conn)
                    && let Some((_, keeper)) = &mut session.upward
                    && !session.superseded
                {
                    keeper.receive(response);
                    bounded(keeper)?;
                }
                self.global_starts_keeping(conn)
            }
            Frame::Close => {
                if let Some(session) = self
                    .global
                    .sessions
                    .get_mut(&conn)
                    .filter(|session| session.keeps())
                {
                    session.closing = true;
                    return Ok(());
                }
                self.close(conn, End::Listener, true)
            }
            Frame::UpRequest(_) | Frame::DownResponse(_) => Ok(()),
        }
    }

    /// The zone gets a record when it first connects.
    fn ensure_zone(&mut self, zone: usize) -> Checked {
        let name = zone_name(zone);
        if self
            .global
            .store
            .snapshot()
            .get(&Key::global(Kind::Zone, &name))
            .is_none()
        {
            self.commit(
                Place::Global,
                Batch::new().put_if(zone_record(&name), Expect::Absent),
            )?;
        }
        Ok(())
    }

    fn global_opens_upward(&mut self, conn: ConnId, zone: usize) -> Checked {
        for (other, session) in &mut self.global.sessions {
            if session.zone == zone && *other != conn && !mutant!(OlderStreamGoesOn) {
                session.superseded = true;
                session.upward = None;
            }
        }
        let from = From::Zone {
            name: zone_name(zone).into(),
            prefix_names: false,
        };
        let subscriber =
            Subscriber::resuming(from, &self.global.store.snapshot(), None).giving_sums();
        if let Some(session) = self.global.sessions.get_mut(&conn) {
            session.upward = Some((subscriber, Keeper::default()));
        }
        self.global_asks(conn)
    }

    fn global_asks(&mut self, conn: ConnId) -> Checked {
        loop {
            let request = self
                .global
                .sessions
                .get_mut(&conn)
                .and_then(|session| session.upward.as_mut())
                .and_then(|(subscriber, _)| subscriber.poll_request());
            let Some(request) = request else {
                return Ok(());
            };
            let message = delta_wire::request(request, crate::zone::node("global"));
            self.send(conn, End::Dialer, Frame::UpRequest(Box::new(message)))?;
        }
    }

    fn global_starts_keeping(&mut self, conn: ConnId) -> Checked {
        let Some((subscriber, keeper)) = self
            .global
            .sessions
            .get_mut(&conn)
            .and_then(|session| session.upward.as_mut())
        else {
            return Ok(());
        };
        if let Progress::Working = keeper.start(subscriber, &self.global.store) {
            let wait = self.between(100, 20_000);
            self.after(
                wait,
                Event::Keep {
                    conn,
                    at: End::Listener,
                },
            );
        }
        if mutant!(AckBeforeKept) {
            return self.global_asks(conn);
        }
        Ok(())
    }

    pub(crate) fn global_keeps(&mut self, conn: ConnId) -> Checked {
        let old = self.global.store.snapshot();
        let Some((subscriber, keeper)) = self
            .global
            .sessions
            .get_mut(&conn)
            .and_then(|session| session.upward.as_mut())
        else {
            return Ok(());
        };
        let progress = keeper.step(subscriber, &self.global.store);
        self.committed(Place::Global, Actor::Peer, &old)?;
        match progress {
            Progress::Idle => Ok(()),
            Progress::Working => {
                let wait = self.between(10, 2_000);
                self.after(
                    wait,
                    Event::Keep {
                        conn,
                        at: End::Listener,
                    },
                );
                Ok(())
            }
            Progress::Answered => {
                self.global_asks(conn)?;
                self.global_starts_keeping(conn)?;
                self.wake_global();
                match self.global.sessions.get(&conn) {
                    Some(session) if session.closing && !session.keeps() => {
                        self.close(conn, End::Listener, true)
                    }
                    Some(_) | None => Ok(()),
                }
            }
            Progress::Starved => self.close(conn, End::Listener, true),
        }
    }

    pub(crate) fn global_timer(&mut self, conn: ConnId) -> Checked {
        let now = self.now();
        let Some(session) = self.global.sessions.get_mut(&conn) else {
            return Ok(());
        };
        session.timer = None;
        let Some(publisher) = &mut session.publisher else {
            return Ok(());
        };
        if publisher.handle_timeout(now).is_empty() || mutant!(SilenceIgnored) {
            self.global_publishes(conn)
        } else {
            // The zone does not answer: it shall connect again.
            self.close(conn, End::Listener, true)
        }
    }

    fn global_publishes(&mut self, conn: ConnId) -> Checked {
        let now = self.now();
        loop {
            let Some(publisher) = self
                .global
                .sessions
                .get_mut(&conn)
                .and_then(|session| session.publisher.as_mut())
            else {
                return Ok(());
            };
            let Some(response) = publisher.poll_response(now) else {
                break;
            };
            let message = delta_wire::response(response, wire::ENVELOPE, "global");
            self.send(conn, End::Dialer, Frame::DownResponse(Box::new(message)))?;
        }
        let (due, set) = match self.global.sessions.get(&conn) {
            Some(session) => (
                session.publisher.as_ref().and_then(Publisher::next_timeout),
                session.timer,
            ),
            None => return Ok(()),
        };
        let set = self.arm(conn, End::Listener, set, due)?;
        if let Some(session) = self.global.sessions.get_mut(&conn) {
            session.timer = set;
        }
        Ok(())
    }

    /// When global takes a zone for in step, the zone holds exactly what it should.
    fn check_reached(&mut self, conn: ConnId) -> Checked {
        let snapshot = self.global.store.snapshot();
        let Some(session) = self.global.sessions.get(&conn) else {
            return Ok(());
        };
        let reached = session.publisher.as_ref().and_then(Publisher::reached);
        if reached != Some(snapshot.revision()) {
            return Ok(());
        }
        let zone = session.zone;
        // What global holds of the zones decides here, not what they hold by now.
        let expected = Oracle::offered_down(zone, &snapshot);
        let at = &self.zones[zone];
        // What the zone had no place for has been answered, and comes later.
        let is_late = |identity: &Identity| {
            identity.origin == Place::Global
                && identity.kind == Kind::MeshTimeout
                && at.squatted.contains(&identity.name)
        };
        let store = at.store.snapshot();
        Oracle::agrees(Place::Zone(zone), &store, &expected, &is_late)
            .map_err(|lie| violation("in step means the same", lie.what))
    }
}

/// The revision that made a zone's record.
fn record(snapshot: &Snapshot, zone: usize) -> Option<Revision> {
    let record = snapshot.get(&Key::global(Kind::Zone, zone_name(zone)));
    record.map(|record| record.created)
}

pub(crate) fn bounded(keeper: &Keeper) -> Checked {
    if keeper.waiting() > Kind::COUNT {
        return Err(violation(
            "bounded by resources",
            format!("{} messages wait to be kept", keeper.waiting()),
        ));
    }
    Ok(())
}
