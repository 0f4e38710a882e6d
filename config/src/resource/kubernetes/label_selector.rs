//! Kubernetes' form of a selector: labels that must be there, and requirements. All must hold; none selects everything.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::resource::check::Check;
use crate::resource::form::is_default;
use crate::resource::word::words;

#[derive(Debug, Clone, PartialEq, Default, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct LabelSelector {
    #[serde(skip_serializing_if = "is_default")]
    pub match_labels: BTreeMap<String, String>,
    #[serde(skip_serializing_if = "is_default")]
    pub match_expressions: Vec<SelectorRequirement>,
}

#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct SelectorRequirement {
    pub key: String,
    pub operator: SelectorOperator,
    #[serde(default, skip_serializing_if = "is_default")]
    pub values: Vec<String>,
}

words! {
    SelectorOperator: exact {
        In = "In",
        /// Also without the label.
        NotIn = "NotIn",
        Exists = "Exists",
        DoesNotExist = "DoesNotExist",
    }
}

impl LabelSelector {
    pub(in crate::resource) fn validate(&self, check: &mut Check) {
        check.labels("matchLabels", &self.match_labels);
        check.each("matchExpressions", &self.match_expressions, |check, requirement| {
            check.label_key("key", &requirement.key);
            let operator = requirement.operator;
            let takes_values = matches!(operator, SelectorOperator::In | SelectorOperator::NotIn);
            if takes_values && requirement.values.is_empty() {
                check.refuse_field("values", "nothing", format!("at least one value, with operator {operator}"));
            } else if !takes_values && !requirement.values.is_empty() {
                check.refuse_field("values", "values", format!("none, with operator {operator}"));
            }
            check.each("values", &requirement.values, |check, value| check.label_value(value));
        });
    }
}
