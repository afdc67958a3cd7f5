//! `zonal token`: asks the control plane for a token and prints it, and nothing else.

use std::collections::BTreeMap;
use std::time::Duration;

use reqwest::Method;
use serde_json::{Value, json};

use crate::address::Address;
use crate::arguments::{Token, Whose};
use crate::client::Call;
use crate::failure::{Exit, Failure};
use crate::output::Terminal;

pub(crate) async fn run(
    options: &Token,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let client = address.client()?;
    let (page, body) = request(&options.whose, |named| address.mesh(named).to_owned());
    let answer = client
        .send(Call::new(Method::POST, ["tokens", page]).body(&body))
        .await?;
    if !answer.is_success() {
        return Err(client.refused(&answer));
    }
    terminal.print(answer.text.trim_end())?;
    Ok(Exit::Done)
}

fn request(whose: &Whose, mesh: impl Fn(Option<&str>) -> String) -> (&'static str, Value) {
    match whose {
        Whose::Dataplane {
            name,
            mesh: named,
            workload,
            tags,
            valid_for,
        } => {
            let mut values: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
            for (key, value) in tags {
                values.entry(key).or_default().push(value);
            }
            let body = json!({
                "name": name.as_deref().unwrap_or_default(),
                "mesh": mesh(named.as_deref()),
                "workload": workload.as_deref().unwrap_or_default(),
                "tags": values,
                "type": "dataplane",
                "validFor": validity(*valid_for),
            });
            ("dataplane", body)
        }
        Whose::Zone {
            name,
            zone,
            scopes,
            valid_for,
        } => {
            let zone = name.as_deref().or(zone.as_deref()).unwrap_or_default();
            (
                "zone",
                json!({"zone": zone, "scope": scopes, "validFor": validity(*valid_for)}),
            )
        }
        Whose::User {
            name,
            groups,
            valid_for,
        } => {
            let validity = validity(Some(*valid_for));
            (
                "user",
                json!({"name": name, "groups": groups, "validFor": validity}),
            )
        }
    }
}

/// As the API reads durations; empty for its own default.
pub(crate) fn validity(valid_for: Option<Duration>) -> String {
    valid_for
        .map(|valid_for| format!("{}s", valid_for.as_secs()))
        .unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn requests_have_what_was_asked_for() {
        let pair = |value: &str| ("kuma.io/service".to_owned(), value.to_owned());
        let whose = Whose::Dataplane {
            name: Some("web".to_owned()),
            mesh: None,
            workload: None,
            tags: vec![pair("a"), pair("b")],
            valid_for: Some(Duration::from_hours(24)),
        };
        let (page, body) = request(&whose, |named| named.unwrap_or("m").to_owned());
        assert_eq!(page, "dataplane");
        let want = json!({
            "name": "web", "mesh": "m", "workload": "", "tags": {"kuma.io/service": ["a", "b"]},
            "type": "dataplane", "validFor": "86400s",
        });
        assert_eq!(body, want);
    }
}
