//! A federation in one process: a real global, real zones, loopback connections that can be cut.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use futures::future::BoxFuture;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, watch};
use tonic::Status;
use zonal_federation::Border;
use zonal_model::{Key, Resource, ZoneName};
use zonal_process::metrics::Registry;
use zonal_process::tls::Trust;
use zonal_process::{BackoffPolicy, CancellationToken, Clock, RealClock, Spawner, net};
use zonal_store::{Batch, MemoryStore, Snapshot, Store};
use zone_cp::kds::{EnvoyAdmin, GlobalProgress, Io, NoEnvoyAdmin, ProxyReceipts};

/// How long a condition may take on a slow machine before a test gives up on it.
const PATIENCE: Duration = Duration::from_secs(60);

/// A store in memory.
#[must_use]
pub fn store() -> Arc<MemoryStore> {
    Arc::new(MemoryStore::new(Arc::new(|| RealClock.wall())))
}

/// Puts resources, whatever the rules of the API say about them.
///
/// # Panics
/// A store in memory always keeps an unconditional batch.
#[expect(
    clippy::expect_used,
    reason = "an unconditional batch has nothing to conflict with"
)]
pub fn put(store: &MemoryStore, resources: impl IntoIterator<Item = Resource>) {
    let batch = resources.into_iter().fold(Batch::new(), Batch::put);
    store
        .commit_now(batch)
        .expect("an unconditional batch is kept");
}

/// Removes a resource.
///
/// # Panics
/// As [`put`].
#[expect(
    clippy::expect_used,
    reason = "an unconditional batch has nothing to conflict with"
)]
pub fn remove(store: &MemoryStore, key: Key) {
    store
        .commit_now(Batch::new().remove(key))
        .expect("an unconditional batch is kept");
}

/// Waits until a store's content is as wanted; what is not yet so is said when patience ends.
///
/// # Panics
/// It never came to be.
#[expect(clippy::panic, reason = "this is an assertion")]
pub async fn until<T>(
    store: &MemoryStore,
    mut check: impl FnMut(&Snapshot) -> Result<T, String>,
) -> T {
    let mut watch = store.watch();
    let mut last = String::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            match check(&store.snapshot()) {
                Ok(found) => return Some(found),
                Err(missing) => last = missing,
            }
            watch.next().await.ok()?;
        }
    });
    match waited.await {
        Ok(Some(found)) => found,
        Ok(None) | Err(_) => panic!("waited in vain: {last}"),
    }
}

/// Waits until a value that somebody publishes is as wanted.
///
/// # Panics
/// It never came to be.
#[expect(clippy::panic, reason = "this is an assertion")]
pub async fn until_published<T, R>(
    published: &mut watch::Receiver<T>,
    mut check: impl FnMut(&T) -> Result<R, String>,
) -> R {
    let mut last = String::new();
    let waited = tokio::time::timeout(PATIENCE, async {
        loop {
            match check(&published.borrow_and_update()) {
                Ok(found) => return Some(found),
                Err(missing) => last = missing,
            }
            published.changed().await.ok()?;
        }
    });
    match waited.await {
        Ok(Some(found)) => found,
        Ok(None) | Err(_) => panic!("waited in vain: {last}"),
    }
}

/// A global control plane's connections, without its REST API.
pub struct Global {
    /// What it keeps.
    pub store: Arc<MemoryStore>,
    /// Its end of the connections.
    pub kds: global_cp::kds::Kds,
    /// Where it listens.
    pub addr: SocketAddr,
    stop: CancellationToken,
}

impl Global {
    /// Starts on a free port of loopback; believes whatever name a zone gives itself.
    ///
    /// # Panics
    /// Loopback has no free port.
    pub async fn start(store: Arc<MemoryStore>, border: Border) -> Self {
        Self::start_at(store, border, ([127, 0, 0, 1], 0).into()).await
    }

    /// As [`Global::start`], on a chosen address.
    ///
    /// # Panics
    /// The address is taken.
    #[expect(clippy::expect_used, reason = "without a listener no test can run")]
    pub async fn start_at(store: Arc<MemoryStore>, border: Border, addr: SocketAddr) -> Self {
        let stop = CancellationToken::new();
        let spawner = Spawner::detached(stop.clone());
        let kept: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let settings = global_cp::kds::Settings {
            border,
            ..global_cp::kds::Settings::default()
        };
        let kds = global_cp::kds::Kds::new(
            kept,
            Arc::new(believe),
            RealClock::shared(),
            spawner.clone(),
            settings,
            &mut Registry::default(),
        );
        let listener = net::bind(addr).await.expect("loopback has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let limits = net::Limits {
            drain: Duration::ZERO,
            ..net::Limits::default()
        };
        spawner.spawn(
            "serve",
            net::serve(listener, None, kds.routes(), limits, stop.clone()),
        );
        spawner.spawn("insights", kds.clone().keep_insights(stop.clone()));
        Self {
            store,
            kds,
            addr,
            stop,
        }
    }

    /// Ends it; the store stays.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Global {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Global {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Global")
            .field("addr", &self.addr)
            .finish_non_exhaustive()
    }
}

fn believe(caller: global_cp::kds::Caller<'_>) -> Result<ZoneName, Status> {
    caller
        .metadata
        .get("client-id")
        .and_then(|value| value.to_str().ok())
        .and_then(|name| name.parse().ok())
        .ok_or_else(|| Status::invalid_argument("no zone name"))
}

/// A zone's end of the connection, without proxies.
pub struct Zone {
    /// Its name.
    pub name: ZoneName,
    /// What it keeps.
    pub store: Arc<MemoryStore>,
    /// How far it has followed global.
    pub progress: watch::Receiver<GlobalProgress>,
    /// What its proxies answered.
    pub receipts: mpsc::Sender<ProxyReceipts>,
    /// The wire to global.
    pub relay: Relay,
    stop: CancellationToken,
}

impl Zone {
    /// Joins a global at an address.
    ///
    /// # Panics
    /// The name is none.
    pub async fn join(name: &str, store: Arc<MemoryStore>, global: SocketAddr) -> Self {
        Self::join_with(
            name,
            store,
            global,
            Border::default(),
            Arc::new(NoEnvoyAdmin),
        )
        .await
    }

    /// As [`Zone::join`], with more to say.
    ///
    /// # Panics
    /// The name is none.
    #[expect(clippy::expect_used, reason = "a test's own names are right")]
    pub async fn join_with(
        name: &str,
        store: Arc<MemoryStore>,
        global: SocketAddr,
        border: Border,
        admin: Arc<dyn EnvoyAdmin>,
    ) -> Self {
        let name: ZoneName = name.parse().expect("a zone name");
        let stop = CancellationToken::new();
        let relay = Relay::to(global, stop.clone()).await;
        let address = format!("grpc://{}", relay.addr)
            .parse()
            .expect("an address");
        let mut settings = zone_cp::kds::Settings::new(name.clone(), address, Trust::Anyone);
        settings.border = border;
        settings.retry = BackoffPolicy {
            ceiling: Duration::from_millis(200),
            ..BackoffPolicy::default()
        };
        let (receipts, receive) = mpsc::channel(16);
        let (progress, watched) = watch::channel(GlobalProgress::default());
        let kept: Arc<dyn Store> = Arc::clone(&store) as Arc<dyn Store>;
        let io = Io {
            receipts: receive,
            progress,
            admin,
        };
        let run = zone_cp::kds::run(settings, kept, RealClock::shared(), io, stop.clone());
        let run: BoxFuture<'static, ()> = Box::pin(run);
        Spawner::detached(stop.clone()).spawn("zone", run);
        Self {
            name,
            store,
            progress: watched,
            receipts,
            relay,
            stop,
        }
    }

    /// Waits until it is connected.
    pub async fn connected(&mut self) {
        until_published(&mut self.progress, |progress| {
            progress
                .connected
                .then_some(())
                .ok_or_else(|| "not connected".to_owned())
        })
        .await;
    }

    /// Ends it; the store stays.
    pub fn stop(&self) {
        self.stop.cancel();
    }
}

impl Drop for Zone {
    fn drop(&mut self) {
        self.stop.cancel();
    }
}

impl std::fmt::Debug for Zone {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Zone")
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// A wire that can be cut and that counts what goes over it.
#[derive(Debug)]
pub struct Relay {
    /// Where it listens.
    pub addr: SocketAddr,
    /// How often it was cut, and whether it is down.
    cuts: watch::Sender<(u64, bool)>,
    bytes: Arc<AtomicU64>,
}

impl Relay {
    #[expect(clippy::expect_used, reason = "without a listener no test can run")]
    async fn to(target: SocketAddr, stop: CancellationToken) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0))
            .await
            .expect("loopback has a free port");
        let addr = listener
            .local_addr()
            .expect("a bound listener has an address");
        let cuts = watch::Sender::new((0, false));
        let bytes = Arc::new(AtomicU64::new(0));
        let (cut, counted) = (cuts.clone(), Arc::clone(&bytes));
        let spawner = Spawner::detached(stop.clone());
        let inner = spawner.clone();
        spawner.spawn("relay", async move {
            loop {
                let accepted = tokio::select! {
                    () = stop.cancelled() => return,
                    accepted = listener.accept() => accepted,
                };
                let Ok((near, _)) = accepted else { continue };
                let mut cut = cut.subscribe();
                let (before, down) = *cut.borrow_and_update();
                if down {
                    continue;
                }
                let counted = Arc::clone(&counted);
                inner.spawn("wire", async move {
                    let Ok(far) = TcpStream::connect(target).await else {
                        return;
                    };
                    let (mut near_in, mut near_out) = near.into_split();
                    let (mut far_in, mut far_out) = far.into_split();
                    tokio::select! {
                        _ = cut.wait_for(|(count, _)| *count != before) => {}
                        () = copy(&mut near_in, &mut far_out, &counted) => {}
                        () = copy(&mut far_in, &mut near_out, &counted) => {}
                    }
                });
            }
        });
        Self { addr, cuts, bytes }
    }

    /// Cuts every connection; new ones go through.
    pub fn cut(&self) {
        self.cuts.send_modify(|(count, _)| *count += 1);
    }

    /// Cuts every connection and lets none through until it is mended.
    pub fn sever(&self) {
        self.cuts.send_modify(|(count, down)| {
            *count += 1;
            *down = true;
        });
    }

    /// Lets connections through again.
    pub fn mend(&self) {
        self.cuts.send_modify(|(_, down)| *down = false);
    }

    /// Bytes that went over it so far, both ways.
    #[must_use]
    pub fn bytes(&self) -> u64 {
        self.bytes.load(Ordering::Relaxed)
    }
}

async fn copy(
    from: &mut (impl AsyncReadExt + Unpin),
    to: &mut (impl AsyncWriteExt + Unpin),
    counted: &AtomicU64,
) {
    let mut buffer = vec![0; 16 << 10];
    while let Ok(length @ 1..) = from.read(&mut buffer).await {
        let Some(data) = buffer.get(..length) else {
            return;
        };
        counted.fetch_add(length as u64, Ordering::Relaxed);
        if to.write_all(data).await.is_err() {
            return;
        }
    }
}
