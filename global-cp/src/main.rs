//! `global-cp`: the global control plane.

use std::process::ExitCode;
use std::sync::Arc;

use global_cp::{Config, Listeners, run};
use zonal_control_plane::program;
use zonal_process::RealClock;

#[tokio::main]
async fn main() -> ExitCode {
    program("global-cp", async |config: Config, effective, stop| {
        let listeners = Listeners::bind(&config).await?;
        run(config, effective, listeners, Arc::new(RealClock), stop).await
    })
    .await
}
