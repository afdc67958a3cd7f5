//! What global and a zone of ours tell each other beside the sync streams: revisions down, receipts up.

use std::sync::Arc;

use jiff::Timestamp;
use kds_proto::zonal::federation::v1::{
    Committed, GlobalFrame, Hello, Welcome, ZoneFrame, global_frame, zone_frame,
};
use tonic::{Status, Streaming};
use tracing::{debug, info};

use super::Shared;
use super::down::stopping;
use super::peer::Peer;
use super::service::Outbox;
use super::zones::Announced;

pub(super) async fn run(
    shared: Arc<Shared>,
    peer: Peer,
    mut incoming: Streaming<ZoneFrame>,
    outbox: Outbox<GlobalFrame>,
) {
    if let Err(status) = serve(&shared, &peer, &mut incoming, &outbox).await {
        debug!(zone = %peer.zone, reason = status.message(), "an exchange ended");
        outbox.send(Err(status)).await.ok();
    }
}

async fn serve(
    shared: &Shared,
    peer: &Peer,
    incoming: &mut Streaming<ZoneFrame>,
    outbox: &Outbox<GlobalFrame>,
) -> Result<(), Status> {
    let stop = shared.spawner.stop();
    let session = shared.zones.session(peer);
    let mut announced = session.announced();
    // What was announced before this stream opened is told too.
    announced.mark_changed();
    let mut welcome = None;
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err(stopping()),
            () = outbox.closed() => return Ok(()),
            permit = outbox.reserve(), if welcome.is_some() => {
                let (Ok(permit), Some(frame)) = (permit, welcome.take()) else { return Ok(()) };
                permit.send(Ok(GlobalFrame { frame: Some(global_frame::Frame::Welcome(frame)) }));
            }
            moved = announced.changed(), if welcome.is_none() => {
                if moved.is_err() {
                    return Ok(());
                }
                let newest = announced.borrow_and_update().clone();
                if let Some(newest) = newest {
                    let frame = global_frame::Frame::Committed(committed(newest));
                    let frame = Ok(GlobalFrame { frame: Some(frame) });
                    if outbox.send(frame).await.is_err() {
                        return Ok(());
                    }
                }
            }
            frame = incoming.message() => match frame? {
                None => return Ok(()),
                Some(frame) => {
                    if let Some(frame) = frame.frame {
                        welcome = take(shared, peer, frame).or(welcome);
                    }
                }
            },
        }
    }
}

/// Takes what the zone says; the answer to its greeting is due.
fn take(shared: &Shared, peer: &Peer, frame: zone_frame::Frame) -> Option<Welcome> {
    match frame {
        zone_frame::Frame::Hello(hello) => {
            let Hello {
                epoch_held,
                revision_held,
                instance_id,
                ..
            } = hello;
            let snapshot = shared.store.snapshot();
            let resumed = epoch_held == snapshot.epoch().as_str();
            info!(zone = %peer.zone, instance = instance_id, revision_held, resumed, "a zone says hello");
            Some(Welcome {
                epoch: snapshot.epoch().to_string(),
                revision: snapshot.revision().0,
                instance_id: shared.settings.instance_id.clone(),
                features: Vec::new(),
                resumed,
                software_version: shared.settings.software_version.clone(),
            })
        }
        // The acknowledgement on the sync stream said so already.
        zone_frame::Frame::Kept(kept) => {
            debug!(zone = %peer.zone, revision = kept.revision, "a zone keeps a revision");
            None
        }
        zone_frame::Frame::Receipts(receipts) => {
            if receipts.epoch == shared.store.snapshot().epoch().as_str() {
                shared.zones.proxies_answered(&peer.zone, receipts);
            }
            None
        }
    }
}

fn committed(announced: Announced) -> Committed {
    let Announced {
        epoch,
        revision,
        at,
        answered,
    } = announced;
    Committed {
        revision: revision.0,
        committed_at: Some(timestamp(at)),
        epoch: epoch.to_string(),
        answered_nonce: answered,
    }
}

fn timestamp(at: Timestamp) -> kds_proto::Timestamp {
    kds_proto::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}
