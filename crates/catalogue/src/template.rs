//! The part of Go's `text/template` that names are made with: fields, `label`, literals, pipelines, `if`, `printf`,
//! comparisons, and trimming of spaces.

use std::fmt;

use zonal_model::Labels;

/// Why a template is refused, or gives no name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TemplateError {
    /// It is no template.
    #[error("{0}")]
    Parse(String),
    /// It is one, but not for these values.
    #[error("{0}")]
    Render(String),
}

/// What a template can use.
#[derive(Clone, Debug, Default)]
pub struct Values<'a> {
    fields: Vec<(&'static str, &'a str)>,
    labels: LabelSource<'a>,
}

#[derive(Clone, Debug, Default)]
enum LabelSource<'a> {
    #[default]
    None,
    Of(&'a Labels),
    Stub(&'a str),
}

impl<'a> Values<'a> {
    /// No values.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// With a field, written `.Name`.
    #[must_use]
    pub fn field(mut self, name: &'static str, value: &'a str) -> Self {
        self.fields.push((name, value));
        self
    }

    /// With labels for `label "key"`.
    #[must_use]
    pub const fn labels(mut self, labels: &'a Labels) -> Self {
        self.labels = LabelSource::Of(labels);
        self
    }

    /// With one value for every label, to try a template out.
    #[must_use]
    pub const fn any_label(mut self, value: &'a str) -> Self {
        self.labels = LabelSource::Stub(value);
        self
    }

    fn get(&self, name: &str) -> Result<Value, TemplateError> {
        self.fields
            .iter()
            .find(|(field, _)| *field == name)
            .map(|(_, value)| Value::Text((*value).to_owned()))
            .ok_or_else(|| render(format!("can't evaluate field {name}")))
    }

    fn label(&self, key: &str) -> Result<Value, TemplateError> {
        let value = match &self.labels {
            LabelSource::None => None,
            LabelSource::Of(labels) => labels.get(key).map(String::as_str),
            LabelSource::Stub(value) => Some(*value),
        };
        value
            .map(|value| Value::Text(value.to_owned()))
            .ok_or_else(|| render(format!("label {key} is required")))
    }
}

/// A template, ready to be rendered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Template {
    nodes: Vec<Node>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Node {
    Text(String),
    Print(Pipeline),
    If {
        condition: Pipeline,
        then: Vec<Self>,
        otherwise: Vec<Self>,
    },
}

/// Commands, each given the result of the one before as last argument.
type Pipeline = Vec<Vec<Term>>;

#[derive(Clone, Debug, PartialEq, Eq)]
enum Term {
    Field(String),
    Word(String),
    Text(String),
    Number(i64),
    Bool(bool),
    Group(Pipeline),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Value {
    Text(String),
    Number(i64),
    Bool(bool),
}

impl Value {
    const fn is_true(&self) -> bool {
        match self {
            Self::Text(text) => !text.is_empty(),
            Self::Number(number) => *number != 0,
            Self::Bool(is) => *is,
        }
    }
}

impl fmt::Display for Value {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Text(text) => f.write_str(text),
            Self::Number(number) => write!(f, "{number}"),
            Self::Bool(is) => write!(f, "{is}"),
        }
    }
}

const fn parse_error(message: String) -> TemplateError {
    TemplateError::Parse(message)
}

const fn render(message: String) -> TemplateError {
    TemplateError::Render(message)
}

/// Words with a meaning beside fields.
const FUNCTIONS: &[&str] = &[
    "label", "printf", "print", "len", "eq", "ne", "and", "or", "not",
];
/// How deep `if` and parentheses may nest; more is a mistake or an attack.
const DEPTH_MAX: usize = 32;

impl Template {
    /// Reads a template.
    ///
    /// # Errors
    /// It is no template, or uses what is not supported; the sentence says what.
    pub fn parse(text: &str) -> Result<Self, TemplateError> {
        let pieces = split(text)?;
        let mut rest = pieces.as_slice();
        let nodes = parse_nodes(&mut rest, 0, None)?;
        Ok(Self { nodes })
    }

    /// Renders it.
    ///
    /// # Errors
    /// A field or label is not there, or a function does not take what it is given.
    pub fn render(&self, values: &Values<'_>) -> Result<String, TemplateError> {
        let mut out = String::new();
        render_nodes(&self.nodes, values, &mut out)?;
        Ok(out)
    }
}

/// Reads and renders at once.
///
/// # Errors
/// As [`Template::parse`] and [`Template::render`].
pub fn render_text(text: &str, values: &Values<'_>) -> Result<String, TemplateError> {
    Template::parse(text)?.render(values)
}

#[derive(Debug)]
enum Piece {
    Text(String),
    Action(Vec<Token>),
}

#[derive(Clone, Debug, PartialEq, Eq)]
enum Token {
    Field(String),
    Word(String),
    Text(String),
    Number(i64),
    Pipe,
    Open,
    Close,
}

fn split(text: &str) -> Result<Vec<Piece>, TemplateError> {
    let mut pieces = Vec::new();
    let mut rest = text;
    let mut trim_next = false;
    loop {
        let (plain, action) = match rest.split_once("{{") {
            Some((plain, action)) => (plain, Some(action)),
            None => (rest, None),
        };
        let mut plain = if trim_next { plain.trim_start() } else { plain };
        let mut action = action;
        if let Some(inner) = action
            && let Some(trimmed) = inner
                .strip_prefix('-')
                .filter(|t| t.starts_with([' ', '\t', '\n']))
        {
            plain = plain.trim_end();
            action = Some(trimmed);
        }
        if !plain.is_empty() {
            pieces.push(Piece::Text(plain.to_owned()));
        }
        let Some(inner) = action else {
            return Ok(pieces);
        };
        let end = action_end(inner).ok_or_else(|| parse_error("unclosed action".to_owned()))?;
        let (inner, after) = inner.split_at(end);
        rest = after.get(2..).unwrap_or_default();
        let mut inner = inner;
        trim_next = false;
        if let Some(trimmed) = inner
            .strip_suffix('-')
            .filter(|t| t.ends_with([' ', '\t', '\n']))
        {
            inner = trimmed;
            trim_next = true;
        }
        let inner = inner.trim();
        if !(inner.starts_with("/*") && inner.ends_with("*/")) {
            pieces.push(Piece::Action(tokens(inner)?));
        }
    }
}

/// Where an action's `}}` is, not counting those inside quotes.
fn action_end(inner: &str) -> Option<usize> {
    let mut quote: Option<char> = None;
    let mut escaped = false;
    for (at, character) in inner.char_indices() {
        match quote {
            Some('"') if escaped => escaped = false,
            Some('"') if character == '\\' => escaped = true,
            Some(open) if character == open => quote = None,
            Some(_) => {}
            None if character == '"' || character == '`' => quote = Some(character),
            None if inner.get(at..).is_some_and(|rest| rest.starts_with("}}")) => return Some(at),
            None => {}
        }
    }
    None
}

fn tokens(text: &str) -> Result<Vec<Token>, TemplateError> {
    let mut tokens = Vec::new();
    let mut rest = text.trim_start();
    while let Some(first) = rest.chars().next() {
        let after = rest.get(first.len_utf8()..).unwrap_or_default();
        rest = match first {
            '|' => {
                tokens.push(Token::Pipe);
                after
            }
            '(' => {
                tokens.push(Token::Open);
                after
            }
            ')' => {
                tokens.push(Token::Close);
                after
            }
            '`' => {
                let (raw, after) = after
                    .split_once('`')
                    .ok_or_else(|| parse_error("unterminated raw quoted string".to_owned()))?;
                tokens.push(Token::Text(raw.to_owned()));
                after
            }
            '"' => {
                let (text, after) = quoted(after)?;
                tokens.push(Token::Text(text));
                after
            }
            '.' => {
                let (name, after) = word(after);
                if name.is_empty() || after.starts_with('.') {
                    return Err(parse_error(format!("unexpected <.> in `{text}`")));
                }
                tokens.push(Token::Field(name.to_owned()));
                after
            }
            c if c.is_ascii_digit() || c == '-' => {
                let end = after
                    .find(|c: char| !c.is_ascii_digit())
                    .unwrap_or(after.len());
                let (digits, after) = rest.split_at(end + 1);
                let Ok(number) = digits.parse() else {
                    return Err(parse_error(format!("bad number syntax: \"{digits}\"")));
                };
                tokens.push(Token::Number(number));
                after
            }
            c if c.is_alphabetic() || c == '_' => {
                let (name, after) = word(rest);
                tokens.push(Token::Word(name.to_owned()));
                after
            }
            other => {
                return Err(parse_error(format!("unexpected \"{other}\" in `{text}`")));
            }
        }
        .trim_start();
    }
    Ok(tokens)
}

fn word(text: &str) -> (&str, &str) {
    let end = text
        .find(|c: char| !c.is_alphanumeric() && c != '_')
        .unwrap_or(text.len());
    text.split_at(end)
}

fn quoted(text: &str) -> Result<(String, &str), TemplateError> {
    let mut out = String::new();
    let mut characters = text.char_indices();
    while let Some((at, character)) = characters.next() {
        match character {
            '"' => return Ok((out, text.get(at + 1..).unwrap_or_default())),
            '\\' => match characters.next() {
                Some((_, 'n')) => out.push('\n'),
                Some((_, 't')) => out.push('\t'),
                Some((_, c @ ('"' | '\\'))) => out.push(c),
                _ => {
                    return Err(parse_error(
                        "unsupported escape in quoted string".to_owned(),
                    ));
                }
            },
            '\n' => break,
            other => out.push(other),
        }
    }
    Err(parse_error("unterminated quoted string".to_owned()))
}

/// How a list of nodes ended.
#[derive(Debug)]
enum End {
    Else(Vec<Token>),
    End,
}

fn parse_nodes(
    rest: &mut &[Piece],
    depth: usize,
    mut end: Option<&mut End>,
) -> Result<Vec<Node>, TemplateError> {
    if depth > DEPTH_MAX {
        return Err(parse_error("too deeply nested".to_owned()));
    }
    let mut nodes = Vec::new();
    while let Some((piece, after)) = rest.split_first() {
        *rest = after;
        let tokens = match piece {
            Piece::Text(text) => {
                nodes.push(Node::Text(text.clone()));
                continue;
            }
            Piece::Action(tokens) => tokens,
        };
        let keyword = match tokens.first() {
            Some(Token::Word(word)) => word.as_str(),
            Some(_) => "",
            None => return Err(parse_error("missing value for command".to_owned())),
        };
        let arguments = tokens.get(1..).unwrap_or_default();
        match keyword {
            "if" => nodes.push(parse_if(arguments, rest, depth)?),
            "else" | "end" => {
                let Some(end) = end.as_deref_mut() else {
                    return Err(parse_error(format!("unexpected {{{{{keyword}}}}}")));
                };
                *end = if keyword == "else" {
                    End::Else(arguments.to_vec())
                } else {
                    End::End
                };
                return Ok(nodes);
            }
            "with" | "range" | "define" | "template" | "block" | "break" | "continue" => {
                return Err(parse_error(format!(
                    "`{keyword}` is not supported in names"
                )));
            }
            _ => nodes.push(Node::Print(parse_pipeline(tokens, depth)?)),
        }
    }
    if end.is_some() {
        return Err(parse_error("unexpected EOF".to_owned()));
    }
    Ok(nodes)
}

fn parse_if(condition: &[Token], rest: &mut &[Piece], depth: usize) -> Result<Node, TemplateError> {
    let condition = parse_pipeline(condition, depth)?;
    let mut end = End::End;
    let then = parse_nodes(rest, depth + 1, Some(&mut end))?;
    let otherwise = match end {
        End::End => Vec::new(),
        End::Else(tokens) => match tokens.split_first() {
            None => {
                let mut last = End::End;
                let otherwise = parse_nodes(rest, depth + 1, Some(&mut last))?;
                if matches!(last, End::Else(_)) {
                    return Err(parse_error("unexpected {{else}}".to_owned()));
                }
                otherwise
            }
            Some((Token::Word(word), condition)) if word == "if" => {
                vec![parse_if(condition, rest, depth + 1)?]
            }
            Some(_) => return Err(parse_error("unexpected token in {{else}}".to_owned())),
        },
    };
    Ok(Node::If {
        condition,
        then,
        otherwise,
    })
}

fn parse_pipeline(tokens: &[Token], depth: usize) -> Result<Pipeline, TemplateError> {
    let mut rest = tokens;
    let pipeline = parse_commands(&mut rest, depth)?;
    if rest.is_empty() {
        Ok(pipeline)
    } else {
        Err(parse_error("unexpected right paren".to_owned()))
    }
}

fn parse_commands(rest: &mut &[Token], depth: usize) -> Result<Pipeline, TemplateError> {
    if depth > DEPTH_MAX {
        return Err(parse_error("too deeply nested".to_owned()));
    }
    let mut pipeline = Vec::new();
    let mut command = Vec::new();
    loop {
        let next = rest.split_first();
        let ends = matches!(next, None | Some((Token::Pipe | Token::Close, _)));
        if ends {
            if command.is_empty() {
                return Err(parse_error("missing value for command".to_owned()));
            }
            pipeline.push(std::mem::take(&mut command));
        }
        let Some((token, after)) = next else {
            return Ok(pipeline);
        };
        if *token == Token::Close {
            return Ok(pipeline);
        }
        *rest = after;
        command.push(match token {
            Token::Pipe | Token::Close => continue,
            Token::Field(name) => Term::Field(name.clone()),
            Token::Text(text) => Term::Text(text.clone()),
            Token::Number(number) => Term::Number(*number),
            Token::Word(word) if word == "true" || word == "false" => Term::Bool(word == "true"),
            Token::Word(word) if FUNCTIONS.contains(&word.as_str()) => Term::Word(word.clone()),
            Token::Word(word) => {
                return Err(parse_error(format!("function \"{word}\" not defined")));
            }
            Token::Open => {
                let inner = parse_commands(rest, depth + 1)?;
                match rest.split_first() {
                    Some((Token::Close, after)) => *rest = after,
                    _ => return Err(parse_error("unclosed left paren".to_owned())),
                }
                Term::Group(inner)
            }
        });
    }
}

fn render_nodes(
    nodes: &[Node],
    values: &Values<'_>,
    out: &mut String,
) -> Result<(), TemplateError> {
    for node in nodes {
        match node {
            Node::Text(text) => out.push_str(text),
            Node::Print(pipeline) => out.push_str(&evaluate(pipeline, values)?.to_string()),
            Node::If {
                condition,
                then,
                otherwise,
            } => {
                let branch = if evaluate(condition, values)?.is_true() {
                    then
                } else {
                    otherwise
                };
                render_nodes(branch, values, out)?;
            }
        }
    }
    Ok(())
}

fn evaluate(pipeline: &Pipeline, values: &Values<'_>) -> Result<Value, TemplateError> {
    let mut last = None;
    for command in pipeline {
        let Some((first, arguments)) = command.split_first() else {
            continue;
        };
        last = Some(match first {
            Term::Word(function) => {
                let mut given = Vec::with_capacity(arguments.len() + 1);
                for argument in arguments {
                    given.push(term(argument, values)?);
                }
                given.extend(last);
                call(function, &given, values)?
            }
            other if arguments.is_empty() && last.is_none() => term(other, values)?,
            other => {
                return Err(render(format!(
                    "can't give argument to non-function {other:?}"
                )));
            }
        });
    }
    last.ok_or_else(|| render("nothing to print".to_owned()))
}

fn term(term: &Term, values: &Values<'_>) -> Result<Value, TemplateError> {
    match term {
        Term::Field(name) => values.get(name),
        Term::Word(function) => call(function, &[], values),
        Term::Text(text) => Ok(Value::Text(text.clone())),
        Term::Number(number) => Ok(Value::Number(*number)),
        Term::Bool(is) => Ok(Value::Bool(*is)),
        Term::Group(pipeline) => evaluate(pipeline, values),
    }
}

fn call(function: &str, given: &[Value], values: &Values<'_>) -> Result<Value, TemplateError> {
    let wrong = || render(format!("wrong number or type of args for {function}"));
    match (function, given) {
        ("label", [Value::Text(key)]) => values.label(key),
        ("printf", [Value::Text(format), arguments @ ..]) => printf(format, arguments),
        ("print", arguments) => Ok(Value::Text(
            arguments.iter().map(Value::to_string).collect(),
        )),
        ("len", [Value::Text(text)]) => {
            Ok(Value::Number(i64::try_from(text.len()).unwrap_or(i64::MAX)))
        }
        ("eq", [first, others @ ..]) if !others.is_empty() => {
            Ok(Value::Bool(others.contains(first)))
        }
        ("ne", [first, second]) => Ok(Value::Bool(first != second)),
        ("not", [value]) => Ok(Value::Bool(!value.is_true())),
        ("and", [.., last]) => Ok(given
            .iter()
            .find(|value| !value.is_true())
            .unwrap_or(last)
            .clone()),
        ("or", [.., last]) => Ok(given
            .iter()
            .find(|value| value.is_true())
            .unwrap_or(last)
            .clone()),
        _ => Err(wrong()),
    }
}

fn printf(format: &str, arguments: &[Value]) -> Result<Value, TemplateError> {
    let mut out = String::new();
    let mut arguments = arguments.iter();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        match characters.next() {
            Some('%') => out.push('%'),
            Some('s' | 'v' | 'd') => match arguments.next() {
                Some(value) => out.push_str(&value.to_string()),
                None => return Err(render("printf: more verbs than arguments".to_owned())),
            },
            Some('q') => match arguments.next() {
                Some(value) => out.push_str(&format!("{:?}", value.to_string())),
                None => return Err(render("printf: more verbs than arguments".to_owned())),
            },
            other => return Err(render(format!("printf: unsupported verb {other:?}"))),
        }
    }
    Ok(Value::Text(out))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(template: &str, want: Result<&str, &str>) {
        let labels = Labels::from([("team".to_owned(), "a".to_owned())]);
        let values = Values::new()
            .field("Name", "web")
            .field("Zone", "east")
            .field("Namespace", "")
            .labels(&labels);
        let got = render_text(template, &values).map_err(|error| error.to_string());
        assert_eq!(got.as_deref().map_err(String::as_str), want, "{template}");
    }

    #[test]
    fn names_are_rendered() {
        check("plain", Ok("plain"));
        check(
            "{{ .Name }}.svc.{{.Zone}}.mesh.local",
            Ok("web.svc.east.mesh.local"),
        );
        check("{{ label \"team\" }}-{{ .Name }}", Ok("a-web"));
        check("{{ \"team\" | label }}", Ok("a"));
        check("{{ printf \"%s-%s\" .Name (label `team`) }}", Ok("web-a"));
        check(
            "{{ if .Namespace }}{{ .Namespace }}.{{ end }}{{ .Name }}",
            Ok("web"),
        );
        check(
            "{{ if eq .Zone \"west\" }}w{{ else if eq .Zone \"east\" }}e{{ else }}x{{ end }}",
            Ok("e"),
        );
        check("a {{- /* nothing */ -}} b", Ok("ab"));
        check("{{ \"}}\" }}", Ok("}}"));
        check("{{ and .Name (not .Namespace) }}", Ok("true"));
    }

    #[test]
    fn what_is_wrong_is_said() {
        check("{{ .Name", Err("unclosed action"));
        check("{{ .Missing }}", Err("can't evaluate field Missing"));
        check("{{ label \"x\" }}", Err("label x is required"));
        check("{{ upper .Name }}", Err("function \"upper\" not defined"));
        check("{{ if .Name }}", Err("unexpected EOF"));
        check("{{ end }}", Err("unexpected {{end}}"));
        check(
            "{{ range .Name }}{{ end }}",
            Err("`range` is not supported in names"),
        );
        check("{{ }}", Err("missing value for command"));
        check("{{ (.Name }}", Err("unclosed left paren"));
        check("{{ label }}", Err("wrong number or type of args for label"));
    }
}
