//! `zone-cp`: the control plane of one zone.

use std::process::ExitCode;
use std::sync::Arc;

use zonal_control_plane::program;
use zonal_process::RealClock;
use zone_cp::{Config, Listeners, run};

#[tokio::main]
async fn main() -> ExitCode {
    program("zone-cp", async |config: Config, effective, stop| {
        let listeners = Listeners::bind(&config).await?;
        run(config, effective, listeners, Arc::new(RealClock), stop).await
    })
    .await
}
