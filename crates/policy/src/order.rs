//! Precedence: which of two policies, or entries of them, overrides the other. Lowest first.

use std::cmp::{Ordering, Reverse};

use zonal_model::{Resource, labels};

use crate::policy::TargetRef;

/// The part of the order that a policy brings along, apart from its name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Rank {
    kind: u8,
    section: u8,
    origin: u8,
    role: u8,
}

impl Rank {
    pub(crate) fn of(resource: &Resource, target_ref: &TargetRef) -> Self {
        Self {
            kind: kind_rank(&target_ref.kind),
            // Only two Dataplane references are compared by it, and those are equal in `kind`.
            section: u8::from(target_ref.kind == "Dataplane" && target_ref.section().is_some()),
            origin: origin_rank(resource.label(labels::ORIGIN)),
            role: Role::of(resource) as u8,
        }
    }
}

/// The order of policies: rank, then the display name descending, so that the first name wins.
pub(crate) fn compare_policies(a: (Rank, &str), b: (Rank, &str)) -> Ordering {
    (a.0, Reverse(a.1)).cmp(&(b.0, Reverse(b.1)))
}

/// The order of `to` entries: a policy's rank, then what the entry targets, then the name.
pub(crate) fn compare_entries(
    a: (Rank, &TargetRef, &str),
    b: (Rank, &TargetRef, &str),
) -> Ordering {
    let section = |to: &TargetRef| u8::from(to.kind == "MeshService" && to.section().is_some());
    a.0.cmp(&b.0)
        .then_with(|| kind_rank(&a.1.kind).cmp(&kind_rank(&b.1.kind)))
        .then_with(|| section(a.1).cmp(&section(b.1)))
        .then_with(|| b.2.cmp(a.2))
}

const fn origin_rank(origin: Option<&str>) -> u8 {
    match origin {
        Some(text) => match text.as_bytes() {
            b"global" => 1,
            b"" => 2,
            b"zone" => 3,
            _ => 0,
        },
        None => 2,
    }
}

fn kind_rank(kind: &str) -> u8 {
    match kind {
        "Mesh" => 1,
        "Dataplane" => 2,
        "MeshService" => 5,
        "MeshExternalService" => 6,
        "MeshMultiZoneService" => 7,
        "MeshHTTPRoute" => 9,
        _ => 0,
    }
}

/// For whom a policy speaks, from the label; without one it is a system policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Role {
    System = 1,
    Producer = 2,
    Consumer = 3,
    WorkloadOwner = 4,
}

impl Role {
    pub(crate) fn of(resource: &Resource) -> Self {
        match resource.label(labels::POLICY_ROLE) {
            Some("producer") => Self::Producer,
            Some("consumer") => Self::Consumer,
            Some("workload-owner") => Self::WorkloadOwner,
            _ => Self::System,
        }
    }
}
