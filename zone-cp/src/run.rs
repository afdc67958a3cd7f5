//! The assembly of a zone's control plane.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use serde_json::Value;
use tokio::net::TcpListener;
use tokio::sync::{mpsc, oneshot, watch};
use tracing::{info, warn};
use zonal_catalogue::derive;
use zonal_control_plane::{
    FirstStart, RestParts, RestPeers, first_start, instance_id, note_commits, open_store,
    wall_clock,
};
use zonal_model::admission::Place;
use zonal_model::{Json, Key, Kind, Resource};
use zonal_process::admin::{self, Admin};
use zonal_process::control_plane::StoreChoice;
use zonal_process::metrics::{ListenerMetrics, Registry};
use zonal_process::net::{Limits, bind, serve, serve_counted};
use zonal_process::tls::ServerIdentity;
use zonal_process::{CancellationToken, Clock, Readiness, Tasks};
use zonal_store::{Store, StoreError};

use crate::config::{Config, GlobalConfig};
use crate::controllers::Controllers;
use crate::convergence::Convergence;
use crate::dp::{Ads, AdsSettings, DpHttp, routes};
use crate::insights::Insights;
use crate::inspect::Inspect;
use crate::kds;
use crate::leave;
use crate::lifecycle::{Lifecycle, LifecycleSettings};
use crate::membership::{self, Introduction, Membership, MembershipError};
use crate::metrics::ZoneMetrics;
use crate::offline::{self, OFFLINE_MAX};
use crate::own_name;
use crate::resolver::{self, SystemLookup};
use crate::rest::ZoneReceipts;
use crate::to_global;
use crate::views::{Engine, EngineSettings};

/// Receipts waiting for the connection with global.
const RECEIPTS_MAX: usize = 64;

/// How long proxies wait at the start for the first lookups of host names.
const FIRST_LOOKUPS_MAX: Duration = Duration::from_secs(5);

/// The listeners of a zone's control plane.
#[derive(Debug)]
pub struct Listeners {
    /// For people.
    pub rest: RestPeers,
    /// For proxies.
    pub proxies: TcpListener,
    /// For operators.
    pub diagnostics: TcpListener,
}

impl Listeners {
    /// Binds what is configured.
    ///
    /// # Errors
    /// An address is taken.
    pub async fn bind(config: &Config) -> Result<Self, zonal_process::net::BindError> {
        Ok(Self {
            rest: RestPeers::bind(&config.common).await?,
            proxies: bind(config.dp_server).await?,
            diagnostics: bind(config.common.diagnostics).await?,
        })
    }
}

/// Runs a zone's control plane until `stop`, then lets what runs finish.
///
/// # Errors
/// It cannot start, or a part without which it is useless ended.
pub async fn run(
    config: Config,
    effective: Value,
    listeners: Listeners,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> anyhow::Result<()> {
    let config = config.with_membership()?;
    let common = &config.common;
    let mode = config.mode();
    let instance = instance_id(&*clock);
    let mut tasks = Tasks::new(stop.clone());
    let readiness = Readiness::new();
    let starting = readiness.hold("start");
    let mut registry = Registry::default();
    let metrics = ZoneMetrics::register(&mut registry);

    let identity = match &common.tls_files {
        Some((certificate, key)) => ServerIdentity::from_files(certificate.clone(), key.clone()),
        None => ServerIdentity::load_or_create(
            &common.work_dir,
            &common.extra_names(&[config.dp_server]),
            clock.wall(),
        ),
    }
    .context("cannot prepare the certificate")?;
    info!(
        fingerprint = %identity.fingerprint(),
        file = %identity.certificate_file().display(),
        "certificate that people and proxies are shown"
    );
    let store = open_store(&common.store, wall_clock(&clock), &tasks.spawner()).await?;
    own_name::check(&store.snapshot(), &config.zone)?;
    if config.leave {
        depart(&store, &config).await?;
    } else if config.global.is_none() && leave::was_federated(&store.snapshot()) {
        warn!(
            "this zone was in a federation and is started without one: it goes on with copies that nobody keeps up to date; \
             set `multizone.zone.leave: true` once to make them its own, or name global again"
        );
    }
    let place = Place {
        mode,
        zone: Some(config.zone.as_str()),
        check_origin: !config.origin_unchecked,
    };
    let wanted = FirstStart {
        place,
        mesh: config.global.is_none() && !common.skip_mesh_creation,
        hostname_generators: !common.skip_hostname_generators,
        zone_tokens: config.global.is_none(),
    };
    let own_zone = Resource::new(
        Key::global(Kind::Zone, config.zone.as_str()),
        Json::empty_object(),
    );
    first_start(&store, &wanted, vec![own_zone]).await?;

    let times = note_commits(&store, &clock, &mut tasks);
    let insights = Insights::new(Arc::clone(&instance));
    let zone: Arc<str> = config.zone.as_str().into();
    let (engine, handle) = Engine::new(
        EngineSettings {
            zone: Arc::clone(&zone),
        },
        Arc::clone(&store),
        Arc::clone(&clock),
        insights.clone(),
    );
    let engine = engine.with_metrics(metrics.clone());
    let settings = derive::Settings {
        zone: zone.to_string(),
        deletion_grace_period: config.deletion_grace_period,
    };
    let (controllers, settled) = Controllers::new(settings, Arc::clone(&store), Arc::clone(&clock));
    let controllers = controllers.with_metrics(metrics.clone());
    let convergence = Convergence::new(handle.clone(), settled);
    let lifecycle = Lifecycle::new(
        LifecycleSettings {
            zone: Arc::clone(&zone),
            mode,
            authentication: config.proxy_authentication,
            deregistration_delay: config.deregistration_delay,
        },
        Arc::clone(&store),
        Arc::clone(&clock),
        tasks.spawner(),
    );
    tasks.essential("views", engine.run(stop.clone()));
    tasks.essential("controllers", controllers.run(stop.clone()));
    tasks.essential(
        "insights",
        insights.run(Arc::clone(&store), clock.wall(), stop.clone()),
    );
    let follow = metrics.clone().follow(
        Arc::clone(&store),
        times.clone(),
        convergence.clone(),
        stop.clone(),
    );
    tasks.essential("commit to ack", follow);
    let offline = offline::run(
        Arc::clone(&store),
        Arc::clone(&clock),
        OFFLINE_MAX,
        metrics.clone(),
        stop.clone(),
    );
    tasks.essential("offline dataplanes", offline);
    let (tried, names_tried) = oneshot::channel();
    let resolver = resolver::run(
        Arc::clone(&store),
        handle.clone(),
        Arc::new(SystemLookup),
        Arc::clone(&clock),
        metrics.clone(),
        tried,
        stop.clone(),
    );
    tasks.essential("host names", resolver);
    let inspect = Arc::new(Inspect::new(handle.clone(), Arc::clone(&store)));
    if let Some(global) = &config.global {
        let membership = join(global, &config, &instance, &store, &clock, &mut tasks).await?;
        connect(
            global,
            membership,
            &config,
            &instance,
            &effective,
            &store,
            &convergence,
            Arc::clone(&inspect),
            &clock,
            &mut tasks,
        );
    }

    let receipts = ZoneReceipts::new(
        zone.to_string(),
        convergence.clone(),
        times,
        &tasks.spawner(),
        stop.clone(),
    );
    let api = RestParts {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        common,
        mode,
        zone: Some(config.zone.clone()),
        origin_unchecked: config.origin_unchecked,
        instance: &instance,
        effective: effective.clone(),
        receipts: Arc::new(receipts),
        zone_sync: None,
        proxies: inspect,
        extra: axum::Router::new(),
    }
    .router(&stop);
    listeners.rest.serve(&api, &identity, &mut tasks)?;

    let ads = Ads::new(
        handle,
        Arc::clone(&lifecycle),
        tasks.spawner(),
        Arc::clone(&clock),
        AdsSettings {
            instance: Arc::clone(&instance),
            metrics,
        },
    );
    let grpc = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(ads))
        .into_axum_router()
        .reset_fallback();
    let http = routes(DpHttp {
        lifecycle,
        store,
        convergence,
        identity: Arc::clone(&identity),
        authentication: config.proxy_authentication,
        xds_host: config.xds_host.clone(),
        xds_port: config.xds_port,
    });
    // A proxy that connects again must not lose endpoints whose names are not looked up yet.
    tokio::select! {
        _told = names_tried => {}
        () = clock.sleep_until(Some(clock.now() + FIRST_LOOKUPS_MAX)) => {
            warn!("some host names are not looked up yet; their endpoints follow");
        }
    }
    let proxies = serve_counted(
        listeners.proxies,
        Some(identity.server_config()?),
        grpc.merge(http),
        Limits::default(),
        stop.clone(),
        ListenerMetrics::register(&mut registry, "proxies"),
    );
    tasks.essential("proxies", proxies);
    let diagnostics = admin::router(Admin {
        readiness: readiness.clone(),
        registry: Arc::new(registry),
        config: Arc::new(effective),
        tasks: tasks.list(),
    });
    let diagnostics = serve(
        listeners.diagnostics,
        None,
        diagnostics,
        Limits::default(),
        stop.clone(),
    );
    tasks.essential("diagnostics", diagnostics);
    tasks.essential(
        "certificate",
        identity.watch(Duration::from_secs(30), stop.clone()),
    );

    drop(starting);
    info!(zone = %config.zone, instance = %instance, "zone control plane is ready");
    let finished = tasks.finish(common.drain).await?;
    info!(cut = finished.cut, "zone control plane has stopped");
    Ok(())
}

/// Makes what came from global the zone's own, and gives up what let the zone in.
async fn depart(store: &Arc<dyn Store>, config: &Config) -> anyhow::Result<()> {
    loop {
        let (batch, left) = leave::plan(&store.snapshot(), &config.zone);
        if batch.is_empty() {
            break;
        }
        match store.commit(batch).await {
            Ok(_) => {
                info!(
                    adopted = left.adopted,
                    dropped = left.dropped,
                    "left the federation; `multizone.zone.leave` can be taken out now"
                );
                break;
            }
            // Another replica is at it too: look again.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => return Err(error).context("cannot leave the federation"),
        }
    }
    membership::give_up(&config.common.work_dir)?;
    Ok(())
}

/// Trades the join token, if the zone was started with one. A refusal ends the start, because it would not pass by
/// itself; while global is away it is tried again, and the zone works alone meanwhile.
async fn join(
    global: &GlobalConfig,
    config: &Config,
    instance: &str,
    store: &Arc<dyn Store>,
    clock: &Arc<dyn Clock>,
    tasks: &mut Tasks,
) -> Result<Option<Membership>, MembershipError> {
    if global.join.is_none() && global.token_file.is_some() {
        return Ok(None);
    }
    let membership = Membership::open(
        &config.common.work_dir,
        config.zone.clone(),
        global.address.clone(),
        global.trust.clone(),
        global.join.clone(),
        Arc::clone(clock),
    )?;
    let Some(membership) = membership else {
        return Ok(None);
    };
    let about = Introduction::of(&store.snapshot(), instance);
    match membership.join(&about).await {
        Err(error @ MembershipError::Unreachable { .. }) => {
            warn!(%error, "cannot join the federation yet; it is tried again");
        }
        other => other?,
    }
    let stop = tasks.stop();
    tasks.essential("membership", membership.clone().run(about, stop));
    Ok(Some(membership))
}

/// Connects with global, and tells it what this zone's proxies answer.
#[expect(
    clippy::too_many_arguments,
    reason = "one place that joins all of them"
)]
fn connect(
    global: &GlobalConfig,
    membership: Option<Membership>,
    config: &Config,
    instance: &str,
    effective: &Value,
    store: &Arc<dyn Store>,
    convergence: &Convergence,
    inspect: Arc<Inspect>,
    clock: &Arc<dyn Clock>,
    tasks: &mut Tasks,
) {
    let mut settings = kds::Settings::new(
        config.zone.clone(),
        global.address.clone(),
        global.trust.clone(),
    );
    settings.instance_id = instance.to_owned();
    settings.config = shown_config(config, effective).to_string();
    if let Some(file) = global.token_file.clone() {
        settings.token = Some(Arc::new(move || match std::fs::read_to_string(&file) {
            Ok(token) => Some(token.trim().to_owned()),
            Err(error) => {
                warn!(file = %file.display(), %error, "cannot read the zone's token");
                None
            }
        }));
    }
    if let Some(membership) = membership.clone() {
        settings.certificate = Some(Arc::new(move || membership.certificate()));
    }
    let (outgoing, receipts) = mpsc::channel(RECEIPTS_MAX);
    let (progress, seen) = watch::channel(kds::GlobalProgress::default());
    let io = kds::Io {
        receipts,
        progress,
        admin: inspect,
    };
    let stop = tasks.stop();
    let run = kds::run(
        settings,
        Arc::clone(store),
        Arc::clone(clock),
        io,
        stop.clone(),
    );
    let stopped = stop.clone();
    tasks.essential("kds", async move {
        // Without a certificate global would only refuse.
        if let Some(membership) = membership {
            tokio::select! {
                () = stopped.cancelled() => return,
                () = membership.joined() => {}
            }
        }
        run.await;
    });
    tasks.essential(
        "receipts",
        to_global::tell(convergence.clone(), seen, outgoing, stop),
    );
}

/// What global's people see of this zone's configuration; `store.type`, `environment` and `mode` are what Kuma's
/// programs look for.
fn shown_config(config: &Config, effective: &Value) -> Value {
    let mut shown = effective.clone();
    let store = match &config.common.store {
        StoreChoice::Memory => "memory",
        StoreChoice::File(_) => "file",
        StoreChoice::Etcd { .. } => "etcd",
    };
    if let Some(members) = shown.as_object_mut() {
        members.insert("environment".to_owned(), "universal".into());
        members.insert("mode".to_owned(), "zone".into());
        members.insert("store".to_owned(), serde_json::json!({ "type": store }));
    }
    shown
}
