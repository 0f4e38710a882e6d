//! Text as a tree whose every value knows its line and column.
//!
//! YAML events are folded into nodes with an explicit stack; JSON is YAML and takes the same way.
//! The tree has no aliases left (they are copied in), no duplicate keys, and scalars are typed by
//! YAML 1.2's core rules: `yes` and `1e3x` are text, `true` and `1e3` are not.
//!
//! Bounds: 4 MiB of text, depth 64, a million nodes after aliases are copied.
//! Left out: tags other than the core ones, merge keys (`<<` is a key like any other), keys that are
//! not scalars.

use std::collections::{HashMap, HashSet};
use std::fmt;

use serde_saphyr::granit_parser::{self, Event, Parser, ScalarStyle, ScanError, Span, StrInput, Tag};

/// The most text one file may hold.
pub const TEXT_MAX: usize = 4 * 1024 * 1024;
/// The deepest nesting of lists and maps.
pub const DEPTH_MAX: usize = 64;
/// The most values in one file, counting an alias as what it stands for.
pub const NODES_MAX: usize = 1_000_000;
const TOO_MANY: &str = "more than 1000000 values in one file, counting what aliases stand for";

/// A place in the text, from 1.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Position {
    pub line: usize,
    pub column: usize,
}

impl fmt::Display for Position {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.line, self.column)
    }
}

/// A text that is no document.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{position}: {message}")]
pub struct SyntaxError {
    pub position: Position,
    pub message: String,
}

#[derive(Debug, Clone, PartialEq)]
pub struct Node {
    pub position: Position,
    pub value: Value,
}

#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    Null,
    Bool(bool),
    Integer(i64),
    /// Above what `Integer` holds.
    Unsigned(u64),
    Float(f64),
    Text(String),
    List(Vec<Node>),
    Map(Vec<(Key, Node)>),
}

#[derive(Debug, Clone, PartialEq)]
pub struct Key {
    pub name: String,
    pub position: Position,
}

/// Reads every document of a text. What could be read comes back beside what is wrong.
pub fn read(text: &str) -> (Vec<Node>, Vec<SyntaxError>) {
    if text.len() > TEXT_MAX {
        let message = format!("{} bytes, more than the {TEXT_MAX} one file may hold", text.len());
        let position = Position { line: 1, column: 1 };
        return (Vec::new(), vec![SyntaxError { position, message }]);
    }
    // Our own depth check comes first and says more; the parser's own is a second fence behind it.
    let options = granit_parser::options! {
        emit_comments: false,
        flow_nesting_limit: DEPTH_MAX + 8,
        block_nesting_limit: 2 * DEPTH_MAX + 8,
    };
    let mut builder = Builder::default();
    for event in Parser::<StrInput<'_>>::new_from_str_with_options(text, options) {
        let step = match event {
            Ok((event, span)) => builder.event(event, span),
            Err(error) => Err(syntax_error(&error)),
        };
        if let Err(error) = step {
            builder.errors.push(error);
            break;
        }
    }
    (builder.documents, builder.errors)
}

fn syntax_error(error: &ScanError) -> SyntaxError {
    let marker = error.marker();
    let position = Position { line: marker.line(), column: marker.col() + 1 };
    SyntaxError { position, message: error.info() }
}

impl Node {
    /// The tree of a JSON value, without positions.
    pub fn from_json(json: &serde_json::Value) -> Node {
        let value = match json {
            serde_json::Value::Null => Value::Null,
            serde_json::Value::Bool(value) => Value::Bool(*value),
            serde_json::Value::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Integer(value),
                (None, Some(value)) => Value::Unsigned(value),
                (None, None) => Value::Float(number.as_f64().unwrap_or(f64::NAN)),
            },
            serde_json::Value::String(text) => Value::Text(text.clone()),
            serde_json::Value::Array(items) => Value::List(items.iter().map(Node::from_json).collect()),
            serde_json::Value::Object(entries) => {
                let entry = |(name, value): (&String, &serde_json::Value)| {
                    let key = Key { name: name.clone(), position: Position::default() };
                    (key, Node::from_json(value))
                };
                Value::Map(entries.iter().map(entry).collect())
            }
        };
        Node { position: Position::default(), value }
    }

    /// The texts of a scalar or of a list of scalars.
    pub fn texts(&self) -> Option<Vec<String>> {
        match &self.value {
            Value::List(items) => {
                let texts: Option<Vec<Vec<String>>> = items.iter().map(Node::texts).collect();
                texts.map(|texts| texts.concat())
            }
            Value::Text(text) => Some(vec![text.clone()]),
            Value::Bool(value) => Some(vec![value.to_string()]),
            Value::Integer(value) => Some(vec![value.to_string()]),
            Value::Unsigned(value) => Some(vec![value.to_string()]),
            Value::Float(value) => Some(vec![value.to_string()]),
            Value::Null | Value::Map(_) => None,
        }
    }

    pub fn is_map(&self) -> bool {
        matches!(self.value, Value::Map(_))
    }

    pub fn as_text(&self) -> Option<&str> {
        match &self.value {
            Value::Text(text) => Some(text),
            _ => None,
        }
    }

    /// The value of a key of a map.
    pub fn get(&self, name: &str) -> Option<&Node> {
        match &self.value {
            Value::Map(entries) => entries.iter().find(|(key, _)| key.name == name).map(|(_, node)| node),
            _ => None,
        }
    }

    /// What was found here, for a message: `"allow"`, `the number 5`, `a list`.
    pub fn describe(&self) -> String {
        match &self.value {
            Value::Null => "nothing".to_string(),
            Value::Bool(value) => format!("the boolean {value}"),
            Value::Integer(value) => format!("the number {value}"),
            Value::Unsigned(value) => format!("the number {value}"),
            Value::Float(value) => format!("the number {value}"),
            Value::Text(text) => crate::resource::quoted(text),
            Value::List(_) => "a list".to_string(),
            Value::Map(_) => "a map".to_string(),
        }
    }

    /// Where the value at a path such as `spec.ingress[0].action` stands; of what is not there, the
    /// innermost value around it.
    pub fn position_of(&self, path: &str) -> Position {
        let mut node = self;
        let mut rest = path;
        loop {
            let next = match &node.value {
                Value::Map(entries) => entries.iter().find_map(|(key, value)| {
                    let rest = after_key(rest, &key.name)?;
                    Some((value, rest))
                }),
                Value::List(items) => after_index(rest).and_then(|(index, rest)| Some((items.get(index)?, rest))),
                _ => None,
            };
            match next {
                Some((inner, inner_rest)) => (node, rest) = (inner, inner_rest),
                None => return node.position,
            }
        }
    }
}

/// What follows `.name` or `["name"]` at the start of a path, if the path goes there.
fn after_key<'p>(path: &'p str, name: &str) -> Option<&'p str> {
    if let Some(bracketed) = path.strip_prefix('[') {
        return bracketed.strip_prefix(&format!("{name:?}]"));
    }
    let rest = path.strip_prefix('.').unwrap_or(path).strip_prefix(name)?;
    (rest.is_empty() || rest.starts_with(['.', '['])).then_some(rest)
}

fn after_index(path: &str) -> Option<(usize, &str)> {
    let (index, rest) = path.strip_prefix('[')?.split_once(']')?;
    Some((index.parse().ok()?, rest))
}

/// Folds events into nodes.
#[derive(Default)]
struct Builder {
    documents: Vec<Node>,
    errors: Vec<SyntaxError>,
    open: Vec<Open>,
    anchors: HashMap<usize, Node>,
    nodes: usize,
}

/// A list or map whose end has not come yet.
struct Open {
    position: Position,
    anchor: usize,
    content: Content,
}

enum Content {
    List(Vec<Node>),
    Map { entries: Vec<(Key, Node)>, names: HashSet<String>, key: Option<Key> },
}

impl Builder {
    fn event(&mut self, event: Event<'_>, span: Span) -> Result<(), SyntaxError> {
        let position = Position { line: span.start.line(), column: span.start.col() + 1 };
        let refuse = |message: String| Err(SyntaxError { position, message });
        match event {
            Event::Scalar(text, style, anchor, tag) => {
                let value = match scalar(&text, style, tag.as_deref()) {
                    Ok(value) => value,
                    Err(message) => return refuse(message),
                };
                self.node(Node { position, value }, anchor)
            }
            Event::SequenceStart(_, anchor, tag) => {
                self.open(position, anchor, tag.as_deref(), "seq", Content::List(Vec::new()))
            }
            Event::MappingStart(_, anchor, tag) => {
                let content = Content::Map { entries: Vec::new(), names: HashSet::new(), key: None };
                self.open(position, anchor, tag.as_deref(), "map", content)
            }
            Event::SequenceEnd | Event::MappingEnd => {
                let Some(Open { position, anchor, content }) = self.open.pop() else { return Ok(()) };
                let value = match content {
                    Content::List(items) => Value::List(items),
                    Content::Map { entries, .. } => Value::Map(entries),
                };
                self.node(Node { position, value }, anchor)
            }
            Event::Alias(anchor) => match self.anchors.get(&anchor) {
                Some(node) => {
                    // What an alias stands for counts again: a few lines could otherwise mean gigabytes.
                    self.nodes += weight(node);
                    if self.nodes > NODES_MAX {
                        return refuse(TOO_MANY.to_string());
                    }
                    let node = node.clone();
                    self.node(node, 0)
                }
                None => refuse("alias inside the value it names".to_string()),
            },
            Event::DocumentStart(..) => {
                self.anchors.clear();
                Ok(())
            }
            _ => Ok(()),
        }
    }

    fn open(
        &mut self,
        position: Position,
        anchor: usize,
        tag: Option<&Tag>,
        core_tag: &str,
        content: Content,
    ) -> Result<(), SyntaxError> {
        let refuse = |message: String| Err(SyntaxError { position, message });
        if let Some(tag) = tag.filter(|tag| tag.core_suffix() != Some(core_tag)) {
            return refuse(format!("tag {} is not supported here", tag.original()));
        }
        if self.open.len() == DEPTH_MAX {
            return refuse(format!("lists and maps nested deeper than {DEPTH_MAX}"));
        }
        if matches!(self.open.last(), Some(Open { content: Content::Map { key: None, .. }, .. })) {
            return refuse("a key must be a plain or quoted text, not a list or map".to_string());
        }
        self.open.push(Open { position, anchor, content });
        Ok(())
    }

    /// Puts a finished node where it belongs: into the list or map around it, or as a document.
    fn node(&mut self, node: Node, anchor: usize) -> Result<(), SyntaxError> {
        let position = node.position;
        let refuse = |message: String| Err(SyntaxError { position, message });
        self.nodes += if anchor == 0 { 1 } else { 1 + weight(&node) };
        if self.nodes > NODES_MAX {
            return refuse(TOO_MANY.to_string());
        }
        if anchor != 0 {
            self.anchors.insert(anchor, node.clone());
        }
        match self.open.last_mut().map(|open| &mut open.content) {
            None => self.documents.push(node),
            Some(Content::List(items)) => items.push(node),
            Some(Content::Map { entries, names, key }) => match key.take() {
                Some(key) => entries.push((key, node)),
                None => {
                    let Some(name) = key_name(node.value) else {
                        return refuse("a key must be a plain or quoted text, not a list or map".to_string());
                    };
                    if !names.insert(name.clone()) {
                        return refuse(format!("key {name:?} stands here a second time"));
                    }
                    *key = Some(Key { name, position });
                }
            },
        }
        Ok(())
    }
}

/// What a copy of a value costs, in values; a long text counts as several.
fn weight(node: &Node) -> usize {
    const TEXT_PER_VALUE: usize = 64;
    match &node.value {
        Value::List(items) => 1 + items.iter().map(weight).sum::<usize>(),
        Value::Map(entries) => {
            let entry = |(key, node): &(Key, Node)| key.name.len() / TEXT_PER_VALUE + weight(node);
            1 + entries.iter().map(entry).sum::<usize>()
        }
        Value::Text(text) => 1 + text.len() / TEXT_PER_VALUE,
        _ => 1,
    }
}

/// Keys are text however they look: `80:` is the key "80".
fn key_name(value: Value) -> Option<String> {
    match value {
        Value::Null => Some(String::new()),
        Value::Bool(value) => Some(value.to_string()),
        Value::Integer(value) => Some(value.to_string()),
        Value::Unsigned(value) => Some(value.to_string()),
        Value::Float(value) => Some(value.to_string()),
        Value::Text(text) => Some(text),
        Value::List(_) | Value::Map(_) => None,
    }
}

/// Types a scalar by YAML 1.2's core rules; quoted ones are text.
fn scalar(text: &str, style: ScalarStyle, tag: Option<&Tag>) -> Result<Value, String> {
    if let Some(tag) = tag {
        return match tag.core_suffix() {
            Some("str") => Ok(Value::Text(text.to_string())),
            Some("null" | "bool" | "int" | "float") => Ok(plain(text)),
            _ => Err(format!("tag {} is not supported here", tag.original())),
        };
    }
    let is_plain = style == ScalarStyle::Plain;
    Ok(if is_plain { plain(text) } else { Value::Text(text.to_string()) })
}

fn plain(text: &str) -> Value {
    match text {
        "" | "~" | "null" | "Null" | "NULL" => return Value::Null,
        "true" | "True" | "TRUE" => return Value::Bool(true),
        "false" | "False" | "FALSE" => return Value::Bool(false),
        _ => {}
    }
    integer(text).or_else(|| float(text)).unwrap_or_else(|| Value::Text(text.to_string()))
}

fn integer(text: &str) -> Option<Value> {
    let of_radix = |digits: &str, radix| {
        let is_digits = !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_alphanumeric());
        u64::from_str_radix(digits, radix).ok().filter(|_| is_digits)
    };
    let unsigned = match (text.strip_prefix("0x"), text.strip_prefix("0o")) {
        (Some(digits), _) => of_radix(digits, 16),
        (_, Some(digits)) => of_radix(digits, 8),
        _ => None,
    };
    if let Some(value) = unsigned {
        return Some(i64::try_from(value).map_or(Value::Unsigned(value), Value::Integer));
    }
    let signed = text.parse().ok().map(Value::Integer);
    signed.or_else(|| text.parse().ok().map(Value::Unsigned))
}

fn float(text: &str) -> Option<Value> {
    // Only what is written with digits; Rust would also read "inf" and "nan".
    let has_digit = text.bytes().any(|b| b.is_ascii_digit());
    let is_numeric = text.bytes().all(|b| b.is_ascii_digit() || b"+-.eE".contains(&b));
    let value = text.parse().ok().filter(|value: &f64| value.is_finite());
    value.filter(|_| has_digit && is_numeric).map(Value::Float)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The tree in one line, with positions, then the errors.
    fn check(text: &str, expected: &str) {
        let (documents, errors) = read(text);
        let documents = documents.iter().map(show);
        let found: Vec<String> = documents.chain(errors.iter().map(SyntaxError::to_string)).collect();
        assert_eq!(found.join(" | "), expected, "{text:?}");
    }

    fn show(node: &Node) -> String {
        let value = match &node.value {
            Value::List(items) => format!("[{}]", items.iter().map(show).collect::<Vec<_>>().join(", ")),
            Value::Map(entries) => {
                let entry = |(key, node): &(Key, Node)| format!("{}: {}", key.name, show(node));
                format!("{{{}}}", entries.iter().map(entry).collect::<Vec<_>>().join(", "))
            }
            _ => node.describe(),
        };
        format!("{value}@{}", node.position)
    }

    #[test]
    fn documents_and_positions() {
        check("a: 1\nb:\n  - x\n  - 2.5\n", "{a: the number 1@1:4, b: [\"x\"@3:5, the number 2.5@4:5]@3:3}@1:1");
        check("{\"a\": [true, null]}", "{a: [the boolean true@1:8, nothing@1:14]@1:7}@1:1");
        check("a: yes\n---\nb: '1'\n", "{a: \"yes\"@1:4}@1:1 | {b: \"1\"@3:4}@3:1");
        check(
            "a: 0x10\nb: 010\nc: 1.1.1.1\nd: .inf\n",
            "{a: the number 16@1:4, b: the number 10@2:4, c: \"1.1.1.1\"@3:4, d: \".inf\"@4:4}@1:1",
        );
        check("a: &x [1]\nb: *x\n", "{a: [the number 1@1:8]@1:7, b: [the number 1@1:8]@1:7}@1:1");
        check("a: !!str 5\n", "{a: \"5\"@1:10}@1:1");
        check("80: x\n", "{80: \"x\"@1:5}@1:1");
        check("", "");
    }

    #[test]
    fn refusals() {
        check("a: 1\na: 2\n", "2:1: key \"a\" stands here a second time");
        check("? [x]\n: 1\n", "1:3: a key must be a plain or quoted text, not a list or map");
        check("a: !secret x\n", "1:12: tag !secret is not supported here");
        check("a: &x [*x]\n", "1:8: alias inside the value it names");
        let deep = "[".repeat(DEPTH_MAX + 1) + &"]".repeat(DEPTH_MAX + 1);
        check(&deep, "1:65: lists and maps nested deeper than 64");
        let bomb = (1..10).fold("- &a0 [x]\n".to_string(), |text, i| {
            format!("{text}- &a{i} [{}]\n", vec![format!("*a{}", i - 1); 9].join(","))
        });
        let (_, errors) = read(&bomb);
        assert_eq!(errors[0].message, TOO_MANY);
        let long = format!("- &a {}\n{}", "x".repeat(1_000_000), "- *a\n".repeat(1_000));
        assert_eq!(read(&long).1[0].message, TOO_MANY);
        assert_eq!(read(&"#".repeat(TEXT_MAX + 1)).1.len(), 1);
    }

    #[test]
    fn positions_of_paths() {
        let (documents, _) = read("spec:\n  rules:\n    - nets: [a, b]\n      labels: {x.y/z: 1}\n");
        let check = |path: &str, expected: &str| {
            assert_eq!(documents[0].position_of(path).to_string(), expected, "{path}");
        };
        check("spec.rules[0].nets[1]", "3:17");
        check("spec.rules[0].labels[\"x.y/z\"]", "4:23");
        check("spec.rules[0].absent.deeper", "3:7");
        check("spec.rules[7]", "3:5");
        check("", "1:1");
    }
}
