//! Made-up time: one number that the world moves.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use jiff::Timestamp;
use zonal_store::WallClock;

/// When the made-up calendar begins.
const BEGINNING_SECONDS: i64 = 1_767_225_600;

/// The time in one world. Microseconds since it began.
#[derive(Clone, Debug)]
pub(crate) struct Time {
    /// Only differences to it are ever used, so it does not matter when it is.
    base: Instant,
    now: Arc<AtomicU64>,
}

impl Time {
    pub(crate) fn new() -> Self {
        #[expect(
            clippy::disallowed_methods,
            reason = "an `Instant` can be made in no other way; nothing depends on which one it is"
        )]
        let base = Instant::now();
        Self {
            base,
            now: Arc::new(AtomicU64::new(0)),
        }
    }

    pub(crate) fn micros(&self) -> u64 {
        self.now.load(Ordering::Relaxed)
    }

    pub(crate) fn advance_to(&self, micros: u64) {
        self.now.fetch_max(micros, Ordering::Relaxed);
    }

    pub(crate) fn instant(&self) -> Instant {
        self.base + Duration::from_micros(self.micros())
    }

    /// The microsecond at or after an instant.
    pub(crate) fn micros_of(&self, instant: Instant) -> u64 {
        let since = instant.saturating_duration_since(self.base);
        u64::try_from(since.as_nanos().div_ceil(1000)).unwrap_or(u64::MAX)
    }

    pub(crate) fn wall(&self) -> Timestamp {
        wall_at(self.micros())
    }

    pub(crate) fn wall_clock(&self) -> WallClock {
        let now = Arc::clone(&self.now);
        Arc::new(move || wall_at(now.load(Ordering::Relaxed)))
    }
}

fn wall_at(micros: u64) -> Timestamp {
    let micros = i64::try_from(micros).unwrap_or(i64::MAX);
    Timestamp::from_microsecond((BEGINNING_SECONDS * 1_000_000).saturating_add(micros))
        .unwrap_or(Timestamp::MAX)
}
