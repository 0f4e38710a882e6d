//! What must hold for each label before a selector can match: hints for an index of labels.
//!
//! A restriction is necessary, not sufficient: whatever breaks it does not match, whatever keeps it may. AND unites what
//! its parts demand; OR keeps what all its parts demand; NOT says something only about `has(label)`.

use std::collections::BTreeMap;

use super::{Expression, Operator, Selector};

/// Labels of whatever a selector matches, by name.
pub type Restrictions<'a> = BTreeMap<&'a str, LabelRestriction<'a>>;

/// Both `must_be_present` and `must_be_absent`, or no value to have: nothing matches.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct LabelRestriction<'a> {
    pub must_be_present: bool,
    pub must_be_absent: bool,
    /// Sorted and distinct. None: any value.
    pub must_have_one_of: Option<Vec<&'a str>>,
}

impl Selector {
    /// What the labels of everything that matches have in common. Labels that do not matter are not in it.
    pub fn restrictions(&self) -> Restrictions<'_> {
        of(&self.0.expression)
    }
}

impl LabelRestriction<'_> {
    /// Whether a label with this value, or its absence, keeps the restriction.
    pub fn allows(&self, value: Option<&str>) -> bool {
        match value {
            None => !self.must_be_present,
            Some(value) => {
                !self.must_be_absent && self.must_have_one_of.as_ref().is_none_or(|all| all.contains(&value))
            }
        }
    }

    fn says_nothing(&self) -> bool {
        *self == LabelRestriction::default()
    }
}

fn of(expression: &Expression) -> Restrictions<'_> {
    let present = LabelRestriction { must_be_present: true, ..LabelRestriction::default() };
    let one = |label, restriction| BTreeMap::from([(label, restriction)]);
    match expression {
        Expression::Has(label) => one(label.as_str(), present),
        Expression::Compare { label, operator: Operator::Equal, value } => {
            one(label.as_str(), LabelRestriction { must_have_one_of: Some(vec![value.as_str()]), ..present })
        }
        Expression::In { label, is_negated: false, values } => {
            let values = values.iter().map(String::as_str).collect();
            one(label.as_str(), LabelRestriction { must_have_one_of: Some(values), ..present })
        }
        Expression::Compare { operator: Operator::NotEqual, .. } | Expression::In { is_negated: true, .. } => {
            BTreeMap::new()
        }
        Expression::Compare { label, .. } => one(label.as_str(), present),
        Expression::Not(inner) => match inner.as_ref() {
            Expression::Has(label) => {
                one(label.as_str(), LabelRestriction { must_be_absent: true, ..LabelRestriction::default() })
            }
            Expression::Not(inner) => of(inner),
            _ => BTreeMap::new(),
        },
        Expression::And(parts) => {
            let mut all = BTreeMap::new();
            for (label, restriction) in parts.iter().flat_map(of) {
                match all.entry(label) {
                    std::collections::btree_map::Entry::Vacant(entry) => {
                        entry.insert(restriction);
                    }
                    std::collections::btree_map::Entry::Occupied(mut entry) => both(entry.get_mut(), restriction),
                }
            }
            all
        }
        Expression::Or(parts) => {
            let mut parts = parts.iter();
            let mut common = parts.next().map(of).unwrap_or_default();
            for part in parts {
                if common.is_empty() {
                    break;
                }
                let mut part = of(part);
                common.retain(|label, restriction| {
                    let other = part.remove(label).unwrap_or_default();
                    either(restriction, other);
                    !restriction.says_nothing()
                });
            }
            common
        }
        Expression::All | Expression::Global => BTreeMap::new(),
    }
}

fn both<'a>(restriction: &mut LabelRestriction<'a>, other: LabelRestriction<'a>) {
    restriction.must_be_present |= other.must_be_present;
    restriction.must_be_absent |= other.must_be_absent;
    restriction.must_have_one_of = match (restriction.must_have_one_of.take(), other.must_have_one_of) {
        (Some(mut values), Some(others)) => {
            values.retain(|value| others.binary_search(value).is_ok());
            Some(values)
        }
        (values, others) => values.or(others),
    };
}

fn either<'a>(restriction: &mut LabelRestriction<'a>, other: LabelRestriction<'a>) {
    restriction.must_be_present &= other.must_be_present;
    restriction.must_be_absent &= other.must_be_absent;
    restriction.must_have_one_of = match (restriction.must_have_one_of.take(), other.must_have_one_of) {
        (Some(mut values), Some(others)) => {
            values.extend(others);
            values.sort_unstable();
            values.dedup();
            Some(values)
        }
        _ => None,
    };
}
