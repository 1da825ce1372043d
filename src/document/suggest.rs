//! "Did you mean …?": the known word that is nearest to an unknown one.

use crate::model::diagnostic::Diagnostics;

/// With more errors than this, suggestions are left out: they cost time, and the file is something else.
const MAX_SUGGESTIONS: usize = 100;

/// Words longer than this are never compared: the distance takes the product of both lengths.
const LONGEST_WORD: usize = 64;

/// Known words beyond this many are not looked at.
const MAX_KNOWN: usize = 2_000;

/// The known word nearest to `word`, if one is near enough to be meant.
pub fn nearest<'a>(word: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let word: Vec<char> = word.to_lowercase().chars().collect();
    if word.is_empty() || word.len() > LONGEST_WORD {
        return None;
    }
    known
        .into_iter()
        .take(MAX_KNOWN)
        .filter(|candidate| candidate.len() <= LONGEST_WORD)
        .map(|candidate| {
            let letters: Vec<char> = candidate.to_lowercase().chars().collect();
            (distance(&word, &letters), letters.len(), candidate)
        })
        .filter(|(distance, length, _)| *distance <= 1 + word.len().max(*length) / 4 && *distance < *length)
        .min_by_key(|(distance, _, _)| *distance)
        .map(|(_, _, candidate)| candidate)
}

/// `: did you mean 'float32'?`, or nothing: no word is near, or `found` has too many errors already.
pub fn did_you_mean<'a>(found: &Diagnostics, word: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    if found.errors() > MAX_SUGGESTIONS {
        return String::new();
    }
    nearest(word, known).map_or_else(String::new, |near| format!(": did you mean '{near}'?"))
}

/// Optimal string alignment: insertions, deletions, substitutions and swaps of neighbours count one each.
fn distance(a: &[char], b: &[char]) -> usize {
    let width = b.len() + 1;
    let mut before = vec![0; width];
    let mut above: Vec<usize> = (0..width).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; width];
        for j in 1..width {
            let differs = usize::from(a[i - 1] != b[j - 1]);
            row[j] = (above[j] + 1).min(row[j - 1] + 1).min(above[j - 1] + differs);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut above, row);
    }
    above[width - 1]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_slip_of_the_finger_is_recognised() {
        let types = ["float16", "float32", "float64", "int32", "string"];
        assert_eq!(nearest("flaot32", types), Some("float32"));
        assert_eq!(nearest("FLOAT32", types), Some("float32"));
        assert_eq!(nearest("in32", types), Some("int32"));
        assert_eq!(nearest("banana", types), None);
        assert_eq!(nearest("", types), None);
        assert_eq!(nearest("x", ["y"]), None);
    }

    #[test]
    fn distances_count_single_edits() {
        let d = |a: &str, b: &str| distance(&a.chars().collect::<Vec<_>>(), &b.chars().collect::<Vec<_>>());
        assert_eq!(d("", "abc"), 3);
        assert_eq!(d("abc", "acb"), 1);
        assert_eq!(d("kitten", "sitting"), 3);
    }
}
