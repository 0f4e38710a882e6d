//! Times as the records have them: RFC 3339.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use crate::datastore::transaction::time_text;

/// To the second, in UTC. Before 1970 counts as 1970.
pub fn text(time: SystemTime) -> String {
    time_text(time.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs())
}

/// To the second. Go writes fractions and other zones than UTC, too. None where it is no such time.
pub fn read(text: &str) -> Option<SystemTime> {
    let (date, time) = text.split_once(['T', 't', ' '])?;
    let [year, month, day] = numbers(date, '-')?;
    let clock_end = time.find(|sign: char| !sign.is_ascii_digit() && sign != ':').unwrap_or(time.len());
    let (clock, rest) = time.split_at(clock_end);
    let [hour, minute, second] = numbers(clock, ':')?;
    let rest = match rest.strip_prefix('.') {
        Some(fraction) => fraction.trim_start_matches(|sign: char| sign.is_ascii_digit()),
        None => rest,
    };
    let offset = match rest {
        "Z" | "z" => 0,
        zone => {
            let sign = if zone.starts_with('-') { -1 } else { 1 };
            let (hours, minutes) = zone.strip_prefix(['+', '-'])?.split_once(':')?;
            sign * (i64::from(hours.parse::<u8>().ok()?) * 3600 + i64::from(minutes.parse::<u8>().ok()?) * 60)
        }
    };
    let is_right = (1..=12).contains(&month) && (1..=31).contains(&day) && hour < 24 && minute < 60 && second <= 60;
    if !is_right || !(1970..=9999).contains(&year) || offset.abs() > 86_400 {
        return None;
    }
    // Years begin in March here, so that the leap day is the last of a year.
    let (year, month) = if month <= 2 { (year - 1, month + 9) } else { (year, month - 3) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + day - 1 - 719_468;
    let seconds = days * 86_400 + hour * 3600 + minute * 60 + second - offset;
    Some(UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

fn numbers(text: &str, separator: char) -> Option<[i64; 3]> {
    let mut parts = text.split(separator).map(|part| {
        let is_plain = (1..=4).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        is_plain.then(|| part.parse().ok()).flatten()
    });
    let found = [parts.next()??, parts.next()??, parts.next()??];
    parts.next().is_none().then_some(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        let check = |text: &str, expected: Option<u64>| {
            let found = read(text).and_then(|time| time.duration_since(UNIX_EPOCH).ok());
            assert_eq!(found.map(|since| since.as_secs()), expected, "{text}");
        };
        for second in [0, 68_169_599, 951_782_400, 951_868_800, 1_735_689_599, 4_107_542_400] {
            check(&time_text(second), Some(second));
        }
        check("2023-11-14T22:13:20.123456789Z", Some(1_700_000_000));
        check("2023-11-14T23:13:20+01:00", Some(1_700_000_000));
        check("2023-11-14T17:13:20-05:00", Some(1_700_000_000));
        for wrong in ["", "now", "2023-11-14", "2023-13-14T22:13:20Z", "2023-11-14T22:13:20", "1969-01-01T00:00:00Z"] {
            check(wrong, None);
        }
        check("2023-11-14T22:13:20+1", None);
        check("2023-11-14T22:13:20+9223372036854775807:00", None);
        check("99999-11-14T22:13:20Z", None);
    }
}
