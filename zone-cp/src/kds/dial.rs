//! Where global is, and a channel to it.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use hyper_util::rt::TokioIo;
use rustls_pki_types::ServerName;
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;
use tonic::transport::{Channel, Endpoint, Uri};
use zonal_process::tls::{ClientCertificate, Trust, client_config_showing};

/// Where global is: `grpcs://host:port`, or `grpc://host:port` without TLS.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct GlobalAddress {
    tls: bool,
    host: String,
    port: u16,
}

/// A text that is no address of a global control plane.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "`{got}` is not the address of a global control plane: write `grpcs://HOST:PORT`, or `grpc://HOST:PORT` without TLS"
)]
pub struct AddressError {
    /// The text.
    pub got: String,
}

/// The port of a global control plane, where the address names none.
const PORT: u16 = 5685;

impl FromStr for GlobalAddress {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        let error = || AddressError {
            got: text.to_owned(),
        };
        let uri: Uri = text.trim().parse().map_err(|_cause| error())?;
        match uri.scheme_str() {
            Some("grpcs" | "grpc") => Self::try_from(&uri),
            _ => Err(error()),
        }
    }
}

impl GlobalAddress {
    /// The same place for plain requests.
    pub(crate) fn https(&self) -> String {
        let scheme = if self.tls { "https" } else { "http" };
        format!("{scheme}://{}:{}", self.host, self.port)
    }
}

impl TryFrom<&Uri> for GlobalAddress {
    type Error = AddressError;

    /// Takes `https` and `http` too: that is what the schemes of the configuration stand for.
    fn try_from(uri: &Uri) -> Result<Self, AddressError> {
        let error = || AddressError {
            got: uri.to_string(),
        };
        let tls = match uri.scheme_str() {
            Some("grpcs" | "https") => true,
            Some("grpc" | "http") => false,
            _ => return Err(error()),
        };
        let host = uri
            .host()
            .filter(|host| !host.is_empty())
            .ok_or_else(error)?;
        Ok(Self {
            tls,
            host: host.to_owned(),
            port: uri.port_u16().unwrap_or(PORT),
        })
    }
}

impl fmt::Display for GlobalAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let scheme = if self.tls { "grpcs" } else { "grpc" };
        write!(f, "{scheme}://{}:{}", self.host, self.port)
    }
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// A global of Kuma hangs up on those who ask more often than every 15 s.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(20);
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(15);

/// Connects, with TLS where the address says so.
pub(super) async fn dial(
    address: &GlobalAddress,
    trust: &Trust,
    shown: Option<&ClientCertificate>,
    software_version: &str,
) -> Result<Channel, String> {
    let GlobalAddress { tls, host, port } = address;
    // The connector below does TLS, so the transport is not asked to.
    let endpoint = Endpoint::from_shared(format!("http://{host}:{port}"))
        .and_then(|endpoint| endpoint.user_agent(format!("kds/{software_version}")))
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
        .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
        .keep_alive_while_idle(true)
        .tcp_nodelay(true)
        .http2_adaptive_window(true);
    if !tls {
        return endpoint.connect().await.map_err(|error| words(&error));
    }
    let config = client_config_showing(trust, &["h2"], shown).map_err(|error| error.to_string())?;
    let connector = TlsConnector::from(Arc::new(config));
    let name = host
        .trim_start_matches('[')
        .trim_end_matches(']')
        .to_owned();
    let server = ServerName::try_from(name.clone()).map_err(|error| error.to_string())?;
    let (name, port) = (Arc::<str>::from(name), *port);
    let connect = tower::service_fn(move |_: Uri| {
        let (connector, server, name) = (connector.clone(), server.clone(), Arc::clone(&name));
        async move {
            let stream = TcpStream::connect((&*name, port)).await?;
            stream.set_nodelay(true)?;
            let stream = connector.connect(server, stream).await?;
            Ok::<_, std::io::Error>(TokioIo::new(stream))
        }
    });
    endpoint
        .connect_with_connector(connect)
        .await
        .map_err(|error| words(&error))
}

/// An error with what caused it: the transport's own words stop at "transport error".
fn words(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(deeper) = cause {
        let more = deeper.to_string();
        if !text.contains(&more) {
            text.push_str(": ");
            text.push_str(&more);
        }
        cause = deeper.source();
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Option<&str>) {
        let got = text
            .parse::<GlobalAddress>()
            .ok()
            .map(|address| address.to_string());
        assert_eq!(got.as_deref(), want, "{text:?}");
    }

    #[test]
    fn an_address_names_scheme_host_and_port() {
        check("grpcs://global:5685", Some("grpcs://global:5685"));
        check(
            "grpc://127.0.0.1:15685/ignored",
            Some("grpc://127.0.0.1:15685"),
        );
        check("grpcs://[::1]:7", Some("grpcs://[::1]:7"));
        check("grpcs://global", Some("grpcs://global:5685"));
        check("https://global:5685", None);
        check("global:5685", None);
        check("", None);
    }
}
