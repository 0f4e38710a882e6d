//! What each kind is for and what each field may say: the text behind `vrouter explain`.
//!
//! ```text
//! explain/fields.txt   kind NAME | meaning        field name | type | default | checks | meaning
//!                      rule across its fields     struct NAME, then its fields
//! ```
//!
//! A field whose type ends in the name of a struct has that struct's fields below it. The tests walk the structs that
//! documents are decoded into, and ask for an entry for every field of every kind.
//!
//! Left out: checks themselves; those are made where the struct is. The text says what they are.

use std::fmt;
use std::sync::LazyLock;

use crate::resource::Kind;
use crate::suggest;

#[cfg(test)]
mod tests;

const TEXT: &str = include_str!("explain/fields.txt");

/// The struct that every kind has under `metadata`.
const METADATA: &str = "Metadata";

static BOOK: LazyLock<Book> = LazyLock::new(|| Book::read(TEXT));

/// One field.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    pub name: &'static str,
    pub kind: &'static str,
    pub default: &'static str,
    pub checks: &'static str,
    pub meaning: &'static str,
}

/// One kind.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct KindPage {
    pub meaning: &'static str,
    /// What holds across its fields.
    pub rules: Vec<&'static str>,
}

/// A path that leads nowhere.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct UnknownPath {
    pub kind: Kind,
    /// The part of the path that is right.
    pub known: String,
    pub step: String,
    pub fields: Vec<&'static str>,
}

impl fmt::Display for UnknownPath {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let UnknownPath { kind, known, step, fields } = self;
        let dot = if known.is_empty() { "" } else { "." };
        write!(f, "{kind}{dot}{known} has no field {step:?}")?;
        match fields.is_empty() {
            true => f.write_str(" and no fields at all"),
            false => write!(f, ", expected one of {}", fields.join(", ")),
        }?;
        match suggest::nearest(step, fields.iter().copied()) {
            Some(near) => write!(f, " (did you mean {near}?)"),
            None => Ok(()),
        }
    }
}

pub fn kind(kind: Kind) -> KindPage {
    BOOK.section(kind.name(), true).map(|section| section.page.clone()).unwrap_or_default()
}

/// The entry at a path such as `spec.ingress[0].source.nets`; none for the empty path, which is the kind itself.
/// Whatever stands in brackets is passed over.
pub fn field(kind: Kind, path: &str) -> Result<Option<Entry>, UnknownPath> {
    let mut entry: Option<Entry> = None;
    let mut known = String::new();
    for step in steps(path) {
        let fields = fields_below(kind, entry.as_ref());
        match fields.iter().find(|field| field.name == step) {
            Some(found) => entry = Some(*found),
            None => {
                let fields = fields.iter().map(|field| field.name).collect();
                return Err(UnknownPath { kind, known, step, fields });
            }
        }
        known = if known.is_empty() { step } else { format!("{known}.{step}") };
    }
    Ok(entry)
}

/// The fields below a field, or those of the kind itself.
pub fn fields_below(kind: Kind, entry: Option<&Entry>) -> Vec<Entry> {
    let section = match entry {
        None => BOOK.section(kind.name(), true),
        Some(entry) => BOOK.section(entry.kind.rsplit(' ').next().unwrap_or_default(), false),
    };
    section.map(|section| section.fields.clone()).unwrap_or_default()
}

fn steps(path: &str) -> Vec<String> {
    let mut plain = String::new();
    let mut depth = 0usize;
    for letter in path.chars() {
        match letter {
            '[' => depth += 1,
            ']' => depth = depth.saturating_sub(1),
            _ if depth == 0 => plain.push(letter),
            _ => {}
        }
    }
    plain.split('.').filter(|step| !step.is_empty()).map(str::to_string).collect()
}

#[derive(Default)]
struct Book {
    sections: Vec<Section>,
}

struct Section {
    name: &'static str,
    is_kind: bool,
    page: KindPage,
    fields: Vec<Entry>,
}

impl Book {
    fn read(text: &'static str) -> Book {
        let mut book = Book::default();
        for line in text.lines() {
            let (word, rest) = line.split_once(' ').unwrap_or((line, ""));
            let mut cells = rest.split('|').map(str::trim);
            let mut cell = || cells.next().unwrap_or_default();
            match (word, book.sections.last_mut()) {
                ("kind" | "struct", _) => {
                    let is_kind = word == "kind";
                    let (name, meaning) = (cell(), cell());
                    let page = KindPage { meaning, rules: Vec::new() };
                    let mut fields = Vec::new();
                    if is_kind {
                        let meaning = "name, labels and what the store adds";
                        fields.push(Entry { name: "metadata", kind: METADATA, default: "", checks: "", meaning });
                    }
                    book.sections.push(Section { name, is_kind, page, fields });
                }
                ("rule", Some(section)) => section.page.rules.push(rest),
                ("field", Some(section)) => section.fields.push(Entry {
                    name: cell(),
                    kind: cell(),
                    default: cell(),
                    checks: cell(),
                    meaning: cell(),
                }),
                _ => {}
            }
        }
        book
    }

    fn section(&self, name: &str, is_kind: bool) -> Option<&Section> {
        self.sections.iter().find(|section| section.name == name && section.is_kind == is_kind)
    }
}
