//! The REST API on its listeners.

use std::net::SocketAddr;
use std::sync::Arc;

use axum::Router;
use http::Extensions;
use serde_json::Value;
use tokio::net::TcpListener;
use zonal_model::{Mode, ZoneName};
use zonal_process::control_plane::Common;
use zonal_process::net::{Limits, PeerAddr, serve};
use zonal_process::tls::ServerIdentity;
use zonal_process::{Clock, Tasks};
use zonal_rest::tokens::{Issuing, StoreTokens, routes};
use zonal_rest::{Access, CommitTimes, Info, Peer, Receipts, RestState, ZoneSync, router_with};
use zonal_store::{Store, WallClock};

use crate::first_start::cluster_id_key;
use crate::mesh_rules::MeshRules;
use crate::questions::{AskProxies, Questions};

/// The name of this process: the machine's, and four digits that tell two on one machine apart.
#[must_use]
pub fn instance_id(clock: &dyn Clock) -> Arc<str> {
    format!(
        "{}-{:04x}",
        hostname(),
        clock.wall().as_nanosecond() / 1_000 % 0x1_0000
    )
    .into()
}

/// The time of day as stores want it.
#[must_use]
pub fn wall_clock(clock: &Arc<dyn Clock>) -> WallClock {
    let clock = Arc::clone(clock);
    Arc::new(move || clock.wall())
}

/// What the API needs.
pub struct RestParts<'a> {
    /// Where resources are.
    pub store: Arc<dyn Store>,
    /// The time.
    pub clock: Arc<dyn Clock>,
    /// What both control planes have.
    pub common: &'a Common,
    /// Global, or a zone of either sort.
    pub mode: Mode,
    /// The zone.
    pub zone: Option<ZoneName>,
    /// Writes need not say where they originate.
    pub origin_unchecked: bool,
    /// This process.
    pub instance: &'a str,
    /// The configuration that runs, secrets hidden.
    pub effective: Value,
    /// How far revisions got.
    pub receipts: Arc<dyn Receipts>,
    /// How fresh the zones' copies are, where this control plane knows.
    pub zone_sync: Option<ZoneSync>,
    /// Answers questions about what proxies do.
    pub proxies: Arc<dyn AskProxies>,
    /// Further routes, behind the same authentication.
    pub extra: Router,
}

/// The listeners of the API, bound by the program.
#[derive(Debug)]
pub struct RestPeers {
    /// Without TLS.
    pub http: Option<TcpListener>,
    /// With TLS.
    pub https: Option<TcpListener>,
}

impl RestPeers {
    /// Binds what is configured.
    ///
    /// # Errors
    /// An address is taken.
    pub async fn bind(common: &Common) -> Result<Self, zonal_process::net::BindError> {
        let bind = async |address: Option<SocketAddr>| match address {
            Some(address) => zonal_process::net::bind(address).await.map(Some),
            None => Ok(None),
        };
        Ok(Self {
            http: bind(common.http).await?,
            https: bind(common.https).await?,
        })
    }

    /// Serves `router` on the listeners, as tasks without which the process is useless.
    ///
    /// # Errors
    /// TLS cannot be configured.
    pub fn serve(
        self,
        router: &Router,
        identity: &Arc<ServerIdentity>,
        tasks: &mut Tasks,
    ) -> Result<(), zonal_process::tls::IdentityError> {
        let stop = tasks.stop();
        if let Some(listener) = self.http {
            let work = serve(
                listener,
                None,
                router.clone(),
                Limits::default(),
                stop.clone(),
            );
            tasks.essential("rest http", work);
        }
        if let Some(listener) = self.https {
            let tls = identity.server_config()?;
            let work = serve(listener, Some(tls), router.clone(), Limits::default(), stop);
            tasks.essential("rest https", work);
        }
        Ok(())
    }
}

impl RestParts<'_> {
    /// The whole API, with token endpoints and `extra`.
    pub fn router(self, stop: &zonal_process::CancellationToken) -> Router {
        let zone = self.zone.as_ref().map(ZoneName::as_str);
        let now = wall_clock(&self.clock);
        let mut state = RestState::new(Arc::clone(&self.store), self.mode, zone);
        let access = Arc::new(Access {
            localhost_is_admin: self.common.localhost_is_admin,
            ..Access::default()
        });
        state.info = Info {
            hostname: hostname(),
            instance_id: self.instance.to_owned(),
            cluster_id: cluster_id(&*self.store),
            ..Info::default()
        };
        state.config = Arc::new(self.effective);
        state.tokens = Arc::new(StoreTokens::new(Arc::clone(&self.store), Arc::clone(&now)));
        state.access = Arc::clone(&access);
        state.rules = Arc::new(MeshRules::new(self.mode, zone.map(Into::into)));
        state.receipts = self.receipts;
        state.zone_sync = self.zone_sync;
        state.read_only = self.common.read_only;
        state.origin_unchecked = self.origin_unchecked;
        state.unsafe_delete = self.common.unsafe_delete;
        state.peer_of = peer_of;
        state.stop = stop.clone();
        let questions = Questions {
            store: Arc::clone(&self.store),
            access: Arc::clone(&access),
            proxies: self.proxies,
        };
        let issuing = Issuing {
            store: self.store,
            access,
            now,
            zone_tokens: self.mode != Mode::FederatedZone,
        };
        let extra = routes(issuing).merge(questions.routes()).merge(self.extra);
        router_with(state, extra)
    }
}

/// Notes commit times from now on.
pub fn note_commits(
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    tasks: &mut Tasks,
) -> CommitTimes {
    let times = CommitTimes::default();
    let follow = times.clone().follow(Arc::clone(store), wall_clock(clock));
    let stop = tasks.stop();
    tasks.essential("commit times", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = follow => {}
        }
    });
    times
}

impl std::fmt::Debug for RestParts<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("RestParts")
            .field("mode", &self.mode)
            .finish_non_exhaustive()
    }
}

fn peer_of(extensions: &Extensions) -> Option<Peer> {
    let peer = extensions.get::<PeerAddr>()?;
    Some(Peer {
        address: peer.remote,
        tls: peer.tls,
    })
}

fn hostname() -> String {
    std::fs::read_to_string("/proc/sys/kernel/hostname")
        .map(|name| name.trim().to_owned())
        .unwrap_or_default()
}

/// The name of the federation, as global made it and zones were told.
fn cluster_id(store: &dyn Store) -> String {
    store
        .snapshot()
        .get(&cluster_id_key())
        .and_then(|stored| {
            stored
                .resource
                .spec
                .to_value()
                .get("config")
                .and_then(Value::as_str)
                .map(str::to_owned)
        })
        .unwrap_or_default()
}
