//! The story that `cargo xtask demo` tells.

use anyhow::ensure;
use zonal_e2e::crashes::{self, Plan};
use zonal_e2e::{Report, story};

use crate::stage::on_stage;

#[tokio::test(flavor = "multi_thread")]
async fn every_chapter_is_true() {
    on_stage(async |federation| {
        let report = Report::quiet();
        story::set_up(federation, &report).await?;
        story::tell(federation, &report).await
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn it_goes_on_whichever_process_is_killed() {
    on_stage(async |federation| {
        let report = Report::quiet();
        story::set_up(federation, &report).await?;
        story::first_policies(federation, &report).await?;
        let count = crashes::survive(federation, Plan::EachOnce, 4, &report).await?;
        ensure!(count >= 15, "only {count} processes were killed");
        Ok(())
    })
    .await;
}
