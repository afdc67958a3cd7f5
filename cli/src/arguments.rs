//! The command line.

use std::path::PathBuf;
use std::time::Duration;

use clap::{Args, Parser, Subcommand, ValueEnum};
use clap_complete::Shell;
use zonal_process::config::parse_duration;
use zonal_process::tls::Fingerprint;

use crate::receipt::Condition;

/// The client of a federated service mesh: policies and services of all zones, from one place.
#[derive(Debug, Parser)]
#[command(
    name = "zonal",
    version,
    disable_help_subcommand = true,
    subcommand_required = true,
    arg_required_else_help = true,
    after_help = EXIT_CODES,
    after_long_help = EXIT_CODES
)]
pub struct Arguments {
    #[command(flatten)]
    pub connection: Connection,
    #[command(subcommand)]
    pub command: Command,
}

const EXIT_CODES: &str = "\
Exit codes:
  0  done; with a wait: reached
  1  refused or failed; nothing was changed unless the output says so
  2  the command line cannot be read
  3  a wait ran out of time; who is missing is on standard error

Environment:
  ZONAL_ADDRESS, ZONAL_CA_FILE, ZONAL_TOKEN   as the flags --address, --ca-file, --token
  ZONAL_CONTEXT                               as the flag --context
  ZONAL_CONFIG                                the file with the contexts, else ~/.config/zonal/config.yaml";

/// Which control plane to talk to, and as whom.
#[derive(Clone, Debug, Default, Args)]
#[command(next_help_heading = "Connection")]
pub struct Connection {
    /// REST address of a control plane [default: http://localhost:5681].
    #[arg(long, global = true, value_name = "URL")]
    pub address: Option<String>,
    /// Certificate authorities to trust, a PEM file.
    #[arg(long, global = true, value_name = "FILE")]
    pub ca_file: Option<PathBuf>,
    /// Trust exactly this certificate of the control plane.
    #[arg(
        long,
        global = true,
        value_name = "sha256:HEX",
        conflicts_with = "ca_file"
    )]
    pub fingerprint: Option<Fingerprint>,
    /// Trust whatever certificate is shown.
    #[arg(long, global = true, conflicts_with_all = ["ca_file", "fingerprint"])]
    pub insecure_skip_verify: bool,
    /// User token; a file is better, since other users of the machine see command lines.
    #[arg(long, global = true, value_name = "TOKEN")]
    pub token: Option<String>,
    /// File with the user token.
    #[arg(long, global = true, value_name = "FILE", conflicts_with = "token")]
    pub token_file: Option<PathBuf>,
    /// Named connection to use; see `zonal context`.
    #[arg(long, global = true, value_name = "NAME")]
    pub context: Option<String>,
}

#[derive(Debug, Subcommand)]
pub enum Command {
    /// Creates and updates resources from files, all of them or none.
    Apply(Apply),
    /// Shows resources.
    Get(Get),
    /// Removes a resource.
    Delete(Delete),
    /// Shows how zones, proxies and services are doing.
    Inspect(Inspect),
    /// Waits until a revision is in use.
    Wait(Wait),
    /// Lets zones in and out of the federation.
    Zone(Zone),
    /// Issues a token.
    Token(Token),
    /// Takes a backup of everything that the control plane keeps, secrets too.
    Backup(Backup),
    /// Makes a control plane's store of a backup, on the machine where the control plane runs and while it does not.
    Restore(Restore),
    /// Manages named connections.
    Context(Context),
    /// Prints a shell's completion script.
    Completion {
        /// Which shell.
        shell: Shell,
    },
    /// Shows the versions of this program and of the control plane.
    Version(Version),
}

#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, ValueEnum)]
pub enum Format {
    #[default]
    Table,
    /// A table with more columns.
    Wide,
    Yaml,
    Json,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Output {
    /// How to print.
    #[arg(
        short = 'o',
        long = "output",
        value_enum,
        default_value_t,
        value_name = "FORMAT"
    )]
    pub format: Format,
}

#[derive(Clone, Debug, Args)]
pub struct Waiting {
    /// Wait until the change is in use: everywhere, in one zone, or for a share of all proxies.
    #[arg(
        long,
        value_name = "all|zone:NAME|PERCENT%",
        num_args = 0..=1,
        require_equals = true,
        default_missing_value = "all"
    )]
    pub wait: Option<Condition>,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
}

#[derive(Debug, Args)]
pub struct Apply {
    /// File, folder (its *.yaml, *.yml and *.json in the order of their names), or `-` for standard input.
    #[arg(short = 'f', long = "file", required = true, value_name = "FILE")]
    pub files: Vec<PathBuf>,
    /// Value for `{{ key }}` in the files.
    #[arg(short = 'v', long = "var", value_name = "KEY=VALUE", value_parser = pair)]
    pub vars: Vec<(String, String)>,
    /// Have everything checked, change nothing.
    #[arg(long, conflicts_with = "wait")]
    pub dry_run: bool,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Get {
    /// Type of resource: `meshtimeouts`, `meshtimeout` or `mt`.
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Name or identifier (`kri_…`) of one resource; all of the mesh without it.
    pub name: Option<String>,
    /// Mesh to look in [default: the context's, else `default`].
    #[arg(short = 'm', long)]
    pub mesh: Option<String>,
    /// Look in all meshes.
    #[arg(short = 'A', long, conflicts_with_all = ["mesh", "name"])]
    pub all_meshes: bool,
    /// Only resources with this label; may be given several times.
    #[arg(
        short = 'l',
        long = "labels",
        value_name = "KEY=VALUE",
        value_parser = pair,
        value_delimiter = ',',
        conflicts_with = "name"
    )]
    pub labels: Vec<(String, String)>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Delete {
    /// Type of resource: `meshtimeout`, `meshtimeouts` or `mt`.
    #[arg(value_name = "TYPE")]
    pub kind: String,
    /// Its name.
    pub name: String,
    /// Its mesh [default: the context's, else `default`].
    #[arg(short = 'm', long)]
    pub mesh: Option<String>,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Inspect {
    /// What to look at.
    #[arg(value_enum)]
    pub what: Inspected,
    /// Mesh to look in [default: the context's, else `default`].
    #[arg(short = 'm', long)]
    pub mesh: Option<String>,
    /// Look in all meshes.
    #[arg(short = 'A', long, conflicts_with = "mesh")]
    pub all_meshes: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Inspected {
    #[value(alias = "zone")]
    Zones,
    #[value(alias = "dataplane", alias = "proxies")]
    Dataplanes,
    #[value(alias = "service")]
    Services,
}

#[derive(Debug, Args)]
pub struct Wait {
    /// Revision, as `apply` and `delete` print it.
    pub revision: u64,
    /// What to wait for.
    #[arg(
        long = "for",
        value_name = "all|zone:NAME|PERCENT%",
        default_value = "all"
    )]
    pub condition: Condition,
    /// How long to wait.
    #[arg(long, value_name = "DURATION", default_value = "2m", value_parser = duration)]
    pub timeout: Duration,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Zone {
    #[command(subcommand)]
    pub action: ZoneAction,
}

#[derive(Debug, Subcommand)]
pub enum ZoneAction {
    /// Makes the record of a zone; one that was deleted may then come back.
    Create(ZoneChange),
    /// Prints the one command that starts a new zone and lets it join; what it has is good once.
    JoinToken(ZoneJoinToken),
    /// Takes what the zone offers away from the other zones; it stays connected and goes on alone.
    Disable(ZoneChange),
    /// Gives the other zones again what the zone offers.
    Enable(ZoneChange),
    /// Has callers in other zones leave the zone, so that it can be stopped; its services stay known.
    Drain(ZoneChange),
    /// Lets callers in other zones come again.
    Undrain(ZoneChange),
    /// Removes a zone with everything it sent, connected or not; it stays out until it is created again.
    Delete(ZoneChange),
}

#[derive(Debug, Args)]
pub struct ZoneJoinToken {
    /// Name of the zone.
    #[arg(value_name = "ZONE")]
    pub name: String,
    /// How long it may wait to be used, e.g. `30m` or `2d` [default: the control plane's, 1h].
    #[arg(long, alias = "ttl", value_name = "DURATION", value_parser = long_duration)]
    pub valid_for: Option<Duration>,
    /// Where the zone finds global [default: the host of `--address`, and global's port for zones].
    #[arg(long, value_name = "HOST[:PORT]")]
    pub global: Option<String>,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct ZoneChange {
    /// Name of the zone.
    #[arg(value_name = "ZONE")]
    pub name: String,
    #[command(flatten)]
    pub waiting: Waiting,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Token {
    #[command(subcommand)]
    pub whose: Whose,
}

#[derive(Debug, Subcommand)]
pub enum Whose {
    /// For the sidecar of one workload, or a zone's ingress.
    Dataplane {
        /// Name of the only Dataplane it may be used for.
        #[arg(long)]
        name: Option<String>,
        /// Mesh of the Dataplane [default: the context's, else `default`].
        #[arg(short = 'm', long)]
        mesh: Option<String>,
        /// Workload that the Dataplane must name.
        #[arg(long)]
        workload: Option<String>,
        /// Tag that the Dataplane must have; may be given several times.
        #[arg(long = "tag", value_name = "KEY=VALUE", value_parser = pair)]
        tags: Vec<(String, String)>,
        /// How long it is good for, e.g. `24h` or `365d` [default: the control plane's].
        #[arg(long, value_name = "DURATION", value_parser = long_duration)]
        valid_for: Option<Duration>,
    },
    /// For a zone control plane that joins the federation.
    Zone {
        /// Name of the zone.
        #[arg(value_name = "ZONE")]
        name: Option<String>,
        /// Name of the zone.
        #[arg(
            long = "zone",
            value_name = "ZONE",
            conflicts_with = "name",
            required_unless_present = "name"
        )]
        zone: Option<String>,
        /// What it may be used for; may be given several times.
        #[arg(long = "scope")]
        scopes: Vec<String>,
        /// How long it is good for, e.g. `24h` or `365d` [default: the control plane's].
        #[arg(long, value_name = "DURATION", value_parser = long_duration)]
        valid_for: Option<Duration>,
    },
    /// For a person or program that uses the REST API.
    User {
        /// Name of the user.
        #[arg(long)]
        name: String,
        /// Group of the user; may be given several times.
        #[arg(long = "group")]
        groups: Vec<String>,
        /// How long it is good for, e.g. `24h` or `365d`.
        #[arg(long, value_name = "DURATION", value_parser = long_duration)]
        valid_for: Duration,
    },
}

#[derive(Debug, Args)]
pub struct Backup {
    /// The file to make; only its owner can read it.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// Replace the file if there is one.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Restore {
    /// The backup.
    #[arg(value_name = "FILE")]
    pub file: PathBuf,
    /// The store's file, as `store.file.path` names it in the configuration of the control plane.
    #[arg(long, value_name = "FILE")]
    pub store: PathBuf,
    /// Replace the store if there is one; what is in it is lost.
    #[arg(long)]
    pub force: bool,
    #[command(flatten)]
    pub output: Output,
}

#[derive(Debug, Args)]
pub struct Context {
    #[command(subcommand)]
    pub action: ContextAction,
}

#[derive(Debug, Subcommand)]
pub enum ContextAction {
    /// Lists the contexts; `*` marks the current one.
    List {
        #[command(flatten)]
        output: Output,
    },
    /// Makes a context the current one.
    Use { name: String },
    /// Keeps the connection flags of this command line under a name.
    Add {
        name: String,
        /// Mesh for commands that name none.
        #[arg(short = 'm', long)]
        mesh: Option<String>,
        /// Replace a context of this name.
        #[arg(long)]
        overwrite: bool,
        /// Make it the current one; the first is so anyway.
        #[arg(long = "use")]
        current: bool,
    },
    /// Forgets a context.
    Remove { name: String },
    /// Prints the name of the current context.
    Current,
}

#[derive(Clone, Copy, Debug, Args)]
pub struct Version {
    #[command(flatten)]
    pub output: Output,
}

fn duration(text: &str) -> Result<Duration, String> {
    parse_duration(text).map_err(|error| error.to_string())
}

/// Days are what validity is spoken of in.
fn long_duration(text: &str) -> Result<Duration, String> {
    let days = text
        .strip_suffix('d')
        .and_then(|days| days.parse::<u64>().ok());
    match days.map(|days| days.checked_mul(86_400)) {
        Some(Some(seconds)) => Ok(Duration::from_secs(seconds)),
        _ => duration(text),
    }
}

fn pair(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err(format!("`{text}` is not of the form `key=value`")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory;

    fn parse(line: &str) -> Result<Arguments, String> {
        Arguments::try_parse_from(line.split_whitespace()).map_err(|error| error.to_string())
    }

    #[test]
    fn the_definition_is_sound() {
        Arguments::command().debug_assert();
    }

    #[track_caller]
    #[expect(clippy::needless_pass_by_value, reason = "the cases read better")]
    fn check_wait(line: &str, want: Option<Condition>) {
        match parse(line).unwrap().command {
            Command::Apply(apply) => assert_eq!(apply.waiting.wait, want, "{line}"),
            other => panic!("{other:?}"),
        }
    }

    #[test]
    fn apply_waits_for_all_unless_told_otherwise() {
        check_wait("zonal apply -f a.yaml", None);
        check_wait("zonal apply -f a.yaml --wait -o json", Some(Condition::All));
        check_wait("zonal apply --wait -f a.yaml", Some(Condition::All));
        check_wait(
            "zonal apply -f a --wait=zone:east",
            Some(Condition::Zone("east".to_owned())),
        );
        check_wait("zonal apply -f a --wait=90%", Some(Condition::Share(90)));
        assert!(parse("zonal apply -f a --wait=101%").is_err());
        assert!(parse("zonal apply -f a --wait=some").is_err());
        assert!(parse("zonal apply -f a --dry-run --wait").is_err());
        assert!(parse("zonal apply").is_err());
    }

    #[test]
    fn connection_flags_stand_anywhere() {
        for line in [
            "zonal --address https://cp:5682 --ca-file ca.pem get meshes",
            "zonal get meshes --address https://cp:5682 --ca-file ca.pem",
        ] {
            let arguments = parse(line).unwrap();
            assert_eq!(
                arguments.connection.address.as_deref(),
                Some("https://cp:5682")
            );
        }
        assert!(parse("zonal get meshes --ca-file a --insecure-skip-verify").is_err());
        assert!(parse("zonal get meshes --fingerprint sha256:12").is_err());
    }

    #[test]
    fn labels_are_separated_by_commas_or_given_twice() {
        let line = "zonal get meshservices -l kuma.io/zone=east,a=b --labels c=";
        match parse(line).unwrap().command {
            Command::Get(get) => {
                let labels: Vec<String> = get
                    .labels
                    .iter()
                    .map(|(key, value)| format!("{key}={value}"))
                    .collect();
                assert_eq!(labels, ["kuma.io/zone=east", "a=b", "c="]);
            }
            other => panic!("{other:?}"),
        }
        assert!(parse("zonal get meshservices -l a").is_err());
    }

    #[test]
    fn validity_has_days() {
        let line = "zonal token user --name ann --group ops --valid-for 365d";
        match parse(line).unwrap().command {
            Command::Token(Token {
                whose: Whose::User { valid_for, .. },
            }) => {
                assert_eq!(valid_for, Duration::from_hours(365 * 24));
            }
            other => panic!("{other:?}"),
        }
        assert!(parse("zonal token zone east").is_ok());
        assert!(parse("zonal token zone --zone east --scope cp").is_ok());
        assert!(parse("zonal token zone").is_err());
        assert!(parse("zonal token dataplane --mesh default --name web --workload web").is_ok());
    }
}
