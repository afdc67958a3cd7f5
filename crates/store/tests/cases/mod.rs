use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{
    Batch, ConflictReason, Expect, Outcome, Revision, Snapshot, Store, StoreError, Stored,
};

type Shared = Arc<dyn Store>;

/// Longer than any healthy machine needs; only a failing test waits for it.
const DEADLINE: Duration = Duration::from_secs(60);

fn timeout(mesh: &str, name: &str, spec: &str) -> Resource {
    Resource::new(
        Key::new(Kind::MeshTimeout, mesh, name),
        Json::parse(spec).unwrap(),
    )
}

fn mesh(name: &str) -> Resource {
    Resource::new(Key::global(Kind::Mesh, name), Json::empty_object())
}

fn key(name: &str) -> Key {
    Key::new(Kind::MeshTimeout, "default", name)
}

fn names(snapshot: &Snapshot, kind: Kind) -> Vec<String> {
    snapshot
        .list(kind)
        .map(|stored| stored.resource.key.to_string())
        .collect()
}

pub(crate) async fn starts_empty(store: Shared) {
    let snapshot = store.snapshot();
    assert_eq!(snapshot.revision(), Revision::ZERO);
    assert!(!snapshot.epoch().as_str().is_empty());
    assert_eq!(snapshot.all().count(), 0);
}

pub(crate) async fn keeps_and_reads(store: Shared) {
    let batch = Batch::new()
        .put(timeout("b", "two", "{}"))
        .put(timeout("a", "three", "{}"))
        .put(timeout("a", "one", r#"{"x":1}"#))
        .put(mesh("a"));
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.revision, Revision(1));
    assert_eq!(committed.outcomes, [Outcome::Created; 4]);
    let snapshot = store.snapshot();
    assert_eq!(snapshot.revision(), Revision(1));
    assert_eq!(
        names(&snapshot, Kind::MeshTimeout),
        [
            "MeshTimeout a/one",
            "MeshTimeout a/three",
            "MeshTimeout b/two"
        ],
        "ordered by mesh, then name"
    );
    let in_mesh: Vec<_> = snapshot
        .list_in_mesh(Kind::MeshTimeout, "a")
        .map(|stored| stored.resource.key.name.to_string())
        .collect();
    assert_eq!(in_mesh, ["one", "three"]);
    assert_eq!(snapshot.list_in_mesh(Kind::Mesh, "").count(), 1);
    let one = snapshot
        .get(&Key::new(Kind::MeshTimeout, "a", "one"))
        .unwrap();
    assert_eq!(one.resource.spec.as_str(), r#"{"x":1}"#);
    assert_eq!((one.revision, one.created), (Revision(1), Revision(1)));

    let mut changed = timeout("a", "one", r#"{"x":2}"#);
    changed.status = Some(Json::parse(r#"{"seen":true}"#).unwrap());
    changed.meta.labels.insert("k".into(), "v".into());
    let committed = store
        .commit(Batch::new().put(changed.clone()))
        .await
        .unwrap();
    assert_eq!(committed.outcomes, [Outcome::Updated]);
    let snapshot = store.snapshot();
    let one: &Arc<Stored> = snapshot.get(&changed.key).unwrap();
    assert!(!one.resource.differs(&changed), "{one:?}");
    assert_eq!((one.revision, one.created), (Revision(2), Revision(1)));
}

pub(crate) async fn refuses_what_does_not_meet_its_condition(store: Shared) {
    store
        .commit(Batch::new().put(timeout("default", "a", "{}")))
        .await
        .unwrap();
    let check = async |batch: Batch, want: ConflictReason| {
        let before = store.snapshot().revision();
        match store.commit(batch).await {
            Err(StoreError::Conflict {
                index: 0,
                key: found,
                reason,
            }) => {
                assert_eq!(reason, want, "{found}");
            }
            other => panic!("wanted {want:?}, got {other:?}"),
        }
        assert_eq!(store.snapshot().revision(), before);
    };
    let one = Revision(1);
    let a = || timeout("default", "a", r#"{"n":1}"#);
    let b = || timeout("default", "b", "{}");
    check(
        Batch::new().put_if(a(), Expect::Absent),
        ConflictReason::Exists { found: one },
    )
    .await;
    check(
        Batch::new().put_if(a(), Expect::Revision(Revision(7))),
        ConflictReason::Moved {
            expected: Revision(7),
            found: one,
        },
    )
    .await;
    check(
        Batch::new().put_if(b(), Expect::Revision(one)),
        ConflictReason::Missing,
    )
    .await;
    check(
        Batch::new().remove_if(key("b"), Expect::Revision(one)),
        ConflictReason::Missing,
    )
    .await;
    check(
        Batch::new().remove_if(key("a"), Expect::Revision(Revision(9))),
        ConflictReason::Moved {
            expected: Revision(9),
            found: one,
        },
    )
    .await;
    store
        .commit(Batch::new().put_if(a(), Expect::Revision(one)))
        .await
        .unwrap();
    store
        .commit(Batch::new().put_if(b(), Expect::Absent))
        .await
        .unwrap();
    store
        .commit(Batch::new().remove_if(key("a"), Expect::Revision(Revision(2))))
        .await
        .unwrap();
    assert_eq!(
        names(&store.snapshot(), Kind::MeshTimeout),
        ["MeshTimeout default/b"]
    );
}

pub(crate) async fn keeps_a_batch_whole_or_not_at_all(store: Shared) {
    store
        .commit(Batch::new().put(timeout("default", "old", "{}")))
        .await
        .unwrap();
    let batch = Batch::new()
        .put(timeout("default", "new", "{}"))
        .remove(key("old"))
        .put_if(
            timeout("default", "other", "{}"),
            Expect::Revision(Revision(1)),
        );
    match store.commit(batch).await {
        Err(StoreError::Conflict { index: 2, .. }) => {}
        other => panic!("{other:?}"),
    }
    assert_eq!(
        names(&store.snapshot(), Kind::MeshTimeout),
        ["MeshTimeout default/old"]
    );

    // A later operation sees what an earlier one did.
    let batch = Batch::new()
        .put_if(timeout("default", "x", "{}"), Expect::Absent)
        .put_if(
            timeout("default", "x", r#"{"n":2}"#),
            Expect::Revision(Revision(2)),
        )
        .put(timeout("default", "brief", "{}"))
        .remove(key("brief"));
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(
        committed.outcomes,
        [
            Outcome::Created,
            Outcome::Updated,
            Outcome::Created,
            Outcome::Removed
        ]
    );
    assert_eq!(committed.revision, Revision(2), "one batch, one revision");
    assert_eq!(
        committed
            .snapshot
            .get(&key("x"))
            .unwrap()
            .resource
            .spec
            .as_str(),
        r#"{"n":2}"#
    );
    assert!(committed.snapshot.get(&key("brief")).is_none());
}

pub(crate) async fn makes_no_revision_for_no_change(store: Shared) {
    store
        .commit(Batch::new().put(timeout("default", "a", "{}")))
        .await
        .unwrap();
    let batch = Batch::new()
        .put(timeout("default", "a", "{}"))
        .remove(key("absent"));
    let committed = store.commit(batch).await.unwrap();
    assert_eq!(committed.outcomes, [Outcome::Unchanged; 2]);
    assert_eq!(committed.revision, Revision(1));
    assert_eq!(store.snapshot().revision(), Revision(1));
    let batch = Batch::new()
        .put(timeout("default", "b", "{}"))
        .remove(key("b"));
    assert_eq!(
        store.commit(batch).await.unwrap().revision,
        Revision(1),
        "came and went"
    );
    assert_eq!(
        store.commit(Batch::new()).await.unwrap().revision,
        Revision(1)
    );
}

pub(crate) async fn removes_what_is_owned(store: Shared) {
    let dataplane = Key::new(Kind::Dataplane, "default", "dp");
    let insight = Key::new(Kind::DataplaneInsight, "default", "dp");
    let mut secret = Resource::new(
        Key::new(Kind::Secret, "default", "ca"),
        Json::empty_object(),
    );
    let identity = Key::new(Kind::MeshIdentity, "default", "id");
    secret.owner = Some(identity.clone());
    let empty = Json::empty_object;
    let fill = || {
        Batch::new()
            .put(mesh("default"))
            .put(mesh("other"))
            .put(Resource::new(dataplane.clone(), empty()))
            .put(Resource::new(insight.clone(), empty()))
            .put(Resource::new(identity.clone(), empty()))
            .put(secret.clone())
            .put(timeout("default", "t", "{}"))
            .put(timeout("other", "t", "{}"))
    };
    store.commit(fill()).await.unwrap();
    let committed = store
        .commit(Batch::new().remove(dataplane.clone()))
        .await
        .unwrap();
    assert_eq!(committed.cascaded, std::slice::from_ref(&insight));
    assert!(store.snapshot().get(&insight).is_none());
    let committed = store
        .commit(Batch::new().remove(identity.clone()))
        .await
        .unwrap();
    assert_eq!(committed.cascaded, std::slice::from_ref(&secret.key));

    store.commit(fill()).await.unwrap();
    let before = store.snapshot();
    store
        .commit(Batch::new().remove(Key::global(Kind::Mesh, "default")))
        .await
        .unwrap();
    let left: Vec<_> = store
        .snapshot()
        .all()
        .map(|stored| stored.resource.key.to_string())
        .collect();
    assert_eq!(left, ["Mesh other", "MeshTimeout other/t"]);
    assert_eq!(
        store.snapshot().changes_since(&before).len(),
        6,
        "all in one revision"
    );
    assert_eq!(store.snapshot().revision(), before.revision().next());

    // An owner that was replaced owns nothing any more.
    let orphan = Resource {
        owner: None,
        ..secret.clone()
    };
    store.commit(fill()).await.unwrap();
    store
        .commit(Batch::new().put(orphan).remove(identity.clone()))
        .await
        .unwrap();
    assert!(store.snapshot().get(&secret.key).is_some());
}

pub(crate) async fn shows_an_old_snapshot_as_it_was(store: Shared) {
    store
        .commit(
            Batch::new()
                .put(timeout("default", "a", "{}"))
                .put(timeout("default", "b", "{}")),
        )
        .await
        .unwrap();
    let old = store.snapshot();
    store
        .commit(
            Batch::new()
                .put(timeout("default", "a", r#"{"n":1}"#))
                .remove(key("b"))
                .put(timeout("default", "c", "{}")),
        )
        .await
        .unwrap();
    assert_eq!(old.get(&key("a")).unwrap().resource.spec.as_str(), "{}");
    assert_eq!(
        names(&old, Kind::MeshTimeout),
        ["MeshTimeout default/a", "MeshTimeout default/b"]
    );
    let changes = store.snapshot().changes_since(&old);
    let told: Vec<_> = changes
        .iter()
        .map(|c| (c.key.name.to_string(), c.old.is_some(), c.new.is_some()))
        .collect();
    let want = [("a", true, true), ("b", true, false), ("c", false, true)];
    assert_eq!(
        told,
        want.map(|(name, old, new)| (name.to_owned(), old, new))
    );
    assert!(store.snapshot().same_kind(Kind::Mesh, &old));
    assert!(!store.snapshot().same_kind(Kind::MeshTimeout, &old));
}

pub(crate) async fn remembers_removals(store: Shared) {
    store
        .commit(
            Batch::new()
                .put(timeout("default", "a", "{}"))
                .put(timeout("default", "b", "{}")),
        )
        .await
        .unwrap();
    store.commit(Batch::new().remove(key("a"))).await.unwrap();
    store.commit(Batch::new().remove(key("b"))).await.unwrap();
    store
        .commit(Batch::new().put(timeout("default", "a", "{}")))
        .await
        .unwrap();
    let snapshot = store.snapshot();
    assert_eq!(
        snapshot.tombstones_since(Revision(1)),
        Some(vec![(key("b"), Revision(3))]),
        "what came back is not gone"
    );
    assert_eq!(snapshot.tombstones_since(Revision(3)), Some(vec![]));
    assert_eq!(
        snapshot.tombstones_since(Revision(99)),
        None,
        "a revision of the future"
    );
}

/// Four writers write as fast as they can while watchers of different speed rebuild the state from differences.
pub(crate) async fn watches_without_loss_under_many_writers(store: Shared) {
    const WRITERS: usize = 4;
    const WRITES: usize = 100;
    let follow = |slow: bool| {
        let mut watch = store.watch();
        tokio::spawn(async move {
            let mut state: BTreeMap<Key, Arc<Stored>> = BTreeMap::new();
            let mut revision = watch.seen().revision();
            loop {
                let changes = watch.next().await.unwrap();
                assert_eq!(changes.from.revision(), revision, "no gap");
                assert!(changes.to.revision() > revision, "no way back");
                revision = changes.to.revision();
                for change in changes.list() {
                    assert_eq!(
                        state.get(&change.key),
                        change.old.as_ref(),
                        "{}",
                        change.key
                    );
                    match change.new {
                        Some(new) => state.insert(change.key, new),
                        None => state.remove(&change.key),
                    };
                }
                if state.contains_key(&key("last")) {
                    return state;
                }
                if slow {
                    for _ in 0..50 {
                        tokio::task::yield_now().await;
                    }
                }
            }
        })
    };
    let watchers = [follow(false), follow(true), follow(true)];
    let writers: Vec<_> = (0..WRITERS)
        .map(|writer| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut last = Revision::ZERO;
                for n in 0..WRITES {
                    let name = format!("w{writer}-{}", n % 7);
                    let batch = if n % 5 == 4 {
                        Batch::new().remove(key(&name))
                    } else {
                        Batch::new().put(timeout("default", &name, &format!(r#"{{"n":{n}}}"#)))
                    };
                    let committed = store.commit(batch).await.unwrap();
                    assert!(committed.revision >= last, "a writer's revisions rise");
                    assert!(
                        store.snapshot().revision() >= committed.revision,
                        "kept before told"
                    );
                    last = committed.revision;
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    store
        .commit(Batch::new().put(timeout("default", "last", "{}")))
        .await
        .unwrap();
    let snapshot = store.snapshot();
    let want: BTreeMap<_, _> = snapshot
        .all()
        .map(|stored| (stored.resource.key.clone(), Arc::clone(stored)))
        .collect();
    for watcher in watchers {
        let state = tokio::time::timeout(DEADLINE, watcher)
            .await
            .expect("every watcher sees the last write")
            .unwrap();
        assert_eq!(state, want);
    }
}

pub(crate) async fn lets_one_of_many_racing_writers_win(store: Shared) {
    store
        .commit(Batch::new().put(timeout("default", "a", r#"{"n":0}"#)))
        .await
        .unwrap();
    let writers: Vec<_> = (0..4)
        .map(|_| {
            let store = Arc::clone(&store);
            tokio::spawn(async move {
                let mut done = 0;
                while done < 25 {
                    let snapshot = store.snapshot();
                    let stored = snapshot.get(&key("a")).unwrap();
                    let n = stored.resource.spec.to_value()["n"].as_u64().unwrap();
                    let next = timeout("default", "a", &format!(r#"{{"n":{}}}"#, n + 1));
                    let batch = Batch::new().put_if(next, Expect::Revision(stored.revision));
                    match store.commit(batch).await {
                        Ok(_) => done += 1,
                        Err(StoreError::Conflict {
                            reason: ConflictReason::Moved { .. },
                            ..
                        }) => {}
                        Err(other) => panic!("{other}"),
                    }
                }
            })
        })
        .collect();
    for writer in writers {
        writer.await.unwrap();
    }
    let snapshot = store.snapshot();
    assert_eq!(
        snapshot.get(&key("a")).unwrap().resource.spec.as_str(),
        r#"{"n":100}"#
    );
    assert_eq!(snapshot.revision(), Revision(101));
}

pub(crate) async fn watches_from_an_older_state(store: Shared) {
    let old = store.snapshot();
    store
        .commit(Batch::new().put(timeout("default", "a", "{}")))
        .await
        .unwrap();
    let mut watch = store.watch().from(Arc::clone(&old));
    let changes = tokio::time::timeout(DEADLINE, watch.next())
        .await
        .expect("there is a difference already")
        .unwrap();
    assert_eq!(
        (changes.from.revision(), changes.to.revision()),
        (Revision(0), Revision(1))
    );
    assert_eq!(changes.list().len(), 1);
}
