//! The templates in which host names and SPIFFE ids are written: the part of Go's text/template that they need.
//!
//! Known are fields (`.Name`), texts, numbers, pipelines, trim markers, comments and the functions `label`, `print`,
//! `lower`. Other functions of that language parse and fail when they are rendered; control structures do not parse.

use std::fmt;

/// A parsed template.
///
/// ```
/// use zonal_model::template::{Template, Values};
/// let template = Template::parse("{{ .DisplayName }}.svc.{{ label \"zone\" }}").unwrap();
/// let field = |name: &str| (name == "DisplayName").then(|| "web".to_owned());
/// let label = |key: &str| (key == "zone").then(|| "east".to_owned());
/// let text = template.render(&Values { field: &field, label: &label }).unwrap();
/// assert_eq!(text, "web.svc.east");
/// ```
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template(Vec<Piece>);

/// What a template can ask for.
#[derive(Clone, Copy)]
pub struct Values<'a> {
    /// The value of `.Name`, given `Name`; `None` where there is no such field.
    pub field: &'a dyn Fn(&str) -> Option<String>,
    /// The value of a label; `None` where it is missing, which is an error.
    pub label: &'a dyn Fn(&str) -> Option<String>,
}

impl fmt::Debug for Values<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Values")
    }
}

/// A text that is no template, or a template that cannot be rendered.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// At a line, counted from 1.
    #[error("template: :{line}: {message}")]
    Parse {
        /// The line.
        line: usize,
        /// What is wrong.
        message: String,
    },
    /// While rendering.
    #[error("template: :1: {0}")]
    Render(String),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Piece {
    Literal(String),
    Action(Vec<Command>),
}

/// An operand or function with arguments.
type Command = Vec<Operand>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Operand {
    Field(String),
    Text(String),
    Number(String),
    Function(String),
    Nested(Vec<Command>),
}

/// Names that parse as functions.
const FUNCTIONS: &[&str] = &[
    "label", "print", "printf", "println", "lower", "and", "or", "not", "len", "index", "slice",
    "html", "js", "urlquery", "call", "eq", "ne", "lt", "le", "gt", "ge",
];

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The text is none; the sentences are those that users of such templates know.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut rest = text;
        let mut line = 1;
        let mut trim_next = false;
        loop {
            let Some((literal, after)) = rest.split_once("{{") else {
                push_literal(&mut pieces, rest, trim_next, false);
                return Ok(Self(pieces));
            };
            line += literal.matches('\n').count();
            let (trim_before, after) = match after.strip_prefix("- ") {
                Some(after) => (true, after),
                None => (false, after),
            };
            push_literal(&mut pieces, literal, trim_next, trim_before);
            let error = |message: &str| TemplateError::Parse {
                line,
                message: message.to_owned(),
            };
            let end = action_end(after).ok_or_else(|| error("unclosed action"))?;
            let (action, after) = after.split_at(end);
            rest = after.strip_prefix("}}").unwrap_or(after);
            let action = match action.strip_suffix(" -") {
                Some(action) => {
                    trim_next = true;
                    action
                }
                None => {
                    trim_next = false;
                    action
                }
            };
            let trimmed = action.trim();
            if !(trimmed.starts_with("/*") && trimmed.ends_with("*/")) {
                let mut parser = Parser {
                    rest: trimmed,
                    line,
                };
                let pipeline = parser.pipeline(false)?;
                pieces.push(Piece::Action(pipeline));
            }
            line += action.matches('\n').count();
        }
    }

    /// Fills it in.
    ///
    /// # Errors
    /// A field that does not exist, a missing label, or a function that is not supported.
    pub fn render(&self, values: &Values<'_>) -> Result<String, TemplateError> {
        let mut text = String::new();
        for piece in &self.0 {
            match piece {
                Piece::Literal(literal) => text.push_str(literal),
                Piece::Action(pipeline) => text.push_str(&evaluate(pipeline, values)?),
            }
        }
        Ok(text)
    }

    /// Whether the template reads this field.
    #[must_use]
    pub fn uses_field(&self, name: &str) -> bool {
        fn used(pipeline: &[Command], name: &str) -> bool {
            pipeline.iter().flatten().any(|operand| match operand {
                Operand::Field(field) => field == name,
                Operand::Nested(pipeline) => used(pipeline, name),
                Operand::Text(_) | Operand::Number(_) | Operand::Function(_) => false,
            })
        }
        self.0.iter().any(|piece| match piece {
            Piece::Literal(_) => false,
            Piece::Action(pipeline) => used(pipeline, name),
        })
    }
}

fn push_literal(pieces: &mut Vec<Piece>, literal: &str, trim_start: bool, trim_end: bool) {
    let mut literal = literal;
    if trim_start {
        literal = literal.trim_start();
    }
    if trim_end {
        literal = literal.trim_end();
    }
    if !literal.is_empty() {
        pieces.push(Piece::Literal(literal.to_owned()));
    }
}

/// Where the closing braces are, skipping texts.
fn action_end(text: &str) -> Option<usize> {
    let bytes = text.as_bytes();
    let mut quote = None;
    let mut index = 0;
    while let Some(&byte) = bytes.get(index) {
        match quote {
            Some(open) => {
                if byte == b'\\' && open == b'"' {
                    index += 1;
                } else if byte == open {
                    quote = None;
                }
            }
            None if byte == b'"' || byte == b'`' => quote = Some(byte),
            None if byte == b'}' && bytes.get(index + 1) == Some(&b'}') => return Some(index),
            None => {}
        }
        index += 1;
    }
    None
}

struct Parser<'a> {
    rest: &'a str,
    line: usize,
}

impl Parser<'_> {
    fn error(&self, message: impl Into<String>) -> TemplateError {
        TemplateError::Parse {
            line: self.line,
            message: message.into(),
        }
    }

    fn take(&mut self, length: usize) -> &str {
        let (taken, rest) = self
            .rest
            .split_at_checked(length)
            .unwrap_or((self.rest, ""));
        self.rest = rest;
        taken
    }

    fn pipeline(&mut self, nested: bool) -> Result<Vec<Command>, TemplateError> {
        let mut pipeline: Vec<Command> = vec![Vec::new()];
        loop {
            self.rest = self.rest.trim_start();
            let stage = pipeline.len();
            let next = self.rest.chars().next();
            let done = match (next, nested) {
                (Some('|'), _) => false,
                (None, false) => true,
                (Some(')'), true) => true,
                (None, true) => return Err(self.error("unclosed left paren")),
                (Some(_), _) => {
                    let operand = self.operand()?;
                    if let Some(command) = pipeline.last_mut() {
                        command.push(operand);
                    }
                    continue;
                }
            };
            match pipeline.last().and_then(|command| command.first()) {
                None => return Err(self.error("missing value for command")),
                Some(Operand::Text(_) | Operand::Number(_)) if stage > 1 => {
                    return Err(
                        self.error(format!("non executable command in pipeline stage {stage}"))
                    );
                }
                Some(_) => {}
            }
            self.take(next.map_or(0, char::len_utf8));
            if done {
                return Ok(pipeline);
            }
            pipeline.push(Vec::new());
        }
    }

    fn operand(&mut self) -> Result<Operand, TemplateError> {
        let is_word = |c: char| c.is_alphanumeric() || c == '_';
        let Some(first) = self.rest.chars().next() else {
            return Err(self.error("missing value for command"));
        };
        match first {
            '(' => {
                self.take(1);
                Ok(Operand::Nested(self.pipeline(true)?))
            }
            '.' => {
                self.take(1);
                let end = self
                    .rest
                    .find(|c| !is_word(c) && c != '.')
                    .unwrap_or(self.rest.len());
                Ok(Operand::Field(self.take(end).to_owned()))
            }
            '"' => {
                let end = quoted_end(self.rest)
                    .ok_or_else(|| self.error("unterminated quoted string"))?;
                let quoted = self.take(end).to_owned();
                serde_json::from_str(&quoted)
                    .map(Operand::Text)
                    .map_err(|_error| self.error(format!("invalid syntax in {quoted}")))
            }
            '`' => {
                let after = self.rest.get(1..).unwrap_or_default();
                let end = after
                    .find('`')
                    .ok_or_else(|| self.error("unterminated raw quoted string"))?;
                let raw = after.get(..end).unwrap_or_default().to_owned();
                self.take(end + 2);
                Ok(Operand::Text(raw))
            }
            c if c.is_ascii_digit() || c == '-' || c == '+' => {
                let end = self
                    .rest
                    .find(|c: char| !is_word(c) && !"+-.".contains(c))
                    .unwrap_or(self.rest.len());
                Ok(Operand::Number(self.take(end).to_owned()))
            }
            c if is_word(c) => {
                let end = self.rest.find(|c| !is_word(c)).unwrap_or(self.rest.len());
                let name = self.take(end).to_owned();
                if FUNCTIONS.contains(&name.as_str()) {
                    Ok(Operand::Function(name))
                } else {
                    Err(self.error(format!("function \"{name}\" not defined")))
                }
            }
            '{' | '}' | ')' | '$' | ',' | ':' | '=' => {
                Err(self.error(format!("unexpected \"{first}\" in operand")))
            }
            other => Err(self.error(format!("unrecognized character in action: {other:?}"))),
        }
    }
}

/// The length of the quoted text at the beginning.
fn quoted_end(text: &str) -> Option<usize> {
    let mut escaped = false;
    text.char_indices().skip(1).find_map(|(index, c)| {
        let ends = c == '"' && !escaped;
        escaped = c == '\\' && !escaped;
        ends.then_some(index + 1)
    })
}

fn evaluate(pipeline: &[Command], values: &Values<'_>) -> Result<String, TemplateError> {
    let mut last: Option<String> = None;
    for command in pipeline {
        let mut operands = command.iter();
        let first = operands.next();
        let mut arguments = operands
            .map(|operand| value_of(operand, values))
            .collect::<Result<Vec<String>, _>>()?;
        arguments.extend(last.take());
        last = Some(match first {
            Some(Operand::Function(name)) => call(name, &arguments, values)?,
            Some(operand) if arguments.is_empty() => value_of(operand, values)?,
            Some(_) | None => {
                return Err(TemplateError::Render("a value is no function".to_owned()));
            }
        });
    }
    Ok(last.unwrap_or_default())
}

fn value_of(operand: &Operand, values: &Values<'_>) -> Result<String, TemplateError> {
    match operand {
        Operand::Field(name) => (values.field)(name)
            .ok_or_else(|| TemplateError::Render(format!("can't evaluate field {name}"))),
        Operand::Text(text) | Operand::Number(text) => Ok(text.clone()),
        Operand::Function(name) => call(name, &[], values),
        Operand::Nested(pipeline) => evaluate(pipeline, values),
    }
}

fn call(name: &str, arguments: &[String], values: &Values<'_>) -> Result<String, TemplateError> {
    match (name, arguments) {
        ("label", [key]) => (values.label)(key)
            .ok_or_else(|| TemplateError::Render(format!("label {key} not found"))),
        ("print", _) => Ok(arguments.concat()),
        ("lower", [text]) => Ok(text.to_lowercase()),
        ("label" | "lower", _) => Err(TemplateError::Render(format!(
            "wrong number of args for {name}: want 1 got {}",
            arguments.len()
        ))),
        _ => Err(TemplateError::Render(format!(
            "function \"{name}\" is not supported"
        ))),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(text: &str, want: Result<&str, &str>) {
        let field = |name: &str| match name {
            "Name" => Some("web".to_owned()),
            "Zone" => Some("East".to_owned()),
            _ => None,
        };
        let label = |key: &str| (key == "app").then(|| "shop".to_owned());
        let got = Template::parse(text)
            .and_then(|template| {
                template.render(&Values {
                    field: &field,
                    label: &label,
                })
            })
            .map_err(|error| error.to_string());
        assert_eq!(
            got,
            want.map(str::to_owned).map_err(str::to_owned),
            "{text}"
        );
    }

    #[test]
    fn templates_render() {
        check("plain", Ok("plain"));
        check("{{ .Name }}.svc.{{.Zone|lower}}", Ok("web.svc.east"));
        check(
            "{{ label \"app\" }}-{{ print .Name \"-\" `x` }}",
            Ok("shop-web-x"),
        );
        check("a {{- .Name -}} b{{/* note */}}", Ok("awebb"));
        check("{{ (label \"app\") | print .Name }}", Ok("webshop"));
        check("{ .Name }", Ok("{ .Name }"));
    }

    #[test]
    fn errors_are_those_users_know() {
        check(
            "{{ .Name|invalid }}",
            Err("template: :1: function \"invalid\" not defined"),
        );
        check(
            "{{ .Name|1 }}",
            Err("template: :1: non executable command in pipeline stage 2"),
        );
        check("{{ .Name", Err("template: :1: unclosed action"));
        check("a\n{{ }}", Err("template: :2: missing value for command"));
        check(
            "{{ .Other }}",
            Err("template: :1: can't evaluate field Other"),
        );
        check("{{ label \"x\" }}", Err("template: :1: label x not found"));
        check(
            "{{ printf .Name }}",
            Err("template: :1: function \"printf\" is not supported"),
        );
        check("{{ .Name }", Err("template: :1: unclosed action"));
    }
}
