//! Durations as documents write them: a number and its unit.

use std::time::Duration as StdDuration;

use serde_json::{Value, json};

use super::codes;
use super::read::{Read, Reader};
use super::scalar::{Meaning, meaning, shortened};
use super::schema::Schemas;
use super::yaml::Node;
use crate::model::decimal::Decimal;

/// A time with its unit, from `MIN` to `MAX` milliseconds: `500ms`, `5s`, `1.5s`, `1m`, `2h`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Duration<const MIN: u64, const MAX: u64>(pub StdDuration);

/// Milliseconds of a day.
pub const DAY: u64 = 24 * 60 * 60 * 1000;

/// How often something is read: 1 ms to 24 h.
pub type Interval = Duration<1, DAY>;

/// A rest between two steps on the wire: up to 10 min.
pub type Rest = Duration<0, 600_000>;

impl<const MIN: u64, const MAX: u64> Read for Duration<MIN, MAX> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let text = match meaning(node) {
            Meaning::Bare(text) | Meaning::Quoted(text) => text,
            Meaning::Integer(text) | Meaning::Float(text) => {
                let text = shortened(text);
                to.error(codes::BAD_DURATION, node, format!("{text} has no unit"))
                    .help(format!("add a unit: {text}ms, {text}s, {text}m or {text}h"));
                return None;
            }
            _ => {
                to.expected(node, "a duration").help("such as 500ms, 5s, 1m or 2h");
                return None;
            }
        };
        let (min, max) = (StdDuration::from_millis(MIN), StdDuration::from_millis(MAX));
        let Some(duration) = parse_duration(text).or_else(|| is_huge(text).then_some(StdDuration::MAX))
        else {
            to.error(codes::BAD_DURATION, node, format!("'{}' is no duration", shortened(text)))
                .help("such as 500ms, 5s, 1.5s, 1m or 2h");
            return None;
        };
        if duration < min || duration > max {
            let message = format!(
                "{} is out of range: {} to {} is allowed",
                shortened(text),
                show_duration(min),
                show_duration(max)
            );
            to.error(codes::OUT_OF_RANGE, node, message);
            return None;
        }
        Some(Self(duration))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        schemas.named("Duration", |_| {
            json!({
                "description": "A time with its unit: 500ms, 5s, 1.5s, 1m, 2h.",
                "type": "string",
                "pattern": r"^[0-9]+(\.[0-9]+)?(ms|s|m|h)$",
                "examples": ["500ms", "5s", "1m"],
            })
        })
    }
}

/// Digits and a unit, and more of them than can be counted?
fn is_huge(text: &str) -> bool {
    let digits = text.bytes().take_while(u8::is_ascii_digit).count();
    digits > 0 && ["ms", "s", "m", "h"].contains(&&text[digits..])
}

/// `500ms`, `1.5s`, `2h`; `None` for what is no duration, or is finer than a microsecond.
pub fn parse_duration(text: &str) -> Option<StdDuration> {
    let unit_at = text.find(|c: char| c.is_ascii_alphabetic())?;
    let (number, unit) = text.split_at(unit_at);
    if !number.starts_with(|c: char| c.is_ascii_digit()) || !number.ends_with(|c: char| c.is_ascii_digit()) {
        return None;
    }
    let micros: i64 = match unit {
        "ms" => 1_000,
        "s" => 1_000_000,
        "m" => 60_000_000,
        "h" => 3_600_000_000,
        _ => return None,
    };
    let total = number.parse::<Decimal>().ok()?.checked_mul(Decimal::from(micros))?.to_i64()?;
    u64::try_from(total).ok().map(StdDuration::from_micros)
}

/// A duration as one would write it.
pub fn show_duration(duration: StdDuration) -> String {
    let ms = duration.as_millis();
    match ms {
        0 => "0ms".into(),
        ms if ms % 3_600_000 == 0 => format!("{}h", ms / 3_600_000),
        ms if ms % 60_000 == 0 => format!("{}m", ms / 60_000),
        ms if ms % 1_000 == 0 => format!("{}s", ms / 1_000),
        ms => format!("{ms}ms"),
    }
}

#[cfg(test)]
mod tests {
    use super::super::yaml;
    use super::*;
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
    fn durations_need_a_unit() {
        let ms = |text: &str| read::<Interval>(text).map(|d| d.0.as_millis());
        assert_eq!(ms("500ms"), Ok(500));
        assert_eq!(ms("1.5s"), Ok(1500));
        assert_eq!(ms("2h"), Ok(7_200_000));
        assert_eq!(ms("24h"), Ok(86_400_000));
        assert!(ms("5").unwrap_err().contains("add a unit: 5ms, 5s, 5m or 5h"));
        for text in [
            "0ms",
            "25h",
            "5 s",
            "s",
            "-5s",
            "5d",
            "1e3s",
            "0.0001ms",
            "true",
            "[5s]",
            "99999999999999999999h",
        ] {
            assert!(ms(text).is_err(), "{text}");
        }
    }
}
