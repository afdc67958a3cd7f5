//! Which control plane to talk to: flags, environment, contexts, in this order.

use std::path::{Path, PathBuf};

use zonal_process::tls::{Fingerprint, Trust};

use crate::arguments::Connection;
use crate::client::Client;
use crate::context::{self, Entry};
use crate::failure::Failure;

const ADDRESS_DEFAULT: &str = "http://localhost:5681";
const MESH_DEFAULT: &str = "default";

/// What the program's environment says about connections.
#[derive(Clone, Debug, Default)]
pub struct Environment {
    /// `ZONAL_ADDRESS`.
    pub address: Option<String>,
    /// `ZONAL_CA_FILE`.
    pub ca_file: Option<PathBuf>,
    /// `ZONAL_TOKEN`.
    pub token: Option<String>,
    /// `ZONAL_CONTEXT`.
    pub context: Option<String>,
    /// `ZONAL_CONFIG`, else `~/.config/zonal/config.yaml`; `None` where there is no home folder.
    pub config: Option<PathBuf>,
}

impl Environment {
    /// What the process was started with. Empty variables count as absent.
    #[must_use]
    pub fn real() -> Self {
        let text = |name: &str| std::env::var(name).ok().filter(|value| !value.is_empty());
        let config = || Some(std::env::home_dir()?.join(".config/zonal/config.yaml"));
        Self {
            address: text("ZONAL_ADDRESS"),
            ca_file: text("ZONAL_CA_FILE").map(Into::into),
            token: text("ZONAL_TOKEN"),
            context: text("ZONAL_CONTEXT"),
            config: text("ZONAL_CONFIG").map(Into::into).or_else(config),
        }
    }

    pub(crate) fn config(&self) -> Result<&Path, Failure> {
        self.config.as_deref().ok_or_else(|| {
            Failure::new("there is no home folder to keep contexts in")
                .hint("name a file with `ZONAL_CONFIG`")
        })
    }
}

/// A control plane, how to believe it, and as whom to call.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Address {
    /// Without a slash at the end.
    pub url: String,
    /// `None`: the authorities that the machine trusts.
    pub trust: Option<Trust>,
    pub token: Option<Secret>,
    mesh: Option<String>,
}

/// Where a token is. Not printed.
#[derive(Clone, PartialEq, Eq)]
pub(crate) enum Secret {
    Text(String),
    File(PathBuf),
}

impl std::fmt::Debug for Secret {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Text(_) => f.write_str("…"),
            Self::File(file) => file.fmt(f),
        }
    }
}

impl Secret {
    /// The token itself.
    pub(crate) fn read(&self) -> Result<String, Failure> {
        match self {
            Self::Text(token) => Ok(token.trim().to_owned()),
            Self::File(file) => std::fs::read_to_string(file)
                .map(|token| token.trim().to_owned())
                .map_err(|error| {
                    Failure::new(format!(
                        "cannot read the token in `{}`: {error}",
                        file.display()
                    ))
                }),
        }
    }
}

impl Address {
    pub(crate) fn client(&self) -> Result<Client, Failure> {
        Client::new(self)
    }

    /// The mesh for commands that name none.
    pub(crate) fn mesh<'a>(&'a self, named: Option<&'a str>) -> &'a str {
        named.or(self.mesh.as_deref()).unwrap_or(MESH_DEFAULT)
    }
}

/// Puts together the connection of this command.
///
/// A context is left out as soon as an address is named without it, so that its token never goes to another control
/// plane; a context that is named on the command line wins over the environment.
pub(crate) fn resolve(flags: &Connection, environment: &Environment) -> Result<Address, Failure> {
    let none = Environment {
        config: environment.config.clone(),
        ..Environment::default()
    };
    let from_environment = if flags.context.is_some() {
        &none
    } else {
        environment
    };
    let named_elsewhere = flags.address.is_some() || from_environment.address.is_some();
    let entry = match (&flags.context, named_elsewhere) {
        (Some(name), _) => Some(context::named(environment.config()?, name)?),
        (None, true) => None,
        (None, false) => match (&environment.context, &environment.config) {
            (Some(name), _) => Some(context::named(environment.config()?, name)?),
            (None, Some(file)) => context::current(file)?,
            (None, None) => None,
        },
    };
    let entry = entry.unwrap_or_default();
    let url = flags
        .address
        .clone()
        .or_else(|| from_environment.address.clone())
        .or_else(|| entry.address.clone())
        .unwrap_or_else(|| ADDRESS_DEFAULT.to_owned());
    let by_environment = || from_environment.ca_file.clone().map(Trust::AuthorityFile);
    Ok(Address {
        url: checked(&url)?,
        trust: match trust(flags).or_else(by_environment) {
            Some(trust) => Some(trust),
            None => entry_trust(&entry)?,
        },
        token: secret(flags.token.clone(), flags.token_file.clone())
            .or_else(|| from_environment.token.clone().map(Secret::Text))
            .or_else(|| secret(entry.token, entry.token_file)),
        mesh: entry.mesh,
    })
}

fn secret(text: Option<String>, file: Option<PathBuf>) -> Option<Secret> {
    text.map(Secret::Text).or_else(|| file.map(Secret::File))
}

/// Whom the flags trust.
pub(crate) fn trust(flags: &Connection) -> Option<Trust> {
    let pinned = || flags.fingerprint.map(Trust::Pinned);
    let anyone = || flags.insecure_skip_verify.then_some(Trust::Anyone);
    flags
        .ca_file
        .clone()
        .map(Trust::AuthorityFile)
        .or_else(pinned)
        .or_else(anyone)
}

fn entry_trust(entry: &Entry) -> Result<Option<Trust>, Failure> {
    let pinned =
        match &entry.fingerprint {
            Some(text) => Some(text.parse::<Fingerprint>().map(Trust::Pinned).map_err(
                |error| {
                    Failure::new(format!(
                        "the context's `fingerprint` cannot be read: {error}"
                    ))
                },
            )?),
            None => None,
        };
    let anyone = || entry.insecure_skip_verify.then_some(Trust::Anyone);
    Ok(entry
        .ca_file
        .clone()
        .map(Trust::AuthorityFile)
        .or(pinned)
        .or_else(anyone))
}

/// An address that requests can be sent to, without a slash at its end.
pub(crate) fn checked(url: &str) -> Result<String, Failure> {
    let bad = |why: &str| {
        Err(
            Failure::new(format!("`{url}` is no address of a control plane: {why}")).hint(
                "an address is like `https://global.example:5682` or `http://localhost:5681`",
            ),
        )
    };
    match reqwest::Url::parse(url) {
        Err(error) => bad(&error.to_string()),
        Ok(parsed) if !matches!(parsed.scheme(), "http" | "https") => {
            bad("it must begin with `http://` or `https://`")
        }
        Ok(parsed) if parsed.query().is_some() || parsed.fragment().is_some() => {
            bad("it has a `?` or `#`")
        }
        Ok(_) => Ok(url.trim_end_matches('/').to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(folder: &Path) -> Environment {
        let file = folder.join("config.yaml");
        let text = "current: a\ncontexts:\n  a: {address: 'https://a', token: ta, mesh: ma}\n  b: {address: \
                    'https://b', caFile: b.pem}\n";
        std::fs::write(&file, text).unwrap();
        Environment {
            config: Some(file),
            ..Environment::default()
        }
    }

    fn flags(address: Option<&str>, context: Option<&str>) -> Connection {
        Connection {
            address: address.map(str::to_owned),
            context: context.map(str::to_owned),
            ..Connection::default()
        }
    }

    #[track_caller]
    fn check(flags: &Connection, environment: &Environment, url: &str, token: Option<&str>) {
        let address = resolve(flags, environment).unwrap();
        assert_eq!(address.url, url);
        assert_eq!(
            address.token.map(|token| token.read().unwrap()).as_deref(),
            token
        );
    }

    #[test]
    fn flags_win_over_the_environment_over_contexts() {
        let folder = tempfile::tempdir().unwrap();
        let mut environment = environment(folder.path());
        check(&flags(None, None), &environment, "https://a", Some("ta"));
        check(&flags(None, Some("b")), &environment, "https://b", None);
        environment.context = Some("b".to_owned());
        check(&flags(None, None), &environment, "https://b", None);
        environment.address = Some("https://e/".to_owned());
        environment.token = Some("te\n".to_owned());
        check(&flags(None, None), &environment, "https://e", Some("te"));
        check(
            &flags(Some("https://f"), None),
            &environment,
            "https://f",
            Some("te"),
        );
        check(
            &flags(None, Some("a")),
            &environment,
            "https://a",
            Some("ta"),
        );
    }

    #[test]
    fn a_contexts_token_stays_with_its_address() {
        let folder = tempfile::tempdir().unwrap();
        let environment = environment(folder.path());
        check(
            &flags(Some("https://other"), None),
            &environment,
            "https://other",
            None,
        );
    }

    #[test]
    fn without_anything_it_is_this_machine() {
        check(
            &flags(None, None),
            &Environment::default(),
            ADDRESS_DEFAULT,
            None,
        );
        assert!(resolve(&flags(None, Some("a")), &Environment::default()).is_err());
    }

    #[test]
    fn an_address_is_checked_before_use() {
        assert!(checked("localhost:5681").is_err());
        assert!(checked("ftp://x").is_err());
        assert!(checked("http://x/?a").is_err());
        assert_eq!(checked("http://x/base/").as_deref(), Ok("http://x/base"));
    }
}
