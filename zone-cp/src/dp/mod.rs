//! The server for proxies: bootstrap, incremental ADS, and what a sidecar says about its workload.
//!
//! One TLS port carries all of it, as Kuma's dp-server does.

mod ads;
mod http;

use tonic::Status;
use tonic::metadata::MetadataMap;

pub use self::http::{DpHttp, routes};
pub use ads::{Ads, AdsSettings, Sent};

/// The dataplane token of a call: the one `authorization` value, with or without `Bearer`.
///
/// # Errors
/// There are several, or one that is not text.
pub(crate) fn credential(metadata: &MetadataMap) -> Result<Option<String>, Status> {
    let mut values = metadata.get_all("authorization").iter();
    let Some(value) = values.next() else {
        return Ok(None);
    };
    if values.next().is_some() {
        return Err(Status::unauthenticated(
            "more than one `authorization` value",
        ));
    }
    let text = value
        .to_str()
        .map_err(|_not_text| Status::unauthenticated("the `authorization` value is not text"))?;
    Ok(Some(
        text.strip_prefix("Bearer ").unwrap_or(text).to_owned(),
    ))
}
