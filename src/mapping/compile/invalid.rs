//! `invalid` values by type: hexadecimal is a bit pattern, decimal a number, and both are exact.

use crate::document::codes;
use crate::document::read::At;
use crate::mapping::written::{InvalidWords, RawNumber, TypeWord};
use crate::model::decimal::Decimal;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::value::Raw;

/// The raw values of a list. `None` when the type has none, which is reported at `owner`.
pub fn by_type(
    kind: TypeWord,
    owner: &Span,
    words: &InvalidWords,
    found: &mut Diagnostics,
) -> Option<Vec<Raw>> {
    if matches!(kind, TypeWord::Bool | TypeWord::String | TypeWord::Mod10k | TypeWord::Datetime) {
        let message = format!("'invalid' does not go with type '{}'", kind.word());
        found.error(codes::TYPE_MISMATCH, owner, message);
        return None;
    }
    Some(words.0.iter().filter_map(|word| one(kind, word, found)).collect())
}

/// `None` for what is reported, and for patterns that are bad values anyway (NaN, BCD digits above 9).
fn one(kind: TypeWord, word: &At<RawNumber>, found: &mut Diagnostics) -> Option<Raw> {
    let raw = match word.value {
        RawNumber::Pattern(pattern) => from_pattern(kind, pattern),
        RawNumber::Number(number) => from_number(kind, number),
    };
    match raw {
        Ok(raw) => raw,
        Err(()) => {
            let shown = match word.value {
                RawNumber::Pattern(pattern) => format!("0x{pattern:X}"),
                RawNumber::Number(number) => number.to_string(),
            };
            found
                .error(
                    codes::INVALID_VALUE,
                    &word.span,
                    format!("type '{}' never holds {shown}", kind.word()),
                )
                .help(range_of(kind));
            None
        }
    }
}

fn from_pattern(kind: TypeWord, pattern: u64) -> Result<Option<Raw>, ()> {
    let fits = |bits: u32| if bits == 64 || pattern >> bits == 0 { Ok(()) } else { Err(()) };
    match kind {
        TypeWord::Float16 => {
            fits(16)?;
            Ok(Some(float16(pattern as u16)).filter(|f| !f.is_nan()).map(Raw::Float32))
        }
        TypeWord::Float32 => {
            fits(32)?;
            Ok(Some(f32::from_bits(pattern as u32)).filter(|f| !f.is_nan()).map(Raw::Float32))
        }
        TypeWord::Float64 => Ok(Some(f64::from_bits(pattern)).filter(|f| !f.is_nan()).map(Raw::Float64)),
        TypeWord::Bcd16 | TypeWord::Bcd32 => {
            fits(if kind == TypeWord::Bcd16 { 16 } else { 32 })?;
            Ok(format!("{pattern:x}").parse().ok().map(Raw::Uint))
        }
        _ => {
            let bits = kind.integer_bits().ok_or(())?;
            fits(bits)?;
            Ok(Some(if is_signed(kind) {
                // The sign bit moves to the top and comes back with copies of itself.
                Raw::Int((pattern << (64 - bits)) as i64 >> (64 - bits))
            } else {
                Raw::Uint(pattern)
            }))
        }
    }
}

fn from_number(kind: TypeWord, number: Decimal) -> Result<Option<Raw>, ()> {
    let whole = || number.to_string().parse::<i128>().map_err(|_| ());
    let within =
        |number: i128, max: i128| if (0..=max).contains(&number) { Ok(number as u64) } else { Err(()) };
    match kind {
        TypeWord::Float16 | TypeWord::Float32 => {
            let float: f32 = number.to_string().parse().map_err(|_| ())?;
            let max = if kind == TypeWord::Float16 { 65504.0 } else { f32::MAX };
            if float.abs() <= max { Ok(Some(Raw::Float32(float))) } else { Err(()) }
        }
        TypeWord::Float64 => Ok(Some(Raw::Float64(number.to_f64()))),
        TypeWord::Bcd16 => Ok(Some(Raw::Uint(within(whole()?, 9_999)?))),
        TypeWord::Bcd32 => Ok(Some(Raw::Uint(within(whole()?, 99_999_999)?))),
        _ => {
            let bits = kind.integer_bits().ok_or(())?;
            let number = whole()?;
            if is_signed(kind) {
                let half = 1i128 << (bits - 1);
                if (-half..half).contains(&number) { Ok(Some(Raw::Int(number as i64))) } else { Err(()) }
            } else {
                Ok(Some(Raw::Uint(within(number, (1i128 << bits) - 1)?)))
            }
        }
    }
}

fn is_signed(kind: TypeWord) -> bool {
    matches!(kind, TypeWord::Int8 | TypeWord::Int16 | TypeWord::Int32 | TypeWord::Int64)
}

/// What the type can hold, for the help of a message.
fn range_of(kind: TypeWord) -> String {
    match (kind, kind.integer_bits()) {
        (TypeWord::Bcd16, _) => "it holds 0 to 9999".into(),
        (TypeWord::Bcd32, _) => "it holds 0 to 99999999".into(),
        (_, Some(bits)) if is_signed(kind) => {
            let half = 1i128 << (bits - 1);
            format!(
                "it holds {} to {}; bit patterns have at most {} hexadecimal digits",
                -half,
                half - 1,
                bits / 4
            )
        }
        (_, Some(bits)) => format!("it holds 0 to {}", (1i128 << bits) - 1),
        _ => "the bit pattern or number is too large for it".into(),
    }
}

/// IEEE 754 binary16 → binary32, exact.
fn float16(bits: u16) -> f32 {
    let sign = if bits & 0x8000 == 0 { 1.0 } else { -1.0 };
    let fraction = f32::from(bits & 0x3FF);
    match i32::from(bits >> 10 & 0x1F) {
        0 => sign * fraction * 2f32.powi(-24),
        31 if fraction == 0.0 => sign * f32::INFINITY,
        31 => f32::NAN,
        exponent => sign * (1.0 + fraction / 1024.0) * 2f32.powi(exponent - 15),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pattern(kind: TypeWord, pattern: u64) -> Result<Option<Raw>, ()> {
        from_pattern(kind, pattern)
    }

    fn number(kind: TypeWord, text: &str) -> Result<Option<Raw>, ()> {
        from_number(kind, text.parse().unwrap())
    }

    #[test]
    fn hexadecimal_is_a_bit_pattern() {
        assert_eq!(pattern(TypeWord::Int16, 0x8000), Ok(Some(Raw::Int(-32768))));
        assert_eq!(pattern(TypeWord::Int16, 0x7FFF), Ok(Some(Raw::Int(32767))));
        assert_eq!(pattern(TypeWord::Int8, 0xFF), Ok(Some(Raw::Int(-1))));
        assert_eq!(pattern(TypeWord::Int64, u64::MAX), Ok(Some(Raw::Int(-1))));
        assert_eq!(pattern(TypeWord::Uint64, u64::MAX), Ok(Some(Raw::Uint(u64::MAX))));
        assert_eq!(pattern(TypeWord::Int16, 0x1_0000), Err(()));
        assert_eq!(pattern(TypeWord::Float32, 0x7F80_0000), Ok(Some(Raw::Float32(f32::INFINITY))));
        assert_eq!(pattern(TypeWord::Float32, 0x7FC0_0000), Ok(None));
        assert_eq!(pattern(TypeWord::Float16, 0x3C00), Ok(Some(Raw::Float32(1.0))));
        assert_eq!(pattern(TypeWord::Float16, 0x7BFF), Ok(Some(Raw::Float32(65504.0))));
        assert_eq!(pattern(TypeWord::Bcd16, 0x9999), Ok(Some(Raw::Uint(9999))));
        assert_eq!(pattern(TypeWord::Bcd16, 0xFFFF), Ok(None));
    }

    #[test]
    fn decimals_are_numbers_within_the_type() {
        assert_eq!(number(TypeWord::Int16, "-32768"), Ok(Some(Raw::Int(-32768))));
        assert_eq!(number(TypeWord::Int16, "32768"), Err(()));
        assert_eq!(number(TypeWord::Uint64, "18446744073709551615"), Ok(Some(Raw::Uint(u64::MAX))));
        assert_eq!(number(TypeWord::Uint16, "-1"), Err(()));
        assert_eq!(number(TypeWord::Uint16, "1.5"), Err(()));
        assert_eq!(number(TypeWord::Float32, "-9999.5"), Ok(Some(Raw::Float32(-9999.5))));
        assert_eq!(number(TypeWord::Bcd16, "10000"), Err(()));
    }
}
