//! Exact decimal numbers: 2304 × 0.1 is 230.4, never 230.40000000000001.
//!
//! A [`Decimal`] is `mantissa × 10^-scale`. Arithmetic is checked: what doesn't fit is `None`, never rounded.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;

/// More decimals than any device or scale has; keeps `10^scale` inside an `i128`.
const MAX_SCALE: u8 = 30;

/// An exact decimal number. Equality and order are by value: 1.0 equals 1.
#[derive(Clone, Copy, Debug)]
pub struct Decimal {
    mantissa: i128,
    scale: u8,
}

impl Decimal {
    /// 0
    pub const ZERO: Self = Self { mantissa: 0, scale: 0 };
    /// 1
    pub const ONE: Self = Self { mantissa: 1, scale: 0 };

    /// `mantissa × 10^-scale`, or `None` when it has too many digits.
    pub fn try_new(mantissa: i128, scale: u8) -> Option<Self> {
        (scale <= MAX_SCALE).then_some(Self { mantissa, scale })
    }

    /// `10^exponent`; `None` outside ±30.
    pub fn power_of_ten(exponent: i32) -> Option<Self> {
        let size = u8::try_from(exponent.unsigned_abs()).ok().filter(|size| *size <= MAX_SCALE)?;
        Some(if exponent < 0 {
            Self { mantissa: 1, scale: size }
        } else {
            Self { mantissa: POWERS[usize::from(size)], scale: 0 }
        })
    }

    /// The product, or `None` when it does not fit.
    pub fn checked_mul(self, other: Self) -> Option<Self> {
        let mantissa = match (i64::try_from(self.mantissa), i64::try_from(other.mantissa)) {
            (Ok(a), Ok(b)) => i128::from(a) * i128::from(b),
            _ => self.mantissa.checked_mul(other.mantissa)?,
        };
        Self { mantissa, scale: self.scale + other.scale }.shortened_to_fit()
    }

    /// The sum, or `None` when it does not fit.
    pub fn checked_add(self, other: Self) -> Option<Self> {
        let scale = self.scale.max(other.scale);
        let sum = self.mantissa_at(scale)?.checked_add(other.mantissa_at(scale)?)?;
        Some(Self { mantissa: sum, scale })
    }

    /// The difference, or `None` when it does not fit.
    pub fn checked_sub(self, other: Self) -> Option<Self> {
        self.checked_add(Self { mantissa: other.mantissa.checked_neg()?, scale: other.scale })
    }

    /// The largest whole number that times `divisor` does not exceed this number (for a negative divisor: does not fall
    /// below it), and whether it hits it exactly. `None` for a divisor of 0, and when it does not fit.
    pub fn whole_quotient(self, divisor: Self) -> Option<(i128, bool)> {
        let power = |from: u8, to: u8| POWERS.get(usize::from(from.saturating_sub(to)));
        let above = self.mantissa.checked_mul(*power(divisor.scale, self.scale)?)?;
        let below = divisor.mantissa.checked_mul(*power(self.scale, divisor.scale)?)?;
        let (above, below) =
            if below < 0 { (above.checked_neg()?, below.checked_neg()?) } else { (above, below) };
        Some((above.checked_div_euclid(below)?, above.checked_rem_euclid(below)? == 0))
    }

    /// This number divided by `count`, rounded half away from zero to `more` decimals more than it has. `None` for a
    /// `count` of 0, and when it does not fit.
    pub fn divided(self, count: u32, more: u8) -> Option<Self> {
        let scale = self.scale.checked_add(more).filter(|scale| *scale <= MAX_SCALE)?;
        let count = i128::from(count);
        let doubled = self.mantissa_at(scale)?.checked_mul(2)?;
        let rounded = doubled.checked_add(count * doubled.signum())?.checked_div(2 * count)?;
        Some(Self { mantissa: rounded, scale })
    }

    /// The absolute value.
    pub fn abs(self) -> Self {
        Self { mantissa: self.mantissa.saturating_abs(), scale: self.scale }
    }

    /// Is it 0?
    pub fn is_zero(self) -> bool {
        self.mantissa == 0
    }

    /// The whole number, when it is one and fits.
    pub fn to_i64(self) -> Option<i64> {
        let power = POWERS[usize::from(self.scale)];
        (self.mantissa % power == 0).then(|| i64::try_from(self.mantissa / power).ok()).flatten()
    }

    /// The nearest float.
    pub fn to_f64(self) -> f64 {
        // Through text where the mantissa is not exact as a float, so that rounding happens once.
        if self.mantissa.unsigned_abs() < 1 << 53 && self.scale <= 22 {
            return self.mantissa as f64 / 10f64.powi(i32::from(self.scale));
        }
        self.to_string().parse().unwrap_or(f64::NAN)
    }

    /// The shortest decimal that reads back as the same float: 230.4f32 is 230.4; from 2^24 on, where every float32 is
    /// whole, just that number. `None` when not finite or when its exponent does not fit.
    pub fn from_f32(value: f32) -> Option<Self> {
        if let Some(whole) = whole_f32(value) {
            return Some(Self::from(whole));
        }
        value.is_finite().then(|| format!("{value:e}").parse().ok()).flatten()
    }

    /// As [`Self::from_f32`], for a float64.
    pub fn from_f64(value: f64) -> Option<Self> {
        value.is_finite().then(|| format!("{value:e}").parse().ok()).flatten()
    }

    /// Appends the number as JSON: no exponent, no trailing zeros.
    pub fn write_json(self, out: &mut Vec<u8>) {
        if self.mantissa < 0 {
            out.push(b'-');
        }
        let mut digits = [b'0'; 40];
        let mut at = digits.len();
        let mut rest = self.mantissa.unsigned_abs();
        // 128-bit division is slow: leave it as soon as the rest fits a machine word.
        while rest > u128::from(u64::MAX) {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let mut rest = rest as u64;
        while rest > 0 {
            at -= 1;
            digits[at] = b'0' + (rest % 10) as u8;
            rest /= 10;
        }
        let point = digits.len() - usize::from(self.scale);
        out.extend_from_slice(&digits[at.min(point - 1)..point]);
        let end =
            digits[point..].iter().rposition(|digit| *digit != b'0').map_or(point, |last| point + last + 1);
        let fraction = &digits[point..end];
        if !fraction.is_empty() {
            out.push(b'.');
            out.extend_from_slice(fraction);
        }
    }

    /// The mantissa that this number has at a larger scale.
    fn mantissa_at(self, scale: u8) -> Option<i128> {
        self.mantissa.checked_mul(*POWERS.get(usize::from(scale - self.scale))?)
    }

    /// Drops trailing zeros until the scale is within bounds.
    fn shortened_to_fit(mut self) -> Option<Self> {
        while self.scale > MAX_SCALE {
            if self.mantissa % 10 != 0 {
                return None;
            }
            self.mantissa /= 10;
            self.scale -= 1;
        }
        Some(self)
    }
}

const POWERS: [i128; MAX_SCALE as usize + 1] = {
    let mut powers = [1; MAX_SCALE as usize + 1];
    let mut i = 1;
    while i < powers.len() {
        powers[i] = powers[i - 1] * 10;
        i += 1;
    }
    powers
};

/// The whole number that a float32 of 2^24 or more is, as long as 63 bits hold it. Fewer digits would also read back as
/// the same float32, but readers of JSON have float64: 67108872 must not become 67108870.
pub fn whole_f32(value: f32) -> Option<i64> {
    const EVERY_ONE_IS_WHOLE: f32 = 16_777_216.0;
    const BITS_63: f32 = 9_223_372_036_854_775_808.0;
    (EVERY_ONE_IS_WHOLE..BITS_63).contains(&value.abs()).then_some(value as i64)
}

impl From<i64> for Decimal {
    fn from(value: i64) -> Self {
        Self { mantissa: i128::from(value), scale: 0 }
    }
}

impl From<u64> for Decimal {
    fn from(value: u64) -> Self {
        Self { mantissa: i128::from(value), scale: 0 }
    }
}

impl PartialEq for Decimal {
    fn eq(&self, other: &Self) -> bool {
        self.cmp(other) == Ordering::Equal
    }
}

impl Eq for Decimal {}

impl PartialOrd for Decimal {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl Ord for Decimal {
    fn cmp(&self, other: &Self) -> Ordering {
        let scale = self.scale.max(other.scale);
        match (self.mantissa_at(scale), other.mantissa_at(scale)) {
            (Some(a), Some(b)) => a.cmp(&b),
            // Only one side can overflow, since the other is already at this scale: it is the larger in size.
            (None, _) => self.mantissa.cmp(&0),
            (_, None) => 0.cmp(&other.mantissa),
        }
    }
}

impl std::hash::Hash for Decimal {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        let (mut mantissa, mut scale) = (self.mantissa, self.scale);
        while scale > 0 && mantissa % 10 == 0 {
            (mantissa, scale) = (mantissa / 10, scale - 1);
        }
        (mantissa, scale).hash(state);
    }
}

impl fmt::Display for Decimal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut text = Vec::with_capacity(24);
        self.write_json(&mut text);
        f.pad(&String::from_utf8_lossy(&text))
    }
}

/// The text is no decimal number, or one with too many digits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a decimal number of at most {MAX_SCALE} decimals")]
pub struct ParseDecimalError;

/// `-12`, `0.001`, `1e-3`, `+2.5E6`. No blanks, no digit groups, no infinities.
impl FromStr for Decimal {
    type Err = ParseDecimalError;

    fn from_str(text: &str) -> Result<Self, ParseDecimalError> {
        let (number, exponent) = match text.split_once(['e', 'E']) {
            Some((number, exponent)) => (number, exponent.parse::<i32>().map_err(|_| ParseDecimalError)?),
            None => (text, 0),
        };
        let (negative, number) = match number.as_bytes().first() {
            Some(b'-') => (true, &number[1..]),
            Some(b'+') => (false, &number[1..]),
            _ => (false, number),
        };
        let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
        let digits = || whole.bytes().chain(fraction.bytes());
        if digits().next().is_none() || !digits().all(|b| b.is_ascii_digit()) {
            return Err(ParseDecimalError);
        }
        let mut mantissa: i128 = 0;
        for digit in digits() {
            mantissa = mantissa
                .checked_mul(10)
                .and_then(|m| m.checked_add(i128::from(digit - b'0')))
                .ok_or(ParseDecimalError)?;
        }
        if negative {
            mantissa = -mantissa;
        }
        if mantissa == 0 {
            return Ok(Self::ZERO);
        }
        let scale = i64::try_from(fraction.len()).map_err(|_| ParseDecimalError)? - i64::from(exponent);
        let fit = if scale < 0 {
            let power = usize::try_from(-scale).ok().and_then(|p| POWERS.get(p));
            power.and_then(|power| mantissa.checked_mul(*power)).map(|mantissa| Self { mantissa, scale: 0 })
        } else {
            u8::try_from(scale).ok().and_then(|scale| Self { mantissa, scale }.shortened_to_fit())
        };
        fit.ok_or(ParseDecimalError)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn dec(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    #[test]
    fn scaling_is_exact() {
        assert_eq!((Decimal::from(2304i64).checked_mul(dec("0.1"))).unwrap().to_string(), "230.4");
        assert_eq!(
            Decimal::from(u64::MAX).checked_mul(dec("0.01")).unwrap().to_string(),
            "184467440737095516.15"
        );
        assert_eq!(Decimal::from(i64::MIN).to_string(), "-9223372036854775808");
        assert_eq!(dec("-0.05").to_string(), "-0.05");
        assert_eq!(dec("100").checked_mul(dec("0.01")).unwrap().to_string(), "1");
    }

    #[test]
    fn a_quotient_is_whole_or_known_not_to_be() {
        let quotient = |a: &str, b: &str| dec(a).whole_quotient(dec(b));
        assert_eq!(quotient("230.4", "0.1"), Some((2304, true)));
        assert_eq!(quotient("230.45", "0.1"), Some((2304, false)));
        assert_eq!(quotient("-0.05", "0.1"), Some((-1, false)));
        assert_eq!(quotient("12", "-0.5"), Some((-24, true)));
        assert_eq!(quotient("1", "0"), None);
        assert_eq!(quotient("1e30", "1e-30"), None);
    }

    #[test]
    fn floats_become_their_shortest_decimal() {
        assert_eq!(Decimal::from_f32(230.4).unwrap().to_string(), "230.4");
        assert_eq!(Decimal::from_f32(0.0).unwrap(), Decimal::ZERO);
        assert_eq!(Decimal::from_f32(f32::NAN), None);
        assert_eq!(Decimal::from_f32(f32::MAX), None);
        assert_eq!(Decimal::from_f64(1e22).unwrap().to_string(), "10000000000000000000000");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", ".", "-", "1e", "1,5", "0x10", "inf", "1 ", "1e99", "++1", "1e-99"] {
            assert!(text.parse::<Decimal>().is_err(), "{text:?}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(mantissa in any::<i64>(), scale in 0u8..20) {
            let decimal = Decimal::try_new(i128::from(mantissa), scale).unwrap();
            prop_assert_eq!(decimal.to_string().parse::<Decimal>().unwrap(), decimal);
        }

        #[test]
        fn a_product_divides_back(a in any::<i64>(), b in any::<i32>(), s in 0u8..12) {
            prop_assume!(b != 0);
            let factor = Decimal::try_new(b.into(), s).unwrap();
            let product = Decimal::from(a).checked_mul(factor).unwrap();
            prop_assert_eq!(product.whole_quotient(factor), Some((i128::from(a), true)));
        }

        #[test]
        fn order_is_that_of_the_numbers(a in any::<i32>(), b in any::<i32>(), s in 0u8..9, t in 0u8..9) {
            let (x, y) = (Decimal::try_new(a.into(), s).unwrap(), Decimal::try_new(b.into(), t).unwrap());
            let (p, q) = (i128::from(a) * 10i128.pow(9 - u32::from(s)), i128::from(b) * 10i128.pow(9 - u32::from(t)));
            prop_assert_eq!(x.cmp(&y), p.cmp(&q));
        }

        #[test]
        fn a_float_survives_its_decimal(value in -1e20f64..1e20) {
            if let Some(decimal) = Decimal::from_f64(value) {
                prop_assert_eq!(decimal.to_f64(), value);
            }
        }
    }
}
