//! From values to raw values: the mapping backwards, exact. Pure.
//!
//! - A whole number is hit exactly or refused with its two neighbours; nothing is rounded.
//! - A float takes the nearest value that its type has, and the very same one that was read, when that is written back.
//! - What would be read back as "not available" is refused.

mod float;

use float::Format;

use super::compiled::{Chars, Kind, Select, Transform};
use super::transform::{apply, decimal_of};
use super::write::{Setting, Target};
use crate::model::decimal::Decimal;
use crate::model::place::Place;
use crate::model::value::{Raw, Value};

/// Why a value can't be written.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    /// A text where a number is needed.
    #[error("'{0}' is no number")]
    NotANumber(String),
    /// Something else than a bit can be.
    #[error("'{0}' is neither true nor false")]
    NotABit(String),
    /// A number where a text is needed.
    #[error("a text is expected")]
    NotAText,
    /// A text that is none of the enum's.
    #[error("'{text}' is none of its texts: {labels}")]
    UnknownLabel {
        /// What was given.
        text: String,
        /// What is there.
        labels: String,
    },
    /// A number that the enum has no text for.
    #[error("{value} has no text; it has: {labels}")]
    NoLabel {
        /// What was given.
        value: String,
        /// What is there.
        labels: String,
    },
    /// A text that stands for several numbers.
    #[error("'{text}' stands for several numbers ({numbers}): write the number")]
    Ambiguous {
        /// What was given.
        text: String,
        /// What it may mean.
        numbers: String,
    },
    /// Between two values that the point can have.
    #[error("{value} lies between two values that it can have: {below} and {above}")]
    Between {
        /// What was given.
        value: String,
        /// The nearest smaller one.
        below: String,
        /// The nearest larger one.
        above: String,
    },
    /// Beyond what the type holds.
    #[error("{value} is out of range: the type holds {low} to {high}")]
    OutOfType {
        /// What was given.
        value: String,
        /// The smallest one.
        low: String,
        /// The largest one.
        high: String,
    },
    /// Outside of what the profile allows.
    #[error("{value} is not allowed: {allowed} is")]
    NotAllowed {
        /// What was given.
        value: String,
        /// What may be written.
        allowed: String,
    },
    /// It would be read back as "not available".
    #[error("{0} means \"not available\" there")]
    Invalid(String),
    /// The value is scaled by another point, whose value is not known.
    #[error("its scale factor must be read from the device first")]
    NoScaleFactor,
    /// Bits that the mask leaves out.
    #[error("{value} does not fit into the mask 0x{mask:X}")]
    OutsideMask {
        /// What was given.
        value: String,
        /// The mask.
        mask: u64,
    },
    /// More bytes than the registers carry.
    #[error("the text has {bytes} bytes, and there is room for {room}")]
    TextTooLong {
        /// Of the text, in UTF-8.
        bytes: usize,
        /// Of the registers.
        room: usize,
    },
    /// A text that would come back as another one.
    #[error("the text has a NUL, or blanks at its end, which are lost when it's read back")]
    TextIsCut,
    /// Numbers with more digits than can be calculated with.
    #[error("{0} has too many digits")]
    TooManyDigits(String),
}

/// What a person wrote, for this target: a text of the enum, a bit, a number, or a text.
pub fn parse(text: &str, target: &Target) -> Result<Value, Refusal> {
    let transform = &target.transform;
    let as_text = || Ok(Value::Text(text.into()));
    if target.reading.decode.kind == Kind::String || transform.labels.values().any(|label| **label == *text) {
        return as_text();
    }
    if is_bit(target) && transform.labels.is_empty() {
        return match text {
            "true" | "on" | "1" => Ok(Value::Bool(true)),
            "false" | "off" | "0" => Ok(Value::Bool(false)),
            _ => Err(Refusal::NotABit(text.into())),
        };
    }
    if let Ok(number) = text.parse::<Decimal>() {
        return Ok(Value::Number(number));
    }
    match text.parse::<f64>() {
        // Larger or finer than any decimal, such as 1e300; not what only floats call a number.
        Ok(float) if float.is_finite() && text.starts_with(|c: char| c.is_ascii_digit() || c == '-') => {
            Ok(Value::Float64(float))
        }
        _ if !transform.labels.is_empty() => as_text(),
        _ => Err(Refusal::NotANumber(text.into())),
    }
}

/// The raw value that the mapping makes `value` of. `exponent` is the present value of `scale_from`.
pub(super) fn invert(value: &Value, target: &Target, exponent: Option<i32>) -> Result<Setting, Refusal> {
    let transform = &target.transform;
    let kind = target.reading.decode.kind;
    if transform.scale_from.is_some() && exponent.is_none() {
        return Err(Refusal::NoScaleFactor);
    }
    let raw = match kind {
        Kind::String => text(value, target)?,
        _ if is_bit(target) => return bit(value, target),
        Kind::Float16 | Kind::Float32 | Kind::Float64 => float(value, kind, transform, exponent)?,
        _ => return whole(value, kind, transform, exponent),
    };
    refuse_invalid(Setting { raw, mask: None }, transform, || shown(value))
}

/// The number that a setting stands for; `None` for bits and texts.
pub(super) fn number_of(setting: &Setting, transform: &Transform, exponent: Option<i32>) -> Option<Decimal> {
    // A label hides its number.
    let unlabelled = Transform { labels: Default::default(), invalid: Vec::new(), ..transform.clone() };
    match apply(&setting.raw, &unlabelled, exponent).ok()? {
        Value::Bool(_) | Value::Text(_) | Value::Json(_) => None,
        value => decimal_of(&value),
    }
}

/// The text of the enum that a setting stands for.
pub(super) fn label_of<'t>(setting: &Setting, transform: &'t Transform) -> Option<&'t str> {
    let number = match (&setting.raw, &transform.select) {
        (Raw::Uint(word), Select::Mask(mask)) => i64::try_from(word >> mask.trailing_zeros().min(63)).ok()?,
        (Raw::Uint(word), Select::Bit(bit)) => i64::try_from(word >> bit & 1).ok()?,
        (Raw::Uint(number), _) => i64::try_from(*number).ok()?,
        (Raw::Int(number), _) => *number,
        (Raw::Bool(bit), _) => i64::from(*bit),
        _ => return None,
    };
    transform.labels.get(&number).map(|label| &**label)
}

/// The enum's texts, for a message.
pub(super) fn labels(transform: &Transform) -> String {
    const MOST: usize = 20;
    let mut labels: Vec<&str> = transform.labels.values().map(|label| &**label).take(MOST).collect();
    if transform.labels.len() > MOST {
        labels.push("…");
    }
    labels.join(", ")
}

/// Is its value a single bit?
fn is_bit(target: &Target) -> bool {
    matches!(target.transform.select, Select::Bit(_)) || target.reading.decode.kind == Kind::Bool
}

fn bit(value: &Value, target: &Target) -> Result<Setting, Refusal> {
    let transform = &target.transform;
    let set = match value {
        Value::Bool(bit) => *bit,
        Value::Number(number) if number.is_zero() => false,
        Value::Number(number) if *number == Decimal::ONE => true,
        Value::Text(text) if !transform.labels.is_empty() => match labelled(text, transform)? {
            0 => false,
            1 => true,
            number => return Err(Refusal::NotABit(number.to_string())),
        },
        other => return Err(Refusal::NotABit(shown(other))),
    };
    Ok(match transform.select {
        Select::Bit(bit) => {
            let mask = 1u64.checked_shl(u32::from(bit)).unwrap_or(0);
            Setting { raw: Raw::Uint(if set { mask } else { 0 }), mask: Some(mask) }
        }
        _ => Setting { raw: Raw::Bool(set), mask: None },
    })
}

fn text(value: &Value, target: &Target) -> Result<Raw, Refusal> {
    let Value::Text(text) = value else { return Err(Refusal::NotAText) };
    // A node's text is as long as it is, and keeps its blanks.
    if let Place::Node(_) = target.reading.place {
        return Ok(Raw::Text((&**text).into()));
    }
    let registers = match &target.reading.place {
        Place::Run { count, .. } => usize::from(*count),
        Place::Scattered { addresses, .. } => addresses.len(),
        Place::Node(_) => 0, // see above
    };
    let room = if target.reading.decode.chars == Chars::Both { 2 * registers } else { registers };
    if text.len() > room {
        return Err(Refusal::TextTooLong { bytes: text.len(), room });
    }
    if text.contains('\0') || text.trim_end() != &**text {
        return Err(Refusal::TextIsCut);
    }
    Ok(Raw::Text((&**text).into()))
}

/// The only number that a text stands for.
fn labelled(text: &str, transform: &Transform) -> Result<i64, Refusal> {
    let mut numbers =
        transform.labels.iter().filter(|(_, label)| ***label == *text).map(|(number, _)| *number);
    let Some(first) = numbers.next() else {
        return Err(Refusal::UnknownLabel { text: text.into(), labels: labels(transform) });
    };
    let more: Vec<String> = numbers.map(|number| number.to_string()).collect();
    if more.is_empty() {
        return Ok(first);
    }
    Err(Refusal::Ambiguous { text: text.into(), numbers: format!("{first}, {}", more.join(", ")) })
}

fn whole(
    value: &Value,
    kind: Kind,
    transform: &Transform,
    exponent: Option<i32>,
) -> Result<Setting, Refusal> {
    let (low, high) = match transform.select {
        Select::Mask(mask) => (0, i128::from(mask >> mask.trailing_zeros().min(63))),
        _ => span(kind),
    };
    let number = match value {
        Value::Text(text) if !transform.labels.is_empty() => i128::from(labelled(text, transform)?),
        Value::Text(_) | Value::Json(_) | Value::Bool(_) => return Err(Refusal::NotANumber(shown(value))),
        number => Steps::of(transform, exponent, value)?.number_of(decimal(number)?, low, high)?,
    };
    if !(low..=high).contains(&number) {
        let [low, high] = [low, high].map(|end| end.to_string());
        return Err(Refusal::OutOfType { value: number.to_string(), low, high });
    }
    let setting = match transform.select {
        Select::Mask(mask) => {
            let placed = (number as u64) << mask.trailing_zeros().min(63);
            if placed & !mask != 0 {
                return Err(Refusal::OutsideMask { value: shown(value), mask });
            }
            return Ok(Setting { raw: Raw::Uint(placed), mask: Some(mask) });
        }
        _ if low < 0 => Setting { raw: Raw::Int(number as i64), mask: None },
        _ => Setting { raw: Raw::Uint(number as u64), mask: None },
    };
    refuse_invalid(setting, transform, || shown(value))
}

/// The values that a whole number can have: offset + step × n.
struct Steps {
    step: Decimal,
    offset: Decimal,
}

impl Steps {
    fn of(transform: &Transform, exponent: Option<i32>, value: &Value) -> Result<Self, Refusal> {
        let step = step(transform, exponent).ok_or_else(|| Refusal::TooManyDigits(shown(value)))?;
        Ok(Self { step, offset: transform.offset.unwrap_or(Decimal::ZERO) })
    }

    /// The n of a value; `low` and `high` are those that there are.
    fn number_of(&self, value: Decimal, low: i128, high: i128) -> Result<i128, Refusal> {
        let digits = || Refusal::TooManyDigits(value.to_string());
        let quotient = value.checked_sub(self.offset).and_then(|distance| distance.whole_quotient(self.step));
        let (number, exact) = quotient.ok_or_else(digits)?;
        if (low..=high).contains(&number) && (exact || number < high) {
            if exact {
                return Ok(number);
            }
            let [below, above] = self.shown([number, number + 1]).ok_or_else(digits)?;
            return Err(Refusal::Between { value: value.to_string(), below, above });
        }
        let [low, high] = self.shown([low, high]).ok_or_else(digits)?;
        Err(Refusal::OutOfType { value: value.to_string(), low, high })
    }

    /// The values of two numbers, the smaller one first.
    fn shown(&self, numbers: [i128; 2]) -> Option<[String; 2]> {
        let value = |n| Decimal::try_new(n, 0)?.checked_mul(self.step)?.checked_add(self.offset);
        let [first, second] = [value(numbers[0])?, value(numbers[1])?];
        Some([first.min(second), first.max(second)].map(|value| value.to_string()))
    }
}

/// scale × 10^exponent
fn step(transform: &Transform, exponent: Option<i32>) -> Option<Decimal> {
    let power = Decimal::power_of_ten(exponent.unwrap_or(0))?;
    transform.scale.unwrap_or(Decimal::ONE).checked_mul(power)
}

/// The smallest and largest number of a type of whole numbers.
fn span(kind: Kind) -> (i128, i128) {
    let signed = |bits: u32| (-(1i128 << (bits - 1)), (1i128 << (bits - 1)) - 1);
    let unsigned = |bits: u32| (0, (1i128 << bits) - 1);
    match kind {
        Kind::Int8 => signed(8),
        Kind::Int16 => signed(16),
        Kind::Int32 => signed(32),
        Kind::Int64 => signed(64),
        Kind::Uint8 => unsigned(8),
        Kind::Uint16 => unsigned(16),
        Kind::Uint32 => unsigned(32),
        Kind::Uint64 => unsigned(64),
        Kind::Bcd16 => (0, 9_999),
        Kind::Bcd32 => (0, 99_999_999),
        Kind::Bool => (0, 1),
        // No whole numbers; clocks and mod10k are never written.
        Kind::Float16
        | Kind::Float32
        | Kind::Float64
        | Kind::String
        | Kind::Mod10k
        | Kind::Datetime(_)
        | Kind::Any => (0, 0),
    }
}

fn float(value: &Value, kind: Kind, transform: &Transform, exponent: Option<i32>) -> Result<Raw, Refusal> {
    let wanted = match value {
        Value::Text(_) | Value::Json(_) | Value::Bool(_) => {
            return Err(Refusal::NotANumber(shown(value)));
        }
        number => decimal_of(number),
    };
    let too_many = || Refusal::TooManyDigits(shown(value));
    let step = step(transform, exponent).ok_or_else(too_many)?;
    let offset = transform.offset.unwrap_or(Decimal::ZERO);
    let distance = match wanted {
        Some(wanted) => wanted.checked_sub(offset).ok_or_else(too_many)?.to_f64(),
        None => value.as_f64().ok_or_else(too_many)? - offset.to_f64(),
    };
    let format = Format::of(kind);
    let largest = format.largest();
    let Some(near) = format.nearest(distance / step.to_f64()) else {
        let [low, high] =
            [-largest, largest].map(|end| format!("{:e}", end * step.to_f64() + offset.to_f64()));
        return Err(Refusal::OutOfType { value: shown(value), low, high });
    };
    // The quotient has been rounded: one of its neighbours may come closer, and the one that was read comes closest.
    let Some(wanted) = wanted else { return Ok(format.raw(near)) };
    let far = |ordinal: &i64| {
        let read =
            apply(&format.raw(*ordinal), &Transform { invalid: Vec::new(), ..transform.clone() }, exponent);
        // A neighbour that no decimal holds is read as a rounded float, which may look just like what is wanted.
        let exact = read.ok().filter(|read| !matches!((value, read), (Value::Number(_), Value::Float64(_))));
        exact.and_then(|read| decimal_of(&read)?.checked_sub(wanted)).map(Decimal::abs)
    };
    let by_distance = |a: &i64, b: &i64| match (far(a), far(b)) {
        (Some(a), Some(b)) => a.cmp(&b),
        (a, b) => b.is_some().cmp(&a.is_some()),
    };
    let closest = (near - 2..=near + 2).filter(|ordinal| format.is_finite(*ordinal)).min_by(by_distance);
    Ok(format.raw(closest.filter(|ordinal| far(ordinal).is_some()).unwrap_or(near)))
}

fn decimal(value: &Value) -> Result<Decimal, Refusal> {
    decimal_of(value).ok_or_else(|| Refusal::TooManyDigits(shown(value)))
}

fn refuse_invalid(
    setting: Setting,
    transform: &Transform,
    shown: impl Fn() -> String,
) -> Result<Setting, Refusal> {
    if transform.invalid.contains(&setting.raw) { Err(Refusal::Invalid(shown())) } else { Ok(setting) }
}

/// A value for a message.
fn shown(value: &Value) -> String {
    match value {
        Value::Bool(bit) => bit.to_string(),
        Value::Number(number) => number.to_string(),
        Value::Float32(float) => float.to_string(),
        Value::Float64(float) => float.to_string(),
        Value::Text(text) | Value::Json(text) => crate::document::scalar::shortened(text),
        Value::Flags(word) => word.to_string(),
    }
}

#[cfg(test)]
#[path = "inverse_tests.rs"]
mod tests;
