//! Selector text to tokens.
//!
//! What a word means depends on where it stands: after a label it must be an operator, elsewhere it
//! is a label (so a label may be called `in` or `contains`). `has(x)`, `all()` and `global()` are one
//! token each, with no blank before the parenthesis. Blanks are space and tab only.

use super::{Operator, SelectorError};

/// The longest label name.
const LABEL_MAX: usize = 512;

const EXPECTED_TERM: &str = "a label, has(label), all(), global(), '!' or '('";
pub(super) const EXPECTED_OPERATOR: &str =
    "an operator after the label: ==, !=, in, not in, contains, starts with, ends with";
const EXPECTED_LABEL: &str = "a label of 1-512 letters, digits, '_', '.', '/' or '-'";

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Token<'a> {
    Label(&'a str),
    Text(&'a str),
    Has(&'a str),
    All,
    Global,
    Compare(Operator),
    In,
    NotIn,
    Not,
    And,
    Or,
    OpenGroup,
    CloseGroup,
    OpenSet,
    CloseSet,
    Comma,
    End,
}

pub(super) struct Lexer<'a> {
    text: &'a str,
    offset: usize,
    is_after_label: bool,
}

impl<'a> Lexer<'a> {
    pub(super) fn new(text: &'a str) -> Lexer<'a> {
        Lexer { text, offset: 0, is_after_label: false }
    }

    /// The next token and where it starts; `End` again and again after the last.
    pub(super) fn next(&mut self) -> Result<(usize, Token<'a>), SelectorError> {
        self.skip_blanks();
        let start = self.offset;
        let token = if self.is_after_label { self.operator()? } else { self.term()? };
        self.is_after_label = matches!(token, Token::Label(_));
        Ok((start, token))
    }

    /// The error of having found what stands at `position`.
    pub(super) fn error(&self, position: usize, expected: &'static str) -> SelectorError {
        let rest = self.text.get(position..).unwrap_or_default();
        let word_end = rest.find([' ', '\t']).filter(|end| *end > 0).unwrap_or(rest.len());
        let found = match rest[..word_end].char_indices().nth(32) {
            _ if rest.is_empty() => "the end".to_string(),
            Some((cut, _)) => format!("{:?}...", &rest[..cut]),
            None => format!("{:?}", &rest[..word_end]),
        };
        SelectorError { position, found, expected }
    }

    fn rest(&self) -> &'a str {
        &self.text[self.offset..]
    }

    fn skip_blanks(&mut self) {
        let rest = self.rest();
        self.offset += rest.len() - rest.trim_start_matches([' ', '\t']).len();
    }

    fn take(&mut self, prefix: &str) -> bool {
        let is_next = self.rest().starts_with(prefix);
        if is_next {
            self.offset += prefix.len();
        }
        is_next
    }

    fn operator(&mut self) -> Result<Token<'a>, SelectorError> {
        let start = self.offset;
        if self.rest().is_empty() {
            return Ok(Token::End);
        }
        if self.take("==") {
            return Ok(Token::Compare(Operator::Equal));
        }
        if self.take("!=") {
            return Ok(Token::Compare(Operator::NotEqual));
        }
        const WORDS: [(&[&str], Token<'static>); 5] = [
            (&["contains"], Token::Compare(Operator::Contains)),
            (&["starts", "with"], Token::Compare(Operator::StartsWith)),
            (&["ends", "with"], Token::Compare(Operator::EndsWith)),
            (&["not", "in"], Token::NotIn),
            (&["in"], Token::In),
        ];
        for (words, token) in WORDS {
            self.offset = start;
            let is_spelled = words.iter().all(|word| {
                self.skip_blanks();
                self.take(word)
            });
            let is_whole_word = !self.rest().starts_with(|c: char| c.is_ascii_alphanumeric() || c == '_');
            if is_spelled && is_whole_word {
                return Ok(token);
            }
        }
        Err(self.error(start, EXPECTED_OPERATOR))
    }

    fn term(&mut self) -> Result<Token<'a>, SelectorError> {
        const SIGNS: [(&str, Token<'static>); 8] = [
            ("(", Token::OpenGroup),
            (")", Token::CloseGroup),
            ("{", Token::OpenSet),
            ("}", Token::CloseSet),
            (",", Token::Comma),
            ("&&", Token::And),
            ("||", Token::Or),
            ("!", Token::Not),
        ];
        if self.rest().is_empty() {
            return Ok(Token::End);
        }
        if let Some((_, token)) = SIGNS.iter().find(|(sign, _)| self.take(sign)) {
            return Ok(*token);
        }
        for quote in ['\'', '"'] {
            if self.rest().starts_with(quote) {
                return self.literal(quote);
            }
        }
        if self.take("has(") {
            self.skip_blanks();
            let label = self.label(EXPECTED_LABEL)?;
            self.close()?;
            return Ok(Token::Has(label));
        }
        if self.take("all(") {
            return self.close().map(|()| Token::All);
        }
        if self.take("global(") {
            return self.close().map(|()| Token::Global);
        }
        self.label(EXPECTED_TERM).map(Token::Label)
    }

    /// A literal runs to the next quote of its kind; nothing in it is an escape.
    fn literal(&mut self, quote: char) -> Result<Token<'a>, SelectorError> {
        let inside = &self.rest()[1..];
        let Some(length) = inside.find(quote) else {
            return Err(self.error(self.offset, "a closing quote"));
        };
        self.offset += length + 2;
        Ok(Token::Text(&inside[..length]))
    }

    fn label(&mut self, expected: &'static str) -> Result<&'a str, SelectorError> {
        let rest = self.rest();
        let is_label = |c: char| c.is_ascii_alphanumeric() || matches!(c, '_' | '.' | '/' | '-');
        let length = rest.find(|c| !is_label(c)).unwrap_or(rest.len());
        match length {
            0 => Err(self.error(self.offset, expected)),
            1..=LABEL_MAX => {
                self.offset += length;
                Ok(&rest[..length])
            }
            _ => Err(self.error(self.offset, EXPECTED_LABEL)),
        }
    }

    fn close(&mut self) -> Result<(), SelectorError> {
        self.skip_blanks();
        if self.take(")") { Ok(()) } else { Err(self.error(self.offset, "')'")) }
    }
}
