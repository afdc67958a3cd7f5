//! `zonal backup`: one snapshot of a control plane's store, checked before it counts.

use std::fs::File;
use std::io::{self, BufReader, BufWriter};
use std::path::{Path, PathBuf};
use std::time::Duration;

use serde_json::{Value, json};
use zonal_store::{Backup, BackupHead};

use crate::address::Address;
use crate::arguments;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::Terminal;

/// How long a large store may take over a slow line.
const TIMEOUT: Duration = Duration::from_secs(3600);

pub(crate) async fn run(
    options: &arguments::Backup,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let file = &options.file;
    if file.exists() && !options.force {
        return Err(Failure::new(format!("`{}` exists already", file.display()))
            .hint("name another file, or replace it with `--force`"));
    }
    let part = part_of(file);
    let made = take(address, &part).await.and_then(|head| {
        std::fs::rename(&part, file).map_err(|error| cannot_write(file, &error))?;
        Ok(head)
    });
    if made.is_err() {
        // It may not even have been made.
        let _gone = std::fs::remove_file(&part);
    }
    let head = made?;
    terminal.print_as(options.output.format, &described(&head, file), || {
        format!(
            "kept {} resources of revision {} (epoch {}) in `{}`\nit holds the control plane's secrets",
            head.resources,
            head.revision,
            head.epoch,
            file.display()
        )
    })?;
    Ok(Exit::Done)
}

async fn take(address: &Address, part: &Path) -> Result<BackupHead, Failure> {
    let client = address.client()?;
    let target = private_file(part).map_err(|error| cannot_write(part, &error))?;
    let call = Call::get(["_backup"]).timeout(TIMEOUT);
    client
        .download(call, BufWriter::new(&target))
        .await?
        .and_then(|()| target.sync_all())
        .map_err(|error| cannot_write(part, &error))?;
    let backup = read(part).map_err(|problem| {
        Failure::new(format!(
            "what the control plane at `{}` sent is no whole backup: {problem}",
            client.url()
        ))
        .hint("take it again; nothing was kept")
    })?;
    Ok(backup.head)
}

/// Reads and checks a backup.
pub(crate) fn read(file: &Path) -> Result<Backup, zonal_store::InvalidBackup> {
    Backup::read(BufReader::new(File::open(file)?))
}

/// What a backup says about itself, for machines.
pub(crate) fn described(head: &BackupHead, file: &Path) -> Value {
    json!({
        "file": file.display().to_string(),
        "product": head.product,
        "epoch": head.epoch,
        "revision": head.revision,
        "resources": head.resources,
    })
}

fn part_of(file: &Path) -> PathBuf {
    let mut name = file.file_name().unwrap_or_default().to_owned();
    name.push(".part");
    file.with_file_name(name)
}

/// A new file that nobody else could ever have opened.
fn private_file(path: &Path) -> io::Result<File> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut options = File::options();
    options.write(true).create_new(true);
    #[cfg(unix)]
    std::os::unix::fs::OpenOptionsExt::mode(&mut options, 0o600);
    options.open(path)
}

fn cannot_write(file: &Path, error: &io::Error) -> Failure {
    Failure::new(format!("cannot write `{}`: {error}", file.display()))
        .hint("name a file in a folder that exists, with room and where you may write")
}
