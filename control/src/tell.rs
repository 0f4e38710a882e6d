//! How things are told: values as JSON, errors as one line.

use serde_json::Value;

pub(crate) fn to_json(value: &impl serde::Serialize) -> Value {
    // Views have string keys and plain values only; null stands for a fault of ours.
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// An error with everything that caused it.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut source = error.source();
    while let Some(cause) = source {
        text = format!("{text}: {cause}");
        source = cause.source();
    }
    text
}
