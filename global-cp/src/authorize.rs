//! Which zone a connection may speak for.

use std::collections::BTreeSet;
use std::sync::Arc;

use jiff::SignedDuration;
use parking_lot::Mutex;
use tonic::Status;
use tonic::metadata::MetadataMap;
use tracing::warn;
use zonal_identity::token::{self, KeyRing, TokenKind};
use zonal_model::{Kind, ZoneName};
use zonal_process::Clock;
use zonal_rest::tokens::key_ring;
use zonal_store::{Snapshot, Store};

use crate::joining::vouched;
use crate::kds::{Authorize, Caller};

/// Checks what a zone says about itself: its name against its certificate, or its token. A zone on the list needs
/// neither, because a Kuma zone cannot show any.
#[must_use]
pub(crate) fn by_proof(
    store: Arc<dyn Store>,
    clock: Arc<dyn Clock>,
    zones_without_token: BTreeSet<String>,
) -> Authorize {
    let keys = Keys::default();
    Arc::new(move |caller| {
        let Caller {
            metadata,
            certificate,
        } = caller;
        let zone = named(metadata)?;
        let now = clock.wall();
        if let Some(certificate) = certificate {
            vouched(&store.snapshot(), certificate, &zone, now)
                .and_then(|vouched| vouched.check(now, SignedDuration::ZERO))
                .map_err(|error| {
                    warn!(zone = %zone, %error, "a zone's certificate is refused");
                    Status::unauthenticated(error.to_string())
                })?;
            return Ok(zone);
        }
        let Some(text) = bearer(metadata) else {
            if zones_without_token.contains(zone.as_str()) {
                return Ok(zone);
            }
            warn!(zone = %zone, "a zone without a token is refused");
            return Err(Status::unauthenticated(format!(
                "zone `{zone}` shows neither certificate nor token; `zonal zone join-token {zone}` at global prints what \
                 to start it with. A zone of Kuma is listed in global's `multizone.global.kds.zonesWithoutToken`"
            )));
        };
        let ring = keys.of(&store.snapshot());
        let verified = token::verify_zone(text, &ring, now).map_err(|error| {
            warn!(zone = %zone, %error, "a zone's token is refused");
            Status::unauthenticated(format!("the token of zone `{zone}`: {error}"))
        })?;
        verified.claims.permits(zone.as_str()).map_err(|error| {
            warn!(zone = %zone, %error, kid = verified.kid, "a zone's token is refused");
            Status::unauthenticated(error.to_string())
        })?;
        Ok(zone)
    })
}

/// What tokens are checked with, read once for as long as no secret changes: a caller with a made-up token costs the
/// check of one signature, however many secrets there are.
#[derive(Default)]
struct Keys(Mutex<Option<(Arc<Snapshot>, Arc<KeyRing>)>>);

impl Keys {
    fn of(&self, snapshot: &Arc<Snapshot>) -> Arc<KeyRing> {
        let mut kept = self.0.lock();
        if let Some((seen, ring)) = &*kept
            && seen.epoch() == snapshot.epoch()
            && seen.same_kind(Kind::GlobalSecret, snapshot)
        {
            return Arc::clone(ring);
        }
        let ring = Arc::new(key_ring(snapshot, &TokenKind::Zone));
        *kept = Some((Arc::clone(snapshot), Arc::clone(&ring)));
        ring
    }
}

/// The name in `client-id`, which zones of Kuma's dialect send with each call.
fn named(metadata: &MetadataMap) -> Result<ZoneName, Status> {
    let text = metadata
        .get("client-id")
        .and_then(|value| value.to_str().ok())
        .ok_or_else(|| {
            Status::invalid_argument("the call names no zone: `client-id` is missing")
        })?;
    text.parse().map_err(|error| {
        Status::invalid_argument(format!(
            "`client-id` is `{text}`, which is no zone's name: {error}"
        ))
    })
}

fn bearer(metadata: &MetadataMap) -> Option<&str> {
    let value = metadata.get("authorization")?.to_str().ok()?;
    Some(value.strip_prefix("Bearer ").unwrap_or(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use jiff::Timestamp;
    use std::time::Duration;
    use zonal_identity::token::ZoneClaims;
    use zonal_process::ManualClock;
    use zonal_rest::tokens::{first_key, signing_keys};
    use zonal_store::{Batch, MemoryStore};

    fn metadata(zone: &str, token: Option<&str>) -> MetadataMap {
        let mut metadata = MetadataMap::new();
        metadata.insert("client-id", zone.parse().unwrap());
        if let Some(token) = token {
            metadata.insert("authorization", format!("Bearer {token}").parse().unwrap());
        }
        metadata
    }

    fn token_for(snapshot: &Snapshot, zone: &str, now: Timestamp) -> String {
        let keys = signing_keys(snapshot, &TokenKind::Zone);
        let claims = ZoneClaims {
            zone: zone.to_owned(),
            scope: Vec::new(),
        };
        let key = KeyRing::newest(&keys).unwrap();
        token::issue_zone(key, &claims, Duration::from_secs(60), now).unwrap()
    }

    #[tokio::test]
    async fn a_zone_speaks_for_itself_only_and_only_with_its_token() {
        let start = Timestamp::from_second(1_700_000_000).unwrap();
        let store: Arc<dyn Store> = Arc::new(MemoryStore::new(Arc::new(move || start)));
        let key = first_key(&store.snapshot(), &TokenKind::Zone)
            .unwrap()
            .unwrap();
        store.commit(Batch::new().put(key)).await.unwrap();
        let clock = Arc::new(ManualClock::starting_at(start));
        let authorize = by_proof(
            Arc::clone(&store),
            clock.clone(),
            BTreeSet::from(["kuma".to_owned()]),
        );
        let token = token_for(&store.snapshot(), "east", start);

        let zone = |metadata: &MetadataMap| {
            let caller = Caller {
                metadata,
                certificate: None,
            };
            authorize(caller).map(|zone| zone.to_string())
        };
        assert_eq!(zone(&metadata("east", Some(&token))).unwrap(), "east");
        let refused = zone(&metadata("west", Some(&token))).unwrap_err();
        assert_eq!(
            refused.message(),
            "token is for zone `east`, this is zone `west`"
        );
        assert!(
            zone(&metadata("east", None))
                .unwrap_err()
                .message()
                .contains("shows neither certificate nor token")
        );
        assert!(zone(&metadata("East!", Some(&token))).is_err());
        assert_eq!(zone(&metadata("kuma", None)).unwrap(), "kuma");

        clock.advance(Duration::from_secs(120));
        let expired = zone(&metadata("east", Some(&token))).unwrap_err();
        assert!(
            expired.message().contains("expired"),
            "{}",
            expired.message()
        );
    }
}
