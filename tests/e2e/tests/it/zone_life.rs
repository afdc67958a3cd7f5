//! A zone is drained, switched off and deleted under traffic: callers elsewhere leave it without losing a call to others.

use anyhow::ensure;
use zonal_e2e::{Caller, calls, wait_for};

use crate::stage::{PATIENCE, answered, api, api_in_west, logged, more_calls, on_stage, set_up};

#[tokio::test(flavor = "multi_thread")]
async fn a_zone_leaves_step_by_step_and_costs_the_others_nothing() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let local = Caller::start(api(federation)?);
        let west = api_in_west(federation)?;
        let zonal = federation.at_global();
        let life = async |action: &str| zonal.run(&["zone", action, "west", "--wait"]).await;
        // In use everywhere means that callers have left when the command ends.
        let unreachable = async || {
            let client = calls::client();
            let (_, took) = wait_for("west to be left", PATIENCE, async || {
                match calls::http(&client, west, "/").await {
                    Ok(answer) => {
                        ensure!(answer.status == 503, "{} in {}", answer.status, answer.zone);
                    }
                    // Nobody listens any more: the service is not known.
                    Err(_refused) => {}
                }
                Ok(())
            })
            .await?;
            anyhow::Ok(took)
        };

        life("drain").await?;
        unreachable().await?;
        let services = federation.at_zone("east")?;
        let services = services.run(&["get", "meshservices"]).await?;
        ensure!(
            services.contains("api-"),
            "its services stay known: {services}"
        );
        life("undrain").await?;
        answered(west, "west").await?;

        life("disable").await?;
        unreachable().await?;
        life("enable").await?;
        answered(west, "west").await?;

        life("delete").await?;
        unreachable().await?;
        logged(
            federation,
            "zone-cp-west",
            &[
                "zone `west` was deleted at global",
                "zonal zone create west",
            ],
        )
        .await?;
        let zones = zonal.run(&["get", "zones"]).await?;
        ensure!(!zones.contains("west"), "it is still there: {zones}");
        life("create").await?;
        answered(west, "west").await?;

        let tally = more_calls(&local, 50).await?;
        ensure!(tally.failures() == 0, "callers in east lost calls: {tally}");
        Ok(())
    })
    .await;
}
