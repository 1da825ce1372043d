//! Proves a profile's map against its examples: the registers given there, through the code that reads devices. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use crate::document::codes;
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::document::types::{Int, List, Names};
use crate::drivers::modbus::decode;
use crate::mapping::compiled::{DeviceMap, Kind, Point, PointIx, ReadingIx, Select, Source};
use crate::mapping::device::{Every, Read};
use crate::mapping::example::{Cells, Example, Expected, Memory};
use crate::mapping::profile::Profile;
use crate::mapping::transform::evaluate;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::{Place, Table};
use crate::model::value::{Cause, Raw, Value};
use crate::pipeline::encode;

/// What a profile's examples prove.
#[derive(Clone, Debug, Default)]
pub struct Proven {
    /// The profile's name.
    pub profile: String,
    /// One per expectation, in the order of the file.
    pub proofs: Vec<Proof>,
    /// Published points that no example expects anything of.
    pub uncovered: Vec<Arc<str>>,
    /// What the examples' registers hold, by address on the wire; where several say it, the first one.
    pub registers: BTreeMap<(Table, u16), u16>,
}

/// One expectation and what came of it.
#[derive(Clone, Debug)]
pub struct Proof {
    /// The example's title; empty without one.
    pub title: String,
    /// The point.
    pub point: String,
    /// The registers that the point is computed from: `input 40: 0x08FC 0x0000`.
    pub registers: String,
    /// The raw values that they hold.
    pub raw: String,
    /// The point's value, as it is published.
    pub decoded: String,
    /// What was expected.
    pub expected: String,
    /// Do they agree?
    pub holds: bool,
}

/// Runs a profile's examples; those that fail, or can't be run, are errors where they stand.
pub fn prove(profile: &Profile, map: &DeviceMap, found: &mut Diagnostics) -> Proven {
    let base = profile.address_base.as_ref().map_or(0, |base| base.0);
    let (mut proofs, mut all) = (Vec::new(), BTreeMap::new());
    for example in profile.examples.iter().flat_map(|examples| &examples.value.0) {
        let Example { title, registers, values, expect: Some(expect), faulty: false } = &example.value else {
            continue;
        };
        if registers.is_none() && values.is_none() {
            found
                .error(codes::EXAMPLE_LACKS, &example.span, "an example that gives nothing")
                .help("write what the device holds: registers: {input: {40: [0x08FC, 0]}}, or values: {speed: 3} of nodes");
            continue;
        }
        let title = title.as_ref().map_or("", |title| &title.0);
        let mut held = Held { words: BTreeMap::new(), nodes: BTreeMap::new(), base };
        registers.iter().for_each(|memory| held.take_memory(&memory.value, found));
        values.iter().for_each(|values| held.take_values(&values.value, map, found));
        prove_example(title, &held, expect, map, &mut proofs, found);
        for ((table, address), word) in held.words {
            if let Ok(address) = u16::try_from(address) {
                all.entry((table, address)).or_insert(word);
            }
        }
    }
    let proven: BTreeSet<&str> = proofs.iter().map(|proof: &Proof| proof.point.as_str()).collect();
    let is_open = |point: &&Point| point.published && !proven.contains(&*point.name);
    let uncovered = map.points.iter().filter(is_open).map(|point| point.name.clone()).collect();
    let name = profile.profile.as_ref().map_or(String::new(), |name| name.0.clone());
    Proven { profile: name, proofs, uncovered, registers: all }
}

fn prove_example(
    title: &str,
    held: &Held,
    expect: &Names<Expected>,
    map: &DeviceMap,
    proofs: &mut Vec<Proof>,
    found: &mut Diagnostics,
) {
    for (name, expected) in &expect.0 {
        let Some(expected) = expected else { continue };
        let Some(at) = map.points.iter().position(|point| *point.name == *name.value) else {
            report_unknown(name, map, found);
            continue;
        };
        let ix = PointIx(at as u32);
        let needs: Vec<PointIx> = map.needs(ix).into_iter().collect();
        let readings: BTreeSet<ReadingIx> = needs.iter().filter_map(|ix| reading_of(map, *ix)).collect();
        let readings: Vec<ReadingIx> = readings.into_iter().collect();
        let places = || readings.iter().map(|ix| &map.readings[ix.0 as usize].place);
        let absent: Vec<String> =
            places().flat_map(Place::cells).filter_map(|cell| held.absent(cell)).collect();
        let lacks_node = readings.iter().any(|ix| held.lacks_node(map, *ix));
        if !absent.is_empty() || lacks_node {
            let help = match absent.is_empty() {
                true => "add the values of all nodes that it is computed from: values: {…}".into(),
                false => format!("add to the registers: {}", absent.join(", ")),
            };
            let message = format!("'{}' is read from more than is given", name.value);
            found.error(codes::EXAMPLE_LACKS, &name.span, message).help(help);
            continue;
        }
        let raws: Vec<Result<Raw, Cause>> = readings.iter().map(|ix| held.decode(map, *ix)).collect();
        let shown_raws = raws.iter().map(shown_raw).collect::<Vec<_>>().join(", ");
        let read =
            Read { every: Every::Once, readings: readings.clone(), points: needs, publishes: Vec::new() };
        let mut samples = Vec::new();
        evaluate(map, &read, &raws, &mut Vec::new(), &mut samples);
        let value = samples.into_iter().find(|(point, _)| *point == ix).map(|(_, value)| value);
        let value = value.unwrap_or(Err(Cause::Dependency));
        let point = &map.points[at];
        let proof = Proof {
            title: title.to_string(),
            point: name.value.clone(),
            registers: readings.iter().map(|ix| held.shown(map, *ix)).collect::<Vec<_>>().join(", "),
            raw: shown_raws,
            decoded: shown(&value, point),
            expected: expected.to_string(),
            holds: agrees(expected, &value, point),
        };
        if !proof.holds {
            report_failed(&name.span, &proof, found);
        }
        proofs.push(proof);
    }
}

fn report_unknown(name: &At<String>, map: &DeviceMap, found: &mut Diagnostics) {
    let near = did_you_mean(found, &name.value, map.points.iter().map(|point| &*point.name));
    let message = format!("there is no point '{}' to expect anything of{near}", name.value);
    found.error(codes::UNKNOWN_POINT, &name.span, message);
}

fn report_failed(at: &Span, proof: &Proof, found: &mut Diagnostics) {
    let Proof { point, registers, raw, decoded, expected, .. } = proof;
    found
        .error(codes::EXAMPLE_FAILS, at, format!("'{point}' is {decoded}, and {expected} is expected"))
        .help(format!(
            "from {registers}, raw {raw}: look at the type, the order, the scale, and the address"
        ));
}

/// What an example gives.
struct Held {
    /// By address on the wire.
    words: BTreeMap<(Table, i64), u16>,
    /// What nodes hold.
    nodes: BTreeMap<ReadingIx, Result<Raw, Cause>>,
    /// What the file's addresses are more than the wire's.
    base: i64,
}

impl Held {
    fn take_memory(&mut self, memory: &Memory, found: &mut Diagnostics) {
        self.take(Table::Coil, memory.coil.as_ref().map(|at| &at.value), found);
        self.take(Table::Discrete, memory.discrete.as_ref().map(|at| &at.value), found);
        self.take(Table::Input, memory.input.as_ref().map(|at| &at.value), found);
        self.take(Table::Holding, memory.holding.as_ref().map(|at| &at.value), found);
    }

    fn take_values(&mut self, values: &Names<Expected>, map: &DeviceMap, found: &mut Diagnostics) {
        for (name, given) in &values.0 {
            let Some(given) = given else { continue };
            let Some(at) = map.points.iter().position(|point| *point.name == *name.value) else {
                report_unknown(name, map, found);
                continue;
            };
            let reading = reading_of(map, PointIx(at as u32));
            let node = reading.filter(|ix| matches!(map.readings[ix.0 as usize].place, Place::Node(_)));
            let raw = node.and_then(|ix| Some((ix, raw_of(given, map.readings[ix.0 as usize].decode.kind)?)));
            if let Some((ix, raw)) = raw {
                self.nodes.insert(ix, raw);
                continue;
            }
            let message = format!("{given} is nothing that the node of '{}' may hold", name.value);
            found
                .error(codes::EXAMPLE_LACKS, &name.span, message)
                .help("values are those of points with a node; all others are given by their registers");
        }
    }

    fn take<const MOST: i64>(&mut self, table: Table, cells: Option<&Cells<MOST>>, found: &mut Diagnostics) {
        for (first, List(run)) in cells.iter().flat_map(|cells| &cells.0) {
            for (address, At { value: Int(word), span }) in (first.value - self.base..).zip(run) {
                let word = u16::try_from(*word).unwrap_or(u16::MAX);
                if self.words.insert((table, address), word).is_some() {
                    let message = format!("{} {} is given twice", table.key(), address + self.base);
                    found.error(codes::DUPLICATE_VALUE, span, message);
                }
            }
        }
    }

    /// `input 41`, as the file counts, unless it is there.
    fn absent(&self, (table, address): (Table, u16)) -> Option<String> {
        let address = i64::from(address);
        let there = self.words.contains_key(&(table, address));
        (!there).then(|| format!("{} {}", table.key(), address + self.base))
    }

    fn lacks_node(&self, map: &DeviceMap, ix: ReadingIx) -> bool {
        matches!(map.readings[ix.0 as usize].place, Place::Node(_)) && !self.nodes.contains_key(&ix)
    }

    fn word(&self, cell: (Table, u16)) -> u16 {
        self.words.get(&(cell.0, i64::from(cell.1))).copied().unwrap_or_default()
    }

    fn decode(&self, map: &DeviceMap, reading: ReadingIx) -> Result<Raw, Cause> {
        if let Some(given) = self.nodes.get(&reading) {
            return given.clone();
        }
        let reading = &map.readings[reading.0 as usize];
        if reading.place.table().is_some_and(Table::is_bits) {
            return Ok(Raw::Bool(reading.place.cells().any(|cell| self.word(cell) != 0)));
        }
        let bytes: Vec<u8> = reading.place.cells().flat_map(|cell| self.word(cell).to_be_bytes()).collect();
        decode::registers(&reading.decode, &bytes)
    }

    /// `input 40: 0x08FC 0x0000`, as the file counts.
    fn shown(&self, map: &DeviceMap, reading: ReadingIx) -> String {
        let place = &map.readings[reading.0 as usize].place;
        if let Place::Node(node) = place {
            return format!("node {node}");
        }
        let Some((table, first)) = place.cells().next() else { return String::new() };
        let word = |cell| match table.is_bits() {
            true => self.word(cell).to_string(),
            false => format!("0x{:04X}", self.word(cell)),
        };
        let words: Vec<String> = place.cells().map(word).collect();
        format!("{} {}: {}", table.key(), i64::from(first) + self.base, words.join(" "))
    }
}

/// What a server gives for a node of this type.
fn raw_of(given: &Expected, kind: Kind) -> Option<Result<Raw, Cause>> {
    let raw = match (given, kind) {
        (Expected::Bad, _) => return Some(Err(Cause::Invalid)),
        (Expected::Bool(bit), _) => Raw::Bool(*bit),
        (Expected::Text(text), _) => Raw::Text(text.as_str().into()),
        (Expected::Number(number), Kind::Float16 | Kind::Float32) => Raw::Float32(number.to_f64() as f32),
        (Expected::Number(number), Kind::Float64) => Raw::Float64(number.to_f64()),
        (Expected::Number(number), _) => match number.to_i64() {
            Some(whole) => u64::try_from(whole).map_or(Raw::Int(whole), Raw::Uint),
            None => Raw::Float64(number.to_f64()),
        },
        (Expected::Flags(_), _) => return None,
    };
    Some(Ok(raw))
}

fn reading_of(map: &DeviceMap, ix: PointIx) -> Option<ReadingIx> {
    match map.points[ix.0 as usize].source {
        Source::Reading(reading) => Some(reading),
        Source::Sum(_) => None,
    }
}

/// Is it what is expected? Numbers exactly; what is a float is compared as the float nearest to the expectation.
fn agrees(expected: &Expected, value: &Result<Value, Cause>, point: &Point) -> bool {
    match (expected, value) {
        (Expected::Bad, value) => value.is_err(),
        (Expected::Bool(expected), Ok(Value::Bool(bit))) => expected == bit,
        (Expected::Number(expected), Ok(Value::Number(number))) => expected == number,
        (Expected::Number(expected), Ok(Value::Float32(float))) => expected.to_f64() as f32 == *float,
        (Expected::Number(expected), Ok(Value::Float64(float))) => expected.to_f64() == *float,
        (Expected::Text(expected), Ok(Value::Text(text))) => **expected == **text,
        (Expected::Flags(expected), Ok(Value::Flags(word))) => {
            let Select::Flags(names) = &point.transform.select else { return false };
            expected.iter().all(|(name, flag)| {
                let bit = names.iter().find(|(known, _)| **known == *name.value);
                bit.zip(*flag).is_some_and(|((_, bit), flag)| (word >> bit & 1 == 1) == flag.0)
            })
        }
        _ => false,
    }
}

fn shown(value: &Result<Value, Cause>, point: &Point) -> String {
    match value {
        Err(cause) => format!("bad ({cause})"),
        Ok(Value::Text(text)) => format!("'{text}'"),
        Ok(value) => {
            let mut out = Vec::new();
            encode::write_value(value, point, &mut out);
            String::from_utf8_lossy(&out).into_owned()
        }
    }
}

fn shown_raw(raw: &Result<Raw, Cause>) -> String {
    match raw {
        Ok(Raw::Bool(bit)) => bit.to_string(),
        Ok(Raw::Int(number)) => number.to_string(),
        Ok(Raw::Uint(number)) => number.to_string(),
        Ok(Raw::Float32(number)) => number.to_string(),
        Ok(Raw::Float64(number)) => number.to_string(),
        Ok(Raw::Text(text)) => format!("'{text}'"),
        Ok(Raw::Json(text)) => text.to_string(),
        Err(cause) => cause.to_string(),
    }
}
