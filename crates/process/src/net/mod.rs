//! Listeners: one accept loop for HTTP/1.1, HTTP/2 and gRPC, with or without TLS.
//!
//! ```text
//! accept ─permit─▶ task: handshake (deadline) ─▶ HTTP/1.1 or h2 ─▶ axum::Router, PeerAddr in the request
//! stop ──────────▶ no more accepts; GOAWAY; wait for what runs until the drain limit; cut
//! ```
//!
//! Start at [`serve`]. tonic services are merged into the router with `tonic::service::Routes::into_axum_router`.

mod dial;
mod serve;

use std::net::SocketAddr;
use std::sync::Arc;

use tokio::net::TcpListener;

pub use dial::{Dialer, Stream};
pub use serve::{Limits, ServeError, serve, serve_counted};

/// Who is on the other end of the connection a request came on. Every handler finds it in the request's
/// extensions.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PeerAddr {
    pub remote: SocketAddr,
    pub local: SocketAddr,
    /// Whether the connection is TLS.
    pub tls: bool,
    /// The client's certificate (DER), when it presented one.
    pub client_certificate: Option<Arc<[u8]>>,
    /// The name the client asked for in its TLS hello.
    pub server_name: Option<Arc<str>>,
}

/// Why a listener could not be opened.
#[derive(Debug, thiserror::Error)]
pub enum BindError {
    #[error("cannot listen on `{addr}`: address in use (by what: `ss -ltnp 'sport = :{port}'`)")]
    InUse { addr: String, port: u16 },
    #[error("cannot listen on `{addr}`: {cause}")]
    Other { addr: String, cause: std::io::Error },
}

/// Opens a listener. Port 0 takes a free one; read it back with `local_addr`.
///
/// # Errors
/// When the address cannot be taken, with the way to find out why.
pub async fn bind(addr: SocketAddr) -> Result<TcpListener, BindError> {
    TcpListener::bind(addr)
        .await
        .map_err(|cause| match cause.kind() {
            std::io::ErrorKind::AddrInUse => BindError::InUse {
                addr: addr.to_string(),
                port: addr.port(),
            },
            _ => BindError::Other {
                addr: addr.to_string(),
                cause,
            },
        })
}
