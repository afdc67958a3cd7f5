//! Opening connections: the other half of [`super::serve`], for gRPC channels.

use std::fmt;
use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll};
use std::time::Duration;

use http::Uri;
use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tokio_rustls::client::TlsStream;

use crate::tls::{Trust, TrustError, client_config};

/// Opens connections to addresses such as `https://host:5685` (also `grpcs://`) or, in the clear, `http://host:5685`
/// (also `grpc://`). A connector for tonic: `Endpoint::connect_with_connector_lazy(dialer)`.
#[derive(Clone)]
pub struct Dialer {
    tls: TlsConnector,
    timeout: Duration,
}

/// How long a connection may take, its handshake included.
const TIMEOUT_DEFAULT: Duration = Duration::from_secs(5);

impl Dialer {
    /// A dialer that offers HTTP/2 and believes servers by `trust`.
    ///
    /// # Errors
    /// When the authorities cannot be read.
    pub fn new(trust: &Trust) -> Result<Self, TrustError> {
        let config = client_config(trust, &["h2"])?;
        Ok(Self {
            tls: TlsConnector::from(Arc::new(config)),
            timeout: TIMEOUT_DEFAULT,
        })
    }

    /// Opens a connection.
    ///
    /// # Errors
    /// When the address is unusable, nobody answers, or the server is not believed.
    pub async fn connect(&self, uri: &Uri) -> io::Result<Stream> {
        let secure = match uri.scheme_str() {
            Some("https" | "grpcs") => true,
            Some("http" | "grpc") => false,
            _ => {
                return Err(invalid(
                    uri,
                    "it does not begin with `https://` or `http://`",
                ));
            }
        };
        let host = uri.host().ok_or_else(|| invalid(uri, "it names no host"))?;
        let host = host.trim_start_matches('[').trim_end_matches(']');
        let port = uri.port_u16().unwrap_or(if secure { 443 } else { 80 });
        let dial = async {
            let stream = TcpStream::connect((host, port)).await?;
            stream.set_nodelay(true)?;
            if !secure {
                return Ok(Stream::Plain(stream));
            }
            let name = ServerName::try_from(host.to_owned())
                .map_err(|_not_a_name| invalid(uri, "its host is no name or address"))?;
            let stream = self.tls.connect(name, stream).await?;
            Ok(Stream::Tls(Box::new(stream)))
        };
        match tokio::time::timeout(self.timeout, dial).await {
            Ok(dialed) => dialed,
            Err(_elapsed) => Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

fn invalid(uri: &Uri, why: &str) -> io::Error {
    io::Error::new(
        io::ErrorKind::InvalidInput,
        format!("cannot dial `{uri}`: {why}"),
    )
}

impl fmt::Debug for Dialer {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Dialer")
            .field("timeout", &self.timeout)
            .finish_non_exhaustive()
    }
}

impl tower::Service<Uri> for Dialer {
    type Response = TokioIo<Stream>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<TokioIo<Stream>>> + Send>>;

    fn poll_ready(&mut self, _context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        let dialer = self.clone();
        Box::pin(async move { dialer.connect(&uri).await.map(TokioIo::new) })
    }
}

/// A connection, encrypted or not.
#[derive(Debug)]
pub enum Stream {
    Plain(TcpStream),
    Tls(Box<TlsStream<TcpStream>>),
}

impl AsyncRead for Stream {
    fn poll_read(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_read(context, buffer),
            Self::Tls(stream) => Pin::new(stream).poll_read(context, buffer),
        }
    }
}

impl AsyncWrite for Stream {
    fn poll_write(
        self: Pin<&mut Self>,
        context: &mut Context<'_>,
        bytes: &[u8],
    ) -> Poll<io::Result<usize>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_write(context, bytes),
            Self::Tls(stream) => Pin::new(stream).poll_write(context, bytes),
        }
    }

    fn poll_flush(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_flush(context),
            Self::Tls(stream) => Pin::new(stream).poll_flush(context),
        }
    }

    fn poll_shutdown(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        match self.get_mut() {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Tls(stream) => Pin::new(stream).poll_shutdown(context),
        }
    }
}
