//! Kubernetes' label selectors as selectors.

use super::Obstacle;
use crate::resource::{LabelSelector, SelectorOperator, is_label_key, is_label_value};
use crate::selector::Selector;

/// Every pod has it, and nothing else does.
pub(super) const PODS: &str = "projectcalico.org/orchestrator == 'k8s'";

/// Pods with these labels.
pub(super) fn pods(selector: &LabelSelector) -> Result<Selector, Obstacle> {
    let mut terms = vec![PODS.to_string()];
    terms.extend(terms_of(selector)?);
    parse(&terms)
}

/// Namespaces with these labels; all when it asks for none.
pub(super) fn namespaces(selector: &LabelSelector) -> Result<Selector, Obstacle> {
    let terms = terms_of(selector)?;
    if terms.is_empty() { Ok(Selector::all()) } else { parse(&terms) }
}

fn parse(terms: &[String]) -> Result<Selector, Obstacle> {
    let text = terms.join(" && ");
    Selector::parse(&text).map_err(|error| Obstacle::new("", error.to_string(), "labels that a selector can hold"))
}

fn terms_of(selector: &LabelSelector) -> Result<Vec<String>, Obstacle> {
    // What is not checked here could end a quoted text and go on with a selector of its own.
    let key = |path: &str, key: &str| match is_label_key(key) {
        true => Ok(()),
        false => Err(Obstacle::new(path, format!("{key:?}"), "the key of a label")),
    };
    let value = |path: &str, value: &str| match is_label_value(value) {
        true => Ok(format!("'{value}'")),
        false => Err(Obstacle::new(path, format!("{value:?}"), "the value of a label")),
    };
    let mut terms = Vec::new();
    for (label, wanted) in &selector.match_labels {
        key("matchLabels", label)?;
        terms.push(format!("{label} == {}", value("matchLabels", wanted)?));
    }
    for (position, requirement) in selector.match_expressions.iter().enumerate() {
        let path = format!("matchExpressions[{position}]");
        key(&path, &requirement.key)?;
        let label = &requirement.key;
        let values = requirement.values.iter().map(|wanted| value(&path, wanted)).collect::<Result<Vec<_>, _>>()?;
        let takes_values = matches!(requirement.operator, SelectorOperator::In | SelectorOperator::NotIn);
        if takes_values == values.is_empty() {
            let found = format!("{} values with operator {}", values.len(), requirement.operator);
            return Err(Obstacle::new(path, found, "values with In and NotIn, and none with the others"));
        }
        let values = values.join(", ");
        terms.push(match requirement.operator {
            SelectorOperator::In => format!("{label} in {{ {values} }}"),
            SelectorOperator::NotIn => format!("{label} not in {{ {values} }}"),
            SelectorOperator::Exists => format!("has({label})"),
            SelectorOperator::DoesNotExist => format!("! has({label})"),
        });
    }
    Ok(terms)
}
