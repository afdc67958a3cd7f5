//! One upward stream per zone at a time.

use std::collections::BTreeMap;
use std::sync::Arc;

use parking_lot::Mutex;
use zonal_process::CancellationToken;

/// Whose stream is the zone's upward one now.
///
/// A broken connection can hold messages back and deliver them when the zone has long connected anew; kept then, they
/// would put old state over new for good. So a newer stream ends the older one, and begins only when that one is over.
#[derive(Debug, Default)]
pub(super) struct Turns {
    turns: Mutex<BTreeMap<Arc<str>, Turn>>,
}

#[derive(Debug, Default)]
struct Turn {
    superseded: CancellationToken,
    running: Arc<tokio::sync::Mutex<()>>,
}

/// A stream's turn; it is over when this is dropped.
#[derive(Debug)]
pub(super) struct Pass {
    /// Cancelled when a newer stream of the zone has come.
    pub(super) superseded: CancellationToken,
    _running: tokio::sync::OwnedMutexGuard<()>,
}

impl Turns {
    /// Ends the zone's older stream and waits until it is over.
    pub(super) async fn take(&self, zone: &Arc<str>) -> Pass {
        let superseded = CancellationToken::new();
        let running = {
            let mut turns = self.turns.lock();
            let turn = turns.entry(Arc::clone(zone)).or_default();
            std::mem::replace(&mut turn.superseded, superseded.clone()).cancel();
            Arc::clone(&turn.running)
        };
        Pass {
            superseded,
            _running: running.lock_owned().await,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_newer_stream_begins_when_the_older_one_is_over() {
        let turns = Turns::default();
        let zone: Arc<str> = "east".into();
        let older = turns.take(&zone).await;
        let newer = turns.take(&zone);
        let ends = async {
            older.superseded.cancelled().await;
            drop(older);
        };
        let (newer, ()) = tokio::join!(newer, ends);
        assert!(!newer.superseded.is_cancelled());
        let another = turns.take(&"west".into()).await;
        assert!(
            !newer.superseded.is_cancelled(),
            "zones do not disturb each other"
        );
        drop(another);
    }
}
