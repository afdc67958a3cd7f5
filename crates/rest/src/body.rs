//! Bodies of writes: JSON or YAML, within limits.

use axum::body::{Body, Bytes, to_bytes};
use http::{HeaderMap, StatusCode, header};
use serde_json::Value;

use crate::gojson;
use crate::problem::Problem;
use crate::state::Limits;

/// Which text a body is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Format {
    Json,
    Yaml,
}

/// Why a body is no document.
#[derive(Clone, Debug)]
pub(crate) enum BodyError {
    /// An answer of its own.
    Problem(Problem),
    /// Broken syntax; the sentence.
    Syntax(String),
}

/// The one document of a body.
pub(crate) async fn document(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> Result<Value, BodyError> {
    let format = format(headers).map_err(BodyError::Problem)?;
    let bytes = read(body, limits).await.map_err(BodyError::Problem)?;
    match format {
        Format::Json => json(&bytes),
        Format::Yaml => {
            let mut documents = yaml(&bytes)?;
            if documents.len() > 1 {
                let text =
                    "the body has several documents: this path takes one, `/_batch` takes several";
                return Err(BodyError::Syntax(text.to_owned()));
            }
            documents
                .pop()
                .ok_or_else(|| BodyError::Syntax("unexpected end of YAML input".to_owned()))
        }
    }
}

/// All documents of a body: of a YAML stream, or of a JSON value as it is.
pub(crate) async fn documents(
    headers: &HeaderMap,
    body: Body,
    limits: &Limits,
) -> Result<Vec<Value>, BodyError> {
    let format = format(headers).map_err(BodyError::Problem)?;
    let bytes = read(body, limits).await.map_err(BodyError::Problem)?;
    match format {
        Format::Json => json(&bytes).map(|value| vec![value]),
        Format::Yaml => yaml(&bytes),
    }
}

fn json(bytes: &Bytes) -> Result<Value, BodyError> {
    serde_json::from_slice(bytes).map_err(|error| {
        BodyError::Syntax(gojson::sentence(bytes).unwrap_or_else(|| error.to_string()))
    })
}

fn yaml(bytes: &Bytes) -> Result<Vec<Value>, BodyError> {
    let text = std::str::from_utf8(bytes)
        .map_err(|_error| BodyError::Syntax("the body is not UTF-8".to_owned()))?;
    zonal_model::yaml::documents(text).map_err(|error| BodyError::Syntax(error.to_string()))
}

fn format(headers: &HeaderMap) -> Result<Format, Problem> {
    let Some(value) = headers.get(header::CONTENT_TYPE) else {
        return Ok(Format::Json);
    };
    let value = value.to_str().unwrap_or_default();
    let essence = value
        .split(';')
        .next()
        .unwrap_or_default()
        .trim()
        .to_ascii_lowercase();
    match essence.as_str() {
        "application/json" => Ok(Format::Json),
        "application/yaml" | "application/x-yaml" | "text/yaml" | "text/x-yaml" => Ok(Format::Yaml),
        _ => Err(Problem::new(
            StatusCode::UNSUPPORTED_MEDIA_TYPE,
            "Unsupported Media Type",
            format!("content type `{essence}`: send `application/json` or `application/yaml`"),
        )),
    }
}

async fn read(body: Body, limits: &Limits) -> Result<Bytes, Problem> {
    let reading = to_bytes(body, limits.body_bytes_max);
    match tokio::time::timeout(limits.body_timeout, reading).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => Err(Problem::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "Request Entity Too Large",
            format!(
                "the body is longer than {} bytes, or ended early",
                limits.body_bytes_max
            ),
        )),
        Err(_elapsed) => Err(Problem::new(
            StatusCode::REQUEST_TIMEOUT,
            "Request Timeout",
            format!(
                "the body did not arrive within {} s",
                limits.body_timeout.as_secs()
            ),
        )),
    }
}
