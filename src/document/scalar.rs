//! What a plain scalar means in YAML 1.2 (core schema, YAML 1.2.2 section 10.3.2), and what it meant in YAML 1.1.

use super::yaml::{Kind, Node};

/// What a node is, for a reader that expects something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Meaning<'a> {
    /// Nothing, `~`, `null`.
    Null,
    /// `true`, `false`.
    Bool(bool),
    /// Decimal, octal or hexadecimal digits.
    Integer(&'a str),
    /// A number with a point or an exponent.
    Float(&'a str),
    /// A text without quotes.
    Bare(&'a str),
    /// A text in quotes, or a block.
    Quoted(&'a str),
    /// A list.
    List,
    /// A map.
    Map,
}

/// What a node is by the core schema.
pub fn meaning(node: &Node) -> Meaning<'_> {
    match &node.kind {
        Kind::Sequence(_) => Meaning::List,
        Kind::Mapping(_) => Meaning::Map,
        Kind::Scalar { text, plain: false } => Meaning::Quoted(text),
        Kind::Scalar { text, plain: true } => match &**text {
            "" | "~" | "null" | "Null" | "NULL" => Meaning::Null,
            "true" | "True" | "TRUE" => Meaning::Bool(true),
            "false" | "False" | "FALSE" => Meaning::Bool(false),
            text if is_integer(text) => Meaning::Integer(text),
            text if is_float(text) => Meaning::Float(text),
            text => Meaning::Bare(text),
        },
    }
}

/// What was found, for a message: `the text 'abc'`, `a list`.
pub fn describe(node: &Node) -> String {
    match meaning(node) {
        Meaning::Null => "nothing".into(),
        Meaning::Bool(value) => format!("the boolean {value}"),
        Meaning::Integer(text) | Meaning::Float(text) => format!("the number {}", shortened(text)),
        Meaning::Bare(text) | Meaning::Quoted(text) => format!("the text '{}'", shortened(text)),
        Meaning::List => "a list".into(),
        Meaning::Map => "a map".into(),
    }
}

/// An outside text, short enough for a message and without control characters.
pub fn shortened(text: &str) -> String {
    const LONGEST: usize = 40;
    let mut short: String =
        text.chars().take(LONGEST).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(LONGEST).is_some() {
        short.push('…');
    }
    short
}

/// Was this a boolean in YAML 1.1, and is it a text in YAML 1.2? Parsers disagree, so it needs quotes.
pub fn is_old_boolean(text: &str) -> bool {
    ["y", "n", "yes", "no", "on", "off"].iter().any(|word| text.eq_ignore_ascii_case(word))
}

/// `99:3`: a number of base 60 in YAML 1.1, a text in YAML 1.2, and never what was meant.
pub fn sexagesimal(text: &str) -> Option<(&str, &str)> {
    let (left, right) = text.split_once(':')?;
    let digits = |s: &str| !s.is_empty() && s.bytes().all(|b| b.is_ascii_digit());
    (digits(left) && digits(right)).then_some((left, right))
}

fn is_integer(text: &str) -> bool {
    if let Some(octal) = text.strip_prefix("0o") {
        return !octal.is_empty() && octal.bytes().all(|b| matches!(b, b'0'..=b'7'));
    }
    if let Some(hex) = text.strip_prefix("0x") {
        return !hex.is_empty() && hex.bytes().all(|b| b.is_ascii_hexdigit());
    }
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    !digits.is_empty() && digits.bytes().all(|b| b.is_ascii_digit())
}

fn is_float(text: &str) -> bool {
    let rest = text.strip_prefix(['-', '+']).unwrap_or(text);
    if matches!(rest, ".inf" | ".Inf" | ".INF") || matches!(text, ".nan" | ".NaN" | ".NAN") {
        return true;
    }
    let (number, exponent) = match rest.split_once(['e', 'E']) {
        Some((number, exponent)) => (number, exponent.strip_prefix(['-', '+']).unwrap_or(exponent)),
        None => (rest, "0"),
    };
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    let digits = |s: &str| s.bytes().all(|b| b.is_ascii_digit());
    digits(whole)
        && digits(fraction)
        && digits(exponent)
        && !exponent.is_empty()
        && !(whole.is_empty() && fraction.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_those_of_the_core_schema() {
        for text in ["0", "-12", "+3", "007", "0o17", "0xFfF"] {
            assert!(is_integer(text), "{text}");
        }
        for text in ["", "-", "0x", "1_000", "12:30", "0b1", "1e3", "abc"] {
            assert!(!is_integer(text), "{text}");
        }
        for text in ["1.5", ".5", "1e-3", "-2.E6", ".nan", "-.inf"] {
            assert!(is_float(text), "{text}");
        }
        for text in [".", "e3", "1,5", "1.2.3", "1e", "inf"] {
            assert!(!is_float(text), "{text}");
        }
    }

    #[test]
    fn old_booleans_and_sexagesimals_are_recognised() {
        assert!(is_old_boolean("Off") && is_old_boolean("y") && !is_old_boolean("offline"));
        assert_eq!(sexagesimal("99:3"), Some(("99", "3")));
        assert_eq!(sexagesimal("a:3"), None);
    }
}
