//! A few hundred worlds, each from a seed.
#![allow(
    clippy::panic,
    clippy::unwrap_used,
    clippy::print_stderr,
    reason = "a test may stop at once"
)]

use zonal_sim::{Options, Size, run};

#[track_caller]
fn check(seed: u64, options: &Options) {
    if let Err(failure) = run(seed, options) {
        panic!(
            "{failure}\nto see it all: cargo run -p zonal-sim --bin sim -- --seed {seed} --trace"
        );
    }
}

#[track_caller]
fn check_all(seeds: std::ops::Range<u64>) {
    for seed in seeds {
        check(seed, &Options::of_seed(seed));
    }
}

// In parts, so that they run side by side.

#[test]
fn promises_are_kept_from_seed_0_on() {
    check_all(0..50);
}

#[test]
fn promises_are_kept_from_seed_50_on() {
    check_all(50..100);
}

#[test]
fn promises_are_kept_from_seed_100_on() {
    check_all(100..150);
}

#[test]
fn promises_are_kept_from_seed_150_on() {
    check_all(150..200);
}

#[test]
fn the_same_seed_is_the_same_run() {
    for seed in [3, 14, 159] {
        let options = Options::of_seed(seed);
        assert_eq!(run(seed, &options).unwrap(), run(seed, &options).unwrap());
    }
    let hash = |seed| run(seed, &Options::of_seed(seed)).unwrap().trace_hash;
    assert_ne!(hash(3), hash(14));
}

#[test]
fn a_larger_world_keeps_its_promises_too() {
    let size = Size {
        zones: 5,
        proxies: 4,
        policies: 8,
        message_bytes: 1 << 20,
        changes: 150,
        faults: 40,
    };
    check(1, &Options { size, print: None });
}
