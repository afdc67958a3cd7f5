//! Opening the store that was configured.

use std::sync::Arc;

use zonal_process::Spawner;
use zonal_process::control_plane::StoreChoice;
use zonal_store::{MemoryStore, RedbStore, Store, StoreError, WallClock};

/// Opens the configured store. What has to run beside it is started with `spawner`.
///
/// # Errors
/// It cannot be opened; the text says what to do.
pub async fn open_store(
    choice: &StoreChoice,
    now: WallClock,
    spawner: &Spawner,
) -> Result<Arc<dyn Store>, StoreError> {
    match choice {
        StoreChoice::Memory => Ok(Arc::new(MemoryStore::new(now))),
        StoreChoice::File(path) => {
            if let Some(folder) = path.parent() {
                std::fs::create_dir_all(folder).map_err(|error| StoreError::Open {
                    path: folder.to_owned(),
                    problem: format!("the folder cannot be made: {error}"),
                    hint: "name another file in `store.file.path`, or another folder in `general.workDir`",
                })?;
            }
            Ok(Arc::new(RedbStore::open(path, now)?))
        }
        StoreChoice::Etcd { endpoints, prefix } => open_etcd(endpoints, prefix, now, spawner).await,
    }
}

#[cfg(feature = "etcd")]
async fn open_etcd(
    endpoints: &[String],
    prefix: &str,
    now: WallClock,
    spawner: &Spawner,
) -> Result<Arc<dyn Store>, StoreError> {
    let options = zonal_store::EtcdOptions {
        endpoints: endpoints
            .iter()
            .map(|e| {
                if e.contains("://") {
                    e.clone()
                } else {
                    format!("http://{e}")
                }
            })
            .collect(),
        prefix: format!("{}/", prefix.trim_end_matches('/')),
        ..zonal_store::EtcdOptions::default()
    };
    Ok(Arc::new(
        zonal_store::EtcdStore::connect(options, now).await?,
    ))
}

#[cfg(not(feature = "etcd"))]
#[expect(clippy::unused_async, reason = "the other variant waits")]
async fn open_etcd(
    endpoints: &[String],
    _prefix: &str,
    _now: WallClock,
    _spawner: &Spawner,
) -> Result<Arc<dyn Store>, StoreError> {
    Err(StoreError::Open {
        path: endpoints.join(",").into(),
        problem: "this program was built without etcd".to_owned(),
        hint: "build it with `--features etcd`, or set `store.type: file`",
    })
}
