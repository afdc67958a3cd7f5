//! A connection between two processes: frames in order in each direction, which can be late, held up, or lost. As in
//! HTTP/2 only so many are on the way; the rest waits until the far end has read.

use std::collections::{BTreeMap, VecDeque};

use kds_proto::envoy::service::discovery::v3::{DeltaDiscoveryRequest, DeltaDiscoveryResponse};
use zonal_model::Kind;

use crate::oracle::{Checked, violation};

/// Names one connection; never used twice.
pub(crate) type ConnId = u64;

/// One of the two ends of a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum End {
    /// Who opened it: a zone towards global, a proxy towards its zone.
    Dialer,
    /// Who waited for it.
    Listener,
}

impl End {
    pub(crate) const fn other(self) -> Self {
        match self {
            Self::Dialer => Self::Listener,
            Self::Listener => Self::Dialer,
        }
    }
}

/// Who talks over a connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Between {
    /// A zone and global.
    Federation {
        /// The zone.
        zone: usize,
    },
    /// A proxy and its zone.
    Xds {
        /// The zone.
        zone: usize,
        /// The proxy's number in the zone.
        proxy: usize,
    },
}

/// What crosses a connection. Discovery messages cross as they do in truth, as the protocol's own messages.
#[derive(Clone, Debug)]
pub(crate) enum Frame {
    /// The zone opened its upward stream.
    UpOpen,
    /// From a subscriber, on the downward stream (or on a proxy's stream).
    DownRequest(Box<DeltaDiscoveryRequest>),
    /// From a publisher, on the downward stream (or on a proxy's stream).
    DownResponse(Box<DeltaDiscoveryResponse>),
    /// From global, on the upward stream.
    UpRequest(Box<DeltaDiscoveryRequest>),
    /// From a zone, on the upward stream.
    UpResponse(Box<DeltaDiscoveryResponse>),
    /// The other end closed the connection.
    Close,
}

impl Frame {
    /// The frame in a few words.
    pub(crate) fn words(&self) -> String {
        match self {
            Self::UpOpen => "open the upward stream".to_owned(),
            Self::Close => "close".to_owned(),
            Self::DownRequest(request) => format!("down, {}", request_words(request)),
            Self::UpRequest(request) => format!("up, {}", request_words(request)),
            Self::DownResponse(response) => format!("down, {}", response_words(response)),
            Self::UpResponse(response) => format!("up, {}", response_words(response)),
        }
    }
}

fn request_words(request: &DeltaDiscoveryRequest) -> String {
    let type_url = &request.type_url;
    if request.response_nonce.is_empty() {
        return format!(
            "subscribe {type_url}, holding {}",
            request.initial_resource_versions.len()
        );
    }
    match &request.error_detail {
        None => format!("ACK {type_url} {}", request.response_nonce),
        Some(error) => {
            let reason = error.message.lines().nth(1).unwrap_or_default();
            format!("NACK {type_url} {}: {reason}", request.response_nonce)
        }
    }
}

fn response_words(response: &DeltaDiscoveryResponse) -> String {
    let upserts: Vec<String> = response
        .resources
        .iter()
        .map(|resource| format!("{} {:.4}", resource.name, resource.version))
        .collect();
    let more = if response.system_version_info.is_empty() {
        ""
    } else {
        ", more follows"
    };
    format!(
        "{} {}: put {upserts:?}, remove {:?}{more}",
        response.type_url, response.nonce, response.removed_resources
    )
}

#[derive(Debug)]
struct OnTheWay {
    arrives: u64,
    frame: Frame,
}

/// One direction.
#[derive(Debug, Default)]
pub(crate) struct Pipe {
    frames: VecDeque<OnTheWay>,
    /// What the window has no room for, with its delay.
    waiting: VecDeque<(u64, Frame)>,
    /// Nothing arrives for now.
    pub(crate) frozen: bool,
    /// Nothing arrives any more.
    pub(crate) dead: bool,
    /// Somebody between throws away what is said, and answers for the far end when it is only asked whether it is there.
    pub(crate) swallows: bool,
    last_arrival: u64,
}

impl Pipe {
    /// So many frames are on the way before the far end has to read.
    const WINDOW: usize = 6;

    /// Puts a frame on its way; when it arrives, or `None` if it never does or has to wait. It never overtakes an earlier
    /// one.
    pub(crate) fn push(&mut self, now: u64, delay: u64, frame: Frame) -> Option<u64> {
        if self.dead || (self.swallows && !matches!(frame, Frame::Close)) {
            return None;
        }
        if self.frames.len() >= Self::WINDOW || !self.waiting.is_empty() {
            self.waiting.push_back((delay, frame));
            return None;
        }
        Some(self.admit(now, delay, frame))
    }

    /// When the next frame that had to wait arrives, if there is room for it now.
    pub(crate) fn push_waiting(&mut self, now: u64) -> Option<u64> {
        if self.frames.len() >= Self::WINDOW {
            return None;
        }
        let (delay, frame) = self.waiting.pop_front()?;
        Some(self.admit(now, delay, frame))
    }

    /// Whether something waits for the far end to read.
    pub(crate) fn is_full(&self) -> bool {
        !self.waiting.is_empty()
    }

    fn admit(&mut self, now: u64, delay: u64, frame: Frame) -> u64 {
        let arrives = self.last_arrival.max(now + delay);
        self.last_arrival = arrives;
        self.frames.push_back(OnTheWay { arrives, frame });
        arrives
    }

    /// The next frame that has arrived.
    pub(crate) fn pop(&mut self, now: u64) -> Option<Frame> {
        if self.frozen || self.frames.front().is_none_or(|first| first.arrives > now) {
            return None;
        }
        self.frames.pop_front().map(|first| first.frame)
    }

    /// Loses everything on the way and all that is to come.
    pub(crate) fn kill(&mut self) {
        self.dead = true;
        self.frames.clear();
        self.waiting.clear();
    }

    pub(crate) fn len(&self) -> usize {
        self.frames.len() + self.waiting.len()
    }
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Conn {
    pub(crate) between: Between,
    to_dialer: Pipe,
    to_listener: Pipe,
    pub(crate) dialer_open: bool,
    pub(crate) listener_open: bool,
    /// Somebody between answers for a listener that is gone.
    pub(crate) kept_up: bool,
    /// The unanswered response of each stream and type.
    pub(crate) unanswered: BTreeMap<(bool, String), String>,
    /// How many sets of each stream and type were said since anything changed or was due.
    said: BTreeMap<(bool, String), u32>,
}

impl Conn {
    pub(crate) fn new(between: Between) -> Self {
        Self {
            between,
            to_dialer: Pipe::default(),
            to_listener: Pipe::default(),
            dialer_open: true,
            listener_open: true,
            kept_up: false,
            unanswered: BTreeMap::new(),
            said: BTreeMap::new(),
        }
    }

    /// More than this is never on its way in one direction: a request and a response for each type of each stream.
    pub(crate) const FRAMES_MAX: usize = 2 * 2 * Kind::COUNT + 8;

    /// Checks that a publisher waits for the answer before it says more about a type.
    pub(crate) fn note_answers(&mut self, frame: &Frame) -> Checked {
        let (upward, response, request) = match frame {
            Frame::DownResponse(response) => (false, Some(response), None),
            Frame::UpResponse(response) => (true, Some(response), None),
            Frame::DownRequest(request) => (false, None, Some(request)),
            Frame::UpRequest(request) => (true, None, Some(request)),
            Frame::UpOpen | Frame::Close => (false, None, None),
        };
        if let Some(response) = response {
            let key = (upward, response.type_url.clone());
            if response.system_version_info.is_empty() {
                let said = self.said.entry(key.clone()).or_default();
                *said += 1;
                if *said > Self::SETS_MAX {
                    return Err(violation(
                        "bounded by resources",
                        format!("{} is said {said} times since it changed", key.1),
                    ));
                }
            }
            if let Some(before) = self.unanswered.insert(key, response.nonce.clone()) {
                return Err(violation(
                    "one message in flight",
                    format!(
                        "{} is said while {before} of {} is unanswered",
                        response.nonce, response.type_url
                    ),
                ));
            }
        }
        if let Some(request) = request {
            let key = (upward, request.type_url.clone());
            if self.unanswered.get(&key) == Some(&request.response_nonce) {
                self.unanswered.remove(&key);
            }
        }
        Ok(())
    }

    /// So often a type may be said to a peer after the last change: what was on the way, the newest, and what was refused
    /// again.
    const SETS_MAX: u32 = 4;

    /// Something changed at an end, or is due again there: it may say more.
    pub(crate) fn may_say_more(&mut self, from: End) {
        let upward = from == End::Dialer;
        self.said.retain(|(up, _), _| *up != upward);
    }

    pub(crate) const fn pipe(&mut self, to: End) -> &mut Pipe {
        match to {
            End::Dialer => &mut self.to_dialer,
            End::Listener => &mut self.to_listener,
        }
    }

    pub(crate) const fn is_open(&self, end: End) -> bool {
        match end {
            End::Dialer => self.dialer_open,
            End::Listener => self.listener_open,
        }
    }

    pub(crate) const fn shut(&mut self, end: End) {
        match end {
            End::Dialer => self.dialer_open = false,
            End::Listener => self.listener_open = false,
        }
    }

    /// Whether a question sent now would stay without an answer.
    pub(crate) const fn is_stuck(&self) -> bool {
        self.to_dialer.frozen
            || self.to_listener.frozen
            || self.to_dialer.dead
            || self.to_listener.dead
    }
}
