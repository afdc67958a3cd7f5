//! How streams and REST talk to the engine.

use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::sync::{mpsc, oneshot, watch};
use zonal_delta::{Offered, TypeUrl};
use zonal_process::CancellationToken;
use zonal_store::Revision;

use zonal_xds::Node;

use crate::dp::Sent;
use crate::proxy::ProxyId;
use crate::receipts::{Ledger, Receipt};

/// Inputs waiting for the engine; streams wait when it is full, which is what slows a flood of proxies down.
pub(super) const INPUTS_MAX: usize = 1024;

/// All of one proxy's Envoy configuration, computed from one snapshot.
#[derive(Clone, Debug, Default)]
pub struct ProxyConfig {
    /// The newest store revision it reflects.
    pub reflects: Revision,
    /// Per type, what the proxy should hold. Types in the order in which additions are to be made.
    pub types: Vec<(TypeUrl, Offered)>,
}

impl ProxyConfig {
    /// The types a proxy may ask for, in the order in which additions are sent.
    #[must_use]
    pub fn types() -> Vec<TypeUrl> {
        zonal_xds::type_url::IN_ORDER
            .iter()
            .map(|url| TypeUrl::from(*url))
            .collect()
    }

    /// Whether a proxy that holds `self` would be told something by `other`.
    #[must_use]
    pub fn differs(&self, other: &Self) -> bool {
        self.types.len() != other.types.len()
            || self
                .types
                .iter()
                .zip(&other.types)
                .any(|((type_a, a), (type_b, b))| type_a != type_b || (!a.ptr_eq(b) && a != b))
    }
}

/// Answers of a proxy to one type's responses.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Answered {
    /// Responses written.
    pub sent: u64,
    /// Of those, ACKed.
    pub acknowledged: u64,
    /// Of those, NACKed.
    pub rejected: u64,
}

/// One proxy's stream, as the engine knows it.
#[derive(Clone, Debug)]
pub struct Session {
    /// The proxy.
    pub id: ProxyId,
    /// Distinguishes the streams of one proxy; grows.
    pub number: u64,
    /// The newest configuration; `None` until the first is computed.
    pub config: watch::Receiver<Option<Arc<ProxyConfig>>>,
    /// Cancelled when a newer stream of the same proxy takes over.
    pub superseded: CancellationToken,
}

/// The engine has stopped: the process is on its way out.
#[derive(Debug, thiserror::Error)]
#[error("the control plane is shutting down")]
pub struct Stopped;

/// What the engine is told.
#[derive(Debug)]
pub(super) enum Input {
    Connect {
        node: Node,
        reply: oneshot::Sender<Session>,
    },
    Disconnect {
        id: ProxyId,
        number: u64,
    },
    Acked {
        id: ProxyId,
        number: u64,
        reflects: Revision,
        still_refuses: bool,
        sent: Sent,
    },
    Nacked {
        id: ProxyId,
        number: u64,
        reflects: Revision,
        type_url: TypeUrl,
        message: String,
    },
    /// Where a host name is.
    Resolved {
        name: Arc<str>,
        address: Option<IpAddr>,
    },
    /// A configuration, for inspection.
    Inspect {
        id: ProxyId,
        reply: oneshot::Sender<Option<Arc<ProxyConfig>>>,
    },
}

/// How far receipts have come, as a number that grows with each change of the ledger.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Progress(pub u64);

/// Talks to the engine. Cheap to clone.
#[derive(Clone, Debug)]
pub struct EngineHandle {
    pub(super) inputs: mpsc::Sender<Input>,
    pub(super) ledger: Arc<Mutex<Ledger>>,
    pub(super) progress: watch::Receiver<Progress>,
}

impl EngineHandle {
    /// Registers a stream and asks for the proxy's configuration.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn connect(&self, node: Node) -> Result<Session, Stopped> {
        let (reply, session) = oneshot::channel();
        self.send(Input::Connect { node, reply }).await?;
        session.await.map_err(|_dropped| Stopped)
    }

    /// Ends a stream.
    pub async fn disconnect(&self, session: &Session) {
        let input = Input::Disconnect {
            id: session.id.clone(),
            number: session.number,
        };
        // A stopped engine has nothing left to update.
        let _stopped = self.send(input).await;
    }

    /// The proxy has answered everything up to `reflects`, and may still refuse some of it.
    pub async fn acked(
        &self,
        session: &Session,
        reflects: Revision,
        still_refuses: bool,
        sent: &Sent,
    ) {
        let input = Input::Acked {
            id: session.id.clone(),
            number: session.number,
            reflects,
            still_refuses,
            sent: sent.clone(),
        };
        let _stopped = self.send(input).await;
    }

    /// The proxy has refused something of what reflects `reflects`.
    pub async fn nacked(
        &self,
        session: &Session,
        reflects: Revision,
        type_url: &TypeUrl,
        message: &str,
    ) {
        let input = Input::Nacked {
            id: session.id.clone(),
            number: session.number,
            reflects,
            type_url: type_url.clone(),
            message: message.to_owned(),
        };
        let _stopped = self.send(input).await;
    }

    /// A host name is at another address now, or nobody needs it any more.
    pub async fn resolved(&self, name: Arc<str>, address: Option<IpAddr>) {
        let _stopped = self.send(Input::Resolved { name, address }).await;
    }

    /// What a proxy is offered now; `None` when it is not connected.
    ///
    /// # Errors
    /// The engine has stopped.
    pub async fn inspect(&self, id: &ProxyId) -> Result<Option<Arc<ProxyConfig>>, Stopped> {
        let (reply, config) = oneshot::channel();
        self.send(Input::Inspect {
            id: id.clone(),
            reply,
        })
        .await?;
        config.await.map_err(|_dropped| Stopped)
    }

    /// What is known about the revisions of this zone's store after `after` up to `up_to`.
    #[must_use]
    pub fn receipt(&self, after: Revision, up_to: Revision) -> Receipt {
        self.ledger
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .receipt(after, up_to)
    }

    /// Changes whenever a receipt may have changed.
    #[must_use]
    pub fn progress(&self) -> watch::Receiver<Progress> {
        self.progress.clone()
    }

    async fn send(&self, input: Input) -> Result<(), Stopped> {
        self.inputs.send(input).await.map_err(|_closed| Stopped)
    }
}
