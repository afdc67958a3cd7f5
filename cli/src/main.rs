//! The program `zonal`.

use std::process::ExitCode;

use zonal_cli::{Environment, Terminal};

#[tokio::main(flavor = "current_thread")]
async fn main() -> ExitCode {
    zonal_process::tls::install_provider();
    let mut terminal = Terminal::real();
    zonal_cli::run(std::env::args_os(), &Environment::real(), &mut terminal)
        .await
        .into()
}
