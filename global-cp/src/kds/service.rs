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
use zonal_kds::{deleted_at, deletion_told, zone_record};
use zonal_model::{Key, Kind};
use zonal_process::net::PeerAddr;
use zonal_store::{Batch, Expect, Revision, Snapshot, StoreError};

use super::members::Seat;
use super::peer::Peer;
use super::zones::StreamKind;
use super::{Caller, Shared, admin, down, exchange, up};

/// Messages that wait for the connection. Small: what is not sent yet is better made later, newer.
const OUTBOX: usize = 4;

pub(super) type Outbox<T> = mpsc::Sender<Result<T, Status>>;
type Outgoing<T> = Pin<Box<ReceiverStream<Result<T, Status>>>>;

/// One handle for all services.
pub(super) struct Service(pub(super) Arc<Shared>);

impl Service {
    /// Who calls, and the seat that the call takes.
    fn peer<T>(&self, request: &Request<T>) -> Result<(Peer, Seat), Status> {
        let shared = &self.0;
        let far = request.extensions().get::<PeerAddr>();
        let caller = Caller {
            metadata: request.metadata(),
            certificate: far.and_then(|far| far.client_certificate.as_deref()),
        };
        let zone: Arc<str> = (shared.authorize)(caller)?.as_str().into();
        may_come(shared, &zone)?;
        let address = far.map(|far| far.remote);
        let peer = Peer::new(zone, request.metadata(), address);
        let seat = shared
            .members
            .seat(&peer.zone, &peer.speaker, shared.clock.wall())
            .map_err(|taken| {
                warn!(zone = %peer.zone, ?address, %taken, "a second control plane of a zone is refused");
                Status::failed_precondition(taken.to_string())
            })?;
        Ok((peer, seat))
    }
}

/// A zone that was deleted stays out until it is made again.
fn may_come(shared: &Shared, zone: &str) -> Result<(), Status> {
    match deleted_at(&shared.store.snapshot(), zone) {
        Some(at) => Err(Status::failed_precondition(deletion_told(zone, at))),
        None => Ok(()),
    }
}

/// The record of a zone as a stream found it: which one, by the revision that made it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Record(Revision);

impl Record {
    fn of(snapshot: &Snapshot, zone: &str) -> Option<Self> {
        let stored = snapshot.get(&Key::global(Kind::Zone, zone))?;
        Some(Self(stored.created))
    }

    /// Ends the stream when the record is gone, or is another by now.
    pub(super) fn check(self, snapshot: &Snapshot, zone: &str) -> Result<(), Status> {
        if Self::of(snapshot, zone).is_some_and(|now| now.0 == self.0) {
            return Ok(());
        }
        Err(match deleted_at(snapshot, zone) {
            Some(at) => Status::failed_precondition(deletion_told(zone, at)),
            // Everything it brought went with it. On a new stream it is told that nothing is here, and brings it
            // again; on this one it would think that all is well.
            None => Status::unavailable("the zone was deleted; connect again"),
        })
    }
}

/// The record of a zone, made if the zone is new here.
pub(super) async fn ensure_zone(shared: &Shared, zone: &str) -> Result<Record, Status> {
    loop {
        let snapshot = shared.store.snapshot();
        if let Some(record) = Record::of(&snapshot, zone) {
            return Ok(record);
        }
        may_come(shared, zone)?;
        let batch = Batch::new().put_if(zone_record(zone), Expect::Absent);
        match shared.store.commit(batch).await {
            Ok(_) => info!(zone, "a new zone joined"),
            // Another stream of the same zone was faster.
            Err(StoreError::Conflict { .. }) => {}
            Err(error) => {
                warn!(zone, %error, "cannot record a zone");
                return Err(Status::unavailable("the zone cannot be recorded now"));
            }
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

/// The seat is given back when the work is over.
async fn seated(seat: Seat, work: impl Future<Output = ()>) {
    work.await;
    drop(seat);
}

#[tonic::async_trait]
impl KdsSyncService for Service {
    type GlobalToZoneSyncStream = Outgoing<DeltaDiscoveryResponse>;
    type ZoneToGlobalSyncStream = Outgoing<DeltaDiscoveryRequest>;

    async fn global_to_zone_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryRequest>>,
    ) -> Result<Response<Self::GlobalToZoneSyncStream>, Status> {
        let (peer, seat) = self.peer(&request)?;
        let (outbox, response) = open();
        let work = down::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-down", seated(seat, work));
        Ok(response)
    }

    async fn zone_to_global_sync(
        &self,
        request: Request<Streaming<DeltaDiscoveryResponse>>,
    ) -> Result<Response<Self::ZoneToGlobalSyncStream>, Status> {
        let (peer, seat) = self.peer(&request)?;
        let (outbox, response) = open();
        let work = up::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-up", seated(seat, work));
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
        let (peer, seat) = self.peer(&request)?;
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
        self.0
            .spawner
            .spawn("kds-admin-configs", seated(seat, work));
        Ok(response)
    }

    async fn stream_stats(
        &self,
        request: Request<Streaming<StatsResponse>>,
    ) -> Result<Response<Self::StreamStatsStream>, Status> {
        let (peer, seat) = self.peer(&request)?;
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
        self.0.spawner.spawn("kds-admin-stats", seated(seat, work));
        Ok(response)
    }

    async fn stream_clusters(
        &self,
        request: Request<Streaming<ClustersResponse>>,
    ) -> Result<Response<Self::StreamClustersStream>, Status> {
        let (peer, seat) = self.peer(&request)?;
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
        self.0
            .spawner
            .spawn("kds-admin-clusters", seated(seat, work));
        Ok(response)
    }

    async fn health_check(
        &self,
        request: Request<ZoneHealthCheckRequest>,
    ) -> Result<Response<ZoneHealthCheckResponse>, Status> {
        let (peer, _seat) = self.peer(&request)?;
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
        let (peer, seat) = self.peer(&request)?;
        let (outbox, response) = open();
        let work = exchange::run(Arc::clone(&self.0), peer, request.into_inner(), outbox);
        self.0.spawner.spawn("kds-exchange", seated(seat, work));
        Ok(response)
    }
}
