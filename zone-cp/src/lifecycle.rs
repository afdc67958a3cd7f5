//! The life of a proxy's Dataplane: admitted with its first message, ready when its workload is, drained, gone.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use dashmap::{DashMap, DashSet};
use jiff::Timestamp;
use serde_json::Value;
use tonic::Status;
use tracing::{info, warn};
use zonal_identity::token::{self, TokenKind};
use zonal_model::admission::{Place, admit};
use zonal_model::parse::{self, ParseError};
use zonal_model::{Json, Key, Kind, Mode, Resource, Violations};
use zonal_process::{Clock, Spawner};
use zonal_rest::tokens::key_ring;
use zonal_store::{Batch, Expect, Revision, Snapshot, Store, StoreError};
use zonal_xds::Node;

use crate::identify;
use crate::proxy::ProxyId;

/// How often a write is tried again when somebody else changed the same Dataplane meanwhile.
const TRIES_MAX: usize = 8;

/// Announced by a sidecar that reports whether its workload answers: until it does, nobody is sent there.
pub(crate) const FEATURE_WORKLOAD_HEALTH: &str = "feature-workload-health";

/// What proxies have to show.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ProxyAuthentication {
    /// A dataplane token.
    Token,
    /// Nothing.
    None,
}

/// What the lifecycle is told at the start.
#[derive(Clone, Debug)]
pub struct LifecycleSettings {
    /// The zone.
    pub zone: Arc<str>,
    /// Federated or on its own.
    pub mode: Mode,
    /// What proxies have to show.
    pub authentication: ProxyAuthentication,
    /// How long a Dataplane that came with its proxy outlives the proxy's stream.
    pub deregistration_delay: Duration,
}

/// Why a proxy is not let in.
#[derive(Debug, thiserror::Error)]
pub enum Refusal {
    /// It shows no token.
    #[error("authentication failed: a dataplane token is required (`authorization` metadata)")]
    NoToken,
    /// Its token is not believed.
    #[error("authentication failed: {0}")]
    Token(#[from] token::TokenError),
    /// Its token is for something else.
    #[error("authentication failed: {0}")]
    NotPermitted(#[from] token::NotPermitted),
    /// There is no Dataplane, and it brought none.
    #[error(
        "resource \"{0}\" not found; create a Dataplane in Kuma CP first or pass it as an argument to kuma-dp"
    )]
    Unknown(ProxyId),
    /// Its mesh does not exist.
    #[error("mesh \"{0}\" does not exist")]
    NoMesh(Arc<str>),
    /// The Dataplane it brought is not valid.
    #[error("the Dataplane is not valid: {0}")]
    Invalid(Violations),
    /// The Dataplane it brought is another proxy's.
    #[error("the Dataplane is named `{got}`, the proxy `{want}`")]
    OtherName {
        /// The node's id.
        want: ProxyId,
        /// The resource's.
        got: ProxyId,
    },
    /// It lacks a label that its identity is made from.
    #[error("{0}")]
    Label(String),
    /// The store cannot keep its Dataplane.
    #[error("the Dataplane cannot be kept: {0}")]
    Store(#[from] StoreError),
}

impl Refusal {
    /// As a gRPC status.
    #[must_use]
    pub fn to_status(&self) -> Status {
        let text = self.to_string();
        match self {
            Self::NoToken | Self::Token(_) | Self::NotPermitted(_) => Status::unauthenticated(text),
            Self::Unknown(_) | Self::NoMesh(_) => Status::not_found(text),
            Self::Invalid(_) | Self::OtherName { .. } | Self::Label(_) => {
                Status::invalid_argument(text)
            }
            Self::Store(_) => Status::unavailable(text),
        }
    }
}

/// Whether an inbound can be offered, as its sidecar sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, serde::Deserialize, serde::Serialize)]
pub enum InboundState {
    /// The workload answers.
    Ready,
    /// It does not.
    NotReady,
}

/// Admits proxies and keeps their Dataplanes true.
pub struct Lifecycle {
    settings: LifecycleSettings,
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    spawner: Spawner,
    /// Proxies whose Dataplane came with them, with the number of their newest stream; 0 from being admitted until that
    /// is known.
    registered: DashMap<ProxyId, u64>,
    /// Proxies that said they are about to go, until they begin anew. As many as there are Dataplanes at most.
    draining: DashSet<ProxyId>,
}

impl std::fmt::Debug for Lifecycle {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Lifecycle")
            .field("settings", &self.settings)
            .finish_non_exhaustive()
    }
}

impl Lifecycle {
    /// Puts it together.
    #[must_use]
    pub fn new(
        settings: LifecycleSettings,
        store: Arc<dyn Store>,
        clock: Arc<dyn Clock>,
        spawner: Spawner,
    ) -> Arc<Self> {
        Arc::new(Self {
            settings,
            store,
            clock,
            spawner,
            registered: DashMap::new(),
            draining: DashSet::new(),
        })
    }

    /// Lets a proxy in: checks its token against the Dataplane it brings (and the one it would replace), and keeps what
    /// it brings.
    ///
    /// # Errors
    /// It may not come in, or its Dataplane cannot be taken.
    pub async fn admit(&self, node: &Node, credential: Option<&str>) -> Result<(), Refusal> {
        let id = ProxyId::new(&node.mesh, &node.name);
        let brought = match &node.dataplane_resource {
            Some(text) => Some(self.read(&id, text)?),
            None => None,
        };
        let snapshot = self.store.snapshot();
        let stored = snapshot
            .get(&dataplane_key(&id))
            .map(|stored| &stored.resource);
        let Some(subject) = brought.as_ref().or(stored) else {
            return Err(Refusal::Unknown(id));
        };
        if snapshot.get(&Key::global(Kind::Mesh, &id.mesh)).is_none() {
            return Err(Refusal::NoMesh(id.mesh));
        }
        // Both: a token for what the proxy claims to be must not be enough to take another's place.
        for resource in [Some(subject), stored].into_iter().flatten() {
            self.authenticate(&snapshot, &id, resource, credential)?;
        }
        if let Some(identity) = identify::best(&snapshot, subject)
            && let Err(problem) = identity.spiffe_name(&subject.meta.labels, &self.settings.zone)
        {
            return Err(Refusal::Label(problem.to_string()));
        }
        if let Some(brought) = brought {
            self.keep(&id, brought, node.has(FEATURE_WORKLOAD_HEALTH))
                .await?;
            self.registered.insert(id.clone(), 0);
        }
        self.begins_anew(&id);
        Ok(())
    }

    /// Checks a credential for one proxy, as `POST /bootstrap` and the sidecar's reports need it too.
    ///
    /// # Errors
    /// It does not let the proxy in.
    pub fn authenticate_stored(
        &self,
        id: &ProxyId,
        credential: Option<&str>,
    ) -> Result<(), Refusal> {
        let snapshot = self.store.snapshot();
        let stored = snapshot
            .get(&dataplane_key(id))
            .ok_or_else(|| Refusal::Unknown(id.clone()))?;
        self.authenticate(&snapshot, id, &stored.resource, credential)
    }

    fn authenticate(
        &self,
        snapshot: &Snapshot,
        id: &ProxyId,
        dataplane: &Resource,
        credential: Option<&str>,
    ) -> Result<(), Refusal> {
        if self.settings.authentication == ProxyAuthentication::None {
            return Ok(());
        }
        let text = credential
            .filter(|text| !text.is_empty())
            .ok_or(Refusal::NoToken)?;
        let ring = key_ring(
            snapshot,
            &TokenKind::Dataplane {
                mesh: id.mesh.to_string(),
            },
        );
        let verified = token::verify_dataplane(text, &ring, self.clock.wall())?;
        let of_workload = identify::best(snapshot, dataplane)
            .is_some_and(|identity| identify::uses_workload(&identity));
        verified
            .claims
            .permits(&id.mesh, &id.name, &dataplane.meta.labels, of_workload)?;
        Ok(())
    }

    /// Reads a Dataplane that a proxy brings: YAML or JSON text.
    ///
    /// # Errors
    /// It is not a valid Dataplane of that name.
    pub fn read(&self, id: &ProxyId, text: &str) -> Result<Resource, Refusal> {
        let invalid = |message: String| {
            let mut violations = Violations::new();
            violations.add("", message);
            Refusal::Invalid(violations)
        };
        let documents = zonal_model::yaml::documents(text).map_err(|e| invalid(e.to_string()))?;
        let document = documents
            .into_iter()
            .next()
            .ok_or_else(|| invalid("it is empty".to_owned()))?;
        let document = parse::document(&document).map_err(|error| match error {
            ParseError::Invalid(violations) => Refusal::Invalid(violations),
            other => invalid(other.to_string()),
        })?;
        let key = &document.resource.key;
        if key.kind != Kind::Dataplane {
            return Err(invalid(format!("it is a {}, not a Dataplane", key.kind)));
        }
        let got = ProxyId::new(&key.mesh, &key.name);
        if got != *id {
            return Err(Refusal::OtherName {
                want: id.clone(),
                got,
            });
        }
        let place = Place {
            mode: self.settings.mode,
            zone: Some(&self.settings.zone),
            // A Dataplane needs no origin label: it can only come from its own zone.
            check_origin: false,
        };
        admit(&document, None, &place, None)
            .map_err(|refusal| Refusal::Invalid(refusal.into_violations()))
    }

    async fn keep(&self, id: &ProxyId, brought: Resource, reports: bool) -> Result<(), Refusal> {
        for _ in 0..TRIES_MAX {
            let snapshot = self.store.snapshot();
            let stored = snapshot.get(&dataplane_key(id));
            let mut resource = brought.clone();
            resource.spec = match stored {
                // What the sidecar said about its workload stays true over a reconnect.
                Some(stored) if reports => with_states_of(&brought.spec, &stored.resource.spec),
                None if reports => with_states(&brought.spec, &|_| Some(InboundState::NotReady)),
                _ => brought.spec.clone(),
            };
            if stored.is_some_and(|stored| !stored.resource.differs(&resource)) {
                return Ok(());
            }
            let expect = stored.map_or(Expect::Absent, |stored| Expect::Revision(stored.revision));
            match self
                .store
                .commit(Batch::new().put_if(resource, expect))
                .await
            {
                Err(StoreError::Conflict { .. }) => {}
                other => {
                    other?;
                    return Ok(());
                }
            }
        }
        let brought = Batch::new().put(brought);
        self.store.commit(brought).await?;
        Ok(())
    }

    /// An admitted proxy has its stream.
    pub fn joined(&self, id: &ProxyId, session: u64) {
        if let Some(mut newest) = self.registered.get_mut(id) {
            *newest = session;
        }
    }

    /// A stream ended. A Dataplane that came with its proxy goes, unless the proxy is back within the delay or this
    /// process stops. The end of a stream that a newer one took over from means nothing.
    pub fn left(self: &Arc<Self>, id: &ProxyId, session: u64) {
        if !self.is_newest(id, session) {
            return;
        }
        let this = Arc::clone(self);
        let id = id.clone();
        let stop = self.spawner.stop();
        self.spawner.spawn("deregistration", async move {
            let due = this.clock.now() + this.settings.deregistration_delay;
            tokio::select! {
                () = stop.cancelled() => return,
                () = this.clock.sleep_until(Some(due)) => {}
            }
            if this.is_newest(&id, session) {
                this.remove(&id).await;
            }
        });
    }

    fn is_newest(&self, id: &ProxyId, session: u64) -> bool {
        self.registered
            .get(id)
            .is_some_and(|newest| *newest == session)
    }

    /// The proxy begins anew: that it was about to go is over.
    pub fn begins_anew(&self, id: &ProxyId) {
        self.draining.remove(id);
    }

    /// Removes the Dataplane of a proxy that is gone for good.
    pub async fn remove(&self, id: &ProxyId) {
        self.registered.remove(id);
        self.draining.remove(id);
        match self
            .store
            .commit(Batch::new().remove(dataplane_key(id)))
            .await
        {
            Ok(_) => info!(proxy = %id, "proxy is gone, its Dataplane is removed"),
            Err(error) => {
                warn!(proxy = %id, %error, "cannot remove the Dataplane of a proxy that is gone");
            }
        }
    }

    /// Takes over what a sidecar says about its inbounds, by port; the revision in which it is true. A draining proxy
    /// stays drained, whatever was on its way when the drain began.
    ///
    /// # Errors
    /// There is no such Dataplane, or the store cannot keep it.
    pub async fn set_states(
        &self,
        id: &ProxyId,
        states: &BTreeMap<u16, InboundState>,
    ) -> Result<Revision, Refusal> {
        self.change(id, &|spec| {
            // Asked again for each try: a drain that began meanwhile has made ours a conflict.
            if self.draining.contains(id) {
                return spec.clone();
            }
            with_states(spec, &|port| states.get(&port).copied())
        })
        .await
    }

    /// Takes a proxy out of service: callers are told to go elsewhere.
    ///
    /// # Errors
    /// There is no such Dataplane, or the store cannot keep it.
    pub async fn drain(&self, id: &ProxyId) -> Result<Revision, Refusal> {
        self.draining.insert(id.clone());
        self.change(id, &|spec| {
            with_states(spec, &|_| Some(InboundState::NotReady))
        })
        .await
    }

    async fn change(
        &self,
        id: &ProxyId,
        change: &(dyn Fn(&Json) -> Json + Sync),
    ) -> Result<Revision, Refusal> {
        let mut last = None;
        for _ in 0..TRIES_MAX {
            let snapshot = self.store.snapshot();
            let stored = snapshot
                .get(&dataplane_key(id))
                .ok_or_else(|| Refusal::Unknown(id.clone()))?;
            let mut resource = stored.resource.clone();
            resource.spec = change(&stored.resource.spec);
            if !resource.differs(&stored.resource) {
                return Ok(snapshot.revision());
            }
            let expect = Expect::Revision(stored.revision);
            match self
                .store
                .commit(Batch::new().put_if(resource, expect))
                .await
            {
                Err(error @ StoreError::Conflict { .. }) => last = Some(error),
                other => return Ok(other?.revision),
            }
        }
        Err(last.map_or_else(|| Refusal::Unknown(id.clone()), Refusal::Store))
    }

    /// The time of day, for those who write beside the lifecycle.
    #[must_use]
    pub fn now(&self) -> Timestamp {
        self.clock.wall()
    }
}

/// The key of a proxy's Dataplane.
#[must_use]
pub(crate) fn dataplane_key(id: &ProxyId) -> Key {
    Key::new(Kind::Dataplane, &id.mesh, &id.name)
}

fn inbounds(spec: &mut Value) -> impl Iterator<Item = &mut serde_json::Map<String, Value>> {
    spec.pointer_mut("/networking/inbound")
        .and_then(Value::as_array_mut)
        .into_iter()
        .flatten()
        .filter_map(Value::as_object_mut)
}

fn port(inbound: &serde_json::Map<String, Value>) -> Option<u16> {
    u16::try_from(inbound.get("port")?.as_u64()?).ok()
}

/// The spec with the state of each inbound that `state` knows; an ignored one stays ignored.
fn with_states(spec: &Json, state: &dyn Fn(u16) -> Option<InboundState>) -> Json {
    let mut value = spec.to_value();
    for inbound in inbounds(&mut value) {
        if inbound.get("state").and_then(Value::as_str) == Some("Ignored") {
            continue;
        }
        match port(inbound).and_then(state) {
            // Ready is the default and is not written.
            Some(InboundState::Ready) => {
                inbound.remove("state");
            }
            Some(InboundState::NotReady) => {
                inbound.insert("state".to_owned(), Value::String("NotReady".to_owned()));
            }
            None => {}
        }
    }
    Json::from_value(&value)
}

fn with_states_of(spec: &Json, older: &Json) -> Json {
    let mut older = older.to_value();
    let states: BTreeMap<u16, InboundState> = inbounds(&mut older)
        .filter_map(|inbound| {
            let not_ready = inbound.get("state").and_then(Value::as_str) == Some("NotReady");
            let state = if not_ready {
                InboundState::NotReady
            } else {
                InboundState::Ready
            };
            Some((port(inbound)?, state))
        })
        .collect();
    with_states(spec, &|port| states.get(&port).copied())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(states: &[(u16, Option<&str>)]) -> Json {
        let inbound: Vec<Value> = states
            .iter()
            .map(|(port, state)| match state {
                Some(state) => serde_json::json!({ "port": port, "state": state }),
                None => serde_json::json!({ "port": port }),
            })
            .collect();
        Json::from_value(&serde_json::json!({ "networking": { "inbound": inbound } }))
    }

    #[test]
    fn a_report_changes_the_ports_it_names_and_nothing_that_is_ignored() {
        let before = spec(&[(80, None), (81, Some("Ignored")), (82, Some("NotReady"))]);
        let down = with_states(&before, &|port| {
            (port != 82).then_some(InboundState::NotReady)
        });
        assert_eq!(
            down,
            spec(&[
                (80, Some("NotReady")),
                (81, Some("Ignored")),
                (82, Some("NotReady"))
            ])
        );
        let up = with_states(&down, &|_| Some(InboundState::Ready));
        assert_eq!(up, spec(&[(80, None), (81, Some("Ignored")), (82, None)]));
    }

    #[test]
    fn what_was_reported_survives_a_reconnect() {
        let brought = spec(&[(80, None), (82, None)]);
        let stored = spec(&[(80, Some("NotReady"))]);
        assert_eq!(
            with_states_of(&brought, &stored),
            spec(&[(80, Some("NotReady")), (82, None)])
        );
    }
}
