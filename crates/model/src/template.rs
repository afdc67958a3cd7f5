//! The templates in which host names and SPIFFE ids are written: the part of Go's text/template that they need.
//!
//! Known are fields (`.Name`), texts, numbers, pipelines, trim markers, comments, `if` with `else`, and the functions
//! `label`, `print`, `printf`, `lower`, `len`, `eq`, `ne`, `and`, `or`, `not`. Other functions of that language parse
//! and fail when they are rendered; other control structures do not parse.

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
    If {
        condition: Vec<Command>,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
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

/// What an operand or pipeline comes to.
#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Bool(bool),
}

impl Value {
    const fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Bool(is) => *is,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Bool(is) => write!(f, "{is}"),
        }
    }
}

/// An `if` whose end has not come yet.
struct Open {
    condition: Vec<Command>,
    /// What stood before it.
    before: Vec<Piece>,
    /// Set once `else` has come.
    then: Option<Vec<Piece>>,
    /// It began as `else if`, so the end of this one ends the outer one too.
    chained: bool,
}

/// How deep `if` and parentheses may nest.
const DEPTH_MAX: usize = 32;

/// Names that parse as functions.
const FUNCTIONS: &[&str] = &[
    "true", "false", "label", "print", "printf", "println", "lower", "and", "or", "not", "len",
    "index", "slice", "html", "js", "urlquery", "call", "eq", "ne", "lt", "le", "gt", "ge",
];

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// The text is none; the sentences are those that users of such templates know.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let mut pieces = Vec::new();
        let mut open: Vec<Open> = Vec::new();
        let mut rest = text;
        let mut line = 1;
        let mut trim_next = false;
        loop {
            let Some((literal, after)) = rest.split_once("{{") else {
                push_literal(&mut pieces, rest, trim_next, false);
                if !open.is_empty() {
                    return Err(TemplateError::Parse {
                        line,
                        message: "unexpected EOF".to_owned(),
                    });
                }
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
            let (keyword, arguments) = trimmed.split_once(|c: char| !c.is_alphanumeric()).map_or(
                (trimmed, ""),
                |(keyword, _)| {
                    (
                        keyword,
                        trimmed.get(keyword.len()..).unwrap_or_default().trim(),
                    )
                },
            );
            match keyword {
                _ if trimmed.starts_with("/*") && trimmed.ends_with("*/") => {}
                "if" => {
                    if open.len() >= DEPTH_MAX {
                        return Err(error("nested too deeply"));
                    }
                    let condition = Parser {
                        rest: arguments,
                        line,
                        depth: 0,
                    }
                    .pipeline(false)?;
                    let before = std::mem::take(&mut pieces);
                    open.push(Open {
                        condition,
                        before,
                        then: None,
                        chained: false,
                    });
                }
                "else" => {
                    let depth = open.len();
                    let last = open.last_mut().filter(|last| last.then.is_none());
                    let last = last.ok_or_else(|| error("unexpected {{else}}"))?;
                    last.then = Some(std::mem::take(&mut pieces));
                    if let Some(condition) = arguments.strip_prefix("if ") {
                        if depth >= DEPTH_MAX {
                            return Err(error("nested too deeply"));
                        }
                        let condition = Parser {
                            rest: condition,
                            line,
                            depth: 0,
                        }
                        .pipeline(false)?;
                        open.push(Open {
                            condition,
                            before: Vec::new(),
                            then: None,
                            chained: true,
                        });
                    } else if !arguments.is_empty() {
                        return Err(error("unexpected operand in {{else}}"));
                    }
                }
                "end" if arguments.is_empty() => loop {
                    let last = open.pop().ok_or_else(|| error("unexpected {{end}}"))?;
                    let inner = std::mem::replace(&mut pieces, last.before);
                    let (then, otherwise) = match last.then {
                        Some(then) => (then, inner),
                        None => (inner, Vec::new()),
                    };
                    pieces.push(Piece::If {
                        condition: last.condition,
                        then,
                        otherwise,
                    });
                    if !last.chained {
                        break;
                    }
                },
                _ => {
                    let pipeline = Parser {
                        rest: trimmed,
                        line,
                        depth: 0,
                    }
                    .pipeline(false)?;
                    pieces.push(Piece::Action(pipeline));
                }
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
        render_pieces(&self.0, values, &mut text)?;
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
        fn used_in(pieces: &[Piece], name: &str) -> bool {
            pieces.iter().any(|piece| match piece {
                Piece::Literal(_) => false,
                Piece::Action(pipeline) => used(pipeline, name),
                Piece::If {
                    condition,
                    then,
                    otherwise,
                } => used(condition, name) || used_in(then, name) || used_in(otherwise, name),
            })
        }
        used_in(&self.0, name)
    }
}

fn render_pieces(
    pieces: &[Piece],
    values: &Values<'_>,
    text: &mut String,
) -> Result<(), TemplateError> {
    for piece in pieces {
        match piece {
            Piece::Literal(literal) => text.push_str(literal),
            Piece::Action(pipeline) => text.push_str(&evaluate(pipeline, values)?.to_string()),
            Piece::If {
                condition,
                then,
                otherwise,
            } => {
                let branch = if evaluate(condition, values)?.is_true() {
                    then
                } else {
                    otherwise
                };
                render_pieces(branch, values, text)?;
            }
        }
    }
    Ok(())
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
    /// How many parentheses are open.
    depth: usize,
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
                if self.depth >= DEPTH_MAX {
                    return Err(self.error("nested too deeply"));
                }
                self.take(1);
                self.depth += 1;
                let nested = self.pipeline(true)?;
                self.depth -= 1;
                Ok(Operand::Nested(nested))
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

fn evaluate(pipeline: &[Command], values: &Values<'_>) -> Result<Value, TemplateError> {
    let mut last: Option<Value> = None;
    for command in pipeline {
        let mut operands = command.iter();
        let first = operands.next();
        let mut arguments = operands
            .map(|operand| value_of(operand, values))
            .collect::<Result<Vec<Value>, _>>()?;
        arguments.extend(last.take());
        last = Some(match first {
            Some(Operand::Function(name)) => call(name, &arguments, values)?,
            Some(operand) if arguments.is_empty() => value_of(operand, values)?,
            Some(_) | None => {
                return Err(TemplateError::Render("a value is no function".to_owned()));
            }
        });
    }
    Ok(last.unwrap_or_else(|| Value::Text(String::new())))
}

fn value_of(operand: &Operand, values: &Values<'_>) -> Result<Value, TemplateError> {
    match operand {
        Operand::Field(name) => (values.field)(name)
            .map(Value::Text)
            .ok_or_else(|| TemplateError::Render(format!("can't evaluate field {name}"))),
        Operand::Text(text) | Operand::Number(text) => Ok(Value::Text(text.clone())),
        Operand::Function(name) => call(name, &[], values),
        Operand::Nested(pipeline) => evaluate(pipeline, values),
    }
}

fn call(name: &str, arguments: &[Value], values: &Values<'_>) -> Result<Value, TemplateError> {
    let join = |arguments: &[Value]| arguments.iter().map(Value::to_string).collect::<String>();
    match (name, arguments) {
        ("true" | "false", []) => Ok(Value::Bool(name == "true")),
        ("label", [key]) => (values.label)(&key.to_string())
            .map(Value::Text)
            .ok_or_else(|| TemplateError::Render(format!("label {key} not found"))),
        ("print", _) => Ok(Value::Text(join(arguments))),
        ("printf", [format, arguments @ ..]) => printf(&format.to_string(), arguments),
        ("lower", [text]) => Ok(Value::Text(text.to_string().to_lowercase())),
        ("len", [text]) => Ok(Value::Text(text.to_string().len().to_string())),
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.contains(first)))
        }
        ("ne", [first, second]) => Ok(Value::Bool(first != second)),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("and", [.., last]) => Ok(arguments
            .iter()
            .find(|value| !value.is_true())
            .unwrap_or(last)
            .clone()),
        ("or", [.., last]) => Ok(arguments
            .iter()
            .find(|value| value.is_true())
            .unwrap_or(last)
            .clone()),
        ("label" | "lower" | "len" | "not", _) => Err(TemplateError::Render(format!(
            "wrong number of args for {name}: want 1 got {}",
            arguments.len()
        ))),
        ("printf" | "eq" | "ne" | "and" | "or", _) => Err(TemplateError::Render(format!(
            "wrong number of args for {name}"
        ))),
        _ => Err(TemplateError::Render(format!(
            "function \"{name}\" is not supported"
        ))),
    }
}

fn printf(format: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut text = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            text.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => text.push('%'),
            Some('s' | 'v' | 'd') => match arguments.next() {
                Some(value) => text.push_str(&value.to_string()),
                None => {
                    return Err(TemplateError::Render(
                        "printf: too few arguments".to_owned(),
                    ));
                }
            },
            _ => {
                return Err(TemplateError::Render(
                    "printf: only %s, %v, %d and %%".to_owned(),
                ));
            }
        }
    }
    Ok(Value::Text(text))
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
        check("{{ printf \"%s-%s\" .Name (label `app`) }}", Ok("web-shop"));
    }

    #[test]
    fn parts_of_a_template_depend_on_conditions() {
        check("{{ if .Name }}a{{ end }}b", Ok("ab"));
        check("{{ if eq .Zone \"west\" }}w{{ else }}x{{ end }}", Ok("x"));
        check(
            "{{ if eq .Zone \"west\" }}w{{ else if eq .Zone \"East\" }}e{{ else }}x{{ end }}!",
            Ok("e!"),
        );
        check(
            "{{ if and .Name (not false) }}{{ if false }}a{{ else }}b{{ end }}c{{ end }}",
            Ok("bc"),
        );
        check("{{ if .Name }}", Err("template: :1: unexpected EOF"));
        check("{{ end }}", Err("template: :1: unexpected {{end}}"));
        check(
            &format!("{{{{ {} }}}}", "(".repeat(100_000)),
            Err("template: :1: nested too deeply"),
        );
        check(
            &"{{ if .Name }}".repeat(100_000),
            Err("template: :1: nested too deeply"),
        );
        check("{{ else }}", Err("template: :1: unexpected {{else}}"));
        check(
            "{{ if .Name }}{{ else }}{{ else }}{{ end }}",
            Err("template: :1: unexpected {{else}}"),
        );
        check(
            "{{ range .Name }}{{ end }}",
            Err("template: :1: function \"range\" not defined"),
        );
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
            "{{ index .Name }}",
            Err("template: :1: function \"index\" is not supported"),
        );
        check("{{ .Name }", Err("template: :1: unclosed action"));
    }
}
