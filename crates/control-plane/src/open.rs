//! Opening the store that was configured.

use std::path::Path;
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
            keep_private(path).map_err(|error| StoreError::Open {
                path: path.clone(),
                problem: format!("it cannot be made: {error}"),
                hint: "name another file in `store.file.path`, or another folder in `general.workDir`",
            })?;
            Ok(Arc::new(RedbStore::open(path, now)?))
        }
        StoreChoice::Etcd { endpoints, prefix } => open_etcd(endpoints, prefix, now, spawner).await,
    }
}

/// Makes folder and file for their owner only: the store holds signing keys and those of authorities.
fn keep_private(path: &Path) -> std::io::Result<()> {
    use std::os::unix::fs::{DirBuilderExt as _, PermissionsExt as _};
    if let Some(folder) = path.parent() {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(folder)?;
    }
    // The store makes a new file by itself, so that an empty one is never taken for new.
    match std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
        set => set,
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
    let (store, mirror) = zonal_store::EtcdStore::connect(options, now).await?;
    // While it is away nothing that is written is seen; it ends with the process or with the store.
    let stop = spawner.stop();
    spawner.spawn("etcd mirror", async move {
        tokio::select! {
            () = stop.cancelled() => {}
            () = mirror.run() => {}
        }
    });
    Ok(Arc::new(store))
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
