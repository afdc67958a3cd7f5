//! Control planes die with SIGKILL under traffic: no call is lost, and everything is in step again afterwards.

use anyhow::ensure;
use serde_json::Value;
use zonal_e2e::{Caller, Federation, Outcome, Report, story, wait_for};

use crate::stage::{
    PATIENCE, answered, api, api_in_west, converges, more_calls, on_stage, set_up, workload,
};

/// What Envoy counts when it is given something new.
const CHANGES: &str =
    "^(cluster_manager.cluster|listener_manager.listener)_(added|modified|removed)$";

#[tokio::test(flavor = "multi_thread")]
async fn a_restarted_zone_costs_no_call_and_pushes_nothing_again() {
    on_stage(async |federation| {
        set_up(federation).await?;
        converges(federation, 31).await?;
        let local = Caller::start(api(federation)?);
        let across = Caller::start(api_in_west(federation)?);
        more_calls(&local, 50).await?;
        let before = changes(federation).await?;

        for zone in ["east", "west"] {
            federation.crash_zone(zone).await?;
        }
        more_calls(&local, 200).await?;
        more_calls(&across, 200).await?;
        for zone in ["east", "west"] {
            federation.start_zone(zone).await?;
        }
        for proxy in ["web-east", "api-east", "api-west", "orders-west"] {
            connected_again(federation, proxy).await?;
        }
        more_calls(&local, 50).await?;
        let after = changes(federation).await?;
        ensure!(
            before == after,
            "restarts of control planes changed Envoys:\n{before:#?}\n{after:#?}"
        );

        converges(federation, 32).await?;
        for (caller, what) in [(local, "in the zone"), (across, "across zones")] {
            let tally = more_calls(&caller, 50).await?;
            ensure!(
                tally.failures() == 0,
                "a restart of the zones cost calls {what}: {tally}"
            );
        }
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_global_zones_go_on_and_even_start() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let local = Caller::start(api(federation)?);
        let across = Caller::start(api_in_west(federation)?);
        more_calls(&local, 50).await?;
        federation.crash_global().await?;
        federation.crash_zone("west").await?;
        more_calls(&across, 100).await?;

        // A zone that starts without global serves what it kept, newcomers too.
        federation.start_zone("west").await?;
        federation
            .start_workload(workload("billing", "west", 40))
            .await?;
        federation.workload_ready("billing-west").await?;
        connected_again(federation, "api-west").await?;
        let file = story::write(
            federation,
            "own.yaml",
            "type: MeshTimeout\nname: own\nmesh: default\nlabels:\n  kuma.io/origin: zone\nspec:\n  to:\n    - targetRef:\n        \
             kind: Mesh\n      default:\n        http:\n          requestTimeout: 33s\n",
        )?;
        federation
            .at_zone("west")?
            .run(&["apply", "-f", &file, "--wait"])
            .await?;

        federation.start_global().await?;
        in_sync(federation).await?;
        converges(federation, 34).await?;
        // What happened in west meanwhile is known in east.
        let east = federation.at_zone("east")?;
        wait_for("billing to be known in east", PATIENCE, async || {
            let services = east.run(&["get", "meshservices", "--mesh", "default"]).await?;
            ensure!(services.contains("billing"), "{services}");
            Ok(())
        })
        .await?;
        for (caller, what) in [(local, "in the zone"), (across, "across zones")] {
            let tally = more_calls(&caller, 50).await?;
            ensure!(
                tally.failures() == 0,
                "the end of global cost calls {what}: {tally}"
            );
        }
        answered(api_in_west(federation)?, "west").await?;
        Ok(())
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_change_made_while_a_zone_is_dead_arrives_when_it_is_back() {
    on_stage(async |federation| {
        set_up(federation).await?;
        let caller = Caller::start(api(federation)?);
        more_calls(&caller, 50).await?;
        federation.crash_zone("east").await?;
        wait_for("global to miss east", PATIENCE, async || {
            let states = states(federation).await?;
            ensure!(states == ["unreachable", "in-sync"], "zones are {states:?}");
            Ok(())
        })
        .await?;

        let file = story::write(federation, "deny.yaml", story::DENY_WEB)?;
        // Nobody waits for a zone that is away, and the receipt says that it is.
        let receipt = story::apply(federation, &file, &Report::quiet(), "a denial").await?;
        let state = receipt.pointer("/zones/east/state").and_then(Value::as_str);
        ensure!(state == Some("offline"), "{receipt}");
        let tally = more_calls(&caller, 50).await?;
        ensure!(
            tally.failures() == 0,
            "proxies of a dead zone should go on as they were: {tally}"
        );

        federation.start_zone("east").await?;
        wait_for("the denial to be in use in east", PATIENCE, async || {
            let latest = caller.latest();
            ensure!(
                matches!(latest, Some(Outcome::Refused(403, _))),
                "the newest call: {latest:?}"
            );
            Ok(())
        })
        .await?;
        in_sync(federation).await
    })
    .await;
}

/// Everything that Envoys of both zones were told to change so far.
async fn changes(federation: &Federation) -> anyhow::Result<Vec<String>> {
    let mut all = Vec::new();
    for proxy in ["web-east", "api-east", "api-west", "orders-west"] {
        for counter in federation.envoy_counters(proxy, CHANGES).await? {
            all.push(format!("{proxy} {counter}"));
        }
    }
    ensure!(all.len() >= 12, "Envoys tell too little: {all:?}");
    Ok(all)
}

/// Waits until an Envoy has a stream to a control plane that did not exist when the Envoy started.
async fn connected_again(federation: &Federation, proxy: &str) -> anyhow::Result<()> {
    wait_for(
        &format!("`{proxy}` to be connected again"),
        PATIENCE,
        async || {
            let counters = federation
                .envoy_counters(proxy, "^control_plane.connected_state$")
                .await?;
            ensure!(
                counters == ["control_plane.connected_state: 1"],
                "{counters:?}"
            );
            Ok(())
        },
    )
    .await?;
    Ok(())
}

/// The states of the zones as global tells them, in the order of their names.
async fn states(federation: &Federation) -> anyhow::Result<Vec<String>> {
    let overview = federation.zones_overview().await?;
    let mut zones: Vec<(&str, &str)> = overview
        .get("items")
        .unwrap_or(&overview)
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|zone| {
            let text = |member: &str| zone.get(member).and_then(Value::as_str);
            Some((text("name")?, text("state")?))
        })
        .collect();
    zones.sort_unstable();
    Ok(zones
        .into_iter()
        .map(|(_, state)| state.to_owned())
        .collect())
}

async fn in_sync(federation: &Federation) -> anyhow::Result<()> {
    wait_for("both zones to be in sync", PATIENCE, async || {
        let states = states(federation).await?;
        ensure!(states == ["in-sync", "in-sync"], "zones are {states:?}");
        Ok(())
    })
    .await?;
    Ok(())
}
