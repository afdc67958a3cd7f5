//! The zone's end of the connection with global.
//!
//! ```text
//!       ┌ down: Subscriber ─▶ store              ┐
//! dial ─┤ up:   Publisher ◀─ store               ├─ one connection; it ends when a sync stream ends, then dials again
//!       │ health, admin questions                │
//!       └ exchange: revisions in, receipts out   ┘
//! ```
//!
//! Start at [`run`]. Works with a global of Kuma as with ours: what only ours knows is answered `UNIMPLEMENTED` there,
//! and then does not happen.

mod admin;
mod connection;
mod dial;
mod down;
mod exchange;
mod health;
mod insight;
mod up;

use std::collections::VecDeque;
use std::fmt;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use jiff::Timestamp;
use tokio::sync::{mpsc, watch};
use tracing::{info, warn};
use zonal_delta::Nonce;
use zonal_federation::{Border, Encodings};
use zonal_model::ZoneName;
use zonal_process::tls::{ClientCertificate, Trust};
use zonal_process::{Backoff, BackoffPolicy, CancellationToken, Clock};
use zonal_store::{Epoch, Revision, Store};

pub use admin::{AdminQuestion, AdminTarget, EnvoyAdmin, NoEnvoyAdmin};
pub use connection::ConnectionError;
pub use dial::{AddressError, GlobalAddress};
pub use kds_proto::zonal::federation::v1::{Nack, ProxyReceipts};

use connection::Connection;

/// How the zone speaks with global.
#[derive(Clone)]
pub struct Settings {
    /// The zone.
    pub zone: ZoneName,
    /// Where global is.
    pub global: GlobalAddress,
    /// Whom to believe that it is global; of no use without TLS.
    pub trust: Trust,
    /// Gives the zone token anew for each connection, so that a replaced token file is picked up.
    pub token: Option<Arc<dyn Fn() -> Option<String> + Send + Sync>>,
    /// Gives the zone's certificate anew for each connection, so that a renewed one is shown.
    pub certificate: Option<Arc<dyn Fn() -> Option<ClientCertificate> + Send + Sync>>,
    /// The replica, as global and people see it.
    pub instance_id: String,
    /// Version of the software.
    pub software_version: String,
    /// The control plane's configuration as JSON text, secrets blanked. Global's people see it; `store.type` must be
    /// in it for a global of Kuma.
    pub config: String,
    /// What crosses.
    pub border: Border,
    /// How long to wait before dialling again.
    pub retry: BackoffPolicy,
    /// How often to report health when global does not say.
    pub health_interval: Duration,
}

impl Settings {
    /// The usual manner for a zone.
    #[must_use]
    pub fn new(zone: ZoneName, global: GlobalAddress, trust: Trust) -> Self {
        Self {
            zone,
            global,
            trust,
            token: None,
            certificate: None,
            instance_id: "zone".to_owned(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            config: r#"{"environment":"universal","mode":"zone","store":{"type":"memory"}}"#
                .to_owned(),
            border: Border::default(),
            retry: BackoffPolicy::default(),
            health_interval: Duration::from_secs(300),
        }
    }
}

impl fmt::Debug for Settings {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Settings")
            .field("zone", &self.zone)
            .field("global", &self.global)
            .field("instance_id", &self.instance_id)
            .finish_non_exhaustive()
    }
}

/// How far the zone's store has followed global's.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct GlobalProgress {
    /// The downward stream is open.
    pub connected: bool,
    /// The newest revision of global whose changes for this zone are all kept.
    pub held: Option<HeldRevision>,
    /// When the connection was last lost, while it is.
    pub away_since: Option<Timestamp>,
    /// Why global does not let the zone in, in its own words, while it does not.
    pub refused: Option<String>,
}

/// A revision of global that is kept here.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldRevision {
    /// Which life of global's store counts it.
    pub epoch: Epoch,
    /// Global's revision.
    pub revision: Revision,
    /// The zone's own revision that has all of it.
    pub local: Revision,
    /// When it was kept.
    pub at: Timestamp,
}

/// What the connection exchanges with the rest of the zone's control plane.
pub struct Io {
    /// What the zone's proxies answered to global's revisions. For each revision the newest counts; they are told again
    /// after a reconnect.
    pub receipts: mpsc::Receiver<ProxyReceipts>,
    /// Told how far the zone has followed global.
    pub progress: watch::Sender<GlobalProgress>,
    /// Answers global's questions about proxies.
    pub admin: Arc<dyn EnvoyAdmin>,
}

impl fmt::Debug for Io {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Io")
    }
}

/// What every stream of a connection uses.
struct Shared {
    settings: Settings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    encodings: Arc<Encodings>,
    progress: watch::Sender<GlobalProgress>,
    admin: Arc<dyn EnvoyAdmin>,
    /// What the newest downward stream brought: number of the response, and the zone's revision that has it.
    applied: Mutex<VecDeque<(u64, Revision)>>,
}

/// Responses of one stream that are remembered; global speaks of one within a moment.
const APPLIED_MAX: usize = 1024;

impl Shared {
    /// A response is kept.
    fn note_applied(&self, nonce: &Nonce) {
        let Ok(number) = nonce.as_str().parse() else {
            return;
        };
        let local = self.store.snapshot().revision();
        let mut applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied.push_back((number, local));
        if applied.len() > APPLIED_MAX {
            applied.pop_front();
        }
    }

    /// The zone's revision that has everything up to a response; `None` when that is not known.
    fn applied_up_to(&self, number: u64) -> Option<Revision> {
        let applied = self.applied.lock().unwrap_or_else(PoisonError::into_inner);
        applied
            .iter()
            .rev()
            .find(|(known, _)| *known <= number)
            .map(|(_, local)| *local)
    }

    /// A new downward stream counts its responses anew.
    fn forget_applied(&self) {
        self.applied
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .clear();
    }
}

/// Stays connected with global until `stop`: dials, syncs, and dials again with growing waits when it is away.
pub async fn run(
    settings: Settings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    io: Io,
    stop: CancellationToken,
) {
    let Io {
        receipts,
        progress,
        admin,
    } = io;
    let encodings = Arc::new(Encodings::new(settings.border.clone()));
    let mut backoff = Backoff::new(settings.retry);
    let shared = Arc::new(Shared {
        settings,
        store,
        clock,
        encodings,
        progress,
        admin,
        applied: Mutex::default(),
    });
    let mut outgoing = exchange::Receipts::new(receipts);
    let mut earlier = None;
    loop {
        let started = shared.clock.now();
        let mut connection = Connection::new(Arc::clone(&shared), earlier.take());
        let error = tokio::select! {
            () = stop.cancelled() => None,
            error = Box::pin(connection.run(&mut outgoing)) => Some(error),
        };
        earlier = connection.into_subscriber();
        let now = shared.clock.wall();
        let refused = error.as_ref().and_then(ConnectionError::refusal);
        shared.progress.send_modify(|progress| {
            progress.connected = false;
            progress.away_since.get_or_insert(now);
            progress.refused = refused.map(str::to_owned);
        });
        insight::disconnected(&shared).await;
        let Some(error) = error else { return };
        let delay = backoff.next_delay(shared.clock.now().saturating_duration_since(started));
        warn!(
            global = %shared.settings.global, reason = %error, retry_in_ms = delay.as_millis(),
            "lost the global control plane; running proxies are not affected"
        );
        tokio::select! {
            () = stop.cancelled() => return,
            () = shared.clock.sleep_until(Some(shared.clock.now() + delay)) => {}
        }
        info!(global = %shared.settings.global, "dialling the global control plane");
    }
}
