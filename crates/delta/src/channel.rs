//! One type on one stream, seen from the source: what was asked for, what was said, what is unanswered.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Instant;

use imbl::ordmap::DiffItem;
use zonal_mutants::mutant;

use crate::digest::{Buckets, Digest};
use crate::message::{Nack, Upsert};
use crate::name::{Entry, Name, Nonce, Offered, TypeUrl, Version};
use crate::settings::Settings;
use crate::source::Mark;

/// Which part of what is due a poll may take.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Which {
    All,
    Upserts,
    Removals,
}

/// Why a name is due.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Why {
    /// The offered set changed.
    Changed,
    /// The peer asked for it by name and waits for an answer, be it "there is none".
    Asked,
}

#[derive(Debug)]
struct InFlight {
    nonce: Nonce,
    sent: Vec<(Name, Version)>,
    /// Everything up to here is said once this is answered.
    mark: Option<Mark>,
    sent_at: Instant,
    stall_reported: bool,
}

#[derive(Debug)]
struct Refusal {
    version: Version,
    attempts: u32,
    retry_at: Instant,
}

/// What one poll of a channel gives; the source adds type and nonce.
#[derive(Debug)]
pub(crate) struct Portion {
    pub(crate) upserts: Vec<Upsert>,
    pub(crate) removals: Vec<Name>,
    pub(crate) more: bool,
    pub(crate) buckets: Option<Buckets>,
    mark: Option<Mark>,
}

/// What an answer meant.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Settled {
    /// Not the answer to what is in flight.
    Stale,
    Acked,
    /// The names that count as refused.
    Nacked(Vec<Name>),
}

#[derive(Debug)]
pub(crate) struct Channel {
    pub(crate) type_url: TypeUrl,
    /// What the peer should end up holding; `None` until its first full set is known, and nothing is sent before.
    offered: Option<Offered>,
    /// The offered map that was compared last: what the peer was told or will be told by `pending`.
    examined: Offered,
    /// Names to say, read from `examined` when their turn comes.
    pending: BTreeMap<Name, Why>,
    /// A set was cut by the byte limit and its rest is pending; a newer map waits until it is through.
    draining: bool,
    requested: bool,
    wildcard: bool,
    names: BTreeSet<Name>,
    /// What the peer said it holds, until it is compared.
    resume: Option<BTreeMap<Name, Version>>,
    owes_first: bool,
    /// To be said in the first response.
    buckets: Option<Buckets>,
    answered_once: bool,
    in_flight: Option<InFlight>,
    refused: BTreeMap<Name, Refusal>,
    absorbed: Mark,
    reached: Mark,
}

impl Channel {
    pub(crate) fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            offered: None,
            examined: Offered::new(),
            pending: BTreeMap::new(),
            draining: false,
            requested: false,
            wildcard: false,
            names: BTreeSet::new(),
            resume: None,
            owes_first: false,
            buckets: None,
            answered_once: false,
            in_flight: None,
            refused: BTreeMap::new(),
            absorbed: Mark::default(),
            reached: Mark::default(),
        }
    }

    pub(crate) fn set_offered(&mut self, offered: Offered) {
        self.offered = Some(offered);
    }

    pub(crate) fn offered(&self) -> Option<&Offered> {
        self.offered.as_ref()
    }

    pub(crate) fn offered_mut(&mut self) -> &mut Offered {
        self.offered.get_or_insert_with(Offered::new)
    }

    pub(crate) fn is_requested(&self) -> bool {
        self.requested
    }

    /// The names asked for one by one.
    pub(crate) fn names(&self) -> &BTreeSet<Name> {
        &self.names
    }

    pub(crate) fn is_wildcard(&self) -> bool {
        self.wildcard
    }

    /// Takes what a request says about interest; true when this was the first request of the type.
    pub(crate) fn subscribe(
        &mut self,
        subscribe: Vec<Name>,
        unsubscribe: &[Name],
        initial: BTreeMap<Name, Version>,
    ) -> bool {
        let first = !self.requested;
        self.requested = true;
        if first {
            // An empty first subscription is the older way to say `*`.
            self.wildcard = subscribe.is_empty() && unsubscribe.is_empty();
            self.resume = Some(initial);
        }
        for name in subscribe {
            if name.as_str() == "*" {
                if !self.wildcard && !first && self.offered.is_some() {
                    let everything = self.examined.keys().cloned();
                    self.pending
                        .extend(everything.map(|name| (name, Why::Changed)));
                }
                self.wildcard = true;
                continue;
            }
            // What the peer holds already, at the same version, needs no answer; that is compared later.
            let resumed = self
                .resume
                .as_ref()
                .is_some_and(|held| held.contains_key(&name));
            self.pending.insert(
                name.clone(),
                if resumed { Why::Changed } else { Why::Asked },
            );
            self.names.insert(name);
        }
        for name in unsubscribe {
            if name.as_str() == "*" {
                self.wildcard = false;
            } else {
                self.names.remove(name);
            }
        }
        if !unsubscribe.is_empty() && !self.wildcard {
            let names = &self.names;
            self.pending.retain(|name, _| names.contains(name));
            self.refused.retain(|name, _| names.contains(name));
        }
        if first {
            self.owes_first = self.wildcard && !mutant!(EmptySetNotSaid);
        }
        first
    }

    /// Takes an answer. `now` starts the wait of refused resources.
    pub(crate) fn answer(
        &mut self,
        now: Instant,
        nonce: &Nonce,
        nack: Option<&Nack>,
        settings: &Settings,
    ) -> Settled {
        let sent = match self.in_flight.take() {
            Some(sent) if sent.nonce == *nonce => sent,
            other => {
                self.in_flight = other;
                return Settled::Stale;
            }
        };
        self.answered_once = true;
        // What is gone, and whose removal is answered, is refused no more.
        let (examined, pending) = (&self.examined, &self.pending);
        self.refused
            .retain(|name, _| examined.contains_key(name) || pending.contains_key(name));
        if let Some(mark) = sent.mark {
            self.reached = mark;
        }
        let Some(nack) = nack else {
            for (name, _) in &sent.sent {
                self.refused.remove(name);
            }
            return Settled::Acked;
        };
        let mut names = Vec::new();
        for (name, version) in sent.sent {
            let named =
                nack.refused.is_empty() || nack.refused.iter().any(|refused| refused.name == name);
            if !named {
                self.refused.remove(&name);
                continue;
            }
            let attempts = match self.refused.get(&name) {
                Some(before) if before.version == version => before.attempts.saturating_add(1),
                _ => 0,
            };
            let delay = settings
                .retry_delay_min
                .saturating_mul(1_u32 << attempts.min(16))
                .min(settings.retry_delay_max);
            let delay = if mutant!(RefusedNeverRetried) {
                settings.retry_delay_max * 10_000
            } else {
                delay
            };
            names.push(name.clone());
            self.refused.insert(
                name,
                Refusal {
                    version,
                    attempts,
                    retry_at: now + delay,
                },
            );
        }
        Settled::Nacked(names)
    }

    /// Whether something is due that is not in flight yet.
    pub(crate) fn has_unsent_upserts(&self) -> bool {
        let Some(offered) = self.offered.as_ref().filter(|_| self.requested) else {
            return false;
        };
        self.owes_first
            || self.resume.is_some()
            || !self.examined.ptr_eq(offered)
            || self
                .pending
                .iter()
                .any(|(name, why)| *why == Why::Asked || self.examined.contains_key(name))
    }

    pub(crate) fn is_in_flight(&self) -> bool {
        self.in_flight.is_some()
    }

    /// What the newest response was made from.
    pub(crate) const fn absorbed(&self) -> Mark {
        self.absorbed
    }

    /// Whether something was refused, and what replaces it has not been taken.
    pub(crate) fn is_refused(&self) -> bool {
        !self.refused.is_empty()
    }

    /// Everything offered up to the returned mark was said and answered.
    pub(crate) fn reached(&self, current: Mark) -> Mark {
        if !self.requested {
            // A type the peer never asked for holds nobody up.
            return current;
        }
        let Some(offered) = &self.offered else {
            return self.reached;
        };
        let idle = self.in_flight.is_none()
            && !self.owes_first
            && self.resume.is_none()
            && self.pending.is_empty()
            && self.examined.ptr_eq(offered);
        if idle { current } else { self.reached }
    }

    /// Takes the part of what is due that fits, unless a response is unanswered or nothing differs.
    pub(crate) fn poll(
        &mut self,
        now: Instant,
        which: Which,
        current: Mark,
        settings: &Settings,
    ) -> Option<Portion> {
        let busy = self.in_flight.is_some() && !mutant!(TalksWithoutListening);
        if busy || !self.requested || self.offered.is_none() {
            return None;
        }
        self.absorb(now, current, settings);
        let whole = settings.first_response_whole && !self.answered_once;
        let bytes_max = if whole {
            usize::MAX
        } else {
            settings.response_bytes_max
        };
        let mut upserts = Vec::new();
        let mut removals = Vec::new();
        let mut bytes = 0_usize;
        let mut said = Vec::new();
        let mut more = false;
        for (name, why) in &self.pending {
            let entry = self.examined.get(name);
            let cost = 32 + name.as_str().len() + entry.map_or(0, |entry| entry.body.len() + 64);
            let skip = match (which, entry, why) {
                (Which::All, _, _)
                | (Which::Upserts, Some(_), _)
                | (Which::Upserts, None, Why::Asked)
                | (Which::Removals, None, _) => false,
                (Which::Upserts, None, Why::Changed) | (Which::Removals, Some(_), _) => true,
            };
            if skip {
                continue;
            }
            if bytes > 0 && bytes.saturating_add(cost) > bytes_max {
                more = true;
                break;
            }
            bytes = bytes.saturating_add(cost);
            said.push(name.clone());
            match entry {
                Some(entry) => upserts.push(upsert(name, entry)),
                None => removals.push(name.clone()),
            }
        }
        let owed = self.owes_first && which != Which::Removals;
        if said.is_empty() && !owed {
            if self.pending.is_empty() {
                self.reached = self.absorbed;
            }
            return None;
        }
        for name in &said {
            self.pending.remove(name);
        }
        // Removals held back for later never keep newer upserts waiting.
        self.draining = more && which != Which::Removals;
        if owed && !more {
            self.owes_first = false;
        }
        let mark = self.pending.is_empty().then_some(self.absorbed);
        Some(Portion {
            upserts,
            removals,
            more: more && settings.more_marked && !mutant!(PartLooksWhole),
            buckets: self.buckets.take(),
            mark,
        })
    }

    /// Notes that a portion went out under `nonce`.
    pub(crate) fn sent(&mut self, now: Instant, nonce: Nonce, portion: &Portion) {
        let sent: Vec<_> = portion
            .upserts
            .iter()
            .map(|u| (u.name.clone(), u.version.clone()))
            .collect();
        if mutant!(AnsweredWhenSent) {
            self.reached = portion.mark.unwrap_or(self.reached);
        }
        self.in_flight = Some(InFlight {
            nonce,
            sent,
            mark: portion.mark,
            sent_at: now,
            stall_reported: false,
        });
    }

    /// When the next retry or stall is due.
    pub(crate) fn next_timeout(&self, settings: &Settings) -> Option<Instant> {
        match &self.in_flight {
            Some(sent) if sent.stall_reported => None,
            Some(sent) => Some(sent.sent_at + settings.answer_timeout),
            None => self
                .refused
                .iter()
                .filter(|(name, refusal)| {
                    // What has changed since needs no retry: it is said as a change.
                    self.examined
                        .get(*name)
                        .is_some_and(|entry| entry.version == refusal.version)
                })
                .map(|(_, refusal)| refusal.retry_at)
                .min(),
        }
    }

    /// The time of sending, once, when what is in flight waits too long for its answer.
    pub(crate) fn newly_stalled(&mut self, now: Instant, settings: &Settings) -> Option<Instant> {
        let sent = self.in_flight.as_mut()?;
        if sent.stall_reported || now < sent.sent_at + settings.answer_timeout {
            return None;
        }
        sent.stall_reported = true;
        Some(sent.sent_at)
    }

    fn wants(&self, name: &Name) -> bool {
        self.wildcard || self.names.contains(name)
    }

    /// Turns the difference between what was examined last and what is offered now into pending names.
    fn absorb(&mut self, now: Instant, current: Mark, settings: &Settings) {
        let Some(offered) = self.offered.clone() else {
            return;
        };
        if self.draining && !mutant!(SetChangesHalfway) {
            return;
        }
        if let Some(resume) = self.resume.take() {
            match Digest::parse(&resume).filter(|_| settings.more_marked && self.wildcard) {
                Some(digest) => self.compare_with_digest(&offered, &digest),
                None => self.compare_with_resumed(&offered, &resume),
            }
        } else if !self.examined.ptr_eq(&offered) {
            for item in self.examined.diff(&offered) {
                let (DiffItem::Add(name, _)
                | DiffItem::Remove(name, _)
                | DiffItem::Update { new: (name, _), .. }) = item;
                if self.wildcard || self.names.contains(name) {
                    self.pending.entry(name.clone()).or_insert(Why::Changed);
                }
            }
        }
        self.examined = offered;
        self.absorbed = current;
        for (name, refusal) in &self.refused {
            let unchanged = self
                .examined
                .get(name)
                .is_some_and(|entry| entry.version == refusal.version);
            if unchanged && refusal.retry_at <= now {
                self.pending.entry(name.clone()).or_insert(Why::Changed);
            }
        }
    }

    fn compare_with_digest(&mut self, offered: &Offered, held: &Digest) {
        let versions = offered.iter().map(|(name, entry)| (name, &entry.version));
        let mut buckets = Digest::of(versions).differing(held);
        if mutant!(SumsAlwaysAgree) {
            buckets = Buckets::default();
        }
        for name in offered.keys().filter(|name| buckets.contain(name)) {
            self.pending.insert(name.clone(), Why::Changed);
        }
        self.buckets = Some(buckets);
    }

    fn compare_with_resumed(&mut self, offered: &Offered, resume: &BTreeMap<Name, Version>) {
        if self.wildcard {
            for (name, entry) in offered {
                if resume.get(name) != Some(&entry.version) {
                    self.pending.insert(name.clone(), Why::Changed);
                }
            }
        }
        for (name, version) in resume {
            if !self.wants(name) {
                continue;
            }
            match offered.get(name) {
                Some(entry) if entry.version == *version => {
                    self.pending.remove(name);
                }
                None if mutant!(RemovalForgottenWhileAway) => {}
                Some(_) | None => {
                    self.pending.insert(name.clone(), Why::Changed);
                }
            }
        }
    }
}

fn upsert(name: &Name, entry: &Entry) -> Upsert {
    Upsert {
        name: name.clone(),
        version: entry.version.clone(),
        body_type: None,
        body: entry.body.clone(),
    }
}
