//! What the API needs from the control plane that serves it.

use std::fmt;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ConnectInfo;
use http::Extensions;
use serde_json::Value;
use tokio::sync::Semaphore;
use tokio_util::sync::CancellationToken;
use zonal_model::{Mode, Resource, Violations};
use zonal_store::{Op, Snapshot, Store, Stored};

use crate::access::{Access, Authenticator, NoTokens, Peer};
use crate::receipts::{NoReceipts, Receipts};

/// What `GET /` tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Info {
    /// The machine.
    pub hostname: String,
    /// What clients of the dialect look for.
    pub product: String,
    /// This program's version.
    pub version: String,
    /// This process.
    pub instance_id: String,
    /// This federation.
    pub cluster_id: String,
}

impl Default for Info {
    fn default() -> Self {
        Self {
            hostname: String::new(),
            product: "Kuma".to_owned(),
            version: env!("CARGO_PKG_VERSION").to_owned(),
            instance_id: String::new(),
            cluster_id: String::new(),
        }
    }
}

/// What bounds one request.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// The largest body.
    pub body_bytes_max: usize,
    /// How long a body may take to arrive.
    pub body_timeout: Duration,
    /// How long an answer may take, those that wait on purpose aside.
    pub answer_timeout: Duration,
    /// How many may watch or wait at once.
    pub watchers_max: usize,
    /// The longest wait for a receipt.
    pub wait_max: Duration,
    /// The most documents of one batch.
    pub documents_max: usize,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            body_bytes_max: 8 << 20,
            body_timeout: Duration::from_secs(10),
            answer_timeout: Duration::from_secs(30),
            watchers_max: 512,
            wait_max: Duration::from_secs(600),
            documents_max: 10_000,
        }
    }
}

/// What a control plane adds to the rules of the model.
pub trait WriteRules: Send + Sync {
    /// Looks at a resource before it is kept; what it returns is kept together with it.
    ///
    /// # Errors
    /// The resource must not be kept.
    fn before_put(
        &self,
        snapshot: &Snapshot,
        resource: &Resource,
        existing: Option<&Stored>,
    ) -> Result<Vec<Op>, Violations>;

    /// Looks at a removal before it is kept; what it returns is kept together with it.
    ///
    /// # Errors
    /// The resource must stay.
    fn before_remove(&self, snapshot: &Snapshot, existing: &Stored) -> Result<Vec<Op>, Violations>;
}

/// Adds nothing.
#[derive(Clone, Copy, Debug)]
pub struct NoRules;

impl WriteRules for NoRules {
    fn before_put(
        &self,
        _snapshot: &Snapshot,
        _resource: &Resource,
        _existing: Option<&Stored>,
    ) -> Result<Vec<Op>, Violations> {
        Ok(Vec::new())
    }

    fn before_remove(
        &self,
        _snapshot: &Snapshot,
        _existing: &Stored,
    ) -> Result<Vec<Op>, Violations> {
        Ok(Vec::new())
    }
}

/// Says how fresh a zone's copy is; it becomes the member `sync` of the zone's overview.
pub type ZoneSync = Arc<dyn Fn(&str) -> Value + Send + Sync>;

/// Everything a handler may use.
#[derive(Clone)]
pub struct RestState {
    /// Where resources are.
    pub store: Arc<dyn Store>,
    /// Which sort of control plane this is.
    pub mode: Mode,
    /// Its zone; `None` at global.
    pub zone: Option<Arc<str>>,
    /// What `GET /` tells.
    pub info: Info,
    /// The configuration that runs, secrets masked.
    pub config: Arc<Value>,
    /// Who a token belongs to.
    pub tokens: Arc<dyn Authenticator>,
    /// Who may do what.
    pub access: Arc<Access>,
    /// What this control plane adds to the rules of the model.
    pub rules: Arc<dyn WriteRules>,
    /// How far a revision got.
    pub receipts: Arc<dyn Receipts>,
    /// What bounds a request.
    pub limits: Limits,
    /// How fresh the zones' copies are, where this control plane knows.
    pub zone_sync: Option<ZoneSync>,
    /// Nothing may be written.
    pub read_only: bool,
    /// Writes are not asked where they originate.
    pub origin_unchecked: bool,
    /// A mesh with dataplanes may be removed.
    pub unsafe_delete: bool,
    /// Where a request comes from, as the listener noted it.
    pub peer_of: fn(&Extensions) -> Option<Peer>,
    /// Ends watches and waits when the process stops.
    pub stop: CancellationToken,
    pub(crate) watchers: Arc<Semaphore>,
}

impl RestState {
    /// A state with defaults for everything but what it is about.
    #[must_use]
    pub fn new(store: Arc<dyn Store>, mode: Mode, zone: Option<&str>) -> Self {
        let limits = Limits::default();
        Self {
            store,
            mode,
            zone: zone.map(Into::into),
            info: Info::default(),
            config: Arc::new(Value::Object(serde_json::Map::new())),
            tokens: Arc::new(NoTokens),
            access: Arc::new(Access::default()),
            rules: Arc::new(NoRules),
            receipts: Arc::new(NoReceipts),
            limits,
            zone_sync: None,
            read_only: false,
            origin_unchecked: false,
            unsafe_delete: false,
            peer_of: noted_peer,
            stop: CancellationToken::new(),
            watchers: Arc::new(Semaphore::new(limits.watchers_max)),
        }
    }

    /// The same with other limits.
    #[must_use]
    pub fn with_limits(mut self, limits: Limits) -> Self {
        self.limits = limits;
        self.watchers = Arc::new(Semaphore::new(limits.watchers_max));
        self
    }
}

fn noted_peer(extensions: &Extensions) -> Option<Peer> {
    extensions.get::<Peer>().copied().or_else(|| {
        let ConnectInfo(address) = extensions.get::<ConnectInfo<std::net::SocketAddr>>()?;
        Some(Peer {
            address: *address,
            tls: false,
        })
    })
}

impl fmt::Debug for RestState {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("RestState")
            .field("mode", &self.mode)
            .field("zone", &self.zone)
            .finish_non_exhaustive()
    }
}
