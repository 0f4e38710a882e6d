//! Selectors: what they match, their canonical text, and what is refused where.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use std::collections::BTreeMap;

use proptest::prelude::*;

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

proptest! {
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
