//! The model's rules as this API applies them.

use serde_json::Value;
use zonal_model::admission::{self, Refusal};
use zonal_model::parse::{self, Document, ParseError};
use zonal_model::{Key, Kind, Resource};
use zonal_store::Snapshot;

use crate::problem::{Problem, Title};
use crate::state::RestState;

/// Reads a document that should be of a kind.
pub(crate) fn parse(
    kind: Kind,
    document: &Value,
    existing: Option<&Resource>,
) -> Result<Document, Problem> {
    parse::body(kind, document).map_err(|error| match error {
        ParseError::Shape(text) => Problem::bad_request(text),
        ParseError::Invalid(violations) => {
            // Clients know a destination's name as the last thing that is looked at.
            let only_name = kind.descriptor().destination
                && violations
                    .0
                    .iter()
                    .all(|violation| violation.field == "name");
            let title = match existing {
                _ if !only_name => Title::Process,
                Some(_) => Title::Update,
                None => Title::Create,
            };
            Problem::invalid(title, violations)
        }
        ParseError::Kind(unknown) => Problem::bad_request(unknown.to_string()),
    })
}

/// The sentence about a body that is no JSON.
pub(crate) fn undecodable(kind: Kind, text: &str) -> String {
    parse::shape_message(kind, text)
}

/// What this control plane is to the rules about labels.
pub(crate) fn here(state: &RestState) -> admission::Place<'_> {
    admission::Place {
        mode: state.mode,
        zone: state.zone.as_deref(),
        check_origin: !state.origin_unchecked,
    }
}

/// A refusal as an answer.
pub(crate) fn refused(refusal: Refusal) -> Problem {
    match refusal {
        Refusal::Invalid(violations) => Problem::invalid(Title::Process, violations),
        Refusal::Update(violations) => Problem::invalid(Title::UpdateLabels, violations),
        Refusal::Create(violations) => Problem::invalid(Title::Create, violations),
        Refusal::Request(text) => Problem::bad_request(text),
    }
}

/// Whether a proxy or zone was connected when its insight was last written.
pub(crate) fn is_online(insight: &Value) -> bool {
    let time = |subscription: &Value, member: &str| {
        subscription
            .get(member)
            .and_then(Value::as_str)
            .is_some_and(|time| !time.is_empty())
    };
    insight
        .get("subscriptions")
        .and_then(Value::as_array)
        .is_some_and(|subscriptions| {
            subscriptions
                .iter()
                .any(|s| time(s, "connectTime") && !time(s, "disconnectTime"))
        })
}

/// Whether a zone's control plane is connected.
pub(crate) fn zone_is_online(snapshot: &Snapshot, zone: &str) -> bool {
    snapshot
        .get(&Key::global(Kind::ZoneInsight, zone))
        .is_some_and(|insight| is_online(&insight.resource.spec.to_value()))
}

/// What is allowed now and will not be for ever.
pub(crate) fn warnings(resource: &Resource) -> Vec<String> {
    zonal_model::sni_warnings(resource)
}
