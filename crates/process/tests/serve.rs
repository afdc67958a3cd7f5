//! The accept loop over real loopback sockets.
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::routing::get;
use axum::{Extension, Router};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::{TokioExecutor, TokioIo};
use rustls_pki_types::ServerName;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use zonal_process::net::{self, Limits, PeerAddr};
use zonal_process::tls::{Fingerprint, ServerIdentity, Trust, client_config};
use zonal_process::{CancellationToken, Clock, RealClock};

const PATIENCE: Duration = Duration::from_secs(30);

fn loopback() -> SocketAddr {
    SocketAddr::from(([127, 0, 0, 1], 0))
}

fn router() -> Router {
    Router::new().route(
        "/who",
        get(|Extension(peer): Extension<PeerAddr>| async move {
            format!(
                "tls={} loopback={}",
                peer.tls,
                peer.remote.ip().is_loopback()
            )
        }),
    )
}

struct Server {
    addr: SocketAddr,
    stop: CancellationToken,
    task: tokio::task::JoinHandle<()>,
}

async fn start(tls: Option<Arc<rustls::ServerConfig>>, router: Router, limits: Limits) -> Server {
    let listener = net::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let stop = CancellationToken::new();
    let served = net::serve(listener, tls, router, limits, stop.clone());
    let task = tokio::spawn(async move { served.await.unwrap() });
    Server { addr, stop, task }
}

impl Server {
    async fn finish(self) {
        self.stop.cancel();
        tokio::time::timeout(PATIENCE, self.task)
            .await
            .expect("drains in time")
            .unwrap();
    }
}

async fn get_http1(stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin) -> String {
    let mut stream = stream;
    stream
        .write_all(b"GET /who HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
        .await
        .unwrap();
    let mut answer = String::new();
    // A server may close without the TLS goodbye; what it said counts.
    let _bytes = stream.read_to_string(&mut answer).await;
    answer
}

async fn get_http2(
    stream: impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Unpin + Send + 'static,
) -> String {
    let (mut sender, connection) =
        hyper::client::conn::http2::handshake(TokioExecutor::new(), TokioIo::new(stream))
            .await
            .unwrap();
    let driver = tokio::spawn(connection);
    let request = http::Request::get("http://x/who")
        .body(Empty::<bytes::Bytes>::new())
        .unwrap();
    let answer = sender.send_request(request).await.unwrap();
    let body = answer.into_body().collect().await.unwrap().to_bytes();
    drop(sender);
    driver.abort();
    String::from_utf8(body.to_vec()).unwrap()
}

async fn dial(
    addr: SocketAddr,
    trust: &Trust,
    protocol: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    let connector = TlsConnector::from(Arc::new(client_config(trust, &[protocol]).unwrap()));
    let stream = TcpStream::connect(addr).await.unwrap();
    connector
        .connect(ServerName::try_from("localhost").unwrap(), stream)
        .await
}

#[tokio::test]
async fn one_plain_port_speaks_both_versions() {
    let server = start(None, router(), Limits::default()).await;
    let answer = get_http1(TcpStream::connect(server.addr).await.unwrap()).await;
    assert!(
        answer.contains("200 OK") && answer.contains("tls=false loopback=true"),
        "{answer}"
    );
    let answer = get_http2(TcpStream::connect(server.addr).await.unwrap()).await;
    assert_eq!(answer, "tls=false loopback=true");
    server.finish().await;
}

#[tokio::test]
async fn tls_port_speaks_both_versions_and_clients_choose_whom_to_trust() {
    let dir = tempfile::tempdir().unwrap();
    let identity =
        ServerIdentity::load_or_create(dir.path(), &["cp.example".to_owned()], RealClock.wall())
            .unwrap();
    let server = start(
        Some(identity.server_config().unwrap()),
        router(),
        Limits::default(),
    )
    .await;

    for trust in [
        Trust::Authorities(identity.chain_pem().to_string()),
        Trust::AuthorityFile(identity.certificate_file().to_owned()),
        Trust::Pinned(identity.fingerprint()),
        Trust::Anyone,
    ] {
        let answer = get_http1(dial(server.addr, &trust, "http/1.1").await.unwrap()).await;
        assert!(answer.contains("tls=true"), "{trust:?}: {answer}");
        let answer = get_http2(dial(server.addr, &trust, "h2").await.unwrap()).await;
        assert_eq!(answer, "tls=true loopback=true", "{trust:?}");
    }
    let stranger = Trust::Pinned(Fingerprint::of(b"other"));
    let error = dial(server.addr, &stranger, "h2").await.unwrap_err();
    assert!(error.to_string().contains("pinned is"), "{error}");

    let again = ServerIdentity::load_or_create(dir.path(), &[], RealClock.wall()).unwrap();
    assert_eq!(
        again.fingerprint(),
        identity.fingerprint(),
        "kept over a restart"
    );
    server.finish().await;
}

#[tokio::test]
async fn changed_files_are_served_without_a_restart() {
    let (dir, other) = (tempfile::tempdir().unwrap(), tempfile::tempdir().unwrap());
    let identity = ServerIdentity::load_or_create(dir.path(), &[], RealClock.wall()).unwrap();
    let server = start(
        Some(identity.server_config().unwrap()),
        router(),
        Limits::default(),
    )
    .await;
    assert!(!identity.reload().unwrap());

    let next = ServerIdentity::load_or_create(other.path(), &[], RealClock.wall()).unwrap();
    std::fs::write(dir.path().join("tls.key"), "rubbish").unwrap();
    assert!(
        identity.reload().is_err(),
        "a bad file keeps the old certificate"
    );
    let old = Trust::Pinned(identity.fingerprint());
    drop(dial(server.addr, &old, "h2").await.unwrap());
    for file in ["tls.key", "tls.crt"] {
        std::fs::copy(other.path().join(file), dir.path().join(file)).unwrap();
    }
    assert!(identity.reload().unwrap());
    drop(
        dial(server.addr, &Trust::Pinned(next.fingerprint()), "h2")
            .await
            .unwrap(),
    );
    assert!(dial(server.addr, &old, "h2").await.is_err());
    server.finish().await;
}

#[tokio::test]
async fn silent_client_holds_nobody_up() {
    let dir = tempfile::tempdir().unwrap();
    let identity = ServerIdentity::load_or_create(dir.path(), &[], RealClock.wall()).unwrap();
    let server = start(
        Some(identity.server_config().unwrap()),
        router(),
        Limits::default(),
    )
    .await;
    let silent = TcpStream::connect(server.addr).await.unwrap();
    let answer = get_http1(dial(server.addr, &Trust::Anyone, "http/1.1").await.unwrap()).await;
    assert!(answer.contains("200 OK"), "{answer}");
    server.finish().await;
    drop(silent);
}

#[tokio::test]
async fn running_request_finishes_after_the_stop_and_an_endless_one_is_cut() {
    let (started, mut entered) = tokio::sync::mpsc::channel::<()>(4);
    let release = CancellationToken::new();
    let (slow_started, slow_release) = (started.clone(), release.clone());
    let router = Router::new()
        .route(
            "/slow",
            get(move || async move {
                slow_started.send(()).await.unwrap();
                slow_release.cancelled().await;
                "done"
            }),
        )
        .route(
            "/endless",
            get(move || async move {
                started.send(()).await.unwrap();
                std::future::pending::<&str>().await
            }),
        );
    let limits = Limits {
        drain: Duration::from_millis(300),
        ..Limits::default()
    };
    let server = start(None, router, limits).await;
    let mut slow = TcpStream::connect(server.addr).await.unwrap();
    slow.write_all(b"GET /slow HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    let mut endless = TcpStream::connect(server.addr).await.unwrap();
    endless
        .write_all(b"GET /endless HTTP/1.1\r\nhost: x\r\n\r\n")
        .await
        .unwrap();
    entered.recv().await.unwrap();
    entered.recv().await.unwrap();
    server.stop.cancel();
    release.cancel();
    let mut answer = String::new();
    slow.read_to_string(&mut answer).await.unwrap();
    assert!(answer.ends_with("done"), "{answer}");
    server.finish().await;
    let mut cut = String::new();
    let _ended = endless.read_to_string(&mut cut).await;
    assert_eq!(cut, "");
}

#[tokio::test]
async fn taken_port_says_how_to_find_its_owner() {
    let listener = net::bind(loopback()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let error = net::bind(addr).await.unwrap_err().to_string();
    assert!(
        error.contains("address in use") && error.contains("ss -ltnp"),
        "{error}"
    );
}

#[tokio::test]
async fn dialer_reaches_both_kinds_of_ports() {
    let dir = tempfile::tempdir().unwrap();
    let identity = ServerIdentity::load_or_create(dir.path(), &[], RealClock.wall()).unwrap();
    let secure = start(
        Some(identity.server_config().unwrap()),
        router(),
        Limits::default(),
    )
    .await;
    let plain = start(None, router(), Limits::default()).await;
    let dialer = net::Dialer::new(&Trust::Authorities(identity.chain_pem().to_string())).unwrap();
    for (address, want) in [
        (
            format!("grpcs://localhost:{}", secure.addr.port()),
            "tls=true loopback=true",
        ),
        (
            format!("https://127.0.0.1:{}", secure.addr.port()),
            "tls=true loopback=true",
        ),
        (format!("http://{}", plain.addr), "tls=false loopback=true"),
    ] {
        let stream = dialer.connect(&address.parse().unwrap()).await.unwrap();
        assert_eq!(get_http2(stream).await, want, "{address}");
    }
    let error = dialer
        .connect(&"ftp://x".parse().unwrap())
        .await
        .unwrap_err()
        .to_string();
    assert!(error.contains("cannot dial `ftp://x/`"), "{error}");
    secure.finish().await;
    plain.finish().await;
}
