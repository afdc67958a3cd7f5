//! Random conversations over a link that loses its connection: whatever happens, the far end ends up with what is
//! offered.
#![allow(clippy::print_stdout, reason = "a failing run names its seed")]
#![allow(
    clippy::unwrap_used,
    clippy::expect_used,
    clippy::panic,
    clippy::indexing_slicing
)]
#![allow(
    clippy::disallowed_methods,
    reason = "a test may make up its own start of time"
)]

use std::collections::{BTreeMap, VecDeque};
use std::time::{Duration, Instant};

use zonal_delta::{
    Entry, Interest, Mark, Name, Offered, Refused, Request, Response, Settings, Sink, Source,
    TypeUrl, Version, Wanted,
};

const TYPES: [&str; 3] = ["A", "B", "C"];

type Kept = BTreeMap<TypeUrl, BTreeMap<Name, Version>>;

/// One federation of two ends and a link between them.
struct World {
    random: fastrand::Rng,
    now: Instant,
    settings: Settings,
    resume: bool,
    sums: bool,
    offered: BTreeMap<TypeUrl, Offered>,
    /// What the far end has in its store.
    kept: Kept,
    source: Source,
    sink: Sink,
    up: VecDeque<Request>,
    down: VecDeque<Response>,
    version: u64,
    messages: u64,
}

impl World {
    fn new(seed: u64, settings: Settings, resume: bool, sums: bool) -> Self {
        let types = TYPES.map(TypeUrl::from);
        let mut world = Self {
            random: fastrand::Rng::with_seed(seed),
            now: Instant::now(),
            source: Source::new(settings.clone(), types.clone()),
            sink: Sink::new([]),
            settings,
            resume,
            sums,
            offered: types.iter().map(|t| (t.clone(), Offered::new())).collect(),
            kept: types.into_iter().map(|t| (t, BTreeMap::new())).collect(),
            up: VecDeque::new(),
            down: VecDeque::new(),
            version: 0,
            messages: 0,
        };
        world.reconnect();
        world
    }

    fn reconnect(&mut self) {
        self.up.clear();
        self.down.clear();
        self.source = Source::new(self.settings.clone(), TYPES.map(TypeUrl::from));
        let interests: Vec<_> = self
            .kept
            .iter()
            .map(|(type_url, held)| Interest {
                type_url: type_url.clone(),
                wanted: Wanted::All,
                held: if self.resume {
                    held.clone()
                } else {
                    BTreeMap::new()
                },
            })
            .collect();
        self.sink = Sink::new(interests);
        if self.sums {
            self.sink = std::mem::replace(&mut self.sink, Sink::new([])).giving_sums();
        }
        for (type_url, offered) in &self.offered {
            if self.random.bool() {
                self.source.set_offered(type_url, offered.clone());
            }
        }
    }

    fn change(&mut self) {
        let type_url = TypeUrl::from(TYPES[self.random.usize(0..TYPES.len())]);
        let name = Name::from(format!("n{}", self.random.u8(0..40)));
        let offered = self.offered.get_mut(&type_url).unwrap();
        if self.random.u8(0..3) == 0 {
            offered.remove(&name);
        } else {
            self.version += 1;
            let version = Version::from(format!("v{}", self.version));
            offered.insert(
                name,
                Entry {
                    version,
                    body: vec![0; 50].into(),
                },
            );
        }
        self.source.set_offered(&type_url, offered.clone());
    }

    /// One step of some part of the world.
    fn step(&mut self) {
        match self.random.u8(0..100) {
            0..30 => self.change(),
            30..32 => self.reconnect(),
            32..55 => {
                if let Some(request) = self.sink.poll_request() {
                    self.up.push_back(request);
                }
            }
            55..75 => {
                if let Some(request) = self.up.pop_front() {
                    self.source.handle_request(self.now, request);
                }
            }
            75..90 => self.poll_source(),
            _ => self.take_response(true),
        }
        self.now += Duration::from_millis(self.random.u64(0..500));
    }

    fn poll_source(&mut self) {
        if let Some(response) = self.source.poll_response(self.now) {
            self.messages += 1;
            self.down.push_back(response);
        }
    }

    fn take_response(&mut self, may_refuse: bool) {
        let Some(response) = self.down.pop_front() else {
            return;
        };
        let batch = self.sink.handle_response(response).unwrap();
        let kept = self.kept.get_mut(&batch.type_url).unwrap();
        let mut refused = Vec::new();
        for name in &batch.removals {
            kept.remove(name);
        }
        for upsert in &batch.upserts {
            if may_refuse && self.random.u8(0..10) == 0 {
                refused.push(Refused {
                    name: upsert.name.clone(),
                    reason: "mood".into(),
                });
            } else {
                kept.insert(upsert.name.clone(), upsert.version.clone());
            }
        }
        if let Some(complete) = &batch.complete {
            kept.retain(|name, _| complete.contains(name));
        }
        // A crash between keeping and answering loses the answer, never the resource.
        self.sink.applied(&batch.type_url, &batch.nonce, refused);
    }

    /// Lets everything that is due happen, with time passing, until nothing is left to do.
    fn settle(&mut self) {
        for (type_url, offered) in &self.offered {
            self.source.set_offered(type_url, offered.clone());
        }
        self.source.set_mark(Mark(1));
        for _ in 0..10_000 {
            while let Some(request) = self.sink.poll_request() {
                self.up.push_back(request);
            }
            while let Some(request) = self.up.pop_front() {
                self.source.handle_request(self.now, request);
            }
            while let Some(response) = self.source.poll_response(self.now) {
                self.down.push_back(response);
            }
            if self.down.is_empty() {
                match self.source.next_timeout() {
                    Some(at) => self.now = self.now.max(at),
                    None => return,
                }
            }
            while !self.down.is_empty() {
                self.take_response(false);
            }
        }
        panic!("the conversation does not come to rest");
    }

    fn check(&self) {
        for (type_url, offered) in &self.offered {
            let want: BTreeMap<_, _> = offered
                .iter()
                .map(|(name, entry)| (name.clone(), entry.version.clone()))
                .collect();
            assert_eq!(self.kept[type_url], want, "{type_url}");
            assert_eq!(
                self.sink.held(type_url),
                Some(&want),
                "what a resume would say"
            );
        }
        assert_eq!(self.source.reached(), Mark(1));
    }
}

fn converge(settings: &Settings, resume: bool, sums: bool) {
    for seed in 0..150 {
        println!("seed {seed} resume {resume}");
        let mut world = World::new(seed, settings.clone(), resume, sums);
        for _ in 0..3 {
            for _ in 0..400 {
                world.step();
            }
            world.settle();
            world.check();
        }
    }
}

#[test]
fn a_kuma_peer_ends_up_with_what_is_offered() {
    converge(
        &Settings {
            response_bytes_max: 600,
            ..Settings::kuma_peer()
        },
        false,
        false,
    );
}

#[test]
fn our_peer_ends_up_with_what_is_offered() {
    converge(
        &Settings {
            response_bytes_max: 600,
            ..Settings::own_peer()
        },
        false,
        false,
    );
}

#[test]
fn a_resuming_peer_ends_up_with_what_is_offered() {
    converge(
        &Settings {
            response_bytes_max: 600,
            ..Settings::own_peer()
        },
        true,
        false,
    );
}

#[test]
fn a_peer_that_gives_sums_ends_up_with_what_is_offered() {
    let own = Settings {
        response_bytes_max: 600,
        ..Settings::own_peer()
    };
    converge(&own, true, true);
    // And with a peer that has never heard of sums.
    let other = Settings {
        more_marked: false,
        first_response_whole: true,
        ..own
    };
    converge(&other, true, true);
}

#[test]
fn a_proxy_ends_up_with_what_is_offered() {
    converge(
        &Settings {
            response_bytes_max: 600,
            ..Settings::proxy()
        },
        true,
        false,
    );
}

#[test]
fn memory_and_messages_follow_resources_not_changes() {
    let mut world = World::new(7, Settings::own_peer(), true, true);
    world.settle();
    let before = world.messages;
    for _ in 0..10_000 {
        world.change();
    }
    world.settle();
    world.check();
    // `settle` does not count; nothing was said while changes came in, and all of them fit one message per type.
    assert_eq!(world.messages, before);
}
