//! Accepts callers from one listener and hands each to a task of its own.

use std::fs::File;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::net::{TcpListener, TcpStream};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info, warn};
use zonal_process::Spawner;

use crate::metrics::Limit;
use crate::outcome::Reason;
use crate::proxy::Proxy;
use crate::socket;

/// After an error that is nobody's fault, long enough not to spin on it.
const PAUSE_AFTER_ERROR: Duration = Duration::from_millis(10);

/// One listener and what its callers are served with.
#[derive(Debug)]
pub struct Worker {
    listener: TcpListener,
    proxy: Arc<Proxy>,
    spawner: Spawner,
    /// Given up for a moment when descriptors run out, so that a waiting caller can be told.
    spare: Option<File>,
}

impl Worker {
    /// Takes a listener over. It has to be non-blocking.
    ///
    /// # Errors
    /// When the runtime cannot watch the socket.
    pub fn new(
        listener: std::net::TcpListener,
        proxy: Arc<Proxy>,
        spawner: Spawner,
    ) -> io::Result<Self> {
        let listener = TcpListener::from_std(listener)?;
        Ok(Self {
            listener,
            proxy,
            spawner,
            spare: spare(),
        })
    }

    /// The address callers reach.
    ///
    /// # Errors
    /// When the system does not say it.
    pub fn address(&self) -> io::Result<SocketAddr> {
        self.listener.local_addr()
    }

    /// Accepts until `stop`, then whoever is already waiting, and closes the listener.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            let Some(place) = self.place(&stop).await else {
                break;
            };
            let accepted = tokio::select! {
                biased;
                () = stop.cancelled() => break,
                accepted = self.listener.accept() => accepted,
            };
            match accepted {
                Ok((stream, from)) => self.start(stream, from, place),
                Err(error) => self.refused(&error).await,
            }
        }
        self.empty_queue();
    }

    /// A place for one more connection, or `None` when it is time to stop.
    async fn place(&self, stop: &CancellationToken) -> Option<OwnedSemaphorePermit> {
        if let Some(place) = self.proxy.descriptors.try_take() {
            return Some(place);
        }
        self.proxy.metrics.reached(Limit::Connections);
        tokio::select! {
            () = stop.cancelled() => None,
            place = self.proxy.descriptors.take() => place,
        }
    }

    fn start(&self, stream: TcpStream, from: SocketAddr, place: OwnedSemaphorePermit) {
        let proxy = Arc::clone(&self.proxy);
        // Ends with its connection; nobody else is concerned.
        let _handle = self.spawner.spawn("connection", async move {
            proxy.serve(stream, from).await;
            drop(place);
        });
    }

    async fn refused(&mut self, error: &io::Error) {
        if !socket::is_out_of_descriptors(error) {
            // The caller gave up while it waited, or the network is unwell: the next may be fine.
            debug!(%error, "a caller could not be accepted");
            tokio::time::sleep(PAUSE_AFTER_ERROR).await;
            return;
        }
        self.proxy.metrics.reached(Limit::Descriptors);
        warn!(
            hint = "raise the descriptor limit (`ulimit -n`) or lower `--connections-max`",
            "the system gave no descriptor for a caller",
        );
        // Without this the caller would hang in the queue and the listener would stay readable.
        drop(self.spare.take());
        if let Some(Ok((stream, _))) = futures::FutureExt::now_or_never(self.listener.accept()) {
            socket::reset(stream);
            self.proxy.metrics.accepted.inc();
            self.proxy.metrics.ended(Reason::NoDescriptor);
        }
        self.spare = spare();
        tokio::time::sleep(PAUSE_AFTER_ERROR).await;
    }

    /// Serves the callers that the kernel has already accepted: closing would reset them.
    fn empty_queue(self) {
        let Self {
            listener,
            proxy,
            spawner,
            spare,
        } = self;
        drop(spare);
        let listener = match listener.into_std() {
            Ok(listener) => listener,
            Err(error) => {
                warn!(%error, "the queue of a listener could not be emptied");
                return;
            }
        };
        let mut taken = 0_u32;
        while let Some(place) = proxy.descriptors.try_take() {
            let Ok((stream, from)) = listener.accept() else {
                break;
            };
            let stream = stream
                .set_nonblocking(true)
                .and_then(|()| TcpStream::from_std(stream));
            let Ok(stream) = stream else { continue };
            taken += 1;
            let proxy = Arc::clone(&proxy);
            // As above.
            let _handle = spawner.spawn("connection", async move {
                proxy.serve(stream, from).await;
                drop(place);
            });
        }
        info!(taken, "the listener is closed");
    }
}

fn spare() -> Option<File> {
    File::open("/dev/null").ok()
}
