//! Time since the process started, as connections and endpoints remember it.

use std::sync::Arc;
use std::time::{Duration, Instant};

use zonal_process::Clock;

/// A clock and the moment from which everything here is counted.
#[derive(Clone, Debug)]
pub struct Times {
    clock: Arc<dyn Clock>,
    start: Instant,
}

impl Times {
    /// Starts counting now.
    pub fn new(clock: Arc<dyn Clock>) -> Self {
        let start = clock.now();
        Self { clock, start }
    }

    /// How long ago counting started.
    pub fn now(&self) -> Duration {
        self.clock.now().saturating_duration_since(self.start)
    }

    /// The wall-clock time, for people.
    pub fn wall(&self) -> jiff::Timestamp {
        self.clock.wall()
    }

    /// The clock itself.
    pub fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }
}
