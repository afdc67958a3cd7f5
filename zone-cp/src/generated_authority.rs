//! The authority that a zone makes for an identity: made once, and replaced before it ends.
//!
//! ```text
//! present ──four fifths of its life──▶ the next is made and trusted ──a day──▶ the next signs; the old one stays trusted
//! ```
//!
//! The day in between is for the others: every zone believes the next authority before anything is signed with it.

use std::time::Duration;

use jiff::{SignedDuration, Timestamp};
use zonal_identity::{Authority, Bundle, KeyType, TrustDomain, summarize};
use zonal_model::{Key, Kind, Resource};
use zonal_store::{Batch, Expect, Op, Revision, Snapshot};

use crate::authorities::{secret_spec, secret_text};

/// How long the next authority is trusted before it signs.
const TRUSTED_BEFORE_USE: Duration = Duration::from_secs(24 * 3600);

/// The authority to sign with now.
pub(crate) struct Generated {
    /// Its certificate, PEM.
    pub(crate) certificate: String,
    /// Its key, PEM.
    pub(crate) key: String,
    /// Of the secrets it was read from.
    pub(crate) revisions: (Revision, Revision),
    /// Whether it is kept already. One that is not must not sign yet: what is kept in the end may be another's.
    pub(crate) kept: bool,
    /// The certificate of the one that follows, to be trusted already.
    pub(crate) next: Option<String>,
    /// When to look again.
    pub(crate) due: Option<Timestamp>,
}

/// An authority as its secrets have it.
struct Kept {
    certificate: String,
    key: String,
    revisions: (Revision, Revision),
}

/// The secrets of one authority.
struct Place {
    certificate: Key,
    key: Key,
}

impl Place {
    fn new(identity: &Resource, infix: &str) -> Self {
        let key = |part: &str| {
            let name = format!("{}{infix}-{part}", identity.display_name());
            Key::new(Kind::Secret, &identity.key.mesh, name)
        };
        Self {
            certificate: key("root-ca"),
            key: key("private-key"),
        }
    }

    /// Certificate and key, where both are kept.
    fn read(&self, snapshot: &Snapshot) -> Result<Option<Kept>, String> {
        let (Some(certificate), Some(key)) =
            (snapshot.get(&self.certificate), snapshot.get(&self.key))
        else {
            return Ok(None);
        };
        Ok(Some(Kept {
            certificate: secret_text(&certificate.resource)?,
            key: secret_text(&key.resource)?,
            revisions: (certificate.revision, key.revision),
        }))
    }

    /// Another replica may be faster: then the whole batch is refused, and the next look takes what that one wrote.
    fn write(
        &self,
        snapshot: &Snapshot,
        owner: &Key,
        certificate: &str,
        key: &str,
        batch: &mut Batch,
    ) {
        for (place, text) in [(&self.certificate, certificate), (&self.key, key)] {
            let mut resource = Resource::new(place.clone(), secret_spec(text));
            resource.owner = Some(owner.clone());
            let expect = expect(snapshot, place);
            batch.ops.push(Op::Put { resource, expect });
        }
    }

    fn remove(&self, snapshot: &Snapshot, batch: &mut Batch) {
        for place in [&self.certificate, &self.key] {
            batch.ops.push(Op::Remove {
                key: place.clone(),
                expect: expect(snapshot, place),
            });
        }
    }
}

fn expect(snapshot: &Snapshot, key: &Key) -> Expect {
    snapshot
        .get(key)
        .map_or(Expect::Absent, |stored| Expect::Revision(stored.revision))
}

/// The authority of an identity, made or replaced where its time has come; what has to be written is added to `batch`.
///
/// # Errors
/// What is kept cannot be read, or the machine makes no key.
pub(crate) fn generated(
    snapshot: &Snapshot,
    identity: &Resource,
    domain: &TrustDomain,
    now: Timestamp,
    batch: &mut Batch,
) -> Result<Generated, String> {
    let place = Place::new(identity, "");
    let Some(Kept {
        certificate,
        key,
        revisions,
    }) = place.read(snapshot)?
    else {
        let (certificate, key) = make(domain, now)?;
        place.write(snapshot, &identity.key, &certificate, &key, batch);
        return Ok(not_kept(certificate, key));
    };
    let present = |next: Option<String>, due: Timestamp| Generated {
        certificate: certificate.clone(),
        key: key.clone(),
        revisions,
        kept: true,
        next,
        due: Some(due),
    };
    let life = life(&certificate)?;
    if now < life.renew_at() {
        return Ok(present(None, life.renew_at()));
    }
    let following = Place::new(identity, "-next");
    let Some(Kept {
        certificate: next,
        key: next_key,
        ..
    }) = following.read(snapshot)?
    else {
        let (next, next_key) = make(domain, now)?;
        if now >= life.end {
            // Too late for a day of grace: nothing the old one signed is believed any more.
            place.write(snapshot, &identity.key, &next, &next_key, batch);
            return Ok(not_kept(next, next_key));
        }
        following.write(snapshot, &identity.key, &next, &next_key, batch);
        return Ok(present(Some(next), later(now, TRUSTED_BEFORE_USE)));
    };
    let usable = later(self::life(&next)?.begin, TRUSTED_BEFORE_USE);
    if now < usable && now < life.end {
        return Ok(present(Some(next), usable));
    }
    place.write(snapshot, &identity.key, &next, &next_key, batch);
    following.remove(snapshot, batch);
    Ok(not_kept(next, next_key))
}

fn not_kept(certificate: String, key: String) -> Generated {
    Generated {
        certificate,
        key,
        revisions: (Revision::ZERO, Revision::ZERO),
        kept: false,
        next: None,
        due: None,
    }
}

fn make(domain: &TrustDomain, now: Timestamp) -> Result<(String, String), String> {
    let authority = Authority::generate(domain, KeyType::default(), now)
        .map_err(|error| format!("cannot make an authority: {error}"))?;
    Ok((
        authority.certificate_pem(),
        authority.key_pem().expose().clone(),
    ))
}

/// From when to when a certificate is good.
struct Life {
    begin: Timestamp,
    end: Timestamp,
}

impl Life {
    /// When the next one has to be made: after four fifths.
    fn renew_at(&self) -> Timestamp {
        let seconds = self.end.as_second() - self.begin.as_second();
        Timestamp::from_second(self.begin.as_second() + seconds * 4 / 5).unwrap_or(self.end)
    }
}

fn life(pem: &str) -> Result<Life, String> {
    let bundle = Bundle::parse(pem).map_err(|error| error.to_string())?;
    let certificate = bundle
        .certificates()
        .next()
        .ok_or("there is no certificate")?;
    let summary = summarize(certificate)?;
    Ok(Life {
        begin: summary.not_before,
        end: summary.not_after,
    })
}

fn later(at: Timestamp, by: Duration) -> Timestamp {
    SignedDuration::try_from(by)
        .ok()
        .and_then(|by| at.checked_add(by).ok())
        .unwrap_or(at)
}

/// Whether every certificate of a bundle has ended: it can go.
pub(crate) fn is_over(pem: &str, now: Timestamp) -> bool {
    Bundle::parse(pem).is_ok_and(|bundle| {
        !bundle.is_empty()
            && bundle.certificates().all(|certificate| {
                summarize(certificate).is_ok_and(|summary| summary.not_after <= now)
            })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::sync::Arc;
    use zonal_model::Json;
    use zonal_store::{MemoryStore, Store as _};

    const DAY: i64 = 24 * 3600;
    const YEAR: i64 = 365 * DAY;

    fn at(second: i64) -> Timestamp {
        Timestamp::from_second(1_700_000_000 + second).unwrap()
    }

    struct World {
        store: MemoryStore,
        identity: Resource,
    }

    impl World {
        fn new() -> Self {
            let key = Key::new(Kind::MeshIdentity, "default", "identity");
            Self {
                store: MemoryStore::new(Arc::new(|| at(0))),
                identity: Resource::new(key, Json::empty_object()),
            }
        }

        /// Looks once and keeps what is to be written.
        fn look(&self, second: i64) -> Generated {
            let domain = "default.east.mesh.local".parse().unwrap();
            let mut batch = Batch::new();
            let found = generated(
                &self.store.snapshot(),
                &self.identity,
                &domain,
                at(second),
                &mut batch,
            )
            .unwrap();
            self.store.commit_now(batch).unwrap();
            found
        }
    }

    #[test]
    fn a_new_authority_signs_only_when_it_is_kept() {
        let world = World::new();
        assert!(!world.look(0).kept);
        let kept = world.look(1);
        assert!(kept.kept && kept.next.is_none());
        assert_eq!(
            kept.certificate,
            world.look(2).certificate,
            "it stays the same"
        );
    }

    #[test]
    fn the_next_is_trusted_for_a_day_before_it_signs() {
        let world = World::new();
        world.look(0);
        let old = world.look(1);
        let late = 8 * YEAR + 10 * DAY;
        let first = world.look(late);
        assert_eq!(first.certificate, old.certificate);
        let next = first.next.expect("it is made");
        assert_eq!(world.look(late + DAY / 2).certificate, old.certificate);
        assert_eq!(world.look(late + DAY / 2).next.as_ref(), Some(&next));
        world.look(late + DAY + 60);
        let now = world.look(late + DAY + 61);
        assert_eq!(now.certificate, next);
        assert!(now.kept && now.next.is_none());
        assert_eq!(
            world.store.snapshot().count(Kind::Secret),
            2,
            "nothing is left over"
        );
    }

    #[test]
    fn one_that_has_ended_is_replaced_at_once() {
        let world = World::new();
        world.look(0);
        let old = world.look(1).certificate;
        let late = 11 * YEAR;
        assert!(is_over(&old, at(late)));
        world.look(late);
        let new = world.look(late + 1);
        assert!(new.kept && new.certificate != old);
    }
}
