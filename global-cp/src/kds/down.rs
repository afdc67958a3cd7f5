//! One zone's downward stream: what global offers it.

use std::sync::Arc;

use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use prost::Message as _;
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use zonal_delta::{Event, Nonce, wire as delta_wire};
use zonal_federation::wire;
use zonal_kds::{Direction, Publisher};
use zonal_store::{Revision, Watch};

use super::Shared;
use super::peer::{NodeFacts, Peer};
use super::service::{Outbox, Record, ensure_zone};
use super::zones::{Connection, Refusal, StreamKind};

/// What global calls itself on these streams.
const IDENTIFIER: &str = "global";

pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    mut incoming: Streaming<DeltaDiscoveryRequest>,
    outbox: Outbox<DeltaDiscoveryResponse>,
) {
    let ended = match ensure_zone(&shared, &peer.zone).await {
        Ok(record) => serve(&shared, &peer, record, &mut incoming, &outbox).await,
        Err(status) => Err(status),
    };
    if let Err(status) = ended {
        info!(zone = %peer.zone, reason = status.message(), "a downward stream ended");
        // A peer that is gone cannot be told.
        outbox.send(Err(status)).await.ok();
    }
}

async fn serve(
    shared: &Shared,
    peer: &Peer,
    record: Record,
    incoming: &mut Streaming<DeltaDiscoveryRequest>,
    outbox: &Outbox<DeltaDiscoveryResponse>,
) -> Result<(), Status> {
    let stop = shared.spawner.stop();
    // Nothing is offered before the zone has said what it can do.
    let first = tokio::select! {
        () = stop.cancelled() => return Err(stopping()),
        message = incoming.message() => match message? {
            Some(first) => first,
            None => return Ok(()),
        },
    };
    let facts = NodeFacts::of(first.node.as_ref());
    let watch = shared.store.watch();
    record.check(watch.seen(), &peer.zone)?;
    let connection = shared.zones.connect(peer, StreamKind::GlobalToZone, &facts);
    info!(zone = %peer.zone, instance = facts.instance_id, "a zone connected");
    let direction = Direction::Down {
        zone: Arc::clone(&peer.zone),
        features: facts.features,
    };
    let mut session = Session {
        shared,
        peer,
        record,
        connection,
        publisher: Publisher::sharing(direction, Arc::clone(&shared.shelf)),
        watch,
        untold: Untold::default(),
        answered: 0,
    };
    session.handle_snapshot();
    // What the zone asks for first is news to this connection, whatever it is.
    session.untold.changed(session.watch.seen().revision());
    session.handle_request(first)?;
    shared.metrics.connected(&peer.zone);
    let ended = session.drive(incoming, outbox).await;
    shared.metrics.disconnected(&peer.zone);
    ended
}

struct Session<'a> {
    shared: &'a Shared,
    peer: &'a Peer,
    record: Record,
    /// Dropped with the session, which is what makes the zone offline.
    connection: Connection,
    publisher: Publisher,
    watch: Watch,
    untold: Untold,
    /// The newest response that the zone has answered.
    answered: u64,
}

impl Session<'_> {
    async fn drive(
        &mut self,
        incoming: &mut Streaming<DeltaDiscoveryRequest>,
        outbox: &Outbox<DeltaDiscoveryResponse>,
    ) -> Result<(), Status> {
        let stop = self.shared.spawner.stop();
        let mut waiting = None;
        loop {
            let now = self.shared.clock.now();
            if waiting.is_none() {
                waiting = self.publisher.poll_response(now);
            }
            self.note_progress();
            tokio::select! {
                () = stop.cancelled() => return Err(stopping()),
                () = outbox.closed() => return Ok(()),
                permit = outbox.reserve(), if waiting.is_some() => {
                    let (Ok(permit), Some(response)) = (permit, waiting.take()) else { return Ok(()) };
                    let message = delta_wire::response(response, wire::ENVELOPE, IDENTIFIER);
                    let bytes = message.encoded_len();
                    self.shared.zones.sent(&self.connection, &message.type_url, bytes);
                    self.shared.metrics.sent(&self.peer.zone);
                    permit.send(Ok(message));
                }
                message = incoming.message() => match message? {
                    Some(request) => self.handle_request(request)?,
                    None => return Ok(()),
                },
                changes = self.watch.next() => {
                    let changes = changes.map_err(|_closed| stopping())?;
                    self.record.check(&changes.to, &self.peer.zone)?;
                    self.handle_snapshot();
                }
                () = self.shared.clock.sleep_until(self.publisher.next_timeout()) => {
                    self.handle_timeout()?;
                }
            }
        }
    }

    fn handle_snapshot(&mut self) {
        let snapshot = Arc::clone(self.watch.seen());
        self.shared
            .zones
            .moved_on(&self.connection, snapshot.revision());
        if self.publisher.handle_snapshot(&snapshot) {
            self.untold.changed(snapshot.revision());
        }
        for problem in self.publisher.take_problems() {
            warn!(zone = %self.peer.zone, key = %problem.key, error = %problem.cause, "a resource is withheld");
        }
    }

    fn handle_request(&mut self, message: DeltaDiscoveryRequest) -> Result<(), Status> {
        self.shared
            .zones
            .received(&self.connection, message.encoded_len());
        let request = delta_wire::parse_request(message)
            .map_err(|error| Status::invalid_argument(error.to_string()))?;
        let at = self.watch.seen().revision();
        let before = self.publisher.reached().unwrap_or_default();
        for event in self
            .publisher
            .handle_request(self.shared.clock.now(), request)
        {
            match event {
                Event::Acked { type_url, nonce } => {
                    self.note_answer(&nonce);
                    self.shared.zones.acked(&self.connection, type_url.as_str());
                }
                Event::Nacked {
                    type_url,
                    names,
                    message,
                    nonce,
                    ..
                } => {
                    self.note_answer(&nonce);
                    warn!(zone = %self.peer.zone, kind = %type_url, ?names, reason = message, "a zone refused resources");
                    self.shared
                        .metrics
                        .nacked(&self.peer.zone, type_url.as_str());
                    let names = names.iter().map(ToString::to_string).collect();
                    let kind = type_url.as_str().to_owned();
                    let refusal = Refusal {
                        kind,
                        names,
                        message,
                        before,
                        at,
                    };
                    self.shared.zones.nacked(&self.connection, refusal);
                }
                Event::Requested { type_url } | Event::Resubscribed { type_url } => {
                    debug!(zone = %self.peer.zone, kind = %type_url, "a zone subscribed");
                }
                Event::Stalled { .. } => {}
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self) -> Result<(), Status> {
        let stalled = self.publisher.handle_timeout(self.shared.clock.now());
        match stalled.first() {
            Some(Event::Stalled { type_url, .. }) => Err(Status::unavailable(format!(
                "the zone has not answered for {type_url}; connect again"
            ))),
            _ => Ok(()),
        }
    }

    fn note_answer(&mut self, nonce: &Nonce) {
        // Our own nonces, which are numbers.
        let number = nonce.as_str().parse().unwrap_or(0);
        self.answered = self.answered.max(number);
    }

    /// Tells what the zone has answered for. Revisions that change nothing for it pass in silence.
    fn note_progress(&mut self) {
        let Some(reached) = self.publisher.reached() else {
            return;
        };
        let seen = self.watch.seen();
        let announce = self.untold.tell(reached);
        let epoch = seen.epoch().clone();
        self.shared.zones.reached(
            &self.connection,
            &epoch,
            reached,
            seen.revision(),
            announce.then_some(self.answered),
        );
    }
}

/// The revisions that changed something for a zone and were not told to it yet: from the first to the last.
///
/// A revision is told as soon as the zone has answered for it, however many follow: otherwise it would seem for that long
/// that it does not concern the zone.
#[derive(Debug, Default)]
struct Untold(Option<(Revision, Revision)>);

impl Untold {
    fn changed(&mut self, at: Revision) {
        let first = self.0.map_or(at, |(first, _)| first);
        self.0 = Some((first, at));
    }

    /// The zone has answered for everything up to `reached`: whether that is to be told.
    fn tell(&mut self, reached: Revision) -> bool {
        let Some((first, last)) = self.0 else {
            return false;
        };
        if reached < first {
            return false;
        }
        self.0 = (reached < last).then_some((Revision(reached.0 + 1), last));
        true
    }
}

pub(super) fn stopping() -> Status {
    Status::unavailable("the global control plane is stopping; connect again")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_is_told_when_answered_though_others_follow() {
        let mut untold = Untold::default();
        assert!(!untold.tell(Revision(5)));
        untold.changed(Revision(6));
        untold.changed(Revision(8));
        assert!(!untold.tell(Revision(5)));
        assert!(untold.tell(Revision(6)));
        assert!(!untold.tell(Revision(6)));
        assert!(untold.tell(Revision(8)));
        assert!(!untold.tell(Revision(9)));
    }
}
