//! Answers as JSON, printed as clients of the dialect expect: one space per level, a newline at the end.

use axum::body::Body;
use axum::response::Response;
use http::{HeaderName, HeaderValue, StatusCode, header};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use zonal_store::Revision;

/// Says the store's revision: of what was written, or what a read shows.
pub const REVISION_HEADER: HeaderName = HeaderName::from_static("zonal-revision");

/// Set on answers to writes that were only tried.
pub(crate) const DRY_RUN_HEADER: HeaderName = HeaderName::from_static("zonal-dry-run");

pub(crate) fn json<T: Serialize + ?Sized>(status: StatusCode, value: &T) -> Response {
    let mut text = Vec::with_capacity(1024);
    let formatter = PrettyFormatter::with_indent(b" ");
    let mut printer = serde_json::Serializer::with_formatter(&mut text, formatter);
    if let Err(error) = value.serialize(&mut printer) {
        tracing::error!(%error, "an answer cannot be printed");
        return bytes(StatusCode::INTERNAL_SERVER_ERROR, b"{}\n".to_vec());
    }
    text.push(b'\n');
    bytes(status, text)
}

fn bytes(status: StatusCode, text: Vec<u8>) -> Response {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = status;
    response.headers_mut().insert(
        header::CONTENT_TYPE,
        HeaderValue::from_static("application/json"),
    );
    response
}

pub(crate) fn with_revision(mut response: Response, revision: Revision) -> Response {
    response
        .headers_mut()
        .insert(REVISION_HEADER, HeaderValue::from(revision.0));
    response
}

pub(crate) fn with_etag(mut response: Response, revision: Revision) -> Response {
    if let Ok(value) = HeaderValue::from_str(&format!("\"{revision}\"")) {
        response.headers_mut().insert(header::ETAG, value);
    }
    response
}
