//! Logs: constant sentences with fields, as text for people or JSON for machines.

use serde::{Deserialize, Serialize};
use tracing_subscriber::EnvFilter;

/// How log lines look.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Format {
    #[default]
    Text,
    Json,
}

/// Why logging could not start.
#[derive(Debug, thiserror::Error)]
pub enum LogError {
    #[error("`{filter}` is no log filter: {reason}; e.g. `info` or `info,zonal_delta=debug`")]
    Filter { filter: String, reason: String },
    #[error("logs were already started: {0}")]
    Already(String),
}

/// Starts logging to standard error. The variable `ZONAL_LOG` wins over `filter`.
///
/// # Errors
/// When the filter cannot be parsed or logs were started before.
pub fn init(filter: &str, format: Format) -> Result<(), LogError> {
    let filter = std::env::var("ZONAL_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|cause| LogError::Filter {
        filter: filter.clone(),
        reason: cause.to_string(),
    })?;
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(std::io::stderr);
    let done = match format {
        Format::Text => {
            let ansi = std::io::IsTerminal::is_terminal(&std::io::stderr());
            builder.with_ansi(ansi).with_target(true).try_init()
        }
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|cause| LogError::Already(cause.to_string()))
}
