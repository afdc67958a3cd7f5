//! All that is kept, as a file to put away.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderValue, header};

use crate::access::Action;
use crate::call::Call;
use crate::problem::Problem;
use crate::reply;
use crate::state::RestState;

/// Streams a backup of one snapshot; writes go on meanwhile and are not in it. An answer that breaks off lacks the
/// backup's last line, which whoever reads it misses.
pub(crate) fn get(state: &RestState, call: &Call) -> Result<Response, Problem> {
    state.access.check(&call.user, &Action::Backup)?;
    let snapshot = state.store.snapshot();
    let revision = snapshot.revision();
    tracing::info!(user = call.user.name, %revision, "a backup is taken");
    let product = concat!("zonal ", env!("CARGO_PKG_VERSION"));
    let pieces = futures::stream::iter(zonal_store::backup(snapshot, product));
    let mut response = Response::new(Body::from_stream(pieces));
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/x-ndjson"),
    );
    // It has every secret there is.
    response
        .headers_mut()
        .insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    Ok(reply::with_revision(response, revision))
}
