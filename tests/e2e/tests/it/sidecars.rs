//! Sidecars and Envoys die with SIGKILL under traffic: callers go elsewhere and come back.

use anyhow::ensure;
use serde_json::Value;
use zonal_e2e::{Caller, story, wait_for};

use crate::stage::{PATIENCE, answered, api, api_in_west, converges, more_calls, on_stage, set_up};

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_sidecar_moves_its_callers_until_it_is_back() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let caller = Caller::start(api(federation)?);
        more_calls(&caller, 50).await?;
        federation.crash_sidecar("api-east").await?;
        story::moved_to(&caller, "west").await?;
        drop(caller.take());
        let tally = more_calls(&caller, 100).await?;
        ensure!(
            tally.failures() == 0,
            "calls failed although west has the service: {tally}"
        );

        federation.restart_sidecar("api-east").await?;
        federation.workload_ready("api-east").await?;
        story::moved_to(&caller, "east").await?;
        let tally = caller.take();
        ensure!(tally.failures() == 0, "coming back cost calls: {tally}");
        converges(federation, 51).await?;
        answered(api_in_west(federation)?, "west").await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_envoy_is_started_again() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let caller = Caller::start(api(federation)?);
        more_calls(&caller, 50).await?;
        federation.crash_envoy("api-east")?;
        wait_for("Envoy to be started again", PATIENCE, async || {
            let status = federation.sidecar_status("api-east").await?;
            ensure!(
                status.get("envoyRestarts").and_then(Value::as_u64) == Some(1)
                    && status.get("envoyReady").and_then(Value::as_bool) == Some(true),
                "{status}"
            );
            Ok(())
        })
        .await?;
        story::moved_to(&caller, "east").await?;
        drop(caller.take());
        let tally = more_calls(&caller, 100).await?;
        ensure!(
            tally.failures() == 0,
            "calls fail although Envoy is back: {tally}"
        );

        // The caller's own Envoy: calls break off, and go on when it is back.
        federation.crash_envoy("web-east")?;
        wait_for("web's Envoy to be started again", PATIENCE, async || {
            let status = federation.sidecar_status("web-east").await?;
            ensure!(
                status.get("envoyRestarts").and_then(Value::as_u64) == Some(1),
                "{status}"
            );
            Ok(())
        })
        .await?;
        answered(api(federation)?, "east").await?;
        converges(federation, 52).await?;
        answered(api_in_west(federation)?, "west").await
    })
    .await;
}
