//! The query part of a request: paging, filters, and the address of the next page.

use std::sync::Arc;

use zonal_model::{Kind, Resource};
use zonal_store::Stored;

use crate::problem::{Problem, Title};

const SIZE_DEFAULT: usize = 100;
const SIZE_MAX: usize = 1000;

/// Query parameters in order of appearance, decoded.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Query(pub(crate) Vec<(String, String)>);

impl Query {
    pub(crate) fn parse(text: Option<&str>) -> Self {
        let pairs = text
            .unwrap_or_default()
            .split('&')
            .filter(|pair| !pair.is_empty());
        Self(
            pairs
                .map(|pair| {
                    let (name, value) = pair.split_once('=').unwrap_or((pair, ""));
                    (decode(name), decode(value))
                })
                .collect(),
        )
    }

    /// The first value of a parameter.
    pub(crate) fn get(&self, name: &str) -> Option<&str> {
        self.0
            .iter()
            .find(|(found, _)| found == name)
            .map(|(_, value)| value.as_str())
    }

    /// A switch: present without a value, or `true`.
    pub(crate) fn flag(&self, name: &str) -> bool {
        matches!(self.get(name), Some("" | "true" | "1"))
    }

    /// Printed again with one parameter replaced, sorted by name.
    fn with(&self, name: &str, value: &str) -> String {
        let mut pairs: Vec<(&str, &str)> = self
            .0
            .iter()
            .filter(|(found, _)| found != name)
            .map(|(name, value)| (name.as_str(), value.as_str()))
            .collect();
        pairs.push((name, value));
        // A stable sort: values of one name keep their order.
        pairs.sort_by_key(|(name, _)| *name);
        let pairs: Vec<String> = pairs
            .into_iter()
            .map(|(name, value)| format!("{}={}", encode(name), encode(value)))
            .collect();
        pairs.join("&")
    }
}

fn decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.bytes();
    while let Some(byte) = rest.next() {
        match byte {
            b'+' => bytes.push(b' '),
            b'%' => {
                let mut ahead = rest.clone();
                let digits = ahead.next().zip(ahead.next()).and_then(|(high, low)| {
                    let digit = |byte: u8| char::from(byte).to_digit(16);
                    u8::try_from(digit(high)? * 16 + digit(low)?).ok()
                });
                if let Some(value) = digits {
                    bytes.push(value);
                    rest = ahead;
                } else {
                    bytes.push(byte);
                }
            }
            other => bytes.push(other),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

fn encode(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                out.push(char::from(byte));
            }
            b' ' => out.push('+'),
            other => out.push_str(&format!("%{other:02X}")),
        }
    }
    out
}

/// One page of a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Page {
    size: usize,
    offset: usize,
}

impl Page {
    pub(crate) fn parse(query: &Query) -> Result<Self, Problem> {
        let bad_size = |reason: String| {
            let mut problem = Problem::invalid_field(Title::List, "size", reason);
            problem.detail = "Invalid page size".to_owned();
            problem
        };
        let size = match query.get("size").filter(|size| !size.is_empty()) {
            None => SIZE_DEFAULT,
            Some(size) => match size.parse::<i64>() {
                Err(_) => return Err(bad_size("invalid format".to_owned())),
                Ok(size) if size <= 0 => return Err(bad_size("must be greater than 0".to_owned())),
                Ok(size) => match usize::try_from(size) {
                    Ok(size) if size <= SIZE_MAX => size,
                    _ => {
                        return Err(bad_size(format!(
                            "invalid page size of {size}. Maximum page size is {SIZE_MAX}"
                        )));
                    }
                },
            },
        };
        let offset = match query.get("offset").filter(|offset| !offset.is_empty()) {
            None => 0,
            Some(offset) => offset.parse::<usize>().map_err(|_error| {
                Problem::new(
                    http::StatusCode::BAD_REQUEST,
                    "Could not retrieve resources",
                    format!(
                        "invalid: invalid offset: strconv.Atoi: parsing \"{offset}\": invalid syntax"
                    ),
                )
            })?,
        };
        Ok(Self { size, offset })
    }

    /// The part of `all` on this page, and the address of the next one.
    pub(crate) fn cut<T>(
        self,
        all: Vec<T>,
        query: &Query,
        address: &str,
    ) -> (usize, Vec<T>, Option<String>) {
        let total = all.len();
        let items: Vec<T> = all.into_iter().skip(self.offset).take(self.size).collect();
        let next = self.offset.saturating_add(self.size);
        let next = (next < total)
            .then(|| format!("{address}?{}", query.with("offset", &next.to_string())));
        (total, items, next)
    }
}

/// What a listed resource must be like.
#[derive(Debug, Default)]
pub(crate) struct Filter {
    name: Option<String>,
    labels: Vec<(String, String)>,
    tags: Vec<(String, String)>,
    gateway: Option<Gateway>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gateway {
    Any,
    None,
    Delegated,
}

impl Filter {
    /// Reads the filters of a list of `kind`; `route` is the path's pattern, which errors name.
    pub(crate) fn parse(kind: Kind, route: &str, query: &Query) -> Result<Self, Problem> {
        let mut filter = Self::default();
        let mut problems = zonal_model::Violations::new();
        for (name, value) in &query.0 {
            if name == "name" {
                filter.name.get_or_insert_with(|| value.clone());
            } else if let Some(rest) = name.strip_prefix("filter[") {
                match label_filter(rest) {
                    Ok(label) => {
                        filter.labels.retain(|(known, _)| known != label);
                        filter.labels.push((label.to_owned(), value.clone()));
                    }
                    Err(reason) => problems.add(format!("{route}.{name}"), reason),
                }
            } else if kind == Kind::Dataplane && name == "tag" {
                if let Some((key, value)) = value.split_once(':') {
                    filter.tags.push((key.to_owned(), value.to_owned()));
                }
            } else if kind == Kind::Dataplane && name == "gateway" {
                match value.to_lowercase().as_str() {
                    "" => {}
                    "true" => filter.gateway = Some(Gateway::Any),
                    "false" => filter.gateway = Some(Gateway::None),
                    "delegated" => filter.gateway = Some(Gateway::Delegated),
                    _ => problems.add(
                        format!("{route}.gateway"),
                        format!("should use `true`, `false` or `delegated` instead of {value}"),
                    ),
                }
            }
        }
        match problems.into_result() {
            Ok(()) => Ok(filter),
            Err(violations) => Err(Problem::invalid(Title::List, violations)),
        }
    }

    pub(crate) fn passes(&self, stored: &Arc<Stored>) -> bool {
        let resource = &stored.resource;
        let name = self
            .name
            .as_ref()
            .is_none_or(|part| resource.key.name.contains(part.as_str()));
        let labels = self
            .labels
            .iter()
            .all(|(key, value)| resource.label(key) == Some(value.as_str()));
        name && labels && self.passes_dataplane(resource)
    }

    fn passes_dataplane(&self, resource: &Resource) -> bool {
        if self.tags.is_empty() && self.gateway.is_none() {
            return true;
        }
        let spec = resource.spec.to_value();
        let gateway = spec
            .pointer("/networking/gateway")
            .filter(|gateway| gateway.is_object());
        let gateway_passes = match self.gateway {
            None => true,
            Some(Gateway::Any) => gateway.is_some(),
            Some(Gateway::None) => gateway.is_none(),
            // The only sort of gateway that still parses.
            Some(Gateway::Delegated) => gateway.is_some(),
        };
        let tag = |key: &str| gateway.and_then(|gateway| gateway.get("tags")?.get(key)?.as_str());
        let tags_pass = |value_of: &dyn Fn(&str) -> Option<String>| {
            self.tags.iter().all(|(key, want)| {
                value_of(key).is_some_and(|value| want == "*" || value.contains(want.as_str()))
            })
        };
        gateway_passes
            && (tags_pass(&|key| tag(key).map(str::to_owned))
                || tags_pass(&|key| resource.label(key).map(str::to_owned)))
    }
}

/// The label of `labels.<key>]`.
fn label_filter(rest: &str) -> Result<&str, &'static str> {
    let Some((what, after)) = rest.split_once(']') else {
        return Err("filters are only supported on labels");
    };
    if !after.is_empty() {
        return Err("advanced filters are not supported");
    }
    what.strip_prefix("labels.")
        .ok_or("filters are only supported on labels")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_keeps_all_parameters_sorted() {
        let query = Query::parse(Some("size=2&filter%5Blabels.a%5D=x+y&offset=1&a=%26"));
        let page = Page::parse(&query).unwrap();
        let (total, items, next) = page.cut(vec![1, 2, 3, 4], &query, "http://h/p");
        assert_eq!((total, items), (4, vec![2, 3]));
        let want = "http://h/p?a=%26&filter%5Blabels.a%5D=x+y&offset=3&size=2";
        assert_eq!(next.as_deref(), Some(want));
        assert_eq!(
            page.cut(vec![1, 2, 3], &query, "").2,
            None,
            "the last page has no next"
        );
    }

    #[track_caller]
    fn check_page(text: &str, want: &str) {
        let problem = Page::parse(&Query::parse(Some(text))).unwrap_err();
        let said = problem
            .violations
            .first()
            .map_or(problem.detail, |v| v.message.clone());
        assert_eq!(said, want);
    }

    #[test]
    fn page_sizes_have_limits() {
        check_page("size=x", "invalid format");
        check_page("size=0", "must be greater than 0");
        check_page("size=-3", "must be greater than 0");
        check_page(
            "size=1001",
            "invalid page size of 1001. Maximum page size is 1000",
        );
        check_page(
            "offset=x",
            "invalid: invalid offset: strconv.Atoi: parsing \"x\": invalid syntax",
        );
    }

    #[track_caller]
    fn check_filter(parameter: &str, want: Option<&str>) {
        let query = Query(vec![(parameter.to_owned(), "v".to_owned())]);
        let got = Filter::parse(Kind::Mesh, "/meshes", &query);
        let got = got
            .err()
            .map(|problem| problem.violations[0].message.clone());
        assert_eq!(got.as_deref(), want, "{parameter}");
    }

    #[test]
    fn filters_are_on_labels() {
        check_filter("filter[labels.a.b/c]", None);
        check_filter(
            "filter[spec.x]",
            Some("filters are only supported on labels"),
        );
        check_filter(
            "filter[labels.a",
            Some("filters are only supported on labels"),
        );
        check_filter(
            "filter[labels.a][eq]",
            Some("advanced filters are not supported"),
        );
    }
}
