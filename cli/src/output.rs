//! Where a command reads from and prints to, and the forms it prints in.

use std::fmt;
use std::io::{self, Read, Write};
use std::sync::Arc;

use serde::Serialize;
use serde::ser::{SerializeMap, Serializer};
use serde_json::Value;
use zonal_process::{Clock, RealClock};

use crate::arguments::Format;
use crate::failure::{Exit, Failure};

/// The three streams and the clock, so that a test can be the person before the screen.
pub struct Terminal {
    input: Box<dyn Read + Send>,
    output: Box<dyn Write + Send>,
    errors: Box<dyn Write + Send>,
    clock: Arc<dyn Clock>,
}

impl Terminal {
    /// The process's own streams.
    #[must_use]
    pub fn real() -> Self {
        Self::new(
            Box::new(io::stdin()),
            Box::new(io::BufWriter::new(io::stdout())),
            Box::new(io::stderr()),
            RealClock::shared(),
        )
    }

    /// Any streams.
    #[must_use]
    pub fn new(
        input: Box<dyn Read + Send>,
        output: Box<dyn Write + Send>,
        errors: Box<dyn Write + Send>,
        clock: Arc<dyn Clock>,
    ) -> Self {
        Self {
            input,
            output,
            errors,
            clock,
        }
    }

    pub(crate) fn clock(&self) -> &Arc<dyn Clock> {
        &self.clock
    }

    /// Everything that comes in.
    pub(crate) fn read(&mut self) -> io::Result<String> {
        let mut text = String::new();
        self.input.read_to_string(&mut text)?;
        Ok(text)
    }

    /// One line (or several) of what the command found out.
    pub(crate) fn print(&mut self, text: &str) -> Result<(), Failure> {
        writeln!(self.output, "{text}").map_err(|error| Self::broken(&error))
    }

    pub(crate) fn print_json(&mut self, value: &Value) -> Result<(), Failure> {
        let text = serde_json::to_string_pretty(&Ordered(value))
            .map_err(|error| Failure::new(format!("cannot print the answer: {error}")))?;
        self.print(&text)
    }

    /// One YAML document per value, so that the output can be applied again.
    pub(crate) fn print_yaml(&mut self, values: &[&Value]) -> Result<(), Failure> {
        for (at, value) in values.iter().enumerate() {
            if at > 0 {
                self.print("---")?;
            }
            let text = zonal_model::yaml::to_string(&Ordered(value))
                .map_err(|error| Failure::new(format!("cannot print the answer: {error}")))?;
            self.print(text.trim_end())?;
        }
        Ok(())
    }

    /// Prints a computed answer: `value` for machines, `table` for people.
    pub(crate) fn print_as(
        &mut self,
        format: Format,
        value: &Value,
        table: impl FnOnce() -> String,
    ) -> Result<(), Failure> {
        match format {
            Format::Json => self.print_json(value),
            Format::Yaml => self.print_yaml(&[value]),
            Format::Table | Format::Wide => self.print(table().trim_end()),
        }
    }

    /// A line about the command itself. Nothing can be done when even this fails.
    pub(crate) fn note(&mut self, text: &str) {
        let _unheard = writeln!(self.errors, "{text}");
    }

    pub(crate) fn complain(&mut self, failure: &Failure) {
        let _unheard = self.output.flush();
        if !failure.sentence.is_empty() {
            self.note(&failure.to_string());
        }
    }

    pub(crate) fn flush(&mut self) -> Result<(), Failure> {
        self.output.flush().map_err(|error| Self::broken(&error))
    }

    /// A reader that had enough (`zonal get … | head`) is no error.
    fn broken(error: &io::Error) -> Failure {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Failure::new("").exit(Exit::Done);
        }
        Failure::new(format!("cannot write to standard output: {error}"))
    }
}

impl fmt::Debug for Terminal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Terminal").finish_non_exhaustive()
    }
}

/// A value whose resources have their members in the order in which people write them.
struct Ordered<'a>(&'a Value);

const FIRST: [&str; 7] = [
    "type",
    "mesh",
    "name",
    "kri",
    "labels",
    "creationTime",
    "modificationTime",
];
const LAST: [&str; 2] = ["spec", "status"];

impl Serialize for Ordered<'_> {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self.0 {
            Value::Array(items) => serializer.collect_seq(items.iter().map(Ordered)),
            Value::Object(members) if members.contains_key("type") => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                let fixed = |name: &str| FIRST.contains(&name) || LAST.contains(&name);
                let named = |names: &'static [&'static str]| {
                    names.iter().filter_map(|name| members.get_key_value(*name))
                };
                let rest = members.iter().filter(|(name, _)| !fixed(name));
                for (name, value) in named(&FIRST).chain(rest).chain(named(&LAST)) {
                    map.serialize_entry(name, value)?;
                }
                map.end()
            }
            Value::Object(members) => {
                serializer.collect_map(members.iter().map(|(name, value)| (name, Ordered(value))))
            }
            other => other.serialize(serializer),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn a_resource_is_printed_as_people_write_it() {
        let resource = json!({"items": [{"spec": {"b": 1, "a": 2}, "name": "n", "mesh": "m", "type": "T", "extra": 0}]});
        let text = serde_json::to_string(&Ordered(&resource)).unwrap();
        assert_eq!(
            text,
            r#"{"items":[{"type":"T","mesh":"m","name":"n","extra":0,"spec":{"a":2,"b":1}}]}"#
        );
    }
}
