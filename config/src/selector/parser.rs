//! Tokens to an expression.
//!
//! One pass with a stack of open groups, so that input of any depth costs heap, not call stack. A
//! group collects the terms of the AND being read and the ANDs already joined by OR:
//!
//!     a && b || !(c      group 0: alternatives [a && b], terms [], negated
//!                        group 1: terms [c]

use super::lexer::{EXPECTED_OPERATOR, Lexer, Token};
use super::{Expression, SelectorError};

/// The deepest nesting of groups. A selector of the 1,024 characters a resource may hold cannot be deeper.
pub(super) const NESTING_MAX: usize = 512;

#[derive(Default)]
struct Group {
    alternatives: Vec<Expression>,
    terms: Vec<Expression>,
    is_negated: bool,
}

pub(super) fn parse(text: &str) -> Result<Expression, SelectorError> {
    let mut lexer = Lexer::new(text);
    let (mut position, mut token) = lexer.next()?;
    if token == Token::End {
        return Ok(Expression::All);
    }
    let mut open: Vec<Group> = Vec::new();
    let mut group = Group::default();
    loop {
        // A term: any number of '!', then '(' or a comparison.
        while token == Token::Not {
            group.is_negated = !group.is_negated;
            (position, token) = lexer.next()?;
        }
        if token == Token::OpenGroup {
            if open.len() == NESTING_MAX {
                return Err(lexer.error(position, "at most 512 groups inside each other"));
            }
            open.push(std::mem::take(&mut group));
            (position, token) = lexer.next()?;
            continue;
        }
        let term = term(&mut lexer, position, token)?;
        group.add(term);
        (position, token) = lexer.next()?;

        // What joins it to the next term; closing groups until something does.
        while token == Token::CloseGroup {
            let Some(outer) = open.pop() else {
                return Err(lexer.error(position, "no ')' here: no '(' is open"));
            };
            let inner = std::mem::replace(&mut group, outer).finish();
            group.add(inner);
            (position, token) = lexer.next()?;
        }
        match token {
            Token::And => {}
            Token::Or => group.close_and(),
            Token::End if open.is_empty() => return Ok(group.finish()),
            Token::End => return Err(lexer.error(position, "')' to close the open '('")),
            _ => return Err(lexer.error(position, "&& or || between terms, or the end")),
        }
        (position, token) = lexer.next()?;
    }
}

impl Group {
    fn add(&mut self, term: Expression) {
        let is_negated = std::mem::take(&mut self.is_negated);
        self.terms.push(if is_negated { Expression::Not(Box::new(term)) } else { term });
    }

    fn close_and(&mut self) {
        let terms = std::mem::take(&mut self.terms);
        self.alternatives.push(single_or(terms, Expression::And));
    }

    fn finish(mut self) -> Expression {
        self.close_and();
        single_or(self.alternatives, Expression::Or)
    }
}

/// A group of one is that one: parentheses around it mean nothing.
fn single_or(mut parts: Vec<Expression>, group: fn(Vec<Expression>) -> Expression) -> Expression {
    match parts.pop() {
        Some(only) if parts.is_empty() => only,
        Some(last) => {
            parts.push(last);
            group(parts)
        }
        None => group(parts),
    }
}

fn term(lexer: &mut Lexer<'_>, position: usize, token: Token<'_>) -> Result<Expression, SelectorError> {
    let label = match token {
        Token::All => return Ok(Expression::All),
        Token::Global => return Ok(Expression::Global),
        Token::Has(label) => return Ok(Expression::Has(label.to_string())),
        Token::Label(label) => label.to_string(),
        _ => {
            let expected = "a comparison, has(label), all(), global(), '!' or '('";
            return Err(lexer.error(position, expected));
        }
    };
    let (position, operator) = lexer.next()?;
    match operator {
        Token::Compare(operator) => {
            let value = literal(lexer, "a quoted string such as 'web'")?;
            Ok(Expression::Compare { label, operator, value })
        }
        Token::In | Token::NotIn => {
            let values = set(lexer)?;
            Ok(Expression::In { label, is_negated: operator == Token::NotIn, values })
        }
        _ => Err(lexer.error(position, EXPECTED_OPERATOR)),
    }
}

fn literal(lexer: &mut Lexer<'_>, expected: &'static str) -> Result<String, SelectorError> {
    match lexer.next()? {
        (_, Token::Text(text)) => Ok(text.to_string()),
        (position, _) => Err(lexer.error(position, expected)),
    }
}

/// `{ 'a', 'b' }`: a comma may follow the last value, not stand alone.
fn set(lexer: &mut Lexer<'_>) -> Result<Vec<String>, SelectorError> {
    let (position, token) = lexer.next()?;
    if token != Token::OpenSet {
        return Err(lexer.error(position, "a set such as {'a', 'b'}"));
    }
    let mut values = Vec::new();
    loop {
        match lexer.next()? {
            (_, Token::CloseSet) => break,
            (_, Token::Text(text)) => values.push(text.to_string()),
            (position, _) => return Err(lexer.error(position, "a quoted string or '}'")),
        }
        match lexer.next()? {
            (_, Token::CloseSet) => break,
            (_, Token::Comma) => {}
            (position, _) => return Err(lexer.error(position, "',' or '}'")),
        }
    }
    values.sort_unstable();
    values.dedup();
    Ok(values)
}
