//! From a document to a typed value, with every misfit found rather than the first.
//!
//! Serde stops at the first error. So a value that does not fit is noted with its path and left out,
//! and the document is decoded again without it, until nothing is left to complain about. Unknown
//! fields are noted on the way; they stop nothing. Kubernetes' own objects have many that mean nothing
//! here, so for those unknown fields are passed over.
//!
//! Invariants: each pass leaves out one more path, so passes end; there are at most `PROBLEMS_MAX`.
//! As in Go's JSON, `null` for a field means the field is absent.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use serde::de::value::StrDeserializer;
use serde::de::{
    self, DeserializeOwned, DeserializeSeed, Deserializer, EnumAccess, Expected, IntoDeserializer, MapAccess,
    SeqAccess, Unexpected, VariantAccess, Visitor,
};

use crate::document::{Key, Node, Position, Value};
use crate::resource::FieldError;
use crate::suggest;

/// Further problems of one document are not looked for.
const PROBLEMS_MAX: usize = 100;

/// Keys of a resource that say what it is; whoever decodes it has read them already.
const ROOT_KEYS: [&str; 2] = ["apiVersion", "kind"];
/// What Kubernetes keeps in the metadata of any object for itself.
const PASSED_OVER_IN_METADATA: [&str; 5] =
    ["managedFields", "ownerReferences", "selfLink", "generateName", "deletionGracePeriodSeconds"];

/// What becomes of fields nobody asks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Strictness {
    Refuse,
    PassOver,
}

pub(crate) struct Decoded<T> {
    /// The value without what could not be read; none when too much was missing.
    pub(crate) value: Option<T>,
    pub(crate) problems: Vec<(Position, FieldError)>,
    /// Paths of what could not be read.
    pub(crate) left_out: Vec<String>,
}

impl<T> Decoded<T> {
    pub(crate) fn map<U>(self, convert: impl FnOnce(T) -> U) -> Decoded<U> {
        let Decoded { value, problems, left_out } = self;
        Decoded { value: value.map(convert), problems, left_out }
    }
}

/// Decodes the document found at `path` of the text it came from.
pub(crate) fn decode<T: DeserializeOwned>(root: &Node, path: &str, strictness: Strictness) -> Decoded<T> {
    let mut problems: Vec<(Position, FieldError)> = Vec::new();
    let mut pass = Pass { strictness, left_out: BTreeSet::new(), unknown: RefCell::default() };
    let value = loop {
        let decoder = Decoder { node: root, path: Path::Root(path), pass: &pass };
        let error = match T::deserialize(decoder) {
            Ok(value) => break Some(value),
            Err(error) => error,
        };
        let Misfit { position, error, leave_out } = error.located(root, path);
        let is_consequence = pass.left_out.contains(&error.path);
        if !is_consequence {
            problems.push((position, error));
        }
        if leave_out == path || problems.len() == PROBLEMS_MAX || !pass.left_out.insert(leave_out) {
            break None;
        }
    };
    problems.extend(pass.unknown.into_inner().into_values());
    problems.sort_by_key(|(position, _)| *position);
    Decoded { value, problems, left_out: pass.left_out.into_iter().collect() }
}

/// What one pass knows from the passes before it, and the unknown fields it meets.
struct Pass {
    strictness: Strictness,
    left_out: BTreeSet<String>,
    unknown: RefCell<BTreeMap<String, (Position, FieldError)>>,
}

impl Pass {
    fn leaves_out(&self, path: &Path<'_>) -> bool {
        // The first pass is the only one for most documents; it need not spell out every path.
        !self.left_out.is_empty() && self.left_out.contains(&path.to_string())
    }
}

/// How we came here from the root; a chain of borrowed steps on the call stack.
#[derive(Clone, Copy)]
enum Path<'a> {
    Root(&'a str),
    Field(&'a Path<'a>, &'a str),
    Entry(&'a Path<'a>, &'a str),
    Index(&'a Path<'a>, usize),
}

impl fmt::Display for Path<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Path::Root(path) => f.write_str(path),
            Path::Field(Path::Root(""), name) => f.write_str(name),
            Path::Field(outer, name) => write!(f, "{outer}.{name}"),
            Path::Entry(outer, key) => write!(f, "{outer}[{key:?}]"),
            Path::Index(outer, index) => write!(f, "{outer}[{index}]"),
        }
    }
}

#[derive(Clone, Copy)]
struct Decoder<'a> {
    node: &'a Node,
    path: Path<'a>,
    pass: &'a Pass,
}

impl<'a> Decoder<'a> {
    fn misfit(&self, expected: impl Into<String>, help: Option<String>) -> Error {
        let path = self.path.to_string();
        let error = FieldError { path: path.clone(), found: self.node.describe(), expected: expected.into(), help };
        Error::Misfit(Box::new(Misfit { position: self.node.position, error, leave_out: path }))
    }

    /// Gives an error that came from a visitor, which knows no place, the place of this node.
    fn place(&self, error: Error) -> Error {
        match error {
            Error::Misfit(_) => error,
            Error::Expected(expected) => {
                let near = self.node.as_text().and_then(|text| nearest_listed(text, &expected));
                self.misfit(expected, near)
            }
            Error::MissingField(name) => {
                let leave_out = self.path.to_string();
                let path = Path::Field(&self.path, name).to_string();
                let error = FieldError {
                    path,
                    found: "nothing".to_string(),
                    expected: "a value, because this field is required".to_string(),
                    help: None,
                };
                Error::Misfit(Box::new(Misfit { position: self.node.position, error, leave_out }))
            }
        }
    }

    fn entries(&self, entries: &'a [(Key, Node)], is_struct: bool) -> Entries<'a> {
        Entries { outer: *self, entries: entries.iter(), is_struct, value: None }
    }

    fn note_unknown(&self, key: &Key, fields: &'static [&'static str]) {
        let path = Path::Field(&self.path, &key.name).to_string();
        let help = suggest::nearest(&key.name, fields.iter().copied());
        let expected = format!("one of {}", fields.join(", "));
        let error = FieldError {
            path: path.clone(),
            found: "an unknown field".to_string(),
            expected,
            help: help.map(|name| format!("did you mean {name}?")),
        };
        self.pass.unknown.borrow_mut().entry(path).or_insert((key.position, error));
    }
}

impl<'de, 'a> Deserializer<'de> for Decoder<'a> {
    type Error = Error;

    fn deserialize_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let result = match &self.node.value {
            Value::Null => visitor.visit_unit(),
            Value::Bool(value) => visitor.visit_bool(*value),
            // Not negative goes as unsigned, so that visitors see one form of it.
            Value::Integer(value) => match u64::try_from(*value) {
                Ok(value) => visitor.visit_u64(value),
                Err(_) => visitor.visit_i64(*value),
            },
            Value::Unsigned(value) => visitor.visit_u64(*value),
            Value::Float(value) => visitor.visit_f64(*value),
            Value::Text(text) => visitor.visit_str(text),
            Value::List(items) => visitor.visit_seq(Items { outer: self, items: items.iter().enumerate() }),
            Value::Map(entries) => visitor.visit_map(self.entries(entries, false)),
        };
        result.map_err(|error| self.place(error))
    }

    fn deserialize_option<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Null => visitor.visit_none(),
            _ => visitor.visit_some(self),
        }
    }

    fn deserialize_bool<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Bool(_) => self.deserialize_any(visitor),
            Value::Text(text) => {
                let help = match text.to_lowercase().as_str() {
                    "true" | "false" => Some("write it without quotes"),
                    "yes" | "on" | "y" => Some("did you mean true?"),
                    "no" | "off" | "n" => Some("did you mean false?"),
                    _ => None,
                };
                Err(self.misfit("true or false", help.map(str::to_string)))
            }
            _ => Err(self.misfit("true or false", None)),
        }
    }

    fn deserialize_str<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        let help = match &self.node.value {
            Value::Text(_) => return self.deserialize_any(visitor),
            Value::Bool(value) => Some(value.to_string()),
            Value::Integer(value) => Some(value.to_string()),
            Value::Unsigned(value) => Some(value.to_string()),
            Value::Float(value) => Some(value.to_string()),
            Value::Null | Value::List(_) | Value::Map(_) => None,
        };
        let help = help.map(|text| format!("write it in quotes: {text:?}"));
        let expected = (&visitor as &dyn Expected).to_string();
        let expected = if expected == "a string" { "text".to_string() } else { expected };
        Err(self.misfit(expected, help))
    }

    fn deserialize_string<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        self.deserialize_str(visitor)
    }

    fn deserialize_seq<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::List(_) => self.deserialize_any(visitor),
            _ => Err(self.misfit("a list", Some("write each entry on its own line, after a dash".to_string()))),
        }
    }

    fn deserialize_map<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        match self.node.value {
            Value::Map(_) => self.deserialize_any(visitor),
            _ => Err(self.misfit("a map of names and values", None)),
        }
    }

    fn deserialize_struct<V: Visitor<'de>>(
        self,
        name: &'static str,
        fields: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        let Value::Map(entries) = &self.node.value else {
            return Err(self.misfit(format!("a map with fields {}", fields.join(", ")), None));
        };
        let is_root = matches!(self.path, Path::Root(_));
        let is_refused = |field: &str| {
            let is_passed_over = (is_root && ROOT_KEYS.contains(&field))
                || (name == "Metadata" && PASSED_OVER_IN_METADATA.contains(&field));
            !fields.contains(&field) && !is_passed_over
        };
        if self.pass.strictness == Strictness::Refuse {
            for (key, _) in entries.iter().filter(|(key, _)| is_refused(&key.name)) {
                self.note_unknown(key, fields);
            }
        }
        visitor.visit_map(self.entries(entries, true)).map_err(|error| self.place(error))
    }

    fn deserialize_enum<V: Visitor<'de>>(
        self,
        _name: &'static str,
        variants: &'static [&'static str],
        visitor: V,
    ) -> Result<V::Value, Error> {
        match &self.node.value {
            Value::Text(text) => visitor.visit_enum(Word(text)).map_err(|error| self.place(error)),
            _ => Err(self.misfit(format!("one of {}", variants.join(", ")), None)),
        }
    }

    fn deserialize_newtype_struct<V: Visitor<'de>>(self, _name: &'static str, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_newtype_struct(self)
    }

    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, Error> {
        visitor.visit_unit()
    }

    serde::forward_to_deserialize_any! {
        i8 i16 i32 i64 i128 u8 u16 u32 u64 u128 f32 f64 char bytes byte_buf unit unit_struct tuple tuple_struct
        identifier
    }
}

/// The items of a list, without those left out.
struct Items<'a> {
    outer: Decoder<'a>,
    items: std::iter::Enumerate<std::slice::Iter<'a, Node>>,
}

impl<'de, 'a> SeqAccess<'de> for Items<'a> {
    type Error = Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        let outer = self.outer;
        for (index, node) in self.items.by_ref() {
            let path = Path::Index(&outer.path, index);
            if !outer.pass.leaves_out(&path) {
                return seed.deserialize(Decoder { node, path, pass: outer.pass }).map(Some);
            }
        }
        Ok(None)
    }
}

/// The entries of a map, without nulls and those left out.
struct Entries<'a> {
    outer: Decoder<'a>,
    entries: std::slice::Iter<'a, (Key, Node)>,
    is_struct: bool,
    value: Option<(&'a Key, &'a Node)>,
}

impl<'a> Entries<'a> {
    fn path<'p>(&self, outer: &'p Path<'p>, key: &'p Key) -> Path<'p> {
        if self.is_struct { Path::Field(outer, &key.name) } else { Path::Entry(outer, &key.name) }
    }
}

impl<'de, 'a> MapAccess<'de> for Entries<'a> {
    type Error = Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, Error> {
        while let Some((key, node)) = self.entries.next() {
            let is_left_out = self.outer.pass.leaves_out(&self.path(&self.outer.path, key));
            if node.value == Value::Null || is_left_out {
                continue;
            }
            self.value = Some((key, node));
            let name: StrDeserializer<'_, Error> = key.name.as_str().into_deserializer();
            return seed.deserialize(name).map(Some);
        }
        Ok(None)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, Error> {
        let Some((key, node)) = self.value.take() else {
            return Err(de::Error::custom("a key before its value"));
        };
        let outer = self.outer.path;
        let path = self.path(&outer, key);
        seed.deserialize(Decoder { node, path, pass: self.outer.pass })
    }
}

/// One of an enum's words.
struct Word<'a>(&'a str);

impl<'de> EnumAccess<'de> for Word<'_> {
    type Error = Error;
    type Variant = NoContent;

    fn variant_seed<S: DeserializeSeed<'de>>(self, seed: S) -> Result<(S::Value, NoContent), Error> {
        let word: StrDeserializer<'_, Error> = self.0.into_deserializer();
        Ok((seed.deserialize(word)?, NoContent))
    }
}

/// Our enums are words and carry nothing.
struct NoContent;

impl<'de> VariantAccess<'de> for NoContent {
    type Error = Error;

    fn unit_variant(self) -> Result<(), Error> {
        Ok(())
    }

    fn newtype_variant_seed<S: DeserializeSeed<'de>>(self, _: S) -> Result<S::Value, Error> {
        Err(de::Error::custom("a word"))
    }

    fn tuple_variant<V: Visitor<'de>>(self, _: usize, _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("a word"))
    }

    fn struct_variant<V: Visitor<'de>>(self, _: &'static [&'static str], _: V) -> Result<V::Value, Error> {
        Err(de::Error::custom("a word"))
    }
}

/// A misfit, once its place is known; before that, what a visitor said.
#[derive(Debug)]
enum Error {
    Misfit(Box<Misfit>),
    Expected(String),
    MissingField(&'static str),
}

#[derive(Debug)]
struct Misfit {
    position: Position,
    error: FieldError,
    leave_out: String,
}

impl Error {
    fn located(self, root: &Node, path: &str) -> Misfit {
        match self {
            Error::Misfit(misfit) => *misfit,
            Error::Expected(expected) => {
                let error = FieldError { path: path.to_string(), found: root.describe(), expected, help: None };
                Misfit { position: root.position, error, leave_out: path.to_string() }
            }
            Error::MissingField(name) => Error::Expected(format!("field {name}")).located(root, path),
        }
    }
}

impl fmt::Display for Error {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Error::Misfit(misfit) => misfit.error.fmt(f),
            Error::Expected(expected) => write!(f, "expected {expected}"),
            Error::MissingField(name) => write!(f, "missing field {name}"),
        }
    }
}

impl std::error::Error for Error {}

impl de::Error for Error {
    /// The standard library's address types end here, with a message of their own.
    fn custom<T: fmt::Display>(message: T) -> Error {
        let expected = match message.to_string().as_str() {
            "invalid IP address syntax" => "an IP address".to_string(),
            "invalid IPv4 address syntax" => "an IPv4 address".to_string(),
            "invalid IPv6 address syntax" => "an IPv6 address".to_string(),
            other => other.to_string(),
        };
        Error::Expected(expected)
    }

    fn invalid_type(_: Unexpected<'_>, expected: &dyn Expected) -> Error {
        Error::Expected(in_words(&expected.to_string()))
    }

    fn invalid_value(_: Unexpected<'_>, expected: &dyn Expected) -> Error {
        Error::Expected(in_words(&expected.to_string()))
    }

    fn unknown_variant(_: &str, variants: &'static [&'static str]) -> Error {
        Error::Expected(format!("one of {}", variants.join(", ")))
    }

    fn missing_field(field: &'static str) -> Error {
        Error::MissingField(field)
    }
}

/// Where the words that are expected are listed, the one nearest to what was written.
fn nearest_listed(text: &str, expected: &str) -> Option<String> {
    let words = expected.strip_prefix("one of ")?.split(", ");
    suggest::nearest(text, words).map(|near| format!("did you mean {near}?"))
}

/// Serde names Rust's types; people write numbers.
fn in_words(expected: &str) -> String {
    let words = match expected {
        "u8" => "a whole number 0-255",
        "u16" => "a whole number 0-65535",
        "u32" => "a whole number 0-4294967295",
        "u64" => "a whole number, not negative",
        "usize" => "a whole number, not negative",
        "i64" => "a whole number",
        "f64" => "a number",
        "a string" => "text",
        other => other,
    };
    words.to_string()
}
