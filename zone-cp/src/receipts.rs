//! Which proxies a revision concerned, and which of them use it by now.
//!
//! A plain ledger: the view engine says what it computed, the streams say what their proxies answered, and whoever waits
//! for a revision reads the sum. A proxy whose configuration a revision did not change was never outstanding for it.

use std::collections::{BTreeMap, BTreeSet, VecDeque};

use jiff::Timestamp;
use zonal_mutants::mutant;
use zonal_store::Revision;

use crate::proxy::ProxyId;

/// How many computed steps are remembered; older revisions are answered from the oldest step kept.
const STEPS_MAX: usize = 4096;

/// A proxy that refused what a revision made of its configuration.
#[derive(Clone, Debug, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Nack {
    /// Mesh of the proxy.
    pub mesh: String,
    /// Name of the proxy.
    pub proxy: String,
    /// The kind of Envoy resource it refused, as a type URL.
    pub type_url: String,
    /// What the proxy said.
    pub reason: String,
}

/// What is known about one revision in this zone.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Receipt {
    /// The local revision asked for.
    pub revision: Revision,
    /// Whether the configurations that reflect it have been computed.
    pub computed: bool,
    /// Proxies connected now.
    pub total: usize,
    /// Proxies whose configuration it changed.
    pub affected: usize,
    /// Affected proxies that use it, or something newer.
    pub acked: usize,
    /// Affected proxies that refused it and hold something older.
    pub nacks: Vec<Nack>,
    /// Affected proxies that went away before they answered.
    pub offline: usize,
    /// Since when nobody is outstanding; `None` while somebody is.
    pub converged_at: Option<Timestamp>,
}

#[derive(Debug)]
struct Step {
    /// The step covers the revisions after the previous step's up to this one.
    up_to: Revision,
    affected: BTreeSet<ProxyId>,
    outstanding: BTreeSet<ProxyId>,
    offline: BTreeSet<ProxyId>,
    nacks: BTreeMap<ProxyId, (String, String)>,
    converged_at: Option<Timestamp>,
}

impl Step {
    fn settle(&mut self, now: Timestamp) {
        if self.outstanding.is_empty() && self.nacks.is_empty() && self.converged_at.is_none() {
            self.converged_at = Some(now);
        }
    }
}

/// Remembers, for the latest steps, who was concerned and who has answered.
///
/// Memory: at most [`STEPS_MAX`] steps, each as large as the number of proxies that have not answered it.
#[derive(Debug, Default)]
pub struct Ledger {
    steps: VecDeque<Step>,
    connected: BTreeSet<ProxyId>,
}

impl Ledger {
    /// A proxy's stream is there and will get the newest configuration. What it had not answered before it went away,
    /// it has still to answer.
    pub fn connected(&mut self, proxy: ProxyId) {
        for step in &mut self.steps {
            if step.offline.remove(&proxy) && !mutant!(BackCountsAsAnswered) {
                step.outstanding.insert(proxy.clone());
                step.converged_at = None;
            }
        }
        self.connected.insert(proxy);
    }

    /// A proxy's stream is gone: nobody waits for its answer any longer.
    pub fn disconnected(&mut self, proxy: &ProxyId, now: Timestamp) {
        self.connected.remove(proxy);
        for step in &mut self.steps {
            let was_outstanding = step.outstanding.remove(proxy);
            let was_nacked = step.nacks.remove(proxy).is_some();
            if was_outstanding || was_nacked {
                step.offline.insert(proxy.clone());
                step.settle(now);
            }
        }
    }

    /// The configurations that reflect everything up to `up_to` are computed and handed to the streams; `affected`
    /// are the proxies whose configuration differs from the one before.
    pub fn computed(
        &mut self,
        up_to: Revision,
        affected: impl IntoIterator<Item = ProxyId>,
        now: Timestamp,
    ) {
        let outstanding: BTreeSet<ProxyId> = affected
            .into_iter()
            .filter(|proxy| self.connected.contains(proxy))
            .collect();
        if let Some(last) = self.steps.back_mut()
            && last.up_to >= up_to
        {
            // The same revision again: a certificate was renewed, a proxy's own state changed.
            last.affected.extend(outstanding.iter().cloned());
            last.outstanding.extend(outstanding);
            return;
        }
        let mut step = Step {
            up_to,
            affected: outstanding.clone(),
            outstanding,
            offline: BTreeSet::new(),
            nacks: BTreeMap::new(),
            converged_at: None,
        };
        step.settle(now);
        self.steps.push_back(step);
        if self.steps.len() > STEPS_MAX {
            self.steps.pop_front();
        }
    }

    /// A proxy has answered all of the configuration that reflects `reflects`. While it still refuses something of it,
    /// what it refused stays on record; the rest it uses.
    pub fn acked(
        &mut self,
        proxy: &ProxyId,
        reflects: Revision,
        still_refuses: bool,
        now: Timestamp,
    ) {
        for step in self
            .steps
            .iter_mut()
            .take_while(|step| step.up_to <= reflects)
        {
            let refuses = still_refuses && !mutant!(RefusalCountsAsUse);
            let forgiven = !refuses && step.nacks.remove(proxy).is_some();
            if step.outstanding.remove(proxy) | forgiven {
                step.settle(now);
            }
        }
    }

    /// A proxy refused a part of the configuration that reflects `reflects`, and nothing newer.
    pub fn nacked(&mut self, proxy: &ProxyId, reflects: Revision, type_url: &str, reason: &str) {
        for step in self
            .steps
            .iter_mut()
            .take_while(|step| step.up_to <= reflects)
        {
            if step.outstanding.remove(proxy) || step.nacks.contains_key(proxy) {
                step.nacks
                    .insert(proxy.clone(), (type_url.to_owned(), reason.to_owned()));
                step.converged_at = None;
            }
        }
    }

    /// What is known about the revisions after `after` up to `up_to`. They are in use only when everything before them
    /// is, since a configuration reflects all of it; counted as affected are the proxies that they changed themselves.
    #[must_use]
    pub fn receipt(&self, after: Revision, up_to: Revision) -> Receipt {
        let last = self.steps.partition_point(|step| step.up_to < up_to);
        let mut receipt = Receipt {
            revision: up_to,
            computed: last < self.steps.len(),
            total: self.connected.len(),
            affected: 0,
            acked: 0,
            nacks: Vec::new(),
            offline: 0,
            converged_at: None,
        };
        if !receipt.computed {
            return receipt;
        }
        let mut affected = BTreeSet::new();
        let mut waiting = BTreeSet::new();
        let mut offline = BTreeSet::new();
        let mut nacks = BTreeMap::new();
        for (index, step) in self.steps.iter().take(last + 1).enumerate() {
            waiting.extend(&step.outstanding);
            // Without a step of its own a revision is in use since the step before it is.
            if index == last {
                receipt.converged_at = receipt.converged_at.max(step.converged_at);
            }
            if step.up_to > after {
                affected.extend(&step.affected);
                offline.extend(&step.offline);
                nacks.extend(&step.nacks);
                receipt.converged_at = receipt.converged_at.max(step.converged_at);
            }
        }
        if !waiting.is_empty() || !nacks.is_empty() {
            receipt.converged_at = None;
        }
        receipt.affected = affected.len();
        receipt.acked = affected
            .iter()
            .filter(|id| {
                !waiting.contains(*id) && !nacks.contains_key(*id) && !offline.contains(*id)
            })
            .count();
        receipt.offline = offline.len();
        receipt.nacks = nacks
            .into_iter()
            .map(|(proxy, (type_url, reason))| Nack {
                mesh: proxy.mesh.to_string(),
                proxy: proxy.name.to_string(),
                type_url: type_url.clone(),
                reason: reason.clone(),
            })
            .collect();
        receipt
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(name: &str) -> ProxyId {
        ProxyId::new("default", name)
    }

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(second).unwrap()
    }

    /// Of one revision.
    fn of(ledger: &Ledger, revision: u64) -> Receipt {
        ledger.receipt(Revision(revision - 1), Revision(revision))
    }

    fn ledger(names: &[&str]) -> Ledger {
        let mut ledger = Ledger::default();
        for name in names {
            ledger.connected(id(name));
        }
        ledger
    }

    #[test]
    fn a_revision_that_changes_no_proxy_converges_at_once() {
        let mut ledger = ledger(&["web", "api"]);
        ledger.computed(Revision(7), [], at(1));
        let receipt = of(&ledger, 7);
        assert_eq!((receipt.total, receipt.affected, receipt.acked), (2, 0, 0));
        assert_eq!(receipt.converged_at, Some(at(1)));
    }

    #[test]
    fn it_converges_with_the_last_affected_proxy_and_not_before() {
        let mut ledger = ledger(&["web", "api", "db"]);
        ledger.computed(Revision(7), [id("web"), id("api")], at(1));
        ledger.acked(&id("web"), Revision(7), false, at(2));
        assert_eq!(of(&ledger, 7).converged_at, None);
        assert_eq!(of(&ledger, 7).acked, 1);
        ledger.acked(&id("api"), Revision(7), false, at(3));
        assert_eq!(of(&ledger, 7).converged_at, Some(at(3)));
    }

    #[test]
    fn an_ack_of_something_newer_counts_for_what_came_before() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.computed(Revision(9), [id("web")], at(2));
        ledger.acked(&id("web"), Revision(9), false, at(3));
        assert_eq!(of(&ledger, 7).acked, 1);
        // A revision between two steps is part of the later one.
        assert_eq!(of(&ledger, 8).converged_at, Some(at(3)));
    }

    #[test]
    fn an_ack_of_something_older_says_nothing_about_the_newer() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.computed(Revision(9), [id("web")], at(2));
        ledger.acked(&id("web"), Revision(7), false, at(3));
        assert_eq!(of(&ledger, 9).acked, 0);
        assert_eq!(of(&ledger, 9).converged_at, None);
    }

    #[test]
    fn a_refusal_names_proxy_and_reason_until_something_newer_is_in_use() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.nacked(&id("web"), Revision(7), "listener", "bad route");
        let receipt = of(&ledger, 7);
        assert_eq!(receipt.nacks.len(), 1);
        assert_eq!(receipt.converged_at, None);
        ledger.computed(Revision(8), [id("web")], at(2));
        ledger.acked(&id("web"), Revision(8), false, at(3));
        assert!(of(&ledger, 7).nacks.is_empty());
    }

    #[test]
    fn a_proxy_that_went_away_is_offline_and_not_waited_for() {
        let mut ledger = ledger(&["web", "api"]);
        ledger.computed(Revision(7), [id("web"), id("api")], at(1));
        ledger.acked(&id("api"), Revision(7), false, at(2));
        ledger.disconnected(&id("web"), at(4));
        let receipt = of(&ledger, 7);
        assert_eq!((receipt.acked, receipt.offline), (1, 1));
        assert_eq!(receipt.converged_at, Some(at(4)));
    }

    #[test]
    fn an_answer_does_not_forgive_what_is_still_refused() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.nacked(&id("web"), Revision(7), "listener", "bad route");
        ledger.acked(&id("web"), Revision(7), true, at(2));
        assert_eq!(of(&ledger, 7).nacks.len(), 1);
        assert_eq!(of(&ledger, 7).converged_at, None);
        // What came later and was taken is in use, whatever else is refused.
        ledger.computed(Revision(8), [id("web")], at(3));
        ledger.acked(&id("web"), Revision(8), true, at(4));
        assert_eq!(of(&ledger, 8).converged_at, Some(at(4)));
        assert_eq!(of(&ledger, 7).acked, 0);
    }

    #[test]
    fn a_proxy_that_comes_back_has_not_answered_yet() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.disconnected(&id("web"), at(2));
        ledger.connected(id("web"));
        let receipt = of(&ledger, 7);
        assert_eq!((receipt.acked, receipt.offline), (0, 0));
        assert_eq!(receipt.converged_at, None);
        ledger.acked(&id("web"), Revision(7), false, at(3));
        assert_eq!(of(&ledger, 7).converged_at, Some(at(3)));
    }

    #[test]
    fn a_revision_not_computed_yet_is_not_converged() {
        let mut ledger = ledger(&["web"]);
        ledger.computed(Revision(7), [], at(1));
        let receipt = of(&ledger, 8);
        assert!(!receipt.computed);
        assert_eq!(receipt.converged_at, None);
    }

    #[test]
    fn a_later_revision_that_changes_nobody_waits_for_what_came_before() {
        let mut ledger = ledger(&["web", "api"]);
        ledger.computed(Revision(7), [id("web")], at(1));
        ledger.computed(Revision(8), [], at(2));
        assert_eq!(of(&ledger, 8).affected, 0);
        assert_eq!(of(&ledger, 8).converged_at, None);
        let both = ledger.receipt(Revision(6), Revision(8));
        assert_eq!((both.affected, both.acked), (1, 0));
        ledger.acked(&id("web"), Revision(8), false, at(3));
        assert_eq!(ledger.receipt(Revision(6), Revision(8)).acked, 1);
        assert_eq!(
            ledger.receipt(Revision(6), Revision(8)).converged_at,
            Some(at(3))
        );
    }
}
