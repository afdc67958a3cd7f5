//! Why a batch was not kept, or a store could not be opened.

use std::path::PathBuf;

use zonal_model::Key;

use crate::revision::Revision;

/// Which condition was not met.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ConflictReason {
    /// It was to be new and exists.
    Exists {
        /// When it was last changed.
        found: Revision,
    },
    /// It was to exist and does not.
    Missing,
    /// It was changed by somebody else.
    Moved {
        /// What the caller had read.
        expected: Revision,
        /// What is there.
        found: Revision,
    },
}

/// Why a store refuses.
#[derive(Clone, Debug, thiserror::Error)]
pub enum StoreError {
    /// A condition was not met; nothing of the batch was kept.
    #[error("{key} {}", match .reason {
        ConflictReason::Exists { found } => format!("exists already, at revision {found}"),
        ConflictReason::Missing => "does not exist any more".to_owned(),
        ConflictReason::Moved { expected, found } => format!("was changed by somebody else: expected revision {expected}, found {found}"),
    })]
    Conflict {
        /// Position of the operation in the batch.
        index: usize,
        /// What it was about.
        key: Key,
        /// Which condition.
        reason: ConflictReason,
    },

    /// The backend could not write. Nothing of the batch is visible; it may be tried again.
    #[error("cannot write to {place}: {problem}")]
    Write {
        /// Which store.
        place: String,
        /// What the system said.
        problem: String,
    },

    /// There is no room for the batch. Nothing of it is visible; it may be tried again once there is.
    #[error(
        "no space left for {place}: {problem}\nhint: free some on its disk, or give it a larger one; nothing was changed, \
         and writing goes on by itself once there is room"
    )]
    Full {
        /// Which store.
        place: String,
        /// What the system said.
        problem: String,
    },

    /// The backend did not say what became of the batch. It may be kept; what is kept is seen as soon as the backend
    /// is back.
    #[error("no answer from {place}: {problem}; whether the change was kept is not known")]
    Unsure {
        /// Which store.
        place: String,
        /// What is known.
        problem: String,
    },

    /// The batch is more than the backend takes at once. Nothing of it was kept.
    #[error("the change is more than {place} takes at once: {problem}\nhint: {hint}")]
    TooLarge {
        /// Which store.
        place: String,
        /// What the backend said.
        problem: String,
        /// What to do.
        hint: &'static str,
    },

    /// The store's file is not usable.
    #[error("cannot open the store `{}`: {problem}\nhint: {hint}", .path.display())]
    Open {
        /// The file.
        path: PathBuf,
        /// What is wrong with it.
        problem: String,
        /// What to do.
        hint: &'static str,
    },

    /// The store is shut.
    #[error("the store is closed")]
    Closed,
}

impl StoreError {
    /// Whether the same call could succeed later with nobody changing anything.
    #[must_use]
    pub const fn is_transient(&self) -> bool {
        match self {
            Self::Write { .. } | Self::Full { .. } | Self::Unsure { .. } => true,
            Self::Conflict { .. } | Self::TooLarge { .. } | Self::Open { .. } | Self::Closed => {
                false
            }
        }
    }
}
