//! Tables for people.

use jiff::Timestamp;

/// Columns separated by three spaces, as wide as their widest cell; an empty cell is printed as `-`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Table {
    rows: Vec<Vec<String>>,
}

impl Table {
    pub(crate) fn new<const N: usize>(head: [&str; N]) -> Self {
        Self {
            rows: vec![head.iter().map(|cell| (*cell).to_owned()).collect()],
        }
    }

    /// The head may have any number of cells.
    pub(crate) fn with_head(head: Vec<String>) -> Self {
        Self { rows: vec![head] }
    }

    pub(crate) fn row(&mut self, cells: Vec<String>) {
        self.rows.push(cells);
    }

    pub(crate) fn render(&self) -> String {
        let columns = self.rows.iter().map(Vec::len).max().unwrap_or(0);
        let widths: Vec<usize> = (0..columns)
            .map(|column| {
                let cells = self.rows.iter().filter_map(|row| row.get(column));
                cells
                    .map(|cell| shown(cell).chars().count())
                    .max()
                    .unwrap_or(0)
            })
            .collect();
        let mut text = String::new();
        for row in &self.rows {
            let cells: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{:width$}", shown(cell), width = *width))
                .collect();
            text.push_str(cells.join("   ").trim_end());
            text.push('\n');
        }
        text
    }
}

/// A cell is one line of text that cannot move the cursor.
fn shown(cell: &str) -> String {
    if cell.is_empty() {
        return "-".to_owned();
    }
    cell.chars()
        .map(|c| if c.is_control() { ' ' } else { c })
        .collect()
}

/// How long ago something was, as one unit: `45s`, `5m`, `2h`, `3d`, `1y`; `never` where there is no time, or one to
/// come.
pub(crate) fn ago(then: Option<&str>, now: Timestamp) -> String {
    let seconds = then
        .and_then(|then| then.parse::<Timestamp>().ok())
        .map(|then| now.as_second() - then.as_second());
    match seconds {
        Some(seconds) if seconds >= -1 => span(seconds.max(0)),
        _ => "never".to_owned(),
    }
}

/// A number of seconds as one unit.
pub(crate) fn span(seconds: i64) -> String {
    const UNITS: [(i64, &str); 4] = [(365 * 86_400, "y"), (86_400, "d"), (3_600, "h"), (60, "m")];
    for (size, unit) in UNITS {
        if seconds >= size {
            return format!("{}{unit}", seconds / size);
        }
    }
    format!("{seconds}s")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_are_as_wide_as_their_widest_cell() {
        let mut table = Table::new(["NAME", "AGE"]);
        table.row(vec!["a-long-name".to_owned(), "5m".to_owned()]);
        table.row(vec!["b\u{1b}[2J".to_owned(), String::new()]);
        assert_eq!(
            table.render(),
            "NAME          AGE\na-long-name   5m\nb [2J         -\n"
        );
    }

    #[track_caller]
    fn check(then: Option<&str>, want: &str) {
        let now: Timestamp = "2026-01-10T00:00:00Z".parse().unwrap();
        assert_eq!(ago(then, now), want, "{then:?}");
    }

    #[test]
    fn ages_have_one_unit() {
        check(Some("2026-01-10T00:00:00Z"), "0s");
        check(Some("2026-01-10T00:00:01Z"), "0s");
        check(Some("2026-01-09T23:59:15Z"), "45s");
        check(Some("2026-01-09T23:54:30Z"), "5m");
        check(Some("2026-01-09T21:10:00Z"), "2h");
        check(Some("2026-01-07T00:00:00Z"), "3d");
        check(Some("2024-06-01T00:00:00Z"), "1y");
        check(Some("2026-01-11T00:00:00Z"), "never");
        check(Some("yesterday"), "never");
        check(None, "never");
    }
}
