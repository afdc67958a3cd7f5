//! What the sidecar says to the zone control plane.

use std::collections::BTreeMap;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use http::StatusCode;
use serde::{Deserialize, Serialize};
use zonal_process::tls::{Trust, TrustError, client_config};

use crate::config::{Config, Token};
use crate::probe::State;

/// A connection to the zone control plane's port for proxies.
#[derive(Clone, Debug)]
pub struct ControlPlane {
    http: reqwest::Client,
    base: String,
    token: Option<Token>,
}

/// Why a question was not answered.
#[derive(Debug, thiserror::Error)]
pub enum CallError {
    #[error("cannot read the dataplane token: {0}")]
    Token(std::io::Error),
    #[error("cannot reach the control plane: {0}")]
    Unreachable(String),
    #[error("the control plane does not know it (yet)")]
    Unknown,
    #[error("the control plane refused with {status}: {text}")]
    Refused { status: u16, text: String },
    #[error("the control plane's answer cannot be used: {0}")]
    Answer(String),
}

impl CallError {
    /// Whether the same question could be answered later with nobody changing it.
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Token(_) | Self::Unreachable(_) | Self::Unknown | Self::Answer(_) => true,
            Self::Refused { status, .. } => *status >= 500 || *status == 429,
        }
    }
}

/// Why there is no connection.
#[derive(Debug, thiserror::Error)]
pub enum ConnectError {
    #[error(transparent)]
    Trust(#[from] TrustError),
    #[error("cannot make an HTTP client: {0}")]
    Client(#[from] reqwest::Error),
}

/// Asks for a bootstrap. Member names are the protocol's.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct BootstrapRequest {
    pub mesh: String,
    pub name: String,
    pub proxy_type: &'static str,
    pub dataplane_token: Option<String>,
    pub dataplane_resource: Option<String>,
    pub version: Versions,
    pub ca_cert: Option<String>,
    pub dynamic_metadata: BTreeMap<String, String>,
    pub operating_system: &'static str,
    pub features: Vec<&'static str>,
    pub workdir: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub readiness_port: Option<u16>,
    pub system_ca_path: String,
    pub ipv6_enabled: bool,
}

/// The versions of the sidecar and its Envoy.
#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Versions {
    pub kuma_dp: SidecarVersion,
    pub envoy: EnvoyVersion,
}

#[derive(Clone, Debug, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct SidecarVersion {
    pub version: &'static str,
    pub git_tag: &'static str,
    pub git_commit: &'static str,
    pub build_date: &'static str,
}

#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct EnvoyVersion {
    pub version: String,
    pub build: String,
    pub kuma_dp_compatible: bool,
}

#[derive(Deserialize)]
struct BootstrapAnswer {
    bootstrap: String,
}

/// Tells how each inbound stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct HealthReport {
    pub mesh: String,
    pub name: String,
    /// By the proxy's port.
    pub inbounds: BTreeMap<u16, State>,
}

#[derive(Serialize)]
struct Proxy<'a> {
    mesh: &'a str,
    name: &'a str,
}

const CONNECT_TIMEOUT: Duration = Duration::from_secs(5);
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Refusals are read by people; more than this is not a sentence.
const REFUSAL_CHARS_MAX: usize = 2000;

impl ControlPlane {
    /// Prepares the connection; nothing is sent yet.
    ///
    /// # Errors
    /// When the authorities to trust cannot be read.
    pub fn connect(config: &Config) -> Result<Self, ConnectError> {
        let tls = client_config(&config.trust, &["h2", "http/1.1"])?;
        let http = reqwest::Client::builder()
            .tls_backend_preconfigured(tls)
            .connect_timeout(CONNECT_TIMEOUT)
            .timeout(ANSWER_TIMEOUT)
            .tcp_nodelay(true)
            .no_proxy()
            .build()?;
        Ok(Self {
            http,
            base: config.control_plane.clone(),
            token: config.token.clone(),
        })
    }

    /// Asks for a bootstrap; the answer is Envoy's configuration as YAML.
    ///
    /// # Errors
    /// See [`CallError`]; a refusal carries the control plane's reason.
    pub async fn bootstrap(&self, request: &BootstrapRequest) -> Result<Vec<u8>, CallError> {
        let mut request = request.clone();
        request.dataplane_token = self.read_token()?;
        let answer = self.post("/bootstrap", &request).await?;
        let answer: BootstrapAnswer = serde_json::from_slice(&answer)
            .map_err(|error| CallError::Answer(error.to_string()))?;
        STANDARD
            .decode(answer.bootstrap)
            .map_err(|error| CallError::Answer(error.to_string()))
    }

    /// Tells how the inbounds stand.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn report_health(&self, report: &HealthReport) -> Result<(), CallError> {
        self.post("/zonal/v1/health", report).await.map(drop)
    }

    /// Tells that the proxy is about to go. Answered when its callers have left, or after a few seconds.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn announce_drain(&self, mesh: &str, name: &str) -> Result<(), CallError> {
        self.post("/zonal/v1/drain", &Proxy { mesh, name })
            .await
            .map(drop)
    }

    /// Tells that the proxy is gone.
    ///
    /// # Errors
    /// See [`CallError`].
    pub async fn leave(&self, mesh: &str, name: &str) -> Result<(), CallError> {
        self.post("/zonal/v1/gone", &Proxy { mesh, name })
            .await
            .map(drop)
    }

    fn read_token(&self) -> Result<Option<String>, CallError> {
        self.token
            .as_ref()
            .map(Token::read)
            .transpose()
            .map_err(CallError::Token)
    }

    async fn post(&self, path: &str, body: &impl Serialize) -> Result<bytes::Bytes, CallError> {
        let mut request = self
            .http
            .post(format!("{}{path}", self.base))
            .header(http::header::ACCEPT, "application/json")
            .json(body);
        if let Some(token) = self.read_token()? {
            request = request.header(http::header::AUTHORIZATION, token);
        }
        let unreachable = |error: reqwest::Error| CallError::Unreachable(causes(&error));
        let answer = request.send().await.map_err(unreachable)?;
        let status = answer.status();
        let body = answer.bytes().await.map_err(unreachable)?;
        match status {
            status if status.is_success() => Ok(body),
            StatusCode::NOT_FOUND => Err(CallError::Unknown),
            status => Err(CallError::Refused {
                status: status.as_u16(),
                text: String::from_utf8_lossy(&body)
                    .chars()
                    .take(REFUSAL_CHARS_MAX)
                    .collect(),
            }),
        }
    }
}

/// What the proxy trusts the control plane by, for the bootstrap; empty lets the control plane name its own chain.
///
/// # Errors
/// When the file cannot be read.
pub fn ca_text(trust: &Trust) -> std::io::Result<Option<String>> {
    match trust {
        Trust::Authorities(pem) => Ok(Some(pem.clone())),
        Trust::AuthorityFile(file) => std::fs::read_to_string(file).map(Some),
        Trust::Pinned(_) | Trust::Anyone => Ok(None),
    }
}

/// The whole chain of causes: the first one alone says little.
fn causes(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(error) = cause {
        text.push_str(": ");
        text.push_str(&error.to_string());
        cause = error.source();
    }
    text
}
