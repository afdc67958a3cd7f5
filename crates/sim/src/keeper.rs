//! Keeps what a peer sends, one message after the other, each step at a time of its own so that a crash can fall between
//! any two of them.

use std::collections::VecDeque;

use zonal_delta::Response;
use zonal_federation::Refusal;
use zonal_kds::{Pending, Planned, Subscriber};
use zonal_mutants::mutant;
use zonal_store::{MemoryStore, Store, StoreError};

/// How often a batch is planned again.
const PLANS_MAX: u32 = 64;

#[derive(Debug)]
enum Stage {
    /// Planned upon a snapshot; the commit is on its way to the disk.
    Writing(Box<Planned>),
    /// Durable; the answer has not been given.
    Durable(Vec<Refusal>),
}

#[derive(Debug)]
struct Busy {
    pending: Pending,
    stage: Stage,
    plans: u32,
}

/// What a step of keeping led to.
#[derive(Debug)]
pub(crate) enum Progress {
    /// Nothing is being kept.
    Idle,
    /// The next step is due after a while.
    Working,
    /// The answer may go out.
    Answered,
    /// It never became quiet enough to write.
    Starved,
}

/// The messages of one peer that wait to be kept.
#[derive(Debug, Default)]
pub(crate) struct Keeper {
    inbox: VecDeque<Response>,
    busy: Option<Busy>,
}

impl Keeper {
    pub(crate) fn receive(&mut self, response: Response) {
        self.inbox.push_back(response);
    }

    pub(crate) fn waiting(&self) -> usize {
        self.inbox.len()
    }

    pub(crate) const fn is_busy(&self) -> bool {
        self.busy.is_some()
    }

    /// Begins with the next message, if none is being kept.
    pub(crate) fn start(&mut self, subscriber: &mut Subscriber, store: &MemoryStore) -> Progress {
        if self.busy.is_some() {
            return Progress::Idle;
        }
        while let Some(response) = self.inbox.pop_front() {
            if let Some(pending) = subscriber.handle_response(response) {
                let planned = subscriber.plan(&pending, &store.snapshot());
                if mutant!(AckBeforeKept) {
                    subscriber.applied(&pending, planned.refused.clone());
                }
                self.busy = Some(Busy {
                    pending,
                    stage: Stage::Writing(Box::new(planned)),
                    plans: 1,
                });
                return Progress::Working;
            }
        }
        Progress::Idle
    }

    /// Takes the next step.
    pub(crate) fn step(&mut self, subscriber: &mut Subscriber, store: &MemoryStore) -> Progress {
        let Some(mut busy) = self.busy.take() else {
            return Progress::Idle;
        };
        match busy.stage {
            Stage::Writing(planned) => {
                let Planned { batch, refused, .. } = *planned;
                let written = if batch.is_empty() {
                    Ok(())
                } else {
                    store.commit_now(batch).map(drop)
                };
                match written {
                    Ok(()) => busy.stage = Stage::Durable(refused),
                    Err(_) if mutant!(OvertakenBatchDropped) => {
                        busy.stage = Stage::Durable(refused);
                    }
                    Err(StoreError::Conflict { .. }) if busy.plans < PLANS_MAX => {
                        busy.plans += 1;
                        let planned = subscriber.plan(&busy.pending, &store.snapshot());
                        busy.stage = Stage::Writing(Box::new(planned));
                    }
                    Err(_) => return Progress::Starved,
                }
                self.busy = Some(busy);
                Progress::Working
            }
            Stage::Durable(refused) if mutant!(RefusalEndsStream) && !refused.is_empty() => {
                Progress::Starved
            }
            Stage::Durable(refused) => {
                subscriber.applied(&busy.pending, refused);
                Progress::Answered
            }
        }
    }
}
