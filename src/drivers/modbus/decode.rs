//! From registers to raw values, by type and order. Pure.
//!
//! Every length is checked: bytes that do not make the value are [`Cause::Garbled`], never a panic or a guess.

use super::datetime;
use super::plan::{Cut, Pick};
use crate::mapping::compiled::{Byte, Chars, ClockFormat, Decode, Kind, Order};
use crate::model::value::{Cause, Raw};

/// Bytes of the largest value that can be gathered from single registers: one answer's worth.
const MOST_BYTES: usize = 250;

/// Cuts one reading out of the answers' data and decodes it.
pub fn cut(cut: &Cut, data: &[u8]) -> Result<Raw, Cause> {
    match &cut.pick {
        Pick::Words { at, count } => {
            let start = *at as usize;
            let words = data.get(start..start + usize::from(*count) * 2).ok_or(Cause::Garbled)?;
            registers(&cut.decode, words)
        }
        Pick::Scattered(places) => {
            let mut gathered = [0; MOST_BYTES];
            let length = places.len() * 2;
            let words = gathered.get_mut(..length).ok_or(Cause::Garbled)?;
            for (word, at) in words.chunks_exact_mut(2).zip(places) {
                word.copy_from_slice(data.get(*at as usize..*at as usize + 2).ok_or(Cause::Garbled)?);
            }
            registers(&cut.decode, words)
        }
        Pick::Bit(at) => {
            let byte = data.get(*at as usize / 8).ok_or(Cause::Garbled)?;
            Ok(Raw::Bool(byte >> (at % 8) & 1 == 1))
        }
    }
}

/// Decodes whole registers, given as their bytes in the order of the wire.
pub fn registers(decode: &Decode, words: &[u8]) -> Result<Raw, Cause> {
    use Kind::*;
    if !words.len().is_multiple_of(2) {
        return Err(Cause::Garbled);
    }
    Ok(match decode.kind {
        Bool => Raw::Bool(word(decode, words)? != 0),
        Int8 => Raw::Int(i64::from(half(decode, words)?.cast_signed())),
        Uint8 => Raw::Uint(u64::from(half(decode, words)?)),
        Int16 => Raw::Int(i64::from(word(decode, words)?.cast_signed())),
        Uint16 => Raw::Uint(u64::from(word(decode, words)?)),
        Int32 => Raw::Int(i64::from(i32::from_be_bytes(ordered(decode.order, words)?))),
        Uint32 => Raw::Uint(u64::from(u32::from_be_bytes(ordered(decode.order, words)?))),
        Int64 => Raw::Int(i64::from_be_bytes(ordered(decode.order, words)?)),
        Uint64 => Raw::Uint(u64::from_be_bytes(ordered(decode.order, words)?)),
        Float16 => Raw::Float32(half_float(word(decode, words)?)),
        Float32 => Raw::Float32(f32::from_be_bytes(ordered(decode.order, words)?)),
        Float64 => Raw::Float64(f64::from_be_bytes(ordered(decode.order, words)?)),
        Bcd16 => Raw::Uint(bcd(&ordered::<2>(decode.order, words)?)?),
        Bcd32 => Raw::Uint(bcd(&ordered::<4>(decode.order, words)?)?),
        // Registers have a type.
        Any => return Err(Cause::WrongType),
        String => Raw::Text(text(decode, words)),
        Mod10k => Raw::Uint(mod10k(decode.order, words)?),
        Datetime(clock) => Raw::Text(match clock.format {
            ClockFormat::Unix => datetime::text(clock, &ordered::<4>(decode.order, words)?)?,
            ClockFormat::UnixMs => datetime::text(clock, &ordered::<8>(decode.order, words)?)?,
            ClockFormat::Iec870 | ClockFormat::Packed | ClockFormat::Fields => datetime::text(clock, words)?,
        }),
    })
}

/// The bytes with the most significant first.
fn ordered<const N: usize>(order: Order, words: &[u8]) -> Result<[u8; N], Cause> {
    let mut bytes: [u8; N] = words.try_into().map_err(|_| Cause::Garbled)?;
    if matches!(order, Order::Cdab | Order::Dcba) {
        bytes.reverse();
    }
    // Reversing all bytes has also swapped those of each word: right for DCBA, to be undone for CDAB.
    if matches!(order, Order::Cdab | Order::Badc) {
        bytes.chunks_exact_mut(2).for_each(|word| word.swap(0, 1));
    }
    Ok(bytes)
}

fn word(decode: &Decode, words: &[u8]) -> Result<u16, Cause> {
    Ok(u16::from_be_bytes(ordered(decode.order, words)?))
}

/// One byte of a register; the low one unless the profile says otherwise.
fn half(decode: &Decode, words: &[u8]) -> Result<u8, Cause> {
    let [high, low] = word(decode, words)?.to_be_bytes();
    Ok(if decode.byte == Some(Byte::High) { high } else { low })
}

/// IEEE 754 binary16; every one is exact as a float32.
fn half_float(bits: u16) -> f32 {
    let sign = u32::from(bits >> 15) << 31;
    let exponent = u32::from(bits >> 10 & 0x1F);
    let fraction = u32::from(bits & 0x3FF);
    match exponent {
        // Zero and the subnormals: fraction × 2^-24, which a float32 holds as a normal number.
        0 => {
            let size = fraction as f32 / 16_777_216.0;
            if sign == 0 { size } else { -size }
        }
        0x1F => f32::from_bits(sign | 0xFF << 23 | fraction << 13),
        _ => f32::from_bits(sign | (exponent + 127 - 15) << 23 | fraction << 13),
    }
}

/// Two decimal digits per byte, most significant first.
fn bcd(bytes: &[u8]) -> Result<u64, Cause> {
    bytes.iter().flat_map(|byte| [byte >> 4, byte & 0xF]).try_fold(0, |number, digit| {
        if digit > 9 { Err(Cause::OutOfRange) } else { Ok(number * 10 + u64::from(digit)) }
    })
}

/// Four decimal digits per register, most significant first unless the words are swapped (Schneider PowerLogic).
fn mod10k(order: Order, words: &[u8]) -> Result<u64, Cause> {
    let (words, _) = words.as_chunks::<2>();
    let add = |number: u64, word: &[u8; 2]| {
        let swapped = matches!(order, Order::Badc | Order::Dcba);
        let digits = if swapped { u16::from_le_bytes(*word) } else { u16::from_be_bytes(*word) };
        if digits > 9_999 {
            return Err(Cause::OutOfRange);
        }
        number.checked_mul(10_000).and_then(|n| n.checked_add(digits.into())).ok_or(Cause::OutOfRange)
    };
    match order {
        Order::Abcd | Order::Badc => words.iter().try_fold(0, add),
        Order::Cdab | Order::Dcba => words.iter().rev().try_fold(0, add),
    }
}

/// A string ends at its first NUL; blanks at its end are padding; what is no UTF-8 shows as U+FFFD.
///
/// Of the order only the bytes' place within a register counts: no device was found that sends a text's registers
/// backwards, and a profile whose numbers are CDAB holds its texts in reading order (Carlo Gavazzi EM340).
fn text(decode: &Decode, words: &[u8]) -> Box<str> {
    let swapped = matches!(decode.order, Order::Badc | Order::Dcba);
    let (high, low) = if swapped { (1, 0) } else { (0, 1) };
    let mut bytes = Vec::with_capacity(words.len());
    for word in words.chunks_exact(2) {
        match decode.chars {
            Chars::Both => bytes.extend_from_slice(&[word[high], word[low]]),
            Chars::High => bytes.push(word[high]),
            Chars::Low => bytes.push(word[low]),
        }
    }
    bytes.truncate(bytes.iter().position(|byte| *byte == 0).unwrap_or(bytes.len()));
    std::string::String::from_utf8_lossy(&bytes).trim_end().into()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::compiled::Clock;
    use proptest::prelude::*;

    fn decode(kind: Kind, order: Order) -> Decode {
        Decode { kind, order, byte: None, chars: Chars::Both }
    }

    /// The counterpart, written from MAPPING.md's table: position of each byte on the wire, A the most significant.
    fn on_the_wire(order: Order, value: &[u8]) -> Vec<u8> {
        let places: &[usize] = match (order, value.len()) {
            (Order::Abcd | Order::Cdab, 2) => &[0, 1],
            (Order::Badc | Order::Dcba, 2) => &[1, 0],
            (Order::Abcd, 4) => &[0, 1, 2, 3],
            (Order::Cdab, 4) => &[2, 3, 0, 1],
            (Order::Badc, 4) => &[1, 0, 3, 2],
            (Order::Dcba, 4) => &[3, 2, 1, 0],
            (Order::Abcd, 8) => &[0, 1, 2, 3, 4, 5, 6, 7],
            (Order::Cdab, 8) => &[6, 7, 4, 5, 2, 3, 0, 1],
            (Order::Badc, 8) => &[1, 0, 3, 2, 5, 4, 7, 6],
            (Order::Dcba, 8) => &[7, 6, 5, 4, 3, 2, 1, 0],
            (_, other) => panic!("no value of {other} bytes"),
        };
        places.iter().map(|place| value[*place]).collect()
    }

    const ORDERS: [Order; 4] = [Order::Abcd, Order::Cdab, Order::Badc, Order::Dcba];

    #[test]
    fn half_a_register_is_garbled_whatever_the_type() {
        let fields = Kind::Datetime(Clock { format: ClockFormat::Fields, utc: false });
        let date = [7, 233, 0, 10, 0, 23, 0, 10, 0, 30, 0, 15];
        assert!(registers(&decode(fields, Order::Abcd), &date).is_ok());
        for kind in [fields, Kind::String, Kind::Mod10k, Kind::Uint16] {
            let decode = decode(kind, Order::Abcd);
            assert_eq!(registers(&decode, &[&date[..], &[0]].concat()), Err(Cause::Garbled), "{kind:?}");
        }
    }

    proptest! {
        #[test]
        fn every_type_survives_every_order(bits in any::<u64>()) {
            for order in ORDERS {
                let read = |kind, bytes: &[u8]| registers(&decode(kind, order), &on_the_wire(order, bytes)).unwrap();
                prop_assert_eq!(read(Kind::Int16, &(bits as u16).to_be_bytes()), Raw::Int(i64::from(bits as i16)));
                prop_assert_eq!(read(Kind::Uint16, &(bits as u16).to_be_bytes()), Raw::Uint(bits & 0xFFFF));
                prop_assert_eq!(read(Kind::Int32, &(bits as u32).to_be_bytes()), Raw::Int(i64::from(bits as i32)));
                prop_assert_eq!(read(Kind::Uint32, &(bits as u32).to_be_bytes()), Raw::Uint(bits & 0xFFFF_FFFF));
                prop_assert_eq!(read(Kind::Int64, &bits.to_be_bytes()), Raw::Int(bits as i64));
                prop_assert_eq!(read(Kind::Uint64, &bits.to_be_bytes()), Raw::Uint(bits));
                let Raw::Float32(single) = read(Kind::Float32, &(bits as u32).to_be_bytes()) else { panic!() };
                prop_assert_eq!(single.to_bits(), bits as u32);
                let Raw::Float64(double) = read(Kind::Float64, &bits.to_be_bytes()) else { panic!() };
                prop_assert_eq!(double.to_bits(), bits);
                prop_assert_eq!(read(Kind::Bool, &(bits as u16).to_be_bytes()), Raw::Bool(bits as u16 != 0));
            }
        }

        #[test]
        fn bcd_round_trips_and_bad_digits_are_out_of_range(number in 0u64..100_000_000, bad in 10u8..16, place in 0usize..8) {
            let digits: Vec<u8> = format!("{number:08}").bytes().map(|digit| digit - b'0').collect();
            let packed = |digits: &[u8]| -> Vec<u8> { digits.chunks(2).map(|two| two[0] << 4 | two[1]).collect() };
            for order in ORDERS {
                let wire = on_the_wire(order, &packed(&digits));
                prop_assert_eq!(registers(&decode(Kind::Bcd32, order), &wire), Ok(Raw::Uint(number)));
                let wire = on_the_wire(order, &packed(&digits[4..]));
                prop_assert_eq!(registers(&decode(Kind::Bcd16, order), &wire), Ok(Raw::Uint(number % 10_000)));
                let mut broken = digits.clone();
                broken[place] = bad;
                let wire = on_the_wire(order, &packed(&broken));
                prop_assert_eq!(registers(&decode(Kind::Bcd32, order), &wire), Err(Cause::OutOfRange));
            }
        }

        #[test]
        fn no_bytes_of_any_length_panic(words in prop::collection::vec(any::<u8>(), 0..40), at in 0u32..60) {
            for kind in [Kind::Bool, Kind::Int8, Kind::Int32, Kind::Float64, Kind::Bcd32, Kind::String] {
                let _ = registers(&decode(kind, Order::Cdab), &words);
                for pick in [Pick::Words { at, count: 2 }, Pick::Scattered([at, 3].into()), Pick::Bit(at * 8)] {
                    let _ = cut(&Cut { pick, decode: decode(kind, Order::Dcba) }, &words);
                }
            }
        }
    }

    #[test]
    fn half_floats_are_exact() {
        let known = [
            (0x3C00, 1.0),
            (0xC000, -2.0),
            (0x7BFF, 65504.0),
            (0x0001, 5.960_464_5e-8),
            (0x3555, 0.333_251_95),
        ];
        for (bits, value) in known {
            assert_eq!(half_float(bits), value, "{bits:#06x}");
        }
        assert_eq!(half_float(0x7C00), f32::INFINITY);
        assert_eq!(half_float(0x8000).to_bits(), (-0.0f32).to_bits());
        assert!(half_float(0x7E00).is_nan());
    }

    #[test]
    fn quirk_25_one_byte_of_a_register_is_taken_after_ordering() {
        let mut decode = decode(Kind::Int8, Order::Abcd);
        assert_eq!(registers(&decode, &[0x01, 0xFE]), Ok(Raw::Int(-2)));
        decode.byte = Some(Byte::High);
        assert_eq!(registers(&decode, &[0x01, 0xFE]), Ok(Raw::Int(1)));
        decode.order = Order::Badc;
        assert_eq!(registers(&decode, &[0x01, 0xFE]), Ok(Raw::Int(-2)));
    }

    #[test]
    fn quirk_26_modulo_10000_registers_are_decimal_digits() {
        let wire = [0x00, 0x01, 0x27, 0x0F, 0x04, 0xD2];
        assert_eq!(registers(&decode(Kind::Mod10k, Order::Abcd), &wire), Ok(Raw::Uint(1_9999_1234)));
        assert_eq!(registers(&decode(Kind::Mod10k, Order::Cdab), &wire), Ok(Raw::Uint(1234_9999_0001)));
        assert_eq!(registers(&decode(Kind::Mod10k, Order::Abcd), &[0x27, 0x10]), Err(Cause::OutOfRange));
    }

    #[test]
    fn quirk_27_strings_lose_their_padding_and_never_fail() {
        let mut decode = decode(Kind::String, Order::Abcd);
        let text = |decode: &Decode, words: &[u8]| match registers(decode, words) {
            Ok(Raw::Text(text)) => text.to_string(),
            other => panic!("{other:?}"),
        };
        assert_eq!(text(&decode, b"SE10K \0\0zz"), "SE10K");
        assert_eq!(text(&decode, b"\xFFA  "), "\u{FFFD}A");
        decode.order = Order::Dcba;
        assert_eq!(text(&decode, b"ES01 K"), "SE10K");
        decode.order = Order::Cdab;
        decode.chars = Chars::High;
        assert_eq!(text(&decode, b"S.O.C.O."), "SOCO");
        decode.chars = Chars::Low;
        assert_eq!(text(&decode, b".S.O.C.O"), "SOCO");
    }

    #[test]
    fn a_split_value_is_gathered_most_significant_first() {
        let far = Cut { pick: Pick::Scattered([2, 0].into()), decode: decode(Kind::Int32, Order::Abcd) };
        assert_eq!(cut(&far, &[0x00, 0x05, 0xFF, 0xFF]), Ok(Raw::Int(-65531)));
    }

    #[test]
    fn bits_are_counted_from_the_lowest() {
        let bit = |at| {
            cut(&Cut { pick: Pick::Bit(at), decode: decode(Kind::Bool, Order::Abcd) }, &[0b0000_0100, 1])
        };
        assert_eq!(
            (bit(2), bit(3), bit(8)),
            (Ok(Raw::Bool(true)), Ok(Raw::Bool(false)), Ok(Raw::Bool(true)))
        );
        assert_eq!(bit(16), Err(Cause::Garbled));
    }
}
