//! An Envoy that holds what it is told and forwards nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Arc, Mutex};

use kds_proto::envoy::config::core::v3::{HealthStatus, Node};
use kds_proto::envoy::config::endpoint::v3::{ClusterLoadAssignment, lb_endpoint::HostIdentifier};
use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_client::AggregatedDiscoveryServiceClient;
use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kds_proto::google::rpc;
use kds_proto::{Any, unpack};
use serde_json::{Value, json};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::{Request, Status};
use zonal_process::{CancellationToken, Spawner};
use zonal_xds::type_url;

use crate::zone::{PATIENCE, Zone};

pub const TYPES: [&str; 4] = [
    type_url::CLUSTER,
    type_url::ENDPOINTS,
    type_url::SECRET,
    type_url::LISTENER,
];

/// What the proxy holds, and how its stream ended.
#[derive(Clone, Debug, Default)]
pub struct State {
    pub held: BTreeMap<String, BTreeMap<String, Any>>,
    pub ended: Option<Status>,
}

impl State {
    pub fn names(&self, type_url: &str) -> BTreeSet<&str> {
        self.held
            .get(type_url)
            .into_iter()
            .flatten()
            .map(|(name, _)| name.as_str())
            .collect()
    }

    /// Whether traffic may be sent to an address.
    pub fn sends_to(&self, address: &str) -> bool {
        let assignments = self.held.get(type_url::ENDPOINTS);
        assignments.into_iter().flatten().any(|(_, any)| {
            let assignment: ClusterLoadAssignment = unpack(any).unwrap();
            let mut hosts = assignment.endpoints.iter().flat_map(|l| &l.lb_endpoints);
            hosts.any(|host| {
                let text = format!("{:?}", host.host_identifier);
                assert!(matches!(
                    host.host_identifier,
                    Some(HostIdentifier::Endpoint(_))
                ));
                text.contains(&format!("{address:?}"))
                    && matches!(
                        host.health_status(),
                        HealthStatus::Unknown | HealthStatus::Healthy
                    )
            })
        })
    }
}

/// A stream whose messages the test writes itself.
pub struct Stream {
    pub requests: mpsc::Sender<DeltaDiscoveryRequest>,
    pub responses: tonic::Streaming<DeltaDiscoveryResponse>,
}

pub async fn client(zone: &Zone) -> AggregatedDiscoveryServiceClient<tonic::transport::Channel> {
    let endpoint = Endpoint::from_shared(format!("grpcs://{}", zone.proxies)).unwrap();
    // With this scheme tonic leaves TLS to the dialer.
    let channel = endpoint.connect_with_connector_lazy(zone.dialer());
    AggregatedDiscoveryServiceClient::new(channel)
}

pub async fn open(zone: &Zone, token: Option<&str>) -> Result<Stream, Status> {
    let (requests, outgoing) = mpsc::channel(16);
    let mut request = Request::new(ReceiverStream::new(outgoing));
    if let Some(token) = token {
        let token = token.parse().unwrap();
        request.metadata_mut().insert("authorization", token);
    }
    let responses = client(zone)
        .await
        .delta_aggregated_resources(request)
        .await?
        .into_inner();
    Ok(Stream {
        requests,
        responses,
    })
}

/// A node of the mesh `default` with metadata.
pub fn node(name: &str, metadata: &Value) -> Node {
    Node {
        id: format!("default.{name}"),
        metadata: Some(serde_json::from_value(metadata.clone()).unwrap()),
        ..Node::default()
    }
}

/// Asks for everything of a type.
pub fn everything(type_url: &str, node: Option<Node>) -> DeltaDiscoveryRequest {
    DeltaDiscoveryRequest {
        node,
        type_url: type_url.to_owned(),
        resource_names_subscribe: vec!["*".to_owned()],
        ..DeltaDiscoveryRequest::default()
    }
}

/// A workload's proxy.
pub struct Spec {
    pub name: &'static str,
    pub address: &'static str,
    pub calls: Option<&'static str>,
    pub reports_health: bool,
}

impl Spec {
    pub fn new(name: &'static str, address: &'static str) -> Self {
        Self {
            name,
            address,
            calls: None,
            reports_health: false,
        }
    }

    pub fn calling(self, service: &'static str) -> Self {
        Self {
            calls: Some(service),
            ..self
        }
    }

    pub fn reporting_health(self) -> Self {
        Self {
            reports_health: true,
            ..self
        }
    }

    pub fn dataplane(&self) -> Value {
        let outbound: Vec<Value> = self
            .calls
            .iter()
            .map(|service| {
                json!({
                    "address": "127.0.0.1",
                    "port": 10_001,
                    "backendRef": { "kind": "MeshService", "name": service, "port": 8080 },
                })
            })
            .collect();
        json!({
            "type": "Dataplane",
            "mesh": "default",
            "name": self.name,
            "labels": { "kuma.io/workload": self.name },
            "networking": {
                "address": self.address,
                "inbound": [{ "name": "http", "port": 8080, "servicePort": 8081, "protocol": "http" }],
                "outbound": outbound,
            },
        })
    }

    pub fn metadata(&self) -> Value {
        let features: &[&str] = if self.reports_health {
            &["feature-workload-health"]
        } else {
            &[]
        };
        json!({
            "dataplane.resource": self.dataplane().to_string(),
            "dataplane.proxyType": "dataplane",
            "dataplane.admin.socketPath": "/run/web/admin.sock",
            "features": features,
        })
    }
}

/// A proxy that ACKs by itself, except what it is told to refuse.
pub struct Proxy {
    pub token: String,
    state: watch::Receiver<State>,
    refuse: Arc<Mutex<Option<(String, String)>>>,
    hang_up: CancellationToken,
}

impl Drop for Proxy {
    fn drop(&mut self) {
        self.hang_up.cancel();
    }
}

impl Proxy {
    pub async fn start(zone: &Zone, spec: &Spec) -> Self {
        let token = if zone.is_alone {
            zone.token(spec.name).await
        } else {
            String::new()
        };
        let Stream {
            requests,
            mut responses,
        } = open(zone, Some(&token)).await.unwrap();
        for (number, type_url) in TYPES.into_iter().enumerate() {
            let node = (number == 0).then(|| node(spec.name, &spec.metadata()));
            requests.send(everything(type_url, node)).await.unwrap();
        }
        let (sender, state) = watch::channel(State::default());
        let refuse: Arc<Mutex<Option<(String, String)>>> = Arc::default();
        let refused = Arc::clone(&refuse);
        let hang_up = CancellationToken::new();
        let hung_up = hang_up.clone();
        Spawner::detached(hang_up.clone()).spawn("proxy", async move {
            loop {
                let message = tokio::select! {
                    () = hung_up.cancelled() => return,
                    message = responses.message() => message,
                };
                let response = match message {
                    Ok(Some(response)) => response,
                    Ok(None) => return,
                    Err(status) => {
                        sender.send_modify(|state| state.ended = Some(status));
                        return;
                    }
                };
                let mut answer = DeltaDiscoveryRequest {
                    type_url: response.type_url.clone(),
                    response_nonce: response.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                };
                let refusal = refused.lock().unwrap().clone();
                match refusal {
                    Some((type_url, message)) if type_url == response.type_url => {
                        answer.error_detail = Some(rpc::Status {
                            code: 13,
                            message,
                            ..rpc::Status::default()
                        });
                    }
                    _ => sender.send_modify(|state| apply(state, response)),
                }
                if requests.send(answer).await.is_err() {
                    return;
                }
            }
        });
        Self {
            token,
            state,
            refuse,
            hang_up,
        }
    }

    pub fn refuse(&self, type_url: &str, message: &str) {
        *self.refuse.lock().unwrap() = Some((type_url.to_owned(), message.to_owned()));
    }

    pub fn take_all(&self) {
        *self.refuse.lock().unwrap() = None;
    }

    pub fn state(&self) -> State {
        self.state.borrow().clone()
    }

    pub async fn until(&self, what: &str, check: impl Fn(&State) -> bool) {
        let mut state = self.state.clone();
        let waited = tokio::time::timeout(PATIENCE, state.wait_for(check)).await;
        match waited {
            Ok(Ok(_)) => {}
            Ok(Err(_)) => panic!("the stream ended before {what}: {:?}", self.state().ended),
            Err(_) => panic!("waited in vain until {what}: {:?}", self.state()),
        }
    }

    pub async fn ended(&self) -> Status {
        self.until("the stream ended", |state| state.ended.is_some())
            .await;
        self.state().ended.unwrap()
    }
}

fn apply(state: &mut State, response: DeltaDiscoveryResponse) {
    let held = state.held.entry(response.type_url).or_default();
    for resource in response.resources {
        held.insert(resource.name, resource.resource.unwrap());
    }
    for name in response.removed_resources {
        held.remove(&name);
    }
}
