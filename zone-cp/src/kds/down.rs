//! The downward stream: what global offers is kept here.

use std::convert::Infallible;

use kds_proto::envoy::service::discovery::v3::DeltaDiscoveryRequest;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tracing::{debug, info, warn};
use zonal_delta::wire as delta_wire;
use zonal_kds::{Kept, Subscriber, keep};

use super::connection::{ConnectionError, Link, node};
use super::{Shared, insight};

const STREAM: &str = "GlobalToZoneSync";
/// Two per kind: a first message and an answer. Then a slow connection never stops us from receiving.
const OUTBOX: usize = 128;

pub(super) async fn run(
    shared: &Shared,
    link: &Link,
    subscriber: &mut Subscriber,
    ours: bool,
) -> Result<Infallible, ConnectionError> {
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    let ended = || ConnectionError::Ended(STREAM);
    // The first messages are on their way before the call is awaited: global says nothing before it is asked.
    // A global of ours reads who we are once.
    let mut introduced = false;
    while let Some(request) = subscriber.poll_request() {
        let message = delta_wire::request(request, node(shared, !introduced || !ours));
        introduced = true;
        outbox.send(message).await.map_err(|_gone| ended())?;
    }
    shared.forget_applied();
    let call = link.request(ReceiverStream::new(outgoing));
    let mut incoming = link
        .sync()
        .global_to_zone_sync(call)
        .await
        .map_err(ConnectionError::stream(STREAM))?
        .into_inner();
    shared.progress.send_modify(|progress| {
        progress.connected = true;
        progress.away_since = None;
        progress.refused = None;
    });
    info!(global = %shared.settings.global, "connected with the global control plane");
    insight::connected(shared).await;
    let mut live = false;
    loop {
        let message = incoming
            .message()
            .await
            .map_err(ConnectionError::stream(STREAM))?;
        let message = message.ok_or_else(ended)?;
        let response =
            delta_wire::parse_response(message).map_err(|error| ConnectionError::Invalid {
                stream: STREAM,
                problem: error.to_string(),
            })?;
        let kind = response.type_url.clone();
        let nonce = response.nonce.clone();
        let Some(pending) = subscriber.handle_response(response) else {
            warn!(%kind, "global sent a kind that was not asked for");
            continue;
        };
        let Kept {
            refused,
            puts,
            removes,
            ..
        } = keep(subscriber, &pending, &*shared.store).await?;
        shared.note_applied(&nonce);
        debug!(%kind, puts, removes, "kept what global sent");
        for refusal in &refused {
            warn!(%kind, name = refusal.name, reason = refusal.reason, "refused a resource of global");
        }
        flush(shared, subscriber, &outbox).await.ok_or_else(ended)?;
        if !live && subscriber.is_live() {
            live = true;
            info!("in step with the global control plane");
        }
    }
}

/// Writes what is due. `None` when the stream is gone.
async fn flush(
    shared: &Shared,
    subscriber: &mut Subscriber,
    outbox: &mpsc::Sender<DeltaDiscoveryRequest>,
) -> Option<()> {
    while let Some(request) = subscriber.poll_request() {
        let message = delta_wire::request(request, node(shared, false));
        outbox.send(message).await.ok()?;
    }
    Some(())
}
