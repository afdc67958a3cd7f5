//! Join tokens as they are kept: what is left of each, until when it is good, and whether it was used.

use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use jiff::{SignedDuration, Timestamp};
use serde::{Deserialize, Serialize};
use serde_json::json;
use zonal_identity::join::{JoinToken, same_digest, secret_digest};
use zonal_model::{Json, Key, Kind, Resource};
use zonal_store::{Batch, Expect, Revision, Snapshot};

/// How long a token that has ended is remembered, so that whoever comes with it is told why it is not good.
const REMEMBERED: SignedDuration = SignedDuration::from_hours(7 * 24);

/// The names of the secrets start with this; none of them goes to a zone.
const PREFIX: &str = "zonal-zone-join-";

/// What is kept of a token.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Record {
    pub(super) zone: String,
    digest: String,
    expires: Timestamp,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    used: Option<Use>,
}

/// Who traded it.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase")]
pub(super) struct Use {
    pub(super) at: Timestamp,
    /// The control plane, as it calls itself.
    pub(super) instance: String,
    pub(super) address: String,
    /// The key for which a certificate was given.
    pub(super) key: String,
}

/// A token that is good for whoever shows it, and the revision of what is kept of it.
#[derive(Clone, Debug)]
pub(super) struct Good {
    key: Key,
    revision: Revision,
    record: Record,
}

/// Why a token is not good. Whoever does not know the secret learns nothing but [`Refused::Unknown`].
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refused {
    #[error(
        "this join token is not known here: it was altered, deleted, or made by another federation; `zonal zone \
         join-token ZONE` at global makes a new one"
    )]
    Unknown,
    #[error("this join token is for zone `{token}`, and the control plane calls itself `{caller}`")]
    OtherName { token: String, caller: String },
    #[error(
        "the join token of zone `{zone}` expired at {at:.0}; `zonal zone join-token {zone}` at global makes a new one"
    )]
    Expired { zone: String, at: Timestamp },
    #[error(
        "the join token of zone `{zone}` was used at {at:.0} by control plane `{instance}` at {address}, and each is good \
         once; `zonal zone join-token {zone}` at global makes a new one"
    )]
    Used {
        zone: String,
        at: Timestamp,
        instance: String,
        address: String,
    },
}

/// Keeps a new token; with it goes the note that its zone was deleted, and what is left of very old tokens.
pub(super) fn issue(
    snapshot: &Snapshot,
    token: &JoinToken,
    lifetime: Duration,
    now: Timestamp,
) -> (Batch, Timestamp) {
    let expires = now
        .checked_add(SignedDuration::try_from(lifetime).unwrap_or(SignedDuration::MAX))
        .unwrap_or(Timestamp::MAX);
    let record = Record {
        zone: token.zone.clone(),
        digest: secret_digest(token.secret.expose()),
        expires,
        used: None,
    };
    let mut batch = Batch {
        ops: vec![zonal_kds::forget_deletion(&token.zone)],
    };
    for stored in snapshot.list(Kind::GlobalSecret) {
        let forgotten = read(&stored.resource)
            .is_some_and(|record| now.duration_since(record.expires) > REMEMBERED);
        if forgotten {
            batch = batch.remove(stored.resource.key.clone());
        }
    }
    let key = key(&token.id);
    (batch.put_if(secret(key, &record), Expect::Absent), expires)
}

/// What is kept of a token, if the caller knows its secret: one look-up and one digest, whatever is shown.
pub(super) fn known(
    snapshot: &Snapshot,
    (id, secret): (&str, &str),
) -> Result<(Revision, Record), Refused> {
    let shown = secret_digest(secret);
    let stored = snapshot.get(&key(id));
    let found = stored.and_then(|stored| Some((stored.revision, read(&stored.resource)?)));
    found
        .filter(|(_, record)| same_digest(&record.digest, &shown))
        .ok_or(Refused::Unknown)
}

/// Whether a token is good for a zone that calls itself `caller` and asks for a certificate for `zone_key`.
///
/// The same key may come again: its first answer may have been lost, and the certificate is of use to nobody else.
pub(super) fn judge(
    snapshot: &Snapshot,
    (id, secret): (&str, &str),
    caller: &str,
    zone_key: &str,
    now: Timestamp,
) -> Result<Good, Refused> {
    let (revision, record) = known(snapshot, (id, secret))?;
    let zone = record.zone.clone();
    if zone != caller {
        return Err(Refused::OtherName {
            token: zone,
            caller: caller.to_owned(),
        });
    }
    if record.expires <= now {
        let at = record.expires;
        return Err(Refused::Expired { zone, at });
    }
    match &record.used {
        Some(used) if used.key != zone_key => Err(Refused::Used {
            zone,
            at: used.at,
            instance: used.instance.clone(),
            address: used.address.clone(),
        }),
        _ => Ok(Good {
            key: key(id),
            revision,
            record,
        }),
    }
}

impl Good {
    /// Marks the token as used, on the condition that nobody else did meanwhile; `None` when the same key did before.
    pub(super) fn mark(&self, by: Use) -> Option<Batch> {
        if self.record.used.is_some() {
            return None;
        }
        let record = Record {
            used: Some(by),
            ..self.record.clone()
        };
        let secret = secret(self.key.clone(), &record);
        Some(Batch::new().put_if(secret, Expect::Revision(self.revision)))
    }
}

fn key(id: &str) -> Key {
    Key::global(Kind::GlobalSecret, format!("{PREFIX}{id}"))
}

/// It goes when its zone is deleted.
fn secret(key: Key, record: &Record) -> Resource {
    // Text and times always make JSON.
    let text = serde_json::to_string(record).unwrap_or_default();
    let spec = json!({ "data": STANDARD.encode(text) });
    let mut secret = Resource::new(key, Json::from_value(&spec));
    secret.owner = Some(Key::global(Kind::Zone, &*record.zone));
    secret
}

fn read(secret: &Resource) -> Option<Record> {
    if !secret.key.name.starts_with(PREFIX) {
        return None;
    }
    let spec = secret.spec.to_value();
    let bytes = STANDARD.decode(spec.get("data")?.as_str()?).ok()?;
    serde_json::from_slice(&bytes).ok()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use zonal_store::{MemoryStore, Store as _, StoreError};

    const HOUR: Duration = Duration::from_secs(3600);

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    fn store() -> MemoryStore {
        MemoryStore::new(Arc::new(|| at(0)))
    }

    fn issued(store: &MemoryStore) -> JoinToken {
        let token = JoinToken::new("east", "grpcs://g:5685", "sha256:ab");
        let (batch, expires) = issue(&store.snapshot(), &token, HOUR, at(0));
        assert_eq!(expires, at(3600));
        store.commit_now(batch).unwrap();
        token
    }

    fn shown(token: &JoinToken) -> (&str, &str) {
        (&token.id, token.secret.expose())
    }

    fn by(key: &str) -> Use {
        Use {
            at: at(5),
            instance: "host-1".to_owned(),
            address: "10.0.0.5".to_owned(),
            key: key.to_owned(),
        }
    }

    #[track_caller]
    fn check(store: &MemoryStore, shown: (&str, &str), caller: &str, second: i64, want: &str) {
        let judged = judge(&store.snapshot(), shown, caller, "other key", at(second));
        let told = judged.unwrap_err().to_string();
        assert!(told.starts_with(want), "{told}");
    }

    #[test]
    fn each_wrong_token_has_its_own_sentence() {
        let store = store();
        let token = issued(&store);
        judge(&store.snapshot(), shown(&token), "east", "key", at(1)).unwrap();
        let forged = (token.id.as_str(), "guessed");
        check(
            &store,
            forged,
            "east",
            1,
            "this join token is not known here",
        );
        let stranger = ("nobody", token.secret.expose().as_str());
        check(
            &store,
            stranger,
            "east",
            1,
            "this join token is not known here",
        );
        check(
            &store,
            shown(&token),
            "west",
            1,
            "this join token is for zone `east`, and the control plane calls itself `west`",
        );
        check(
            &store,
            shown(&token),
            "east",
            3600,
            "the join token of zone `east` expired at 2023-11-14T23:13:20Z",
        );
        // Whoever does not know the secret is not told what is wrong beside it.
        check(
            &store,
            forged,
            "west",
            9999,
            "this join token is not known here",
        );
        let kept = store.snapshot();
        let kept = kept.list(Kind::GlobalSecret).next().unwrap();
        let text = STANDARD
            .decode(kept.resource.spec.to_value()["data"].as_str().unwrap())
            .unwrap();
        assert!(
            !String::from_utf8(text)
                .unwrap()
                .contains(token.secret.expose()),
            "the secret itself is not kept"
        );
    }

    #[test]
    fn of_two_racing_trades_one_wins() {
        let store = store();
        let token = issued(&store);
        let judged = |key| judge(&store.snapshot(), shown(&token), "east", key, at(1));
        let (first, second) = (judged("a").unwrap(), judged("b").unwrap());
        store.commit_now(first.mark(by("a")).unwrap()).unwrap();
        let lost = store.commit_now(second.mark(by("b")).unwrap());
        assert!(matches!(lost, Err(StoreError::Conflict { .. })), "{lost:?}");
        check(
            &store,
            shown(&token),
            "east",
            6,
            "the join token of zone `east` was used at 2023-11-14T22:13:25Z by control plane `host-1` at 10.0.0.5",
        );
        // The winner may ask again, and nothing is written then.
        assert!(judged("a").unwrap().mark(by("a")).is_none());
    }

    #[test]
    fn a_token_goes_with_its_zone_and_long_after_its_end() {
        let store = store();
        let token = issued(&store);
        store
            .commit_now(Batch::new().put(zonal_kds::zone_record("east")))
            .unwrap();
        store
            .commit_now(Batch::new().remove(Key::global(Kind::Zone, "east")))
            .unwrap();
        check(
            &store,
            shown(&token),
            "east",
            1,
            "this join token is not known here",
        );

        let old = issued(&store);
        let week = 7 * 24 * 3600 + 3601;
        let newer = JoinToken::new("west", "grpcs://g:5685", "sha256:ab");
        let (batch, _) = issue(&store.snapshot(), &newer, HOUR, at(week));
        store.commit_now(batch).unwrap();
        assert_eq!(store.snapshot().count(Kind::GlobalSecret), 1);
        check(
            &store,
            shown(&old),
            "east",
            week,
            "this join token is not known here",
        );
    }
}
