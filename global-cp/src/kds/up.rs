//! One zone's upward stream: what it brings is kept here.

use std::sync::Arc;

use kds_proto::envoy::config::core::v3::Node;
use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use tonic::{Status, Streaming};
use tracing::{debug, info, warn};
use zonal_delta::wire as delta_wire;
use zonal_federation::Features;
use zonal_kds::{From, Kept, Pending, Subscriber, keep};
use zonal_model::Kind;

use super::down::stopping;
use super::peer::{NodeFacts, Peer};
use super::service::{Outbox, Record, ensure_zone};
use super::zones::StreamKind;
use super::{Settings, Shared};

pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    mut incoming: Streaming<DeltaDiscoveryResponse>,
    outbox: Outbox<DeltaDiscoveryRequest>,
) {
    let ended = match ensure_zone(&shared, &peer.zone).await {
        Ok(record) => serve(&shared, &peer, record, &mut incoming, &outbox).await,
        Err(status) => Err(status),
    };
    // Never an orderly end: a zone of Kuma takes that for "nothing more to sync" and falls silent.
    let status = ended
        .err()
        .unwrap_or_else(|| Status::unavailable("the stream ended; connect again"));
    info!(zone = %peer.zone, reason = status.message(), "an upward stream ended");
    outbox.send(Err(status)).await.ok();
}

async fn serve(
    shared: &Shared,
    peer: &Peer,
    record: Record,
    incoming: &mut Streaming<DeltaDiscoveryResponse>,
    outbox: &Outbox<DeltaDiscoveryRequest>,
) -> Result<(), Status> {
    let stop = shared.spawner.stop();
    let turn = tokio::select! {
        () = stop.cancelled() => return Err(stopping()),
        turn = shared.turns.take(&peer.zone) => turn,
    };
    let facts = NodeFacts::default();
    let _connection = shared.zones.connect(peer, StreamKind::ZoneToGlobal, &facts);
    let from = From::Zone {
        name: Arc::clone(&peer.zone),
        prefix_names: !peer.hashes_names,
    };
    // A zone of Kuma is asked for everything: its publisher may hold nothing yet and would call that complete.
    let mut subscriber = if peer.ours {
        Subscriber::resuming(from, &shared.store.snapshot(), None).giving_sums()
    } else {
        Subscriber::new(from)
    };
    let mut waiting = None;
    let mut introduced = false;
    let mut watch = shared.store.watch();
    record.check(watch.seen(), &peer.zone)?;
    loop {
        if waiting.is_none() {
            waiting = subscriber.poll_request();
        }
        tokio::select! {
            () = stop.cancelled() => return Err(stopping()),
            () = outbox.closed() => return Ok(()),
            () = turn.superseded.cancelled() => {
                return Err(Status::aborted("a newer connection of the zone has taken over"));
            }
            permit = outbox.reserve(), if waiting.is_some() => {
                let (Ok(permit), Some(request)) = (permit, waiting.take()) else { return Ok(()) };
                // A zone of ours reads who we are once.
                let full = request.answer.is_none() && (!introduced || !peer.ours);
                introduced = true;
                permit.send(Ok(delta_wire::request(request, node(&shared.settings, &peer.zone, full))));
            }
            changes = watch.next() => {
                let changes = changes.map_err(|_closed| stopping())?;
                record.check(&changes.to, &peer.zone)?;
                let meshes_changed = !changes.to.same_kind(Kind::Mesh, &changes.from);
                if meshes_changed && subscriber.has_lost(&changes.to) {
                    return Err(Status::unavailable("a mesh was made again; connect again"));
                }
            }
            message = incoming.message() => {
                let Some(message) = message? else { return Ok(()) };
                take(shared, peer, &mut subscriber, message).await?;
            }
        }
    }
}

/// Keeps what one message brings. What it brings that cannot be kept is refused by name and harms nothing else.
async fn take(
    shared: &Shared,
    peer: &Peer,
    subscriber: &mut Subscriber,
    message: DeltaDiscoveryResponse,
) -> Result<(), Status> {
    let response = delta_wire::parse_response(message)
        .map_err(|error| Status::invalid_argument(error.to_string()))?;
    let Some(pending) = subscriber.handle_response(response) else {
        return Ok(());
    };
    match keep(subscriber, &pending, &*shared.store).await {
        Ok(kept) => {
            report(shared, peer, &pending, &kept);
            Ok(())
        }
        Err(error) => {
            warn!(zone = %peer.zone, kind = %pending.kind, %error, "cannot keep what a zone brought");
            Err(Status::unavailable(
                "the store cannot write now; connect again",
            ))
        }
    }
}

fn report(shared: &Shared, peer: &Peer, pending: &Pending, kept: &Kept) {
    let Kept {
        refused,
        puts,
        removes,
        rewritten,
    } = kept;
    debug!(zone = %peer.zone, kind = %pending.kind, puts, removes, "kept what a zone brought");
    for refusal in refused {
        warn!(
            zone = %peer.zone, kind = %pending.kind, name = refusal.name, reason = refusal.reason,
            "refused a resource of a zone"
        );
    }
    shared
        .metrics
        .refused(&peer.zone, pending.kind, refused.len());
    shared.metrics.rewritten(*rewritten);
}

/// How global names itself. The id is the zone's: both directions of the protocol go by it.
fn node(settings: &Settings, zone: &str, full: bool) -> Node {
    let metadata = full.then(|| {
        let version = &settings.software_version;
        serde_json::json!({
            "version": {"kumaCp": {
                "version": version, "gitTag": version, "gitCommit": "", "buildDate": "",
            }},
            "config": "",
            "control-plane-id": settings.instance_id,
            "features": Features::ANNOUNCED,
        })
    });
    Node {
        id: zone.to_owned(),
        // A struct made of our own literal always reads back.
        metadata: metadata.and_then(|metadata| serde_json::from_value(metadata).ok()),
        ..Node::default()
    }
}
