//! The kinds of values that documents are made of: texts, names, numbers, lists and maps.

use serde_json::{Value, json};

use super::codes;
use super::read::{At, Read, Reader};
use super::scalar::{Meaning, is_old_boolean, meaning, sexagesimal, shortened};
use super::schema::Schemas;
use super::yaml::{Kind, Node};
use crate::model::decimal::Decimal;

/// Longest text, in bytes; a label or a title needs less.
const MAX_TEXT: usize = 4_096;

/// Longest name, in characters: names are part of topics and of every message.
pub const MAX_NAME: usize = 64;

/// A text. A bare word that some parser takes for something else is refused.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Text(pub String);

impl Read for Text {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let text = match meaning(node) {
            Meaning::Quoted(text) => text,
            Meaning::Bare(text) if is_old_boolean(text) => {
                to.error(codes::BARE_WORD, node, format!("bare {text} is a boolean to some YAML parsers"))
                    .help(format!("write '{text}' in quotes"));
                return None;
            }
            Meaning::Bare(text) => text,
            Meaning::Bool(_) | Meaning::Integer(_) | Meaning::Float(_) => {
                let Kind::Scalar { text, .. } = &node.kind else { return None };
                let word = shortened(text);
                to.error(codes::BARE_WORD, node, format!("text is expected, and bare {word} is none"))
                    .help(format!("write '{word}' in quotes"));
                return None;
            }
            Meaning::Null => {
                to.error(codes::BARE_WORD, node, "text is expected, but nothing is given")
                    .help("write '' for an empty text");
                return None;
            }
            Meaning::List | Meaning::Map => {
                to.expected(node, "text");
                return None;
            }
        };
        if text.len() > MAX_TEXT {
            to.error(codes::BAD_TEXT, node, format!("a text has at most {MAX_TEXT} bytes"));
            return None;
        }
        if let Some(c) = text.chars().find(|c| c.is_control() && *c != '\n') {
            let message = format!("the text has the control character U+{:04X}", u32::from(c));
            to.error(codes::BAD_TEXT, node, message)
                .help("remove it: it travels in JSON, topics and log lines");
            return None;
        }
        Some(Self(text.to_string()))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        // Control characters, without the line feed.
        let pattern = r"^[^\u0000-\u0009\u000b-\u001f\u007f-\u009f]*$";
        schemas.named("Text", |_| json!({ "type": "string", "maxLength": MAX_TEXT, "pattern": pattern }))
    }
}

/// The name of a site, connection, device, point or rate: letters, digits, `_`, `-`, `.`.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Name(pub String);

impl Read for Name {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let Text(text) = Text::read(node, to)?;
        check_name(&text, node, to)
    }

    fn schema(schemas: &mut Schemas) -> Value {
        schemas.named("Name", |_| json!({ "type": "string", "pattern": NAME_PATTERN }))
    }
}

/// No blanks and no ASCII punctuation but `_`, `-`, `.`: character classes that every validator knows, so without `\p`.
const NAME_PATTERN: &str = r"^[^\s!-,/:-@\[-^`{-~]{1,64}$";

/// A character of a name, as a regular expression.
pub const NAME_CHARACTER: &str = r"[^\s!-,/:-@\[-^`{-~]";

/// The name, if it is one. Reports what is none.
pub fn check_name(text: &str, node: &Node, to: &mut Reader<'_>) -> Option<Name> {
    let fits = |c: char| c.is_alphanumeric() || matches!(c, '_' | '-' | '.');
    if text.is_empty() || text.chars().count() > MAX_NAME || !text.chars().all(fits) {
        to.error(codes::BAD_NAME, node, format!("'{}' is no name", shortened(text)))
            .help("names have 1 to 64 letters, digits, '_', '-' and '.': they become part of topics");
        return None;
    }
    Some(Name(text.to_string()))
}

/// `true` or `false`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Flag(pub bool);

impl Read for Flag {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        match meaning(node) {
            Meaning::Bool(value) => Some(Self(value)),
            Meaning::Bare(text) if is_old_boolean(text) => {
                let meant = matches!(text.to_ascii_lowercase().as_str(), "y" | "yes" | "on");
                to.expected(node, "true or false").help(format!("write {meant}"));
                None
            }
            _ => {
                to.expected(node, "true or false");
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "boolean" })
    }
}

/// A whole number, decimal or hexadecimal, from `MIN` to `MAX`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Int<const MIN: i64, const MAX: i64>(pub i64);

impl<const MIN: i64, const MAX: i64> Read for Int<MIN, MAX> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let number = whole_number(node, to)?;
        match i64::try_from(number) {
            Ok(number) if (MIN..=MAX).contains(&number) => Some(Self(number)),
            _ => {
                to.error(
                    codes::OUT_OF_RANGE,
                    node,
                    format!("{number} is out of range: {MIN} to {MAX} is allowed"),
                );
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "integer", "minimum": MIN, "maximum": MAX })
    }
}

/// A whole number of any size; reports everything that only looks like one.
pub fn whole_number(node: &Node, to: &mut Reader<'_>) -> Option<i128> {
    match meaning(node) {
        Meaning::Integer(text) => parse_whole(text, node, to),
        Meaning::Quoted(text) if parse_digits(text).is_some() => {
            to.expected(node, "a whole number").help(format!("write {} without quotes", shortened(text)));
            None
        }
        Meaning::Bare(text) => {
            if let Some((left, right)) = sexagesimal(text) {
                to.error(codes::SEXAGESIMAL, node, format!("'{text}' is no number")).help(format!(
                    "for one bit of a register write its number and the bit: `holding: {left}, bit: {right}`"
                ));
            } else if text.contains(['_', '\'']) && text.starts_with(|c: char| c.is_ascii_digit()) {
                to.error(codes::BAD_NUMBER, node, format!("'{}' is no number", shortened(text)))
                    .help("write digits only");
            } else {
                to.expected(node, "a whole number");
            }
            None
        }
        _ => {
            to.expected(node, "a whole number");
            None
        }
    }
}

fn parse_whole(text: &str, node: &Node, to: &mut Reader<'_>) -> Option<i128> {
    let digits = text.strip_prefix(['-', '+']).unwrap_or(text);
    if text.starts_with("0o") {
        to.error(codes::BAD_NUMBER, node, format!("{} is octal", shortened(text)))
            .help("write decimal, or hexadecimal as 0x…");
        return None;
    }
    if digits.len() > 1 && digits.starts_with('0') && !text.starts_with("0x") {
        let meant = digits.trim_start_matches('0');
        let meant = if meant.is_empty() { "0" } else { meant };
        to.error(
            codes::LEADING_ZERO,
            node,
            format!("{} has a leading zero, which is octal to some", shortened(text)),
        )
        .help(format!("an address is written without leading zeros: write {}", shortened(meant)));
        return None;
    }
    let number = parse_digits(text);
    if number.is_none() {
        to.error(codes::OUT_OF_RANGE, node, format!("{} has too many digits", shortened(text)));
    }
    number
}

fn parse_digits(text: &str) -> Option<i128> {
    match text.strip_prefix("0x") {
        Some(hex) => u64::from_str_radix(hex, 16).ok().map(i128::from),
        None => text.parse().ok(),
    }
}

/// An exact decimal number.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Number(pub Decimal);

impl Read for Number {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        match meaning(node) {
            Meaning::Integer(text) => {
                let whole = parse_whole(text, node, to)?;
                match Decimal::try_new(whole, 0) {
                    Some(number) => Some(Self(number)),
                    None => {
                        to.error(codes::OUT_OF_RANGE, node, "the number has too many digits");
                        None
                    }
                }
            }
            Meaning::Float(text) => match text.parse() {
                Ok(number) => Some(Self(number)),
                Err(error) => {
                    to.error(codes::BAD_NUMBER, node, format!("{} is {error}", shortened(text)));
                    None
                }
            },
            Meaning::Bare(text) if text.replacen(',', ".", 1).parse::<Decimal>().is_ok() => {
                to.expected(node, "a number").help(format!("write {}", text.replacen(',', ".", 1)));
                None
            }
            Meaning::Bare(text) if text.contains('/') => {
                to.expected(node, "a number").help("write a decimal number: 0.1 for 1/10");
                None
            }
            Meaning::Quoted(text) if text.parse::<Decimal>().is_ok() => {
                to.expected(node, "a number").help(format!("write {text} without quotes"));
                None
            }
            _ => {
                to.expected(node, "a number");
                None
            }
        }
    }

    fn schema(_: &mut Schemas) -> Value {
        json!({ "type": "number" })
    }
}

/// A list.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct List<T>(pub Vec<At<T>>);

impl<T: Read> Read for List<T> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let Kind::Sequence(items) = &node.kind else {
            to.expected(node, "a list").help("write it in brackets: [a, b]");
            return None;
        };
        Some(Self(items.iter().filter_map(|item| to.at(item)).collect()))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "type": "array", "items": T::schema(schemas) })
    }
}

/// A map from names to values, in the order of the file. `None`: that value was wrong, and reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Names<V>(pub Vec<(At<String>, Option<V>)>);

impl<V: Read> Read for Names<V> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let entries = to.entries(node, "names and what they stand for")?;
        let mut all = Vec::with_capacity(entries.len());
        for entry in entries {
            let Some(Name(name)) = check_name(entry.key, entry.at, to) else { continue };
            let at = At { value: name, span: to.span(entry.at) };
            all.push((at, V::read_under(entry.at, entry.value, to)));
        }
        Some(Self(all))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        let value = V::schema(schemas);
        json!({ "type": "object", "propertyNames": Name::schema(schemas), "additionalProperties": value })
    }
}

/// A value that may be written as a single word, or as a list or map.
#[derive(Clone, Debug, PartialEq)]
pub enum Either<A, B> {
    /// The single word.
    Short(A),
    /// The list or map.
    Long(B),
}

impl<A: Read, B: Read> Read for Either<A, B> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        match node.kind {
            Kind::Scalar { .. } => A::read(node, to).map(Self::Short),
            Kind::Sequence(_) | Kind::Mapping(_) => B::read(node, to).map(Self::Long),
        }
    }

    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "anyOf": [A::schema(schemas), B::schema(schemas)] })
    }
}

/// A value, or `null` where that has a meaning.
#[derive(Clone, Debug, PartialEq)]
pub struct Nullable<T>(pub Option<T>);

impl<T: Read> Read for Nullable<T> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        if meaning(node) == Meaning::Null {
            return Some(Self(None));
        }
        T::read(node, to).map(|value| Self(Some(value)))
    }

    fn read_under(key: &Node, node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        if meaning(node) == Meaning::Null {
            return Some(Self(None));
        }
        T::read_under(key, node, to).map(|value| Self(Some(value)))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        json!({ "anyOf": [T::schema(schemas), { "type": "null" }] })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::document::yaml;
    use crate::model::diagnostic::{Diagnostics, SourceFile};
    use std::sync::Arc;

    fn read<T: Read>(text: &str) -> Result<T, String> {
        let file = Arc::new(SourceFile { path: "f".into(), text: text.into() });
        let mut found = Diagnostics::default();
        let node = yaml::parse(&file, &mut found).unwrap();
        let value = T::read(&node, &mut Reader::new(&file, &mut found));
        match found.sorted().first() {
            Some(first) => {
                Err(format!("{} {} {}", first.code, first.message, first.help.as_deref().unwrap_or("")))
            }
            None => Ok(value.unwrap()),
        }
    }

    #[test]
    fn numbers_that_only_look_like_numbers_are_refused() {
        type Port = Int<0, 65535>;
        assert_eq!(read::<Port>("0x10"), Ok(Int(16)));
        assert!(read::<Port>("010").unwrap_err().contains("without leading zeros: write 10"));
        assert!(read::<Port>("99:3").unwrap_err().contains("`holding: 99, bit: 3`"));
        assert!(read::<Port>("70000").unwrap_err().contains("70000 is out of range: 0 to 65535 is allowed"));
        assert!(read::<Port>("'7'").unwrap_err().contains("without quotes"));
        for text in [
            "-1",
            "1.5",
            "1_000",
            "0o17",
            "99999999999999999999999999999999999999999",
            "0xFFFFFFFFFFFFFFFFF",
            "x",
            "",
        ] {
            assert!(read::<Port>(text).is_err(), "{text}");
        }
        assert!(read::<Number>("0,1").unwrap_err().contains("write 0.1"));
        assert!(read::<Number>("1/10").is_err());
        assert!(read::<Number>(".nan").is_err());
        assert_eq!(read::<Number>("1e-3"), Ok(Number("0.001".parse().unwrap())));
    }

    #[test]
    fn bare_booleans_are_no_text() {
        for text in ["on", "Off", "y", "no", "true", "null", "", "12", "1.5"] {
            assert!(read::<Text>(text).unwrap_err().starts_with(codes::BARE_WORD), "{text}");
        }
        assert_eq!(read::<Text>("'on'"), Ok(Text("on".into())));
        assert_eq!(read::<Text>("°C"), Ok(Text("°C".into())));
        assert!(read::<Flag>("yes").unwrap_err().contains("write true"));
    }
}
