//! What the control plane tells about itself and its kinds.

use axum::response::Response;
use http::StatusCode;
use serde::Serialize;
use zonal_model::{Descriptor, Kind, Scope};

use crate::access::Action;
use crate::call::Call;
use crate::problem::Problem;
use crate::reply;
use crate::state::RestState;

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Root<'a> {
    hostname: &'a str,
    product: &'a str,
    version: &'a str,
    instance_id: &'a str,
    cluster_id: &'a str,
    gui: &'a str,
}

pub(crate) fn root(state: &RestState, _call: &Call) -> Result<Response, Problem> {
    let info = &state.info;
    let root = Root {
        hostname: &info.hostname,
        product: &info.product,
        version: &info.version,
        instance_id: &info.instance_id,
        cluster_id: &info.cluster_id,
        gui: "",
    };
    Ok(reply::json(StatusCode::OK, &root))
}

pub(crate) fn config(state: &RestState, call: &Call) -> Result<Response, Problem> {
    state
        .access
        .check(&call.user, &Action::ControlPlaneMetadata)?;
    Ok(reply::json(StatusCode::OK, &*state.config))
}

#[derive(Serialize)]
struct WhoAmI<'a> {
    name: &'a str,
    groups: &'a [String],
}

pub(crate) fn who_am_i(_state: &RestState, call: &Call) -> Result<Response, Problem> {
    let user = &call.user;
    Ok(reply::json(
        StatusCode::OK,
        &WhoAmI {
            name: &user.name,
            groups: &user.groups,
        },
    ))
}

#[derive(Serialize)]
struct Policies {
    policies: Vec<PolicyEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the answer's form")]
struct PolicyEntry {
    name: &'static str,
    read_only: bool,
    path: &'static str,
    singular_display_name: String,
    plural_display_name: String,
    is_experimental: bool,
    is_target_ref_based: bool,
    is_inbound: bool,
    is_outbound: bool,
}

pub(crate) fn policies(state: &RestState, _call: &Call) -> Result<Response, Problem> {
    let mut policies: Vec<PolicyEntry> = Kind::ALL
        .iter()
        .map(|kind| kind.descriptor())
        .filter_map(|d| {
            let policy = d.policy?;
            Some(PolicyEntry {
                name: d.name,
                read_only: read_only(state, d),
                path: d.path,
                singular_display_name: singular(d),
                plural_display_name: plural(d),
                is_experimental: false,
                is_target_ref_based: true,
                is_inbound: policy.rules,
                is_outbound: policy.to,
            })
        })
        .collect();
    policies.sort_by_key(|policy| policy.name);
    Ok(reply::json(StatusCode::OK, &Policies { policies }))
}

#[derive(Serialize)]
struct Kinds {
    resources: Vec<KindEntry>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct KindEntry {
    name: &'static str,
    path: &'static str,
    short_name: &'static str,
    scope: &'static str,
    singular_display_name: String,
    plural_display_name: String,
    read_only: bool,
    include_in_federation: bool,
    #[serde(skip_serializing_if = "Option::is_none")]
    policy: Option<PolicyPart>,
}

#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
#[expect(clippy::struct_excessive_bools, reason = "the answer's form")]
struct PolicyPart {
    is_target_ref: bool,
    has_to_target_ref: bool,
    has_from_target_ref: bool,
    has_rules_target_ref: bool,
    is_from_as_rules: bool,
}

pub(crate) fn kinds(state: &RestState, _call: &Call) -> Result<Response, Problem> {
    let mut resources: Vec<KindEntry> = Kind::ALL
        .iter()
        .map(|kind| kind.descriptor())
        .filter(|d| !d.path.is_empty())
        .map(|d| KindEntry {
            name: d.name,
            path: d.path,
            short_name: d.short.unwrap_or_default(),
            scope: match d.scope {
                Scope::Global => "Global",
                Scope::Mesh => "Mesh",
            },
            singular_display_name: singular(d),
            plural_display_name: plural(d),
            read_only: read_only(state, d),
            include_in_federation: d.own_goes_down() && !d.read_only,
            policy: d.policy.map(|policy| PolicyPart {
                is_target_ref: true,
                has_to_target_ref: policy.to,
                has_from_target_ref: false,
                has_rules_target_ref: policy.rules,
                is_from_as_rules: false,
            }),
        })
        .collect();
    resources.sort_by_key(|kind| kind.name);
    Ok(reply::json(StatusCode::OK, &Kinds { resources }))
}

fn read_only(state: &RestState, descriptor: &Descriptor) -> bool {
    state.read_only || !descriptor.writable(state.mode)
}

/// `MeshHTTPRoute` → `Mesh HTTP Route`.
fn singular(descriptor: &Descriptor) -> String {
    if descriptor.kind == Kind::MeshOpenTelemetryBackend {
        return "Mesh OpenTelemetry Backend".to_owned();
    }
    let letters: Vec<char> = descriptor.name.chars().collect();
    let mut text = String::new();
    for (index, letter) in letters.iter().enumerate() {
        let before = index.checked_sub(1).and_then(|index| letters.get(index));
        let after = letters.get(index + 1);
        let begins_word = letter.is_uppercase()
            && before.is_some_and(|before| {
                before.is_lowercase() || after.is_some_and(|after| after.is_lowercase())
            });
        if begins_word {
            text.push(' ');
        }
        text.push(*letter);
    }
    text
}

fn plural(descriptor: &Descriptor) -> String {
    let singular = singular(descriptor);
    match descriptor.kind {
        Kind::Mesh => "Meshes".to_owned(),
        Kind::MeshTLS => "Mesh TLSes".to_owned(),
        Kind::MeshRetry => "Mesh Retries".to_owned(),
        Kind::MeshProxyPatch => "Mesh Proxy Patches".to_owned(),
        Kind::MeshLoadBalancingStrategy => "Mesh Load Balancing Strategies".to_owned(),
        Kind::MeshIdentity => "Mesh Identities".to_owned(),
        Kind::MeshZoneAddress => "Mesh Zone Addresses".to_owned(),
        _ => format!("{singular}s"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kinds_are_called_in_words() {
        let check = |kind: Kind, want: &str, many: &str| {
            let d = kind.descriptor();
            assert_eq!((singular(d).as_str(), plural(d).as_str()), (want, many));
        };
        check(Kind::MeshHTTPRoute, "Mesh HTTP Route", "Mesh HTTP Routes");
        check(Kind::MeshTLS, "Mesh TLS", "Mesh TLSes");
        check(Kind::Zone, "Zone", "Zones");
        check(Kind::GlobalSecret, "Global Secret", "Global Secrets");
        check(Kind::MeshIdentity, "Mesh Identity", "Mesh Identities");
    }
}
