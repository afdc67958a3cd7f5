//! A zone control plane that offers what a test says, over TLS, and remembers what it was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::Path;
use std::pin::Pin;
use std::sync::Arc;

use futures::Stream;
use kds_proto::envoy::config::cluster::v3::Cluster;
use kds_proto::envoy::config::core::v3::address::Address as AddressKind;
use kds_proto::envoy::config::core::v3::socket_address::PortSpecifier;
use kds_proto::envoy::config::core::v3::{Address, Node, SocketAddress};
use kds_proto::envoy::config::endpoint::v3::lb_endpoint::HostIdentifier;
use kds_proto::envoy::config::endpoint::v3::{
    ClusterLoadAssignment, Endpoint, LbEndpoint, LocalityLbEndpoints,
};
use kds_proto::envoy::config::listener::v3::Listener;
use kds_proto::envoy::service::discovery::v3::aggregated_discovery_service_server::{
    AggregatedDiscoveryService, AggregatedDiscoveryServiceServer,
};
use kds_proto::envoy::service::discovery::v3::{
    DeltaDiscoveryRequest, DeltaDiscoveryResponse, DiscoveryRequest, DiscoveryResponse,
};
use kds_proto::zonal::ingress::v1::Route;
use parking_lot::Mutex;
use prost::{Message, Name as _};
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use zonal_delta::{Entry, Name, Offered, Settings, Source, TypeUrl, Version, wire};
use zonal_process::{CancellationToken, Clock, RealClock, tls};

type Offers = BTreeMap<TypeUrl, Offered>;

/// Runs until it is stopped; may be started again on the same address.
pub(crate) struct ControlPlane {
    pub(crate) address: SocketAddr,
    pub(crate) told: Arc<Told>,
    types: Vec<TypeUrl>,
    offers: watch::Sender<Offers>,
    running: CancellationToken,
    identity: Arc<tls::ServerIdentity>,
}

/// What the ingress said.
#[derive(Default)]
pub(crate) struct Told {
    pub(crate) nodes: Mutex<Vec<Node>>,
    pub(crate) tokens: Mutex<Vec<String>>,
    /// Message of each NACK.
    pub(crate) nacks: Mutex<Vec<String>>,
    /// Resources sent to it, over all streams.
    pub(crate) sent: Mutex<Vec<String>>,
    pub(crate) acks: Mutex<usize>,
}

impl ControlPlane {
    pub(crate) async fn start(folder: &Path) -> Self {
        Self::of_types(
            folder,
            [ClusterLoadAssignment::type_url(), Route::type_url()],
        )
        .await
    }

    /// One that offers what a Kuma zone control plane does, in its order.
    pub(crate) async fn kuma(folder: &Path) -> Self {
        let types = [
            Cluster::type_url(),
            ClusterLoadAssignment::type_url(),
            Listener::type_url(),
        ];
        Self::of_types(folder, types).await
    }

    async fn of_types<const N: usize>(folder: &Path, types: [String; N]) -> Self {
        let now = RealClock.wall();
        let identity = tls::ServerIdentity::load_or_create(&folder.join("cp"), &[], now).unwrap();
        let mut control_plane = Self {
            address: ([127, 0, 0, 1], 0).into(),
            told: Arc::default(),
            types: types
                .iter()
                .map(|kind| TypeUrl::from(kind.as_str()))
                .collect(),
            offers: watch::Sender::new(types.map(|kind| (kind.into(), Offered::new())).into()),
            running: CancellationToken::new(),
            identity,
        };
        control_plane.run().await;
        control_plane
    }

    pub(crate) fn fingerprint(&self) -> tls::Fingerprint {
        self.identity.fingerprint()
    }

    /// Listens, on the same address as before if there was one.
    pub(crate) async fn run(&mut self) {
        let listener = zonal_process::net::bind(self.address).await.unwrap();
        self.address = listener.local_addr().unwrap();
        self.running = CancellationToken::new();
        let service = Service {
            told: Arc::clone(&self.told),
            types: self.types.clone(),
            offers: self.offers.subscribe(),
            stop: self.running.clone(),
        };
        let routes = tonic::service::Routes::new(AggregatedDiscoveryServiceServer::new(service));
        let limits = zonal_process::net::Limits::default();
        let config = self.identity.server_config().unwrap();
        let serving = zonal_process::net::serve(
            listener,
            Some(config),
            routes.into_axum_router(),
            limits,
            self.running.clone(),
        );
        tokio::spawn(serving);
    }

    /// Ends every stream and closes the listener.
    pub(crate) fn stop(&self) {
        self.running.cancel();
    }

    pub(crate) fn route(&self, sni: &str, endpoints: &[SocketAddr]) {
        let cluster = format!("cluster_of_{sni}");
        self.offer(&assignment(&cluster, endpoints), &cluster);
        let route = Route {
            sni: sni.into(),
            cluster,
            service_kri: format!("kri_msvc_default_west__{sni}_http"),
            mesh: "default".into(),
            ..Route::default()
        };
        self.offer(&route, sni);
    }

    pub(crate) fn unroute(&self, sni: &str) {
        self.offers.send_modify(|offers| {
            offers
                .get_mut(Route::type_url().as_str())
                .unwrap()
                .remove(sni);
        });
    }

    pub(crate) fn offer<M: Message + prost::Name>(&self, message: &M, name: &str) {
        let body = message.encode_to_vec();
        let version = Version::from(format!("{:x}", digest(&body)));
        let entry = Entry {
            version,
            body: body.into(),
        };
        self.offers.send_modify(|offers| {
            offers
                .get_mut(M::type_url().as_str())
                .unwrap()
                .insert(Name::from(name), entry);
        });
    }

    /// Offers a packed message under a name.
    pub(crate) fn offer_packed(&self, any: kds_proto::Any, name: &str) {
        let version = Version::from(format!("{:x}", digest(&any.value)));
        let entry = Entry {
            version,
            body: any.value,
        };
        self.offers.send_modify(|offers| {
            offers
                .get_mut(any.type_url.as_str())
                .unwrap()
                .insert(Name::from(name), entry);
        });
    }

    /// Offers bytes that are no message of their type.
    pub(crate) fn offer_rubbish(&self, name: &str) {
        let entry = Entry {
            version: "bad".into(),
            body: vec![0xff, 0xff].into(),
        };
        self.offers.send_modify(|offers| {
            offers
                .get_mut(Route::type_url().as_str())
                .unwrap()
                .insert(Name::from(name), entry);
        });
    }
}

impl Drop for ControlPlane {
    fn drop(&mut self) {
        self.stop();
    }
}

fn digest(bytes: &[u8]) -> u64 {
    bytes.iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3)
    })
}

fn assignment(cluster: &str, endpoints: &[SocketAddr]) -> ClusterLoadAssignment {
    let endpoint = |address: &SocketAddr| LbEndpoint {
        host_identifier: Some(HostIdentifier::Endpoint(Endpoint {
            address: Some(Address {
                address: Some(AddressKind::SocketAddress(SocketAddress {
                    address: address.ip().to_string(),
                    port_specifier: Some(PortSpecifier::PortValue(u32::from(address.port()))),
                    ..SocketAddress::default()
                })),
            }),
            ..Endpoint::default()
        })),
        ..LbEndpoint::default()
    };
    ClusterLoadAssignment {
        cluster_name: cluster.into(),
        endpoints: vec![LocalityLbEndpoints {
            lb_endpoints: endpoints.iter().map(endpoint).collect(),
            ..LocalityLbEndpoints::default()
        }],
        ..ClusterLoadAssignment::default()
    }
}

struct Service {
    told: Arc<Told>,
    types: Vec<TypeUrl>,
    offers: watch::Receiver<Offers>,
    stop: CancellationToken,
}

type Responses<T> = Pin<Box<dyn Stream<Item = Result<T, Status>> + Send>>;

#[tonic::async_trait]
impl AggregatedDiscoveryService for Service {
    type StreamAggregatedResourcesStream = Responses<DiscoveryResponse>;
    type DeltaAggregatedResourcesStream = Responses<DeltaDiscoveryResponse>;

    async fn stream_aggregated_resources(
        &self,
        _request: Request<Streaming<DiscoveryRequest>>,
    ) -> Result<Response<Self::StreamAggregatedResourcesStream>, Status> {
        Err(Status::unimplemented("incremental only"))
    }

    async fn delta_aggregated_resources(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::DeltaAggregatedResourcesStream>, Status> {
        let token = request
            .metadata()
            .get("authorization")
            .map(|token| token.to_str().unwrap());
        if token == Some("wrong") {
            return Err(Status::unauthenticated("token is for zone ingress `other`"));
        }
        self.told
            .tokens
            .lock()
            .push(token.unwrap_or_default().to_owned());
        let (write, responses) = mpsc::channel(8);
        let (told, offers, stop) = (
            Arc::clone(&self.told),
            self.offers.clone(),
            self.stop.clone(),
        );
        let source = Source::new(Settings::proxy(), self.types.clone());
        tokio::spawn(converse(
            source,
            request.into_inner(),
            write,
            offers,
            told,
            stop,
        ));
        Ok(Response::new(Box::pin(ReceiverStream::new(responses))))
    }
}

async fn converse(
    mut source: Source,
    mut requests: Streaming<DeltaDiscoveryRequest>,
    write: mpsc::Sender<Result<DeltaDiscoveryResponse, Status>>,
    mut offers: watch::Receiver<Offers>,
    told: Arc<Told>,
    stop: CancellationToken,
) {
    offers.mark_changed();
    loop {
        while let Some(response) = source.poll_response(RealClock.now()) {
            for upsert in &response.upserts {
                told.sent.lock().push(upsert.name.to_string());
            }
            let kind = response.type_url.to_string();
            if write
                .send(Ok(wire::response(response, &kind, "fake")))
                .await
                .is_err()
            {
                return;
            }
        }
        tokio::select! {
            () = stop.cancelled() => return,
            changed = offers.changed() => {
                if changed.is_err() {
                    return;
                }
                for (kind, offered) in offers.borrow_and_update().iter() {
                    source.set_offered(kind, offered.clone());
                }
            }
            message = requests.message() => {
                let Ok(Some(message)) = message else { return };
                told.nodes.lock().extend(message.node.clone());
                match (&message.error_detail, message.response_nonce.is_empty()) {
                    (Some(nack), _) => told.nacks.lock().push(nack.message.clone()),
                    (None, false) => *told.acks.lock() += 1,
                    (None, true) => {}
                }
                source.handle_request(RealClock.now(), wire::parse_request(message).unwrap());
            }
        }
    }
}
