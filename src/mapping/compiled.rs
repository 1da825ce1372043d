//! A device's map, ready to run: what to read, how to decode it, and what becomes of it. No spans, no strings to look up.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use super::write::Target;
use crate::model::decimal::Decimal;
use crate::model::place::Place;
use crate::model::value::Raw;

/// Index into [`DeviceMap::readings`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct ReadingIx(pub u32);

/// Index into [`DeviceMap::points`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct PointIx(pub u32);

/// All points of one device, and the readings that they are made from.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct DeviceMap {
    /// Raw values to fetch, each once even when several points use it.
    pub readings: Vec<Reading>,
    /// Points in the order of the profile. A point comes after the points that it's computed from.
    pub points: Vec<Point>,
    /// What may be written, as far as the device is concerned: points with the access rw or w.
    pub writes: Vec<Target>,
}

impl DeviceMap {
    /// The point and all that it is computed from; what others are computed from comes first.
    pub fn needs(&self, ix: PointIx) -> BTreeSet<PointIx> {
        let mut found = BTreeSet::new();
        let mut open = vec![ix];
        while let Some(ix) = open.pop() {
            if !found.insert(ix) {
                continue;
            }
            let point = &self.points[ix.0 as usize];
            open.extend(point.transform.scale_from);
            if let Source::Sum(terms) = &point.source {
                open.extend(terms.iter().map(|(term, _)| *term));
            }
        }
        found
    }
}

/// A raw value on the device.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Reading {
    /// Where it is.
    pub place: Place,
    /// How its bytes become a value.
    pub decode: Decode,
}

/// How registers become a raw value.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Decode {
    /// The type.
    pub kind: Kind,
    /// The byte order on the wire.
    pub order: Order,
    /// Take one byte of a single register (with int8 and uint8).
    pub byte: Option<Byte>,
    /// Which bytes of each register carry text.
    pub chars: Chars,
}

/// The types that a device may hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Kind {
    Bool,
    Int8,
    Int16,
    Int32,
    Int64,
    Uint8,
    Uint16,
    Uint32,
    Uint64,
    Float16,
    Float32,
    Float64,
    /// As many registers as the place has.
    String,
    /// Four decimal digits in one register.
    Bcd16,
    /// Eight decimal digits in two registers.
    Bcd32,
    /// Four decimal digits per register, as a binary number of 0 to 9999; as many registers as the place has.
    Mod10k,
    /// A date and a time of day.
    Datetime(Clock),
    /// Whatever the OPC UA server sends.
    Any,
}

impl Kind {
    /// How many registers it takes; `None` for strings and mod10k, whose `length` is given.
    pub fn registers(self) -> Option<u16> {
        match self {
            Self::Bool
            | Self::Int8
            | Self::Uint8
            | Self::Int16
            | Self::Uint16
            | Self::Float16
            | Self::Bcd16 => Some(1),
            Self::Int32 | Self::Uint32 | Self::Float32 | Self::Bcd32 => Some(2),
            Self::Int64 | Self::Uint64 | Self::Float64 => Some(4),
            Self::Datetime(clock) => Some(clock.registers()),
            Self::String | Self::Mod10k | Self::Any => None,
        }
    }
}

/// How a device writes a date and a time, and where its clock is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Clock {
    /// The registers' layout.
    pub format: ClockFormat,
    /// `true`: it counts UTC. `false`: the time of its place, whose offset nobody knows.
    pub utc: bool,
}

/// Layouts of date and time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ClockFormat {
    /// Seconds since 1970 in two registers (SMA).
    Unix,
    /// Milliseconds since 1970 in four registers.
    UnixMs,
    /// IEC 60870-5-4 in four registers (Schneider iEM3000, PM5xxx).
    Iec870,
    /// Year since 2000 and month, day and hour, minute and second: a byte each in three registers (Deye, Bender PEM575).
    Packed,
    /// Year, month, day, hour, minute, second: six registers.
    Fields,
}

impl Clock {
    /// How many registers it takes.
    pub fn registers(self) -> u16 {
        match self.format {
            ClockFormat::Unix => 2,
            ClockFormat::Packed => 3,
            ClockFormat::UnixMs | ClockFormat::Iec870 => 4,
            ClockFormat::Fields => 6,
        }
    }
}

/// The order of a value's bytes as they come on the wire; A is the most significant.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub enum Order {
    /// Big-endian: ABCD, ABCDEFGH.
    #[default]
    Abcd,
    /// Words swapped: CDAB, GHEFCDAB.
    Cdab,
    /// Bytes of each word swapped: BADC, BADCFEHG.
    Badc,
    /// Little-endian: DCBA, HGFEDCBA.
    Dcba,
}

/// Half a register.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Byte {
    High,
    Low,
}

/// Which bytes of each register carry text.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
#[allow(missing_docs)]
pub enum Chars {
    #[default]
    Both,
    High,
    Low,
}

/// A named value.
#[derive(Clone, Debug, PartialEq)]
pub struct Point {
    /// Its name in messages.
    pub name: Arc<str>,
    /// Its unit, for people.
    pub unit: Option<Arc<str>>,
    /// What it's computed from.
    pub source: Source,
    /// What happens to the raw value (or to the sum).
    pub transform: Transform,
    /// `false`: read for other points only.
    pub published: bool,
    /// Smallest and largest value that can be true; others are bad.
    pub plausible: Option<Box<(Decimal, Decimal)>>,
    /// Publish only when the value moved by this much.
    pub deadband: Option<Deadband>,
    /// With a deadband: publish at least this often.
    pub heartbeat: Option<Duration>,
    /// Publish the mean of this many values, 2 or more.
    pub smooth: Option<u16>,
    /// The planner must give it a request of its own.
    pub alone: bool,
    /// The name of its rate (`default`, `fast`, `once`, …).
    pub rate: Arc<str>,
}

/// What a point is computed from.
#[derive(Clone, Debug, PartialEq)]
pub enum Source {
    /// One reading.
    Reading(ReadingIx),
    /// The sum of other points' values, each times a factor.
    Sum(Vec<(PointIx, Decimal)>),
}

/// From raw to value: select, invalid, scale, label; in this order.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Transform {
    /// Bits of the raw value.
    pub select: Select,
    /// Raw values that mean "not available", tested on the whole raw value before anything else.
    pub invalid: Vec<Raw>,
    /// raw × scale + offset. `None`: 1.
    pub scale: Option<Decimal>,
    /// See `scale`. `None`: 0.
    pub offset: Option<Decimal>,
    /// raw × 10^(the value of that point): SunSpec scale factors.
    pub scale_from: Option<PointIx>,
    /// Texts for numbers; a number without one stays a number.
    pub labels: BTreeMap<i64, Arc<str>>,
}

/// Which bits of an integer make the value.
#[derive(Clone, Debug, Default, PartialEq)]
pub enum Select {
    /// All of them.
    #[default]
    Whole,
    /// One bit, 0 the least significant: a bool.
    Bit(u8),
    /// The bits of a mask, shifted down so that the mask's lowest bit is bit 0.
    Mask(u64),
    /// Named bits: a [`crate::model::value::Value::Flags`].
    Flags(Vec<(Arc<str>, u8)>),
}

/// How far a value must move to be published again.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Deadband {
    /// In the value's unit.
    Absolute(Decimal),
    /// In percent of the last published value.
    Percent(Decimal),
}
