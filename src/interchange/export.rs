//! A profile → a register table that [`super::table`] reads back, and what a table can't carry.
//!
//! The columns are those of the mapping language's CSV; `invalid`, `enum` and `rate` follow where a point has one.

use std::collections::{BTreeMap, HashMap, HashSet};

use super::note::Note;
use super::titles::Column;
use super::{numbers, words};
use crate::config::LoadedProfile;
use crate::mapping::compiled::{
    Byte, Chars, ClockFormat, DeviceMap, Kind, Order, Reading, Select, Source, Transform,
};
use crate::mapping::profile::{Point as WrittenPoint, Profile};
use crate::mapping::write::{Function, Target};
use crate::mapping::written::TypeWord;
use crate::model::decimal::Decimal;
use crate::model::place::{Place, Table};
use crate::model::value::Raw;

/// The columns of every export, in order.
const ALWAYS: [Column; 11] = [
    Column::Table,
    Column::AddressZeroBased,
    Column::Count,
    Column::Type,
    Column::WordOrder,
    Column::Scale,
    Column::Offset,
    Column::Unit,
    Column::Access,
    Column::Name,
    Column::Description,
];

/// The columns of an export whose points need them.
const SOMETIMES: [Column; 3] = [Column::Invalid, Column::Enum, Column::Rate];

/// The rate of points that name none.
const DEFAULT_RATE: &str = crate::mapping::compile::DEFAULT_RATE;

/// What came of an export.
#[derive(Clone, Debug)]
pub struct Exported {
    /// The table.
    pub csv: String,
    /// How many points it has.
    pub points: usize,
    /// How many points it doesn't have.
    pub left_out: usize,
    /// What it doesn't carry: an error for a whole point, a warning for some of its keys.
    pub notes: Vec<Note>,
}

/// One point, whether it can be read or only written.
struct Item<'m> {
    name: &'m str,
    unit: Option<&'m str>,
    reading: &'m Reading,
    transform: &'m Transform,
    access: &'static str,
    rate: &'m str,
}

/// Cells by column.
type Cells = BTreeMap<Column, String>;

/// Writes the table of a profile without errors. `None`: it has some.
pub fn export(profile: &LoadedProfile) -> Option<Exported> {
    let (map, written) = (profile.map.as_ref()?, profile.written.as_ref()?);
    let mut notes = Vec::new();
    let mut rows: Vec<Cells> = Vec::new();
    let points: HashMap<&str, &WrittenPoint> = written_points(written).collect();
    let mut left_out = 0;
    let place: HashMap<&str, usize> =
        written_points(written).enumerate().map(|(at, (name, _))| (name, at)).collect();
    let mut items: Vec<_> = items(map).collect();
    // The map has a point behind those that it is computed from; people look for them where they wrote them.
    items.sort_by_key(|(name, _)| place.get(name).copied().unwrap_or(usize::MAX));
    for (name, item) in items {
        let item = match item {
            Ok(item) => item,
            Err(why) => {
                left_out += 1;
                notes.push(Note::error(None, format!("point '{name}' is not in the table: {why}")));
                continue;
            }
        };
        let mut lost = Vec::new();
        let mut cells = cells(&item, map, &mut lost);
        let written = points.get(name);
        let desc = written.and_then(|point| point.desc.as_ref()).map(|desc| desc.value.0.clone());
        cells.insert(Column::Description, desc.unwrap_or_default());
        lost.extend(lost_keys(name, map));
        if !lost.is_empty() {
            notes.push(Note::warning(None, format!("point '{name}': not in the table: {}", lost.join(", "))));
        }
        rows.push(cells);
    }
    for name in unused(written, map) {
        left_out += 1;
        let why = "nothing uses it, and it is not published";
        notes.push(Note::error(None, format!("point '{name}' is not in the table: {why}")));
    }
    if let Some(keys) = lost_of_profile(written) {
        notes.insert(0, Note::warning(None, format!("not in the table: {keys}")));
    }
    Some(Exported { csv: csv(&rows), points: rows.len(), left_out, notes })
}

fn written_points(profile: &Profile) -> impl Iterator<Item = (&str, &WrittenPoint)> {
    let points = profile.points.iter().flat_map(|points| &points.value.0);
    points.filter_map(|(name, point)| Some((name.value.as_str(), point.as_ref()?.0.as_ref()?)))
}

/// Points that the map does without.
fn unused<'p>(profile: &'p Profile, map: &DeviceMap) -> Vec<&'p str> {
    let known: HashSet<&str> = map
        .points
        .iter()
        .map(|point| &*point.name)
        .chain(map.writes.iter().map(|target| &*target.name))
        .collect();
    let internal = written_points(profile).filter(|(_, point)| point.internal.is_some());
    internal.map(|(name, _)| name).filter(|name| !known.contains(name)).collect()
}

/// All points in the order of the map, and those that can only be written.
fn items(map: &DeviceMap) -> impl Iterator<Item = (&str, Result<Item<'_>, &'static str>)> {
    let target = |name: &str| map.writes.iter().find(|target| *target.name == *name);
    let readable = map.points.iter().map(move |point| {
        let item = match &point.source {
            Source::Sum(_) => Err("it is a sum of other points"),
            Source::Reading(at) => Ok(Item {
                name: &point.name,
                unit: point.unit.as_deref(),
                reading: &map.readings[at.0 as usize],
                transform: &point.transform,
                access: if target(&point.name).is_some() { "rw" } else { "r" },
                rate: &point.rate,
            }),
        };
        (&*point.name, item)
    });
    let only_written = map.writes.iter().filter(|target| !target.readable).map(|target| {
        let item = Item {
            name: &target.name,
            unit: target.unit.as_deref(),
            reading: &target.reading,
            transform: &target.transform,
            access: "w",
            rate: DEFAULT_RATE,
        };
        (&*target.name, Ok(item))
    });
    readable.chain(only_written).map(|(name, item)| {
        let is_scattered = |item: &Item<'_>| matches!(item.reading.place, Place::Scattered { .. });
        match item {
            Ok(item) if is_scattered(&item) => (name, Err("its registers are far apart")),
            item => (name, item),
        }
    })
}

/// Everything but the description; what doesn't fit goes to `lost`.
fn cells(item: &Item<'_>, map: &DeviceMap, lost: &mut Vec<String>) -> Cells {
    let mut cells = Cells::new();
    let decode = &item.reading.decode;
    match &item.reading.place {
        Place::Run { table, address, count } => {
            cells.insert(Column::Table, table.key().into());
            cells.insert(Column::AddressZeroBased, address.to_string());
            cells.insert(Column::Count, count.to_string());
            cells.insert(Column::Type, kind(item.reading, *table, &item.transform.select));
            cells.insert(Column::WordOrder, order(decode.kind, decode.order).into());
        }
        Place::Scattered { .. } => {}
        Place::Node(node) => {
            cells.insert(Column::Table, "opcua".into());
            cells.insert(Column::AddressZeroBased, node.to_string());
            cells.insert(Column::Type, word(decode.kind).into());
        }
    }
    let transform = item.transform;
    if matches!(transform.select, Select::Flags(_)) {
        lost.push("bits (the whole register is)".into());
    }
    cells.insert(Column::Scale, scale(transform, map));
    cells.insert(Column::Offset, transform.offset.unwrap_or(Decimal::ZERO).to_string());
    let unit = item.unit.unwrap_or_default();
    let again = read_back(unit);
    if again != if unit == "%" { "percent" } else { unit } {
        lost.push(format!("the unit '{unit}', which is read back as '{again}'"));
    }
    cells.insert(Column::Unit, unit.into());
    cells.insert(Column::Access, item.access.into());
    cells.insert(Column::Name, item.name.into());
    match transform.invalid.iter().map(raw).collect::<Option<Vec<String>>>() {
        Some(raws) => drop(cells.insert(Column::Invalid, raws.join(" "))),
        None => lost.push("invalid".into()),
    }
    let labels: Vec<(i64, String)> =
        transform.labels.iter().map(|(number, text)| (*number, text.to_string())).collect();
    if !labels.is_empty() {
        let text =
            labels.iter().map(|(number, text)| format!("{number}={text}")).collect::<Vec<_>>().join("; ");
        match words::enumeration(&text) {
            Some(back) if back == labels => drop(cells.insert(Column::Enum, text)),
            _ => lost.push("enum".into()),
        }
    }
    if item.rate != DEFAULT_RATE {
        cells.insert(Column::Rate, item.rate.into());
    }
    cells
}

/// The word of a type.
fn word(own: Kind) -> &'static str {
    let same = |kind: Kind| match (kind, own) {
        (Kind::Datetime(_), Kind::Datetime(_)) => true,
        (kind, own) => kind == own,
    };
    TypeWord::WORDS.iter().find(|(_, word)| same(word.kind())).map_or("", |(word, _)| *word)
}

/// The type as [`super::types`] reads it: a word, and what belongs to it.
fn kind(reading: &Reading, table: Table, select: &Select) -> String {
    if table.is_bits() {
        return TypeWord::Bool.word().into();
    }
    let decode = &reading.decode;
    let mut text = word(decode.kind).to_owned();
    if let Kind::Datetime(clock) = decode.kind {
        let format = match clock.format {
            ClockFormat::Unix => "unix",
            ClockFormat::UnixMs => "unix_ms",
            ClockFormat::Iec870 => "iec870",
            ClockFormat::Packed => "packed",
            ClockFormat::Fields => "fields",
        };
        text += &format!(" {format} {}", if clock.utc { "utc" } else { "local" });
    }
    match decode.chars {
        Chars::Both => {}
        Chars::High => text += " high",
        Chars::Low => text += " low",
    }
    match decode.byte {
        Some(Byte::High) => text += " high",
        Some(Byte::Low) => text += " low",
        None => {}
    }
    match select {
        Select::Bit(bit) => text += &format!(" bit {bit}"),
        Select::Mask(mask) => text += &format!(" mask 0x{mask:X}"),
        Select::Whole | Select::Flags(_) => {}
    }
    text
}

/// As many letters as the value has bytes; none for single bytes and bits.
fn order(kind: Kind, order: Order) -> &'static str {
    let is_calendar = |kind| matches!(kind, Kind::Datetime(clock) if !matches!(clock.format, ClockFormat::Unix | ClockFormat::UnixMs));
    match (kind.registers(), order) {
        _ if matches!(kind, Kind::Bool | Kind::Int8 | Kind::Uint8) || is_calendar(kind) => "",
        (Some(4), Order::Abcd) => "ABCDEFGH",
        (Some(4), Order::Cdab) => "GHEFCDAB",
        (Some(4), Order::Badc) => "BADCFEHG",
        (Some(4), Order::Dcba) => "HGFEDCBA",
        (Some(2), Order::Abcd) => "ABCD",
        (_, Order::Abcd) => "AB",
        (_, Order::Cdab) => "CDAB",
        (_, Order::Badc) => "BADC",
        (_, Order::Dcba) => "DCBA",
    }
}

fn scale(transform: &Transform, map: &DeviceMap) -> String {
    let number = transform.scale.map(|scale| scale.to_string());
    let factor = transform.scale_from.and_then(|at| map.points.get(at.0 as usize));
    match (number, factor) {
        (number, Some(point)) => {
            format!("{} sf:{}", number.unwrap_or_default(), point.name).trim_start().to_owned()
        }
        (number, None) => number.unwrap_or_else(|| "1".into()),
    }
}

/// A raw value as `invalid` takes it. `None`: it can't be written as a decimal number.
fn raw(raw: &Raw) -> Option<String> {
    match raw {
        Raw::Int(number) => Some(number.to_string()),
        Raw::Uint(number) => Some(number.to_string()),
        Raw::Float32(number) => Decimal::from_f32(*number).map(|number| number.to_string()),
        Raw::Float64(number) => Decimal::from_f64(*number).map(|number| number.to_string()),
        Raw::Bool(_) | Raw::Text(_) | Raw::Json(_) => None,
    }
}

/// The keys of a point that no table has a column for.
fn lost_keys(name: &str, map: &DeviceMap) -> Vec<String> {
    let mut lost = Vec::new();
    let mut add = |is_there: bool, key: &str| {
        if is_there {
            lost.push(key.to_owned());
        }
    };
    if let Some(point) = map.points.iter().find(|point| *point.name == *name) {
        add(!point.published, "internal");
        add(point.plausible.is_some(), "plausible");
        add(point.deadband.is_some(), "deadband");
        add(point.heartbeat.is_some(), "heartbeat");
        add(point.smooth.is_some(), "smooth");
        add(point.alone, "alone");
    }
    if let Some(target) = map.writes.iter().find(|target| *target.name == *name) {
        add(
            target.allowed.range.is_some() || !target.allowed.also.is_empty(),
            "the range of what may be written",
        );
        add(target.refresh.is_some(), "refresh");
        add(target.order != target.reading.decode.order, "the order of what is written");
        add(!is_usual(target), "the function code that writes it");
    }
    lost
}

/// Is it written with the first function code that can?
fn is_usual(target: &Target) -> bool {
    let Place::Run { table, count, .. } = target.reading.place else { return true };
    Function::fitting(table, count, target.is_part()).first() == Some(&target.function)
}

/// What a profile says about all points and no row does.
fn lost_of_profile(profile: &Profile) -> Option<String> {
    const KEYS: [&str; 4] = ["title", "sources", "limits", "examples"];
    let given: Vec<&str> = KEYS.into_iter().filter(|key| profile.given(key).is_some()).collect();
    (!given.is_empty()).then(|| given.join(", "))
}

fn csv(rows: &[Cells]) -> String {
    let is_needed =
        |column: &Column| rows.iter().any(|row| row.get(column).is_some_and(|cell| !cell.is_empty()));
    let columns: Vec<Column> = ALWAYS.into_iter().chain(SOMETIMES.into_iter().filter(is_needed)).collect();
    let mut writer = csv::Writer::from_writer(Vec::new());
    // Writing to memory fails at nothing.
    let _ = writer.write_record(columns.iter().map(|column| column.word()));
    for row in rows {
        let _ = writer.write_record(columns.iter().map(|column| row.get(column).map_or("", String::as_str)));
    }
    writer.into_inner().ok().and_then(|bytes| String::from_utf8(bytes).ok()).unwrap_or_default()
}

/// What an import makes of a unit.
fn read_back(unit: &str) -> String {
    if numbers::is_nothing(unit) { String::new() } else { words::unit(unit) }
}

#[cfg(test)]
#[path = "export_tests.rs"]
mod tests;
