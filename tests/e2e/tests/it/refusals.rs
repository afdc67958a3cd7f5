//! Nobody speaks for another: tokens are good for those they were made for, and the refusal says so.

use anyhow::ensure;
use zonal_e2e::{Report, WorkloadSpec, story};

use crate::stage::{logged, on_stage, workload};

#[tokio::test(flavor = "multi_thread")]
async fn a_token_is_good_for_its_owner_only() {
    on_stage(async |federation| {
        federation.start_global().await?;
        federation.start_zone("east").await?;

        // A zone that shows another zone's token.
        federation.zone_token("east", "west").await?;
        federation.start_zone("west").await?;
        let line = logged(
            federation,
            "global-cp",
            &["a zone's token is refused", "west"],
        )
        .await?;
        ensure!(
            line.contains("east"),
            "it should say whose token it is: {line}"
        );
        logged(federation, "zone-cp-west", &["token", "east", "west"]).await?;
        let zones = federation.at_global().run(&["get", "zones"]).await?;
        ensure!(
            !zones.contains("west"),
            "the zone joined all the same: {zones}"
        );

        // A proxy that shows another workload's token.
        let folder = story::examples().to_string_lossy().into_owned();
        story::apply(federation, &folder, &Report::quiet(), "the first policies").await?;
        federation
            .start_workload(WorkloadSpec {
                token_of: Some("api".to_owned()),
                ..workload("web", "east", 10)
            })
            .await?;
        logged(
            federation,
            "sidecar-web-east",
            &["token", "api-east", "web-east"],
        )
        .await?;
        let proxies = federation
            .at_zone("east")?
            .run(&["get", "dataplanes", "--mesh", "default"])
            .await?;
        ensure!(
            !proxies.contains("web-east"),
            "the proxy was registered all the same: {proxies}"
        );
        // A refused sidecar ends with a failure, as it should; only the others are stopped in order.
        federation.crash_sidecar("web-east").await
    })
    .await;
}
