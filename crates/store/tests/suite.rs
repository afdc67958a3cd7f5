//! What every store must do, run for each backend.

#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]

mod cases;

use std::sync::Arc;

use zonal_store::{MemoryStore, RedbStore, WallClock};

fn clock() -> WallClock {
    Arc::new(|| jiff::Timestamp::UNIX_EPOCH)
}

macro_rules! suite {
    ($($case:ident)*) => {
        mod memory {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    super::cases::$case(std::sync::Arc::new(super::MemoryStore::new(super::clock()))).await;
                }
            )*
        }
        mod file {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let folder = tempfile::tempdir().unwrap();
                    let store = super::RedbStore::open(folder.path().join("store.redb"), super::clock()).unwrap();
                    super::cases::$case(std::sync::Arc::new(store)).await;
                }
            )*
        }
        #[cfg(feature = "etcd")]
        mod etcd {
            $(
                #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
                async fn $case() {
                    let Ok(endpoints) = std::env::var("ZONAL_TEST_ETCD") else {
                        println!("skipped: ZONAL_TEST_ETCD is not set");
                        return;
                    };
                    let options = zonal_store::EtcdOptions {
                        endpoints: endpoints.split(',').map(str::to_owned).collect(),
                        prefix: format!("/zonal-test/{}/{}/", std::process::id(), stringify!($case)),
                        ..zonal_store::EtcdOptions::default()
                    };
                    let (store, mirror) =
                        zonal_store::EtcdStore::connect(options, super::clock()).await.unwrap();
                    tokio::spawn(mirror.run());
                    super::cases::$case(std::sync::Arc::new(store)).await;
                }
            )*
        }
    };
}

suite! {
    starts_empty
    keeps_and_reads
    refuses_what_does_not_meet_its_condition
    keeps_a_batch_whole_or_not_at_all
    makes_no_revision_for_no_change
    removes_what_is_owned
    shows_an_old_snapshot_as_it_was
    remembers_removals
    watches_without_loss_under_many_writers
    lets_one_of_many_racing_writers_win
    watches_from_an_older_state
}
