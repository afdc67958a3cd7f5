//! The subscribing half of one stream.

use std::collections::{BTreeMap, BTreeSet};

use crate::digest::{Buckets, Digest};
use crate::message::{Answer, Batch, Nack, Refused, Request, Response};
use crate::name::{Name, Nonce, TypeUrl, Version};
use zonal_mutants::mutant;

/// Which resources of a type are wanted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Wanted {
    /// Everything (`*`).
    All,
    /// These names.
    Names(BTreeSet<Name>),
}

/// Names and versions held from the peer: what a later stream resumes from.
pub type Held = BTreeMap<Name, Version>;

/// One type that a sink asks for.
#[derive(Clone, Debug)]
pub struct Interest {
    /// The type.
    pub type_url: TypeUrl,
    /// Which of its resources.
    pub wanted: Wanted,
    /// What is held from an earlier stream. Where it is empty the first full set is taken for the whole truth; where it
    /// is not, the publisher says what differs, removals included.
    pub held: Held,
}

/// A response of a type that was not asked for.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the peer sent resources of type `{0}`, which were not asked for")]
pub struct UnknownType(pub TypeUrl);

/// The first full set of a type on this stream.
#[derive(Debug)]
enum First {
    /// It has not been answered yet; what has arrived of it so far.
    Awaited(BTreeSet<Name>),
    /// Sums were given; the first response says which buckets begin anew.
    Summed,
    /// These buckets begin anew; what has arrived of them so far.
    Replacing(Buckets, BTreeSet<Name>),
    /// The stream resumed, or the set is through: from here on only differences count.
    Over,
}

/// A batch that the caller is keeping.
#[derive(Debug)]
struct Applying {
    nonce: Nonce,
    upserts: Vec<(Name, Version)>,
    removals: Vec<Name>,
    complete: Option<BTreeSet<Name>>,
    ends_first: bool,
}

#[derive(Debug)]
struct Reception {
    type_url: TypeUrl,
    wanted: Wanted,
    held: Held,
    sums: bool,
    first: First,
    initial_sent: bool,
    applying: Option<Applying>,
    answer: Option<Answer>,
    subscribe: BTreeSet<Name>,
    unsubscribe: BTreeSet<Name>,
}

/// Takes from one peer what it offers of many types over one stream.
///
/// Holds no socket and reads no clock. An ACK leaves only after the caller said that a batch is kept.
///
/// ```
/// use zonal_delta::{Held, Interest, Response, Sink, TypeUrl, Wanted};
/// let kind = TypeUrl::from("MeshTimeout");
/// let interest = Interest { type_url: kind.clone(), wanted: Wanted::All, held: Held::new() };
/// let mut sink = Sink::new([interest]);
/// assert_eq!(sink.poll_request().unwrap().subscribe[0].as_str(), "*");
///
/// let batch = sink.handle_response(Response {
///     type_url: kind.clone(),
///     nonce: "1".into(),
///     upserts: Vec::new(),
///     removals: Vec::new(),
///     more: false,
///     buckets: None,
/// }).unwrap();
/// assert!(batch.complete.is_some(), "the first set is the whole truth");
/// assert_eq!(sink.poll_request(), None, "no answer before the batch is kept");
/// sink.applied(&kind, &batch.nonce, Vec::new());
/// assert!(sink.poll_request().unwrap().answer.unwrap().nack.is_none());
/// ```
#[derive(Debug)]
pub struct Sink {
    receptions: Vec<Reception>,
}

impl Sink {
    /// A sink for a new stream.
    #[must_use]
    pub fn new(interests: impl IntoIterator<Item = Interest>) -> Self {
        let receptions = interests.into_iter().map(Reception::new).collect();
        Self { receptions }
    }

    /// The peer understands sums instead of versions, which are shorter where much is held. One that does not sends
    /// everything again.
    #[must_use]
    pub fn giving_sums(mut self) -> Self {
        for reception in &mut self.receptions {
            reception.sums = true;
        }
        self
    }

    /// The next message to write. Call until `None`.
    pub fn poll_request(&mut self) -> Option<Request> {
        self.receptions.iter_mut().find_map(Reception::poll_request)
    }

    /// Takes a response and gives what is to be kept; the caller then calls [`Sink::applied`].
    ///
    /// # Errors
    /// The type was never asked for; nothing changed and no answer is owed.
    pub fn handle_response(&mut self, response: Response) -> Result<Batch, UnknownType> {
        let reception = self
            .receptions
            .iter_mut()
            .find(|reception| reception.type_url == response.type_url)
            .ok_or_else(|| UnknownType(response.type_url.clone()))?;
        Ok(reception.handle_response(response))
    }

    /// Says what became of a batch: kept, but for what is listed. The answer is then due.
    pub fn applied(&mut self, type_url: &TypeUrl, nonce: &Nonce, refused: Vec<Refused>) {
        if let Some(reception) = self.receptions.iter_mut().find(|r| r.type_url == *type_url) {
            reception.applied(nonce, refused);
        }
    }

    /// Changes which names of a type are wanted; no effect on a type of which everything is wanted.
    pub fn set_names(&mut self, type_url: &TypeUrl, names: BTreeSet<Name>) {
        if let Some(reception) = self.receptions.iter_mut().find(|r| r.type_url == *type_url) {
            reception.set_names(names);
        }
    }

    /// What is held of a type, for a later stream to resume from.
    #[must_use]
    pub fn held(&self, type_url: &TypeUrl) -> Option<&Held> {
        self.receptions
            .iter()
            .find(|r| r.type_url == *type_url)
            .map(|reception| &reception.held)
    }

    /// Whether the first answer of every type is through: the stream is past its start.
    #[must_use]
    pub fn is_live(&self) -> bool {
        self.receptions
            .iter()
            .all(|r| matches!(r.first, First::Over))
    }

    /// Ends the sink and keeps what a new stream resumes from.
    #[must_use]
    pub fn into_interests(self) -> Vec<Interest> {
        self.receptions
            .into_iter()
            .map(
                |Reception {
                     type_url,
                     wanted,
                     held,
                     ..
                 }| Interest {
                    type_url,
                    wanted,
                    held,
                },
            )
            .collect()
    }
}

impl Reception {
    fn new(interest: Interest) -> Self {
        let Interest {
            type_url,
            wanted,
            held,
        } = interest;
        let resumes = !held.is_empty() || matches!(wanted, Wanted::Names(_));
        Self {
            type_url,
            wanted,
            held,
            sums: false,
            first: if resumes && !mutant!(DeleteByAbsence) {
                First::Over
            } else {
                First::Awaited(BTreeSet::new())
            },
            initial_sent: false,
            applying: None,
            answer: None,
            subscribe: BTreeSet::new(),
            unsubscribe: BTreeSet::new(),
        }
    }

    fn poll_request(&mut self) -> Option<Request> {
        if !self.initial_sent {
            let subscribe = match &self.wanted {
                Wanted::All => vec![Name::from("*")],
                // An empty list would mean everything.
                Wanted::Names(names) if names.is_empty() => return None,
                Wanted::Names(names) => names.iter().cloned().collect(),
            };
            self.initial_sent = true;
            self.subscribe.clear();
            self.unsubscribe.clear();
            let digest = match self.wanted {
                Wanted::All if self.sums => Digest::for_versions(&self.held),
                Wanted::All | Wanted::Names(_) => None,
            };
            if digest.is_some() {
                self.first = First::Summed;
            }
            return Some(Request {
                subscribe,
                initial_versions: digest.unwrap_or_else(|| self.held.clone()),
                ..Request::new(self.type_url.clone())
            });
        }
        if self.answer.is_none() && self.subscribe.is_empty() && self.unsubscribe.is_empty() {
            return None;
        }
        let answer = self.answer.take();
        let mut subscribe: Vec<_> = std::mem::take(&mut self.subscribe).into_iter().collect();
        let nacked = answer.as_ref().is_some_and(|answer| answer.nack.is_some());
        if nacked && self.wanted == Wanted::All {
            // What a Kuma subscriber repeats in a NACK; it changes nothing.
            subscribe.push(Name::from("*"));
        }
        Some(Request {
            subscribe,
            unsubscribe: std::mem::take(&mut self.unsubscribe).into_iter().collect(),
            answer,
            ..Request::new(self.type_url.clone())
        })
    }

    fn handle_response(&mut self, response: Response) -> Batch {
        let Response {
            type_url,
            nonce,
            upserts,
            removals,
            more,
            buckets,
        } = response;
        if matches!(self.first, First::Summed) {
            self.first = match buckets {
                Some(buckets) => First::Replacing(buckets, BTreeSet::new()),
                // A peer that knows no sums found no version that it has, and sends everything.
                None => First::Awaited(BTreeSet::new()),
            };
        }
        let (complete, ends_first) = match &mut self.first {
            First::Summed => (None, false),
            First::Replacing(buckets, so_far) => {
                so_far.extend(upserts.iter().map(|upsert| upsert.name.clone()));
                if more {
                    (None, false)
                } else if buckets.is_empty() {
                    (None, true)
                } else {
                    let kept = self.held.keys().filter(|name| !buckets.contain(name));
                    (Some(kept.chain(so_far.iter()).cloned().collect()), true)
                }
            }
            First::Over => (None, false),
            First::Awaited(so_far) => {
                so_far.extend(upserts.iter().map(|upsert| upsert.name.clone()));
                if more {
                    (None, false)
                } else {
                    (Some(so_far.clone()), true)
                }
            }
        };
        self.applying = Some(Applying {
            nonce: nonce.clone(),
            upserts: upserts
                .iter()
                .map(|u| (u.name.clone(), u.version.clone()))
                .collect(),
            removals: removals.clone(),
            complete: complete.clone(),
            ends_first,
        });
        Batch {
            type_url,
            nonce,
            upserts,
            removals,
            complete,
        }
    }

    fn applied(&mut self, nonce: &Nonce, refused: Vec<Refused>) {
        let applying = match self.applying.take() {
            Some(applying) if applying.nonce == *nonce => applying,
            // A newer response arrived meanwhile; only the newest is answered.
            other => {
                self.applying = other;
                return;
            }
        };
        if applying.ends_first {
            self.first = First::Over;
        }
        for name in &applying.removals {
            self.held.remove(name);
        }
        for (name, version) in applying.upserts {
            // A refused resource keeps the version that is really held, so that a resumed stream brings it again.
            let kept = !refused.iter().any(|refused| refused.name == name);
            if kept || mutant!(RefusedCountsAsHeld) {
                self.held.insert(name, version);
            }
        }
        if let Some(complete) = applying.complete {
            self.held.retain(|name, _| complete.contains(name));
        }
        let nack = (!refused.is_empty()).then(|| Nack {
            message: nack_message(&refused),
            refused,
        });
        self.answer = Some(Answer {
            nonce: applying.nonce,
            nack,
        });
    }

    fn set_names(&mut self, names: BTreeSet<Name>) {
        let Wanted::Names(wanted) = &mut self.wanted else {
            return;
        };
        for name in names.difference(wanted) {
            self.unsubscribe.remove(name);
            self.subscribe.insert(name.clone());
        }
        for name in wanted.difference(&names) {
            self.subscribe.remove(name);
            self.unsubscribe.insert(name.clone());
            self.held.remove(name);
        }
        *wanted = names;
    }
}

/// The text of a NACK. It begins as Kuma's do, whose metrics go by these words, and each line names its resource.
fn nack_message(refused: &[Refused]) -> String {
    let mut message = String::from("user error");
    for Refused { name, reason } in refused {
        message.push_str("\n`");
        message.push_str(name.as_str());
        message.push_str("`: ");
        message.push_str(reason);
    }
    message
}
