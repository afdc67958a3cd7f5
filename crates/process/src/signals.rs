//! Signals: the first asks for an orderly stop, the second ends the process at once.

use tokio::signal::unix::{Signal, SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing::{info, warn};

/// Exit status after a second signal, as a shell reports an interrupt.
const STATUS_INTERRUPTED: i32 = 130;

/// Cancels `stop` on SIGTERM or SIGINT and exits the process on the next one.
///
/// # Errors
/// When the handlers cannot be installed.
pub fn stop_on_signals(stop: CancellationToken) -> std::io::Result<()> {
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    // Ends with the process; nothing waits for it because it only ever waits itself.
    tokio::spawn(async move {
        let name = either(&mut terminate, &mut interrupt).await;
        info!(
            signal = name,
            "stopping; a second signal ends the process at once"
        );
        stop.cancel();
        let name = either(&mut terminate, &mut interrupt).await;
        warn!(signal = name, "second signal: exiting without waiting");
        exit_now();
    });
    Ok(())
}

#[expect(clippy::exit, reason = "the operator asked twice")]
fn exit_now() {
    std::process::exit(STATUS_INTERRUPTED);
}

async fn either(terminate: &mut Signal, interrupt: &mut Signal) -> &'static str {
    tokio::select! {
        _ = terminate.recv() => "SIGTERM",
        _ = interrupt.recv() => "SIGINT",
    }
}
