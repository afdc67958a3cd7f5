//! The calls that zones make, each handed to its own task.

use std::pin::Pin;
use std::sync::Arc;

use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use kds_proto::kuma::mesh::v1alpha1::global_kds_service_server::GlobalKdsService;
use kds_proto::kuma::mesh::v1alpha1::kds_sync_service_server::KdsSyncService;
use kds_proto::kuma::mesh::v1alpha1::{
    ClustersRequest, ClustersResponse, StatsRequest, StatsResponse, XdsConfigRequest,
    XdsConfigResponse, ZoneHealthCheckRequest, ZoneHealthCheckResponse,
};
use kds_proto::zonal::federation::v1::federation_server::Federation;
use kds_proto::zonal::federation::v1::{GlobalFrame, ZoneFrame};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};
use tracing::{info, warn};
use zonal_kds::zone_record;
use zonal_model::{Key, Kind};
use zonal_store::{Batch, Expect, StoreError};

use super::peer::Peer;
use super::zones::StreamKind;
use super::{Shared, admin, down, exchange, up};

/// Messages that wait for the connection. Small: what is not sent yet is better made later, newer.
const OUTBOX: usize = 4;

pub(super) type Outbox<T> = mpsc::Sender<Result<T, Status>>;
type Outgoing<T> = Pin<Box<ReceiverStream<Result<T, Status>>>>;

/// One handle for all services.
pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    fn peer<T>(&self, request: &Request<T>) -> Result<Peer, Status> {
        let zone = (self.0.authorize)(request.metadata())?;
        Ok(Peer::new(zone.as_str().into(), request.metadata()))
    }
}

/// Makes the record of a zone that is new here.
pub(super) async fn ensure_zone(shared: &Shared, zone: &str) -> Result<(), Status> {
    let key = Key::global(Kind::Zone, zone);
    if shared.store.snapshot().get(&key).is_some() {
        return Ok(());
    }
    let batch = Batch::new().put_if(zone_record(zone), Expect::Absent);
    match shared.store.commit(batch).await {
        Ok(_) => {
            info!(zone, "a new zone joined");
            Ok(())
        }
        // Another stream of the same zone was faster.
        Err(StoreError::Conflict { .. }) => Ok(()),
        Err(error) => {
            warn!(zone, %error, "cannot record a zone");
            Err(Status::unavailable("the zone cannot be recorded now"))
        }
    }
}

fn open<T: Send + 'static>() -> (Outbox<T>, Response<Outgoing<T>>) {
    let (outbox, outgoing) = mpsc::channel(OUTBOX);
    (
        outbox,
        Response::new(Box::pin(ReceiverStream::new(outgoing))),
    )
}

#[tonic::async_trait]
impl KdsSyncService for Service {
    type GlobalToZoneSyncStream = Outgoing<DeltaDiscoveryResponse>;
    type ZoneToGlobalSyncStream = Outgoing<DeltaDiscoveryRequest>;

    async fn global_to_zone_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::GlobalToZoneSyncStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let work = down::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-down", work);
        Ok(response)
    }

    async fn zone_to_global_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryResponse>>,
    ) -> Result<Response<Self::ZoneToGlobalSyncStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let work = up::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-up", work);
        Ok(response)
    }
}

#[tonic::async_trait]
impl GlobalKdsService for Service {
    type StreamXDSConfigsStream = Outgoing<XdsConfigRequest>;
    type StreamStatsStream = Outgoing<StatsRequest>;
    type StreamClustersStream = Outgoing<ClustersRequest>;

    async fn stream_xds_configs(
        &self,
        request: Request<Streaming<XdsConfigResponse>>,
    ) -> Result<Response<Self::StreamXDSConfigsStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let incoming = request.into_inner();
        let streams = self.0.admin.configs.clone();
        let work = admin::run(
            Arc::clone(&self.0),
            peer,
            streams,
            StreamKind::ConfigDump,
            incoming,
            outbox,
        );
        self.0.spawner.spawn("kds-admin-configs", work);
        Ok(response)
    }

    async fn stream_stats(
        &self,
        request: Request<Streaming<StatsResponse>>,
    ) -> Result<Response<Self::StreamStatsStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let incoming = request.into_inner();
        let streams = self.0.admin.stats.clone();
        let work = admin::run(
            Arc::clone(&self.0),
            peer,
            streams,
            StreamKind::Stats,
            incoming,
            outbox,
        );
        self.0.spawner.spawn("kds-admin-stats", work);
        Ok(response)
    }

    async fn stream_clusters(
        &self,
        request: Request<Streaming<ClustersResponse>>,
    ) -> Result<Response<Self::StreamClustersStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let incoming = request.into_inner();
        let streams = self.0.admin.clusters.clone();
        let work = admin::run(
            Arc::clone(&self.0),
            peer,
            streams,
            StreamKind::Clusters,
            incoming,
            outbox,
        );
        self.0.spawner.spawn("kds-admin-clusters", work);
        Ok(response)
    }

    async fn health_check(
        &self,
        request: Request<ZoneHealthCheckRequest>,
    ) -> Result<Response<ZoneHealthCheckResponse>, Status> {
        let peer = self.peer(&request)?;
        self.0.zones.healthy(&peer.zone);
        let interval = self.0.settings.health_interval.unwrap_or_default();
        // Present even when it is zero, as Kuma's zones know it: then they keep their own.
        Ok(Response::new(ZoneHealthCheckResponse {
            interval: Some(interval.into()),
        }))
    }
}

#[tonic::async_trait]
impl Federation for Service {
    type ExchangeStream = Outgoing<GlobalFrame>;

    async fn exchange(
        &self,
        request: Request<Streaming<ZoneFrame>>,
    ) -> Result<Response<Self::ExchangeStream>, Status> {
        let peer = self.peer(&request)?;
        let (outbox, response) = open();
        let work = exchange::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-exchange", work);
        Ok(response)
    }
}
