//! `zonal inspect`: how zones, proxies and services are doing.
//!
//! Each answer is a list of flat rows, made from the control plane's overviews; a table shows the same rows.

mod dataplanes;
mod services;
mod zones;

use serde_json::{Value, json};

use crate::address::Address;
use crate::arguments::{Format, Inspect, Inspected};
use crate::failure::{Exit, Failure};
use crate::output::Terminal;
use crate::table::Table;

pub(crate) async fn run(
    options: &Inspect,
    address: &Address,
    terminal: &mut Terminal,
) -> Result<Exit, Failure> {
    let client = address.client()?;
    let mesh = (!options.all_meshes).then(|| address.mesh(options.mesh.as_deref()));
    let (rows, columns) = match options.what {
        Inspected::Zones => (
            zones::rows(&client, terminal.clock().wall()).await?,
            zones::COLUMNS,
        ),
        Inspected::Dataplanes => (dataplanes::rows(&client, mesh).await?, dataplanes::COLUMNS),
        Inspected::Services => (services::rows(&client, mesh).await?, services::COLUMNS),
    };
    let format = options.output.format;
    let answer = json!({ "items": rows });
    if rows.is_empty() && matches!(format, Format::Table | Format::Wide) {
        let what = match options.what {
            Inspected::Zones => "zones",
            Inspected::Dataplanes => "dataplanes",
            Inspected::Services => "services",
        };
        terminal.note(&format!("there are no {what}"));
        return Ok(Exit::Done);
    }
    let now = terminal.clock().wall();
    terminal.print_as(format, &answer, || {
        table(&rows, columns, format == Format::Wide, now).render()
    })?;
    Ok(Exit::Done)
}

/// A member of a row, as a column.
#[derive(Clone, Copy, Debug)]
struct Column {
    head: &'static str,
    member: &'static str,
    shown: Shown,
    /// Only in the wide form.
    wide: bool,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Shown {
    /// As it is.
    Plain,
    /// A time, as how long ago.
    Ago,
    /// A number of seconds, as one unit.
    Seconds,
}

impl Column {
    const fn new(head: &'static str, member: &'static str) -> Self {
        Self {
            head,
            member,
            shown: Shown::Plain,
            wide: false,
        }
    }

    const fn shown(mut self, shown: Shown) -> Self {
        self.shown = shown;
        self
    }

    const fn wide(mut self) -> Self {
        self.wide = true;
        self
    }

    fn cell(&self, row: &Value, now: jiff::Timestamp) -> String {
        let value = row.get(self.member).unwrap_or(&Value::Null);
        match (self.shown, value) {
            (Shown::Ago, Value::String(then)) => crate::table::ago(Some(then), now),
            (Shown::Seconds, Value::Number(seconds)) => {
                seconds.as_i64().map(crate::table::span).unwrap_or_default()
            }
            _ => text(value),
        }
    }
}

/// A value in a cell.
fn text(value: &Value) -> String {
    match value {
        Value::Null => String::new(),
        Value::String(text) => text.clone(),
        Value::Array(items) => items.iter().map(text).collect::<Vec<_>>().join(","),
        other => other.to_string(),
    }
}

fn table(rows: &[Value], columns: &[Column], wide: bool, now: jiff::Timestamp) -> Table {
    let shown = || columns.iter().filter(|column| wide || !column.wide);
    let mut table = Table::with_head(shown().map(|column| column.head.to_owned()).collect());
    for row in rows {
        table.row(shown().map(|column| column.cell(row, now)).collect());
    }
    table
}

/// The subscription that is open, else the one that ended last.
fn subscription(insight: Option<&Value>) -> Option<(&Value, bool)> {
    let subscriptions = insight?.get("subscriptions")?.as_array()?;
    let time = |subscription: &Value, member: &str| {
        subscription
            .get(member)
            .and_then(Value::as_str)
            .unwrap_or_default()
            .to_owned()
    };
    let is_open = |subscription: &&Value| {
        subscription
            .get("connectTime")
            .is_some_and(|time| !time.is_null())
            && subscription
                .get("disconnectTime")
                .is_none_or(Value::is_null)
    };
    let open = subscriptions
        .iter()
        .filter(is_open)
        .max_by_key(|s| time(s, "connectTime"));
    match open {
        Some(open) => Some((open, true)),
        None => {
            let last = subscriptions
                .iter()
                .max_by_key(|s| time(s, "disconnectTime"))?;
            Some((last, false))
        }
    }
}

/// The value at a pointer, or null.
fn at(value: &Value, pointer: &str) -> Value {
    value.pointer(pointer).cloned().unwrap_or(Value::Null)
}
