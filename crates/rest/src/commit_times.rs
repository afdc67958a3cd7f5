//! When a revision was committed, for the receipts that people read.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};

use jiff::Timestamp;
use zonal_store::{Revision, Store, WallClock};

/// How many commits are remembered.
const COMMITS_MAX: usize = 4096;

/// The times of the latest commits, noted as the store publishes them.
#[derive(Clone, Debug, Default)]
pub struct CommitTimes {
    noted: Arc<Mutex<VecDeque<(Revision, Timestamp)>>>,
}

impl CommitTimes {
    /// Notes until the store closes. Commits that were published together have one time.
    pub async fn follow(self, store: Arc<dyn Store>, now: WallClock) {
        let mut watch = store.watch();
        self.note(store.snapshot().revision(), now());
        while let Ok(changes) = watch.next().await {
            self.note(changes.to.revision(), now());
        }
    }

    /// Notes one.
    pub fn note(&self, revision: Revision, at: Timestamp) {
        let mut noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        if noted.back().is_none_or(|(last, _)| *last < revision) {
            noted.push_back((revision, at));
        }
        if noted.len() > COMMITS_MAX {
            noted.pop_front();
        }
    }

    /// When a revision was committed; `None` for one that is older than what is remembered, or not there yet.
    #[must_use]
    pub fn of(&self, revision: Revision) -> Option<Timestamp> {
        let noted = self.noted.lock().unwrap_or_else(PoisonError::into_inner);
        let index = noted.partition_point(|(known, _)| *known < revision);
        match (index, noted.get(index)) {
            // The oldest that is known is only right for its own revision.
            (0, Some((known, at))) => (*known == revision).then_some(*at),
            (_, found) => found.map(|(_, at)| *at),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_revision_has_the_time_of_the_commit_it_was_published_with() {
        let times = CommitTimes::default();
        let at = |second| Timestamp::from_second(second).unwrap();
        times.note(Revision(3), at(1));
        times.note(Revision(6), at(2));
        let got: Vec<_> = (2..=7).map(|r| times.of(Revision(r))).collect();
        assert_eq!(
            got,
            [
                None,
                Some(at(1)),
                Some(at(2)),
                Some(at(2)),
                Some(at(2)),
                None
            ]
        );
    }
}
