//! The publishing half of one stream.

use std::collections::BTreeSet;
use std::time::Instant;

use crate::channel::{Channel, Settled, Which};
use crate::message::{Request, Response};
use crate::name::{Entry, Name, Nonce, Offered, TypeUrl};
use crate::settings::Settings;

/// A point in the history of what was offered, e.g. a store's revision. See [`Source::set_mark`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Mark(pub u64);

/// What a peer's message, or the passing of time, meant.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Event {
    /// The peer asked for a type for the first time on this stream.
    Requested {
        /// The type.
        type_url: TypeUrl,
    },
    /// The peer's interest in names of a type changed.
    Resubscribed {
        /// The type.
        type_url: TypeUrl,
    },
    /// The peer holds what the response said.
    Acked {
        /// The type.
        type_url: TypeUrl,
        /// The response.
        nonce: Nonce,
    },
    /// The peer left out something.
    Nacked {
        /// The type.
        type_url: TypeUrl,
        /// The response.
        nonce: Nonce,
        /// What counts as refused; each is offered again when it changes or after a wait.
        names: Vec<Name>,
        /// What the response was made from: see [`Source::set_mark`].
        mark: Mark,
        /// The peer's words.
        message: String,
    },
    /// A response has waited for its answer too long. Reported once per response.
    Stalled {
        /// The type.
        type_url: TypeUrl,
        /// When the response was sent.
        since: Instant,
    },
}

/// The number of types beyond which a peer's further ones are not remembered: a bound on memory, far above any use.
const TYPES_MAX: usize = 256;

/// Offers one peer the newest state of many types over one stream.
///
/// Holds no socket and reads no clock. The offered maps are shared by pointer, so that a change costs the difference
/// and a quiet peer costs nothing per resource.
///
/// ```
/// use zonal_delta::{Answer, Entry, Request, Settings, Source, TypeUrl};
/// let kind = TypeUrl::from("MeshTimeout");
/// let mut source = Source::new(Settings::own_peer(), [kind.clone()]);
/// # let now = std::time::Instant::now();
/// source.offer(&kind, "web".into(), Entry { version: "v1".into(), body: "…".into() });
/// source.handle_request(now, Request { subscribe: vec!["*".into()], ..Request::new(kind.clone()) });
///
/// let first = source.poll_response(now).unwrap();
/// assert_eq!(first.upserts[0].version.as_str(), "v1");
/// source.offer(&kind, "web".into(), Entry { version: "v2".into(), body: "…".into() });
/// assert_eq!(source.poll_response(now), None, "one message in flight at a time");
///
/// let answer = Some(Answer { nonce: first.nonce, nack: None });
/// source.handle_request(now, Request { answer, ..Request::new(kind) });
/// assert_eq!(source.poll_response(now).unwrap().upserts[0].version.as_str(), "v2");
/// ```
#[derive(Debug)]
pub struct Source {
    settings: Settings,
    /// In the order of sending. The types given at construction first.
    channels: Vec<Channel>,
    last_nonce: u64,
    mark: Mark,
}

impl Source {
    /// A source that knows `types`, in the order in which they are sent. A type beside them counts as one that has no
    /// resources.
    #[must_use]
    pub fn new(settings: Settings, types: impl IntoIterator<Item = TypeUrl>) -> Self {
        let channels = types.into_iter().map(Channel::new).collect();
        Self {
            settings,
            channels,
            last_nonce: 0,
            mark: Mark::default(),
        }
    }

    /// Says what the peer should end up holding of a type. Before the first call for a type nothing of it is sent.
    pub fn set_offered(&mut self, type_url: &TypeUrl, offered: Offered) {
        if let Some(channel) = self.channel_or_new(type_url) {
            channel.set_offered(offered);
        }
    }

    /// Adds or replaces one resource.
    pub fn offer(&mut self, type_url: &TypeUrl, name: Name, entry: Entry) {
        if let Some(channel) = self.channel_or_new(type_url) {
            channel.offered_mut().insert(name, entry);
        }
    }

    /// Takes one resource away.
    pub fn withdraw(&mut self, type_url: &TypeUrl, name: &Name) {
        if let Some(channel) = self.channel_or_new(type_url) {
            channel.offered_mut().remove(name);
        }
    }

    /// What is offered of a type.
    #[must_use]
    pub fn offered(&self, type_url: &TypeUrl) -> Option<&Offered> {
        self.channel(type_url)?.offered()
    }

    /// Whether the peer asked for the type on this stream.
    #[must_use]
    pub fn is_requested(&self, type_url: &TypeUrl) -> bool {
        self.channel(type_url).is_some_and(Channel::is_requested)
    }

    /// Whether the peer wants everything of the type.
    #[must_use]
    pub fn is_wildcard(&self, type_url: &TypeUrl) -> bool {
        self.channel(type_url).is_some_and(Channel::is_wildcard)
    }

    /// The names of the type that the peer asked for one by one.
    #[must_use]
    pub fn requested_names(&self, type_url: &TypeUrl) -> Option<&BTreeSet<Name>> {
        self.channel(type_url).map(Channel::names)
    }

    /// Cuts responses after so many bytes, whatever is usual for the peer.
    pub const fn cut_after(&mut self, bytes: usize) {
        self.settings.response_bytes_max = bytes;
    }

    /// Names the present state of all offered maps, so that [`Source::reached`] can tell when the peer has answered
    /// for it. Marks only grow.
    pub fn set_mark(&mut self, mark: Mark) {
        self.mark = self.mark.max(mark);
    }

    /// The newest mark for which the peer has answered, ACK or NACK, everything that was offered when it was set.
    #[must_use]
    pub fn reached(&self) -> Mark {
        let current = self.mark;
        self.channels
            .iter()
            .map(|channel| channel.reached(current))
            .min()
            .unwrap_or(current)
    }

    /// Whether the peer has refused something and not yet taken what replaces it: it has answered for more than it holds.
    #[must_use]
    pub fn is_refused(&self) -> bool {
        self.channels.iter().any(Channel::is_refused)
    }

    /// Takes a message of the peer.
    pub fn handle_request(&mut self, now: Instant, request: Request) -> Vec<Event> {
        let Request {
            type_url,
            subscribe,
            unsubscribe,
            initial_versions,
            answer,
        } = request;
        let known = self
            .channels
            .iter()
            .any(|channel| channel.type_url == type_url);
        if !known && self.channels.len() >= TYPES_MAX {
            return Vec::new();
        }
        let settings = self.settings.clone();
        let Some(channel) = self.channel_or_new(&type_url) else {
            return Vec::new();
        };
        if !known {
            channel.set_offered(Offered::new());
        }
        let mut events = Vec::new();
        if let Some(answer) = answer {
            match channel.answer(now, &answer.nonce, answer.nack.as_ref(), &settings) {
                Settled::Stale => {}
                Settled::Acked => {
                    events.push(Event::Acked {
                        type_url: type_url.clone(),
                        nonce: answer.nonce,
                    });
                }
                Settled::Nacked(names) => events.push(Event::Nacked {
                    type_url: type_url.clone(),
                    nonce: answer.nonce,
                    names,
                    mark: channel.absorbed(),
                    message: answer.nack.map(|nack| nack.message).unwrap_or_default(),
                }),
            }
        }
        let changed = !subscribe.is_empty() || !unsubscribe.is_empty();
        if channel.subscribe(subscribe, &unsubscribe, initial_versions) {
            events.push(Event::Requested { type_url });
        } else if changed {
            events.push(Event::Resubscribed { type_url });
        }
        events
    }

    /// The next message to write, or `None` while everything due is in flight or nothing differs. Call until `None`.
    pub fn poll_response(&mut self, now: Instant) -> Option<Response> {
        if !self.settings.make_before_break {
            return (0..self.channels.len())
                .find_map(|index| self.poll_channel(now, index, Which::All));
        }
        // What a peer asks for by name it knows of already, and may need in order to answer: an Envoy does not answer for
        // clusters before it has their hosts and certificates. So only what a peer takes as a whole waits for its turn.
        let mut blocked = false;
        for index in 0..self.channels.len() {
            let waits = self.channels.get(index).is_some_and(Channel::is_wildcard);
            if blocked && waits {
                continue;
            }
            if let Some(response) = self.poll_channel(now, index, Which::Upserts) {
                return Some(response);
            }
            blocked |= waits
                && self
                    .channels
                    .get(index)
                    .is_some_and(|channel| channel.is_in_flight() && channel.has_unsent_upserts());
        }
        if blocked {
            return None;
        }
        let busy = self
            .channels
            .iter()
            .any(|c| c.is_in_flight() || c.has_unsent_upserts());
        if busy {
            return None;
        }
        (0..self.channels.len())
            .rev()
            .find_map(|index| self.poll_channel(now, index, Which::Removals))
    }

    /// When to come back even if nothing arrives.
    #[must_use]
    pub fn next_timeout(&self) -> Option<Instant> {
        // With make-before-break a retry may have to wait for another type's answer; that answer wakes the caller.
        let busy =
            self.settings.make_before_break && self.channels.iter().any(Channel::is_in_flight);
        self.channels
            .iter()
            .filter(|channel| !busy || channel.is_in_flight())
            .filter_map(|channel| channel.next_timeout(&self.settings))
            .min()
    }

    /// Notices what has waited too long. Retries need no call: they come out of the next poll.
    pub fn handle_timeout(&mut self, now: Instant) -> Vec<Event> {
        let settings = &self.settings;
        self.channels
            .iter_mut()
            .filter_map(|channel| {
                let since = channel.newly_stalled(now, settings)?;
                Some(Event::Stalled {
                    type_url: channel.type_url.clone(),
                    since,
                })
            })
            .collect()
    }

    fn poll_channel(&mut self, now: Instant, index: usize, which: Which) -> Option<Response> {
        let channel = self.channels.get_mut(index)?;
        let portion = channel.poll(now, which, self.mark, &self.settings)?;
        self.last_nonce += 1;
        let nonce = Nonce::from(self.last_nonce.to_string());
        channel.sent(now, nonce.clone(), &portion);
        Some(Response {
            type_url: channel.type_url.clone(),
            nonce,
            upserts: portion.upserts,
            removals: portion.removals,
            more: portion.more,
            buckets: portion.buckets,
        })
    }

    fn channel(&self, type_url: &TypeUrl) -> Option<&Channel> {
        self.channels
            .iter()
            .find(|channel| channel.type_url == *type_url)
    }

    fn channel_or_new(&mut self, type_url: &TypeUrl) -> Option<&mut Channel> {
        let index = match self.channels.iter().position(|c| c.type_url == *type_url) {
            Some(index) => index,
            None => {
                self.channels.push(Channel::new(type_url.clone()));
                self.channels.len() - 1
            }
        };
        self.channels.get_mut(index)
    }
}
