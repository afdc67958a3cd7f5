//! What the story prints: one line per fact, small tables.

use std::time::Duration;

/// Prints the story as it happens; every fact printed was checked before.
#[derive(Debug, Default)]
pub struct Report {
    quiet: bool,
}

#[expect(clippy::print_stdout, reason = "telling the story is what this is for")]
impl Report {
    /// Prints nothing, for tests that only want the checks.
    #[must_use]
    pub const fn quiet() -> Self {
        Self { quiet: true }
    }

    /// Begins a chapter.
    pub fn chapter(&self, letter: char, title: &str) {
        if !self.quiet {
            println!("\n{letter}. {title}");
        }
    }

    /// One fact.
    pub fn fact(&self, text: &str) {
        if !self.quiet {
            println!("   {text}");
        }
    }

    /// One fact with the time it took.
    pub fn timed(&self, text: &str, took: Duration) {
        if !self.quiet {
            println!("   {text:<88} {:>8.1} ms", took.as_secs_f64() * 1000.0);
        }
    }

    /// A table without borders.
    pub fn table(&self, header: &[&str], rows: Vec<Vec<String>>) {
        if self.quiet {
            return;
        }
        let mut table = comfy_table::Table::new();
        table
            .load_style(comfy_table::presets::NOTHING)
            .set_header(header.to_vec());
        for row in rows {
            table.add_row(row);
        }
        for line in table.to_string().lines() {
            println!("   {}", line.trim_end());
        }
    }
}
