//! Does an expression match a set of labels.

use std::collections::{BTreeMap, HashMap};

use super::{Expression, Operator};

/// Where label values are looked up: a map, or a chain of them (own labels, then inherited ones).
pub trait Labels {
    fn label(&self, name: &str) -> Option<&str>;
}

impl Labels for BTreeMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Labels for HashMap<String, String> {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name).map(String::as_str)
    }
}

impl Labels for crate::resource::Labels {
    fn label(&self, name: &str) -> Option<&str> {
        self.get(name)
    }
}

impl Expression {
    pub(super) fn matches(&self, labels: &impl Labels) -> bool {
        match self {
            // As parsed, `global()` holds everywhere; policy calculation replaces it where it may be written.
            Expression::All | Expression::Global => true,
            Expression::Has(label) => labels.label(label).is_some(),
            Expression::Compare { label, operator, value } => {
                let found = labels.label(label);
                match operator {
                    Operator::Equal => found == Some(value.as_str()),
                    // An absent label differs from every value.
                    Operator::NotEqual => found != Some(value.as_str()),
                    Operator::Contains => found.is_some_and(|found| found.contains(value.as_str())),
                    Operator::StartsWith => found.is_some_and(|found| found.starts_with(value.as_str())),
                    Operator::EndsWith => found.is_some_and(|found| found.ends_with(value.as_str())),
                }
            }
            Expression::In { label, is_negated, values } => {
                let is_in = |found: &str| values.binary_search_by(|value| value.as_str().cmp(found)).is_ok();
                labels.label(label).is_some_and(is_in) != *is_negated
            }
            Expression::Not(inner) => !inner.matches(labels),
            Expression::And(parts) => parts.iter().all(|part| part.matches(labels)),
            Expression::Or(parts) => parts.iter().any(|part| part.matches(labels)),
        }
    }
}
