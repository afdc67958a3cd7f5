//! A few of the bugs that the seeds must catch, one of each checker. All: `cargo xtask sim --mutants`.
#![cfg(feature = "mutants")]

use zonal_mutants::Mutant;
use zonal_sim::{Options, hunt, run};

#[track_caller]
fn check(mutant: Mutant, seeds: std::ops::Range<u64>) {
    let hunt = hunt(mutant, seeds);
    assert!(hunt.caught.is_some(), "{mutant:?} survives: {hunt:?}");
}

#[test]
fn a_bug_of_each_sort_is_caught() {
    for mutant in [
        Mutant::DeleteByAbsence,
        Mutant::AckBeforeKept,
        Mutant::AnsweredWhenSent,
        Mutant::TalksWithoutListening,
        Mutant::OneBadBlocksItsKind,
        Mutant::AddressLostOnSync,
        Mutant::OwnComesBack,
        Mutant::MeshLeavesContent,
        Mutant::EmptySetNotSaid,
    ] {
        check(mutant, 0..40);
    }
}

#[test]
fn a_bug_leaves_nothing_behind() {
    let hash = || run(3, &Options::of_seed(3)).map(|report| report.trace_hash);
    let (before, (with, met)) = (hash().ok(), Mutant::AckBeforeKept.during(hash));
    assert!(met && before.is_some());
    assert_ne!(with.ok(), before);
    assert_eq!(hash().ok(), before);
}
