//! What people ask at global about a running proxy: its zone answers.

use bytes::Bytes;
use futures::future::BoxFuture;
use http::StatusCode;
use zonal_control_plane::{AdminQuestion, AskProxies, admin_problem};
use zonal_model::{Kind, Resource, labels};
use zonal_rest::Problem;

use crate::kds::{AdminTarget, Kds};

/// Asks proxies through the connections of their zones.
pub(crate) struct ThroughZones(pub(crate) Kds);

impl AskProxies for ThroughZones {
    fn ask<'a>(
        &'a self,
        question: AdminQuestion,
        dataplane: &'a Resource,
    ) -> BoxFuture<'a, Result<Bytes, Problem>> {
        let refused = |detail: String| admin_problem(StatusCode::BAD_REQUEST, detail);
        Box::pin(async move {
            let zone = dataplane.meta.labels.get(labels::ZONE).ok_or_else(|| {
                let text = "the Dataplane does not say in which zone it is";
                refused(text.to_owned())
            })?;
            let target = AdminTarget {
                kind: Kind::Dataplane.name().to_owned(),
                mesh: dataplane.key.mesh.to_string(),
                // Its name in the zone's own store.
                name: dataplane.display_name().to_owned(),
            };
            self.0
                .ask(zone, question, target)
                .await
                .map_err(|error| refused(error.to_string()))
        })
    }
}
