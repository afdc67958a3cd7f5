//! Recorded ends of Kuma: a zone that joins our global, a global that our zone joins.

use std::collections::{BTreeMap, BTreeSet};
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kds_proto::kuma::mesh::v1alpha1::kds_sync_service_client::KdsSyncServiceClient;
use kds_proto::kuma::mesh::v1alpha1::kds_sync_service_server::{
    KdsSyncService, KdsSyncServiceServer,
};
use prost::Message as _;
use tokio::sync::{mpsc, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::codec::CompressionEncoding;
use tonic::metadata::MetadataMap;
use tonic::transport::Channel;
use tonic::{Request, Response, Status, Streaming};
use zonal_federation::Border;
use zonal_model::Kind;
use zonal_process::{CancellationToken, Spawner, net};
use zonal_store::Store as _;
use zonal_testkit::conformance::wire::{Recording, recordings};
use zonal_testkit::federation::{Global, Zone, put, store, until, until_published};

fn recording(name: &str) -> Option<Recording> {
    let all = recordings();
    if all.is_none() {
        println!("skipped: the conformance folder is absent");
    }
    all?.unwrap()
        .into_iter()
        .find(|recording| recording.name == name)
}

fn of<M: prost::Message + Default>(recording: &Recording, method: &str, up: bool) -> Vec<M> {
    let wanted = recording
        .messages
        .iter()
        .filter(|m| m.method == method && m.up == up);
    wanted
        .map(|message| M::decode(message.body.clone()).unwrap())
        .collect()
}

fn call<T>(message: T) -> Request<T> {
    let mut request = Request::new(message);
    let metadata = request.metadata_mut();
    metadata.insert("client-id", "zone-1".parse().unwrap());
    metadata.append("features", "zone-ping-health".parse().unwrap());
    metadata.append("features", "hash-suffix".parse().unwrap());
    request
}

async fn client(global: &Global) -> KdsSyncServiceClient<Channel> {
    let address = format!("http://{}", global.addr);
    let channel = Channel::from_shared(address)
        .unwrap()
        .connect()
        .await
        .unwrap();
    KdsSyncServiceClient::new(channel)
        .send_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Gzip)
}

#[tokio::test]
async fn a_recorded_zone_of_kuma_joins_our_global() {
    let Some(recording) = recording("first-sync") else {
        return;
    };
    let global = Global::start(store(), Border::default()).await;
    put(
        &global.store,
        [super::mesh(), super::timeout("slow", "20s")],
    );
    let mut client = client(&global).await;

    let asked: Vec<DeltaDiscoveryRequest> = of(&recording, "GlobalToZoneSync", true);
    let initial: Vec<_> = asked
        .into_iter()
        .filter(|r| r.response_nonce.is_empty())
        .collect();
    assert_eq!(initial.len(), 29);
    let (ask, asking) = mpsc::channel(64);
    for request in initial {
        ask.send(request).await.unwrap();
    }
    let down = client
        .global_to_zone_sync(call(ReceiverStream::new(asking)))
        .await
        .unwrap();
    let mut down = down.into_inner();
    let mut answered: BTreeMap<String, DeltaDiscoveryResponse> = BTreeMap::new();
    while answered.len() < 29 {
        let response = down.message().await.unwrap().unwrap();
        assert_eq!(
            response.control_plane.as_ref().unwrap().identifier,
            "global"
        );
        assert!(!response.nonce.is_empty());
        ask.send(DeltaDiscoveryRequest {
            type_url: response.type_url.clone(),
            response_nonce: response.nonce.clone(),
            ..DeltaDiscoveryRequest::default()
        })
        .await
        .unwrap();
        assert!(
            answered
                .insert(response.type_url.clone(), response)
                .is_none(),
            "once per kind"
        );
    }
    assert_eq!(answered["Mesh"].resources.len(), 1);
    assert_eq!(answered["MeshTimeout"].resources.len(), 1);
    assert_eq!(answered["MeshService"].resources.len(), 0);

    // Its inventory: global asks first, and acknowledges what it has kept.
    let brought: Vec<DeltaDiscoveryResponse> = of(&recording, "ZoneToGlobalSync", true);
    let (bring, bringing) = mpsc::channel(64);
    let up = client
        .zone_to_global_sync(call(ReceiverStream::new(bringing)))
        .await
        .unwrap();
    let mut up = up.into_inner();
    let mut kinds = BTreeSet::new();
    while kinds.len() < 26 {
        let request = up.message().await.unwrap().unwrap();
        assert_eq!(request.node.as_ref().unwrap().id, "zone-1");
        assert_eq!(request.resource_names_subscribe, ["*"]);
        assert!(
            request.initial_resource_versions.is_empty(),
            "a zone of Kuma tells everything"
        );
        kinds.insert(request.type_url);
    }
    for response in &brought {
        bring.send(response.clone()).await.unwrap();
    }
    let mut nonces = BTreeSet::new();
    while nonces.len() < brought.len() {
        let ack = up.message().await.unwrap().unwrap();
        assert_eq!(ack.error_detail, None, "{}", ack.type_url);
        assert!(
            ack.node.is_some(),
            "a Kuma publisher falls over a message without a node"
        );
        nonces.insert(ack.response_nonce);
    }
    let kept = global.store.snapshot();
    assert_eq!(kept.count(Kind::HostnameGenerator), 2);
    assert!(
        kept.list(Kind::HostnameGenerator)
            .all(|s| s.resource.zone() == Some("zone-1"))
    );
}

/// A global that says what a global of Kuma said.
struct RecordedGlobal {
    responses: Vec<DeltaDiscoveryResponse>,
    requests: Vec<DeltaDiscoveryRequest>,
    heard: watch::Sender<Heard>,
    metadata: Arc<Mutex<Vec<MetadataMap>>>,
}

#[derive(Clone, Debug, Default)]
struct Heard {
    initial: Vec<DeltaDiscoveryRequest>,
    acked: BTreeSet<String>,
    nacked: BTreeSet<String>,
    brought: Vec<DeltaDiscoveryResponse>,
}

type Outgoing<T> = Pin<Box<ReceiverStream<Result<T, Status>>>>;

#[tonic::async_trait]
impl KdsSyncService for RecordedGlobal {
    type GlobalToZoneSyncStream = Outgoing<DeltaDiscoveryResponse>;
    type ZoneToGlobalSyncStream = Outgoing<DeltaDiscoveryRequest>;

    async fn global_to_zone_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::GlobalToZoneSyncStream>, Status> {
        self.metadata
            .lock()
            .unwrap()
            .push(request.metadata().clone());
        let mut incoming = request.into_inner();
        let (send, receive) = mpsc::channel(64);
        let (responses, heard) = (self.responses.clone(), self.heard.clone());
        tokio::spawn(async move {
            while let Ok(Some(request)) = incoming.message().await {
                assert!(request.node.is_some(), "every message needs a node");
                if request.response_nonce.is_empty() {
                    let answer = responses.iter().find(|r| r.type_url == request.type_url);
                    heard.send_modify(|heard| heard.initial.push(request));
                    if let Some(answer) = answer {
                        send.send(Ok(answer.clone())).await.ok();
                    }
                } else {
                    heard.send_modify(|heard| {
                        let list = if request.error_detail.is_some() {
                            &mut heard.nacked
                        } else {
                            &mut heard.acked
                        };
                        list.insert(request.response_nonce);
                    });
                }
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }

    async fn zone_to_global_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryResponse>>,
    ) -> Result<Response<Self::ZoneToGlobalSyncStream>, Status> {
        self.metadata
            .lock()
            .unwrap()
            .push(request.metadata().clone());
        let mut incoming = request.into_inner();
        let (send, receive) = mpsc::channel(64);
        let initial: Vec<_> = self
            .requests
            .iter()
            .filter(|r| r.response_nonce.is_empty())
            .cloned()
            .collect();
        let heard = self.heard.clone();
        tokio::spawn(async move {
            for request in initial {
                send.send(Ok(request)).await.ok();
            }
            while let Ok(Some(response)) = incoming.message().await {
                let ack = DeltaDiscoveryRequest {
                    type_url: response.type_url.clone(),
                    response_nonce: response.nonce.clone(),
                    ..DeltaDiscoveryRequest::default()
                };
                heard.send_modify(|heard| heard.brought.push(response));
                send.send(Ok(ack)).await.ok();
            }
        });
        Ok(Response::new(Box::pin(ReceiverStream::new(receive))))
    }
}

#[tokio::test]
async fn our_zone_joins_a_recorded_global_of_kuma() {
    let Some(recording) = recording("first-sync") else {
        return;
    };
    let heard = watch::Sender::new(Heard::default());
    let metadata = Arc::new(Mutex::new(Vec::new()));
    let global = RecordedGlobal {
        responses: of(&recording, "GlobalToZoneSync", false),
        requests: of(&recording, "ZoneToGlobalSync", false),
        heard: heard.clone(),
        metadata: Arc::clone(&metadata),
    };
    let stop = CancellationToken::new();
    let listener = net::bind(([127, 0, 0, 1], 0).into()).await.unwrap();
    let addr = listener.local_addr().unwrap();
    let gzip = CompressionEncoding::Gzip;
    let service = KdsSyncServiceServer::new(global)
        .accept_compressed(gzip)
        .send_compressed(gzip);
    let router = tonic::service::Routes::new(service).into_axum_router();
    let serve = net::serve(listener, None, router, net::Limits::default(), stop.clone());
    Spawner::detached(stop.clone()).spawn("kuma", serve);

    let mut zone = Zone::join("zone-1", store(), addr).await;
    zone.connected().await;
    put(&zone.store, [super::service("web")]);
    let mut watching = heard.subscribe();
    let got = until_published(&mut watching, |heard| {
        let done = heard.initial.len() == 29
            && heard.acked.len() == 29
            && heard
                .brought
                .iter()
                .any(|response| !response.resources.is_empty());
        let counts = (heard.initial.len(), heard.acked.len(), heard.nacked.clone());
        done.then(|| heard.clone())
            .ok_or_else(|| format!("{counts:?}"))
    })
    .await;
    assert_eq!(got.nacked, BTreeSet::new());
    until(&zone.store, |s| {
        let synced = s
            .all()
            .filter(|stored| stored.resource.label("kuma.io/origin") == Some("global"));
        match synced.count() {
            13 => Ok(()),
            n => Err(format!("{n} of 13")),
        }
    })
    .await;

    // What the zone asked for is what Kuma's asked for.
    let theirs: Vec<DeltaDiscoveryRequest> = of(&recording, "GlobalToZoneSync", true);
    let of_kinds = |requests: &[DeltaDiscoveryRequest]| -> BTreeMap<String, Vec<String>> {
        let initial = requests.iter().filter(|r| r.response_nonce.is_empty());
        initial
            .map(|r| (r.type_url.clone(), r.resource_names_subscribe.clone()))
            .collect()
    };
    assert_eq!(of_kinds(&got.initial), of_kinds(&theirs));
    let keys = |request: &DeltaDiscoveryRequest| -> Vec<String> {
        let node = request.node.clone().unwrap();
        assert_eq!(node.id, "zone-1");
        node.metadata.unwrap().fields.into_keys().collect()
    };
    assert_eq!(keys(&got.initial[0]), keys(&theirs[0]));
    let metadata = metadata.lock().unwrap().clone();
    assert_eq!(metadata.len(), 2);
    for metadata in metadata {
        let text = |name: &str| metadata.get(name).unwrap().to_str().unwrap().to_owned();
        assert_eq!(text("client-id"), "zone-1");
        assert_eq!(
            (text("kds-version"), text("zone-version")),
            ("v3".into(), "v3".into())
        );
        let features: Vec<_> = metadata
            .get_all("features")
            .iter()
            .map(|v| v.to_str().unwrap().to_owned())
            .collect();
        assert!(features.contains(&"zone-ping-health".to_owned()));
        assert!(features.contains(&"hash-suffix".to_owned()));
    }
    // And what it brought carries its name.
    let brought = got
        .brought
        .iter()
        .find(|response| !response.resources.is_empty())
        .unwrap();
    assert_eq!(brought.control_plane.as_ref().unwrap().identifier, "zone-1");
    stop.cancel();
}

/// Brings what a recorded zone brought, and gives the answers by nonce.
async fn bring(
    global: &Global,
    zone: &str,
    brought: &[DeltaDiscoveryResponse],
) -> BTreeMap<String, DeltaDiscoveryRequest> {
    let mut client = client(global).await;
    let (bring, bringing) = mpsc::channel(64);
    let mut request = call(ReceiverStream::new(bringing));
    request
        .metadata_mut()
        .insert("client-id", zone.parse().unwrap());
    let mut up = client
        .zone_to_global_sync(request)
        .await
        .unwrap()
        .into_inner();
    for response in brought {
        bring.send(response.clone()).await.unwrap();
    }
    let mut answers = BTreeMap::new();
    while answers.len() < brought.len() {
        let answer = up.message().await.unwrap().unwrap();
        if !answer.response_nonce.is_empty() {
            answers.insert(answer.response_nonce.clone(), answer);
        }
    }
    answers
}

#[tokio::test]
async fn the_recorded_inventory_of_a_zone_of_kuma_goes_on_to_our_zone() {
    let Some(recording) = recording("inventory") else {
        return;
    };
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [super::mesh()]);
    let west = Zone::join("zone-2", store(), global.addr).await;
    let mut brought: Vec<DeltaDiscoveryResponse> = of(&recording, "ZoneToGlobalSync", true);
    brought.retain(|response| !response.resources.is_empty());
    assert!(brought.len() > 3);
    let answers = bring(&global, "zone-1", &brought).await;
    for answer in answers.values() {
        assert_eq!(answer.error_detail, None, "{}", answer.type_url);
    }
    let kept = global.store.snapshot();
    for kind in [Kind::Dataplane, Kind::Workload, Kind::MeshService] {
        assert_eq!(kept.count(kind), 1, "{kind}");
    }
    until(&west.store, |s| super::there(s, Kind::MeshService, "web")).await;
    assert_eq!(west.store.snapshot().count(Kind::Dataplane), 0);
}

#[tokio::test]
async fn the_recorded_invalid_dataplane_is_refused_and_its_neighbour_kept() {
    let Some(recording) = recording("nack") else {
        return;
    };
    let global = Global::start(store(), Border::default()).await;
    put(&global.store, [super::mesh()]);
    let brought: Vec<DeltaDiscoveryResponse> = recording
        .messages
        .iter()
        .filter(|m| m.case == "invalid-dataplane" && m.method == "ZoneToGlobalSync" && m.up)
        .map(|m| DeltaDiscoveryResponse::decode(m.body.clone()).unwrap())
        .filter(|response| !response.resources.is_empty())
        .collect();
    let both = brought
        .iter()
        .find(|response| response.resources.len() == 2)
        .unwrap();
    let answers = bring(&global, "zone-9", std::slice::from_ref(both)).await;
    let nack = answers
        .values()
        .next()
        .unwrap()
        .error_detail
        .clone()
        .unwrap();
    assert!(nack.message.starts_with("user error"), "{}", nack.message);
    assert!(nack.message.contains("networking"), "{}", nack.message);
    assert_eq!(global.store.snapshot().count(Kind::Dataplane), 1);
}
