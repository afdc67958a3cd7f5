//! Puts the parts together and takes them apart again.

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::Context;
use tokio::sync::watch;
use tracing::{info, warn};
use zonal_process::admin::Admin;
use zonal_process::metrics::Registry;
use zonal_process::{CancellationToken, Clock, Readiness, Spawner, Tasks};

use crate::ads::Subscriber;
use crate::config::Config;
use crate::feed::Feed;
use crate::metrics::{Metrics, RouteCollector};
use crate::proxy::Proxy;
use crate::routes::Routes;
use crate::state::{self, Loaded, Snapshot};
use crate::status::Status;
use crate::times::Times;
use crate::worker::Worker;
use crate::{admin, socket};

/// For connections that were told to end, and for the state file.
const AFTER_DRAIN: Duration = Duration::from_secs(5);

/// Sockets that callers and operators reach, bound before anything else starts.
#[derive(Debug)]
pub struct Listeners {
    pub callers: Vec<std::net::TcpListener>,
    pub admin: std::net::TcpListener,
}

impl Listeners {
    /// Binds what the configuration names, one socket per address and worker.
    ///
    /// # Errors
    /// The first address that cannot be had.
    pub fn bind(config: &Config) -> Result<Self, socket::BindError> {
        let mut callers = Vec::new();
        for address in &config.listen {
            let shared = config.workers > 1;
            let first = socket::listen(*address, shared)?;
            // Port 0 was a wish for any; the others have to take the same.
            let bound = first.local_addr().unwrap_or(*address);
            callers.push(first);
            for _ in 1..config.workers {
                callers.push(socket::listen(bound, shared)?);
            }
        }
        Ok(Self {
            callers,
            admin: socket::listen(config.admin_address, false)?,
        })
    }

    /// The addresses that callers reach, each once.
    pub fn addresses(&self) -> Vec<SocketAddr> {
        let mut all: Vec<_> = self
            .callers
            .iter()
            .filter_map(|l| l.local_addr().ok())
            .collect();
        all.dedup();
        all
    }
}

/// How an orderly stop went.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Drained {
    /// Connections that were still open at the deadline.
    pub cut: usize,
}

/// Runs an ingress until `stop`, then drains it.
///
/// Stopping: say not ready; serve who waits in the queue and close the listeners; let open
/// connections go on until the drain time; cut the rest and say how many.
///
/// # Errors
/// When it cannot start, or an essential part ended by itself.
pub async fn run(
    config: Config,
    listeners: Listeners,
    clock: Arc<dyn Clock>,
    stop: CancellationToken,
) -> anyhow::Result<Drained> {
    let seed = fastrand::u64(..);
    let times = Times::new(clock);
    let readiness = Readiness::new();
    let status = Status::new(times.clone());
    let routes = Arc::new(Routes::default());
    let mut registry = Registry::default();
    let metrics = Metrics::register(&mut registry);
    let descriptors = socket::raise_descriptor_limit();
    let proxy = Arc::new(Proxy::new(
        config.limits.clone(),
        descriptors,
        Arc::clone(&routes),
        metrics,
        times.clone(),
        seed,
    ));
    let ledger = Arc::clone(&proxy.ledger);
    registry.register_collector(Box::new(RouteCollector {
        routes: Arc::clone(&routes),
        ledger,
    }));
    registry.register_collector(Box::new(status.clone()));

    let mut not_ready = Some(readiness.hold("routes"));
    let node_id = config.registration.node_id();
    let mut feed = Feed::new(config.dialect);
    match state::load(&config.state_file, &node_id, &mut feed) {
        Ok(Loaded::Nothing) => {
            info!(file = %config.state_file.display(), "there is no state file yet");
        }
        Ok(Loaded::Routes { current_at }) => {
            routes.publish(feed.table().clone());
            status.restored(current_at);
            not_ready = None;
            info!(
                routes = feed.table().routes.len(),
                age = status.page().summary,
                "routes of an earlier run are served until the control plane tells newer ones",
            );
        }
        Err(error) => {
            let cause = std::error::Error::source(&error).map(ToString::to_string);
            warn!(%error, cause, hint = "callers are refused until the control plane is heard",
                "starting without routes");
        }
    }
    let (newest, kept) = watch::channel(Snapshot::default());
    let admin_address = listeners.admin.local_addr()?;

    info!(
        listen = ?listeners.addresses(), admin = %admin_address,
        connections_max = proxy.descriptors.connections_max(), descriptors,
        config = %config.page(),
        "zone ingress starts",
    );
    let mut tasks = Tasks::new(stop.clone());
    let spawner = tasks.spawner();
    let mut workers = Vec::new();
    for listener in listeners.callers {
        let worker = Worker::new(listener, Arc::clone(&proxy), spawner.clone());
        workers.push(worker.context("a listener cannot be used")?);
    }
    let subscriber = Subscriber {
        control_plane: config.control_plane.clone(),
        node: config.registration.node(),
        feed,
        routes,
        ledger: Arc::clone(&proxy.ledger),
        status: status.clone(),
        newest,
        times: times.clone(),
        not_ready,
        seed,
    };
    // Ends after the drain, so that the pages tell about it.
    let admin_stop = CancellationToken::new();
    let pages = Admin {
        readiness: readiness.clone(),
        registry: Arc::new(registry),
        config: Arc::new(config.page()),
        tasks: tasks.list(),
    };
    let pages = admin::router(pages, Arc::clone(&proxy), status);
    let admin_listener = tokio::net::TcpListener::from_std(listeners.admin)?;
    let page_limits = zonal_process::net::Limits {
        connections_max: 64,
        drain: Duration::from_secs(1),
        ..zonal_process::net::Limits::default()
    };
    let serving =
        zonal_process::net::serve(admin_listener, None, pages, page_limits, admin_stop.clone());

    let (done, drained) = tokio::sync::oneshot::channel();
    // Nobody can watch or drain the process without its page.
    tasks.essential("admin", serving);
    // The process is useless without callers; this ends when they are drained.
    let callers = Callers {
        proxy,
        workers,
        spawner,
        readiness,
        drain: config.drain,
    };
    tasks.essential("callers", async move {
        let result = callers.serve(stop).await;
        admin_stop.cancel();
        let _receiver_waits = done.send(result);
    });
    // Never ends before the stop: losing the control plane is its daily bread.
    tasks.essential("control plane", subscriber.run(tasks.stop()));
    // Ends when the subscriber has said its last.
    tasks.essential(
        "state file",
        state::keep(config.state_file, node_id, kept, times),
    );
    let finished = tasks.finish(config.drain + AFTER_DRAIN).await;
    finished.context("the ingress stopped by itself")?;
    Ok(drained.await.unwrap_or(Drained { cut: 0 }))
}

struct Callers {
    proxy: Arc<Proxy>,
    workers: Vec<Worker>,
    spawner: Spawner,
    readiness: Readiness,
    drain: Duration,
}

impl Callers {
    async fn serve(self, stop: CancellationToken) -> Drained {
        let Self {
            proxy,
            workers,
            spawner,
            readiness,
            drain,
        } = self;
        let running: Vec<_> = workers
            .into_iter()
            // Each is waited for below.
            .map(|worker| spawner.spawn("worker", worker.run(stop.clone())))
            .collect();
        stop.cancelled().await;
        let _draining = readiness.hold("draining");
        for worker in running {
            if let Err(error) = worker.await {
                warn!(%error, "a worker did not end in order");
            }
        }
        let open = proxy.descriptors.taken();
        info!(
            open,
            ?drain,
            "draining: open connections go on, nobody new is taken"
        );
        let places = &proxy.descriptors;
        let cut = match tokio::time::timeout(drain, places.emptied()).await {
            Ok(()) => 0,
            Err(_elapsed) => {
                let cut = places.taken();
                proxy.cut.cancel();
                // Cutting is a matter of one turn of each task.
                let _ended = tokio::time::timeout(AFTER_DRAIN / 2, places.emptied()).await;
                cut
            }
        };
        if cut == 0 {
            info!("every connection ended by itself");
        } else {
            warn!(cut, "connections were cut at the end of the drain time");
        }
        Drained { cut }
    }
}
