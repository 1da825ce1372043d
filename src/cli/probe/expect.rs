//! What a value is expected to be: `230±10`, `230+-10`, `230±5%`, `220..240`, `230`. Pure.

use std::str::FromStr;

use crate::model::decimal::Decimal;

/// A range that the value lies in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Expect {
    /// The smallest value.
    pub low: Decimal,
    /// The largest value.
    pub high: Decimal,
}

/// Of a number that stands alone, so many percent.
const PERCENT_ALONE: i64 = 5;

impl Expect {
    /// How far a value is from the middle, in halves of the range; 0 when the range is a single value.
    pub fn distance(&self, value: Decimal) -> f64 {
        let (low, high) = (self.low.to_f64(), self.high.to_f64());
        let half = (high - low) / 2.0;
        if half == 0.0 { 0.0 } else { ((value.to_f64() - low - half) / half).abs() }
    }

    /// Is the value in the range?
    pub fn takes(&self, value: Decimal) -> bool {
        self.low <= value && value <= self.high
    }
}

impl FromStr for Expect {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        parse(text).ok_or_else(|| "write 230±10, 230+-10, 230±5%, 220..240 or 230".into())
    }
}

fn parse(text: &str) -> Option<Expect> {
    let number = |text: &str| text.trim().parse::<Decimal>().ok();
    if let Some((low, high)) = text.split_once("..") {
        let (low, high) = (number(low)?, number(high)?);
        return (low <= high).then_some(Expect { low, high });
    }
    let split = ["±", "+/-", "+-"].iter().find_map(|sign| text.split_once(sign));
    let (middle, around) = match split {
        Some((middle, around)) => match around.trim().strip_suffix('%') {
            Some(percent) => (number(middle)?, percent_of(number(middle)?, number(percent)?)?),
            None => (number(middle)?, number(around)?),
        },
        None => (number(text)?, percent_of(number(text)?, PERCENT_ALONE.into())?),
    };
    let around = around.abs();
    Some(Expect { low: middle.checked_sub(around)?, high: middle.checked_add(around)? })
}

fn percent_of(number: Decimal, percent: Decimal) -> Option<Decimal> {
    number.abs().checked_mul(percent)?.checked_mul(Decimal::try_new(1, 2)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_is_written_in_several_ways() {
        let shown = |text: &str| text.parse::<Expect>().map(|e| format!("{} {}", e.low, e.high));
        assert_eq!(shown("230±10"), Ok("220 240".into()));
        assert_eq!(shown("230+-10"), Ok("220 240".into()));
        assert_eq!(shown("230 +/- 0.5"), Ok("229.5 230.5".into()));
        assert_eq!(shown("230±5%"), Ok("218.5 241.5".into()));
        assert_eq!(shown("-20..-10.5"), Ok("-20 -10.5".into()));
        assert_eq!(shown("-100"), Ok("-105 -95".into()));
        assert_eq!(shown("0"), Ok("0 0".into()));
        for text in ["", "abc", "240..220", "230±", "±5", "1..2..3"] {
            assert!(shown(text).is_err(), "{text}");
        }
    }

    #[test]
    fn the_middle_is_nearest() {
        let expect: Expect = "220..240".parse().unwrap();
        assert_eq!(expect.distance(230i64.into()), 0.0);
        assert_eq!(expect.distance(240i64.into()), 1.0);
        assert!(expect.takes(220i64.into()) && !expect.takes(241i64.into()));
    }
}
