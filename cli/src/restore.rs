//! `zonal restore`: a store's file of a backup.

use zonal_store::{BackupHead, Existing, RedbStore, StoreError};

use crate::arguments::Restore;
use crate::backup::{described, read};
use crate::failure::{Exit, Failure};
use crate::output::Terminal;

pub(crate) fn run(options: &Restore, terminal: &mut Terminal) -> Result<Exit, Failure> {
    let (file, store) = (&options.file, &options.store);
    let backup = read(file).map_err(|problem| {
        Failure::new(format!("cannot restore `{}`: {problem}", file.display()))
            .hint("take another backup; the store was not touched")
    })?;
    let existing = match options.force {
        true => Existing::Replace,
        false => Existing::Keep,
    };
    let epoch = RedbStore::restore(store, &backup, existing).map_err(|error| match error {
        StoreError::Open {
            path,
            problem,
            hint,
        } => Failure::new(format!("cannot make `{}`: {problem}", path.display())).hint(hint),
        other => Failure::new(other.to_string()),
    })?;
    let restored = BackupHead {
        epoch: epoch.clone(),
        ..backup.head.clone()
    };
    terminal.print_as(options.output.format, &described(&restored, store), || {
        format!(
            "restored {} resources of revision {} to `{}`\nits epoch is {epoch}, so that zones and proxies start over from it",
            backup.head.resources,
            backup.head.revision,
            store.display()
        )
    })?;
    Ok(Exit::Done)
}
