//! Conversations of a source with a peer, as text files: see `transcripts/`. `UPDATE=1` rewrites what follows `---`.
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

use std::fmt::Write as _;
use std::path::Path;
use std::time::{Duration, Instant};

use zonal_delta::{
    Answer, Entry, Event, Mark, Nack, Refused, Request, Response, Settings, Source, TypeUrl,
};

/// A source, and the time its transcript has reached.
struct Stage {
    source: Source,
    now: Instant,
}

impl Stage {
    fn new(settings: Settings) -> Self {
        let types = ["Mesh", "MeshTimeout", "Secret"].map(TypeUrl::from);
        Self {
            source: Source::new(settings, types),
            now: Instant::now(),
        }
    }

    /// Runs one line of a script and prints what it caused.
    fn run(&mut self, line: &str, out: &mut String) {
        let words: Vec<&str> = line.split_whitespace().collect();
        match words.as_slice() {
            ["subscribe", type_url, names @ ..] => {
                let subscribe = names.iter().map(|name| (*name).into()).collect();
                self.request(
                    Request {
                        subscribe,
                        ..Request::new((*type_url).into())
                    },
                    out,
                );
            }
            ["resume", type_url, held @ ..] => {
                let initial_versions = held
                    .iter()
                    .map(|held| held.split_once('=').expect("name=version"))
                    .map(|(name, version)| (name.into(), version.into()))
                    .collect();
                let subscribe = vec!["*".into()];
                let request = Request {
                    subscribe,
                    initial_versions,
                    ..Request::new((*type_url).into())
                };
                self.request(request, out);
            }
            ["unsubscribe", type_url, names @ ..] => {
                let unsubscribe = names.iter().map(|name| (*name).into()).collect();
                self.request(
                    Request {
                        unsubscribe,
                        ..Request::new((*type_url).into())
                    },
                    out,
                );
            }
            ["complete", type_url] => {
                let offered = self
                    .source
                    .offered(&(*type_url).into())
                    .cloned()
                    .unwrap_or_default();
                self.source.set_offered(&(*type_url).into(), offered);
            }
            ["offer", type_url, name, version] => {
                let body = vec![0_u8; 10].into();
                let entry = Entry {
                    version: (*version).into(),
                    body,
                };
                self.source
                    .offer(&(*type_url).into(), (*name).into(), entry);
            }
            ["withdraw", type_url, name] => {
                self.source.withdraw(&(*type_url).into(), &(*name).into());
            }
            ["ack", type_url, nonce] => self.answer(type_url, nonce, None, out),
            ["nack", type_url, nonce, names @ ..] => {
                let refused = names
                    .iter()
                    .map(|name| Refused {
                        name: (*name).into(),
                        reason: "bad".to_owned(),
                    })
                    .collect();
                let nack = Nack {
                    message: "user error".to_owned(),
                    refused,
                };
                self.answer(type_url, nonce, Some(nack), out);
            }
            ["mark", number] => self.source.set_mark(Mark(number.parse().unwrap())),
            ["reached"] => writeln!(out, "reached {}", self.source.reached().0).unwrap(),
            ["wait", seconds] => {
                self.now += Duration::from_secs(seconds.parse().unwrap());
                for event in self.source.handle_timeout(self.now) {
                    print_event(&event, out);
                }
            }
            _ => panic!("not a line of a transcript: {line:?}"),
        }
    }

    fn answer(&mut self, type_url: &str, nonce: &str, nack: Option<Nack>, out: &mut String) {
        let answer = Some(Answer {
            nonce: nonce.into(),
            nack,
        });
        self.request(
            Request {
                answer,
                ..Request::new(type_url.into())
            },
            out,
        );
    }

    fn request(&mut self, request: Request, out: &mut String) {
        for event in self.source.handle_request(self.now, request) {
            print_event(&event, out);
        }
    }
}

fn print_event(event: &Event, out: &mut String) {
    match event {
        Event::Requested { .. } | Event::Resubscribed { .. } | Event::Acked { .. } => {}
        Event::Nacked {
            type_url, names, ..
        } => {
            writeln!(out, "nacked {type_url} {names:?}").unwrap();
        }
        Event::Stalled { type_url, .. } => writeln!(out, "stalled {type_url}").unwrap(),
    }
}

fn print_response(response: &Response, out: &mut String) {
    write!(out, "-> {} nonce {}", response.type_url, response.nonce).unwrap();
    for upsert in &response.upserts {
        write!(out, "  upsert {} {}", upsert.name, upsert.version).unwrap();
    }
    for name in &response.removals {
        write!(out, "  remove {name}").unwrap();
    }
    if response.upserts.is_empty() && response.removals.is_empty() {
        write!(out, "  (empty)").unwrap();
    }
    if response.more {
        write!(out, "  more").unwrap();
    }
    out.push('\n');
}

/// Runs a whole transcript and gives it back with what really happened after each `---`.
fn play(text: &str) -> String {
    let small = Duration::from_secs(5);
    let settings = match text {
        _ if text.contains("# peer: proxy") => Settings::proxy(),
        // Three resources of these tests fit into a message.
        _ if text.contains("# peer: own") => Settings {
            response_bytes_max: 350,
            retry_delay_min: small,
            ..Settings::own_peer()
        },
        _ => Settings {
            response_bytes_max: 350,
            ..Settings::kuma_peer()
        },
    };
    let mut stage = Stage::new(settings);
    let mut out = String::new();
    let mut got = String::new();
    let mut skipping = false;
    for line in text.lines() {
        if line.starts_with('#') {
            writeln!(out, "{line}").unwrap();
        } else if line == "---" {
            writeln!(out, "---").unwrap();
            while let Some(response) = stage.source.poll_response(stage.now) {
                print_response(&response, &mut got);
            }
            out.push_str(if got.is_empty() { "(nothing)\n" } else { &got });
            got.clear();
            skipping = true;
        } else if line.is_empty() {
            out.push('\n');
            skipping = false;
        } else if !skipping {
            writeln!(out, "{line}").unwrap();
            stage.run(line, &mut got);
        }
    }
    out
}

#[test]
fn transcripts_are_what_happens() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/transcripts");
    let mut paths: Vec<_> = std::fs::read_dir(folder)
        .unwrap()
        .map(|entry| entry.unwrap().path())
        .collect();
    paths.sort();
    assert!(!paths.is_empty());
    for path in paths {
        let want = std::fs::read_to_string(&path).unwrap();
        let got = play(&want);
        if std::env::var_os("UPDATE").is_some() {
            std::fs::write(&path, got).unwrap();
        } else {
            assert_eq!(
                got,
                want,
                "{}: run with UPDATE=1 and review the diff",
                path.display()
            );
        }
    }
}
