//! Virtual addresses: each zone gives one to every service that it knows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use zonal_model::{Json, Key, Kind, Resource};
use zonal_mutants::mutant;

use crate::form::DestinationStatusForm;

/// A range of addresses in CIDR form.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    first: IpAddr,
    size: u128,
}

/// A text that is no range.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is not a range of addresses, e.g. `241.0.0.0/8`")]
pub struct InvalidRange(pub String);

impl std::str::FromStr for Range {
    type Err = InvalidRange;

    fn from_str(text: &str) -> Result<Self, InvalidRange> {
        let invalid = || InvalidRange(text.to_owned());
        let (address, bits) = text.split_once('/').ok_or_else(invalid)?;
        let address: IpAddr = address.parse().ok().ok_or_else(invalid)?;
        let bits: u32 = bits.parse().ok().ok_or_else(invalid)?;
        let width = if address.is_ipv4() { 32 } else { 128 };
        let host = u32::checked_sub(width, bits).ok_or_else(invalid)?;
        let size = 1_u128.checked_shl(host).unwrap_or(u128::MAX);
        let first = number(address) & !(size.wrapping_sub(1));
        Ok(Self {
            first: at(address, first),
            size,
        })
    }
}

impl Range {
    /// `241.0.0.0/8`, `242.0.0.0/8` or `243.0.0.0/8`: what a kind gets unless configured.
    #[must_use]
    pub const fn default_of(kind: Kind) -> Option<Self> {
        let first = match kind {
            Kind::MeshService => 241,
            Kind::MeshExternalService => 242,
            Kind::MeshMultiZoneService => 243,
            _ => return None,
        };
        Some(Self {
            first: IpAddr::V4(Ipv4Addr::new(first, 0, 0, 0)),
            size: 1 << 24,
        })
    }

    fn get(self, index: u128) -> Option<IpAddr> {
        (index < self.size).then(|| at(self.first, number(self.first) + index))
    }
}

fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

fn at(family: IpAddr, number: u128) -> IpAddr {
    match (family, u32::try_from(number)) {
        (IpAddr::V4(_), Ok(bits)) => IpAddr::V4(Ipv4Addr::from_bits(bits)),
        _ => IpAddr::V6(Ipv6Addr::from_bits(number)),
    }
}

/// Gives out the addresses of one kind.
///
/// A service keeps what its status says; a new one gets the lowest address that was not in use since the process
/// started, so that a caller holding an old address never reaches a stranger.
#[derive(Clone, Debug)]
pub struct Allocator {
    range: Range,
    used: BTreeSet<IpAddr>,
    /// No index below is free.
    next: u128,
}

impl Allocator {
    /// Nothing given out yet.
    #[must_use]
    pub const fn new(range: Range) -> Self {
        Self {
            range,
            used: BTreeSet::new(),
            next: 0,
        }
    }

    /// Services that are about to go: nobody else gets their addresses.
    pub fn retire<'a>(&mut self, services: impl IntoIterator<Item = &'a Resource>) {
        self.used.extend(services.into_iter().filter_map(vip_of));
    }

    /// Addresses for the services that have none, by key. `services` is all of the kind over all meshes; two that hold
    /// the same address are both left with it only if they are one: the one with the smaller key keeps it.
    pub fn assign<'a>(
        &mut self,
        services: impl IntoIterator<Item = &'a Resource>,
    ) -> BTreeMap<Key, IpAddr> {
        let mut owners: BTreeMap<IpAddr, &Key> = BTreeMap::new();
        let mut without: BTreeSet<&Key> = BTreeSet::new();
        for service in services {
            match vip_of(service) {
                None => {
                    without.insert(&service.key);
                }
                Some(vip) => match owners.get(&vip).copied() {
                    Some(owner) if *owner <= service.key => {
                        without.insert(&service.key);
                    }
                    Some(owner) => {
                        without.insert(owner);
                        owners.insert(vip, &service.key);
                    }
                    None => {
                        owners.insert(vip, &service.key);
                    }
                },
            }
        }
        if mutant!(AddressGivenToStranger) {
            self.used.clear();
            self.next = 0;
        }
        self.used.extend(owners.into_keys());
        let mut assigned = BTreeMap::new();
        for key in without {
            let Some(vip) = self.lowest_free() else { break };
            self.used.insert(vip);
            assigned.insert(key.clone(), vip);
        }
        assigned
    }

    fn lowest_free(&mut self) -> Option<IpAddr> {
        loop {
            let vip = self.range.get(self.next)?;
            self.next += 1;
            if !self.used.contains(&vip) {
                return Some(vip);
            }
        }
    }
}

/// The address a service has.
#[must_use]
pub fn vip_of(service: &Resource) -> Option<IpAddr> {
    let status: DestinationStatusForm = service.status.as_ref()?.typed().ok()?;
    status
        .vips
        .iter()
        .chain(&status.vip)
        .find_map(|vip| vip.ip.parse().ok())
}

/// The service's status with the address in its kind's place for it.
#[must_use]
pub fn with_vip(service: &Resource, vip: IpAddr) -> Json {
    let mut status = crate::status::object(service.status.as_ref());
    let ip = serde_json::json!({ "ip": vip.to_string() });
    if service.key.kind == Kind::MeshExternalService {
        status.insert("vip".to_owned(), ip);
    } else {
        status.insert("vips".to_owned(), serde_json::json!([ip]));
    }
    Json::from_value(&serde_json::Value::Object(status))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn service(name: &str, vip: Option<&str>) -> Resource {
        let mut service = Resource::new(
            Key::new(Kind::MeshService, "default", name),
            Json::empty_object(),
        );
        if let Some(vip) = vip {
            service.status = Some(with_vip(&service, vip.parse().unwrap()));
        }
        service
    }

    #[test]
    fn the_lowest_free_address_is_given_and_kept() {
        let mut allocator = Allocator::new(Range::default_of(Kind::MeshService).unwrap());
        let stored = [
            service("a", Some("241.0.0.1")),
            service("b", None),
            service("c", None),
        ];
        let got = allocator.assign(&stored);
        let vip = |name: &str| {
            got.get(&Key::new(Kind::MeshService, "default", name))
                .map(ToString::to_string)
        };
        assert_eq!(vip("a"), None, "it has one");
        assert_eq!(vip("b").as_deref(), Some("241.0.0.0"));
        assert_eq!(vip("c").as_deref(), Some("241.0.0.2"));
        // What was in use is not given to another, even if its service is gone.
        let got = allocator.assign(&[service("d", None)]);
        assert_eq!(
            got.values().map(ToString::to_string).collect::<Vec<_>>(),
            ["241.0.0.3"]
        );
    }

    #[test]
    fn a_service_that_goes_when_the_process_starts_leaves_its_address_to_nobody() {
        let mut allocator = Allocator::new(Range::default_of(Kind::MeshService).unwrap());
        allocator.retire([&service("gone", Some("241.0.0.0"))]);
        let got = allocator.assign(&[service("new", None)]);
        assert_eq!(
            got.into_values().next(),
            Some("241.0.0.1".parse().unwrap()),
            "a caller may still hold the other"
        );
    }

    #[test]
    fn of_two_with_one_address_the_first_keeps_it() {
        let mut allocator = Allocator::new("10.0.0.0/30".parse().unwrap());
        let stored = [
            service("b", Some("10.0.0.0")),
            service("a", Some("10.0.0.0")),
        ];
        let got = allocator.assign(&stored);
        assert_eq!(
            got,
            BTreeMap::from([(
                Key::new(Kind::MeshService, "default", "b"),
                "10.0.0.1".parse().unwrap()
            )])
        );
    }

    #[test]
    fn a_used_up_range_gives_nothing() {
        let mut allocator = Allocator::new("10.0.0.0/31".parse().unwrap());
        let stored: Vec<Resource> = ["a", "b", "c"].map(|name| service(name, None)).into();
        assert_eq!(allocator.assign(&stored).len(), 2);
        assert!("10.0.0.0/33".parse::<Range>().is_err());
        assert!("10.0.0.0".parse::<Range>().is_err());
    }
}
