//! Numbers as people write them in tables: `0,1`, `×0.1`, `1/10`, `10^-1`, `0.1 V`.

use crate::model::decimal::Decimal;

/// Why a text is no number.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct NoNumber {
    /// What is wrong with it.
    pub message: String,
    /// What to write instead.
    pub help: &'static str,
}

/// An exact number; `None` for a cell that says "nothing" (empty, `-`, `n/a`).
pub fn number(text: &str) -> Result<Option<Decimal>, NoNumber> {
    let text = text.trim();
    if is_nothing(text) {
        return Ok(None);
    }
    let fail = |help| NoNumber {
        message: format!("'{}' is no number", crate::document::scalar::shortened(text)),
        help,
    };
    let bare = text.trim_start_matches(['x', 'X', '×', '*', '·']).trim();
    if let Some(divisor) = bare.strip_prefix(['/', '÷', ':']) {
        let divisor = plain(divisor.trim()).ok_or_else(|| fail(EXAMPLES))?;
        return inverse(divisor).map(Some).ok_or_else(|| fail(NOT_FINITE));
    }
    if let Some((above, below)) = bare.split_once(['/', '÷']) {
        let (above, below) = (plain(above.trim()), plain(below.trim()));
        let (Some(above), Some(below)) = (above, below) else { return Err(fail(EXAMPLES)) };
        let product = inverse(below).and_then(|inverse| inverse.checked_mul(above));
        return product.map(Some).ok_or_else(|| fail(NOT_FINITE));
    }
    if is_ambiguous(bare) {
        return Err(fail("one thousand or one? Write 1000 or 1.0"));
    }
    plain(bare).map(Some).ok_or_else(|| fail(EXAMPLES))
}

const EXAMPLES: &str = "such as 0.1, 0,1, 1/10 or 10^-1";
const NOT_FINITE: &str = "the quotient has no end in decimals; write a decimal number";

/// Is this how a table says "nothing"?
pub fn is_nothing(text: &str) -> bool {
    matches!(
        text.to_ascii_lowercase().as_str(),
        "" | "-" | "--" | "---" | "–" | "—" | "n/a" | "na" | "none" | "n.a."
    )
}

/// 1 divided by a number, where that ends.
pub fn inverse(divisor: Decimal) -> Option<Decimal> {
    // 10^15 holds the inverse of every product of twos and fives that a table may have.
    const DIGITS: i32 = 15;
    let (quotient, is_exact) = Decimal::power_of_ten(DIGITS)?.whole_quotient(divisor)?;
    let inverse = Decimal::try_new(quotient, DIGITS as u8).filter(|_| is_exact)?;
    // Its text is without the zeros at the end.
    inverse.to_string().parse().ok()
}

/// `0.1`, `0,1`, `-3`, `1e-3`, `10^-3`, `10 E-3`, and the same with a unit behind it.
fn plain(text: &str) -> Option<Decimal> {
    if let Some(exponent) = text.strip_prefix("10^").or_else(|| text.strip_prefix("10**")) {
        return Decimal::power_of_ten(exponent.trim_matches(['(', ')', ' ']).parse().ok()?);
    }
    let text = text.replacen('−', "-", 1).replacen(',', ".", 1);
    let is_part = |c: char| c.is_ascii_digit() || matches!(c, '.' | '-' | '+');
    let mut end = text.find(|c| !is_part(c)).unwrap_or(text.len());
    let exponent = text[end..].strip_prefix(['e', 'E']).filter(|rest| rest.starts_with(is_part));
    if let Some(rest) = exponent {
        end = text.len() - rest.trim_start_matches(is_part).len();
    }
    let (number, unit) = text.split_at(end);
    // `0.1 V` is a number with a unit; `0.1.2` and `0.1x3` are not.
    let is_unit = unit.is_empty()
        || unit.starts_with(' ')
        || unit.chars().all(|c| c.is_alphabetic() || "°%/".contains(c));
    number.trim().parse().ok().filter(|_| is_unit && !unit.contains(|c: char| c.is_ascii_digit()))
}

/// `1,000`: a thousand in English, one in German.
fn is_ambiguous(text: &str) -> bool {
    let text = text.trim_start_matches(['-', '+', '−']);
    let Some((whole, rest)) = text.split_once(',') else { return false };
    let digits = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_digit());
    digits(whole) && whole != "0" && digits(rest) && rest.len() == 3
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn read(text: &str) -> String {
        number(text).unwrap_or_else(|e| panic!("{text}: {e:?}")).map_or("nothing".into(), |n| n.to_string())
    }

    #[test]
    fn numbers_are_read_as_people_write_them() {
        for text in [
            "0.1", "0,1", ".1", "x0.1", "× 0,1", "1/10", "/10", "÷ 10", "1e-1", "10^-1", "10^(-1)", "0.1 V",
            "0.1V",
        ] {
            assert_eq!(read(text), "0.1", "{text}");
        }
        assert_eq!(read("−2,5 °C"), "-2.5");
        assert_eq!(read("1000"), "1000");
        assert_eq!(read("1/8"), "0.125");
        assert_eq!(read("5E3"), "5000");
        assert_eq!(read(" - "), "nothing");
        assert_eq!(read("n/a"), "nothing");
    }

    #[test]
    fn what_could_be_two_numbers_is_none() {
        for text in ["1,000", "1/3", "abc", "0.1.2", "/0", "1 2", "#DATE", "0x10", "1-2"] {
            assert!(number(text).is_err(), "{text}");
        }
        assert_eq!(read("0,001"), "0.001");
    }

    proptest! {
        #[test]
        fn no_text_panics(text in any::<String>(), digits in "[-x/,.0-9eE^ ]{0,12}") {
            let _ = (number(&text), number(&digits));
        }

        #[test]
        fn a_decimal_is_read_back(mantissa in any::<i32>(), scale in 0u8..9) {
            let decimal = Decimal::try_new(mantissa.into(), scale).unwrap();
            prop_assert_eq!(number(&decimal.to_string()).unwrap(), Some(decimal));
        }
    }
}
