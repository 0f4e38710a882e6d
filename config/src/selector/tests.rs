//! Selectors: what they match, their canonical text, and what is refused where.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;
use std::path::Path;

use proptest::prelude::*;

use super::lexer::{Lexer, Token};
use super::*;

fn check(text: &str, expected: &str) {
    let found = match Selector::parse(text) {
        Ok(selector) => selector.to_string(),
        Err(error) => error.to_string(),
    };
    assert_eq!(found, expected, "{text:?}");
}

#[test]
fn canonical_text() {
    check("", "all()");
    check(" \t", "all()");
    check("((a=='b'))", "a == \"b\"");
    check("!!!has(a)", "!has(a)");
    check("! ! has(a)", "has(a)");
    check("!(!has(a))", "!!has(a)");
    check("a=='1'&&b=='2'||c=='3'", "((a == \"1\" && b == \"2\") || c == \"3\")");
    check("a=='1'&&(b=='2'||c=='3')", "(a == \"1\" && (b == \"2\" || c == \"3\"))");
    check("(has(a)&&has(b))&&has(c)", "((has(a) && has(b)) && has(c))");
    check("a in {'z','x','z',}", "a in {\"x\", \"z\"}");
    check("a notin {}", "a not in {}");
    check("in in {'in'}", "in in {\"in\"}");
    check("not not in {\"a'b\"}", "not not in {\"a'b\"}");
    check("has(in) && all == '\"'", "(has(in) && all == '\"')");
    check("a starts\twith 'x'", "a starts with \"x\"");
}

#[test]
fn refusals_say_where_and_what() {
    check(
        "a = 'b'",
        "at position 3: found \"=\", expected an operator after the label: ==, !=, in, not in, contains, starts with, ends with",
    );
    check("a == b", "at position 6: found \"b\", expected a quoted string such as 'web'");
    check("a == 'b", "at position 6: found \"'b\", expected a closing quote");
    check("(has(a)", "at position 8: found the end, expected ')' to close the open '('");
    check("has(a))", "at position 7: found \")\", expected no ')' here: no '(' is open");
    check("has(a) has(b)", "at position 8: found \"has(b)\", expected && or || between terms, or the end");
    check("has(a) &&", "at position 10: found the end, expected a comparison, has(label), all(), global(), '!' or '('");
    check("a in {,}", "at position 7: found \",}\", expected a quoted string or '}'");
    for refused in [
        "has (x)",
        "all ()",
        "a in {'b',,'c'}",
        "()",
        "a\n=='b'",
        "\u{a0}all()",
        "a === 'b'",
        "a inf {'b'}",
        "a == 'b' and c == 'd'",
        "a & b",
        "# comment",
        "a == 5",
        "ä == 'b'",
    ] {
        assert!(Selector::parse(refused).is_err(), "{refused:?}");
    }
}

#[test]
fn absent_labels() {
    let none: BTreeMap<String, String> = BTreeMap::new();
    let check = |text: &str, expected: bool| {
        assert_eq!(Selector::parse(text).unwrap().matches(&none), expected, "{text}");
    };
    check("a != 'b'", true);
    check("a not in {'b'}", true);
    check("a not in {}", true);
    check("a in {}", false);
    check("a == ''", false);
    check("a contains ''", false);
    check("!has(a)", true);
    check("global()", true);
}

#[test]
fn depth_is_bounded_without_a_call_stack() {
    let nested = |depth: usize| format!("{}all(){}", "!(".repeat(depth), ")".repeat(depth));
    assert!(Selector::parse(&nested(parser::NESTING_MAX)).unwrap().matches(&BTreeMap::new()));
    assert!(Selector::parse(&nested(parser::NESTING_MAX + 1)).is_err());
    assert!(Selector::parse(&nested(10_000)).is_err());
    assert!(Selector::parse(&"(".repeat(100_000)).is_err());
    assert!(Selector::parse(&format!("{}all()", "!".repeat(100_000))).is_ok());
    assert!(Selector::parse(&vec!["has(a)"; 10_000].join("||")).is_ok());
}

#[test]
fn derived_selectors() {
    let a = Selector::parse("a=='1'").unwrap();
    let b = Selector::parse("b == '2' || all()").unwrap();
    assert_eq!(a.and(&b).text(), "(a == \"1\" && (b == \"2\" || all()))");
    assert_eq!(b.prefix_labels("pcns.").text(), "(pcns.b == \"2\" || all())");
    assert!(Selector::parse(" global( ) ").unwrap().is_global());
    assert!(Selector::parse("!(has(a) || global())").unwrap().mentions_global());
}

#[test]
fn identities() {
    let check = |text: &str, expected: &str| assert_eq!(Selector::parse(text).unwrap().id(), expected, "{text:?}");
    check("", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    check(" (all() )", "s:5y5I3VdRZfDU01O--xXAPx2yxCQQqMf0M6IWug");
    check("! (has( b)||! has(a ))", "s:Iss0uCleLYv1GSv_pNm7hAO58kE9jAx1NKyG3Q");
}

/// `role: web|db` must have one of these, `role: +` must be there, `role: -` must not.
fn restrictions(text: &str, expected: &str) {
    let selector = Selector::parse(text).unwrap();
    let found: Vec<String> = selector
        .restrictions()
        .into_iter()
        .map(|(label, restriction)| {
            let signs = [(restriction.must_be_present, "+"), (restriction.must_be_absent, "-")];
            let signs: String = signs.iter().filter(|(is_set, _)| *is_set).map(|(_, sign)| *sign).collect();
            match restriction.must_have_one_of {
                Some(values) => format!("{label}: {{{}}}", values.join("|")),
                None => format!("{label}: {signs}"),
            }
        })
        .collect();
    assert_eq!(found.join(", "), expected, "{text:?}");
}

#[test]
fn restrictions_say_what_must_hold() {
    restrictions("", "");
    restrictions("a == '1'", "a: {1}");
    restrictions("a in {'1', '2'} && has(b) && !has(c)", "a: {1|2}, b: +, c: -");
    restrictions("a != '1' && b not in {'2'}", "");
    restrictions("a contains '1' || a starts with '2'", "a: +");
    restrictions("a == '1' || a in {'3', '2'}", "a: {1|2|3}");
    restrictions("a == '1' || b == '2'", "");
    restrictions("a == '1' && b == '2' || a == '1' && c == '3'", "a: {1}");
    restrictions("!has(a) || !has(a)", "a: -");
    restrictions("has(a) || !has(a)", "");
    restrictions("has(a) && !has(a)", "a: +-");
    restrictions("a == '1' && a == '2'", "a: {}");
    restrictions("!(a == '1')", "");
    restrictions("!(!(a == '1'))", "a: {1}");
    restrictions("a in {} || a == '1'", "a: {1}");
}

/// A token as Calico's tests write it.
fn token_form(token: Token<'_>) -> Vec<String> {
    let (name, value) = match token {
        Token::Label(label) => ("Label", Some(label)),
        Token::Text(text) => ("StringLiteral", Some(text)),
        Token::Has(label) => ("Has", Some(label)),
        Token::All => ("All", None),
        Token::Global => ("Global", None),
        Token::Compare(Operator::Equal) => ("Eq", None),
        Token::Compare(Operator::NotEqual) => ("Ne", None),
        Token::Compare(Operator::Contains) => ("Contains", None),
        Token::Compare(Operator::StartsWith) => ("StartsWith", None),
        Token::Compare(Operator::EndsWith) => ("EndsWith", None),
        Token::In => ("In", None),
        Token::NotIn => ("NotIn", None),
        Token::Not => ("Not", None),
        Token::And => ("And", None),
        Token::Or => ("Or", None),
        Token::OpenGroup => ("LParen", None),
        Token::CloseGroup => ("RParen", None),
        Token::OpenSet => ("LBrace", None),
        Token::CloseSet => ("RBrace", None),
        Token::Comma => ("Comma", None),
        Token::End => ("EOF", None),
    };
    [name].into_iter().chain(value).map(str::to_string).collect()
}

fn tokens(text: &str) -> Result<Vec<Vec<String>>, SelectorError> {
    let mut lexer = Lexer::new(text);
    let mut found = Vec::new();
    loop {
        let (_, token) = lexer.next()?;
        found.push(token_form(token));
        if token == Token::End {
            return Ok(found);
        }
    }
}

#[test]
fn tokens_in_their_places() {
    let check = |text: &str, expected: &str| {
        let found = tokens(text).unwrap().iter().map(|token| token.join(":")).collect::<Vec<_>>().join(" ");
        assert_eq!(found, expected, "{text:?}");
    };
    check("a==\"b\"", "Label:a Eq StringLiteral:b EOF");
    check("contains contains 'contains'", "Label:contains Contains StringLiteral:contains EOF");
    check("a notin\"b\"&&!has( c )||d in e", "Label:a NotIn StringLiteral:b And Not Has:c Or Label:d In Label:e EOF");
    check("a not in {'b','c'}", "Label:a NotIn LBrace StringLiteral:b Comma StringLiteral:c RBrace EOF");
    check("(global( ) || all())", "LParen Global Or All RParen EOF");
}

/// Calico's cases for what is private here, read in place; see tests/conformance.rs for the others.
#[test]
fn conformance_of_tokens_and_sets() {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/conformance/selector-cases.jsonl");
    let Ok(text) = std::fs::read_to_string(&path) else {
        println!("skipped: {} is not here", path.display());
        return;
    };
    let mut covered = 0;
    for line in text.lines() {
        let case: serde_json::Value = serde_json::from_str(line).unwrap();
        let found = match case["kind"].as_str().unwrap() {
            "tokenize" => serde_json::json!(tokens(case["selector"].as_str().unwrap()).unwrap()),
            "stringset_members" | "stringset_dedupe" => {
                let values: Vec<String> = serde_json::from_value(case["input"].clone()).unwrap();
                let written = values.iter().map(|value| Quoted(value).to_string()).collect::<Vec<_>>().join(",");
                let selector = Selector::parse(&format!("a in {{{written}}}")).unwrap();
                let Expression::In { values, .. } = &selector.0.expression else { panic!("{line}") };
                serde_json::json!(values)
            }
            _ => continue,
        };
        covered += 1;
        assert_eq!(found, case["expect"], "{line}");
    }
    println!("cases of tokens and sets passed: {covered}");
    assert!(covered > 0);
}

proptest! {
    #[test]
    fn whatever_matches_keeps_the_restrictions(
        text in "(!|!\\(|\\(|a|b|c|has\\(a\\)|has\\(b\\)| == 'x'| != 'y'| in \\{'x','y'\\}| contains 'x'| && | \\|\\| |\\)){1,20}",
        labels in proptest::collection::btree_map("[abc]", "[xyz]{1,2}", 0..4),
    ) {
        if let Ok(selector) = Selector::parse(&text)
            && selector.matches(&labels)
        {
            for (label, restriction) in selector.restrictions() {
                prop_assert!(restriction.allows(labels.get(label).map(String::as_str)), "{} of {}", label, text);
            }
        }
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC{0,200}") {
        let _ = Selector::parse(&text);
    }

    #[test]
    fn canonical_text_is_a_fixed_point(text in "(!|\\(|\\)|a|has\\(b\\)|all\\(\\)| == 'x'| in \\{'y'\\}|&&|\\|\\|){1,12}") {
        if let Ok(selector) = Selector::parse(&text) {
            let canonical = selector.to_string();
            prop_assert_eq!(Selector::parse(&canonical).unwrap().to_string(), canonical);
        }
    }
}
