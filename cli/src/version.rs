//! `zonal version`.

use std::time::Duration;

use serde_json::{Value, json};

use crate::address::Address;
use crate::arguments::Version;
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::Terminal;

/// Nobody waits long for a version.
const TIMEOUT: Duration = Duration::from_secs(5);
const OWN: &str = env!("CARGO_PKG_VERSION");

pub(crate) async fn run(
    options: Version,
    address: Result<Address, Failure>,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let server = ask(address).await;
    let value = match &server {
        Ok(server) => json!({"client": OWN, "server": server}),
        Err(_) => json!({"client": OWN, "server": null}),
    };
    terminal.print_as(options.output.format, &value, || {
        let text = |member: &str| {
            let server = server.as_ref().ok().and_then(|server| server.get(member));
            server
                .and_then(Value::as_str)
                .unwrap_or_default()
                .to_owned()
        };
        match &server {
            Ok(_) => format!(
                "client   zonal {OWN}\nserver   {} {}",
                text("product"),
                text("version")
            ),
            Err(_) => format!("client   zonal {OWN}"),
        }
    })?;
    if let Err(failure) = server {
        terminal.note(&format!("note: {}", failure.sentence));
    }
    Ok(Exit::Done)
}

async fn ask(address: Result<Address, Failure>) -> Result<Value, Failure> {
    let client = address?.client()?;
    client
        .json(Call::get([]).timeout(TIMEOUT))
        .await
        .map(|(value, _)| value)
}
