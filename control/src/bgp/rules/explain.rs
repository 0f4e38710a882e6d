//! Why a route is taken or told, in words: for `bgp import-test` and `bgp why`.

use std::fmt::Write;

use config::resource::BgpFilter;

use super::filter::{self, Asked, Direction, FilterRule};
use super::{Candidate, Decision, ExportRules, ImportRules};

/// What a filter alone makes of a route, a line per rule: which one matches, and why those before it do not.
pub fn explain(filter: &BgpFilter, direction: Direction, candidate: &Candidate<'_>, internal: bool) -> Vec<String> {
    let asked = Asked::of(candidate, internal);
    let mut lines = Vec::new();
    let mut is_decided = false;
    for rule in filter::rules_of(filter, direction, candidate.prefix.version()) {
        if is_decided {
            lines.push(format!("{} is not looked at", rule.name));
            continue;
        }
        match rule.mismatch(&asked) {
            Some(why) => lines.push(format!("{} does not match: {why}", rule.name)),
            None => {
                lines.push(format!("{} matches: {}", rule.name, outcome(&rule)));
                is_decided = true;
            }
        }
    }
    if lines.is_empty() {
        let (list, version) = (word(direction), candidate.prefix.version());
        lines.push(format!("BGPFilter {} has no {list}V{version} rules", filter.metadata.name));
    }
    if !is_decided {
        let then = match direction {
            Direction::Import => "the next filter decides, and after the last one the route is accepted",
            Direction::Export => "the next filter decides, and after the last one what is built in",
        };
        lines.push(format!("no rule matches: {then}"));
    }
    lines
}

impl ImportRules {
    /// Why `judge` says what it says, as one sentence.
    pub fn why(&self, candidate: &Candidate<'_>, internal: bool) -> String {
        let asked = Asked::of(candidate, internal);
        sentence(&self.filters.decide(&asked), "accepted: no BGPFilter says otherwise")
    }

    /// Why a route is not taken, with the rule's name. None: it is.
    pub fn refusal(&self, candidate: &Candidate<'_>, internal: bool) -> Option<String> {
        refusal(&self.filters.decide(&Asked::of(candidate, internal)))
    }
}

impl ExportRules {
    /// Why `judge` says what it says, as one sentence.
    pub fn why(&self, candidate: &Candidate<'_>, internal: bool) -> String {
        let asked = Asked::of(candidate, internal);
        sentence(&self.decide(&asked), "accepted: there are no rules")
    }

    /// Why a route is not told, with the rule's name. None: it is.
    pub fn refusal(&self, candidate: &Candidate<'_>, internal: bool) -> Option<String> {
        refusal(&self.decide(&Asked::of(candidate, internal)))
    }
}

fn sentence(decision: &Decision<'_>, otherwise: &str) -> String {
    match decision {
        Decision::Filter(rule) => format!("{}: {}", rule.name, outcome(rule)),
        Decision::Accept(why) => format!("accepted: {why}"),
        Decision::Reject(why) => format!("rejected: {why}"),
        Decision::Open => otherwise.to_owned(),
    }
}

fn refusal(decision: &Decision<'_>) -> Option<String> {
    match decision {
        Decision::Filter(rule) if !rule.accepts => Some(format!("{} rejects it", rule.name)),
        Decision::Reject(why) => Some((*why).to_owned()),
        Decision::Filter(_) | Decision::Accept(_) | Decision::Open => None,
    }
}

/// `accepted, community 65000:1 is added`.
fn outcome(rule: &FilterRule) -> String {
    let mut text = if rule.accepts { "accepted" } else { "rejected" }.to_owned();
    for operation in &rule.operations {
        // Writing to a String cannot fail.
        let _ = write!(text, ", {operation}");
    }
    text
}

fn word(direction: Direction) -> &'static str {
    match direction {
        Direction::Import => "import",
        Direction::Export => "export",
    }
}
