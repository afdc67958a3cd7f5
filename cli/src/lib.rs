//! The command-line client of a federation's control planes.
//!
//! ```text
//! files ──documents──▶ one request ──▶ revision ──wait──▶ receipt: where it is in use
//! zonal get | inspect ◀──────────────── lists and overviews, as tables, YAML or JSON
//! zonal backup ◀─────────────────────── one snapshot of the store ──zonal restore──▶ a store's file
//! ```
//!
//! Start at [`run`]; each command has a module of its own name.
//!
//! Always true: what a command found out goes to standard output, everything about the command itself to standard
//! error; the exit code says whether it was reached ([`Exit`]); several documents are one request, kept whole or not
//! at all; a token is never printed, except by the command that issues one.
//!
//! Deliberately absent: the rules for resources (the control plane has them), proxies between here and there, colours.

mod address;
mod apply;
mod arguments;
mod backup;
mod client;
mod context;
mod delete;
mod documents;
mod failure;
mod get;
mod inspect;
mod kinds;
mod output;
mod receipt;
mod restore;
mod table;
mod token;
mod version;
mod wait;
mod zone;

use std::ffi::OsString;

use clap::{CommandFactory, FromArgMatches};

pub use address::Environment;
pub use arguments::Arguments;
pub use failure::{Exit, Failure};
pub use output::Terminal;

use arguments::Command;

/// Runs one command line and says how it ended; everything else was printed.
pub async fn run(
    arguments: impl IntoIterator<Item = OsString>,
    environment: &Environment,
    terminal: &mut Terminal,
) -> Exit {
    let parsed = Arguments::command()
        .try_get_matches_from(arguments)
        .and_then(|matches| Arguments::from_arg_matches(&matches));
    let result = match parsed {
        Ok(arguments) => execute(arguments, environment, terminal).await,
        Err(error) => return usage(&error, terminal),
    };
    match result.and_then(|exit| terminal.flush().map(|()| exit)) {
        Ok(exit) => exit,
        Err(failure) => {
            terminal.complain(&failure);
            failure.exit
        }
    }
}

async fn execute(
    arguments: Arguments,
    environment: &Environment,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let connection = arguments.connection;
    let connect = || address::resolve(&connection, environment);
    match arguments.command {
        Command::Apply(options) => {
            let documents = documents::collect(&options.files, &options.vars, terminal)?;
            apply::run(&options, &documents, &connect()?.client()?, terminal).await
        }
        Command::Get(options) => get::run(&options, &connect()?, terminal).await,
        Command::Delete(options) => delete::run(&options, &connect()?, terminal).await,
        Command::Inspect(options) => inspect::run(&options, &connect()?, terminal).await,
        Command::Wait(options) => wait::run(&options, &connect()?.client()?, terminal).await,
        Command::Zone(options) => zone::run(&options, &connect()?, terminal).await,
        Command::Token(options) => token::run(&options, &connect()?, terminal).await,
        Command::Backup(options) => backup::run(&options, &connect()?, terminal).await,
        Command::Restore(options) => restore::run(&options, terminal),
        Command::Context(options) => context::run(options, &connection, environment, terminal),
        Command::Version(options) => version::run(options, connect(), terminal).await,
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut Arguments::command(), "zonal", &mut script);
            terminal.print(String::from_utf8_lossy(&script).trim_end())?;
            Ok(Exit::Done)
        }
    }
}

/// Help that was asked for is an answer; a command line that cannot be read is an error.
fn usage(error: &clap::Error, terminal: &mut Terminal) -> Exit {
    let text = error.render().to_string();
    if error.use_stderr() {
        terminal.note(text.trim_end());
        return Exit::Usage;
    }
    match terminal
        .print(text.trim_end())
        .and_then(|()| terminal.flush())
    {
        Ok(()) => Exit::Done,
        Err(failure) => failure.exit,
    }
}
