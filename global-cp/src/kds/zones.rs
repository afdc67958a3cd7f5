//! What is known about each zone that ever connected: its streams, its answers, how far it got.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Weak};

use jiff::Timestamp;
use kds_proto::zonal::federation::v1::ProxyReceipts;
use parking_lot::Mutex;
use tokio::sync::watch;
use zonal_process::Clock;
use zonal_store::{Epoch, Revision};

use super::insight::Insight;
use super::peer::{NodeFacts, Peer};
use super::standing::{Resync, Standing};

/// How many announced revisions are remembered per zone.
const ANNOUNCED_MAX: usize = 1024;
/// How many refusals are remembered per zone.
const REFUSALS_MAX: usize = 256;

/// The streams that a zone opens.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum StreamKind {
    GlobalToZone,
    ZoneToGlobal,
    ConfigDump,
    Stats,
    Clusters,
}

/// A revision that was told to a connection.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Announced {
    pub(super) epoch: Epoch,
    pub(super) revision: Revision,
    pub(super) at: Timestamp,
    /// The newest response that was answered by then.
    pub(super) answered: u64,
}

/// Something of a revision that a zone refused.
#[derive(Clone, Debug)]
pub(super) struct Refusal {
    pub(super) kind: String,
    pub(super) names: Vec<String>,
    pub(super) message: String,
    /// What the zone had answered for before.
    pub(super) before: Revision,
    /// The newest revision that was offered.
    pub(super) at: Revision,
}

/// How far a zone got.
#[derive(Debug, Default)]
pub(super) struct Progress {
    pub(super) streams: usize,
    pub(super) ours: bool,
    pub(super) reached: Option<Revision>,
    /// Revisions that changed something for the zone, and when it had kept each. Oldest first.
    pub(super) announced: VecDeque<(Revision, Timestamp)>,
    /// When the zone had kept everything up to a revision.
    pub(super) kept: VecDeque<(Revision, Timestamp)>,
    /// What its proxies answered, by revision.
    pub(super) receipts: BTreeMap<Revision, ProxyReceipts>,
    pub(super) refusals: VecDeque<Refusal>,
    /// When the newest downward stream began and the last one ended.
    pub(super) connected_at: Option<Timestamp>,
    pub(super) disconnected_at: Option<Timestamp>,
    /// When it last answered something new.
    pub(super) progressed_at: Option<Timestamp>,
    /// Since when something is missing, and since when nothing is.
    pub(super) behind_since: Option<Timestamp>,
    pub(super) in_sync_since: Option<Timestamp>,
    /// Bytes of the newest connection so far, and what it took until the zone was up to date.
    pub(super) bytes_down: u64,
    pub(super) bytes_up: u64,
    pub(super) resync: Option<Resync>,
}

impl Progress {
    fn note_resync(&mut self, now: Timestamp) {
        let (None, Some(connected_at)) = (self.resync, self.connected_at) else {
            return;
        };
        let millis = now.as_millisecond() - connected_at.as_millisecond();
        self.resync = Some(Resync {
            bytes_down: self.bytes_down,
            bytes_up: self.bytes_up,
            millis: u64::try_from(millis).unwrap_or(0),
        });
    }
}

#[derive(Debug, Default)]
struct Zone {
    insight: Insight,
    progress: Progress,
    sessions: BTreeMap<String, Weak<Session>>,
}

/// The streams of one connection, put together.
#[derive(Debug)]
pub(super) struct Session {
    announced: watch::Sender<Option<Announced>>,
}

impl Session {
    pub(super) fn announced(&self) -> watch::Receiver<Option<Announced>> {
        self.announced.subscribe()
    }
}

/// One open stream. When it is dropped, the stream is over.
#[derive(Debug)]
pub(super) struct Connection {
    zones: Zones,
    zone: Arc<str>,
    kind: StreamKind,
    /// Names the subscription in the insight.
    id: String,
    session: Arc<Session>,
}

impl Drop for Connection {
    fn drop(&mut self) {
        self.zones.disconnect(self);
    }
}

/// What is known about each zone, shared by all streams.
#[derive(Clone, Debug)]
pub(super) struct Zones {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    clock: Arc<dyn Clock>,
    instance_id: String,
    subscriptions_max: usize,
    zones: Mutex<BTreeMap<Arc<str>, Zone>>,
    /// Moves when a receipt may have changed.
    receipts: watch::Sender<u64>,
    /// Moves when an insight is to be written.
    insights: watch::Sender<u64>,
}

impl Zones {
    pub(super) fn new(
        instance_id: String,
        subscriptions_max: usize,
        clock: Arc<dyn Clock>,
    ) -> Self {
        let inner = Inner {
            clock,
            instance_id,
            subscriptions_max,
            zones: Mutex::default(),
            receipts: watch::Sender::new(0),
            insights: watch::Sender::new(0),
        };
        Self {
            inner: Arc::new(inner),
        }
    }

    pub(super) fn receipts_changed(&self) -> watch::Receiver<u64> {
        self.inner.receipts.subscribe()
    }

    pub(super) fn insights_changed(&self) -> watch::Receiver<u64> {
        self.inner.insights.subscribe()
    }

    /// A zone was deleted: nothing is known about it any more, its open streams included. `is_gone` is asked while no
    /// stream can come: a zone that was made again meanwhile stays.
    pub(super) fn forget_if(&self, zone: &str, is_gone: impl FnOnce() -> bool) -> bool {
        let mut zones = self.inner.zones.lock();
        let gone = is_gone();
        if gone {
            zones.remove(zone);
        }
        drop(zones);
        self.wake();
        gone
    }

    /// A stream is open.
    pub(super) fn connect(&self, peer: &Peer, kind: StreamKind, facts: &NodeFacts) -> Connection {
        let now = self.inner.clock.wall();
        let id = uuid::Uuid::new_v4().to_string();
        let session = self.session(peer);
        let mut zones = self.inner.zones.lock();
        zones.entry(Arc::clone(&peer.zone)).or_default();
        drop(zones);
        self.change(&peer.zone, |zone| {
            let instance = &self.inner.instance_id;
            zone.insight.stream_opened(kind, instance, now);
            if kind == StreamKind::GlobalToZone {
                zone.progress.streams += 1;
                zone.progress.ours = facts.features.ours;
                zone.progress.reached = None;
                zone.progress.connected_at = Some(now);
                zone.progress.progressed_at = Some(now);
                zone.progress.behind_since = Some(now);
                zone.progress.in_sync_since = None;
                zone.progress.bytes_down = 0;
                zone.progress.bytes_up = 0;
                zone.progress.resync = None;
                let max = self.inner.subscriptions_max;
                zone.insight
                    .connected(&id, instance, facts, peer.token_given, now, max);
            }
        });
        self.wake();
        Connection {
            zones: self.clone(),
            zone: Arc::clone(&peer.zone),
            kind,
            id,
            session,
        }
    }

    fn disconnect(&self, connection: &Connection) {
        if connection.kind != StreamKind::GlobalToZone {
            return;
        }
        self.change(&connection.zone, |zone| {
            zone.progress.streams = zone.progress.streams.saturating_sub(1);
            zone.progress.disconnected_at = Some(self.inner.clock.wall());
            zone.insight
                .disconnected(&connection.id, self.inner.clock.wall());
        });
        self.wake();
    }

    /// The streams that belong to the caller's connection.
    pub(super) fn session(&self, peer: &Peer) -> Arc<Session> {
        let fresh = || {
            Arc::new(Session {
                announced: watch::Sender::new(None),
            })
        };
        let Some(name) = &peer.session else {
            return fresh();
        };
        let mut zones = self.inner.zones.lock();
        let zone = zones.entry(Arc::clone(&peer.zone)).or_default();
        zone.sessions
            .retain(|_, session| session.strong_count() > 0);
        if let Some(session) = zone.sessions.get(name).and_then(Weak::upgrade) {
            return session;
        }
        let session = fresh();
        zone.sessions.insert(name.clone(), Arc::downgrade(&session));
        session
    }

    pub(super) fn healthy(&self, zone: &Arc<str>) {
        let now = self.inner.clock.wall();
        let mut zones = self.inner.zones.lock();
        zones
            .entry(Arc::clone(zone))
            .or_default()
            .insight
            .healthy(now);
        drop(zones);
        self.wake();
    }

    pub(super) fn sent(&self, connection: &Connection, kind: &str, bytes: usize) {
        self.change(&connection.zone, |zone| {
            zone.progress.bytes_down += bytes as u64;
            zone.insight
                .count(&connection.id, kind, |stats| stats.sent += 1);
        });
    }

    /// The zone sent a message of this size.
    pub(super) fn received(&self, connection: &Connection, bytes: usize) {
        self.change(&connection.zone, |zone| {
            zone.progress.bytes_up += bytes as u64;
        });
    }

    /// The store has moved on: something may be missing at the zone now.
    pub(super) fn moved_on(&self, connection: &Connection, newest: Revision) {
        let now = self.inner.clock.wall();
        self.change(&connection.zone, |zone| {
            if zone.progress.reached < Some(newest) {
                zone.progress.behind_since.get_or_insert(now);
                zone.progress.in_sync_since = None;
            }
        });
    }

    pub(super) fn acked(&self, connection: &Connection, kind: &str) {
        self.change(&connection.zone, |zone| {
            zone.insight
                .count(&connection.id, kind, |stats| stats.acked += 1);
        });
        self.inner.insights.send_modify(|_| {});
    }

    pub(super) fn nacked(&self, connection: &Connection, refusal: Refusal) {
        self.change(&connection.zone, |zone| {
            zone.insight
                .count(&connection.id, &refusal.kind, |stats| stats.rejected += 1);
            let refusals = &mut zone.progress.refusals;
            refusals.push_back(refusal);
            if refusals.len() > REFUSALS_MAX {
                refusals.pop_front();
            }
        });
        self.inner.insights.send_modify(|_| {});
        self.inner.receipts.send_modify(|count| *count += 1);
    }

    /// The zone has answered for everything up to a revision. `announce`: something of it concerned the zone, with the
    /// newest response answered by then.
    pub(super) fn reached(
        &self,
        connection: &Connection,
        epoch: &Epoch,
        revision: Revision,
        newest: Revision,
        announce: Option<u64>,
    ) {
        let now = self.inner.clock.wall();
        let mut moved = announce.is_some();
        self.change(&connection.zone, |zone| {
            let progress = &mut zone.progress;
            if progress.reached < Some(revision) {
                progress.reached = Some(revision);
                progress.progressed_at = Some(now);
                if revision >= newest {
                    progress.behind_since = None;
                    progress.in_sync_since.get_or_insert(now);
                    progress.note_resync(now);
                }
                push(&mut progress.kept, (revision, now));
                moved = true;
            }
            if announce.is_some() {
                push(&mut progress.announced, (revision, now));
            }
        });
        if let Some(answered) = announce {
            let announced = Announced {
                epoch: epoch.clone(),
                revision,
                at: now,
                answered,
            };
            connection.session.announced.send_replace(Some(announced));
        }
        if moved {
            self.inner.receipts.send_modify(|count| *count += 1);
        }
    }

    pub(super) fn proxies_answered(&self, zone: &Arc<str>, receipts: ProxyReceipts) {
        self.change(zone, |zone| {
            let kept = &mut zone.progress.receipts;
            kept.insert(Revision(receipts.revision), receipts);
            while kept.len() > ANNOUNCED_MAX {
                kept.pop_first();
            }
        });
        self.inner.receipts.send_modify(|count| *count += 1);
    }

    /// Where each zone that ever connected stands, when the store is at `newest`.
    pub(super) fn standing(&self, zone: &str, newest: Revision) -> Standing {
        let now = self.inner.clock.wall();
        self.with_progress(zone, |progress| Standing::of(progress, newest, now))
            .unwrap_or(Standing::unknown(newest))
    }

    /// Reads a zone's progress; `None` for one that never connected.
    pub(super) fn with_progress<T>(
        &self,
        zone: &str,
        read: impl FnOnce(&Progress) -> T,
    ) -> Option<T> {
        self.inner
            .zones
            .lock()
            .get(zone)
            .map(|zone| read(&zone.progress))
    }

    /// The insights that are to be written now: those of streams that came or went, and on request those whose
    /// counters moved.
    pub(super) fn take_insights(&self, counters_too: bool) -> Vec<(Arc<str>, Insight)> {
        let mut zones = self.inner.zones.lock();
        zones
            .iter_mut()
            .filter_map(|(name, zone)| {
                let due = zone.insight.take_due(counters_too);
                due.then(|| (Arc::clone(name), zone.insight.clone()))
            })
            .collect()
    }

    /// Puts an insight that could not be written back on the list.
    pub(super) fn insight_failed(&self, zone: &Arc<str>) {
        self.change(zone, |zone| zone.insight.mark_due());
    }

    /// Nothing happens to a zone that was forgotten: its last streams end by themselves.
    fn change(&self, zone: &str, change: impl FnOnce(&mut Zone)) {
        if let Some(zone) = self.inner.zones.lock().get_mut(zone) {
            change(zone);
        }
    }

    fn wake(&self) {
        self.inner.insights.send_modify(|count| *count += 1);
        self.inner.receipts.send_modify(|count| *count += 1);
    }
}

fn push<T>(list: &mut VecDeque<T>, item: T) {
    list.push_back(item);
    if list.len() > ANNOUNCED_MAX {
        list.pop_front();
    }
}
