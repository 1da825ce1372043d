//! What registers may mean: every type in every order, and which of these meanings is the likeliest. Pure.
//!
//! A rank is a sum of penalties, each a guess of its own: an address that is off by one is more likely than one that
//! is off by two, CDAB than BADC, a scale of 0.1 than one of 0.001. They order what fits; they decide nothing.

use std::collections::BTreeMap;

use super::expect::Expect;
use crate::drivers::modbus::decode;
use crate::mapping::compiled::{Byte, Chars, Decode, Kind, Order};
use crate::model::decimal::Decimal;
use crate::model::value::Raw;

/// Registers by their address.
pub type Words = BTreeMap<u16, u16>;

/// A way to read a value.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Way {
    /// The type.
    pub kind: Kind,
    /// The order of its bytes.
    pub order: Order,
    /// Half of the register, of 8-bit types.
    pub byte: Option<Byte>,
}

/// A value that registers may hold.
#[derive(Clone, Debug, PartialEq)]
pub struct Meaning {
    /// The first register.
    pub address: u16,
    /// How it is read.
    pub way: Way,
    /// What to multiply with.
    pub scale: Decimal,
    /// What comes of it.
    pub value: Decimal,
    /// The signed type gives the same value.
    pub or_signed: bool,
    /// The smaller, the likelier.
    pub rank: u32,
}

const TYPES: [(Kind, &str, u32); 13] = [
    (Kind::Uint16, "uint16", 5),
    (Kind::Int16, "int16", 6),
    (Kind::Float32, "float32", 0),
    (Kind::Uint32, "uint32", 6),
    (Kind::Int32, "int32", 7),
    (Kind::Float64, "float64", 2),
    (Kind::Uint64, "uint64", 12),
    (Kind::Int64, "int64", 13),
    (Kind::Float16, "float16", 20),
    (Kind::Bcd16, "bcd16", 16),
    (Kind::Bcd32, "bcd32", 16),
    (Kind::Uint8, "uint8", 25),
    (Kind::Int8, "int8", 26),
];

const ORDERS: [(Order, u32); 4] = [(Order::Abcd, 0), (Order::Cdab, 4), (Order::Dcba, 8), (Order::Badc, 10)];

/// A register whose own two bytes are swapped is rare.
const SWAPPED_WORD: u32 = 14;

/// Scales as they are found in the field, with their penalties.
const SCALES: [(i128, u8, u32); 5] = [(1, 0, 0), (1, 1, 3), (1, 2, 6), (1, 3, 10), (10, 0, 14)];

/// Devices scale whole numbers; a float comes in its unit.
const SCALED_FLOAT: u32 = 12;

/// All ways there are, in the order that they are shown in.
pub fn ways() -> impl Iterator<Item = Way> {
    TYPES.iter().flat_map(|(kind, _, _)| ways_of(*kind))
}

fn ways_of(kind: Kind) -> Vec<Way> {
    let ordered = |order| Way { kind, order, byte: None };
    match kind {
        Kind::Uint8 | Kind::Int8 => {
            [Byte::High, Byte::Low].map(|half| Way { byte: Some(half), ..ordered(Order::Abcd) }).into()
        }
        _ if kind.registers() == Some(1) => [Order::Abcd, Order::Badc].map(ordered).into(),
        _ => ORDERS.map(|(order, _)| ordered(order)).into(),
    }
}

impl Way {
    /// `float32`
    pub fn type_word(self) -> &'static str {
        TYPES.iter().find(|(kind, _, _)| *kind == self.kind).map_or("", |(_, word, _)| word)
    }

    /// `CDAB`, `high`
    pub fn order_word(self) -> &'static str {
        match (self.byte, self.kind.registers(), self.order) {
            (Some(Byte::High), ..) => "high",
            (Some(Byte::Low), ..) => "low",
            (None, Some(1), Order::Abcd | Order::Cdab) => "AB",
            (None, Some(1), _) => "BA",
            (None, _, Order::Abcd) => "ABCD",
            (None, _, Order::Cdab) => "CDAB",
            (None, _, Order::Badc) => "BADC",
            (None, _, Order::Dcba) => "DCBA",
        }
    }

    /// The raw value that begins at an address, if all of its registers are known and hold one.
    pub fn read(self, words: &Words, address: u16) -> Option<Raw> {
        let mut bytes = Vec::with_capacity(8);
        for offset in 0..self.kind.registers()? {
            bytes.extend(words.get(&address.checked_add(offset)?)?.to_be_bytes());
        }
        let decode = Decode { kind: self.kind, order: self.order, byte: self.byte, chars: Chars::Both };
        decode::registers(&decode, &bytes).ok()
    }

    fn penalty(self) -> u32 {
        let kind = TYPES.iter().find(|(kind, _, _)| *kind == self.kind).map_or(0, |(_, _, penalty)| *penalty);
        let order = match (self.kind.registers(), self.order) {
            (Some(1), Order::Abcd) => 0,
            (Some(1), _) => SWAPPED_WORD,
            (_, order) => ORDERS.iter().find(|(known, _)| *known == order).map_or(0, |(_, penalty)| *penalty),
        };
        kind + order
    }

    fn is_float(self) -> bool {
        matches!(self.kind, Kind::Float16 | Kind::Float32 | Kind::Float64)
    }
}

/// The number of a raw value; `None` for what is no finite number, or has more digits than a decimal.
pub fn number(raw: &Raw) -> Option<Decimal> {
    match raw {
        Raw::Int(number) => Some(Decimal::from(*number)),
        Raw::Uint(number) => Some(Decimal::from(*number)),
        Raw::Float32(float) => Decimal::from_f32(*float),
        Raw::Float64(float) => Decimal::from_f64(*float),
        Raw::Bool(_) | Raw::Text(_) | Raw::Json(_) => None,
    }
}

/// Everything near `asked` that may be the expected value, the likeliest first.
pub fn fitting(words: &Words, asked: &[u16], starts: &[u16], expect: Expect) -> Vec<Meaning> {
    let mut found = Vec::new();
    for address in starts {
        for way in ways() {
            let Some(raw) = way.read(words, *address).as_ref().and_then(number) else { continue };
            for (mantissa, decimals, penalty) in SCALES {
                let Some(scale) = Decimal::try_new(mantissa, decimals) else { continue };
                let Some(value) = raw.checked_mul(scale).filter(|value| expect.takes(*value)) else {
                    continue;
                };
                let scaled_float = if way.is_float() && penalty > 0 { SCALED_FLOAT } else { 0 };
                let closeness = (expect.distance(value) * 4.0) as u32;
                let rank = off(*address, asked) + way.penalty() + penalty + scaled_float + closeness;
                found.push(Meaning { address: *address, way, scale, value, or_signed: false, rank });
            }
        }
    }
    merge_signs(&mut found);
    found.sort_by_key(|meaning| (meaning.rank, meaning.address));
    found
}

/// What looks like a measurement at the addresses asked for, unscaled, the likeliest first.
pub fn plausible(words: &Words, asked: &[u16], starts: &[u16]) -> Vec<Meaning> {
    let mut found = Vec::new();
    for address in starts {
        for way in ways().filter(|way| way.penalty() < 16) {
            let Some(value) = way.read(words, *address).as_ref().and_then(number) else { continue };
            let size = value.to_f64().abs();
            let ordinary = match way.kind {
                // Random bits are a float of ordinary size once in ten times, and an integer that small much less often.
                _ if way.is_float() => (1e-3..1e7).contains(&size) && value.to_string().len() <= 10,
                Kind::Uint16 | Kind::Int16 => (1.0..32_768.0).contains(&size),
                _ => (65_536.0..1e8).contains(&size),
            };
            if ordinary {
                let rank = off(*address, asked) + way.penalty();
                let (scale, or_signed) = (Decimal::ONE, false);
                found.push(Meaning { address: *address, way, scale, value, or_signed, rank });
            }
        }
    }
    merge_signs(&mut found);
    found.sort_by_key(|meaning| (meaning.rank, meaning.address));
    found
}

/// How far off: vendors' lists that count from 1 make -1 the likeliest neighbour.
fn off(address: u16, asked: &[u16]) -> u32 {
    let (Some(first), Some(last)) = (asked.first(), asked.last()) else { return 0 };
    match i32::from(address) {
        address if address < i32::from(*first) => match i32::from(*first) - address {
            1 => 10,
            distance => 20 + 5 * distance.unsigned_abs(),
        },
        address if address > i32::from(*last) => match address - i32::from(*last) {
            1 => 15,
            distance => 20 + 5 * distance.unsigned_abs(),
        },
        _ => 0,
    }
}

/// A positive value of both the unsigned and the signed type is named once.
fn merge_signs(found: &mut Vec<Meaning>) {
    let unsigned = |kind| match kind {
        Kind::Int8 => Some(Kind::Uint8),
        Kind::Int16 => Some(Kind::Uint16),
        Kind::Int32 => Some(Kind::Uint32),
        Kind::Int64 => Some(Kind::Uint64),
        _ => None,
    };
    let mut signed = Vec::new();
    found.retain(|meaning| match unsigned(meaning.way.kind) {
        Some(kind) if meaning.value >= Decimal::ZERO => {
            signed.push((meaning.address, Way { kind, ..meaning.way }, meaning.scale));
            false
        }
        _ => true,
    });
    for meaning in found {
        meaning.or_signed = signed.contains(&(meaning.address, meaning.way, meaning.scale));
    }
}

impl Meaning {
    /// The line of a profile: `holding_100: {holding: 100, type: float32, order: CDAB}`; `base` is its address_base.
    pub fn yaml(&self, table: &str, base: u16) -> String {
        let number = u32::from(self.address) + u32::from(base);
        let mut line = format!("{table}_{number}: {{{table}: {number}, type: {}", self.way.type_word());
        match (self.way.byte, self.way.order_word()) {
            (Some(_), half) => line += &format!(", byte: {half}"),
            (None, "AB" | "ABCD") => {}
            (None, order) => line += &format!(", order: {order}"),
        }
        if self.scale != Decimal::ONE {
            line += &format!(", scale: {}", self.scale);
        }
        line + "}"
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn words(from: u16, values: &[u16]) -> Words {
        (from..).zip(values.iter().copied()).collect()
    }

    fn best(words: &Words, asked: u16, expect: &str) -> String {
        let starts: Vec<u16> = (asked - 1..=asked + 1).collect();
        let found = fitting(words, &[asked], &starts, expect.parse().unwrap());
        found[0].yaml("holding", 0)
    }

    #[test]
    fn the_likeliest_reading_comes_first() {
        let [high, low] = [0x4366, 0x6666]; // 230.4 as a float32
        assert_eq!(
            best(&words(99, &[0, high, low, 0, 0]), 100, "230±10"),
            "holding_100: {holding: 100, type: float32}"
        );
        assert_eq!(
            best(&words(99, &[0, low, high, 0, 0]), 100, "230±10"),
            "holding_100: {holding: 100, type: float32, order: CDAB}"
        );
        assert_eq!(
            best(&words(99, &[high, low, 0, 0, 0]), 100, "230±10"),
            "holding_99: {holding: 99, type: float32}"
        );
        assert_eq!(
            best(&words(99, &[0, 2304, 0, 0, 0]), 100, "230±10"),
            "holding_100: {holding: 100, type: uint16, scale: 0.1}"
        );
        assert_eq!(
            best(&words(99, &[0, 0xFFFF, 0xCFC7, 0, 0]), 100, "-1234.5"),
            "holding_100: {holding: 100, type: int32, scale: 0.1}"
        );
    }

    #[test]
    fn a_value_of_both_signs_is_named_once() {
        let found = fitting(&words(100, &[230]), &[100], &[100], "230".parse().unwrap());
        let uint16: Vec<_> = found.iter().filter(|m| m.way.type_word().ends_with("int16")).collect();
        assert_eq!((uint16.len(), uint16[0].way.kind, uint16[0].or_signed), (1, Kind::Uint16, true));
    }

    #[test]
    fn every_type_and_order_is_a_way_of_its_own() {
        let all: Vec<Way> = ways().collect();
        assert_eq!(all.len(), 4 * 2 + 7 * 4 + 2 * 2);
        let distinct = all.iter().enumerate().all(|(at, way)| !all[..at].contains(way));
        assert!(distinct);
    }

    proptest! {
        #[test]
        fn what_is_listed_is_in_the_range_and_reads_as_listed(
            values in prop::collection::vec(any::<u16>(), 7), low in -1000i64..1000, width in 0i64..500
        ) {
            let words = words(98, &values);
            let expect = Expect { low: low.into(), high: (low + width).into() };
            let found = fitting(&words, &[100], &[99, 100, 101], expect);
            for meaning in &found {
                let raw = meaning.way.read(&words, meaning.address).unwrap();
                prop_assert_eq!(number(&raw).unwrap().checked_mul(meaning.scale), Some(meaning.value));
                prop_assert!(expect.takes(meaning.value));
            }
            prop_assert!(found.windows(2).all(|pair| pair[0].rank <= pair[1].rank));
        }

        #[test]
        fn a_value_that_is_there_is_found(value in -30_000i16..30_000, place in 0usize..3) {
            let mut values = vec![0x5555; 7];
            values[place + 1] = value.cast_unsigned();
            let around = Expect { low: i64::from(value).into(), high: i64::from(value).into() };
            let found = fitting(&words(98, &values), &[100], &[99, 100, 101], around);
            let at = 99 + place as u16;
            let is_it = |m: &Meaning| m.address == at && m.scale == Decimal::ONE && m.way.order_word() == "AB";
            prop_assert!(found.iter().any(is_it));
        }
    }
}
