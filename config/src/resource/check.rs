//! Collecting what is wrong with a resource: every problem, each with its field path.
//!
//! A `Check` walks along with the validation: `field` and `each` descend and come back, `refuse`
//! writes down a problem at the present path. Shared rules for names, labels and selectors are here.

use std::collections::BTreeMap;
use std::fmt;

use crate::net::Cidr;
use crate::selector::Selector;

/// Names are DNS subdomains of at most this many characters.
pub const NAME_MAX: usize = 253;
/// Keys and values of all annotations of one resource.
const ANNOTATIONS_MAX: usize = 256 * 1024;
/// The name part of a label or annotation key, and a label's value.
const LABEL_PART_MAX: usize = 63;
/// A selector inside a resource.
const SELECTOR_MAX: usize = 1024;

/// More words than these are not listed to whoever wrote another one.
const LISTED_MAX: usize = 40;

/// One problem: where, what was found, what was expected, and a hint when there is a good one.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub struct FieldError {
    /// Such as `spec.ingress[0].source.nets[1]`; empty for the document itself.
    pub path: String,
    pub found: String,
    pub expected: String,
    pub help: Option<String>,
}

impl fmt::Display for FieldError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if !self.path.is_empty() {
            write!(f, "{}: ", self.path)?;
        }
        write!(f, "found {}, expected ", self.found)?;
        // One kind has nearly two hundred fields. Nobody reads them all.
        let listed = self.expected.strip_prefix("one of ").map_or(0, |words| words.split(", ").count());
        match listed {
            0..=LISTED_MAX => f.write_str(&self.expected)?,
            _ => write!(f, "one of {listed} known ones")?,
        }
        match &self.help {
            Some(help) => write!(f, " ({help})"),
            None => Ok(()),
        }
    }
}

/// The problems found so far and the path being looked at.
#[derive(Debug, Default)]
pub(crate) struct Check {
    path: String,
    errors: Vec<FieldError>,
}

impl Check {
    pub(crate) fn finish(self) -> Vec<FieldError> {
        self.errors
    }

    pub(crate) fn field(&mut self, name: &str, inner: impl FnOnce(&mut Check)) {
        let length = self.path.len();
        if length > 0 {
            self.path.push('.');
        }
        self.path.push_str(name);
        inner(self);
        self.path.truncate(length);
    }

    /// Every item of the list in field `name`.
    pub(crate) fn each<T>(&mut self, name: &str, items: &[T], mut inner: impl FnMut(&mut Check, &T)) {
        for (i, item) in items.iter().enumerate() {
            self.field(&format!("{name}[{i}]"), |check| inner(check, item));
        }
    }

    pub(crate) fn refuse(&mut self, found: impl fmt::Display, expected: impl Into<String>) {
        self.errors.push(FieldError {
            path: self.path.clone(),
            found: found.to_string(),
            expected: expected.into(),
            help: None,
        });
    }

    pub(crate) fn refuse_field(&mut self, name: &str, found: impl fmt::Display, expected: impl Into<String>) {
        self.field(name, |check| check.refuse(found, expected));
    }

    /// A hint for the problem refused last.
    pub(crate) fn help(&mut self, help: impl Into<String>) {
        if let Some(error) = self.errors.last_mut() {
            error.help = Some(help.into());
        }
    }

    pub(crate) fn at_most(&mut self, name: &str, length: usize, limit: usize) {
        if length > limit {
            self.refuse_field(name, format_args!("{length} entries"), format!("at most {limit}"));
        }
    }

    /// The same value twice in the list in field `name`.
    pub(crate) fn distinct<T: PartialEq + fmt::Display>(&mut self, name: &str, items: &[T]) {
        for (i, item) in items.iter().enumerate() {
            if items[..i].contains(item) {
                self.refuse_field(&format!("{name}[{i}]"), format_args!("{item} again"), "each value once");
            }
        }
    }

    /// A DNS subdomain; blank is for the caller to judge.
    pub(crate) fn name(&mut self, field: &str, name: &str) {
        if !name.is_empty() && !is_subdomain(name) {
            self.refuse_field(field, quoted(name), "a name: lowercase letters, digits, '-' and '.', at most 253");
        }
    }

    /// A name that must be there.
    pub(crate) fn required_name(&mut self, field: &str, name: &str, expected: &str) {
        if name.is_empty() {
            self.refuse_field(field, "nothing", expected);
        } else {
            self.name(field, name);
        }
    }

    pub(crate) fn interface(&mut self, field: &str, name: &str) {
        if !is_interface(name) {
            let expected = "an interface name: 1-15 letters, digits, '_', '.' or '-'";
            self.refuse_field(field, quoted(name), expected);
        }
    }

    /// A selector in a resource: not too long, and without `global()`.
    pub(crate) fn selector(&mut self, field: &str, selector: &Selector) {
        self.selector_length(field, selector);
        if selector.mentions_global() {
            self.refuse_field(field, quoted(selector.text()), "a selector without global()");
            self.help("global() may only be written in a rule's namespaceSelector");
        }
    }

    /// As `selector`, but `global()` alone is allowed.
    pub(crate) fn selector_or_global(&mut self, field: &str, selector: &Selector) {
        if selector.is_global() {
            return;
        }
        self.selector_length(field, selector);
        if selector.mentions_global() {
            self.refuse_field(field, quoted(selector.text()), "global() alone, or a selector without it");
        }
    }

    fn selector_length(&mut self, field: &str, selector: &Selector) {
        let length = selector.text().chars().count();
        if length > SELECTOR_MAX {
            let expected = format!("a selector of at most {SELECTOR_MAX} characters");
            self.refuse_field(field, format_args!("{length} characters"), expected);
        }
    }

    /// Kubernetes labels: qualified keys, values of the same alphabet.
    pub(crate) fn labels<'a, T: AsRef<str> + ?Sized + 'a>(
        &mut self,
        field: &str,
        labels: impl IntoIterator<Item = (&'a T, &'a T)>,
    ) {
        for (key, value) in labels {
            let (key, value) = (key.as_ref(), value.as_ref());
            let entry = entry(field, key);
            self.label_key(&entry, key);
            self.field(&entry, |check| check.label_value(value));
        }
    }

    pub(crate) fn label_key(&mut self, field: &str, key: &str) {
        if !is_label_key(key) {
            self.refuse_field(field, quoted(key), KEY_EXPECTED);
        }
    }

    /// The value of a label, at the present path.
    pub(crate) fn label_value(&mut self, value: &str) {
        if !is_label_value(value) {
            self.refuse(quoted(value), VALUE_EXPECTED);
        }
    }

    /// An order of policies or tiers: a number that has a place among others.
    pub(crate) fn order(&mut self, order: Option<f64>) {
        if let Some(order) = order.filter(|order| !order.is_finite()) {
            self.refuse_field("order", order, "a finite number");
        }
    }

    /// A network, without bits beyond its length.
    pub(crate) fn masked(&mut self, field: &str, cidr: &Cidr) {
        if !cidr.is_masked() {
            self.refuse_field(field, cidr, format!("{}, without host bits", cidr.masked()));
        }
    }

    pub(crate) fn annotations(&mut self, field: &str, annotations: &BTreeMap<String, String>) {
        for key in annotations.keys().filter(|key| !is_label_key(&key.to_lowercase())) {
            self.refuse_field(&entry(field, key), quoted(key), KEY_EXPECTED);
        }
        let size: usize = annotations.iter().map(|(key, value)| key.len() + value.len()).sum();
        if size > ANNOTATIONS_MAX {
            let expected = format!("at most {ANNOTATIONS_MAX} bytes of keys and values");
            self.refuse_field(field, format_args!("{size} bytes"), expected);
        }
    }
}

const KEY_EXPECTED: &str = "a key such as role or example.org/role: an optional lowercase DNS prefix and '/', then \
                            at most 63 letters, digits, '-', '_' or '.', with a letter or digit at both ends";

const VALUE_EXPECTED: &str = "a label value: at most 63 letters, digits, '-', '_' or '.', with a letter or digit at \
                              both ends";

/// The path of one entry of a map whose keys may hold dots.
pub(crate) fn entry(field: &str, key: &str) -> String {
    format!("{field}[{key:?}]")
}

/// How a written value is shown in a problem; long ones are cut.
pub(crate) fn quoted(text: &str) -> String {
    match text.char_indices().nth(60) {
        Some((cut, _)) => format!("{:?}...", &text[..cut]),
        None => format!("{text:?}"),
    }
}

/// `[a-z0-9]([-a-z0-9]*[a-z0-9])?`
pub(crate) fn is_dns_label(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'-';
    !text.is_empty() && text.bytes().all(is_inner) && !text.starts_with('-') && !text.ends_with('-')
}

/// DNS labels joined by dots.
pub(crate) fn is_subdomain(text: &str) -> bool {
    text.len() <= NAME_MAX && text.split('.').all(is_dns_label)
}

/// What the kernel and Calico both take for an interface name.
pub(crate) fn is_interface(name: &str) -> bool {
    let is_allowed = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'.' | b'-');
    (1..=15).contains(&name.len()) && name.bytes().all(is_allowed)
}

pub(crate) fn is_label_value(text: &str) -> bool {
    text.is_empty() || is_label_part(text)
}

fn is_label_part(text: &str) -> bool {
    let is_inner = |b: u8| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.');
    let is_end = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    text.len() <= LABEL_PART_MAX && bytes.iter().all(|b| is_inner(*b)) && is_end(bytes.first()) && is_end(bytes.last())
}

pub(crate) fn is_label_key(key: &str) -> bool {
    match key.split_once('/') {
        Some((prefix, name)) => is_subdomain(prefix) && is_label_part(name),
        None => is_label_part(key),
    }
}
