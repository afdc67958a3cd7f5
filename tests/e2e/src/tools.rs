//! Where the programs are, and waiting for a condition.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

/// The programs a federation is made of.
#[derive(Clone, Debug)]
pub struct Tools {
    /// Folder with our binaries.
    pub binaries: PathBuf,
    /// The real Envoy.
    pub envoy: PathBuf,
}

impl Tools {
    /// Our binaries beside the running one (or in `ZONAL_BIN_DIR`), Envoy from `ZONAL_ENVOY`, the PATH, or
    /// `target/envoy/envoy`.
    ///
    /// # Errors
    /// One of them is not there; the text says how to get it.
    pub fn find() -> anyhow::Result<Self> {
        let binaries = match std::env::var_os("ZONAL_BIN_DIR") {
            Some(folder) => PathBuf::from(folder),
            None => beside_us()?,
        };
        for name in [
            "global-cp",
            "zone-cp",
            "zone-ingress",
            "sidecar",
            "zonal",
            "workload",
        ] {
            anyhow::ensure!(
                binaries.join(name).is_file(),
                "`{name}` is not in `{}`: run `cargo build --workspace --bins` first",
                binaries.display()
            );
        }
        let envoy = envoy(&binaries).context(
            "found no Envoy: set ZONAL_ENVOY, put `envoy` on the PATH, or run `cargo xtask demo` or `cargo xtask test`, \
             which bring one",
        )?;
        Ok(Self { binaries, envoy })
    }

    /// One of our programs.
    #[must_use]
    pub fn command(&self, name: &str) -> std::process::Command {
        std::process::Command::new(self.binaries.join(name))
    }
}

fn beside_us() -> anyhow::Result<PathBuf> {
    let here = std::env::current_exe().context("cannot tell where this program is")?;
    let folder = here.parent().context("this program has no folder")?;
    // Tests run in `deps` below the folder of the binaries.
    let folder = if folder.ends_with("deps") {
        folder.parent().unwrap_or(folder)
    } else {
        folder
    };
    Ok(folder.to_owned())
}

fn envoy(binaries: &Path) -> Option<PathBuf> {
    if let Some(path) = std::env::var_os("ZONAL_ENVOY").map(PathBuf::from) {
        return path.is_file().then_some(path);
    }
    let on_path = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths)
            .map(|folder| folder.join("envoy"))
            .find(|path| path.is_file())
    });
    on_path.or_else(|| {
        let fetched = binaries.parent()?.join("envoy").join("envoy");
        fetched.is_file().then_some(fetched)
    })
}

/// Asks again and again until the answer is there; returns it and how long it took.
///
/// # Errors
/// It is not there within `limit`; the error carries the last thing seen.
pub async fn wait_for<T>(
    what: &str,
    limit: Duration,
    mut ask: impl AsyncFnMut() -> anyhow::Result<T>,
) -> anyhow::Result<(T, Duration)> {
    #[expect(
        clippy::disallowed_methods,
        reason = "a story on a real machine has real time"
    )]
    let started = Instant::now();
    loop {
        match ask().await {
            Ok(found) => return Ok((found, started.elapsed())),
            Err(error) if started.elapsed() > limit => {
                return Err(error.context(format!("waited {limit:?} for {what}")));
            }
            Err(_) => tokio::time::sleep(Duration::from_millis(5)).await,
        }
    }
}
