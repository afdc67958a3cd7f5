//! What happened, as a hash and as the last steps in words.

use std::collections::VecDeque;
use std::fmt;

use xxhash_rust::xxh3::Xxh3;

/// How many steps a failure shows.
const STEPS_SHOWN: usize = 60;

/// Every step of a run. The hash of two runs is equal only if each did the same things at the same times.
pub(crate) struct Trace {
    hash: Xxh3,
    last: VecDeque<String>,
    steps: u64,
    print: Option<fn(&str)>,
}

impl Trace {
    pub(crate) fn new(print: Option<fn(&str)>) -> Self {
        Self {
            hash: Xxh3::new(),
            last: VecDeque::new(),
            steps: 0,
            print,
        }
    }

    pub(crate) fn note(&mut self, micros: u64, what: fmt::Arguments<'_>) {
        let line = format!("{:>9}.{:03} ms  {what}", micros / 1000, micros % 1000);
        self.hash.update(line.as_bytes());
        self.hash.update(b"\n");
        self.steps += 1;
        if let Some(print) = self.print {
            print(&line);
        }
        self.last.push_back(line);
        if self.last.len() > STEPS_SHOWN {
            self.last.pop_front();
        }
    }

    pub(crate) fn hash(&self) -> u64 {
        self.hash.digest()
    }

    pub(crate) const fn steps(&self) -> u64 {
        self.steps
    }

    pub(crate) fn into_last(self) -> Vec<String> {
        self.last.into()
    }
}

impl fmt::Debug for Trace {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Trace")
            .field("steps", &self.steps)
            .finish_non_exhaustive()
    }
}
