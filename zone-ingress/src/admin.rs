//! What a person asks at night: routes, connections, how current it all is.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::Ordering;

use axum::extract::State;
use axum::routing::get;
use axum::{Json, Router};
use serde::Serialize;
use zonal_process::admin::Admin;

use crate::connection::ConnectionPage;
use crate::proxy::Proxy;
use crate::routes::Health;
use crate::status::{Status, StatusPage};

/// Connections listed at most; the count beside the list is of all.
const LISTED_MAX: usize = 10_000;

#[derive(Clone, Debug)]
struct Pages {
    proxy: Arc<Proxy>,
    status: Status,
}

/// The common pages, and `/status`, `/routes` and `/connections`.
pub fn router(admin: Admin, proxy: Arc<Proxy>, status: Status) -> Router {
    let pages = Pages { proxy, status };
    Router::new()
        .route(
            "/status",
            get(async |State(pages): State<Pages>| Json(pages.status.page())),
        )
        .route(
            "/routes",
            get(async |State(pages): State<Pages>| Json(pages.routes())),
        )
        .route(
            "/connections",
            get(async |State(pages): State<Pages>| Json(pages.connections())),
        )
        .with_state(pages)
        .merge(zonal_process::admin::router(admin))
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoutesPage {
    status: StatusPage,
    routes: Vec<RoutePage>,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct RoutePage {
    sni: String,
    service: Arc<str>,
    mesh: Arc<str>,
    cluster: Arc<str>,
    /// Absent until the control plane has told them.
    endpoints: Option<Vec<EndpointPage>>,
    open_connections: usize,
    connections: u64,
    bytes_to_service: u64,
    bytes_to_callers: u64,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct EndpointPage {
    address: SocketAddr,
    weight: u32,
    health: Health,
    priority: u32,
    #[serde(skip_serializing_if = "String::is_empty")]
    zone: String,
    open_connections: usize,
    /// It did not take a connection lately, so it is asked last.
    failed_lately: bool,
}

#[derive(Debug, Serialize)]
#[serde(rename_all = "camelCase")]
struct ConnectionsPage {
    open: usize,
    hellos: usize,
    /// How many may be inside, unfinished hellos included.
    connections_max: usize,
    connections: Vec<ConnectionPage>,
}

impl Pages {
    fn routes(&self) -> RoutesPage {
        let table = self.proxy.routes.load();
        let ledger = self.proxy.ledger.all();
        let at = self.proxy.times.now();
        let routes = table.routes.values().map(|route| {
            let endpoints = table.clusters.get(&route.cluster).map(|endpoints| {
                let page = endpoints.iter().map(|endpoint| EndpointPage {
                    address: endpoint.placed.address,
                    weight: endpoint.placed.weight,
                    health: endpoint.placed.health,
                    priority: endpoint.placed.priority,
                    zone: endpoint.placed.zone.clone(),
                    open_connections: endpoint.load.connections(),
                    failed_lately: endpoint.load.is_doubtful(at),
                });
                page.collect()
            });
            let traffic = ledger.get(&route.sni);
            RoutePage {
                sni: route.sni.to_string(),
                service: Arc::clone(&route.service),
                mesh: Arc::clone(&route.mesh),
                cluster: Arc::clone(&route.cluster),
                endpoints,
                open_connections: traffic.map_or(0, |t| t.open.load(Ordering::Relaxed)),
                connections: traffic.map_or(0, |t| t.connections.load(Ordering::Relaxed)),
                bytes_to_service: traffic.map_or(0, |t| t.to_service.load(Ordering::Relaxed)),
                bytes_to_callers: traffic.map_or(0, |t| t.to_callers.load(Ordering::Relaxed)),
            }
        });
        RoutesPage {
            status: self.status.page(),
            routes: routes.collect(),
        }
    }

    fn connections(&self) -> ConnectionsPage {
        let proxy = &self.proxy;
        ConnectionsPage {
            open: proxy.connections.len(),
            hellos: proxy.hellos.len(),
            connections_max: proxy.descriptors.connections_max(),
            connections: proxy.connections.list(proxy.times.now(), LISTED_MAX),
        }
    }
}
