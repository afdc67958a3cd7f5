//! The upward stream: the zone's inventory is offered to global.

use std::convert::Infallible;
use std::sync::Arc;

use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use serde_json::Value;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, warn};
use zonal_delta::{Event, wire as delta_wire};
use zonal_federation::{Features, wire};
use zonal_kds::{Direction, Publisher};
use zonal_store::Watch;

use super::Shared;
use super::connection::{ConnectionError, Link};

const STREAM: &str = "ZoneToGlobalSync";
/// Messages that wait for the connection. Small: what is not sent yet is better made later, newer.
const OUTBOX: usize = 4;

pub(super) async fn run(shared: &Shared, link: &Link) -> Result<Infallible, ConnectionError> {
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let call = link.request(ReceiverStream::new(outgoing));
    let mut incoming = link
        .sync()
        .zone_to_global_sync(call)
        .await
        .map_err(ConnectionError::stream(STREAM))?
        .into_inner();
    // Nothing is offered before global has said what it can do.
    let first = incoming
        .message()
        .await
        .map_err(ConnectionError::stream(STREAM))?;
    let first = first.ok_or(ConnectionError::Ended(STREAM))?;
    let zone: Arc<str> = shared.settings.zone.to_shared();
    let direction = Direction::Up {
        zone,
        features: features(&first),
    };
    let mut session = Session {
        shared,
        publisher: Publisher::new(direction, Arc::clone(&shared.encodings)),
        watch: shared.store.watch(),
    };
    session.handle_snapshot();
    session.handle_request(first)?;
    let mut waiting = None;
    loop {
        let now = shared.clock.now();
        if waiting.is_none() {
            waiting = session.publisher.poll_response(now);
        }
        tokio::select! {
            permit = outbox.reserve(), if waiting.is_some() => {
                let (Ok(permit), Some(response)) = (permit, waiting.take()) else {
                    return Err(ConnectionError::Ended(STREAM));
                };
                permit.send(message(shared, response));
            }
            message = incoming.message() => {
                let message = message.map_err(ConnectionError::stream(STREAM))?;
                session.handle_request(message.ok_or(ConnectionError::Ended(STREAM))?)?;
            }
            changes = session.watch.next() => {
                changes.map_err(|_closed| ConnectionError::Closed)?;
                session.handle_snapshot();
            }
            () = shared.clock.sleep_until(session.publisher.next_timeout()) => {
                session.handle_timeout()?;
            }
        }
    }
}

fn message(shared: &Shared, response: zonal_delta::Response) -> DeltaDiscoveryResponse {
    delta_wire::response(response, wire::ENVELOPE, &shared.settings.zone)
}

struct Session<'a> {
    shared: &'a Shared,
    publisher: Publisher,
    watch: Watch,
}

impl Session<'_> {
    fn handle_snapshot(&mut self) {
        let snapshot = Arc::clone(self.watch.seen());
        self.publisher.handle_snapshot(&snapshot);
        for problem in self.publisher.take_problems() {
            warn!(key = %problem.key, error = %problem.cause, "a resource is withheld from global");
        }
    }

    fn handle_request(&mut self, message: DeltaDiscoveryRequest) -> Result<(), ConnectionError> {
        let request =
            delta_wire::parse_request(message).map_err(|error| ConnectionError::Invalid {
                stream: STREAM,
                problem: error.to_string(),
            })?;
        for event in self
            .publisher
            .handle_request(self.shared.clock.now(), request)
        {
            match event {
                Event::Nacked {
                    type_url,
                    names,
                    message,
                    ..
                } => {
                    warn!(kind = %type_url, ?names, reason = message, "global refused resources");
                }
                Event::Requested { type_url } => debug!(kind = %type_url, "global subscribed"),
                Event::Acked { .. } | Event::Resubscribed { .. } | Event::Stalled { .. } => {}
            }
        }
        Ok(())
    }

    fn handle_timeout(&mut self) -> Result<(), ConnectionError> {
        match self
            .publisher
            .handle_timeout(self.shared.clock.now())
            .first()
        {
            Some(Event::Stalled { type_url, .. }) => Err(ConnectionError::Stalled {
                stream: STREAM,
                kind: type_url.to_string(),
            }),
            _ => Ok(()),
        }
    }
}

/// What global says it can do, in the node of its first message.
fn features(first: &DeltaDiscoveryRequest) -> Features {
    let metadata = first
        .node
        .as_ref()
        .and_then(|node| node.metadata.as_ref())
        .and_then(|metadata| serde_json::to_value(metadata).ok())
        .unwrap_or_default();
    let list = metadata.get("features").and_then(Value::as_array);
    Features::parse(list.into_iter().flatten().filter_map(Value::as_str))
}
