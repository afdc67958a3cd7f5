//! Resources a control plane makes by itself. Secrets are not among them: whoever has keys makes those.

use serde_json::{Value, json};

use crate::admission::{Place, compute_labels};
use crate::json::Json;
use crate::kind::{Kind, Mode};
use crate::labels;
use crate::resource::{Key, Resource};
use crate::specs::MeshSpec;

/// The mesh that is made where none was asked for.
#[must_use]
pub fn mesh(place: &Place<'_>) -> Resource {
    labelled(
        Resource::new(Key::global(Kind::Mesh, "default"), Json::empty_object()),
        place,
    )
}

/// The policies that are made with a mesh, without those it does not want.
///
/// ```
/// use zonal_model::{defaults, specs::MeshSpec, admission::Place};
/// let policies = defaults::mesh_policies("default", &MeshSpec::default(), &Place::global());
/// let names: Vec<_> = policies.iter().map(|policy| policy.key.name.to_string()).collect();
/// assert_eq!(names, ["mesh-timeout-all-default", "mesh-timeout-to-all-default",
///     "mesh-circuit-breaker-all-default", "mesh-retry-all-default"]);
/// ```
#[must_use]
pub fn mesh_policies(mesh: &str, spec: &MeshSpec, place: &Place<'_>) -> Vec<Resource> {
    let unwanted = |kind: Kind| {
        let skipped = &spec.skip_creating_initial_policies;
        skipped
            .iter()
            .any(|name| name == "*" || name == kind.name())
    };
    let retries = json!({
        "numRetries": 5, "perTryTimeout": "16s",
        "backOff": {"baseInterval": "25ms", "maxInterval": "250ms"},
    });
    let policies = [
        (
            Kind::MeshTimeout,
            "mesh-timeout-all",
            json!({"targetRef": {"kind": "Mesh"}, "rules": [{"default": {
                "connectionTimeout": "10s", "idleTimeout": "2h0m0s",
                "http": {"requestTimeout": "0s", "streamIdleTimeout": "1h0m0s", "maxStreamDuration": "0s"},
            }}]}),
        ),
        (
            Kind::MeshTimeout,
            "mesh-timeout-to-all",
            to_mesh(&json!({
                "connectionTimeout": "5s", "idleTimeout": "1h0m0s",
                "http": {"requestTimeout": "15s", "streamIdleTimeout": "30m0s"},
            })),
        ),
        (
            Kind::MeshCircuitBreaker,
            "mesh-circuit-breaker-all",
            to_mesh(&json!({"connectionLimits": {
                "maxConnections": 1024, "maxPendingRequests": 1024, "maxRetries": 3, "maxRequests": 1024,
            }})),
        ),
        (
            Kind::MeshRetry,
            "mesh-retry-all",
            to_mesh(&json!({"tcp": {"maxConnectAttempt": 5}, "http": retries, "grpc": retries})),
        ),
    ];
    policies
        .into_iter()
        .filter(|(kind, ..)| !unwanted(*kind))
        .map(|(kind, name, spec)| {
            let key = Key::new(kind, mesh, format!("{name}-{mesh}"));
            labelled(Resource::new(key, Json::from_value(&spec)), place)
        })
        .collect()
}

fn to_mesh(default: &Value) -> Value {
    json!({"targetRef": {"kind": "Mesh"}, "to": [{"targetRef": {"kind": "Mesh"}, "default": default}]})
}

fn labelled(mut resource: Resource, place: &Place<'_>) -> Resource {
    resource.meta.labels = compute_labels(&resource, place);
    resource
}

/// The generators that are made at start. Those of global have no labels; those of a zone say that they are a zone's.
#[must_use]
pub fn hostname_generators(mode: Mode) -> Vec<Resource> {
    let mut generators: Vec<Resource> = Vec::new();
    let mut add = |name: &str, selector: &str, wanted: Value, template: &str| {
        let mut selectors = serde_json::Map::new();
        selectors.insert(selector.to_owned(), json!({"matchLabels": wanted}));
        let spec = json!({"selector": selectors, "template": template});
        let key = Key::global(Kind::HostnameGenerator, name);
        let mut generator = Resource::new(key, Json::from_value(&spec));
        if mode.is_zone() {
            generator
                .meta
                .labels
                .insert(labels::ORIGIN.to_owned(), "zone".to_owned());
        }
        generators.push(generator);
    };
    if mode.is_zone() {
        add(
            "local-mesh-external-service",
            "meshExternalService",
            json!({labels::ORIGIN: "zone"}),
            "{{ .DisplayName }}.extsvc.mesh.local",
        );
        add(
            "local-universal-mesh-service",
            "meshService",
            json!({labels::ORIGIN: "zone"}),
            "{{ .DisplayName }}.svc.mesh.local",
        );
    } else {
        let headless = "k8s.kuma.io/is-headless-service";
        add(
            "synced-mesh-multi-zone-service",
            "meshMultiZoneService",
            json!({labels::ORIGIN: "global"}),
            "{{ .DisplayName }}.mzsvc.mesh.local",
        );
        add(
            "synced-kube-mesh-service",
            "meshService",
            json!({labels::ORIGIN: "global", headless: "false", labels::ENV: "kubernetes"}),
            "{{ .DisplayName }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
        );
        add(
            "synced-headless-kube-mesh-service",
            "meshService",
            json!({labels::ORIGIN: "global", headless: "true", labels::ENV: "kubernetes"}),
            "{{ label \"statefulset.kubernetes.io/pod-name\" }}.{{ label \"k8s.kuma.io/service-name\" }}.{{ .Namespace }}.svc.{{ .Zone }}.mesh.local",
        );
        add(
            "synced-universal-mesh-service",
            "meshService",
            json!({labels::ORIGIN: "global", labels::ENV: "universal"}),
            "{{ .DisplayName }}.svc.{{ .Zone }}.mesh.local",
        );
        add(
            "synced-mesh-external-service",
            "meshExternalService",
            json!({labels::ORIGIN: "global"}),
            "{{ .DisplayName }}.extsvc.mesh.local",
        );
    }
    generators
}

/// Names of secrets and configuration that carry meaning.
pub mod well_known {
    /// GlobalSecret: the authority of Envoy's admin interface; each control plane has its own.
    pub const ENVOY_ADMIN_CA: &str = "envoy-admin-ca";
    /// GlobalSecret: the authority between instances of one control plane.
    pub const INTER_CP_CA: &str = "inter-cp-ca";
    /// GlobalSecret: the token of the first administrator.
    pub const ADMIN_USER_TOKEN: &str = "admin-user-token";
    /// GlobalSecrets: private keys of user tokens; the key id follows.
    pub const USER_TOKEN_SIGNING_KEY_PREFIX: &str = "user-token-signing-key-";
    /// GlobalSecrets: private keys of zone tokens; the key id follows.
    pub const ZONE_TOKEN_SIGNING_KEY_PREFIX: &str = "zone-token-signing-key-";
    /// GlobalSecrets: public keys of zone tokens, as zones receive them; the key id follows.
    pub const ZONE_TOKEN_SIGNING_PUBLIC_KEY_PREFIX: &str = "zone-token-signing-public-key-";
    /// GlobalSecret: ids of user tokens that are no longer taken.
    pub const USER_TOKEN_REVOCATIONS: &str = "user-token-revocations";
    /// GlobalSecret: ids of zone tokens that are no longer taken.
    pub const ZONE_TOKEN_REVOCATIONS: &str = "zone-token-revocations";
    /// Config: the id of the federation.
    pub const CLUSTER_ID: &str = "kuma-cluster-id";

    /// Secret: a private key of proxy tokens.
    #[must_use]
    pub fn dataplane_token_signing_key(mesh: &str, id: &str) -> String {
        format!("dataplane-token-signing-key-{mesh}-{id}")
    }

    /// GlobalSecret or Secret: ids of proxy tokens that are no longer taken.
    #[must_use]
    pub fn dataplane_token_revocations(mesh: &str) -> String {
        format!("dataplane-token-revocations-{mesh}")
    }

    /// Secrets: certificate and key of an authority that an identity made, by the identity's display name.
    #[must_use]
    pub fn identity_ca(identity: &str) -> (String, String) {
        (
            format!("{identity}-root-ca"),
            format!("{identity}-private-key"),
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::validate;

    #[test]
    fn default_resources_are_valid() {
        for place in [Place::global(), Place::standalone_zone("east")] {
            let mut all = mesh_policies("m", &MeshSpec::default(), &place);
            all.extend(hostname_generators(place.mode));
            all.push(mesh(&place));
            for resource in all {
                assert_eq!(validate(&resource).to_string(), "", "{}", resource.key);
                let spec = resource.spec.to_value();
                assert_eq!(
                    crate::schema::apply(resource.key.kind, &spec),
                    Ok(spec),
                    "{}",
                    resource.key
                );
            }
        }
    }

    #[test]
    fn a_mesh_can_do_without_policies() {
        let count = |skipped: &[&str]| {
            let skipped = skipped.iter().map(|name| (*name).to_owned()).collect();
            let spec = MeshSpec {
                skip_creating_initial_policies: skipped,
            };
            mesh_policies("m", &spec, &Place::global()).len()
        };
        assert_eq!(count(&[]), 4);
        assert_eq!(count(&["MeshTimeout"]), 2);
        assert_eq!(count(&["*"]), 0);
    }
}
