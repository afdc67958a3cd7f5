//! The assembly of the global control plane.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::net::TcpListener;
use tracing::info;
use zonal_control_plane::{
    FirstStart, RestParts, RestPeers, first_start, instance_id, open_store, wall_clock,
};
use zonal_federation::Border;
use zonal_model::admission::Place;
use zonal_model::{Json, Key, Kind, Mode, Resource};
use zonal_process::admin::{self, Admin};
use zonal_process::metrics::Registry;
use zonal_process::net::{Limits, bind, serve};
use zonal_process::tls::ServerIdentity;
use zonal_process::{CancellationToken, Clock, Readiness, Tasks};
use zonal_rest::Access;

use crate::authorize::by_proof;
use crate::config::Config;
use crate::inspect::ThroughZones;
use crate::joining::{Joining, new_authority};
use crate::kds::{Kds, Settings};

/// The listeners of the global control plane.
#[derive(Debug)]
pub struct Listeners {
    /// For people.
    pub rest: RestPeers,
    /// For zones.
    pub kds: TcpListener,
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
            kds: bind(config.kds).await?,
            diagnostics: bind(config.common.diagnostics).await?,
        })
    }
}

/// Runs the global control plane until `stop`, then lets what runs finish.
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
    let instance = instance_id(&*clock);
    let mut tasks = Tasks::new(stop.clone());
    let readiness = Readiness::new();
    let starting = readiness.hold("start");
    let mut registry = Registry::default();

    let identity = match &common.tls_files {
        Some((certificate, key)) => ServerIdentity::from_files(certificate.clone(), key.clone()),
        None => ServerIdentity::load_or_create(
            &common.work_dir,
            &common.extra_names(&[config.kds]),
            clock.wall(),
        ),
    }
    .context("cannot prepare the certificate")?;
    let zones_identity = match &config.kds_tls_files {
        Some((certificate, key)) => ServerIdentity::from_files(certificate.clone(), key.clone())
            .context("cannot prepare the certificate for zones")?,
        None => Arc::clone(&identity),
    };
    info!(
        fingerprint = %identity.fingerprint(),
        file = %identity.certificate_file().display(),
        "certificate that people and zones are shown"
    );
    let store = open_store(&common.store, wall_clock(&clock), &tasks.spawner()).await?;
    let wanted = FirstStart {
        place: Place::global(),
        mesh: !common.skip_mesh_creation,
        hostname_generators: !common.skip_hostname_generators,
        zone_tokens: true,
    };
    let authority = new_authority(clock.wall()).context("cannot make the authority for zones")?;
    first_start(&store, &wanted, vec![cluster_id(), authority]).await?;

    let settings = Settings {
        instance_id: instance.to_string(),
        border: Border {
            trust_spreads: config.distribute_trust,
            ..Border::default()
        },
        ..Settings::default()
    };
    let kds = Kds::new(
        Arc::clone(&store),
        by_proof(
            Arc::clone(&store),
            Arc::clone(&clock),
            config.zones_without_token.clone(),
        ),
        Arc::clone(&clock),
        tasks.spawner(),
        settings,
        &mut registry,
    );
    let zones_tls = if config.kds_tls {
        Some(zones_identity.server_config_taking_certificates()?)
    } else {
        None
    };
    let joining = Joining {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        kds: kds.clone(),
        identity: Arc::clone(&zones_identity),
        port: config.kds_tls.then(|| {
            listeners
                .kds
                .local_addr()
                .map_or(config.kds.port(), |at| at.port())
        }),
        lifetime: config.zone_certificate_lifetime,
        access: Arc::new(Access {
            localhost_is_admin: common.localhost_is_admin,
            ..Access::default()
        }),
        read_only: common.read_only,
    };
    // Long streams end with the stop by themselves; a zone that is away must not hold it up.
    let limits = Limits {
        drain: Duration::from_secs(2),
        ..Limits::default()
    };
    let routes = kds.routes().merge(joining.clone().for_zones());
    let zones = serve(listeners.kds, zones_tls, routes, limits, stop.clone());
    tasks.essential("kds", zones);
    tasks.essential("zone insights", kds.clone().keep_insights(stop.clone()));

    let api = RestParts {
        store: Arc::clone(&store),
        clock: Arc::clone(&clock),
        common,
        mode: Mode::Global,
        zone: None,
        origin_unchecked: false,
        instance: &instance,
        effective: effective.clone(),
        receipts: kds.receipts(),
        zone_sync: Some(Arc::new({
            let kds = kds.clone();
            move |zone: &str| serde_json::to_value(kds.standing(zone)).unwrap_or_default()
        })),
        proxies: Arc::new(ThroughZones(kds.clone())),
        extra: joining.for_people(),
    }
    .router(&stop);
    listeners.rest.serve(&api, &identity, &mut tasks)?;
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
    let reload = Duration::from_secs(30);
    tasks.essential(
        "certificate",
        Arc::clone(&identity).watch(reload, stop.clone()),
    );
    if config.kds_tls_files.is_some() {
        tasks.essential("certificate for zones", zones_identity.watch(reload, stop));
    }

    drop(starting);
    info!(instance = %instance, "global control plane is ready");
    let finished = tasks.finish(common.drain).await?;
    info!(cut = finished.cut, "global control plane has stopped");
    Ok(())
}

/// The name of the federation, which zones are told.
fn cluster_id() -> Resource {
    let id = uuid::Uuid::new_v4().to_string();
    Resource::new(
        Key::global(Kind::Config, "kuma-cluster-id"),
        Json::from_value(&json!({ "config": id })),
    )
}
