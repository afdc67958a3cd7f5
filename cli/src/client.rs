//! One control plane's REST API.

use std::error::Error;
use std::io;
use std::time::Duration;

use reqwest::header::{
    AUTHORIZATION, ETAG, HeaderMap, HeaderName, HeaderValue, IF_MATCH, IF_NONE_MATCH,
};
use reqwest::{Method, redirect};
use serde_json::Value;
use zonal_process::tls::client_config;

use crate::address::Address;
use crate::failure::Failure;

const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);
/// How long an answer may take, waits on purpose aside.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
/// More than any control plane answers; a server that goes on for ever must not fill this machine.
const ANSWER_BYTES_MAX: usize = 1 << 30;
/// The largest page a control plane gives.
const PAGE_SIZE: &str = "1000";
/// The header that names the revision of a write.
const REVISION_HEADER: &str = "zonal-revision";

/// Sends requests to one control plane.
#[derive(Clone, Debug)]
pub(crate) struct Client {
    http: reqwest::Client,
    url: String,
}

/// A request, as far as callers differ.
#[derive(Debug)]
pub(crate) struct Call<'a> {
    method: Method,
    path: Vec<&'a str>,
    query: Vec<(&'a str, String)>,
    body: Option<&'a Value>,
    timeout: Duration,
    condition: Option<(HeaderName, &'a str)>,
}

/// What came back, whatever its status.
#[derive(Clone, Debug)]
pub(crate) struct Answer {
    pub status: u16,
    pub text: String,
    /// The revision of what was written or shown; `None` from a control plane that has none.
    pub revision: Option<u64>,
    /// The version of the one resource that was shown.
    pub etag: Option<String>,
}

impl<'a> Call<'a> {
    pub(crate) fn new(method: Method, path: impl IntoIterator<Item = &'a str>) -> Self {
        Self {
            method,
            path: path.into_iter().collect(),
            query: Vec::new(),
            body: None,
            timeout: ANSWER_TIMEOUT,
            condition: None,
        }
    }

    pub(crate) fn get(path: impl IntoIterator<Item = &'a str>) -> Self {
        Self::new(Method::GET, path)
    }

    pub(crate) fn query(mut self, name: &'a str, value: impl Into<String>) -> Self {
        self.query.push((name, value.into()));
        self
    }

    pub(crate) fn body(mut self, body: &'a Value) -> Self {
        self.body = Some(body);
        self
    }

    /// Only if the resource is as it was when it had this tag.
    pub(crate) fn only_if(mut self, etag: &'a str) -> Self {
        self.condition = Some((IF_MATCH, etag));
        self
    }

    /// Only if there is none.
    pub(crate) fn only_if_absent(mut self) -> Self {
        self.condition = Some((IF_NONE_MATCH, "*"));
        self
    }

    pub(crate) fn timeout(mut self, timeout: Duration) -> Self {
        self.timeout = timeout;
        self
    }

    /// Path and query, every part escaped.
    fn target(&self) -> String {
        let mut target: String = self
            .path
            .iter()
            .flat_map(|part| ["/".to_owned(), escape(part)])
            .collect();
        for (at, (name, value)) in self.query.iter().enumerate() {
            target.push(if at == 0 { '?' } else { '&' });
            target.push_str(&format!("{}={}", escape(name), escape(value)));
        }
        if target.is_empty() {
            "/".to_owned()
        } else {
            target
        }
    }
}

impl Client {
    pub(crate) fn new(address: &Address) -> Result<Self, Failure> {
        let mut headers = HeaderMap::new();
        if let Some(token) = &address.token {
            let mut value =
                HeaderValue::from_str(&format!("Bearer {}", token.read()?)).map_err(|_error| {
                    Failure::new("the token has characters that no token has")
                        .hint("check `--token`")
                })?;
            value.set_sensitive(true);
            headers.insert(AUTHORIZATION, value);
        }
        let mut builder = reqwest::Client::builder()
            .user_agent(concat!("zonal/", env!("CARGO_PKG_VERSION")))
            .default_headers(headers)
            .connect_timeout(CONNECT_TIMEOUT)
            .redirect(redirect::Policy::none())
            .no_proxy();
        if let Some(trust) = &address.trust {
            let config = client_config(trust, &["h2", "http/1.1"])
                .map_err(|error| Failure::new(error.to_string()))?;
            builder = builder.tls_backend_preconfigured(config);
        }
        let http = builder.build().map_err(|error| {
            Failure::new(format!("cannot set up connections: {}", causes(&error)))
                .hint("where the machine has no certificate authorities, name one with `--ca-file`")
        })?;
        Ok(Self {
            http,
            url: address.url.clone(),
        })
    }

    pub(crate) fn url(&self) -> &str {
        &self.url
    }

    /// Sends a request and reads the answer, whatever its status.
    pub(crate) async fn send(&self, call: Call<'_>) -> Result<Answer, Failure> {
        let response = self.begin(call).await?;
        self.read(response).await
    }

    /// Sends a request and writes a successful answer to `target` as it arrives. The inner error is of `target`.
    pub(crate) async fn download(
        &self,
        call: Call<'_>,
        mut target: impl io::Write,
    ) -> Result<io::Result<()>, Failure> {
        let mut response = self.begin(call).await?;
        if !response.status().is_success() {
            let answer = self.read(response).await?;
            return Err(self.refused(&answer));
        }
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if let Err(error) = target.write_all(&chunk) {
                return Ok(Err(error));
            }
        }
        Ok(target.flush())
    }

    async fn begin(&self, call: Call<'_>) -> Result<reqwest::Response, Failure> {
        let url = format!("{}{}", self.url, call.target());
        let mut request = self.http.request(call.method, url).timeout(call.timeout);
        if let Some(body) = call.body {
            request = request.json(body);
        }
        if let Some((name, value)) = call.condition {
            request = request.header(name, value);
        }
        request
            .send()
            .await
            .map_err(|error| self.unreachable(&error))
    }

    async fn read(&self, mut response: reqwest::Response) -> Result<Answer, Failure> {
        let revision = response
            .headers()
            .get(REVISION_HEADER)
            .and_then(|value| value.to_str().ok())
            .and_then(|text| text.parse().ok());
        let etag = response
            .headers()
            .get(ETAG)
            .and_then(|value| value.to_str().ok())
            .map(str::to_owned);
        let status = response.status().as_u16();
        let mut bytes = Vec::new();
        while let Some(chunk) = response
            .chunk()
            .await
            .map_err(|error| self.unreachable(&error))?
        {
            if bytes.len() + chunk.len() > ANSWER_BYTES_MAX {
                return Err(Failure::new(format!(
                    "`{}` answers without an end",
                    self.url
                )));
            }
            bytes.extend_from_slice(&chunk);
        }
        let text = String::from_utf8_lossy(&bytes).into_owned();
        Ok(Answer {
            status,
            text,
            revision,
            etag,
        })
    }

    /// Sends a request whose answer must be a success in JSON.
    pub(crate) async fn json(&self, call: Call<'_>) -> Result<(Value, Option<u64>), Failure> {
        let answer = self.send(call).await?;
        if !answer.is_success() {
            return Err(self.refused(&answer));
        }
        let value = answer.value().ok_or_else(|| {
            Failure::new(format!("`{}` does not answer in JSON", self.url))
                .hint("is this the REST address of a control plane?")
        })?;
        Ok((value, answer.revision))
    }

    /// Every item of a list, over all its pages.
    pub(crate) async fn list(
        &self,
        path: &[&str],
        query: &[(String, String)],
    ) -> Result<Vec<Value>, Failure> {
        let mut items = Vec::new();
        let mut offset = 0_u64;
        loop {
            let mut call = Call::get(path.iter().copied()).query("size", PAGE_SIZE);
            for (name, value) in query {
                call = call.query(name, value);
            }
            if offset > 0 {
                call = call.query("offset", offset.to_string());
            }
            let (mut page, _) = self.json(call).await?;
            if let Some(Value::Array(more)) = page.get_mut("items").map(Value::take) {
                items.extend(more);
            }
            match next_offset(&page) {
                Some(next) if next > offset => offset = next,
                _ => return Ok(items),
            }
        }
    }

    /// The failure that an answer without success tells of.
    pub(crate) fn refused(&self, answer: &Answer) -> Failure {
        let failure = answer.problem();
        match answer.status {
            401 => {
                failure.hint("name a user token with `--token-file`, `ZONAL_TOKEN` or a context")
            }
            403 => failure.hint(
                "this needs another user's token: `--token-file`, `ZONAL_TOKEN` or a context",
            ),
            404 if failure.sentence.contains("Page Not Found") => Failure::new(format!(
                "the control plane at `{}` does not have this page",
                self.url
            ))
            .hint("it may be older than this program, or be a control plane of another make"),
            _ => failure,
        }
    }

    /// No answer came, or it broke off.
    fn unreachable(&self, error: &reqwest::Error) -> Failure {
        let elsewhere =
            "name another control plane with `--address`, `ZONAL_ADDRESS` or `zonal context use`";
        let url = &self.url;
        if error.is_timeout() {
            return Failure::new(format!(
                "the control plane at `{url}` did not answer in time"
            ))
            .hint(elsewhere);
        }
        if let Some(error) = cause::<rustls::Error>(error) {
            let failure = Failure::new(format!(
                "cannot trust the control plane at `{url}`: {error}"
            ));
            return failure.hint(
                "name its authority with `--ca-file` or `ZONAL_CA_FILE`, or its certificate with `--fingerprint`",
            );
        }
        let reason = match cause::<io::Error>(error).map(io::Error::kind) {
            Some(io::ErrorKind::ConnectionRefused) => "nobody listens there".to_owned(),
            _ => causes(error),
        };
        if error.is_connect() {
            return Failure::new(format!(
                "cannot reach the control plane at `{url}`: {reason}"
            ))
            .hint(elsewhere);
        }
        Failure::new(format!("lost the control plane at `{url}`: {reason}"))
            .hint("ask again; a write may or may not have been kept")
    }
}

impl Answer {
    pub(crate) const fn is_success(&self) -> bool {
        matches!(self.status, 200..=299)
    }

    pub(crate) fn value(&self) -> Option<Value> {
        serde_json::from_str(&self.text).ok()
    }

    /// What went wrong, from an error body; any text where there is none.
    fn problem(&self) -> Failure {
        let Some(body) = self.value().filter(Value::is_object) else {
            let text: String = self.text.trim().chars().take(200).collect();
            return Failure::new(format!(
                "the control plane answered {}: {text}",
                self.status
            ));
        };
        let text = |name: &str| {
            body.get(name)
                .and_then(Value::as_str)
                .unwrap_or_default()
                .trim()
        };
        let (title, detail) = (text("title"), text("detail"));
        let sentence = match (title, detail) {
            ("", "") => format!("the control plane answered {}", self.status),
            (one, "") | ("", one) => one.to_owned(),
            (title, detail) if detail.to_lowercase().starts_with(&title.to_lowercase()) => {
                detail.to_owned()
            }
            (title, detail) => format!("{title}: {detail}"),
        };
        Failure::new(sentence).details(violations(&body))
    }
}

/// `field: message` of everything in `causes`, or in `invalid_parameters` where there is only that.
pub(crate) fn violations(body: &Value) -> Vec<String> {
    let lines = |list: &str, message: &str| -> Vec<String> {
        let entries = body
            .get(list)
            .and_then(Value::as_array)
            .into_iter()
            .flatten();
        entries
            .map(|entry| {
                let text = |name: &str| entry.get(name).and_then(Value::as_str).unwrap_or_default();
                match text("field") {
                    "" => text(message).to_owned(),
                    field => format!("{field}: {}", text(message)),
                }
            })
            .collect()
    };
    let causes = lines("causes", "message");
    if causes.is_empty() {
        lines("invalid_parameters", "reason")
    } else {
        causes
    }
}

/// The offset in the address of the next page; nothing else of it is used.
fn next_offset(page: &Value) -> Option<u64> {
    let next = reqwest::Url::parse(page.get("next")?.as_str()?).ok()?;
    let (_, offset) = next.query_pairs().find(|(name, _)| name == "offset")?;
    offset.parse().ok()
}

/// The first error of a type among an error and its causes; looks into I/O errors that carry another.
fn cause<'a, T: Error + 'static>(error: &'a (dyn Error + 'static)) -> Option<&'a T> {
    let mut next = Some(error);
    while let Some(error) = next {
        if let Some(found) = error.downcast_ref() {
            return Some(found);
        }
        let inner = error
            .downcast_ref::<io::Error>()
            .and_then(io::Error::get_ref);
        next = match inner {
            Some(inner) => Some(inner),
            None => error.source(),
        };
    }
    None
}

/// The last cause of an error: what really happened, without the layers that passed it on.
fn causes(error: &reqwest::Error) -> String {
    let mut last: &dyn Error = error;
    while let Some(next) = last.source() {
        last = next;
    }
    last.to_string()
}

fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' | b':' => {
                escaped.push(char::from(byte));
            }
            other => escaped.push_str(&format!("%{other:02X}")),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn parts_of_an_address_are_escaped() {
        let call = Call::get(["meshes", "a/../b", "zones"]).query("filter[labels.x]", "a&b%");
        assert_eq!(
            call.target(),
            "/meshes/a%2F..%2Fb/zones?filter%5Blabels.x%5D=a%26b%25"
        );
        assert_eq!(Call::get([]).target(), "/");
    }

    #[track_caller]
    fn check(status: u16, text: &str, want: &str) {
        let answer = Answer {
            status,
            text: text.to_owned(),
            revision: None,
            etag: None,
        };
        assert_eq!(answer.problem().to_string(), want);
    }

    #[test]
    fn a_refusal_has_every_violation() {
        let body = json!({
            "title": "Could not process a resource",
            "detail": "Resource is not valid",
            "invalid_parameters": [{"field": "name", "reason": "cannot be empty"}],
            "causes": [{"field": "name", "message": "cannot be empty"}, {"field": "", "message": "odd"}],
        });
        let want = "error: Could not process a resource: Resource is not valid\n  name: cannot be empty\n  odd";
        check(400, &body.to_string(), want);
        check(
            502,
            "<html>",
            "error: the control plane answered 502: <html>",
        );
        check(404, r#"{"title":"Not found"}"#, "error: Not found");
    }

    #[test]
    fn the_next_page_is_found_by_its_offset() {
        let page = json!({"next": "http://10.0.0.1:5681/meshes?offset=200&size=100"});
        assert_eq!(next_offset(&page), Some(200));
        assert_eq!(next_offset(&json!({"next": null})), None);
    }
}
