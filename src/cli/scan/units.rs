//! Unit ids as they are written: `1..32`, `1,2,10..20`. Pure.

use std::str::FromStr;

/// Unit ids, each once, in the order that they were written in.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Units(pub Vec<u8>);

impl Units {
    /// Those that devices have: 1 to 247; on Modbus TCP also 255, which devices without a unit id are to be addressed
    /// with, and 0 (MODBUS Messaging on TCP/IP V1.0b, 4.4.2.3).
    pub fn usual(is_tcp: bool) -> Self {
        Self(if is_tcp { [255, 0].into_iter().chain(1..=247).collect() } else { (1..=247).collect() })
    }
}

impl FromStr for Units {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let mut units = Vec::new();
        for part in text.split(',') {
            let range =
                parse(part.trim()).ok_or("write unit ids such as 1..32 or 1,2,10..20, from 0 to 255")?;
            for unit in range {
                if !units.contains(&unit) {
                    units.push(unit);
                }
            }
        }
        Ok(Self(units))
    }
}

fn parse(part: &str) -> Option<std::ops::RangeInclusive<u8>> {
    let (first, last) = part.split_once("..").or_else(|| part.split_once('-')).unwrap_or((part, part));
    let (first, last) = (first.parse().ok()?, last.parse().ok()?);
    (first <= last).then_some(first..=last)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn units_are_numbers_and_ranges() {
        let units = |text: &str| text.parse::<Units>().map(|units| units.0);
        assert_eq!(units("1..3"), Ok(vec![1, 2, 3]));
        assert_eq!(units("5, 1-2,1"), Ok(vec![5, 1, 2]));
        assert_eq!(units("0..255").map(|all| all.len()), Ok(256));
        for text in ["", "3..1", "256", "1..", "a", "1,,2", "-1"] {
            assert!(units(text).is_err(), "{text}");
        }
    }
}
