//! The mapping backwards: what is refused, and that forwards and backwards agree.

use std::sync::Arc;

use proptest::prelude::*;

use super::*;
use crate::mapping::compiled::{Decode, Order, PointIx, Reading};
use crate::mapping::write::{Allowed, Function};
use crate::model::place::Table;
use crate::model::value::Cause;

fn dec(text: &str) -> Decimal {
    text.parse().unwrap()
}

fn target(kind: Kind, transform: Transform) -> Target {
    let count = kind.registers().unwrap_or(4);
    let decode = Decode { kind, order: Order::Abcd, byte: None, chars: Chars::Both };
    Target {
        name: "p".into(),
        unit: None,
        reading: Reading { place: Place::Run { table: Table::Holding, address: 0, count }, decode },
        order: Order::Abcd,
        transform,
        function: Function::Registers,
        allowed: Allowed::default(),
        refresh: None,
        readable: true,
    }
}

fn scaled(scale: &str, offset: &str) -> Transform {
    Transform { scale: Some(dec(scale)), offset: Some(dec(offset)), ..Transform::default() }
}

/// What comes of a text: the raw value, or why not.
fn written(target: &Target, text: &str) -> Result<Raw, String> {
    let setting = parse(text, target).and_then(|value| target.setting(&value, None));
    setting.map(|setting| setting.raw).map_err(|refusal| refusal.to_string())
}

#[test]
fn a_value_between_two_steps_is_refused_with_both() {
    let current = target(Kind::Uint16, scaled("0.1", "0"));
    assert_eq!(written(&current, "16"), Ok(Raw::Uint(160)));
    assert_eq!(
        written(&current, "16.05").unwrap_err(),
        "16.05 lies between two values that it can have: 16 and 16.1"
    );
    let falling = target(Kind::Int16, scaled("-0.5", "10"));
    assert_eq!(written(&falling, "9.5"), Ok(Raw::Int(1)));
    assert_eq!(
        written(&falling, "9.7").unwrap_err(),
        "9.7 lies between two values that it can have: 9.5 and 10"
    );
}

#[test]
fn what_the_type_cannot_hold_is_refused_with_its_range() {
    let current = target(Kind::Uint16, scaled("0.1", "0"));
    let refused = "6553.6 is out of range: the type holds 0 to 6553.5";
    assert_eq!(written(&current, "6553.6").unwrap_err(), refused);
    assert!(written(&current, "6553.55").unwrap_err().contains("out of range"), "no neighbour above");
    assert!(written(&current, "-0.1").unwrap_err().contains("the type holds 0 to 6553.5"));
    assert!(written(&target(Kind::Bcd16, Transform::default()), "10000").is_err());
    let half = target(Kind::Float16, Transform::default());
    assert!(written(&half, "65505").unwrap_err().contains("out of range"));
    assert_eq!(written(&half, "65504"), Ok(Raw::Float32(65504.0)));
    assert!(written(&target(Kind::Float32, Transform::default()), "1e39").is_err());
    let wide = target(Kind::Uint64, scaled("0.01", "0"));
    assert_eq!(written(&wide, "184467440737095516.15"), Ok(Raw::Uint(u64::MAX)));
}

#[test]
fn quirk_29_range_and_single_values_limit_what_is_written() {
    let mut current = target(Kind::Uint16, scaled("0.1", "0"));
    current.allowed = Allowed { range: Some((dec("6"), dec("16"))), also: vec![dec("0")] };
    assert_eq!(written(&current, "6"), Ok(Raw::Uint(60)));
    assert_eq!(written(&current, "0"), Ok(Raw::Uint(0)));
    assert_eq!(written(&current, "5.9").unwrap_err(), "5.9 is not allowed: 6 to 16, or 0 is");
    assert_eq!(written(&current, "16.1").unwrap_err(), "16.1 is not allowed: 6 to 16, or 0 is");
}

fn labels(pairs: &[(i64, &str)]) -> Transform {
    let labels = pairs.iter().map(|(number, text)| (*number, Arc::from(*text))).collect();
    Transform { labels, ..Transform::default() }
}

#[test]
fn a_text_of_an_enum_is_its_number_when_it_is_the_only_one() {
    let mode = target(Kind::Uint16, labels(&[(0, "off"), (1, "eco"), (2, "boost"), (3, "boost"), (9, "1")]));
    assert_eq!(written(&mode, "eco"), Ok(Raw::Uint(1)));
    assert_eq!(written(&mode, "1"), Ok(Raw::Uint(9)), "a text comes before a number");
    assert_eq!(written(&mode, "2"), Ok(Raw::Uint(2)), "by its number");
    assert!(written(&mode, "boost").unwrap_err().contains("several numbers (2, 3)"));
    assert!(written(&mode, "ecco").unwrap_err().contains("none of its texts: off, eco, boost, boost, 1"));
    assert!(written(&mode, "7").unwrap_err().contains("7 has no text"));
    let mut open = mode;
    open.allowed.range = Some((dec("0"), dec("7")));
    assert_eq!(written(&open, "7"), Ok(Raw::Uint(7)));
}

#[test]
fn not_available_cannot_be_written() {
    let sentinel = Transform { invalid: vec![Raw::Int(-32768)], ..scaled("0.1", "0") };
    let refused = written(&target(Kind::Int16, sentinel), "-3276.8").unwrap_err();
    assert_eq!(refused, "-3276.8 means \"not available\" there");
}

#[test]
fn a_scale_factor_must_be_known() {
    let from = Transform { scale_from: Some(PointIx(0)), ..Transform::default() };
    let power = target(Kind::Int16, from);
    let value = Value::Number(dec("51.2"));
    assert_eq!(power.setting(&value, None), Err(Refusal::NoScaleFactor));
    assert_eq!(power.setting(&value, Some(-1)).unwrap().raw, Raw::Int(512));
    assert!(matches!(power.setting(&value, Some(0)), Err(Refusal::Between { .. })));
}

#[test]
fn bits_and_masks_say_which_bits_change() {
    let bit = target(Kind::Uint16, Transform { select: Select::Bit(3), ..Transform::default() });
    for (text, raw) in [("true", 8), ("on", 8), ("1", 8), ("false", 0), ("off", 0)] {
        let setting = bit.setting(&parse(text, &bit).unwrap(), None).unwrap();
        assert_eq!(setting, Setting { raw: Raw::Uint(raw), mask: Some(8) });
    }
    assert!(parse("2", &bit).is_err() && parse("maybe", &bit).is_err());
    let mask = target(Kind::Uint16, Transform { select: Select::Mask(0x0F30), ..Transform::default() });
    let set = |number: i64| mask.setting(&Value::Number(number.into()), None);
    assert_eq!(set(0xF3), Ok(Setting { raw: Raw::Uint(0x0F30), mask: Some(0x0F30) }));
    assert!(matches!(set(0x04), Err(Refusal::OutsideMask { .. })));
    assert!(matches!(set(0x100), Err(Refusal::OutOfType { .. })));
}

#[test]
fn texts_must_fit_and_come_back() {
    let name = target(Kind::String, Transform::default());
    assert_eq!(written(&name, "12345678"), Ok(Raw::Text("12345678".into())));
    assert!(written(&name, "123456789").unwrap_err().contains("9 bytes, and there is room for 8"));
    assert!(written(&name, "ab ").unwrap_err().contains("lost"));
    assert!(written(&name, "a\0b").unwrap_err().contains("lost"));
    assert_eq!(name.setting(&Value::Bool(true), None), Err(Refusal::NotAText));
}

#[test]
fn only_numbers_are_numbers() {
    let number = target(Kind::Int16, Transform::default());
    for text in ["abc", "", "inf", "nan", "NaN", "0x10", "1,5", "-inf"] {
        assert!(written(&number, text).is_err(), "{text}");
    }
    assert!(written(&target(Kind::Float64, Transform::default()), "nan").is_err());
    assert_eq!(written(&target(Kind::Float64, Transform::default()), "1e300"), Ok(Raw::Float64(1e300)));
}

const WHOLE: [Kind; 10] = [
    Kind::Int8,
    Kind::Int16,
    Kind::Int32,
    Kind::Int64,
    Kind::Uint8,
    Kind::Uint16,
    Kind::Uint32,
    Kind::Uint64,
    Kind::Bcd16,
    Kind::Bcd32,
];

/// A raw value of the type, of any 64 bits.
fn raw_of(kind: Kind, bits: u64) -> Raw {
    let (low, high) = span(kind);
    let number = low + i128::from(bits) % (high - low + 1);
    if low < 0 { Raw::Int(number as i64) } else { Raw::Uint(number as u64) }
}

fn same(a: &Raw, b: &Raw) -> bool {
    match (a, b) {
        (Raw::Float32(a), Raw::Float32(b)) => a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0),
        (Raw::Float64(a), Raw::Float64(b)) => a.to_bits() == b.to_bits() || (*a == 0.0 && *b == 0.0),
        (a, b) => a == b,
    }
}

fn scale() -> impl Strategy<Value = Option<Decimal>> {
    let some = (any::<i32>().prop_filter("a scale", |n| *n != 0), 0u8..8);
    prop_oneof![
        Just(None),
        Just(Some(dec("0.1"))),
        Just(Some(dec("-0.001"))),
        Just(Some(dec("3"))),
        some.prop_map(|(mantissa, scale)| Decimal::try_new(mantissa.into(), scale)),
    ]
}

fn offset() -> impl Strategy<Value = Option<Decimal>> {
    let some = (any::<i32>(), 0u8..6).prop_map(|(mantissa, scale)| Decimal::try_new(mantissa.into(), scale));
    prop_oneof![Just(None), some]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(1_000))]

    #[test]
    fn what_was_read_is_written_back_as_it_was(
        bits in any::<u64>(), scale in scale(), offset in offset(), exponent in prop::option::of(-6i32..7)
    ) {
        let scale_from = exponent.map(|_| PointIx(0));
        let transform = Transform { scale, offset, scale_from, ..Transform::default() };
        for kind in WHOLE {
            let raw = raw_of(kind, bits);
            let value = apply(&raw, &transform, exponent).unwrap();
            // Where no decimal holds the value it was read as a rounded float: no way leads back.
            if matches!(value, Value::Float64(_)) {
                continue;
            }
            let target = target(kind, transform.clone());
            let setting = target.setting(&value, exponent).unwrap();
            prop_assert_eq!(&setting.raw, &raw);
            prop_assert_eq!(apply(&setting.raw, &transform, exponent), Ok(value));
        }
        let floats = [
            (Kind::Float16, Format::Half.raw((bits % 0x7C00) as i64 * if bits >> 63 == 1 { -1 } else { 1 })),
            (Kind::Float32, Raw::Float32(f32::from_bits(bits as u32))),
            (Kind::Float64, Raw::Float64(f64::from_bits(bits))),
        ];
        for (kind, raw) in floats {
            let value = match apply(&raw, &transform, exponent) {
                Err(Cause::NotFinite) => continue,
                value => value.unwrap(),
            };
            if decimal_of(&value).is_none() || (matches!(value, Value::Float64(_)) && target(kind, transform.clone()).transform != Transform::default()) {
                continue;
            }
            let setting = target(kind, transform.clone()).setting(&value, exponent).unwrap();
            prop_assert!(same(&setting.raw, &raw), "{kind:?} {raw:?} {value:?} {:?}", setting.raw);
        }
    }

    #[test]
    fn a_whole_number_is_hit_exactly_or_refused(
        mantissa in any::<i64>(), decimals in 0u8..10, scale in scale(), offset in offset()
    ) {
        let wanted = Decimal::try_new(mantissa.into(), decimals).unwrap();
        let transform = Transform { scale, offset, ..Transform::default() };
        for kind in WHOLE {
            match target(kind, transform.clone()).setting(&Value::Number(wanted), None) {
                Ok(setting) => prop_assert_eq!(apply(&setting.raw, &transform, None), Ok(Value::Number(wanted))),
                Err(Refusal::Between { below, above, .. }) => {
                    prop_assert!(dec(&below) < wanted && wanted < dec(&above));
                    for near in [below, above] {
                        prop_assert!(target(kind, transform.clone()).setting(&Value::Number(dec(&near)), None).is_ok());
                    }
                }
                Err(Refusal::OutOfType { low, high, .. }) => {
                    prop_assert!(wanted < dec(&low) || dec(&high) < wanted);
                }
                Err(other) => prop_assert!(false, "{other}"),
            }
        }
    }

    #[test]
    fn a_float_takes_the_nearest_value_that_it_has(value in -60_000f64..60_000.0) {
        let wanted = Decimal::from_f64(value).unwrap();
        for (kind, format) in [(Kind::Float16, Format::Half), (Kind::Float32, Format::Single)] {
            let setting = target(kind, Transform::default()).setting(&Value::Number(wanted), None).unwrap();
            let Raw::Float32(near) = setting.raw else { panic!("{setting:?}") };
            let ordinal = format.nearest(f64::from(near)).unwrap();
            let far = |ordinal| match format.raw(ordinal) {
                Raw::Float32(float) => Decimal::from_f32(float).unwrap().checked_sub(wanted).unwrap().abs(),
                raw => panic!("{raw:?}"),
            };
            prop_assert!(far(ordinal) <= far(ordinal - 1) && far(ordinal) <= far(ordinal + 1));
        }
    }

    #[test]
    fn any_text_for_any_type_is_written_or_refused(text in ".{0,12}", bits in any::<u64>()) {
        for kind in WHOLE.into_iter().chain([Kind::Float16, Kind::Float32, Kind::Float64, Kind::String]) {
            for select in [Select::Whole, Select::Bit((bits % 64) as u8), Select::Mask(bits.max(1))] {
                let target = target(kind, Transform { select, ..Transform::default() });
                let _ = written(&target, &text);
                let _ = written(&target, &bits.to_string());
            }
        }
    }
}
