//! The accept loop and one connection.

use std::net::SocketAddr;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::ConnectInfo;
use http::Request;
use hyper::body::Incoming;
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use hyper_util::server::conn::auto::Builder;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio_rustls::TlsAcceptor;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tower::ServiceExt;
use tracing::{debug, info, warn};

use super::PeerAddr;
use crate::metrics::ListenerMetrics;

/// What bounds a listener.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Connections open at once; further ones wait in the kernel's queue.
    pub connections_max: usize,
    /// Streams open at once on one HTTP/2 connection.
    pub streams_max: u32,
    /// How long a TLS handshake may take.
    pub handshake_timeout: Duration,
    /// How long an HTTP/1.1 client may take to send its headers.
    pub header_timeout: Duration,
    /// How often an HTTP/2 peer is asked whether it lives.
    pub keep_alive_interval: Duration,
    /// How long it may take to answer.
    pub keep_alive_timeout: Duration,
    /// How long requests may still run after the stop.
    pub drain: Duration,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            connections_max: 20_000,
            streams_max: 1_000,
            handshake_timeout: Duration::from_secs(10),
            header_timeout: Duration::from_secs(5),
            keep_alive_interval: Duration::from_secs(15),
            keep_alive_timeout: Duration::from_secs(15),
            drain: Duration::from_secs(10),
        }
    }
}

/// Why serving ended before the stop.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    #[error("the listener has no address: {0}")]
    NoAddress(std::io::Error),
}

/// Serves `router` on `listener` until `stop`, then drains. See [`serve_counted`].
///
/// # Errors
/// When the listener is unusable.
pub async fn serve(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
) -> Result<(), ServeError> {
    serve_counted(
        listener,
        tls,
        router,
        limits,
        stop,
        ListenerMetrics::default(),
    )
    .await
}

/// Serves `router` on `listener` until `stop`: HTTP/1.1 and HTTP/2, gRPC included, over TLS when `tls` is given
/// and in the clear (h2 with prior knowledge) otherwise.
///
/// A silent or slow client costs its own task and nothing else. After the stop clients are told to go; requests
/// that still run at the drain limit are cut. Long streams have to watch the stop themselves.
///
/// # Errors
/// When the listener is unusable.
pub async fn serve_counted(
    listener: TcpListener,
    tls: Option<Arc<rustls::ServerConfig>>,
    router: Router,
    limits: Limits,
    stop: CancellationToken,
    metrics: ListenerMetrics,
) -> Result<(), ServeError> {
    let local = listener.local_addr().map_err(ServeError::NoAddress)?;
    let permits = Arc::new(Semaphore::new(limits.connections_max));
    let connections = TaskTracker::new();
    let cut = CancellationToken::new();
    let shared = Arc::new(Shared {
        acceptor: tls.map(|config| DebugAs(TlsAcceptor::from(config))),
        router,
        limits,
        local,
        stop: stop.clone(),
        metrics,
    });
    loop {
        if permits.available_permits() == 0 {
            shared.metrics.full.inc();
            warn!(%local, max = limits.connections_max, "all connection permits are taken");
        }
        let permit = tokio::select! {
            () = stop.cancelled() => break,
            // Fails only for a closed semaphore, and nobody closes this one.
            permit = permits.clone().acquire_owned() => permit.ok(),
        };
        let accepted = tokio::select! {
            () = stop.cancelled() => break,
            accepted = listener.accept() => accepted,
        };
        let (stream, remote) = match accepted {
            Ok(accepted) => accepted,
            Err(error) => {
                // Out of descriptors or a connection that is gone already: neither may end the loop, and a short
                // pause keeps it from spinning.
                warn!(%local, %error, "could not accept a connection");
                tokio::time::sleep(ACCEPT_PAUSE).await;
                continue;
            }
        };
        shared.metrics.accepted.inc();
        let (shared, cut) = (shared.clone(), cut.clone());
        connections.spawn(async move {
            let _permit = permit;
            shared.metrics.open.inc();
            tokio::select! {
                () = cut.cancelled() => {}
                () = connection(&shared, stream, remote) => {}
            }
            shared.metrics.open.dec();
        });
    }
    drop(listener);
    connections.close();
    if tokio::time::timeout(limits.drain, connections.wait())
        .await
        .is_err()
    {
        info!(%local, cut = connections.len(), "connections did not finish in time and are cut");
        cut.cancel();
        connections.wait().await;
    }
    Ok(())
}

const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

#[derive(Debug)]
struct Shared {
    acceptor: Option<DebugAs<TlsAcceptor>>,
    router: Router,
    limits: Limits,
    local: SocketAddr,
    stop: CancellationToken,
    metrics: ListenerMetrics,
}

/// Gives a foreign type a plain `Debug`.
#[derive(Clone)]
struct DebugAs<T>(T);

impl<T> std::fmt::Debug for DebugAs<T> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("TlsAcceptor")
    }
}

async fn connection(shared: &Shared, stream: TcpStream, remote: SocketAddr) {
    // Small messages (an ACK) must not wait for the other side's delayed answer.
    if let Err(error) = stream.set_nodelay(true) {
        debug!(%remote, %error, "could not set no-delay");
    }
    let mut peer = PeerAddr {
        remote,
        local: stream.local_addr().unwrap_or(shared.local),
        tls: false,
        client_certificate: None,
        server_name: None,
    };
    let Some(DebugAs(acceptor)) = &shared.acceptor else {
        return http(shared, stream, peer).await;
    };
    let handshake = tokio::time::timeout(shared.limits.handshake_timeout, acceptor.accept(stream));
    let handshake = tokio::select! {
        () = shared.stop.cancelled() => return,
        handshake = handshake => handshake,
    };
    let stream = match handshake {
        Ok(Ok(stream)) => stream,
        Ok(Err(error)) => {
            shared.metrics.handshakes_failed.inc();
            debug!(%remote, %error, "TLS handshake failed");
            return;
        }
        Err(_elapsed) => {
            shared.metrics.handshakes_failed.inc();
            debug!(%remote, "TLS handshake took too long");
            return;
        }
    };
    let session = stream.get_ref().1;
    peer.tls = true;
    peer.server_name = session.server_name().map(Arc::from);
    peer.client_certificate = session
        .peer_certificates()
        .and_then(<[_]>::first)
        .map(|certificate| Arc::from(certificate.as_ref()));
    http(shared, stream, peer).await;
}

async fn http(
    shared: &Shared,
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: PeerAddr,
) {
    let limits = &shared.limits;
    let mut builder = Builder::new(TokioExecutor::new());
    builder
        .http1()
        .timer(TokioTimer::new())
        .header_read_timeout(limits.header_timeout);
    builder
        .http2()
        .timer(TokioTimer::new())
        .keep_alive_interval(limits.keep_alive_interval)
        .keep_alive_timeout(limits.keep_alive_timeout)
        .max_concurrent_streams(limits.streams_max)
        .initial_stream_window_size(WINDOW_BYTES)
        .initial_connection_window_size(WINDOW_BYTES * 4);
    let remote = peer.remote;
    let router = shared.router.clone();
    let service = hyper::service::service_fn(move |mut request: Request<Incoming>| {
        request.extensions_mut().insert(peer.clone());
        request.extensions_mut().insert(ConnectInfo(peer.remote));
        router.clone().oneshot(request)
    });
    let mut connection =
        pin!(builder.serve_connection_with_upgrades(TokioIo::new(stream), service));
    let ended = tokio::select! {
        ended = connection.as_mut() => ended,
        () = shared.stop.cancelled() => {
            connection.as_mut().graceful_shutdown();
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%remote, %error, "connection ended");
    }
}

/// Room for a few large resources in flight on one stream.
const WINDOW_BYTES: u32 = 1 << 20;
