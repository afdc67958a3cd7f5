//! Keeps the control plane informed about the inbounds.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tracing::{debug, warn};
use zonal_process::{Backoff, BackoffPolicy, CancellationToken, Clock};

use crate::control_plane::{CallError, ControlPlane, HealthReport};
use crate::probe::{State, States};

/// How often an unchanged report is sent again, so that a control plane that lost it learns.
const REPEAT_INTERVAL: Duration = Duration::from_secs(30);

/// What the control plane should hear: a workload is ready only behind an Envoy that is. `None` while not every
/// workload was probed once.
pub fn compose(states: &States, envoy_ready: bool) -> Option<BTreeMap<u16, State>> {
    states
        .iter()
        .map(|(port, state)| {
            let state = if envoy_ready {
                (*state)?
            } else {
                State::NotReady
            };
            Some((*port, state))
        })
        .collect()
}

/// Whom the reports are about, and where their parts come from.
#[derive(Debug)]
pub struct Reporter {
    pub mesh: String,
    pub name: String,
    pub control_plane: ControlPlane,
    pub clock: Arc<dyn Clock>,
    pub states: watch::Receiver<States>,
    pub envoy_ready: watch::Receiver<bool>,
    /// Becomes true with the first bootstrap: before, the control plane does not know the proxy.
    pub registered: watch::Receiver<bool>,
    /// The newest failure to report, for the status page.
    pub failure: watch::Sender<Option<String>>,
}

impl Reporter {
    /// Reports until `stop`: at once on a change, again after a while, with back-off while nobody listens.
    pub async fn run(mut self, stop: CancellationToken) {
        let registered = tokio::select! {
            () = stop.cancelled() => return,
            registered = self.registered.wait_for(|registered| *registered) => registered.is_ok(),
        };
        if !registered {
            return;
        }
        let policy = BackoffPolicy {
            ceiling: REPEAT_INTERVAL / 3,
            ..BackoffPolicy::default()
        };
        let mut backoff = Backoff::new(policy);
        let mut accepted: Option<BTreeMap<u16, State>> = None;
        let mut repeat_at = None;
        loop {
            let wanted = compose(
                &self.states.borrow_and_update(),
                *self.envoy_ready.borrow_and_update(),
            )
            .filter(|inbounds| !inbounds.is_empty());
            let is_news = wanted.is_some() && wanted != accepted;
            let is_due = repeat_at.is_some_and(|at| self.clock.now() >= at);
            let inbounds = match wanted {
                Some(inbounds) if is_news || is_due => inbounds,
                // Nothing to say: the next change or repetition wakes us.
                _ => {
                    tokio::select! {
                        () = stop.cancelled() => return,
                        changed = self.states.changed() => if changed.is_err() { return },
                        changed = self.envoy_ready.changed() => if changed.is_err() { return },
                        () = self.clock.sleep_until(repeat_at) => {}
                    }
                    continue;
                }
            };
            let sent = tokio::select! {
                () = stop.cancelled() => return,
                sent = self.send(&inbounds) => sent,
            };
            if sent {
                accepted = Some(inbounds);
                repeat_at = Some(self.clock.now() + REPEAT_INTERVAL);
                backoff.reset();
            } else {
                accepted = None;
                let retry_at = self.clock.now() + backoff.next_delay(Duration::ZERO);
                // A change, such as Envoy becoming ready and thereby registered, is worth trying at once.
                tokio::select! {
                    () = stop.cancelled() => return,
                    changed = self.states.changed() => if changed.is_err() { return },
                    changed = self.envoy_ready.changed() => if changed.is_err() { return },
                    () = self.clock.sleep_until(Some(retry_at)) => {}
                }
            }
        }
    }

    async fn send(&self, inbounds: &BTreeMap<u16, State>) -> bool {
        let report = HealthReport {
            mesh: self.mesh.clone(),
            name: self.name.clone(),
            inbounds: inbounds.clone(),
        };
        match self.control_plane.report_health(&report).await {
            Ok(()) => {
                debug!(?inbounds, "reported how the workload stands");
                self.failure.send_replace(None);
                true
            }
            Err(error) => {
                let text = error.to_string();
                // Said on the first occurrence and on change; it repeats while the control plane is away.
                if matches!(error, CallError::Unknown) {
                    // Until its Envoy's stream brings the Dataplane, which is a moment after the start.
                    debug!("the control plane does not know the proxy yet");
                } else if self.failure.borrow().as_ref() != Some(&text) {
                    warn!(%error, "could not report how the workload stands; trying again");
                }
                self.failure.send_replace(Some(text));
                false
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn workload_is_ready_only_behind_a_ready_envoy() {
        let states = States::from([(80, Some(State::Ready)), (81, Some(State::NotReady))]);
        let want = BTreeMap::from([(80, State::Ready), (81, State::NotReady)]);
        assert_eq!(compose(&states, true), Some(want));
        let none = BTreeMap::from([(80, State::NotReady), (81, State::NotReady)]);
        assert_eq!(compose(&states, false), Some(none));
        let unknown = States::from([(80, None)]);
        assert_eq!(compose(&unknown, true), None);
    }
}
