//! Who speaks for a zone: control planes over one store.

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;
use std::sync::Arc;

use jiff::Timestamp;
use parking_lot::Mutex;

/// How a zone's control plane names itself; of one of another make only the address is known.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Speaker {
    /// The life of its store; replicas and restarts share it.
    pub(super) store: Option<Arc<str>>,
    pub(super) instance: Option<Arc<str>>,
    pub(super) address: Option<SocketAddr>,
}

impl fmt::Display for Speaker {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.instance {
            Some(instance) => write!(f, "by control plane `{instance}`")?,
            None => f.write_str("by a control plane of another make")?,
        }
        match self.address {
            Some(address) => write!(f, " at {address}"),
            None => Ok(()),
        }
    }
}

/// The zones that are connected, and by whom.
///
/// Two control planes with different stores under one name would take each other's resources away, so the second is
/// refused as long as the first has anything open.
#[derive(Clone, Debug, Default)]
pub(super) struct Members(Arc<Mutex<BTreeMap<Arc<str>, Member>>>);

#[derive(Debug)]
struct Member {
    speaker: Speaker,
    since: Timestamp,
    seats: usize,
}

/// Somebody else speaks for the zone.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error(
    "zone `{zone}` is connected already, {speaker} since {since:.0}, and that has another store; control planes of one \
     zone share a store. Stop one of the two, or give this one a name of its own in `multizone.zone.name`"
)]
pub(super) struct Taken {
    zone: Arc<str>,
    speaker: Box<Speaker>,
    since: Timestamp,
}

/// An open call of a zone. When it is dropped, the call is over.
#[derive(Debug)]
pub(super) struct Seat {
    members: Members,
    zone: Arc<str>,
}

impl Drop for Seat {
    fn drop(&mut self) {
        let mut members = self.members.0.lock();
        if let Some(member) = members.get_mut(&self.zone) {
            member.seats -= 1;
            if member.seats == 0 {
                members.remove(&self.zone);
            }
        }
    }
}

impl Members {
    /// Whether another store speaks for the zone now.
    pub(super) fn check(&self, zone: &Arc<str>, speaker: &Speaker) -> Result<(), Taken> {
        check(&self.0.lock(), zone, speaker)
    }

    /// Lets a call in, unless another store speaks for the zone now.
    pub(super) fn seat(
        &self,
        zone: &Arc<str>,
        speaker: &Speaker,
        now: Timestamp,
    ) -> Result<Seat, Taken> {
        let mut members = self.0.lock();
        check(&members, zone, speaker)?;
        let member = members.entry(Arc::clone(zone)).or_insert_with(|| Member {
            speaker: speaker.clone(),
            since: now,
            seats: 0,
        });
        member.seats += 1;
        Ok(Seat {
            members: self.clone(),
            zone: Arc::clone(zone),
        })
    }
}

fn check(
    members: &BTreeMap<Arc<str>, Member>,
    zone: &Arc<str>,
    speaker: &Speaker,
) -> Result<(), Taken> {
    match members.get(zone) {
        Some(member) if member.speaker.store != speaker.store => Err(Taken {
            zone: Arc::clone(zone),
            speaker: Box::new(member.speaker.clone()),
            since: member.since,
        }),
        _ => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn speaker(store: &str, instance: &str) -> Speaker {
        Speaker {
            store: Some(store.into()),
            instance: Some(instance.into()),
            address: Some(([10, 0, 0, 5], 4711).into()),
        }
    }

    #[test]
    fn one_store_speaks_for_a_zone_at_a_time() {
        let members = Members::default();
        let now = Timestamp::from_second(1_700_000_000).unwrap();
        let east: Arc<str> = "east".into();
        let seat = |store, instance| members.seat(&east, &speaker(store, instance), now);
        let first = seat("a", "host-1").unwrap();
        let replica = seat("a", "host-2").unwrap();
        assert_eq!(
            seat("b", "host-3").unwrap_err().to_string(),
            "zone `east` is connected already, by control plane `host-1` at 10.0.0.5:4711 since 2023-11-14T22:13:20Z, \
             and that has another store; control planes of one zone share a store. Stop one of the two, or give this \
             one a name of its own in `multizone.zone.name`"
        );
        assert!(
            members.seat(&east, &Speaker::default(), now).is_err(),
            "nor does one of another make"
        );
        drop(first);
        assert!(seat("b", "host-3").is_err(), "the replica is there");
        drop(replica);
        drop(seat("b", "host-3").unwrap());
        assert!(members.0.lock().is_empty());
    }
}
