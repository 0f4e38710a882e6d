//! The label expression language: `role == 'web' && !has(quarantine)`.
//!
//!     text ──lexer──▶ tokens ──parser──▶ Expression ──eval──▶ bool
//!                                             ├──Display──▶ canonical text ──▶ identity
//!                                             └──restrictions──▶ hints for an index of labels
//!
//! A selector keeps the text it was written in, which is what is stored and shown; two spellings of
//! one selection have the same canonical text (`Display`), which is what identifies a set of members.
//!
//! Invariants: groups nest at most `parser::NESTING_MAX` deep, so evaluating, printing and dropping
//! may recurse; a set's values are sorted and distinct.
//! Left out: the meaning of `global()` (policy calculation rewrites it before it evaluates).

mod eval;
mod lexer;
mod parser;
mod restrictions;

use std::fmt;
use std::sync::Arc;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::de::{self, Expected, Visitor};
use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest, Sha224};

pub use eval::Labels;
pub use restrictions::{LabelRestriction, Restrictions};

/// What the identity of a selector begins with, before and inside the hash.
const IDENTITY_PREFIX: &str = "s:";

/// A parsed selector and the text it came from. The default selects everything and was written as nothing. Copies share
/// both: rules are copied on their way from the store to the tables, and have up to eight of them.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Selector(Arc<Parsed>);

#[derive(Debug, PartialEq, Eq, Default)]
struct Parsed {
    text: String,
    expression: Expression,
}

/// Why a text is no selector. `position` counts bytes from 0.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("at position {}: found {found}, expected {expected}", position + 1)]
pub struct SelectorError {
    pub position: usize,
    pub found: String,
    pub expected: &'static str,
}

impl Selector {
    /// Reads a selector; empty or blank text is `all()`.
    pub fn parse(text: &str) -> Result<Selector, SelectorError> {
        let expression = parser::parse(text)?;
        Ok(Selector(Arc::new(Parsed { text: text.to_string(), expression })))
    }

    /// Written `all()`.
    pub fn all() -> Selector {
        Selector::of(Expression::All)
    }

    pub fn matches(&self, labels: &impl Labels) -> bool {
        self.0.expression.matches(labels)
    }

    /// The name of the set that it selects, the same for all spellings of one selection: Calico's, letter by letter.
    pub fn id(&self) -> String {
        let hash = Sha224::digest(format!("{IDENTITY_PREFIX}{self}"));
        format!("{IDENTITY_PREFIX}{}", URL_SAFE_NO_PAD.encode(hash))
    }

    /// As it was written.
    pub fn text(&self) -> &str {
        &self.0.text
    }

    /// Written as nothing: what an absent field and `""` both mean.
    pub fn is_blank(&self) -> bool {
        self.0.text.trim_matches([' ', '\t']).is_empty()
    }

    /// Exactly `global()`, however it is spaced.
    pub fn is_global(&self) -> bool {
        self.0.expression == Expression::Global
    }

    /// Uses `global()` anywhere.
    pub fn mentions_global(&self) -> bool {
        self.0.expression.any(&|part| *part == Expression::Global)
    }

    /// Selects everything by having no condition: `all()` or blank.
    pub fn is_all(&self) -> bool {
        self.0.expression == Expression::All
    }

    /// Both must match. Each side stays a group of its own.
    pub fn and(&self, other: &Selector) -> Selector {
        Selector::of(Expression::And(vec![self.0.expression.clone(), other.0.expression.clone()]))
    }

    /// This must match, and the other must not. Each side stays a group of its own.
    pub fn and_not(&self, other: &Selector) -> Selector {
        let unwanted = Expression::Not(Box::new(other.0.expression.clone()));
        Selector::of(Expression::And(vec![self.0.expression.clone(), unwanted]))
    }

    /// The same selection with every label name prefixed.
    pub fn prefix_labels(&self, prefix: &str) -> Selector {
        Selector::of(self.0.expression.prefix_labels(prefix))
    }

    fn of(expression: Expression) -> Selector {
        Selector(Arc::new(Parsed { text: expression.to_string(), expression }))
    }
}

/// The canonical text.
impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expression.fmt(f)
    }
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
enum Expression {
    #[default]
    All,
    Global,
    Has(String),
    Compare {
        label: String,
        operator: Operator,
        value: String,
    },
    In {
        label: String,
        is_negated: bool,
        values: Vec<String>,
    },
    Not(Box<Expression>),
    And(Vec<Expression>),
    Or(Vec<Expression>),
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Operator {
    Equal,
    NotEqual,
    Contains,
    StartsWith,
    EndsWith,
}

impl Expression {
    fn any(&self, predicate: &impl Fn(&Expression) -> bool) -> bool {
        predicate(self)
            || match self {
                Expression::Not(inner) => inner.any(predicate),
                Expression::And(parts) | Expression::Or(parts) => parts.iter().any(|part| part.any(predicate)),
                _ => false,
            }
    }

    fn prefix_labels(&self, prefix: &str) -> Expression {
        let prefixed = |label: &str| format!("{prefix}{label}");
        let all = |parts: &[Expression]| parts.iter().map(|part| part.prefix_labels(prefix)).collect();
        match self {
            Expression::All => Expression::All,
            Expression::Global => Expression::Global,
            Expression::Has(label) => Expression::Has(prefixed(label)),
            Expression::Compare { label, operator, value } => {
                Expression::Compare { label: prefixed(label), operator: *operator, value: value.clone() }
            }
            Expression::In { label, is_negated, values } => {
                Expression::In { label: prefixed(label), is_negated: *is_negated, values: values.clone() }
            }
            Expression::Not(inner) => Expression::Not(Box::new(inner.prefix_labels(prefix))),
            Expression::And(parts) => Expression::And(all(parts)),
            Expression::Or(parts) => Expression::Or(all(parts)),
        }
    }
}

impl fmt::Display for Expression {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Expression::All => f.write_str("all()"),
            Expression::Global => f.write_str("global()"),
            Expression::Has(label) => write!(f, "has({label})"),
            Expression::Compare { label, operator, value } => {
                write!(f, "{label} {operator} {}", Quoted(value))
            }
            Expression::In { label, is_negated, values } => {
                write!(f, "{label} {} {{", if *is_negated { "not in" } else { "in" })?;
                for (i, value) in values.iter().enumerate() {
                    write!(f, "{}{}", if i == 0 { "" } else { ", " }, Quoted(value))?;
                }
                f.write_str("}")
            }
            Expression::Not(inner) => write!(f, "!{inner}"),
            Expression::And(parts) => write_group(f, parts, " && "),
            Expression::Or(parts) => write_group(f, parts, " || "),
        }
    }
}

fn write_group(f: &mut fmt::Formatter<'_>, parts: &[Expression], joint: &str) -> fmt::Result {
    f.write_str("(")?;
    for (i, part) in parts.iter().enumerate() {
        write!(f, "{}{part}", if i == 0 { "" } else { joint })?;
    }
    f.write_str(")")
}

impl fmt::Display for Operator {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Operator::Equal => "==",
            Operator::NotEqual => "!=",
            Operator::Contains => "contains",
            Operator::StartsWith => "starts with",
            Operator::EndsWith => "ends with",
        })
    }
}

/// A string literal: double quotes unless the text has one. No literal can hold both kinds.
struct Quoted<'a>(&'a str);

impl fmt::Display for Quoted<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let quote = if self.0.contains('"') { '\'' } else { '"' };
        write!(f, "{quote}{}{quote}", self.0)
    }
}

impl Serialize for Selector {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&self.0.text)
    }
}

impl<'de> Deserialize<'de> for Selector {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Selector, D::Error> {
        struct Text;
        impl Visitor<'_> for Text {
            type Value = Selector;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a selector such as role == 'web'")
            }

            fn visit_str<E: de::Error>(self, text: &str) -> Result<Selector, E> {
                Selector::parse(text).map_err(|error| E::invalid_value(de::Unexpected::Str(text), &error))
            }
        }
        deserializer.deserialize_str(Text)
    }
}

impl Expected for SelectorError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "a selector; {self}")
    }
}

#[cfg(test)]
mod tests;
