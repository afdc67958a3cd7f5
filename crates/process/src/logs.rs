//! Logs: constant sentences with fields, as text for people or JSON for machines.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

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

/// A writer of log lines that never fails: a full disk is no reason to stop working. What could not be written is
/// counted, and told as soon as something can be written again.
#[derive(Debug)]
struct Unfailing<W> {
    out: W,
    format: Format,
    lost: Arc<AtomicU64>,
}

impl<W: Write> Unfailing<W> {
    fn tell(&mut self, lost: u64) -> io::Result<()> {
        match self.format {
            Format::Text => writeln!(
                self.out,
                "{lost} log lines before this one are lost: they could not be written"
            ),
            Format::Json => writeln!(
                self.out,
                r#"{{"level":"WARN","message":"log lines before this one are lost: they could not be written","lost":{lost}}}"#
            ),
        }
    }
}

impl<W: Write> Write for Unfailing<W> {
    fn write(&mut self, line: &[u8]) -> io::Result<usize> {
        self.write_all(line).map(|()| line.len())
    }

    /// One call is one line.
    fn write_all(&mut self, line: &[u8]) -> io::Result<()> {
        let lost = self.lost.load(Ordering::Relaxed);
        if lost > 0 && self.tell(lost).is_ok() {
            self.lost.fetch_sub(lost, Ordering::Relaxed);
        }
        if self.out.write_all(line).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(())
    }

    fn flush(&mut self) -> io::Result<()> {
        // What cannot be flushed was counted when it was written.
        let _flushed = self.out.flush();
        Ok(())
    }
}

/// Starts logging to standard error. The variable `ZONAL_LOG` wins over `filter`. A standard error that cannot be
/// written to harms nothing but the log.
///
/// # Errors
/// When the filter cannot be parsed or logs were started before.
pub fn init(filter: &str, format: Format) -> Result<(), LogError> {
    let filter = std::env::var("ZONAL_LOG").unwrap_or_else(|_| filter.to_owned());
    let parsed = EnvFilter::try_new(&filter).map_err(|cause| LogError::Filter {
        filter: filter.clone(),
        reason: cause.to_string(),
    })?;
    let lost = Arc::new(AtomicU64::new(0));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(parsed)
        .with_writer(move || Unfailing {
            out: io::stderr(),
            format,
            lost: lost.clone(),
        })
        // They would be printed to standard error, and printing there panics where it fails.
        .log_internal_errors(false);
    let done = match format {
        Format::Text => {
            let ansi = io::IsTerminal::is_terminal(&io::stderr());
            builder.with_ansi(ansi).with_target(true).try_init()
        }
        Format::Json => builder.json().flatten_event(true).try_init(),
    };
    done.map_err(|cause| LogError::Already(cause.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Fails while `full`.
    struct Disk {
        full: bool,
        text: Vec<u8>,
    }

    impl Write for Disk {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            if self.full {
                return Err(io::ErrorKind::StorageFull.into());
            }
            self.text.write(bytes)
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_full_disk_costs_lines_and_says_how_many() {
        for (format, note) in [
            (
                Format::Text,
                "2 log lines before this one are lost: they could not be written\n",
            ),
            (
                Format::Json,
                "{\"level\":\"WARN\",\"message\":\"log lines before this one are lost: they could not be written\",\"lost\":2}\n",
            ),
        ] {
            let disk = Disk {
                full: false,
                text: Vec::new(),
            };
            let mut log = Unfailing {
                out: disk,
                format,
                lost: Arc::default(),
            };
            log.write_all(b"one\n").unwrap();
            log.out.full = true;
            log.write_all(b"two\n").unwrap();
            log.write_all(b"three\n").unwrap();
            log.out.full = false;
            log.write_all(b"four\n").unwrap();
            log.write_all(b"five\n").unwrap();
            let text = String::from_utf8(log.out.text).unwrap();
            assert_eq!(text, format!("one\n{note}four\nfive\n"));
        }
    }
}
