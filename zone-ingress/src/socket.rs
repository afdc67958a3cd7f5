//! What we ask of the kernel for each socket.

use std::io;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, TcpKeepalive, Type};
use tokio::net::TcpStream;
use tracing::{debug, warn};

use crate::limits::Limits;

/// Callers the kernel may keep for us; its own ceiling is usually 4,096.
const BACKLOG: i32 = 4096;

/// Binds one listener. With `shared`, several sockets or processes may bind the same address.
///
/// # Errors
/// What the system says, with the address and a hint when it is in use.
pub fn listen(address: SocketAddr, shared: bool) -> Result<std::net::TcpListener, BindError> {
    let bind = || {
        let socket = Socket::new(
            Domain::for_address(address),
            Type::STREAM,
            Some(Protocol::TCP),
        )?;
        socket.set_reuse_address(true)?;
        if shared {
            socket.set_reuse_port(true)?;
        }
        if address.is_ipv6() {
            socket.set_only_v6(false)?;
        }
        socket.set_nonblocking(true)?;
        socket.bind(&address.into())?;
        socket.listen(BACKLOG)?;
        Ok(socket.into())
    };
    bind().map_err(|cause| BindError { address, cause })
}

/// A listener could not be had.
#[derive(Debug, thiserror::Error)]
#[error("cannot listen on `{address}` (who does: `ss -ltnp 'sport = :{}'`)", .address.port())]
pub struct BindError {
    address: SocketAddr,
    #[source]
    cause: io::Error,
}

/// Sets what every connection has on both legs. A refused option costs speed, never the connection.
pub(crate) fn tune(stream: &TcpStream, limits: &Limits) {
    let socket = SockRef::from(stream);
    let alive = TcpKeepalive::new()
        .with_time(limits.keep_alive)
        .with_interval(limits.keep_alive);
    let set = socket
        .set_tcp_nodelay(true)
        .and_then(|()| socket.set_tcp_keepalive(&alive))
        .and_then(|()| socket.set_tcp_user_timeout(Some(limits.user_timeout)));
    if let Err(error) = set {
        debug!(%error, "a socket option was refused");
    }
}

/// Closes at once and tells the peer that its stream is not complete.
pub(crate) fn reset(stream: TcpStream) {
    if let Err(error) = SockRef::from(&stream).set_linger(Some(Duration::ZERO)) {
        debug!(%error, "a socket option was refused");
    }
    drop(stream);
}

/// Whether an error means that no descriptor is left, here or in the whole system.
pub(crate) fn is_out_of_descriptors(error: &io::Error) -> bool {
    let code = error.raw_os_error();
    [rustix::io::Errno::MFILE, rustix::io::Errno::NFILE]
        .iter()
        .any(|errno| code == Some(errno.raw_os_error()))
}

/// Lets the process open as many descriptors as it may, and says how many that is.
pub fn raise_descriptor_limit() -> u64 {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    let raised = Rlimit {
        current: limit.maximum,
        maximum: limit.maximum,
    };
    if let Err(error) = setrlimit(Resource::Nofile, raised) {
        debug!(%error, "the descriptor limit stays as it is");
    }
    getrlimit(Resource::Nofile).current.unwrap_or(u64::MAX)
}

/// Says once in a while, in words, that local ports are used up.
#[derive(Debug, Default)]
pub(crate) struct PortWatch {
    told_at_seconds: AtomicU64,
}

impl PortWatch {
    const PAUSE: u64 = 60;

    pub(crate) fn noticed(&self, endpoint: SocketAddr, at: Duration) {
        let now = at.as_secs() + 1;
        let told = self.told_at_seconds.load(Ordering::Relaxed);
        if told != 0 && now < told + Self::PAUSE {
            return;
        }
        self.told_at_seconds.store(now, Ordering::Relaxed);
        warn!(
            %endpoint,
            hint = "widen `net.ipv4.ip_local_port_range` or set `net.ipv4.tcp_tw_reuse=1`",
            "no local port is left for connections to an endpoint",
        );
    }
}
