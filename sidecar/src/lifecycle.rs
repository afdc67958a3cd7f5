//! What happens next: the core that decides when Envoy is configured, started, drained and stopped.
//!
//! ```text
//! Bootstrapping ─▶ Running ─exit─▶ Waiting ─▶ Refreshing ─▶ Running …
//!                     │ stop
//!                     ▼
//!   Announcing (callers leave) ─▶ Draining ─▶ Terminating ─▶ Leaving ─▶ Done
//! ```

use std::time::{Duration, Instant};

use zonal_process::{Backoff, BackoffPolicy};

/// How long callers may take to leave; the control plane answers earlier when they did.
const ANNOUNCE_TIMEOUT: Duration = Duration::from_secs(6);
/// How long connections that were under way when the callers left may take to arrive.
const SETTLE_TIME: Duration = Duration::from_millis(300);
/// How often connections are counted while draining.
const COUNT_INTERVAL: Duration = Duration::from_millis(100);
/// How long Envoy may take to end after SIGTERM.
const TERMINATE_TIMEOUT: Duration = Duration::from_secs(5);
/// How long deregistration may take.
const LEAVE_TIMEOUT: Duration = Duration::from_secs(3);

/// Something that happened.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Input {
    /// The bootstrap is written.
    BootstrapReady,
    /// There is no bootstrap. `fatal` says that asking again cannot help.
    BootstrapFailed {
        fatal: Option<String>,
    },
    /// Envoy cannot be run at all.
    EnvoyUnusable(String),
    EnvoyExited,
    /// SIGTERM, or whoever runs us wants us gone.
    StopRequested,
    /// The control plane was told that we go. `agreed`: every caller it knows has left.
    Announced {
        agreed: bool,
    },
    /// Connections from callers still open; `None` when Envoy did not say.
    Connections(Option<u64>),
    /// The control plane forgot us, or could not be told.
    Left,
    /// The time of [`Lifecycle::next_timeout`] came.
    Timeout,
}

/// Something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Ask for a bootstrap and write it.
    Bootstrap,
    StartEnvoy,
    /// Tell the control plane that we go, so that callers leave first.
    Announce,
    /// Tell Envoy to finish what runs.
    StartDraining,
    CountConnections,
    /// SIGTERM.
    Terminate,
    /// SIGKILL.
    Kill,
    /// Deregister.
    Leave,
}

/// How the sidecar ends.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Ending {
    /// It was asked to stop, and did.
    Stopped,
    /// It cannot do its work.
    Failed(String),
}

/// Where the sidecar stands.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Phase {
    /// The first bootstrap is being asked for.
    Bootstrapping,
    /// It could not be had; it is asked for again then.
    Unconfigured {
        retry_at: Instant,
    },
    Running {
        since: Instant,
    },
    /// Envoy died and is started again then.
    Waiting {
        restart_at: Instant,
    },
    /// A fresh bootstrap is asked for before the restart; the old one does too.
    Refreshing,
    Announcing {
        deadline: Instant,
    },
    Draining {
        deadline: Instant,
        count_at: Option<Instant>,
        callers_left: bool,
    },
    /// Envoy was told to end; `None` when it was killed and only its exit is awaited.
    Terminating {
        kill_at: Option<Instant>,
    },
    Leaving {
        deadline: Instant,
    },
    Done(Ending),
}

impl Phase {
    /// The phase's name, for people.
    pub const fn name(&self) -> &'static str {
        match self {
            Self::Bootstrapping => "bootstrapping",
            Self::Unconfigured { .. } => "unconfigured",
            Self::Running { .. } => "running",
            Self::Waiting { .. } => "waiting",
            Self::Refreshing => "refreshing",
            Self::Announcing { .. } => "announcing",
            Self::Draining { .. } => "draining",
            Self::Terminating { .. } => "terminating",
            Self::Leaving { .. } => "leaving",
            Self::Done(_) => "done",
        }
    }
}

/// The life of one sidecar. Callers are always told before Envoy stops, and Envoy always ends before we leave.
#[derive(Debug)]
pub struct Lifecycle {
    phase: Phase,
    drain: Duration,
    restart: Backoff,
    retry: Backoff,
    restarts: u64,
}

impl Lifecycle {
    /// A sidecar about to start, and the first thing to do.
    pub fn start(drain: Duration, seed: u64) -> (Self, Action) {
        let restart = BackoffPolicy {
            first: Duration::from_millis(200),
            ceiling: Duration::from_secs(15),
            ..BackoffPolicy::default()
        };
        let retry = BackoffPolicy {
            first: Duration::from_millis(100),
            ceiling: Duration::from_secs(3),
            ..BackoffPolicy::default()
        };
        let lifecycle = Self {
            phase: Phase::Bootstrapping,
            drain,
            restart: Backoff::seeded(restart, seed),
            retry: Backoff::seeded(retry, seed.wrapping_add(1)),
            restarts: 0,
        };
        (lifecycle, Action::Bootstrap)
    }

    pub const fn phase(&self) -> &Phase {
        &self.phase
    }

    /// How often Envoy was started again.
    pub const fn restarts(&self) -> u64 {
        self.restarts
    }

    /// Whether the end has begun: no new work should be sent here.
    pub const fn is_ending(&self) -> bool {
        matches!(
            self.phase,
            Phase::Announcing { .. }
                | Phase::Draining { .. }
                | Phase::Terminating { .. }
                | Phase::Leaving { .. }
                | Phase::Done(_)
        )
    }

    /// When to come back with [`Input::Timeout`] if nothing else happens.
    pub fn next_timeout(&self) -> Option<Instant> {
        match &self.phase {
            Phase::Unconfigured { retry_at } => Some(*retry_at),
            Phase::Waiting { restart_at } => Some(*restart_at),
            Phase::Announcing { deadline } | Phase::Leaving { deadline } => Some(*deadline),
            Phase::Draining {
                deadline, count_at, ..
            } => Some(count_at.map_or(*deadline, |at| at.min(*deadline))),
            Phase::Terminating { kill_at } => *kill_at,
            Phase::Bootstrapping | Phase::Running { .. } | Phase::Refreshing | Phase::Done(_) => {
                None
            }
        }
    }

    /// Takes one input and says what to do, in order.
    pub fn handle(&mut self, now: Instant, input: Input) -> Vec<Action> {
        let phase = std::mem::replace(&mut self.phase, Phase::Done(Ending::Stopped));
        let (phase, actions) = self.next(phase, now, input);
        self.phase = phase;
        actions
    }

    fn next(&mut self, phase: Phase, now: Instant, input: Input) -> (Phase, Vec<Action>) {
        match (phase, input) {
            (done @ Phase::Done(_), _) => (done, vec![]),

            (_, Input::EnvoyUnusable(reason)) => (Phase::Done(Ending::Failed(reason)), vec![]),

            // Getting configured.
            (Phase::Bootstrapping, Input::BootstrapReady)
            | (
                Phase::Refreshing,
                // The old bootstrap still serves when the control plane is away.
                Input::BootstrapReady | Input::BootstrapFailed { .. },
            ) => (Phase::Running { since: now }, vec![Action::StartEnvoy]),
            (
                Phase::Bootstrapping,
                Input::BootstrapFailed {
                    fatal: Some(reason),
                },
            ) => (Phase::Done(Ending::Failed(reason)), vec![]),
            (Phase::Bootstrapping, Input::BootstrapFailed { fatal: None }) => {
                let retry_at = now + self.retry.next_delay(Duration::ZERO);
                (Phase::Unconfigured { retry_at }, vec![])
            }
            (Phase::Unconfigured { retry_at }, Input::Timeout) if now >= retry_at => {
                (Phase::Bootstrapping, vec![Action::Bootstrap])
            }

            // Keeping it running.
            (Phase::Running { since }, Input::EnvoyExited) => {
                self.restarts += 1;
                let delay = self
                    .restart
                    .next_delay(now.saturating_duration_since(since));
                (
                    Phase::Waiting {
                        restart_at: now + delay,
                    },
                    vec![],
                )
            }
            (Phase::Waiting { restart_at }, Input::Timeout) if now >= restart_at => {
                (Phase::Refreshing, vec![Action::Bootstrap])
            }

            // Ending.
            (Phase::Running { .. }, Input::StopRequested) => (
                Phase::Announcing {
                    deadline: now + ANNOUNCE_TIMEOUT,
                },
                vec![Action::Announce],
            ),
            (
                Phase::Bootstrapping
                | Phase::Unconfigured { .. }
                | Phase::Waiting { .. }
                | Phase::Refreshing,
                Input::StopRequested,
            ) => self.leave(now),
            (Phase::Announcing { .. }, Input::Announced { agreed }) => self.drain(now, agreed),
            (Phase::Announcing { deadline }, Input::Timeout) if now >= deadline => {
                self.drain(now, false)
            }
            (Phase::Draining { deadline, .. }, Input::Timeout) if now >= deadline => {
                Self::terminate(now)
            }
            (
                Phase::Draining {
                    deadline,
                    count_at: Some(at),
                    callers_left,
                },
                Input::Timeout,
            ) if now >= at => {
                let phase = Phase::Draining {
                    deadline,
                    count_at: None,
                    callers_left,
                };
                (phase, vec![Action::CountConnections])
            }
            // Without callers and connections there is nothing to wait for. When callers could not be told, the
            // whole drain time is theirs.
            (
                Phase::Draining {
                    callers_left: true, ..
                },
                Input::Connections(Some(0)),
            ) => Self::terminate(now),
            (
                Phase::Draining {
                    deadline,
                    callers_left,
                    ..
                },
                Input::Connections(_),
            ) => {
                let count_at = Some(now + COUNT_INTERVAL);
                (
                    Phase::Draining {
                        deadline,
                        count_at,
                        callers_left,
                    },
                    vec![],
                )
            }
            (Phase::Terminating { kill_at: Some(at) }, Input::Timeout) if now >= at => {
                (Phase::Terminating { kill_at: None }, vec![Action::Kill])
            }
            (
                Phase::Announcing { .. } | Phase::Draining { .. } | Phase::Terminating { .. },
                Input::EnvoyExited,
            ) => self.leave(now),
            (Phase::Leaving { .. }, Input::Left) => (Phase::Done(Ending::Stopped), vec![]),
            (Phase::Leaving { deadline }, Input::Timeout) if now >= deadline => {
                (Phase::Done(Ending::Stopped), vec![])
            }

            // Late answers, early wake-ups and a second stop change nothing.
            (
                phase,
                Input::BootstrapReady
                | Input::BootstrapFailed { .. }
                | Input::EnvoyExited
                | Input::StopRequested
                | Input::Announced { .. }
                | Input::Connections(_)
                | Input::Left
                | Input::Timeout,
            ) => (phase, vec![]),
        }
    }

    fn drain(&self, now: Instant, callers_left: bool) -> (Phase, Vec<Action>) {
        let phase = Phase::Draining {
            deadline: now + self.drain,
            count_at: Some(now + SETTLE_TIME),
            callers_left,
        };
        (phase, vec![Action::StartDraining])
    }

    fn terminate(now: Instant) -> (Phase, Vec<Action>) {
        (
            Phase::Terminating {
                kill_at: Some(now + TERMINATE_TIMEOUT),
            },
            vec![Action::Terminate],
        )
    }

    #[expect(clippy::unused_self, reason = "reads as one of the transitions")]
    fn leave(&self, now: Instant) -> (Phase, Vec<Action>) {
        (
            Phase::Leaving {
                deadline: now + LEAVE_TIMEOUT,
            },
            vec![Action::Leave],
        )
    }
}

#[cfg(test)]
mod tests {
    use zonal_process::{Clock, RealClock};

    use super::*;

    struct World {
        lifecycle: Lifecycle,
        now: Instant,
    }

    impl World {
        fn new() -> Self {
            let (lifecycle, first) = Lifecycle::start(Duration::from_secs(30), 7);
            assert_eq!(first, Action::Bootstrap);
            Self {
                lifecycle,
                now: RealClock.now(),
            }
        }

        fn running() -> Self {
            let mut world = Self::new();
            assert_eq!(world.input(Input::BootstrapReady), [Action::StartEnvoy]);
            world
        }

        fn input(&mut self, input: Input) -> Vec<Action> {
            self.lifecycle.handle(self.now, input)
        }

        fn after(&mut self, wait: Duration) -> Vec<Action> {
            self.now += wait;
            self.input(Input::Timeout)
        }

        fn at_timeout(&mut self) -> Vec<Action> {
            self.now = self.lifecycle.next_timeout().expect("something is awaited");
            self.input(Input::Timeout)
        }
    }

    #[test]
    fn control_plane_that_is_away_is_asked_again() {
        let mut world = World::new();
        for _ in 0..20 {
            assert_eq!(world.input(Input::BootstrapFailed { fatal: None }), []);
            let wait = world.lifecycle.next_timeout().unwrap() - world.now;
            assert!(wait <= Duration::from_secs(3), "{wait:?}");
            assert_eq!(world.at_timeout(), [Action::Bootstrap]);
        }
        assert_eq!(world.input(Input::BootstrapReady), [Action::StartEnvoy]);
    }

    #[test]
    fn refusal_ends_the_first_start_only() {
        let refusal = || Input::BootstrapFailed {
            fatal: Some("token is expired".to_owned()),
        };
        let mut world = World::new();
        world.input(refusal());
        let ending = Ending::Failed("token is expired".to_owned());
        assert_eq!(world.lifecycle.phase(), &Phase::Done(ending));

        let mut world = World::running();
        world.input(Input::EnvoyExited);
        assert_eq!(world.at_timeout(), [Action::Bootstrap]);
        assert_eq!(
            world.input(refusal()),
            [Action::StartEnvoy],
            "the old bootstrap serves"
        );
    }

    #[test]
    fn dead_envoy_is_started_again_and_waits_grow() {
        let mut world = World::running();
        let mut longest = Duration::ZERO;
        for _ in 0..12 {
            assert_eq!(world.input(Input::EnvoyExited), []);
            longest = longest.max(world.lifecycle.next_timeout().unwrap() - world.now);
            assert_eq!(world.at_timeout(), [Action::Bootstrap]);
            assert_eq!(world.input(Input::BootstrapReady), [Action::StartEnvoy]);
        }
        assert!(longest > Duration::from_secs(5), "{longest:?}");
        world.now += Duration::from_secs(60);
        world.input(Input::EnvoyExited);
        let wait = world.lifecycle.next_timeout().unwrap() - world.now;
        assert!(
            wait <= Duration::from_millis(200),
            "it had been healthy: {wait:?}"
        );
        assert_eq!(world.lifecycle.restarts(), 13);
    }

    #[test]
    fn stop_tells_callers_first_and_ends_when_they_are_gone() {
        let mut world = World::running();
        assert_eq!(world.input(Input::StopRequested), [Action::Announce]);
        assert_eq!(world.input(Input::StopRequested), []);
        assert_eq!(
            world.input(Input::Announced { agreed: true }),
            [Action::StartDraining]
        );
        assert_eq!(
            world.after(Duration::ZERO),
            [],
            "a last connection may be on its way"
        );
        assert_eq!(world.at_timeout(), [Action::CountConnections]);
        assert_eq!(world.input(Input::Connections(Some(2))), []);
        assert_eq!(world.at_timeout(), [Action::CountConnections]);
        assert_eq!(
            world.input(Input::Connections(Some(0))),
            [Action::Terminate]
        );
        assert_eq!(world.input(Input::EnvoyExited), [Action::Leave]);
        assert_eq!(world.input(Input::Left), []);
        assert_eq!(world.lifecycle.phase(), &Phase::Done(Ending::Stopped));
    }

    #[test]
    fn callers_that_could_not_be_told_get_the_whole_drain_time() {
        let mut world = World::running();
        world.input(Input::StopRequested);
        assert_eq!(world.at_timeout(), [Action::StartDraining]);
        let deadline = world.now + Duration::from_secs(30);
        while world.at_timeout() == [Action::CountConnections] {
            world.input(Input::Connections(Some(0)));
        }
        assert_eq!(world.now, deadline);
        assert!(matches!(world.lifecycle.phase(), Phase::Terminating { .. }));
    }

    #[test]
    fn deaf_envoy_is_killed_and_a_deaf_control_plane_does_not_hold_us() {
        let mut world = World::running();
        world.input(Input::StopRequested);
        world.input(Input::Announced { agreed: true });
        world.now += Duration::from_secs(30);
        assert_eq!(world.input(Input::Timeout), [Action::Terminate]);
        assert_eq!(world.at_timeout(), [Action::Kill]);
        assert_eq!(world.lifecycle.next_timeout(), None);
        assert_eq!(world.input(Input::EnvoyExited), [Action::Leave]);
        assert_eq!(world.at_timeout(), []);
        assert_eq!(world.lifecycle.phase(), &Phase::Done(Ending::Stopped));
    }

    #[test]
    fn stop_without_a_running_envoy_just_leaves() {
        let mut world = World::new();
        assert_eq!(world.input(Input::StopRequested), [Action::Leave]);
        assert_eq!(
            world.input(Input::BootstrapReady),
            [],
            "a late bootstrap starts nothing"
        );
        assert!(world.lifecycle.is_ending());
    }
}
