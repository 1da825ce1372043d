//! From raw readings to values: select, invalid, label, scale, plausible; in exact decimals.

use super::compiled::{Deadband, DeviceMap, PointIx, ReadingIx, Select, Source, Transform};
use super::device::Read;
use crate::model::decimal::Decimal;
use crate::model::value::{Cause, Raw, Value};

/// A mapped point of one batch.
pub type Sample = (PointIx, Result<Value, Cause>);

/// Computes a read's points, in the order of `read.points`, appending to `samples`.
///
/// `readings` are in the order of `read.readings`. A point whose parts are not all there is bad, never guessed.
/// `slots` is scratch space that callers keep between calls.
pub fn evaluate(
    map: &DeviceMap,
    read: &Read,
    readings: &[Result<Raw, Cause>],
    slots: &mut Vec<u32>,
    samples: &mut Vec<Sample>,
) {
    slots.clear();
    slots.resize(map.readings.len(), u32::MAX);
    for (slot, reading) in read.readings.iter().enumerate() {
        slots[reading.0 as usize] = slot as u32;
    }
    let raw_of = |ix: ReadingIx| -> Result<&Raw, Cause> {
        let slot = slots.get(ix.0 as usize).map(|slot| *slot as usize).unwrap_or(usize::MAX);
        readings.get(slot).map_or(Err(Cause::Dependency), |raw| raw.as_ref().map_err(|cause| *cause))
    };
    let first = samples.len();
    for &ix in &read.points {
        let point = &map.points[ix.0 as usize];
        let done = &samples[first..];
        let value = match &point.source {
            Source::Reading(reading) => raw_of(*reading).and_then(|raw| {
                let exponent = point.transform.scale_from.map(|from| exponent(done, from)).transpose()?;
                apply(raw, &point.transform, exponent)
            }),
            Source::Sum(terms) => sum(done, terms).and_then(|sum| scaled(sum, &point.transform, None)),
        };
        let value = match &point.plausible {
            Some(range) => value.and_then(|value| plausible(value, range)),
            None => value,
        };
        samples.push((ix, value));
    }
}

/// The value, if it is a number (or a text) that can be true.
fn plausible(value: Value, (low, high): &(Decimal, Decimal)) -> Result<Value, Cause> {
    let is_inside = match (&value, value.as_f64()) {
        (Value::Number(number), _) => low <= number && number <= high,
        (_, Some(float)) => low.to_f64() <= float && float <= high.to_f64(),
        (_, None) => true,
    };
    if is_inside { Ok(value) } else { Err(Cause::Implausible) }
}

/// Should this value be published, given the last one that was?
pub fn moved(deadband: &Deadband, last: &Value, value: &Value) -> bool {
    if let (Value::Number(last), Value::Number(value)) = (last, value) {
        let limit = match deadband {
            Deadband::Absolute(limit) => Some(*limit),
            Deadband::Percent(percent) => {
                Decimal::try_new(1, 2).and_then(|cent| percent.checked_mul(cent)?.checked_mul(last.abs()))
            }
        };
        if let (Some(distance), Some(limit)) = (value.checked_sub(*last), limit) {
            return !distance.is_zero() && distance.abs() >= limit;
        }
    }
    match (last.as_f64(), value.as_f64()) {
        (Some(last), Some(value)) => {
            let limit = match deadband {
                Deadband::Absolute(limit) => limit.to_f64(),
                Deadband::Percent(percent) => percent.to_f64() / 100.0 * last.abs(),
            };
            last != value && (value - last).abs() >= limit
        }
        _ => last != value,
    }
}

/// The value of an already computed point.
fn value_of(samples: &[Sample], ix: PointIx) -> Result<&Value, Cause> {
    let found = samples.iter().find(|(point, _)| *point == ix).map(|(_, value)| value);
    found.and_then(|value| value.as_ref().ok()).ok_or(Cause::Dependency)
}

/// The exponent that a SunSpec scale factor gives.
fn exponent(samples: &[Sample], from: PointIx) -> Result<i32, Cause> {
    match value_of(samples, from)? {
        Value::Number(number) => number.to_i64().and_then(|n| i32::try_from(n).ok()).ok_or(Cause::OutOfRange),
        _ => Err(Cause::OutOfRange),
    }
}

fn sum(samples: &[Sample], terms: &[(PointIx, Decimal)]) -> Result<Number, Cause> {
    let mut exact = Some(Decimal::ZERO);
    let mut float = 0.0;
    for (ix, factor) in terms {
        let value = value_of(samples, *ix)?;
        float += value.as_f64().ok_or(Cause::Dependency)? * factor.to_f64();
        exact = exact
            .and_then(|sum| decimal_of(value)?.checked_mul(*factor).and_then(|term| sum.checked_add(term)));
    }
    Ok(exact.map_or(Number::Float(float), Number::Exact))
}

/// The exact decimal of a value, if it has one.
pub fn decimal_of(value: &Value) -> Option<Decimal> {
    match value {
        Value::Number(number) => Some(*number),
        Value::Bool(bit) => Some(Decimal::from(i64::from(*bit))),
        Value::Float32(float) => Decimal::from_f32(*float),
        Value::Float64(float) => Decimal::from_f64(*float),
        Value::Flags(word) => Some(Decimal::from(*word)),
        Value::Text(_) | Value::Json(_) => None,
    }
}

/// A number on its way through scale and offset.
#[derive(Clone, Copy)]
enum Number {
    Exact(Decimal),
    Float(f64),
}

/// One raw value through one transform. `exponent` is the value of `scale_from`.
pub fn apply(raw: &Raw, transform: &Transform, exponent: Option<i32>) -> Result<Value, Cause> {
    if transform.invalid.contains(raw) {
        return Err(Cause::Invalid);
    }
    let number = match (raw, &transform.select) {
        (Raw::Json(json), _) => return Ok(Value::Json(json.as_ref().into())),
        (Raw::Text(text), _) => return Ok(Value::Text(text.as_ref().into())),
        (Raw::Bool(bit), _) => return Ok(labelled(i64::from(*bit), transform).unwrap_or(Value::Bool(*bit))),
        (Raw::Float32(float), _) => {
            if !float.is_finite() {
                return Err(Cause::NotFinite);
            }
            if !transform.scales() && exponent.is_none() {
                return Ok(Value::Float32(*float));
            }
            Decimal::from_f32(*float).map_or(Number::Float(f64::from(*float)), Number::Exact)
        }
        (Raw::Float64(float), _) => {
            if !float.is_finite() {
                return Err(Cause::NotFinite);
            }
            if !transform.scales() && exponent.is_none() {
                return Ok(Value::Float64(*float));
            }
            Decimal::from_f64(*float).map_or(Number::Float(*float), Number::Exact)
        }
        (Raw::Int(int), Select::Whole) => match labelled(*int, transform) {
            Some(label) => return Ok(label),
            None => Number::Exact(Decimal::from(*int)),
        },
        (Raw::Uint(uint), Select::Whole) => {
            match i64::try_from(*uint).ok().and_then(|n| labelled(n, transform)) {
                Some(label) => return Ok(label),
                None => Number::Exact(Decimal::from(*uint)),
            }
        }
        (Raw::Int(int), select) => match selected(*int as u64, select, transform) {
            Selected::Value(value) => return Ok(value),
            Selected::Number(number) => Number::Exact(Decimal::from(number)),
        },
        (Raw::Uint(uint), select) => match selected(*uint, select, transform) {
            Selected::Value(value) => return Ok(value),
            Selected::Number(number) => Number::Exact(Decimal::from(number)),
        },
    };
    scaled(number, transform, exponent)
}

enum Selected {
    Value(Value),
    Number(u64),
}

/// The selected bits of an integer's two's complement.
fn selected(word: u64, select: &Select, transform: &Transform) -> Selected {
    let number = match select {
        Select::Whole => word,
        Select::Bit(bit) => {
            let set = word.checked_shr(u32::from(*bit)).unwrap_or(0) & 1;
            return Selected::Value(labelled(set as i64, transform).unwrap_or(Value::Bool(set == 1)));
        }
        Select::Mask(mask) => (word & mask) >> mask.trailing_zeros().min(63),
        Select::Flags(_) => return Selected::Value(Value::Flags(word)),
    };
    match i64::try_from(number).ok().and_then(|n| labelled(n, transform)) {
        Some(label) => Selected::Value(label),
        None => Selected::Number(number),
    }
}

fn labelled(number: i64, transform: &Transform) -> Option<Value> {
    transform.labels.get(&number).map(|label| Value::Text(label.clone()))
}

/// number × scale × 10^exponent + offset: exact where a decimal holds it, else as a float.
fn scaled(number: Number, transform: &Transform, exponent: Option<i32>) -> Result<Value, Cause> {
    let power = match exponent {
        Some(exponent) => Some(Decimal::power_of_ten(exponent).ok_or(Cause::OutOfRange)?),
        None => None,
    };
    if let Number::Exact(exact) = number {
        let times = |value: Option<Decimal>, factor: Option<Decimal>| match factor {
            Some(factor) => value.and_then(|value| value.checked_mul(factor)),
            None => value,
        };
        let product = times(times(Some(exact), transform.scale), power);
        let result = match transform.offset {
            Some(offset) => product.and_then(|product| product.checked_add(offset)),
            None => product,
        };
        if let Some(result) = result {
            return Ok(Value::Number(result));
        }
    }
    let float = match number {
        Number::Exact(exact) => exact.to_f64(),
        Number::Float(float) => float,
    };
    let factor = |decimal: Option<Decimal>, none: f64| decimal.map_or(none, Decimal::to_f64);
    let result = float * factor(transform.scale, 1.0) * factor(power, 1.0) + factor(transform.offset, 0.0);
    if result.is_finite() { Ok(Value::Float64(result)) } else { Err(Cause::NotFinite) }
}

impl Transform {
    /// Does it change numbers?
    fn scales(&self) -> bool {
        self.scale.is_some() || self.offset.is_some()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::mapping::compiled::{Decode, Kind, Order, Point, Reading};
    use crate::mapping::device::Every;
    use crate::model::place::{Place, Table};

    fn dec(text: &str) -> Decimal {
        text.parse().unwrap()
    }

    fn scale(text: &str) -> Transform {
        Transform { scale: Some(dec(text)), ..Transform::default() }
    }

    fn shown(value: Result<Value, Cause>) -> String {
        match value {
            Ok(Value::Number(number)) => number.to_string(),
            Ok(Value::Float32(float)) => float.to_string(),
            Ok(Value::Float64(float)) => float.to_string(),
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn quirk_02_a_value_that_cannot_be_true_is_bad() {
        let range = (dec("-40"), dec("85.5"));
        let of = |value: Value| plausible(value, &range);
        for text in ["-40", "0", "85.5"] {
            assert_eq!(of(Value::Number(dec(text))), Ok(Value::Number(dec(text))));
        }
        for text in ["-40.0001", "85.6", "6553.5"] {
            assert_eq!(of(Value::Number(dec(text))), Err(Cause::Implausible));
        }
        assert_eq!(of(Value::Float32(85.5)), Ok(Value::Float32(85.5)));
        assert_eq!(of(Value::Float32(85.6)), Err(Cause::Implausible));
        assert_eq!(of(Value::Float64(-1e300)), Err(Cause::Implausible));
        assert_eq!(of(Value::Text("fault".into())), Ok(Value::Text("fault".into())), "an enum's label");
    }

    #[test]
    fn quirk_24_numbers_are_scaled_exactly() {
        assert_eq!(shown(apply(&Raw::Int(2304), &scale("0.1"), None)), "230.4");
        assert_eq!(shown(apply(&Raw::Uint(u64::MAX), &scale("0.01"), None)), "184467440737095516.15");
        assert_eq!(shown(apply(&Raw::Float32(230.4), &scale("1000"), None)), "230400");
        assert_eq!(shown(apply(&Raw::Float32(230.4), &Transform::default(), None)), "230.4");
        assert_eq!(shown(apply(&Raw::Int(12345), &Transform::default(), Some(-2))), "123.45");
        let offset = Transform { offset: Some(dec("-100")), ..scale("0.1") };
        assert_eq!(shown(apply(&Raw::Int(1225), &offset, None)), "22.5");
        assert_eq!(
            shown(apply(&Raw::Float32(f32::MAX), &scale("10"), None)),
            "3402823466385288600000000000000000000000"
        );
    }

    #[test]
    fn quirk_22_what_is_not_available_is_never_a_number() {
        let sentinel = Transform { invalid: vec![Raw::Int(-32768)], ..scale("0.1") };
        assert_eq!(apply(&Raw::Int(-32768), &sentinel, None), Err(Cause::Invalid));
        assert_eq!(apply(&Raw::Float32(f32::NAN), &Transform::default(), None), Err(Cause::NotFinite));
        assert_eq!(apply(&Raw::Float64(f64::INFINITY), &scale("2"), None), Err(Cause::NotFinite));
        assert_eq!(apply(&Raw::Int(1), &Transform::default(), Some(99)), Err(Cause::OutOfRange));
    }

    #[test]
    fn bits_and_masks_are_cut_out_of_the_word() {
        let bit = |n| Transform { select: Select::Bit(n), ..Transform::default() };
        assert_eq!(apply(&Raw::Uint(0b1000), &bit(3), None), Ok(Value::Bool(true)));
        assert_eq!(apply(&Raw::Uint(0b1000), &bit(2), None), Ok(Value::Bool(false)));
        let mask = Transform { select: Select::Mask(0x0FF0), ..Transform::default() };
        assert_eq!(shown(apply(&Raw::Uint(0xABCD), &mask, None)), "188");
    }

    #[test]
    fn an_unknown_number_of_an_enum_stays_a_number() {
        let labels = [(4, Arc::from("producing"))].into();
        let states = Transform { labels, ..Transform::default() };
        assert_eq!(apply(&Raw::Uint(4), &states, None), Ok(Value::Text("producing".into())));
        assert_eq!(shown(apply(&Raw::Uint(5), &states, None)), "5");
    }

    fn point(name: &str, source: Source, transform: Transform) -> Point {
        let (unit, deadband) = (None, None);
        Point {
            name: name.into(),
            unit,
            source,
            transform,
            published: true,
            plausible: None,
            deadband,
            heartbeat: None,
            smooth: None,
            alone: false,
            rate: "default".into(),
        }
    }

    fn reading(address: u16) -> Reading {
        let place = Place::Run { table: Table::Input, address, count: 1 };
        let decode = Decode { kind: Kind::Uint16, order: Order::Abcd, byte: None, chars: Default::default() };
        Reading { place, decode }
    }

    #[test]
    fn a_scale_factor_and_a_sum_use_the_values_of_the_same_batch() {
        let map = DeviceMap {
            writes: Vec::new(),
            readings: vec![reading(0), reading(1), reading(2)],
            points: vec![
                point("sf", Source::Reading(ReadingIx(1)), Transform::default()),
                point(
                    "power",
                    Source::Reading(ReadingIx(0)),
                    Transform { scale_from: Some(PointIx(0)), ..Transform::default() },
                ),
                point("mwh", Source::Reading(ReadingIx(2)), Transform::default()),
                point(
                    "total",
                    Source::Sum(vec![(PointIx(1), Decimal::ONE), (PointIx(2), dec("1000"))]),
                    Transform::default(),
                ),
            ],
        };
        let read = Read {
            every: Every::Interval(Duration::from_secs(1)),
            readings: vec![ReadingIx(2), ReadingIx(0), ReadingIx(1)],
            points: (0..4).map(PointIx).collect(),
            publishes: Vec::new(),
        };
        let mut samples = Vec::new();
        let good = [Ok(Raw::Uint(3)), Ok(Raw::Uint(512)), Ok(Raw::Int(-1))];
        evaluate(&map, &read, &good, &mut Vec::new(), &mut samples);
        let texts: Vec<_> = samples.iter().map(|(_, value)| shown(value.clone())).collect();
        assert_eq!(texts, ["-1", "51.2", "3", "3051.2"]);

        samples.clear();
        let bad = [Ok(Raw::Uint(3)), Ok(Raw::Uint(512)), Err(Cause::Exception(2))];
        evaluate(&map, &read, &bad, &mut Vec::new(), &mut samples);
        assert_eq!(samples[0].1, Err(Cause::Exception(2)));
        assert_eq!(samples[1].1, Err(Cause::Dependency));
        assert_eq!(samples[3].1, Err(Cause::Dependency));
    }

    #[test]
    fn a_deadband_passes_what_moved_far_enough() {
        let number = |text: &str| Value::Number(dec(text));
        let half = Deadband::Absolute(dec("0.5"));
        assert!(!moved(&half, &number("10"), &number("10.4")));
        assert!(moved(&half, &number("10"), &number("10.5")));
        assert!(moved(&half, &number("10"), &number("9.5")));
        let percent = Deadband::Percent(dec("1"));
        assert!(!moved(&percent, &number("200"), &number("201.9")));
        assert!(moved(&percent, &number("200"), &number("198")));
        assert!(moved(&percent, &number("0"), &number("0.1")));
        assert!(!moved(&percent, &number("0"), &number("0")));
        assert!(!moved(&half, &Value::Float32(1.0), &Value::Float32(1.25)));
        assert!(moved(&half, &Value::Text("a".into()), &Value::Text("b".into())));
    }
}
