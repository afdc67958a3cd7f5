//! Telling global that the zone is well.

use std::convert::Infallible;
use std::time::Duration;

use kds_proto::kuma::mesh::v1alpha1::ZoneHealthCheckRequest;
use tonic::Code;
use tracing::debug;

use super::Shared;
use super::connection::{ConnectionError, Link};

pub(super) async fn run(shared: &Shared, link: &Link) -> Result<Infallible, ConnectionError> {
    let mut client = link.global();
    loop {
        let answer = client
            .health_check(link.request(ZoneHealthCheckRequest {}))
            .await;
        let interval = match answer {
            Ok(answer) => answer
                .into_inner()
                .interval
                .and_then(|interval| Duration::try_from(interval).ok())
                .filter(|interval| !interval.is_zero())
                .unwrap_or(shared.settings.health_interval),
            Err(status) if status.code() == Code::Unimplemented => {
                debug!("global does not ask for health");
                return std::future::pending().await;
            }
            Err(status) => return Err(ConnectionError::stream("HealthCheck")(status)),
        };
        shared
            .clock
            .sleep_until(Some(shared.clock.now() + interval))
            .await;
    }
}
