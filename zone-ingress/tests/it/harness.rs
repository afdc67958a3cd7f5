//! An ingress in this process, services to reach through it, and callers.

use std::future::Future;
use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpSocket, TcpStream};
use zonal_process::{CancellationToken, RealClock, Spawner};
use zone_ingress::hello::Sni;
use zone_ingress::limits::Limits;
use zone_ingress::metrics::Metrics;
use zone_ingress::outcome::Reason;
use zone_ingress::proxy::Proxy;
use zone_ingress::routes::{Endpoints, Health, LoadBook, Placed, Route, RouteTable, Routes};
use zone_ingress::times::Times;
use zone_ingress::worker::Worker;

/// Long enough for the slowest machine; nothing waits this long when all is well.
const DEADLINE: Duration = Duration::from_secs(60);

/// Waits for something that must happen.
#[track_caller]
pub(crate) fn within<F: Future>(what: &str, work: F) -> impl Future<Output = F::Output> {
    let at = std::panic::Location::caller();
    async move {
        let done = tokio::time::timeout(DEADLINE, work).await;
        done.unwrap_or_else(|_| panic!("{at}: {what} did not happen"))
    }
}

/// Waits until a condition holds; on failure tells the last thing it saw.
#[track_caller]
pub(crate) fn eventually<T: PartialEq + std::fmt::Debug>(
    what: &str,
    want: T,
    mut see: impl FnMut() -> T,
) -> impl Future<Output = ()> {
    let at = std::panic::Location::caller();
    async move {
        let deadline = tokio::time::Instant::now() + DEADLINE;
        loop {
            let seen = see();
            if seen == want {
                return;
            }
            assert!(
                tokio::time::Instant::now() < deadline,
                "{at}: {what}: wanted {want:?}, last saw {seen:?}"
            );
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
    }
}

pub(crate) struct Ingress {
    pub(crate) address: SocketAddr,
    pub(crate) proxy: Arc<Proxy>,
    pub(crate) stop: CancellationToken,
    loads: LoadBook,
}

impl Ingress {
    pub(crate) fn start(limits: Limits) -> Self {
        let listener = zone_ingress::socket::listen(([127, 0, 0, 1], 0).into(), false).unwrap();
        Self::on(listener, limits)
    }

    pub(crate) fn on(listener: std::net::TcpListener, limits: Limits) -> Self {
        let stop = CancellationToken::new();
        let proxy = Arc::new(Proxy::new(
            limits,
            20_000,
            Arc::new(Routes::default()),
            Metrics::register(&mut zonal_process::metrics::Registry::default()),
            Times::new(RealClock::shared()),
            7,
        ));
        let spawner = Spawner::detached(stop.clone());
        let worker = Worker::new(listener, Arc::clone(&proxy), spawner.clone()).unwrap();
        let address = worker.address().unwrap();
        drop(spawner.spawn("worker", worker.run(stop.clone())));
        Self {
            address,
            proxy,
            stop,
            loads: LoadBook::default(),
        }
    }

    /// Routes a name to endpoints, in place of whatever it was routed to.
    pub(crate) fn route(&self, name: &str, endpoints: &[SocketAddr]) {
        let mut table = RouteTable::clone(&self.proxy.routes.load());
        let sni = Sni::new(name).unwrap();
        let placed = endpoints.iter().map(|address| Placed {
            address: *address,
            weight: 1,
            health: Health::Healthy,
            priority: 0,
            zone: String::new(),
        });
        let cluster: Arc<str> = name.into();
        table.clusters.insert(
            cluster.clone(),
            Arc::new(Endpoints::new(placed, &self.loads)),
        );
        let service = cluster.clone();
        let route = Route {
            sni: sni.clone(),
            cluster,
            service,
            mesh: "default".into(),
            idle_timeout: None,
        };
        table.routes.insert(sni, Arc::new(route));
        self.proxy.routes.publish(table);
    }

    pub(crate) fn unroute(&self, name: &str) {
        let mut table = RouteTable::clone(&self.proxy.routes.load());
        table.routes.remove(name);
        self.proxy.routes.publish(table);
    }

    pub(crate) async fn call(&self) -> TcpStream {
        within("a caller's connect", TcpStream::connect(self.address))
            .await
            .unwrap()
    }

    /// A caller whose hello for `name` is sent.
    pub(crate) async fn hail(&self, name: &str) -> TcpStream {
        let mut caller = self.call().await;
        caller.write_all(&hello(name)).await.unwrap();
        caller
    }

    pub(crate) async fn call_from(&self, source: [u8; 4]) -> TcpStream {
        let socket = TcpSocket::new_v4().unwrap();
        socket.bind((source, 0).into()).unwrap();
        within("a caller's connect", socket.connect(self.address))
            .await
            .unwrap()
    }

    #[track_caller]
    pub(crate) fn ended(&self, reason: Reason, count: u64) -> impl Future<Output = ()> {
        let metrics = self.proxy.metrics.clone();
        eventually(reason.as_str(), count, move || metrics.ended_for(reason))
    }
}

impl Drop for Ingress {
    fn drop(&mut self) {
        self.stop.cancel();
        self.proxy.cut.cancel();
    }
}

/// A service behind the ingress.
pub(crate) struct Service {
    pub(crate) address: SocketAddr,
    listener: TcpListener,
}

impl Service {
    pub(crate) async fn start() -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        Self {
            address: listener.local_addr().unwrap(),
            listener,
        }
    }

    /// The next connection, after its hello arrived unchanged.
    pub(crate) async fn greeted(&self, name: &str) -> TcpStream {
        let mut stream = self.accept().await;
        assert_eq!(
            read_exactly(&mut stream, hello(name).len()).await,
            hello(name)
        );
        stream
    }

    pub(crate) async fn accept(&self) -> TcpStream {
        within("a connection at the service", self.listener.accept())
            .await
            .unwrap()
            .0
    }

    /// Answers every connection with what it says, for as long as the test runs.
    pub(crate) fn echo(self) -> SocketAddr {
        let address = self.address;
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = self.listener.accept().await {
                tokio::spawn(async move {
                    let (mut from, mut to) = stream.split();
                    let _ended = tokio::io::copy(&mut from, &mut to).await;
                    let _ended = to.shutdown().await;
                });
            }
        });
        address
    }
}

/// An address where nobody listens.
pub(crate) async fn nobody() -> SocketAddr {
    Service::start().await.address
}

pub(crate) async fn read_exactly(stream: &mut TcpStream, count: usize) -> Vec<u8> {
    let mut bytes = vec![0; count];
    within("bytes", stream.read_exact(&mut bytes))
        .await
        .unwrap();
    bytes
}

pub(crate) async fn read_to_end(stream: &mut TcpStream) -> Vec<u8> {
    let mut bytes = Vec::new();
    within("the end of a stream", stream.read_to_end(&mut bytes))
        .await
        .unwrap();
    bytes
}

/// Expects that nothing comes and the connection is reset.
pub(crate) async fn expect_reset(stream: &mut TcpStream) {
    let mut bytes = Vec::new();
    let end = within("a reset", stream.read_to_end(&mut bytes)).await;
    assert_eq!(
        end.map_err(|error| error.kind()),
        Err(io::ErrorKind::ConnectionReset)
    );
    assert_eq!(bytes, b"");
}

/// Expects that bytes sent by one side arrive at the other.
pub(crate) async fn expect_through(from: &mut TcpStream, to: &mut TcpStream, bytes: &[u8]) {
    within("a write", from.write_all(bytes)).await.unwrap();
    assert_eq!(read_exactly(to, bytes.len()).await, bytes);
}

/// A TLS 1.2-shaped hello that names its server.
pub(crate) fn hello(name: &str) -> Vec<u8> {
    let message = handshake(name);
    let mut record = vec![22, 3, 1];
    record.extend((message.len() as u16).to_be_bytes());
    record.extend(message);
    record
}

pub(crate) fn handshake(name: &str) -> Vec<u8> {
    let mut list = vec![0];
    list.extend((name.len() as u16).to_be_bytes());
    list.extend(name.as_bytes());
    let mut extension = (list.len() as u16).to_be_bytes().to_vec();
    extension.extend(list);
    let mut extensions = vec![0x0a, 0x0a, 0, 1, 0, 0, 0];
    extensions.extend((extension.len() as u16).to_be_bytes());
    extensions.extend(extension);
    let mut body = vec![3, 3];
    body.extend([9; 32]);
    body.extend([0, 0, 2, 0xc0, 0x2f, 1, 0]);
    body.extend((extensions.len() as u16).to_be_bytes());
    body.extend(extensions);
    let mut message = vec![1, 0];
    message.extend((body.len() as u16).to_be_bytes());
    message.extend(body);
    message
}

/// Cuts a handshake into records of `size` bytes.
pub(crate) fn records(handshake: &[u8], size: usize) -> Vec<u8> {
    let mut out = Vec::new();
    for fragment in handshake.chunks(size) {
        out.extend([22, 3, 1]);
        out.extend((fragment.len() as u16).to_be_bytes());
        out.extend(fragment);
    }
    out
}

/// Bytes that tell lost, doubled and moved ones from right ones: a random block of prime length,
/// repeated.
pub(crate) struct Pattern(Vec<u8>);

impl Pattern {
    pub(crate) fn new(seed: u64) -> Self {
        let mut chance = fastrand::Rng::with_seed(seed);
        Self((0..1_048_573).map(|_| chance.u8(..)).collect())
    }

    /// A piece that starts at `position`, at most `max` bytes.
    pub(crate) fn piece(&self, position: usize, max: usize) -> &[u8] {
        let start = position % self.0.len();
        let end = (start + max).min(self.0.len());
        &self.0[start..end]
    }

    /// Expects `bytes` to be what stands at `position`.
    pub(crate) fn expect(&self, mut position: usize, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let piece = self.piece(position, bytes.len());
            assert!(
                bytes[..piece.len()] == *piece,
                "other bytes than sent at {position}"
            );
            position += piece.len();
            bytes = &bytes[piece.len()..];
        }
    }
}
