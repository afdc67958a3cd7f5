//! One federation at a time, and what stories about failures share.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Context as _, ensure};
use serde_json::Value;
use zonal_e2e::{
    Caller, Federation, Options, Report, Tally, Tools, WorkloadSpec, calls, story, wait_for,
};

/// Generous: a slow machine is no reason to fail.
pub(crate) const PATIENCE: Duration = Duration::from_secs(60);

/// Federations of several tests would only take each other's processor time.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs a story on a federation that has nothing started yet, and stops it in order afterwards. Says aloud that it is
/// skipped where no Envoy is to be found, unless `ZONAL_ENVOY` promised one.
pub(crate) async fn on_stage(tell: impl AsyncFnOnce(&mut Federation) -> anyhow::Result<()>) {
    if let Err(missing) = Tools::find()
        && std::env::var_os("ZONAL_ENVOY").is_none()
    {
        println!("skipped: end-to-end test: {missing:#}");
        return;
    }
    let _turn = TURN.lock().await;
    let mut federation = match Federation::new(&Options::with_zones(2)) {
        Ok(federation) => federation,
        Err(error) => panic!("no federation: {error:?}"),
    };
    let outcome = tell(&mut federation).await;
    let outcome = match outcome {
        Ok(()) => federation.stop().await.context("stopping in order"),
        Err(error) => Err(error),
    };
    if let Err(error) = outcome {
        federation.keep_folder();
        panic!(
            "{error:?}\nstate and logs are kept in `{}`",
            federation.folder().display()
        );
    }
}

/// Starts both zones with their ingresses and the story's workloads, and waits until `web` in east reaches `api` in
/// both zones.
pub(crate) async fn set_up(federation: &mut Federation) -> anyhow::Result<()> {
    let report = Report::quiet();
    story::set_up(federation, &report).await?;
    story::first_policies(federation, &report).await?;
    answered(api(federation)?, "east").await?;
    answered(api_in_west(federation)?, "west").await
}

/// `web`'s way to `api` wherever it runs.
pub(crate) fn api(federation: &Federation) -> anyhow::Result<SocketAddr> {
    federation.address("east", story::WEB, story::TO_API)
}

/// `web`'s way to `api` in west.
pub(crate) fn api_in_west(federation: &Federation) -> anyhow::Result<SocketAddr> {
    federation.address("east", story::WEB, story::TO_API_WEST)
}

/// Waits until a call is answered by `zone`.
pub(crate) async fn answered(address: SocketAddr, zone: &str) -> anyhow::Result<()> {
    let client = calls::client();
    wait_for(
        &format!("`{address}` to be answered in {zone}"),
        PATIENCE,
        async || {
            let answer = calls::http(&client, address, "/").await?;
            ensure!(
                answer.status == 200 && answer.zone == zone,
                "{} {}",
                answer.status,
                answer.body
            );
            Ok(())
        },
    )
    .await?;
    Ok(())
}

/// Lets a caller make `count` more calls, and returns all that it made so far.
pub(crate) async fn more_calls(caller: &Caller, count: u32) -> anyhow::Result<Tally> {
    let before = caller.tally().total();
    wait_for(&format!("{count} more calls"), PATIENCE, async || {
        let made = caller.tally().total() - before;
        ensure!(made >= count, "only {made} were made");
        Ok(())
    })
    .await?;
    Ok(caller.tally())
}

/// Applies a change that touches every caller and waits for the receipt: each zone has it, every proxy uses it. Of
/// several policies the first by name wins, hence the name.
pub(crate) async fn converges(federation: &Federation, seconds: u8) -> anyhow::Result<()> {
    let file = story::write(
        federation,
        "a-change.yaml",
        &format!(
            "type: MeshTimeout\nname: a-change\nmesh: default\nspec:\n  to:\n    - targetRef:\n        kind: Mesh\n      default:\n        \
             http:\n          requestTimeout: {seconds}s\n"
        ),
    )?;
    let receipt = story::apply(
        federation,
        &file,
        &Report::quiet(),
        "a change for everybody",
    )
    .await?;
    for (zone, callers) in [("east", 1), ("west", 0)] {
        let count = |member: &str| {
            receipt
                .pointer(&format!("/zones/{zone}/proxies/{member}"))
                .and_then(Value::as_u64)
        };
        let (affected, acked) = (count("affected"), count("acked"));
        ensure!(
            affected == acked && affected >= Some(callers),
            "the receipt of {zone}: {affected:?} affected, {acked:?} acknowledged: {receipt}"
        );
    }
    Ok(())
}

/// Waits until a process has logged a line that contains all of `parts`, and returns it.
pub(crate) async fn logged(
    federation: &Federation,
    process: &str,
    parts: &[&str],
) -> anyhow::Result<String> {
    let (line, _) = wait_for(
        &format!("`{process}` to say {parts:?}"),
        PATIENCE,
        async || {
            let log = federation.log(process);
            let line = log
                .lines()
                .find(|line| parts.iter().all(|part| line.contains(part)));
            line.map(str::to_owned).with_context(|| {
                let last: Vec<&str> = log.lines().rev().take(10).collect();
                format!("its last lines, newest first: {last:#?}")
            })
        },
    )
    .await?;
    Ok(line)
}

/// A workload for one test, which answers HTTP and calls nobody.
pub(crate) fn workload(name: &str, zone: &str, host: u8) -> WorkloadSpec {
    story::workload(name, zone, host, 8080)
}
