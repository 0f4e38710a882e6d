//! Value types: what is read, what is refused, and how it is written again.

#![allow(clippy::unwrap_used, clippy::expect_used)]

use proptest::prelude::*;

use super::*;

fn check_cidr(text: &str, expected: Option<&str>) {
    let found = Cidr::parse(text).ok().map(|cidr| cidr.to_string());
    assert_eq!(found.as_deref(), expected, "{text:?}");
}

#[test]
fn cidr_text() {
    check_cidr("10.0.0.1", Some("10.0.0.1/32"));
    check_cidr("10.0.0.1/24", Some("10.0.0.1/24"));
    check_cidr("::/0", Some("::/0"));
    check_cidr("0:0:0::/0", Some("::/0"));
    check_cidr("2001:db8::1", Some("2001:db8::1/128"));
    check_cidr("10.0.0.1/33", None);
    check_cidr("aa:bb::/129", None);
    check_cidr("10.0.0/8", None);
    check_cidr("10.0.0.0/+8", None);
    check_cidr("10.0.0.0/", None);
    check_cidr("10.abcd", None);
    check_cidr("", None);
}

#[test]
fn cidr_contains_and_masks() {
    let cidr = Cidr::parse("10.1.2.3/16").unwrap();
    assert_eq!(cidr.masked().to_string(), "10.1.0.0/16");
    assert!(!cidr.is_masked());
    assert!(cidr.contains("10.1.255.255".parse().unwrap()));
    assert!(!cidr.contains("10.2.0.0".parse().unwrap()));
    assert!(!cidr.contains("::1".parse().unwrap()));
    let everything = Cidr::parse("0.0.0.0/0").unwrap();
    assert!(everything.contains("255.255.255.255".parse().unwrap()));
    assert!(everything.overlaps(&cidr) && cidr.overlaps(&everything));
    assert!(!Cidr::parse("::/0").unwrap().overlaps(&cidr));
}

#[test]
fn mac_text() {
    let check = |text: &str, expected: Option<&str>| {
        assert_eq!(MacAddress::parse(text).ok().map(|mac| mac.to_string()).as_deref(), expected, "{text:?}");
    };
    check("02:42:AC:11:00:02", Some("02:42:ac:11:00:02"));
    check("02-42-ac-11-00-02", Some("02:42:ac:11:00:02"));
    check("02:42:ac:11:00", None);
    check("02:42:ac:11:00:02:03", None);
    check("2:42:ac:11:00:02", None);
    check("+2:42:ac:11:00:02", None);
}

#[test]
fn protocol_json() {
    let check = |json: &str, expected: Option<&str>| {
        let found = serde_json::from_str::<Protocol>(json).ok();
        let found = found.map(|protocol| serde_json::to_string(&protocol).unwrap());
        assert_eq!(found.as_deref(), expected, "{json}");
    };
    check("\"TCP\"", Some("\"TCP\""));
    check("\"UDPLite\"", Some("\"UDPLite\""));
    check("6", Some("6"));
    check("\"255\"", Some("255"));
    for refused in ["\"tcp\"", "0", "256", "\"0\"", "\"256\"", "\"+6\"", "-1", "\"tcpfoo\"", "true", "6.5"] {
        check(refused, None);
    }
    assert_eq!(Protocol::from_number(6), Some(Protocol::TCP));
}

#[test]
fn port_json() {
    let check = |json: &str, expected: Option<&str>| {
        let found = serde_json::from_str::<Port>(json).ok().map(|port| serde_json::to_string(&port).unwrap());
        assert_eq!(found.as_deref(), expected, "{json}");
    };
    check("80", Some("80"));
    check("\"80\"", Some("80"));
    check("\"8000:8080\"", Some("\"8000:8080\""));
    check("\"80:80\"", Some("80"));
    check("\"http-alt\"", Some("\"http-alt\""));
    for refused in ["0", "65536", "\"65536\"", "\"200:100\"", "\"0:100\"", "\"1:x\"", "\"\"", "\"a b\"", "-1"] {
        check(refused, None);
    }
}

proptest! {
    #[test]
    fn cidr_round_trips(bits: u128, length in 0u8..=128) {
        let cidr = Cidr::new(Ipv6Addr::from_bits(bits).into(), length).unwrap();
        prop_assert_eq!(Cidr::parse(&cidr.to_string()).unwrap(), cidr);
        prop_assert!(cidr.contains(cidr.address()) && cidr.masked().contains(cidr.address()));
        prop_assert!(cidr.masked().is_masked());
    }

    #[test]
    fn any_text_is_read_or_refused(text in "\\PC*") {
        let _ = (Cidr::parse(&text), MacAddress::parse(&text), Protocol::parse(&text), Port::parse(&text));
    }
}
