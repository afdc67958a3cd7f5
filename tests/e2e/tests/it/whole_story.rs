//! The story that `cargo xtask demo` tells.

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
