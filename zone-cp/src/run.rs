//! The assembly of a zone's control plane.

use std::sync::Arc;

use anyhow::Context as _;
use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::AggregatedDiscoveryServiceServer;
use serde_json::Value;
use tokio::net::TcpListener;
use tracing::info;
use zonal_catalogue::derive;
use zonal_control_plane::{
    FirstStart, RestParts, RestPeers, first_start, instance_id, note_commits, open_store,
    wall_clock,
};
use zonal_model::admission::Place;
use zonal_model::{Json, Key, Kind, Resource};
use zonal_process::admin::{self, Admin};
use zonal_process::metrics::Registry;
use zonal_process::net::{Limits, bind, serve};
use zonal_process::tls::ServerIdentity;
use zonal_process::{CancellationToken, Clock, Readiness, Tasks};

use crate::config::Config;
use crate::controllers::Controllers;
use crate::convergence::Convergence;
use crate::dp::{Ads, AdsSettings, DpHttp, routes};
use crate::insights::Insights;
use crate::lifecycle::{Lifecycle, LifecycleSettings};
use crate::rest::ZoneReceipts;
use crate::views::{Engine, EngineSettings};

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
    let common = &config.common;
    let mode = config.mode();
    let instance = instance_id(&*clock);
    let mut tasks = Tasks::new(stop.clone());
    let readiness = Readiness::new();
    let starting = readiness.hold("start");
    let registry = Registry::default();

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
    let store = open_store(&common.store, wall_clock(&clock)).await?;
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
    let settings = derive::Settings {
        zone: zone.to_string(),
        deletion_grace_period: config.deletion_grace_period,
    };
    let (controllers, settled) = Controllers::new(settings, Arc::clone(&store), Arc::clone(&clock));
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
    let proxies = serve(
        listeners.proxies,
        Some(identity.server_config()?),
        grpc.merge(http),
        Limits::default(),
        stop.clone(),
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
        identity.watch(std::time::Duration::from_secs(30), stop.clone()),
    );

    drop(starting);
    info!(zone = %config.zone, instance = %instance, "zone control plane is ready");
    let finished = tasks.finish(common.drain).await?;
    info!(cut = finished.cut, "zone control plane has stopped");
    Ok(())
}
