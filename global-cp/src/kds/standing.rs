//! How fresh a zone's copy is: computed from what the zone has answered and the present time, never stored.

use jiff::Timestamp;
use serde::Serialize;
use zonal_store::Revision;

use super::zones::Progress;

/// After so long with work and without progress a direction counts as stalled, as its stream is reset then.
const STALLED_SECONDS: i64 = 10;

/// What can be said about a zone in one word.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It keeps everything that concerns it.
    InSync,
    /// It is connected and has answered something lately.
    CatchingUp,
    /// It is connected, has something to answer, and does not.
    Stalled,
    /// It was connected and is not.
    Unreachable,
    /// It has not connected since this control plane started.
    Unknown,
}

/// Where a zone stands.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Standing {
    /// In one word.
    pub state: State,
    /// Since when.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub since: Option<Timestamp>,
    /// The newest revision for which it has answered everything.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub revision: Option<u64>,
    /// How many revisions came after that.
    pub behind: u64,
    /// How long ago the oldest of those came; 0 when nothing is missing.
    pub stale_seconds: i64,
    /// What the latest connection took to bring the zone up to date: messages to the zone, unpacked.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_bytes_down: Option<u64>,
    /// Messages from the zone.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_bytes_up: Option<u64>,
    /// Time from the connection to the last answer.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub resync_millis: Option<u64>,
}

/// What one connection took until the zone was up to date for the first time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Resync {
    pub(super) bytes_down: u64,
    pub(super) bytes_up: u64,
    pub(super) millis: u64,
}

impl Standing {
    /// A zone that has not connected since this control plane started.
    pub(super) const fn unknown(newest: Revision) -> Self {
        Self {
            state: State::Unknown,
            since: None,
            revision: None,
            behind: newest.0,
            stale_seconds: 0,
            resync_bytes_down: None,
            resync_bytes_up: None,
            resync_millis: None,
        }
    }

    /// What follows from a zone's progress when the store is at `newest`.
    pub(super) fn of(progress: &Progress, newest: Revision, now: Timestamp) -> Self {
        let reached = progress.reached.unwrap_or_default();
        let behind = newest.0.saturating_sub(reached.0);
        let age = |since: Option<Timestamp>| {
            since.map_or(0, |since| (now.as_second() - since.as_second()).max(0))
        };
        let (state, since) = if progress.streams == 0 {
            (State::Unreachable, progress.disconnected_at)
        } else if progress.reached.is_some() && behind == 0 {
            (State::InSync, progress.in_sync_since)
        } else if age(progress.progressed_at) > STALLED_SECONDS {
            (State::Stalled, progress.behind_since)
        } else {
            (State::CatchingUp, progress.behind_since)
        };
        Self {
            state,
            since,
            revision: progress.reached.map(|revision| revision.0),
            behind,
            stale_seconds: if behind == 0 {
                0
            } else {
                age(progress.behind_since)
            },
            resync_bytes_down: progress.resync.map(|resync| resync.bytes_down),
            resync_bytes_up: progress.resync.map(|resync| resync.bytes_up),
            resync_millis: progress.resync.map(|resync| resync.millis),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    #[track_caller]
    fn check(progress: &Progress, newest: u64, now: i64, want: (State, u64, i64)) {
        let standing = Standing::of(progress, Revision(newest), at(now));
        assert_eq!(
            (standing.state, standing.behind, standing.stale_seconds),
            want
        );
    }

    #[test]
    fn connected_is_not_in_sync_and_time_alone_makes_it_stalled() {
        let mut progress = Progress {
            streams: 1,
            ..Progress::default()
        };
        progress.progressed_at = Some(at(100));
        progress.behind_since = Some(at(100));
        check(&progress, 7, 103, (State::CatchingUp, 7, 3));
        check(&progress, 7, 111, (State::Stalled, 7, 11));
        progress.reached = Some(Revision(7));
        check(&progress, 7, 500, (State::InSync, 0, 0));
        progress.streams = 0;
        check(&progress, 9, 500, (State::Unreachable, 2, 400));
    }
}
