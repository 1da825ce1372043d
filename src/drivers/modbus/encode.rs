//! From raw values to registers, by type and order: what [`super::decode`] reads back. Pure.

use crate::mapping::compiled::{Byte, Chars, Decode, Kind, Order};
use crate::model::value::Raw;

/// The raw value is not of the type, or does not fit it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a raw value that its registers cannot hold")]
pub struct Unfit;

/// Encodes a raw value into whole registers, as their bytes in the order of the wire. Of a single byte the other half
/// of the register is 0; texts are filled up with NUL.
pub fn registers(decode: &Decode, raw: &Raw, words: &mut [u8]) -> Result<(), Unfit> {
    words.fill(0);
    if let (Kind::String, Raw::Text(text)) = (decode.kind, raw) {
        return write_text(decode, text, words);
    }
    let pattern = pattern(decode, raw)?;
    let bytes = pattern.to_be_bytes();
    let (unused, used) = bytes.split_at(bytes.len().checked_sub(words.len()).ok_or(Unfit)?);
    if unused.iter().any(|byte| *byte != 0) {
        return Err(Unfit);
    }
    words.copy_from_slice(used);
    if matches!(decode.order, Order::Cdab | Order::Dcba) {
        words.reverse();
    }
    if matches!(decode.order, Order::Cdab | Order::Badc) {
        words.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    Ok(())
}

/// The bits of the value, in its type's width.
fn pattern(decode: &Decode, raw: &Raw) -> Result<u64, Unfit> {
    let pattern = match (decode.kind, raw) {
        (Kind::Int8, Raw::Int(number)) => {
            half(decode, i8::try_from(*number).map_err(|_| Unfit)?.cast_unsigned())
        }
        (Kind::Uint8, Raw::Uint(number)) => half(decode, u8::try_from(*number).map_err(|_| Unfit)?),
        (Kind::Int16, Raw::Int(number)) => i16::try_from(*number).map_err(|_| Unfit)?.cast_unsigned().into(),
        (Kind::Int32, Raw::Int(number)) => i32::try_from(*number).map_err(|_| Unfit)?.cast_unsigned().into(),
        (Kind::Int64, Raw::Int(number)) => number.cast_unsigned(),
        // Bits of a signed value, where they are set one by one.
        (
            Kind::Uint16 | Kind::Uint32 | Kind::Uint64 | Kind::Int16 | Kind::Int32 | Kind::Int64,
            Raw::Uint(number),
        ) => *number,
        (Kind::Float16, Raw::Float32(float)) => half_bits(*float).ok_or(Unfit)?.into(),
        (Kind::Float32, Raw::Float32(float)) => float.to_bits().into(),
        (Kind::Float64, Raw::Float64(float)) => float.to_bits(),
        (Kind::Bcd16, Raw::Uint(number @ 0..=9_999)) => bcd(*number),
        (Kind::Bcd32, Raw::Uint(number @ 0..=99_999_999)) => bcd(*number),
        _ => return Err(Unfit),
    };
    Ok(pattern)
}

fn half(decode: &Decode, byte: u8) -> u64 {
    u64::from(byte) << if decode.byte == Some(Byte::High) { 8 } else { 0 }
}

/// Two decimal digits per byte, most significant first.
fn bcd(mut number: u64) -> u64 {
    let (mut pattern, mut shift) = (0, 0);
    while number > 0 {
        pattern |= (number % 10) << shift;
        (number, shift) = (number / 10, shift + 4);
    }
    pattern
}

/// IEEE 754 binary16 of a number that it holds exactly.
fn half_bits(float: f32) -> Option<u16> {
    let sign = if float.is_sign_negative() { 0x8000 } else { 0 };
    let size = f64::from(float).abs();
    let bits = if size < 2f64.powi(-14) {
        size * 2f64.powi(24)
    } else {
        let exponent = (size.to_bits() >> 52) as i32 - 1023;
        // 1024 steps to each power of two; the leading one is the first step of the exponent's own.
        f64::from((exponent + 14) * 1024) + size * 2f64.powi(10 - exponent)
    };
    (bits.fract() == 0.0 && bits < f64::from(0x7C00)).then_some(sign | bits as u16)
}

fn write_text(decode: &Decode, text: &str, words: &mut [u8]) -> Result<(), Unfit> {
    let swapped = matches!(decode.order, Order::Badc | Order::Dcba);
    let (high, low) = if swapped { (1, 0) } else { (0, 1) };
    let places: &[usize] = match decode.chars {
        Chars::Both => &[high, low],
        Chars::High => &[high],
        Chars::Low => &[low],
    };
    let mut bytes = text.bytes();
    for word in words.chunks_exact_mut(2) {
        for place in places {
            word[*place] = bytes.next().unwrap_or(0);
        }
    }
    if bytes.next().is_some() { Err(Unfit) } else { Ok(()) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::decode;
    use proptest::prelude::*;

    const ORDERS: [Order; 4] = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba];

    const NUMBERS: [Kind; 13] = [
        Kind::Int8,
        Kind::Int16,
        Kind::Int32,
        Kind::Int64,
        Kind::Uint8,
        Kind::Uint16,
        Kind::Uint32,
        Kind::Uint64,
        Kind::Float16,
        Kind::Float32,
        Kind::Float64,
        Kind::Bcd16,
        Kind::Bcd32,
    ];

    fn is_nan(raw: &Raw) -> bool {
        matches!(raw, Raw::Float32(float) if float.is_nan())
            || matches!(raw, Raw::Float64(float) if float.is_nan())
    }

    proptest! {
        #[test]
        fn what_was_decoded_is_encoded_to_the_same_registers(words in any::<[u8; 8]>(), high in any::<bool>()) {
            for (kind, order) in NUMBERS.into_iter().flat_map(|kind| ORDERS.map(|order| (kind, order))) {
                let byte = Some(if high { Byte::High } else { Byte::Low });
                let decode = Decode { kind, order, byte, chars: Chars::Both };
                let words = &words[..2 * usize::from(kind.registers().unwrap())];
                // Digits above 9 are no BCD, and every NaN is as good as another.
                let Ok(raw) = decode::registers(&decode, words) else { continue };
                if is_nan(&raw) || matches!(raw, Raw::Float32(float) if kind == Kind::Float16 && float.is_infinite()) {
                    continue;
                }
                let mut out = vec![0xAA; words.len()];
                registers(&decode, &raw, &mut out).unwrap();
                prop_assert_eq!(decode::registers(&decode, &out), Ok(raw));
                if !matches!(kind, Kind::Int8 | Kind::Uint8) {
                    prop_assert_eq!(&out, words, "{:?} {:?}", kind, order);
                }
            }
        }

        #[test]
        fn a_text_comes_back(text in "[ -~äöü€]{0,10}", order in 0usize..4, chars in 0usize..3) {
            let chars = [Chars::Both, Chars::High, Chars::Low][chars];
            let decode = Decode { kind: Kind::String, order: ORDERS[order], byte: None, chars };
            let text = text.trim_end();
            let mut words = vec![0xAA; if chars == Chars::Both { 10 } else { 20 }];
            let written = registers(&decode, &Raw::Text(text.into()), &mut words);
            prop_assert_eq!(written.is_ok(), text.len() <= 10);
            if written.is_ok() {
                prop_assert_eq!(decode::registers(&decode, &words), Ok(Raw::Text(text.into())));
            }
        }
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let encode = |kind, raw: Raw| {
            let decode = Decode { kind, order: Order::Abcd, byte: None, chars: Chars::Both };
            registers(&decode, &raw, &mut [0; 2])
        };
        assert_eq!(encode(Kind::Uint16, Raw::Uint(0x1_0000)), Err(Unfit));
        assert_eq!(encode(Kind::Int16, Raw::Int(-32_769)), Err(Unfit));
        assert_eq!(encode(Kind::Bcd16, Raw::Uint(10_000)), Err(Unfit));
        assert_eq!(encode(Kind::Float16, Raw::Float32(1e-9)), Err(Unfit));
        assert_eq!(encode(Kind::Float16, Raw::Float32(65_520.0)), Err(Unfit));
        assert_eq!(encode(Kind::Uint16, Raw::Bool(true)), Err(Unfit));
        assert_eq!(encode(Kind::Uint64, Raw::Uint(u64::MAX)), Err(Unfit), "too many registers for the place");
    }
}
