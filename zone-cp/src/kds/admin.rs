//! Global's questions about the zone's proxies.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use bytes::Bytes;
use futures::StreamExt;
use futures::future::BoxFuture;
use futures::stream::FuturesUnordered;
use kds_proto::kuma::mesh::v1alpha1::{
    AdminOutputFormat, ClustersRequest, ClustersResponse, StatsRequest, StatsResponse,
    XdsConfigRequest, XdsConfigResponse, clusters_response, stats_response, xds_config_response,
};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Response, Status, Streaming};
use tracing::debug;
pub use zonal_control_plane::AdminQuestion;
use zonal_process::{Backoff, BackoffPolicy};

use super::Shared;
use super::connection::Link;

/// A proxy has this long to answer.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(10);
/// Questions that are answered at once; further ones wait on the stream.
const CONCURRENT_MAX: usize = 16;
const OUTBOX: usize = 16;

/// Whom the question is about.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AdminTarget {
    /// The kind, e.g. `Dataplane`.
    pub kind: String,
    /// Its mesh.
    pub mesh: String,
    /// Its name here.
    pub name: String,
}

/// Asks a proxy of this zone.
pub trait EnvoyAdmin: Send + Sync {
    /// The answer, or why there is none, in words for people.
    fn answer(
        &self,
        question: AdminQuestion,
        target: AdminTarget,
    ) -> BoxFuture<'_, Result<Bytes, String>>;
}

/// Knows no proxy.
#[derive(Clone, Copy, Debug)]
pub struct NoEnvoyAdmin;

impl EnvoyAdmin for NoEnvoyAdmin {
    fn answer(
        &self,
        _question: AdminQuestion,
        target: AdminTarget,
    ) -> BoxFuture<'_, Result<Bytes, String>> {
        let text = format!(
            "this zone cannot ask {} `{}/{}`",
            target.kind, target.mesh, target.name
        );
        Box::pin(async move { Err(text) })
    }
}

/// One question as it came.
struct Asked {
    id: String,
    question: AdminQuestion,
    target: AdminTarget,
}

/// Answers questions on all three streams. A stream that fails is opened again by itself and disturbs nobody.
pub(super) async fn run(shared: &Shared, link: &Link) -> Infallible {
    let configs = keep_open(shared, "StreamXDSConfigs", || async {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let call = link.request(ReceiverStream::new(outgoing));
        let opened = link.global().stream_xds_configs(call).await;
        let read = |asked: XdsConfigRequest| Asked {
            id: asked.request_id,
            question: AdminQuestion::Config {
                endpoints: asked.include_eds,
            },
            target: target(
                asked.resource_type,
                asked.resource_mesh,
                asked.resource_name,
            ),
        };
        let write = |request_id, answer| {
            use xds_config_response::Result as Given;
            let result = Some(match answer {
                Ok(config) => Given::Config(config),
                Err(error) => Given::Error(error),
            });
            XdsConfigResponse { request_id, result }
        };
        serve(shared, opened, outbox, read, write).await
    });
    let stats = keep_open(shared, "StreamStats", || async {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let call = link.request(ReceiverStream::new(outgoing));
        let opened = link.global().stream_stats(call).await;
        let read = |asked: StatsRequest| Asked {
            question: AdminQuestion::Stats {
                json: asked.format() == AdminOutputFormat::Json,
                used_only: asked.used_only,
            },
            id: asked.request_id,
            target: target(
                asked.resource_type,
                asked.resource_mesh,
                asked.resource_name,
            ),
        };
        let write = |request_id, answer| {
            use stats_response::Result as Given;
            let result = Some(match answer {
                Ok(stats) => Given::Stats(stats),
                Err(error) => Given::Error(error),
            });
            StatsResponse { request_id, result }
        };
        serve(shared, opened, outbox, read, write).await
    });
    let clusters = keep_open(shared, "StreamClusters", || async {
        let (outbox, outgoing) = mpsc::channel(OUTBOX);
        let call = link.request(ReceiverStream::new(outgoing));
        let opened = link.global().stream_clusters(call).await;
        let read = |asked: ClustersRequest| Asked {
            question: AdminQuestion::Clusters {
                json: asked.format() == AdminOutputFormat::Json,
            },
            id: asked.request_id,
            target: target(
                asked.resource_type,
                asked.resource_mesh,
                asked.resource_name,
            ),
        };
        let write = |request_id, answer| {
            use clusters_response::Result as Given;
            let result = Some(match answer {
                Ok(clusters) => Given::Clusters(clusters),
                Err(error) => Given::Error(error),
            });
            ClustersResponse { request_id, result }
        };
        serve(shared, opened, outbox, read, write).await
    });
    let (never, _, _) = tokio::join!(configs, stats, clusters);
    never
}

fn target(kind: String, mesh: String, name: String) -> AdminTarget {
    AdminTarget { kind, mesh, name }
}

/// Opens a stream again whenever it ends, until the connection goes; a global that does not know it is left alone.
async fn keep_open<F>(shared: &Shared, stream: &'static str, open: impl Fn() -> F) -> Infallible
where
    F: Future<Output = Status>,
{
    let mut backoff = Backoff::new(BackoffPolicy::default());
    loop {
        let started = shared.clock.now();
        let status = open().await;
        if status.code() == Code::Unimplemented {
            debug!(stream, "global does not ask such questions");
            return std::future::pending().await;
        }
        let delay = backoff.next_delay(shared.clock.now().saturating_duration_since(started));
        debug!(
            stream,
            reason = status.message(),
            "an admin stream ended and is opened again"
        );
        shared
            .clock
            .sleep_until(Some(shared.clock.now() + delay))
            .await;
    }
}

/// Answers until the stream ends.
async fn serve<Ask, Answer>(
    shared: &Shared,
    opened: Result<Response<Streaming<Ask>>, Status>,
    outbox: mpsc::Sender<Answer>,
    read: impl Fn(Ask) -> Asked,
    write: impl Fn(String, Result<Bytes, String>) -> Answer,
) -> Status {
    let mut incoming = match opened {
        Ok(response) => response.into_inner(),
        Err(status) => return status,
    };
    let mut running = FuturesUnordered::new();
    loop {
        tokio::select! {
            message = incoming.message(), if running.len() < CONCURRENT_MAX => match message {
                Ok(Some(ask)) => running.push(answer(shared, read(ask))),
                Ok(None) => return Status::unavailable("ended"),
                Err(status) => return status,
            },
            Some((id, result)) = running.next(), if !running.is_empty() => {
                if outbox.send(write(id, result)).await.is_err() {
                    return Status::unavailable("ended");
                }
            }
        }
    }
}

async fn answer(shared: &Shared, asked: Asked) -> (String, Result<Bytes, String>) {
    let Asked {
        id,
        question,
        target,
    } = asked;
    let result = tokio::select! {
        result = shared.admin.answer(question, target) => result,
        () = shared.clock.sleep_until(Some(shared.clock.now() + ANSWER_TIMEOUT)) => {
            Err("the proxy did not answer within 10 s".to_owned())
        }
    };
    (id, result)
}

impl fmt::Debug for dyn EnvoyAdmin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("EnvoyAdmin")
    }
}
