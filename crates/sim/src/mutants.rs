//! Whether the seeds catch the bugs that they should.

use zonal_mutants::Mutant;

use crate::oracle::Violation;
use crate::run::{Failure, Options, run};

/// What became of a mutant.
#[derive(Clone, Debug)]
pub struct Hunt {
    /// The seed that showed it, and what was broken then. `None`: it survived.
    pub caught: Option<(u64, Violation)>,
    /// How many seeds were run.
    pub seeds: u64,
    /// How many of them came by the place where the bug is.
    pub met: u64,
}

/// Runs one seed after the other until one shows the bug.
#[must_use]
pub fn hunt(mutant: Mutant, seeds: std::ops::Range<u64>) -> Hunt {
    let mut hunt = Hunt {
        caught: None,
        seeds: 0,
        met: 0,
    };
    for seed in seeds {
        let (ran, met) = mutant.during(|| run(seed, &Options::of_seed(seed)));
        hunt.seeds += 1;
        hunt.met += u64::from(met);
        if let Err(failure) = ran {
            let Failure { violation, .. } = *failure;
            hunt.caught = Some((seed, violation));
            break;
        }
    }
    hunt
}
