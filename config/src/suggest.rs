//! "Did you mean ...?": the known word nearest to a mistyped one.
//!
//! Case-insensitive edit distance (insert, delete, replace, swap neighbours). A word is near when at most a third of it
//! is wrong, so that `alow` finds `Allow` and `x` finds nothing.

/// Longer words are not compared: no name we know is this long, and the cost is quadratic.
const LENGTH_MAX: usize = 64;

/// The candidate nearest to `word`, the first of equals; none when nothing is near.
pub fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if word.len() > LENGTH_MAX {
        return None;
    }
    let word: Vec<char> = word.to_lowercase().chars().collect();
    let limit = (word.len() / 3).max(1);
    let mut best: Option<(usize, &str)> = None;
    for candidate in candidates {
        let letters: Vec<char> = candidate.to_lowercase().chars().collect();
        let distance = edit_distance(&word, &letters);
        let is_near = distance <= limit && distance < word.len().max(letters.len());
        if is_near && best.is_none_or(|(least, _)| distance < least) {
            best = Some((distance, candidate));
        }
    }
    best.map(|(_, candidate)| candidate)
}

fn edit_distance(a: &[char], b: &[char]) -> usize {
    // Three rows of the usual table: swapping neighbours looks two rows back.
    let mut before: Vec<usize> = Vec::new();
    let mut above: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut row = vec![i + 1];
        for (j, y) in b.iter().enumerate() {
            let mut cost = (above[j] + usize::from(x != y)).min(above[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && a[i - 1] == *y && *x == b[j - 1] {
                cost = cost.min(before[j - 1] + 1);
            }
            row.push(cost);
        }
        before = std::mem::replace(&mut above, row);
    }
    above[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_word() {
        let check = |word, expected| {
            assert_eq!(nearest(word, ["Allow", "Deny", "Log", "Pass", "destination"]), expected, "{word}");
        };
        check("allow", Some("Allow"));
        check("Alow", Some("Allow"));
        check("dney", Some("Deny"));
        check("desination", Some("destination"));
        check("DENY", Some("Deny"));
        check("reject", None);
        check("x", None);
        check("", None);
    }
}
