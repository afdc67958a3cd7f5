//! Named connections, kept in a file that only its owner reads.

use std::collections::BTreeMap;
use std::fs;
use std::io::Write;
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::json;

use crate::address::{self, Environment};
use crate::arguments::{Connection, Context, ContextAction};
use crate::failure::{Exit, Failure};
use crate::output::Terminal;
use crate::table::Table;

/// The file.
#[derive(Debug, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
struct Contexts {
    #[serde(skip_serializing_if = "Option::is_none")]
    current: Option<String>,
    contexts: BTreeMap<String, Entry>,
}

/// One named connection.
#[derive(Clone, Default, Serialize, Deserialize)]
#[serde(rename_all = "camelCase", default, deny_unknown_fields)]
pub(crate) struct Entry {
    #[serde(skip_serializing_if = "Option::is_none")]
    pub address: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ca_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fingerprint: Option<String>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub insecure_skip_verify: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub token_file: Option<PathBuf>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub mesh: Option<String>,
}

impl std::fmt::Debug for Entry {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Entry")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

/// The context of that name.
pub(crate) fn named(file: &Path, name: &str) -> Result<Entry, Failure> {
    let mut kept = read(file)?;
    kept.contexts
        .remove(name)
        .ok_or_else(|| missing(file, name, &kept))
}

/// The current context, where there is one.
pub(crate) fn current(file: &Path) -> Result<Option<Entry>, Failure> {
    match read(file)?.current {
        Some(name) => named(file, &name).map(Some),
        None => Ok(None),
    }
}

/// `zonal context …`.
pub(crate) fn run(
    options: Context,
    connection: &Connection,
    environment: &Environment,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let file = environment.config()?;
    let mut kept = read(file)?;
    match options.action {
        ContextAction::List { output } => {
            let items: Vec<_> = kept
                .contexts
                .iter()
                .map(|(name, entry)| {
                    json!({
                        "name": name,
                        "current": kept.current.as_ref() == Some(name),
                        "address": entry.address,
                        "mesh": entry.mesh,
                    })
                })
                .collect();
            terminal.print_as(output.format, &json!({ "items": items }), || list(&kept))?;
        }
        ContextAction::Current => match &kept.current {
            Some(name) => terminal.print(name)?,
            None => {
                return Err(Failure::new("there is no current context")
                    .hint("choose one with `zonal context use NAME`"));
            }
        },
        ContextAction::Use { name } => {
            if !kept.contexts.contains_key(&name) {
                return Err(missing(file, &name, &kept));
            }
            terminal.note(&format!("current context is `{name}`"));
            kept.current = Some(name);
            write(file, &kept)?;
        }
        ContextAction::Remove { name } => {
            if kept.contexts.remove(&name).is_none() {
                return Err(missing(file, &name, &kept));
            }
            if kept.current.as_ref() == Some(&name) {
                kept.current = None;
                terminal.note("there is no current context any longer");
            }
            write(file, &kept)?;
            terminal.note(&format!("removed context `{name}`"));
        }
        ContextAction::Add {
            name,
            mesh,
            overwrite,
            current,
        } => {
            if kept.contexts.contains_key(&name) && !overwrite {
                return Err(Failure::new(format!("context `{name}` exists already"))
                    .hint("replace it with `--overwrite`"));
            }
            let entry = entry(connection, mesh)?;
            if current || kept.current.is_none() {
                kept.current = Some(name.clone());
            }
            let is_current = kept.current.as_ref() == Some(&name);
            terminal.note(&format!(
                "kept context `{name}`{}",
                if is_current {
                    ", which is the current one"
                } else {
                    ""
                }
            ));
            kept.contexts.insert(name, entry);
            write(file, &kept)?;
        }
    }
    Ok(Exit::Done)
}

fn list(kept: &Contexts) -> String {
    let mut table = Table::new(["CURRENT", "NAME", "ADDRESS", "MESH"]);
    for (name, entry) in &kept.contexts {
        let mark = if kept.current.as_ref() == Some(name) {
            "*"
        } else {
            " "
        };
        table.row(vec![
            mark.to_owned(),
            name.clone(),
            entry.address.clone().unwrap_or_default(),
            entry.mesh.clone().unwrap_or_default(),
        ]);
    }
    table.render()
}

/// The flags of this command line, to be kept. Relative files are meant from here, wherever they are used from.
fn entry(flags: &Connection, mesh: Option<String>) -> Result<Entry, Failure> {
    let Some(url) = &flags.address else {
        return Err(
            Failure::new("a context needs an address").hint("name it with `--address https://…`")
        );
    };
    let absolute = |file: &Option<PathBuf>| match file {
        Some(file) => fs::canonicalize(file)
            .map(Some)
            .map_err(|error| Failure::new(format!("cannot find `{}`: {error}", file.display()))),
        None => Ok(None),
    };
    Ok(Entry {
        address: Some(address::checked(url)?),
        ca_file: absolute(&flags.ca_file)?,
        fingerprint: flags.fingerprint.map(|fingerprint| fingerprint.to_string()),
        insecure_skip_verify: flags.insecure_skip_verify,
        token: flags.token.clone(),
        token_file: absolute(&flags.token_file)?,
        mesh,
    })
}

fn missing(file: &Path, name: &str, kept: &Contexts) -> Failure {
    let failure = Failure::new(format!(
        "there is no context `{name}` in `{}`",
        file.display()
    ));
    if kept.contexts.is_empty() {
        return failure.hint("make one with `zonal context add NAME --address https://…`");
    }
    let names: Vec<&str> = kept.contexts.keys().map(String::as_str).collect();
    failure.hint(format!("there are: {}", names.join(", ")))
}

fn read(file: &Path) -> Result<Contexts, Failure> {
    let cannot = |reason: String| {
        Failure::new(format!("cannot read `{}`: {reason}", file.display()))
            .hint("correct the file, or remove it and add the contexts again")
    };
    let text = match fs::read_to_string(file) {
        Ok(text) => text,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => {
            return Ok(Contexts::default());
        }
        Err(error) => return Err(cannot(error.to_string())),
    };
    let documents =
        zonal_model::yaml::documents(&text).map_err(|error| cannot(error.to_string()))?;
    match documents.into_iter().next() {
        Some(value) => serde_json::from_value(value).map_err(|error| cannot(error.to_string())),
        None => Ok(Contexts::default()),
    }
}

/// Replaces the file as a whole, readable by its owner alone.
fn write(file: &Path, kept: &Contexts) -> Result<(), Failure> {
    let cannot =
        |reason: String| Failure::new(format!("cannot write `{}`: {reason}", file.display()));
    let text = zonal_model::yaml::to_string(kept).map_err(|error| cannot(error.to_string()))?;
    let replace = || {
        if let Some(folder) = file
            .parent()
            .filter(|folder| !folder.as_os_str().is_empty())
        {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(folder)?;
        }
        let mut beside = file.as_os_str().to_owned();
        beside.push(".new");
        let mut new = fs::OpenOptions::new()
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&beside)?;
        // A file left over from an earlier attempt keeps its mode on opening.
        new.set_permissions(fs::Permissions::from_mode(0o600))?;
        new.write_all(text.as_bytes())?;
        new.sync_all()?;
        fs::rename(&beside, file)
    };
    replace().map_err(|error| cannot(error.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_file_is_its_owners_alone() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("deep/config.yaml");
        let mut kept = Contexts {
            current: Some("a".to_owned()),
            ..Contexts::default()
        };
        let entry = Entry {
            address: Some("https://a".to_owned()),
            token: Some("secret".to_owned()),
            ..Entry::default()
        };
        assert!(!format!("{entry:?}").contains("secret"));
        kept.contexts.insert("a".to_owned(), entry);
        write(&file, &kept).unwrap();
        assert_eq!(
            fs::metadata(&file).unwrap().permissions().mode() & 0o777,
            0o600
        );
        let back = current(&file).unwrap().unwrap();
        assert_eq!(back.token.as_deref(), Some("secret"));
        assert!(
            named(&file, "b")
                .unwrap_err()
                .to_string()
                .contains("there are: a")
        );
    }

    #[test]
    fn a_broken_file_says_which_it_is() {
        let folder = tempfile::tempdir().unwrap();
        let file = folder.path().join("config.yaml");
        fs::write(&file, "contexts: [").unwrap();
        assert!(current(&file).unwrap_err().sentence.contains("config.yaml"));
        fs::write(&file, "contextz: {}").unwrap();
        assert!(current(&file).unwrap_err().sentence.contains("contextz"));
        fs::write(&file, "").unwrap();
        assert!(current(&file).unwrap().is_none());
    }
}
