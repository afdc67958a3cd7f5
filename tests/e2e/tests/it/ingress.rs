//! A zone's ingress dies with SIGKILL; it needs no control plane to come back.

use anyhow::{Context as _, ensure};
use serde_json::Value;
use zonal_e2e::{Caller, Federation, Outcome, story, wait_for};

use crate::stage::{PATIENCE, answered, api, api_in_west, converges, more_calls, on_stage, set_up};

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_ingress_serves_from_its_state_file() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let local = Caller::start(api(federation)?);
        let across = Caller::start(api_in_west(federation)?);
        more_calls(&across, 50).await?;

        federation.crash_zone("west").await?;
        federation.crash_ingress("west").await?;
        wait_for("calls across to notice", PATIENCE, async || {
            let latest = across.latest();
            ensure!(
                matches!(latest, Some(Outcome::Refused(..) | Outcome::Failed(_))),
                "the newest call: {latest:?}"
            );
            Ok(())
        })
        .await?;
        federation.restart_ingress("west").await?;
        story::moved_to(&across, "west").await?;
        let page = status(federation, "west").await?;
        ensure!(
            page.get("fromStateFile").and_then(Value::as_bool) == Some(true),
            "the routes should be those of the state file: {page}"
        );

        // With its control plane it is current again.
        federation.start_zone("west").await?;
        wait_for("the ingress to be current", PATIENCE, async || {
            let page = status(federation, "west").await?;
            ensure!(
                page.get("controlPlane").and_then(Value::as_str) == Some("live"),
                "{page}"
            );
            Ok(())
        })
        .await?;
        converges(federation, 41).await?;
        answered(api_in_west(federation)?, "west").await?;
        let tally = local.tally();
        ensure!(
            tally.failures() == 0,
            "an ingress in west is nothing to calls within east: {tally}"
        );
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_killed_ingress_is_replaced_under_traffic() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let local = Caller::start(api(federation)?);
        let across = Caller::start(api_in_west(federation)?);
        more_calls(&across, 50).await?;
        federation.crash_ingress("west").await?;
        federation.restart_ingress("west").await?;
        story::moved_to(&across, "west").await?;
        drop(across.take());
        let tally = more_calls(&across, 100).await?;
        ensure!(
            tally.failures() == 0,
            "after the ingress was back calls failed: {tally}"
        );
        converges(federation, 42).await?;
        ensure!(
            local.tally().failures() == 0,
            "calls within east: {}",
            local.tally()
        );
        Ok(())
    })
    .await;
}

async fn status(federation: &Federation, zone: &str) -> anyhow::Result<Value> {
    let text = federation.ingress_page(zone, "/status").await?;
    serde_json::from_str(&text).with_context(|| format!("no JSON: {text}"))
}
