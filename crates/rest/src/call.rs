//! One request, taken apart.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;

use axum::RequestExt;
use axum::body::Body;
use axum::extract::{FromRequest, MatchedPath, Path, RawPathParams, Request};
use http::{HeaderMap, header};

use crate::access::User;
use crate::query::Query;
use crate::state::RestState;

/// What handlers look at.
#[derive(Debug)]
pub(crate) struct Call {
    pub(crate) user: User,
    pub(crate) query: Query,
    pub(crate) headers: HeaderMap,
    /// The pattern of the path, e.g. `/meshes/{mesh}/dataplanes`.
    pub(crate) route: String,
    /// Scheme, host and path, as the caller knows them.
    pub(crate) address: String,
    params: BTreeMap<String, String>,
    pub(crate) body: Body,
}

impl Call {
    /// A part of the path; empty where the route has none of this name.
    pub(crate) fn param(&self, name: &str) -> &str {
        self.params.get(name).map_or("", String::as_str)
    }
}

impl FromRequest<Arc<RestState>> for Call {
    type Rejection = Infallible;

    async fn from_request(
        mut request: Request,
        state: &Arc<RestState>,
    ) -> Result<Self, Infallible> {
        let route = request
            .extensions()
            .get::<MatchedPath>()
            .map_or_else(String::new, |path| path.as_str().to_owned());
        let params = match request
            .extract_parts::<Path<BTreeMap<String, String>>>()
            .await
        {
            Ok(Path(params)) => params,
            // A path that is no text: taken as it stands, so that the name's own rule refuses it.
            Err(_) => match request.extract_parts::<RawPathParams>().await {
                Ok(raw) => raw
                    .iter()
                    .map(|(k, v)| (k.to_owned(), v.to_owned()))
                    .collect(),
                Err(_) => BTreeMap::new(),
            },
        };
        let tls = (state.peer_of)(request.extensions()).is_some_and(|peer| peer.tls);
        let user = request
            .extensions()
            .get::<User>()
            .cloned()
            .unwrap_or_else(User::anonymous);
        let (parts, body) = request.into_parts();
        let host = parts
            .uri
            .authority()
            .map(|authority| authority.as_str())
            .or_else(|| parts.headers.get(header::HOST)?.to_str().ok())
            .unwrap_or("localhost");
        let scheme = if tls { "https" } else { "http" };
        Ok(Self {
            user,
            query: Query::parse(parts.uri.query()),
            route,
            address: format!("{scheme}://{host}{}", parts.uri.path()),
            params,
            headers: parts.headers,
            body,
        })
    }
}
