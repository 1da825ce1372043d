//! What a simulated device's registers hold: what the examples say, elsewhere something plausible; and how it moves. Pure.

use std::collections::BTreeMap;
use std::f64::consts::TAU;
use std::time::Duration;

use crate::drivers::modbus::{decode, encode};
use crate::mapping::compiled::{Decode, DeviceMap, Kind, Point, PointIx, Reading, ReadingIx, Select, Source};
use crate::model::place::Table;
use crate::model::value::Raw;

/// An address, and its table.
pub type Cell = (Table, u16);

/// Swings go this far from the mean, of the mean.
const SWING: f64 = 0.02;

/// A number that changes with time.
#[derive(Debug)]
pub struct Moving {
    reading: Reading,
    /// Raw values that mean something else.
    invalid: Vec<Raw>,
    base: f64,
    course: Course,
}

/// How a number changes.
#[derive(Clone, Copy, Debug)]
pub enum Course {
    /// Around the mean, once in so many seconds.
    Swings {
        /// Seconds.
        period: f64,
    },
    /// Upwards, by so much in a second.
    Counts {
        /// In the raw value's unit.
        per_second: f64,
    },
}

impl Course {
    /// The course of a point that is `base` at the start; `at` is its place in the map.
    pub fn of(point: &Point, base: f64, is_whole: bool, at: usize) -> Self {
        if counts(point.unit.as_deref().unwrap_or_default()) {
            let least = if is_whole { 0.1 } else { 0.001 };
            Self::Counts { per_second: (base * 1e-6).max(least) }
        } else {
            Self::Swings { period: 11.0 + (at * 7 % 23) as f64 }
        }
    }

    /// Its raw value, `now` after the start.
    pub fn value(self, base: f64, now: Duration) -> f64 {
        let t = now.as_secs_f64();
        rounded(match self {
            Self::Swings { period } => base * (1.0 + SWING * (t / period * TAU).sin()),
            Self::Counts { per_second } => base + t * per_second,
        })
    }
}

impl Moving {
    /// What its addresses hold, `now` after the start.
    pub fn at(&self, now: Duration) -> Vec<(Cell, u16)> {
        let raw = raw_of(self.reading.decode.kind, self.course.value(self.base, now));
        raw.filter(|raw| !self.invalid.contains(raw))
            .and_then(|raw| cells_of(&self.reading, &raw))
            .unwrap_or_default()
    }
}

/// Gives a value to each address of the map that has none yet; returns those that move.
pub fn fill(map: &DeviceMap, words: &mut BTreeMap<Cell, u16>) -> Vec<Moving> {
    let mut shared: BTreeMap<Cell, u32> = BTreeMap::new();
    for reading in &map.readings {
        reading.place.cells().for_each(|cell| *shared.entry(cell).or_default() += 1);
    }
    let mut moving = Vec::new();
    for (at, reading) in map.readings.iter().enumerate() {
        let points: Vec<&Point> =
            map.points.iter().filter(|point| point.source == Source::Reading(ReadingIx(at as u32))).collect();
        let Some(point) = points.first() else { continue };
        if reading.place.cells().any(|cell| !words.contains_key(&cell)) {
            for (cell, word) in plausible(map, point, reading) {
                words.entry(cell).or_insert(word);
            }
        }
        let is_alone = reading.place.cells().all(|cell| shared.get(&cell) == Some(&1));
        if is_alone && points.iter().all(|point| is_a_measurement(map, point)) {
            moving.extend(course(point, reading, words, at));
        }
    }
    moving
}

/// Does its raw value mean a quantity?
pub fn is_a_measurement(map: &DeviceMap, point: &Point) -> bool {
    let is_scale = |other: &Point| {
        other.transform.scale_from.is_some_and(|PointIx(ix)| map.points[ix as usize].name == point.name)
    };
    point.transform.select == Select::Whole
        && point.transform.labels.is_empty()
        && !map.points.iter().any(is_scale)
}

/// How it moves, from what it holds. `None`: it doesn't.
fn course(point: &Point, reading: &Reading, words: &BTreeMap<Cell, u16>, at: usize) -> Option<Moving> {
    let bytes: Vec<u8> =
        reading.place.cells().filter_map(|cell| words.get(&cell)).flat_map(|w| w.to_be_bytes()).collect();
    let base =
        decode::registers(&reading.decode, &bytes).ok().filter(|raw| !point.transform.invalid.contains(raw));
    let base = match base? {
        Raw::Int(number) => number as f64,
        Raw::Uint(number) => number as f64,
        Raw::Float32(float) => f64::from(float),
        Raw::Float64(float) => float,
        Raw::Bool(_) | Raw::Text(_) | Raw::Json(_) => return None,
    };
    let is_whole = !matches!(reading.decode.kind, Kind::Float16 | Kind::Float32 | Kind::Float64);
    let course = Course::of(point, base, is_whole, at);
    Some(Moving { reading: reading.clone(), invalid: point.transform.invalid.clone(), base, course })
        .filter(|_| !matches!(reading.decode.kind, Kind::Mod10k | Kind::Datetime(_)))
}

/// Units of what only grows.
fn counts(unit: &str) -> bool {
    matches!(
        unit,
        "Wh" | "kWh" | "MWh" | "GWh" | "varh" | "kvarh" | "Mvarh" | "VAh" | "kVAh" | "Ah" | "m³" | "h"
    )
}

/// What such a point might hold.
fn plausible(map: &DeviceMap, point: &Point, reading: &Reading) -> Vec<(Cell, u16)> {
    let transform = &point.transform;
    let value = plausible_number(map, point);
    let kind = reading.decode.kind;
    let tries = [value, value + 1.0, 100.0, 10.0, 1.0, 0.0].map(rounded);
    let raws = tries.iter().filter_map(|value| raw_of(kind, *value)).chain([Raw::Text("sim".into())]);
    raws.filter(|raw| !transform.invalid.contains(raw))
        .find_map(|raw| cells_of(reading, &raw))
        .unwrap_or_else(|| reading.place.cells().map(|cell| (cell, 0)).collect())
}

/// The raw number that such a point might hold.
pub fn plausible_number(map: &DeviceMap, point: &Point) -> f64 {
    let transform = &point.transform;
    match transform.labels.first_key_value() {
        Some((label, _)) => *label as f64,
        None if !is_a_measurement(map, point) => 0.0,
        None => {
            let mut typical = typical(point.unit.as_deref().unwrap_or_default());
            if let Some((low, high)) = point.plausible.as_deref()
                && !(low.to_f64()..=high.to_f64()).contains(&typical)
            {
                typical = f64::midpoint(low.to_f64(), high.to_f64());
            }
            let offset = transform.offset.as_ref().map_or(0.0, |offset| offset.to_f64());
            let scale = transform.scale.as_ref().map_or(1.0, |scale| scale.to_f64());
            (typical - offset) / scale
        }
    }
}

/// What a quantity of this unit often is.
fn typical(unit: &str) -> f64 {
    match unit {
        "V" => 230.0,
        "A" | "bar" => 6.0,
        "Hz" => 50.0,
        "°C" => 21.0,
        "%" => 48.0,
        "W" | "VA" => 1400.0,
        "var" => 200.0,
        "rpm" | "1/min" | "min⁻¹" => 1450.0,
        "mA" | "mV" | "hPa" | "ppm" => 800.0,
        unit if counts(unit) => 1234.0,
        _ => 1.0,
    }
}

/// To five digits, as instruments show.
fn rounded(value: f64) -> f64 {
    if value == 0.0 || !value.is_finite() {
        return 0.0;
    }
    let digits = 4 - value.abs().log10().floor() as i32;
    if digits <= 0 { value.round() } else { (value * 10f64.powi(digits)).round() / 10f64.powi(digits) }
}

/// The raw value of a number; `None` for what is no number. It may not fit its registers.
fn raw_of(kind: Kind, value: f64) -> Option<Raw> {
    match kind {
        Kind::Bool => Some(Raw::Bool(value != 0.0)),
        Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64 => Some(Raw::Int(value.round() as i64)),
        Kind::Uint8 | Kind::Uint16 | Kind::Uint32 | Kind::Uint64 | Kind::Bcd16 | Kind::Bcd32 => {
            (value >= -0.5).then(|| Raw::Uint(value.round() as u64))
        }
        Kind::Float16 | Kind::Float32 => Some(Raw::Float32(value as f32)),
        Kind::Float64 => Some(Raw::Float64(value)),
        Kind::String | Kind::Mod10k | Kind::Datetime(_) | Kind::Any => None,
    }
}

/// What the addresses of a reading hold when it has this value; `None`: it doesn't fit.
fn cells_of(reading: &Reading, raw: &Raw) -> Option<Vec<(Cell, u16)>> {
    if let (Some(true), Raw::Bool(bit)) = (reading.place.table().map(Table::is_bits), raw) {
        return Some(reading.place.cells().map(|cell| (cell, u16::from(*bit))).collect());
    }
    let Decode { .. } = &reading.decode;
    let mut bytes = vec![0; 2 * reading.place.cells().count()];
    encode::registers(&reading.decode, raw, &mut bytes).ok()?;
    let words = bytes.chunks_exact(2).map(|word| u16::from_be_bytes([word[0], word[1]]));
    Some(reading.place.cells().zip(words).collect())
}
