//! What a global of ours and the zone tell each other beside the sync streams: revisions in, receipts out.

use std::collections::BTreeMap;
use std::convert::Infallible;

use jiff::Timestamp;
use kds_proto::zonal::federation::v1::{
    Committed, GlobalFrame, Hello, Kept, ProxyReceipts, ZoneFrame, global_frame, zone_frame,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Streaming};
use tracing::{debug, info};
use zonal_federation::Features;
use zonal_store::{Epoch, Revision};

use super::connection::{ConnectionError, Link};
use super::{HeldRevision, Shared};

const STREAM: &str = "Exchange";
/// Frames that wait for the connection.
const OUTBOX: usize = 16;
/// Receipts that are told again after a reconnect.
const RECEIPTS_MAX: usize = 64;

/// What the zone's proxies answered, newest per revision.
pub(super) struct Receipts {
    incoming: mpsc::Receiver<ProxyReceipts>,
    newest: BTreeMap<(String, u64), ProxyReceipts>,
    /// The last global that was reached is one of ours.
    welcomed: bool,
}

impl Receipts {
    pub(super) fn new(incoming: mpsc::Receiver<ProxyReceipts>) -> Self {
        Self {
            incoming,
            newest: BTreeMap::new(),
            welcomed: false,
        }
    }

    /// Whether the last global that was reached is one of ours.
    pub(super) const fn welcomed(&self) -> bool {
        self.welcomed
    }

    /// Waits for the next. Dropping the future loses nothing. Never ends.
    async fn next(&mut self) -> ProxyReceipts {
        match self.incoming.recv().await {
            Some(receipts) => {
                let key = (receipts.epoch.clone(), receipts.revision);
                self.newest.insert(key, receipts.clone());
                while self.newest.len() > RECEIPTS_MAX {
                    self.newest.pop_first();
                }
                receipts
            }
            None => std::future::pending().await,
        }
    }
}

pub(super) async fn run(
    shared: &Shared,
    link: &Link,
    receipts: &mut Receipts,
) -> Result<Infallible, ConnectionError> {
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    send(&outbox, zone_frame::Frame::Hello(hello(shared))).await?;
    let call = link.request(ReceiverStream::new(outgoing));
    let opened = link.federation().exchange(call).await;
    match opened {
        Ok(response) => serve(shared, response.into_inner(), &outbox, receipts).await,
        Err(status) if status.code() == Code::Unimplemented => {
            debug!("global knows no exchange of revisions");
            receipts.welcomed = false;
            #[expect(
                clippy::infinite_loop,
                reason = "it ends with the connection, which drops it"
            )]
            loop {
                // Taken all the same, so that whoever gives them never waits.
                receipts.next().await;
            }
        }
        Err(status) => Err(ConnectionError::stream(STREAM)(status)),
    }
}

async fn serve(
    shared: &Shared,
    mut incoming: Streaming<GlobalFrame>,
    outbox: &mpsc::Sender<ZoneFrame>,
    receipts: &mut Receipts,
) -> Result<Infallible, ConnectionError> {
    loop {
        tokio::select! {
            next = receipts.next() => send(outbox, zone_frame::Frame::Receipts(next)).await?,
            frame = incoming.message() => {
                let frame = frame.map_err(ConnectionError::stream(STREAM))?;
                match frame.ok_or(ConnectionError::Ended(STREAM))?.frame {
                    Some(global_frame::Frame::Welcome(welcome)) => {
                        receipts.welcomed = true;
                        info!(epoch = welcome.epoch, revision = welcome.revision, "global says welcome");
                        let known: Vec<_> = receipts
                            .newest
                            .values()
                            .filter(|receipts| receipts.epoch == welcome.epoch)
                            .cloned()
                            .collect();
                        for receipts in known {
                            send(outbox, zone_frame::Frame::Receipts(receipts)).await?;
                        }
                    }
                    Some(global_frame::Frame::Committed(committed)) => {
                        let kept = note(shared, &committed);
                        send(outbox, zone_frame::Frame::Kept(kept)).await?;
                    }
                    // Removals travel on the sync stream; a frame of an unknown kind means nothing to us.
                    Some(global_frame::Frame::Tombstones(_)) | None => {}
                }
            }
        }
    }
}

/// Everything up to the revision that concerns the zone is in its store: global says so after our answers.
fn note(shared: &Shared, committed: &Committed) -> Kept {
    let local = shared
        .applied_up_to(committed.answered_nonce)
        .unwrap_or_else(|| shared.store.snapshot().revision());
    let at = shared.clock.wall();
    let held = HeldRevision {
        epoch: Epoch::named(&committed.epoch),
        revision: Revision(committed.revision),
        local,
        at,
    };
    shared
        .progress
        .send_modify(|progress| progress.held = Some(held));
    Kept {
        revision: committed.revision,
        epoch: committed.epoch.clone(),
        kept_at: Some(timestamp(at)),
        zone_revision: local.0,
    }
}

fn hello(shared: &Shared) -> Hello {
    let held = shared.progress.borrow().held.clone();
    Hello {
        zone: shared.settings.zone.to_string(),
        epoch_held: held
            .as_ref()
            .map(|held| held.epoch.to_string())
            .unwrap_or_default(),
        revision_held: held.map(|held| held.revision.0).unwrap_or_default(),
        features: Features::ANNOUNCED.map(str::to_owned).to_vec(),
        instance_id: shared.settings.instance_id.clone(),
        resume: Vec::new(),
        software_version: shared.settings.software_version.clone(),
    }
}

async fn send(
    outbox: &mpsc::Sender<ZoneFrame>,
    frame: zone_frame::Frame,
) -> Result<(), ConnectionError> {
    let frame = ZoneFrame { frame: Some(frame) };
    outbox
        .send(frame)
        .await
        .map_err(|_gone| ConnectionError::Ended(STREAM))
}

fn timestamp(at: Timestamp) -> kds_proto::Timestamp {
    kds_proto::Timestamp {
        seconds: at.as_second(),
        nanos: at.subsec_nanosecond(),
    }
}
