//! A Dataplane with IP addresses where it has host names.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use serde_json::Value;
use zonal_model::{Json, Resource};

use crate::resolver::host_names;

/// What became of a Dataplane.
pub(super) struct Placed<'a> {
    /// With IP addresses only; `None` while one of its names is nowhere.
    pub(super) at: Option<Cow<'a, Resource>>,
    /// The names it is placed at.
    pub(super) host_names: BTreeSet<Arc<str>>,
}

/// Puts addresses where a Dataplane has names.
pub(super) fn placed<'a>(
    resource: &'a Resource,
    addresses: &BTreeMap<Arc<str>, IpAddr>,
) -> Placed<'a> {
    let host_names = host_names(resource);
    if host_names.is_empty() {
        return Placed {
            at: Some(Cow::Borrowed(resource)),
            host_names,
        };
    }
    if host_names.iter().any(|name| !addresses.contains_key(name)) {
        return Placed {
            at: None,
            host_names,
        };
    }
    let mut spec = resource.spec.to_value();
    let replace = |member: Option<&mut Value>| {
        let Some(member) = member else { return };
        let address = member.as_str().and_then(|name| addresses.get(name));
        if let Some(address) = address {
            *member = Value::String(address.to_string());
        }
    };
    replace(spec.pointer_mut("/networking/address"));
    for list in ["/networking/inbound", "/networking/listeners"] {
        let members = spec.pointer_mut(list).and_then(Value::as_array_mut);
        for member in members.into_iter().flatten() {
            replace(member.get_mut("address"));
        }
    }
    let mut at = resource.clone();
    at.spec = Json::from_value(&spec);
    Placed {
        at: Some(Cow::Owned(at)),
        host_names,
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;
    use zonal_model::{Key, Kind};

    use super::*;

    #[test]
    fn names_give_way_to_addresses_and_a_name_that_is_nowhere_places_nothing() {
        let spec =
            json!({ "networking": { "address": "web.example", "inbound": [{ "port": 80 }] } });
        let key = Key::new(Kind::Dataplane, "default", "web");
        let web = Resource::new(key, Json::from_value(&spec));
        let mut addresses = BTreeMap::new();
        assert!(placed(&web, &addresses).at.is_none());
        addresses.insert("web.example".into(), IpAddr::from([10, 0, 0, 1]));
        let placed = placed(&web, &addresses).at.unwrap();
        let spec = placed.spec.to_value();
        assert_eq!(
            spec.pointer("/networking/address"),
            Some(&json!("10.0.0.1"))
        );
    }
}
