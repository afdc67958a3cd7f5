//! One run: a seed, a busy time with faults, a quiet time, and the questions that matter.

use std::fmt;
use std::sync::Arc;

use zonal_model::validate;
use zonal_store::{Snapshot, Store};

use crate::oracle::{Checked, Identity, Oracle, Place, Violation, copied, violation, zone_name};
use crate::proxy::POISON;
use crate::trace::Trace;
use crate::world::{Event, Size, World};

/// What a run looks like beside its seed.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// How large the world is.
    pub size: Size,
    /// Where every step is printed.
    pub print: Option<fn(&str)>,
}

impl Options {
    /// A world whose size follows from the seed.
    #[must_use]
    pub fn of_seed(seed: u64) -> Self {
        let mut rng = fastrand::Rng::with_seed(seed ^ 0x005e_ed0f_512e);
        let size = Size {
            zones: rng.usize(1..=3),
            proxies: rng.usize(0..=3),
            policies: if rng.u32(0..8) == 0 { 120 } else { 8 },
            message_bytes: if rng.u32(0..3) == 0 { 700 } else { 1 << 20 },
            changes: rng.u32(20..=90),
            // Some worlds are all peace, so that what goes wrong without a fault is found too.
            faults: if rng.u32(0..8) == 0 {
                0
            } else {
                rng.u32(1..=25)
            },
        };
        Self { size, print: None }
    }
}

/// What a run that kept every promise did.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Report {
    /// The seed.
    pub seed: u64,
    /// Equal for equal runs.
    pub trace_hash: u64,
    /// Steps taken.
    pub steps: u64,
    /// Frames sent.
    pub messages: u64,
    /// How long it took in the made-up world, in seconds.
    pub seconds: u64,
}

/// A run in which a promise was broken.
#[derive(Clone, Debug)]
pub struct Failure {
    /// The seed: the same one shows the same again.
    pub seed: u64,
    /// What was broken.
    pub violation: Violation,
    /// The last steps before.
    pub last: Vec<String>,
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for line in &self.last {
            writeln!(f, "{line}")?;
        }
        write!(f, "seed {}: {}", self.seed, self.violation)
    }
}

impl std::error::Error for Failure {}

/// In the busy time more steps than this mean that somebody goes round in circles.
const STEPS_MAX: u64 = 400_000;
/// The quiet time that every run has: longer than a dead connection can stay unnoticed.
const QUIET_MICROS_MIN: u64 = 45_000_000;
/// By when everything has to be in step: what was refused is offered again after five minutes at most.
const QUIET_MICROS_MAX: u64 = 450_000_000;
const SLICE_MICROS: u64 = 5_000_000;

/// Runs one seed.
///
/// # Errors
/// A promise was broken.
pub fn run(seed: u64, options: &Options) -> Result<Report, Box<Failure>> {
    let mut world = World::new(seed, options.size, options.print);
    match world.live() {
        Ok(()) => Ok(Report {
            seed,
            trace_hash: world.trace.hash(),
            steps: world.trace.steps(),
            messages: world.messages,
            seconds: world.time.micros() / 1_000_000,
        }),
        Err(violation) => {
            let trace = std::mem::replace(&mut world.trace, Trace::new(None));
            Err(Box::new(Failure {
                seed,
                violation,
                last: trace.into_last(),
            }))
        }
    }
}

impl World {
    fn live(&mut self) -> Checked {
        self.found()?;
        while self.work_left > 0 || self.faults_left > 0 {
            let Some(event) = self.next_event(u64::MAX) else {
                return Err(violation("progress", "nothing happens any more"));
            };
            self.happen(event)?;
        }
        self.check_work()?;
        self.calm_down()?;
        let began = self.time.micros();
        self.pass_until(began + QUIET_MICROS_MIN)?;
        loop {
            let checked = self.check_quiet();
            let now = self.time.micros();
            if checked.is_ok() || now >= began + QUIET_MICROS_MAX {
                checked?;
                break;
            }
            self.pass_until(now + SLICE_MICROS)?;
        }
        self.check_silence()
    }

    fn happen(&mut self, event: Event) -> Checked {
        self.handle(event)?;
        if self.trace.steps() > STEPS_MAX {
            return Err(violation("progress", "there is no end of it"));
        }
        Ok(())
    }

    fn pass_until(&mut self, micros: u64) -> Checked {
        while let Some(event) = self.next_event(micros) {
            self.happen(event)?;
        }
        self.time.advance_to(micros);
        Ok(())
    }

    /// Nothing breaks from now on, and what is broken is repaired.
    fn calm_down(&mut self) -> Checked {
        self.end_some()?;
        self.calm = true;
        self.trace.note(self.time.micros(), format_args!("calm"));
        let now = self.time.micros();
        for zone in &mut self.zones {
            zone.cut_off_until = now;
        }
        self.thaw_all();
        self.clear_squatters()
    }

    /// Every store holds what it should, every proxy uses what it should, and the receipts say so.
    fn check_quiet(&mut self) -> Checked {
        let global = self.global.store.snapshot();
        let zones: Vec<Arc<Snapshot>> = self
            .zones
            .iter()
            .map(|zone| zone.store.snapshot())
            .collect();
        for (zone, at) in self.zones.iter().enumerate() {
            if !at.is_quiet() {
                return Err(violation(
                    "progress",
                    format!("{} is not in step", zone_name(zone)),
                ));
            }
        }
        let expected = Oracle::expected(Place::Global, &global, &zones);
        let punctual = |_: &Identity| false;
        Oracle::agrees(Place::Global, &global, &expected, &punctual)?;
        Oracle::no_orphans(Place::Global, &global)?;
        for (zone, snapshot) in zones.iter().enumerate() {
            let expected = Oracle::expected(Place::Zone(zone), &global, &zones);
            Oracle::agrees(Place::Zone(zone), snapshot, &expected, &punctual)?;
            Oracle::no_orphans(Place::Zone(zone), snapshot)?;
            self.check_proxies(zone)?;
        }
        Ok(())
    }

    /// When all is said, nobody says anything. What was refused is offered again now and then, so a world with bad
    /// resources is not asked.
    fn check_silence(&mut self) -> Checked {
        let mut places = vec![Place::Global];
        places.extend((0..self.size.zones).map(Place::Zone));
        let refused = places.into_iter().any(|place| {
            self.store(place).snapshot().all().any(|stored| {
                let is_bad = !validate(&stored.resource).is_empty();
                (is_bad && copied(place, &stored.resource).is_none())
                    || stored.resource.spec.as_str().contains(POISON)
            })
        });
        let before = self.messages;
        self.pass_until(self.time.micros() + 10_000_000)?;
        if !refused && self.messages > before {
            return Err(violation(
                "bounded by resources",
                format!("{} messages without a change", self.messages - before),
            ));
        }
        self.check_quiet()
    }
}
