//! A stream of changes, a line of JSON each.
//!
//! ```text
//! {"event":"put","revision":12,"resource":{...}}
//! {"event":"removed","revision":13,"key":{"type":"MeshTimeout","mesh":"default","name":"slow"}}
//! {"event":"synced","epoch":"…","revision":13}
//! ```
//!
//! A `synced` line ends each group: whoever read so far has the state of that revision. The stream begins with
//! everything there is, or with `since` and `epoch` of an earlier `synced` line with what changed after it.

use std::collections::{BTreeSet, VecDeque};
use std::convert::Infallible;
use std::sync::Arc;

use axum::body::Body;
use axum::response::Response;
use bytes::Bytes;
use http::{HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::{Value, json};
use tokio::sync::OwnedSemaphorePermit;
use tokio_util::sync::CancellationToken;
use zonal_model::{Key, Kind, RestJson};
use zonal_store::{Revision, Snapshot, Stored, Watch};

use crate::call::Call;
use crate::problem::Problem;
use crate::reply;
use crate::resources::{key_json, may_see};
use crate::state::RestState;

/// What a watcher wants to see.
struct Scope {
    kinds: BTreeSet<Kind>,
    mesh: Option<String>,
}

impl Scope {
    fn has(&self, key: &Key) -> bool {
        self.kinds.contains(&key.kind)
            && self
                .mesh
                .as_ref()
                .is_none_or(|mesh| key.mesh.is_empty() || *key.mesh == **mesh)
    }
}

#[derive(Serialize)]
struct Put<'a> {
    event: &'static str,
    revision: Revision,
    resource: RestJson<'a>,
}

/// One line to be.
enum Event {
    Put(Arc<Stored>),
    Removed(Key, Revision),
    Synced(Arc<Snapshot>),
}

/// How much is printed ahead of a slow reader.
const CHUNK_BYTES: usize = 64 << 10;

/// Events not yet sent, and where the next come from. A reader that is slow costs pointers, not text.
struct Feed {
    scope: Scope,
    watch: Watch,
    pending: VecDeque<Event>,
    stop: CancellationToken,
    _permit: OwnedSemaphorePermit,
}

pub(crate) async fn get(state: Arc<RestState>, call: Call) -> Result<Response, Problem> {
    let scope = Scope {
        kinds: kinds(&state, &call)?,
        mesh: call.query.get("mesh").map(str::to_owned),
    };
    let permit = Arc::clone(&state.watchers)
        .try_acquire_owned()
        .map_err(|_full| Problem::unavailable("too many are watching or waiting"))?;
    let watch = state.store.watch();
    let pending = first(&scope, watch.seen(), &call)?;
    let revision = watch.seen().revision();
    let feed = Feed {
        scope,
        watch,
        pending,
        stop: state.stop.clone(),
        _permit: permit,
    };
    let lines = futures::stream::unfold(feed, async |mut feed| {
        let lines = feed.next().await?;
        Some((Ok::<Bytes, Infallible>(lines), feed))
    });
    let mut response = Response::new(Body::from_stream(lines));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    Ok(reply::with_revision(response, revision))
}

impl Feed {
    /// The next lines; `None` when the process stops.
    async fn next(&mut self) -> Option<Bytes> {
        while self.pending.is_empty() {
            let changes = tokio::select! {
                changes = self.watch.next() => changes.ok()?,
                () = self.stop.cancelled() => return None,
            };
            let revision = changes.to.revision();
            for kind in &self.scope.kinds {
                for change in changes.to.changes_of_kind_since(*kind, &changes.from) {
                    if self.scope.has(&change.key) {
                        self.pending.push_back(match change.new {
                            Some(stored) => Event::Put(stored),
                            None => Event::Removed(change.key, revision),
                        });
                    }
                }
            }
            if !self.pending.is_empty() {
                self.pending.push_back(Event::Synced(changes.to));
            }
        }
        let mut lines = Vec::new();
        while lines.len() < CHUNK_BYTES
            && let Some(event) = self.pending.pop_front()
        {
            match event {
                Event::Put(stored) => put(&mut lines, &stored),
                Event::Removed(key, revision) => removed(&mut lines, &key, revision),
                Event::Synced(snapshot) => synced(&mut lines, &snapshot),
            }
        }
        Some(Bytes::from(lines))
    }
}

fn kinds(state: &RestState, call: &Call) -> Result<BTreeSet<Kind>, Problem> {
    let Some(names) = call.query.get("kinds").filter(|names| !names.is_empty()) else {
        return Ok(Kind::ALL
            .iter()
            .copied()
            .filter(|kind| may_see(state, &call.user, *kind))
            .collect());
    };
    names
        .split(',')
        .map(|name| {
            let name = name.trim();
            let kind: Kind = name
                .parse()
                .ok()
                .or_else(|| Kind::by_path(name))
                .ok_or_else(|| {
                    Problem::bad_request(format!("bad request: unknown resource type `{name}`"))
                })?;
            state.access.check_kind(&call.user, kind)?;
            Ok(kind)
        })
        .collect()
}

/// What the stream begins with.
fn first(scope: &Scope, snapshot: &Arc<Snapshot>, call: &Call) -> Result<VecDeque<Event>, Problem> {
    let mut events = VecDeque::new();
    let since = call.query.get("since").filter(|since| !since.is_empty());
    let since = match since {
        None => Revision::ZERO,
        Some(text) => text.parse().map(Revision).map_err(|_error| {
            Problem::bad_request(format!("bad request: `since={text}` is no revision"))
        })?,
    };
    if since > Revision::ZERO {
        let same_epoch = call
            .query
            .get("epoch")
            .is_none_or(|epoch| epoch == snapshot.epoch().as_str());
        let removals = snapshot.tombstones_since(since).filter(|_| same_epoch).ok_or_else(|| {
            Problem::new(
                StatusCode::GONE,
                "Could not retrieve resources",
                format!("revision {since} is too long ago or of another store: watch without `since`"),
            )
        })?;
        for (key, revision) in removals.into_iter().filter(|(key, _)| scope.has(key)) {
            events.push_back(Event::Removed(key, revision));
        }
    }
    for kind in &scope.kinds {
        for stored in snapshot.list(*kind) {
            if stored.revision > since && scope.has(&stored.resource.key) {
                events.push_back(Event::Put(Arc::clone(stored)));
            }
        }
    }
    events.push_back(Event::Synced(Arc::clone(snapshot)));
    Ok(events)
}

fn put(lines: &mut Vec<u8>, stored: &Stored) {
    let resource = stored.resource.to_rest();
    line(
        lines,
        &Put {
            event: "put",
            revision: stored.revision,
            resource,
        },
    );
}

fn removed(lines: &mut Vec<u8>, key: &Key, revision: Revision) {
    let value: Value = json!({"event": "removed", "revision": revision, "key": key_json(key)});
    line(lines, &value);
}

fn synced(lines: &mut Vec<u8>, snapshot: &Snapshot) {
    let value: Value = json!({
        "event": "synced",
        "revision": snapshot.revision(),
        "epoch": snapshot.epoch().as_str(),
    });
    line(lines, &value);
}

fn line<T: Serialize>(lines: &mut Vec<u8>, value: &T) {
    let before = lines.len();
    if let Err(error) = serde_json::to_writer(&mut *lines, value) {
        tracing::error!(%error, "a change cannot be printed");
        lines.truncate(before);
        return;
    }
    lines.push(b'\n');
}
