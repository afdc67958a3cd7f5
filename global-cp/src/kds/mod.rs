//! Global's end of the connections with zones.
//!
//! ```text
//!              ┌ down: Publisher ─ follows the store ─▶ zone      ┐
//! zone dials ──┤ up:   Subscriber ◀─ the zone's inventory         ├─ one task per stream, state per stream
//!              │ admin: questions to the zone's proxies           │
//!              └ exchange: revisions down, receipts up (our zones)┘
//! ```
//!
//! Start at [`Kds`]. Nothing here has a tick: streams wake with the store, with a message, or at a deadline.

mod admin;
mod down;
mod exchange;
mod insight;
mod members;
mod metrics;
mod peer;
mod receipts;
mod service;
mod standing;
mod turns;
mod up;
mod zones;

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::service::Routes;
use tracing::info;
use zonal_federation::{Border, Encodings};
use zonal_kds::Shelf;
use zonal_model::{Key, Kind, ZoneName};
use zonal_process::metrics::Registry;
use zonal_process::{CancellationToken, Clock, Spawner};
use zonal_rest::CommitTimes;
use zonal_store::{Store, StoreError};

use kds_proto::kuma::mesh::v1alpha1::global_kds_service_server::GlobalKdsServiceServer;
use kds_proto::kuma::mesh::v1alpha1::kds_sync_service_server::KdsSyncServiceServer;
use kds_proto::zonal::federation::v1::federation_server::FederationServer;

pub use admin::{AdminError, AdminQuestion, AdminTarget};
pub use standing::{Standing, State};

use admin::AdminStreams;
use metrics::KdsMetrics;
use zones::Zones;

/// What a caller shows.
#[derive(Clone, Copy, Debug)]
pub struct Caller<'a> {
    /// What it says with each call.
    pub metadata: &'a MetadataMap,
    /// The certificate whose key it holds (DER), if it has one.
    pub certificate: Option<&'a [u8]>,
}

/// Says which zone a caller is, or refuses it. Given by the program, which knows tokens and certificates.
pub type Authorize = Arc<dyn Fn(Caller<'_>) -> Result<ZoneName, tonic::Status> + Send + Sync>;

/// A message of a zone may be this large when it is unpacked. Kuma's own limit applies to the packed form, so a message
/// of it can be larger than its 10 MiB.
const MESSAGE_BYTES_MAX: usize = 64 << 20;

/// How global speaks with zones.
#[derive(Clone, Debug)]
pub struct Settings {
    /// The replica, as zones and people see it.
    pub instance_id: String,
    /// Version of the software, as zones and people see it.
    pub software_version: String,
    /// When zones should ask for health next; `None` leaves it to them.
    pub health_interval: Option<Duration>,
    /// How long counters of answers may wait before they are written to a zone's insight.
    pub insight_flush: Duration,
    /// How many subscriptions an insight keeps.
    pub subscriptions_max: usize,
    /// What crosses.
    pub border: Border,
}

impl Default for Settings {
    fn default() -> Self {
        Self {
            instance_id: "global".to_owned(),
            software_version: env!("CARGO_PKG_VERSION").to_owned(),
            health_interval: None,
            insight_flush: Duration::from_secs(10),
            subscriptions_max: 10,
            border: Border::default(),
        }
    }
}

/// Global's end of all zones' connections.
#[derive(Clone)]
pub struct Kds {
    shared: Arc<Shared>,
}

impl fmt::Debug for Kds {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Kds")
            .field("settings", &self.shared.settings)
            .finish_non_exhaustive()
    }
}

/// What every stream uses.
struct Shared {
    store: Arc<dyn Store>,
    authorize: Authorize,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    settings: Settings,
    /// What zones see, made once for all that see it alike.
    shelf: Arc<Shelf>,
    zones: Zones,
    turns: turns::Turns,
    members: members::Members,
    admin: AdminStreams,
    metrics: KdsMetrics,
    /// Noted by [`Kds::keep_insights`].
    commit_times: CommitTimes,
}

impl Kds {
    /// Nothing is connected yet. The metrics go to `registry`.
    #[must_use]
    pub fn new(
        store: Arc<dyn Store>,
        authorize: Authorize,
        clock: Arc<dyn Clock>,
        spawner: Spawner,
        settings: Settings,
        registry: &mut Registry,
    ) -> Self {
        let encodings = Arc::new(Encodings::new(settings.border.clone()));
        let shelf = Arc::new(Shelf::new(encodings));
        let zones = Zones::new(
            settings.instance_id.clone(),
            settings.subscriptions_max,
            Arc::clone(&clock),
        );
        let shared = Shared {
            store,
            authorize,
            clock,
            spawner,
            shelf,
            zones,
            turns: turns::Turns::default(),
            members: members::Members::default(),
            admin: AdminStreams::default(),
            metrics: KdsMetrics::register(registry),
            commit_times: CommitTimes::default(),
            settings,
        };
        Self {
            shared: Arc::new(shared),
        }
    }

    /// The gRPC services, to be served on the listener for zones.
    pub fn routes(&self) -> axum::Router {
        let service = || service::Service(Arc::clone(&self.shared));
        let gzip = CompressionEncoding::Gzip;
        let sync = KdsSyncServiceServer::new(service())
            .accept_compressed(gzip)
            .send_compressed(gzip)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let global = GlobalKdsServiceServer::new(service())
            .accept_compressed(gzip)
            .send_compressed(gzip)
            .max_decoding_message_size(MESSAGE_BYTES_MAX);
        let federation = FederationServer::new(service())
            .accept_compressed(gzip)
            .send_compressed(gzip);
        Routes::new(sync)
            .add_service(global)
            .add_service(federation)
            .into_axum_router()
    }

    /// Keeps the zones' insights in the store, notes when revisions were committed, and forgets zones that were deleted,
    /// until `stop`. Without it everything else works.
    ///
    /// # Errors
    /// The store was closed.
    pub async fn keep_insights(self, stop: CancellationToken) -> Result<(), StoreError> {
        let clock = Arc::clone(&self.shared.clock);
        let noting = self.shared.commit_times.clone().follow(
            Arc::clone(&self.shared.store),
            Arc::new(move || clock.wall()),
        );
        tokio::select! {
            kept = insight::keep(&self.shared, &stop) => kept,
            () = noting => Ok(()),
            forgotten = forget_removed(&self.shared) => forgotten,
        }
    }

    /// How far revisions got, for the REST API.
    #[must_use]
    pub fn receipts(&self) -> Arc<dyn zonal_rest::Receipts> {
        Arc::new(receipts::FromZones(Arc::clone(&self.shared)))
    }

    /// Asks a proxy of a zone through the zone's connection.
    ///
    /// # Errors
    /// The zone is not connected, does not answer in time, or says why it cannot.
    pub async fn ask(
        &self,
        zone: &str,
        question: AdminQuestion,
        target: AdminTarget,
    ) -> Result<Bytes, AdminError> {
        self.shared
            .admin
            .ask(&*self.shared.clock, zone, question, target)
            .await
    }

    /// Who speaks for a zone now, in a sentence, if that is somebody with another store.
    #[must_use]
    pub fn speaks_elsewhere(&self, zone: &str, store: &str) -> Option<String> {
        let speaker = members::Speaker {
            store: Some(store.into()),
            ..members::Speaker::default()
        };
        let taken = self.shared.members.check(&zone.into(), &speaker).err()?;
        Some(taken.to_string())
    }

    /// Where a zone stands now.
    #[must_use]
    pub fn standing(&self, zone: &str) -> Standing {
        self.shared
            .zones
            .standing(zone, self.shared.store.snapshot().revision())
    }
}

/// Forgets what was known about zones whose record is gone.
async fn forget_removed(shared: &Shared) -> Result<(), StoreError> {
    let mut watch = shared.store.watch();
    loop {
        let changes = watch.next().await.map_err(|_closed| StoreError::Closed)?;
        if changes.to.same_kind(Kind::Zone, &changes.from) {
            continue;
        }
        for change in changes.to.changes_of_kind_since(Kind::Zone, &changes.from) {
            let zone = &*change.key.name;
            let is_gone = || {
                let key = Key::global(Kind::Zone, zone);
                shared.store.snapshot().get(&key).is_none()
            };
            if change.old.is_some() && shared.zones.forget_if(zone, is_gone) {
                info!(zone, "a zone was deleted");
                shared.metrics.forget(zone);
            }
        }
    }
}
