//! What tokens say. Names are written capitalised and read in any case.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

/// What one kind of token says beside its times.
pub trait Claims: Sized {
    /// The members to sign.
    fn to_members(&self) -> Map<String, Value>;

    /// Reads them back.
    ///
    /// # Errors
    /// Which member has the wrong shape.
    fn from_members(members: &BTreeMap<String, Value>) -> Result<Self, String>;
}

/// Who a person or pipeline is.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct UserClaims {
    pub name: String,
    pub groups: Vec<String>,
}

/// Which proxies may use the token. An empty member does not restrict.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DataplaneClaims {
    pub name: String,
    pub mesh: String,
    /// Label keys with their allowed values.
    pub tags: BTreeMap<String, Vec<String>>,
    /// The proxy type: empty or `dataplane`.
    pub proxy_type: String,
    pub workload: String,
}

/// Which zone may use the token.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct ZoneClaims {
    pub zone: String,
    /// What it may be used for; empty does not restrict.
    pub scope: Vec<String>,
}

impl Claims for UserClaims {
    fn to_members(&self) -> Map<String, Value> {
        members([
            ("Name", self.name.clone().into()),
            ("Groups", self.groups.clone().into()),
        ])
    }

    fn from_members(members: &BTreeMap<String, Value>) -> Result<Self, String> {
        Ok(Self {
            name: take(members, "Name")?,
            groups: take(members, "Groups")?,
        })
    }
}

impl Claims for DataplaneClaims {
    fn to_members(&self) -> Map<String, Value> {
        let tags = self
            .tags
            .iter()
            .map(|(key, values)| (key.clone(), values.clone().into()));
        members([
            ("Name", self.name.clone().into()),
            ("Mesh", self.mesh.clone().into()),
            ("Tags", Value::Object(tags.collect())),
            ("Type", self.proxy_type.clone().into()),
            ("Workload", self.workload.clone().into()),
        ])
    }

    fn from_members(members: &BTreeMap<String, Value>) -> Result<Self, String> {
        Ok(Self {
            name: take(members, "Name")?,
            mesh: take(members, "Mesh")?,
            tags: take(members, "Tags")?,
            proxy_type: take(members, "Type")?,
            workload: take(members, "Workload")?,
        })
    }
}

impl Claims for ZoneClaims {
    fn to_members(&self) -> Map<String, Value> {
        members([
            ("Zone", self.zone.clone().into()),
            ("Scope", self.scope.clone().into()),
        ])
    }

    fn from_members(members: &BTreeMap<String, Value>) -> Result<Self, String> {
        Ok(Self {
            zone: take(members, "Zone")?,
            scope: take(members, "Scope")?,
        })
    }
}

fn members<const N: usize>(members: [(&str, Value); N]) -> Map<String, Value> {
    members
        .into_iter()
        .map(|(name, value)| (name.to_owned(), value))
        .collect()
}

/// An absent or null member is empty.
fn take<T: DeserializeOwned + Default>(
    members: &BTreeMap<String, Value>,
    name: &str,
) -> Result<T, String> {
    let exact = members.get(name);
    let found = exact.or_else(|| {
        members
            .iter()
            .find(|(key, _)| key.eq_ignore_ascii_case(name))
            .map(|(_, value)| value)
    });
    match found {
        None | Some(Value::Null) => Ok(T::default()),
        Some(value) => serde_json::from_value(value.clone())
            .map_err(|error| format!("claim `{name}`: {error}")),
    }
}
