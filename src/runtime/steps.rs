//! One point of a device: what was asked and answered last, and how that became its value, step by step. Pure.

use serde_json::{Value as Json, json};
use tokio::time::Instant;

use super::explain::millis;
use crate::mapping::compiled::{DeviceMap, PointIx, ReadingIx, Select, Source};
use crate::mapping::device::{Every, Read};
use crate::mapping::recent::{Recent, Seen};
use crate::mapping::transform::evaluate;
use crate::metrics::DeviceMetrics;
use crate::model::place::{Place, Table};
use crate::model::value::{Cause, Raw};
use crate::pipeline::encode::write_value;

/// The account of one point: its value or what it's bad with, the steps to it, and the exchanges that its readings came with.
pub(super) fn point(recent: &Recent, metrics: &DeviceMetrics, ix: PointIx, now: Instant) -> Json {
    let map = &recent.plan.device.map;
    let needs = map.needs(ix);
    let readings: Vec<ReadingIx> = needs.iter().filter_map(|need| reading_of(map, *need)).collect();
    let raws: Vec<Result<Raw, Cause>> = readings
        .iter()
        .map(|ix| recent.seen(*ix).map_or(Err(Cause::Dependency), |seen| seen.raw.clone()))
        .collect();
    // A point comes after those that it's computed from, and the set is sorted.
    let points: Vec<PointIx> = needs.iter().copied().collect();
    let read = Read { every: Every::Once, readings: readings.clone(), points, publishes: vec![ix] };
    let mut samples = Vec::new();
    evaluate(map, &read, &raws, &mut Vec::new(), &mut samples);
    let mut steps = Vec::new();
    for (need, value) in &samples {
        let name = &map.points[need.0 as usize].name;
        let mut own = steps_of(recent, metrics, *need);
        own.push(match value {
            Ok(value) => format!("= {}", shown(map, *need, value)),
            Err(cause) => format!("bad: {cause}"),
        });
        let of_another = |step: String| if *need == ix { step } else { format!("{name}: {step}") };
        steps.extend(own.into_iter().map(of_another));
    }
    let point = &map.points[ix.0 as usize];
    let mut account = json!({
        "point": &*point.name,
        "unit": point.unit.as_deref(),
        "steps": steps,
        "exchanges": exchanges(recent, metrics, &readings, now),
    });
    match samples.last() {
        Some((_, Ok(value))) => account["value"] = shown(map, ix, value).into(),
        Some((_, Err(cause))) => account["bad"] = cause.to_string().into(),
        None => {}
    }
    account
}

fn reading_of(map: &DeviceMap, ix: PointIx) -> Option<ReadingIx> {
    match map.points.get(ix.0 as usize)?.source {
        Source::Reading(reading) => Some(reading),
        Source::Sum(_) => None,
    }
}

/// From the words to the value, without the value.
fn steps_of(recent: &Recent, metrics: &DeviceMetrics, ix: PointIx) -> Vec<String> {
    let map = &recent.plan.device.map;
    let point = &map.points[ix.0 as usize];
    let mut steps = Vec::new();
    match &point.source {
        Source::Reading(reading) => {
            let Some(seen) = recent.seen(*reading) else { return vec!["not read yet".into()] };
            let at = &map.readings[reading.0 as usize];
            let words = words(&at.place, seen, metrics).map_or(String::new(), |words| format!(": {words}"));
            steps.push(format!("{}{words}", place(&at.place)));
            if let Ok(raw) = &seen.raw {
                let kind = format!("{:?}", at.decode.kind).to_lowercase();
                let kind = kind.split('(').next().unwrap_or_default().to_owned();
                let order = match at.place {
                    Place::Run { count: 2.., .. } | Place::Scattered { .. } => {
                        format!(" {}", format!("{:?}", at.decode.order).to_uppercase())
                    }
                    _ => String::new(),
                };
                steps.push(format!("{kind}{order}: {}", raw_text(raw)));
            }
        }
        Source::Sum(terms) => {
            let term = |(ix, factor): &(PointIx, _)| format!("{factor} × {}", map.points[ix.0 as usize].name);
            steps.push(terms.iter().map(term).collect::<Vec<_>>().join(" + "));
        }
    }
    let transform = &point.transform;
    match &transform.select {
        Select::Whole => {}
        Select::Bit(bit) => steps.push(format!("bit {bit}")),
        Select::Mask(mask) => steps.push(format!("mask 0x{mask:X}")),
        Select::Flags(_) => steps.push("named bits".into()),
    }
    steps.extend(transform.scale.map(|scale| format!("× {scale}")));
    steps.extend(
        transform.scale_from.map(|from| format!("× 10 to the power of {}", map.points[from.0 as usize].name)),
    );
    steps.extend(transform.offset.map(|offset| format!("+ {offset}")));
    if !transform.labels.is_empty() {
        steps.push("labelled".into());
    }
    steps
}

fn place(place: &Place) -> String {
    match place {
        Place::Run { table, address, count: 1 } => format!("{} {address}", table.key()),
        Place::Run { table, address, count } => {
            format!("{} {address}..{}", table.key(), u32::from(*address) + u32::from(*count) - 1)
        }
        Place::Scattered { table, addresses } => format!("{} {addresses:?}", table.key()),
        Place::Node(node) => node.to_string(),
    }
}

/// The registers of a place, as the last exchange brought them.
fn words(place: &Place, seen: &Seen, metrics: &DeviceMetrics) -> Option<String> {
    let exchanges = metrics.wire.of(seen.read)?;
    let word = |(table, address): (Table, u16)| {
        let (request, answer) = exchanges.iter().find(|(request, _)| asks_for(request, table, address))?;
        let first = u16::from_be_bytes([*request.get(1)?, *request.get(2)?]);
        let at = 2 + usize::from(address - first) * 2;
        answer.get(at..at + 2).filter(|_| !table.is_bits()).map(hex)
    };
    let words: Option<Vec<String>> = place.cells().map(word).collect();
    words.map(|words| words.join(" ")).filter(|words| !words.is_empty())
}

/// Does a request's PDU ask for this address? (Modbus Application Protocol V1.1b3, 6.1 to 6.4)
fn asks_for(request: &[u8], table: Table, address: u16) -> bool {
    let [function, high, low, count_high, count_low] = *request else { return false };
    let first = u32::from(u16::from_be_bytes([high, low]));
    let end = first + u32::from(u16::from_be_bytes([count_high, count_low]));
    function == table.read_function() && (first..end).contains(&u32::from(address))
}

/// The exchanges that readings came with: of Modbus the PDUs, those that ask for one of the readings first.
fn exchanges(recent: &Recent, metrics: &DeviceMetrics, readings: &[ReadingIx], now: Instant) -> Json {
    let map = &recent.plan.device.map;
    let mut told = Vec::new();
    for ix in readings {
        let Some(seen) = recent.seen(*ix) else { continue };
        let age = millis(now.saturating_duration_since(seen.received));
        let took = millis(seen.received.saturating_duration_since(seen.started));
        let mut entry = json!({"at": seen.stamp.to_string(), "age_ms": age, "took_ms": took});
        let place = &map.readings[ix.0 as usize].place;
        if let Place::Node(node) = place {
            entry["node"] = node.to_string().into();
        }
        let first = place.cells().next();
        let wire = first.and_then(|(table, address)| {
            let known = metrics.wire.of(seen.read)?;
            let (request, answer) = known.iter().find(|(request, _)| asks_for(request, table, address))?;
            Some((hex(request), hex(answer)))
        });
        if let Some((request, answer)) = wire {
            entry["request"] = request.into();
            entry["answer"] = answer.into();
        }
        if !told.contains(&entry) {
            told.push(entry);
        }
    }
    told.into()
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02X}")).collect()
}

fn raw_text(raw: &Raw) -> String {
    match raw {
        Raw::Bool(bit) => bit.to_string(),
        Raw::Int(number) => number.to_string(),
        Raw::Uint(number) => number.to_string(),
        Raw::Float32(number) => number.to_string(),
        Raw::Float64(number) => number.to_string(),
        Raw::Text(text) => format!("{text:?}"),
        Raw::Json(json) => json.to_string(),
    }
}

fn shown(map: &DeviceMap, ix: PointIx, value: &crate::model::value::Value) -> String {
    let point = &map.points[ix.0 as usize];
    let mut out = Vec::new();
    write_value(value, point, &mut out);
    let unit = point.unit.as_ref().map_or(String::new(), |unit| format!(" {unit}"));
    format!("{}{unit}", String::from_utf8_lossy(&out))
}
