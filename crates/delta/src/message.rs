//! The messages of the protocol in our own types; `wire` turns them into protobuf and back.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;

use crate::digest::Buckets;
use crate::name::{Name, Nonce, TypeUrl, Version};

/// From a subscriber: what it wants, what it holds already, and the answer to a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// The type it speaks of.
    pub type_url: TypeUrl,
    /// Names asked for from now on; `*` means all.
    pub subscribe: Vec<Name>,
    /// Names not wanted any more.
    pub unsubscribe: Vec<Name>,
    /// What the subscriber still holds from an earlier stream. Only the first request of a type has it.
    pub initial_versions: BTreeMap<Name, Version>,
    /// The answer to an earlier response.
    pub answer: Option<Answer>,
}

impl Request {
    /// A request that says nothing but its type.
    #[must_use]
    pub fn new(type_url: TypeUrl) -> Self {
        Self {
            type_url,
            subscribe: Vec::new(),
            unsubscribe: Vec::new(),
            initial_versions: BTreeMap::new(),
            answer: None,
        }
    }
}

/// ACK or NACK of one response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Answer {
    /// The response answered.
    pub nonce: Nonce,
    /// `None` is an ACK.
    pub nack: Option<Nack>,
}

/// Why a response was not taken whole.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nack {
    /// A text for people.
    pub message: String,
    /// The refused resources where the peer names them; empty means it could be any of the response's.
    pub refused: Vec<Refused>,
}

/// One resource that was left out, and why.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The resource.
    pub name: Name,
    /// What is wrong with it, with the field's path where there is one.
    pub reason: String,
}

/// From a publisher: what changed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Response {
    /// The type it speaks of.
    pub type_url: TypeUrl,
    /// What the answer must repeat.
    pub nonce: Nonce,
    /// New and changed resources.
    pub upserts: Vec<Upsert>,
    /// Names that are gone, or were asked for and do not exist.
    pub removals: Vec<Name>,
    /// The same set goes on in the next response. Said only to peers that understand it.
    pub more: bool,
    /// Set on the first response to a subscriber that gave sums instead of versions: the buckets whose sums differ. The
    /// set that begins here is all of these buckets; what the subscriber holds of the others stays.
    pub buckets: Option<Buckets>,
}

/// One new or changed resource of a response.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Upsert {
    /// Its name.
    pub name: Name,
    /// Its fingerprint.
    pub version: Version,
    /// The type of the message in `body`; `None` where it follows from the stream.
    pub body_type: Option<Arc<str>>,
    /// The encoded message.
    pub body: Bytes,
}

/// What a sink hands to its caller to be kept.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Batch {
    /// The type.
    pub type_url: TypeUrl,
    /// Which response this is; the caller returns it with the outcome.
    pub nonce: Nonce,
    /// New and changed resources.
    pub upserts: Vec<Upsert>,
    /// Names that are gone.
    pub removals: Vec<Name>,
    /// Set when this batch ends the first full set of the stream: every name of that set. What the caller holds from
    /// this peer beside these names is gone.
    pub complete: Option<BTreeSet<Name>>,
}
