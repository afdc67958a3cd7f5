//! The life of one connection: hello, route, connect, bytes, end.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use tokio::io::AsyncWriteExt;
use tokio::net::TcpStream;
use tokio_util::sync::CancellationToken;
use tracing::{debug, info};

use crate::buffers::Buffers;
use crate::connection::{Connection, Connections, Direction, Listed};
use crate::copy::{Broken, Flow};
use crate::gate::{Descriptors, Evicted, Hellos};
use crate::hello::{Hello, Parser, Sni};
use crate::limits::Limits;
use crate::metrics::{Limit, Metrics};
use crate::outcome::{Outcome, Reason};
use crate::routes::{Endpoint, Ledger, LoadGuard, Route, Routes, source_of};
use crate::socket;
use crate::times::Times;

/// What every worker and connection shares.
#[derive(Debug)]
pub struct Proxy {
    pub limits: Limits,
    pub routes: Arc<Routes>,
    pub ledger: Arc<Ledger>,
    pub connections: Connections,
    pub descriptors: Descriptors,
    pub hellos: Hellos,
    pub metrics: Metrics,
    pub times: Times,
    /// Cancelled when the drain time is over: what is still open is cut.
    pub cut: CancellationToken,
    buffers: Buffers,
    next_id: AtomicU64,
    seed: u64,
    ports_exhausted: socket::PortWatch,
}

/// An established way from a caller to an endpoint.
struct Way {
    service: TcpStream,
    endpoint: SocketAddr,
    load: LoadGuard,
}

impl Proxy {
    /// Puts a data path together. `descriptor_limit` is what the system allows this process.
    pub fn new(
        limits: Limits,
        descriptor_limit: u64,
        routes: Arc<Routes>,
        metrics: Metrics,
        times: Times,
        seed: u64,
    ) -> Self {
        let descriptors = limits.connections_max.map_or_else(
            || Descriptors::within(descriptor_limit),
            Descriptors::for_connections,
        );
        let hellos_max = limits
            .hellos_max
            .unwrap_or(descriptors.connections_max() / 10);
        Self {
            hellos: Hellos::new(hellos_max, limits.hellos_per_source_max),
            buffers: Buffers::new(limits.buffer_bytes),
            limits,
            routes,
            ledger: Arc::default(),
            connections: Connections::default(),
            descriptors,
            metrics,
            times,
            cut: CancellationToken::new(),
            next_id: AtomicU64::new(1),
            seed,
            ports_exhausted: socket::PortWatch::default(),
        }
    }

    /// Serves one caller until its connection ends.
    pub async fn serve(&self, mut caller: TcpStream, from: SocketAddr) {
        let id = self.next_id.fetch_add(1, Ordering::Relaxed);
        let accepted = self.times.now();
        self.metrics.accepted.inc();
        self.metrics.open.inc();
        socket::tune(&caller, &self.limits);

        let (sni, reason) = match self.hello(&mut caller, from).await {
            Err(reason) => (None, reason),
            Ok((sni, first)) => {
                let heard = self.times.now();
                self.metrics
                    .hello_seconds
                    .observe((heard - accepted).as_secs_f64());
                let reason = self.route(id, caller, from, &sni, &first).await;
                self.metrics.open.dec();
                self.metrics.ended(reason);
                return;
            }
        };
        socket::reset(caller);
        self.metrics.open.dec();
        self.metrics.ended(reason);
        log_unserved(id, from, sni, reason);
    }

    /// Reads until the hello is decided; gives the name and everything that was read.
    async fn hello(
        &self,
        caller: &mut TcpStream,
        from: SocketAddr,
    ) -> Result<(Sni, Vec<u8>), Reason> {
        let (place, evicted) = self.hellos.admit(source_of(from));
        match evicted {
            Evicted::Nobody => {}
            Evicted::OldestOfSource => self.metrics.reached(Limit::HellosPerSource),
            Evicted::OldestOfAll => self.metrics.reached(Limit::Hellos),
        }
        self.metrics.hellos_open.inc();
        let heard = tokio::select! {
            biased;
            () = place.evicted.cancelled() => Err(Reason::HelloEvicted),
            () = self.cut.cancelled() => Err(Reason::Cut),
            heard = tokio::time::timeout(self.limits.hello_timeout, self.listen(caller)) => {
                heard.unwrap_or(Err(Reason::HelloTimeout))
            }
        };
        self.metrics.hellos_open.dec();
        heard
    }

    async fn listen(&self, caller: &mut TcpStream) -> Result<(Sni, Vec<u8>), Reason> {
        let mut parser = Parser::new(self.limits.hello_bytes_max);
        let mut held = Vec::new();
        loop {
            // Only what was received is held: a silent caller costs no buffer.
            caller
                .readable()
                .await
                .map_err(|_gone| Reason::HelloAbandoned)?;
            let mut buffer = self.buffers.take();
            let bytes = match caller.try_read(&mut buffer) {
                Ok(0) => return Err(Reason::HelloAbandoned),
                Ok(bytes) => bytes,
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => continue,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(_gone) => return Err(Reason::HelloAbandoned),
            };
            let read = buffer.get(..bytes).unwrap_or_default();
            held.reserve_exact(read.len());
            held.extend_from_slice(read);
            drop(buffer);
            return Err(match parser.advance(&held) {
                Hello::NeedMore => continue,
                Hello::Named(sni) => return Ok((sni, held)),
                Hello::Unnamed => Reason::NoName,
                Hello::BadName => Reason::BadName,
                Hello::Malformed => Reason::MalformedHello,
                Hello::TooLong => Reason::HelloTooLong,
                Hello::NotTls => Reason::NotTls,
            });
        }
    }

    /// Takes a named caller to its service.
    async fn route(
        &self,
        id: u64,
        mut caller: TcpStream,
        from: SocketAddr,
        sni: &Sni,
        first: &[u8],
    ) -> Reason {
        let (route, way) = match self.way(id, sni).await {
            Ok(found) => found,
            Err(reason) => {
                socket::reset(caller);
                log_unserved(id, from, Some(sni), reason);
                return reason;
            }
        };
        let Way {
            mut service,
            endpoint,
            load,
        } = way;
        let traffic = self.ledger.of(&route);
        let ends = (from, endpoint);
        let listed = self
            .connections
            .open(id, sni.clone(), ends, traffic, self.times.now());
        let reason = self
            .carry(
                &mut caller,
                &mut service,
                (listed.connection(), &route),
                first,
            )
            .await;
        match reason {
            Reason::Finished => drop((caller, service)),
            // A broken stream must not look like a complete one on the other side.
            _ => {
                socket::reset(caller);
                socket::reset(service);
            }
        }
        drop(load);
        self.log_served(&listed, &route, reason);
        reason
    }

    async fn way(&self, id: u64, sni: &Sni) -> Result<(Arc<Route>, Way), Reason> {
        let (route, endpoints) = self.routes.find(sni).ok_or(Reason::NoRoute)?;
        let endpoints = endpoints.ok_or(Reason::NoEndpoint)?;
        let mut chance =
            fastrand::Rng::with_seed(self.seed ^ id.wrapping_mul(0x9e37_79b9_7f4a_7c15));
        let started = self.times.now();
        let first = endpoints
            .pick(None, started, &mut chance)
            .ok_or(Reason::NoEndpoint)?;
        let way = match self.connect(first).await {
            Ok(way) => way,
            Err(reason) => {
                // Nothing was sent yet, so another endpoint may have the connection.
                let tried = Some(first.placed.address);
                let second = endpoints
                    .pick(tried, self.times.now(), &mut chance)
                    .ok_or(reason)?;
                self.metrics.connect_retries.inc();
                self.connect(second).await?
            }
        };
        self.metrics
            .connect_seconds
            .observe((self.times.now() - started).as_secs_f64());
        Ok((route, way))
    }

    async fn connect(&self, endpoint: &Endpoint) -> Result<Way, Reason> {
        // Counted from here, so that a burst of callers spreads before the first one is through.
        let load = endpoint.load.hold();
        let address = endpoint.placed.address;
        let connecting = tokio::select! {
            () = self.cut.cancelled() => return Err(Reason::Cut),
            connecting = tokio::time::timeout(self.limits.connect_timeout, TcpStream::connect(address)) => connecting,
        };
        let reason = match connecting {
            Ok(Ok(service)) => {
                endpoint.load.succeeded();
                socket::tune(&service, &self.limits);
                return Ok(Way {
                    service,
                    endpoint: address,
                    load,
                });
            }
            Ok(Err(error)) if error.kind() == io::ErrorKind::AddrNotAvailable => {
                self.metrics.reached(Limit::LocalPorts);
                self.ports_exhausted.noticed(address, self.times.now());
                return Err(Reason::PortsExhausted);
            }
            Ok(Err(error)) if socket::is_out_of_descriptors(&error) => {
                self.metrics.reached(Limit::Descriptors);
                return Err(Reason::NoDescriptor);
            }
            Ok(Err(error)) => {
                debug!(endpoint = %address, %error, "an endpoint did not take a connection");
                Reason::ConnectFailed
            }
            Err(_elapsed) => {
                debug!(endpoint = %address, "an endpoint did not answer in time");
                Reason::ConnectTimeout
            }
        };
        endpoint.load.failed(self.times.now());
        Err(reason)
    }

    /// Moves the hello and then everything else, until the sides, time or we end it.
    async fn carry(
        &self,
        caller: &mut TcpStream,
        service: &mut TcpStream,
        (connection, route): (&Connection, &Route),
        first: &[u8],
    ) -> Reason {
        let flow = Flow {
            connection,
            buffers: &self.buffers,
            times: &self.times,
        };
        let moving = async {
            let mut rest = first;
            while !rest.is_empty() {
                let written = service.write(rest).await.map_err(Broken::Service)?;
                connection.moved(Direction::ToService, written, self.times.now());
                rest = rest.get(written..).unwrap_or_default();
            }
            flow.both_ways(caller, service).await
        };
        tokio::select! {
            moved = moving => match moved {
                Ok(()) => Reason::Finished,
                Err(Broken::Caller(error)) => {
                    debug!(%error, "the caller broke the connection");
                    Reason::CallerReset
                }
                Err(Broken::Service(error)) => {
                    debug!(%error, "the service broke the connection");
                    Reason::ServiceReset
                }
            },
            reason = self.idle(connection, route) => reason,
            () = self.cut.cancelled() => Reason::Cut,
        }
    }

    /// Completes when nothing has moved for too long. Wakes a few times per timeout, not per byte.
    async fn idle(&self, connection: &Connection, route: &Route) -> Reason {
        let idle_timeout = route.idle_timeout.unwrap_or(self.limits.idle_timeout);
        loop {
            let (limit, reason) = if connection.is_half_closed() {
                (
                    self.limits.half_open_timeout.min(idle_timeout),
                    Reason::HalfOpen,
                )
            } else {
                (idle_timeout, Reason::Idle)
            };
            let deadline = connection.stirred_at() + limit;
            let left = deadline.saturating_sub(self.times.now());
            if left.is_zero() {
                return reason;
            }
            // A side may finish meanwhile, which shortens the time that is left.
            let nap = left
                .min(self.limits.half_open_timeout)
                .max(Duration::from_millis(1));
            tokio::time::sleep(nap).await;
        }
    }

    fn log_served(&self, listed: &Listed, route: &Route, reason: Reason) {
        let connection = listed.connection();
        let open = self.times.now().saturating_sub(connection.opened_at);
        info!(
            target: "access",
            connection = connection.id,
            sni = %connection.sni,
            service = %route.service,
            caller = %connection.caller,
            endpoint = %connection.endpoint,
            bytes_to_service = connection.bytes(Direction::ToService),
            bytes_to_caller = connection.bytes(Direction::ToCaller),
            duration_ms = u64::try_from(open.as_millis()).unwrap_or(u64::MAX),
            result = reason.outcome().as_str(),
            reason = reason.as_str(),
            "connection ended",
        );
    }
}

fn log_unserved(id: u64, caller: SocketAddr, sni: Option<&Sni>, reason: Reason) {
    let sni = sni.map(Sni::as_str);
    let (result, word) = (reason.outcome().as_str(), reason.as_str());
    // Callers choose how often they are refused, so refusals are counted, and told only on request.
    if reason.outcome() == Outcome::Refused {
        debug!(target: "access", connection = id, %caller, sni, result, reason = word, "connection refused");
    } else {
        info!(target: "access", connection = id, %caller, sni, result, reason = word, "connection not served");
    }
}
