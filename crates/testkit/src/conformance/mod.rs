//! Runners of the conformance suites.
//!
//! The cases are read from the folder in `ZONAL_CONFORMANCE`, or from `shared/conformance` beside the workspace.

use std::fmt;
use std::path::{Path, PathBuf};

pub mod crosszone;
pub mod envoyconfig;
pub mod kds_full_sync;
pub mod policy;
pub mod resource_validation;
pub mod rest_crud;
pub mod wire;

/// How a suite went.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct SuiteResult {
    /// The suite's name.
    pub name: String,
    /// How many cases passed.
    pub passed: usize,
    /// The cases that did not, each with what differs.
    pub failed: Vec<(String, String)>,
    /// How many cases could not be run.
    pub skipped: usize,
}

impl SuiteResult {
    /// A suite of which nothing ran yet.
    #[must_use]
    pub fn new(name: impl Into<String>) -> Self {
        Self {
            name: name.into(),
            ..Self::default()
        }
    }

    /// Counts a case: it passed, or what differs.
    pub fn count(&mut self, case: impl Into<String>, outcome: Result<(), String>) {
        match outcome {
            Ok(()) => self.passed += 1,
            Err(difference) => self.failed.push((case.into(), difference)),
        }
    }
}

impl fmt::Display for SuiteResult {
    /// One line with the counts, then one paragraph per case that failed.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let total = self.passed + self.failed.len() + self.skipped;
        write!(f, "{}: {} of {total} passed", self.name, self.passed)?;
        if self.skipped > 0 {
            write!(f, ", {} skipped", self.skipped)?;
        }
        for (case, difference) in &self.failed {
            write!(f, "\n--- {case}\n{difference}")?;
        }
        Ok(())
    }
}

/// The folder of the cases; `None` where it is absent.
#[must_use]
pub fn cases_dir() -> Option<PathBuf> {
    let folder = match std::env::var_os("ZONAL_CONFORMANCE") {
        Some(folder) => PathBuf::from(folder),
        None => Path::new(env!("CARGO_MANIFEST_DIR")).join("../../../shared/conformance"),
    };
    folder.is_dir().then_some(folder)
}

/// Every file below a folder whose name ends in `suffix`, sorted.
#[must_use]
pub fn files_below(folder: &Path, suffix: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    let mut folders = vec![folder.to_path_buf()];
    while let Some(folder) = folders.pop() {
        for entry in std::fs::read_dir(&folder).into_iter().flatten().flatten() {
            let path = entry.path();
            if path.is_dir() {
                folders.push(path);
            } else if path.to_string_lossy().ends_with(suffix) {
                found.push(path);
            }
        }
    }
    found.sort();
    found
}
