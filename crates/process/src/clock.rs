//! Time, asked for in one place.

use std::fmt;
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures::future::BoxFuture;
use parking_lot::Mutex;
use tokio::sync::watch;

/// Tells the time: monotonic for waiting, wall-clock for people and certificates.
pub trait Clock: fmt::Debug + Send + Sync + 'static {
    /// The monotonic time.
    fn now(&self) -> Instant;

    /// The wall-clock time.
    fn wall(&self) -> jiff::Timestamp;

    /// Completes at `when`, or never for `None`. May be dropped at any time.
    fn sleep_until(&self, when: Option<Instant>) -> BoxFuture<'static, ()>;
}

/// The machine's own time.
#[derive(Clone, Copy, Debug, Default)]
pub struct RealClock;

impl RealClock {
    /// A shared handle, as most shells take it.
    pub fn shared() -> Arc<dyn Clock> {
        Arc::new(Self)
    }
}

impl Clock for RealClock {
    fn now(&self) -> Instant {
        monotonic()
    }

    fn wall(&self) -> jiff::Timestamp {
        jiff::Timestamp::now()
    }

    fn sleep_until(&self, when: Option<Instant>) -> BoxFuture<'static, ()> {
        Box::pin(async move {
            match when {
                Some(when) => tokio::time::sleep_until(when.into()).await,
                None => std::future::pending().await,
            }
        })
    }
}

/// The one call of the monotonic clock.
#[expect(clippy::disallowed_methods, reason = "this is the clock room")]
pub(crate) fn monotonic() -> Instant {
    Instant::now()
}

/// Time that moves only when a test moves it.
#[derive(Clone, Debug)]
pub struct ManualClock {
    start: Instant,
    wall_start: jiff::Timestamp,
    elapsed: Arc<Mutex<Duration>>,
    moved: watch::Sender<Duration>,
}

impl ManualClock {
    /// A clock whose wall time is `wall` and whose monotonic time starts anywhere.
    pub fn starting_at(wall: jiff::Timestamp) -> Self {
        Self {
            start: monotonic(),
            wall_start: wall,
            elapsed: Arc::new(Mutex::new(Duration::ZERO)),
            moved: watch::Sender::new(Duration::ZERO),
        }
    }

    /// Moves both times forward and wakes who waited for it.
    pub fn advance(&self, by: Duration) {
        let now = {
            let mut elapsed = self.elapsed.lock();
            *elapsed += by;
            *elapsed
        };
        self.moved.send_replace(now);
    }
}

impl Clock for ManualClock {
    fn now(&self) -> Instant {
        self.start + *self.elapsed.lock()
    }

    fn wall(&self) -> jiff::Timestamp {
        // Saturates at the end of time, which no test reaches.
        self.wall_start
            .checked_add(*self.elapsed.lock())
            .unwrap_or(jiff::Timestamp::MAX)
    }

    fn sleep_until(&self, when: Option<Instant>) -> BoxFuture<'static, ()> {
        let clock = self.clone();
        let mut moved = self.moved.subscribe();
        Box::pin(async move {
            let Some(when) = when else {
                return std::future::pending().await;
            };
            while clock.now() < when {
                if moved.changed().await.is_err() {
                    return std::future::pending().await;
                }
            }
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn manual_time_moves_only_when_told() {
        let clock = ManualClock::starting_at(jiff::Timestamp::UNIX_EPOCH);
        let deadline = clock.now() + Duration::from_secs(60);
        let mut sleep = clock.sleep_until(Some(deadline));
        assert!(futures::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(59));
        assert!(futures::poll!(&mut sleep).is_pending());
        clock.advance(Duration::from_secs(1));
        sleep.await;
        assert_eq!(clock.wall().as_second(), 60);
    }
}
