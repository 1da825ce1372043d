//! One point by itself: everything about it but the points that it's computed from.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::time::Duration;

use super::place::{Spot, location, spot};
use super::{Defaults, invalid};
use crate::document::codes;
use crate::document::read::At;
use crate::mapping::compiled::{
    Chars, Clock, ClockFormat, Deadband, Decode, Kind, Order, Reading, Select, Transform,
};
use crate::mapping::device::{Limits, Stretch};
use crate::mapping::parameters::Formula;
use crate::mapping::profile::Point;
use crate::mapping::write::Target;
use crate::mapping::written::{Access, OrderWord, TypeWord, ZoneWord};
use crate::model::decimal::Decimal;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::{NodePlace, Place};
use crate::model::value::Raw;

/// The name of the rate of points that name none.
pub const DEFAULT_RATE: &str = "default";

/// A point whose references to other points are still names.
pub struct Draft {
    pub source: DraftSource,
    /// The type; `None` for a sum.
    pub kind: Option<TypeWord>,
    pub select: Select,
    pub invalid: Vec<Raw>,
    pub scale: Option<Decimal>,
    pub offset: Option<Decimal>,
    pub scale_from: Option<At<String>>,
    pub labels: BTreeMap<i64, Arc<str>>,
    pub unit: Option<Arc<str>>,
    pub plausible: Option<Box<(Decimal, Decimal)>>,
    pub deadband: Option<Deadband>,
    pub heartbeat: Option<Duration>,
    pub smooth: Option<u16>,
    pub alone: bool,
    pub rate: Arc<str>,
    pub internal: bool,
    /// `false` for points that can only be written.
    pub readable: bool,
    /// `true` for points that can be written.
    pub writable: bool,
    /// How it's written; without its scale factor's place.
    pub target: Option<Box<Target>>,
    /// Where its location is written.
    pub span: Span,
}

/// What a draft is computed from.
pub enum DraftSource {
    Reading(Reading),
    Sum(Vec<(At<String>, Decimal)>),
}

/// The default rate's name is shared by nearly all points.
fn rate_of(point: &Point) -> Arc<str> {
    point.rate.as_ref().map_or(DEFAULT_RATE, |rate| &rate.value.0).into()
}

/// Checks a point. `None` when there is something to report.
pub fn draft(
    name: &At<String>,
    point: &Point,
    defaults: &Defaults,
    found: &mut Diagnostics,
) -> Option<Draft> {
    let before = found.errors();
    let (key, span) = location(name, point, found)?;
    let source = match key {
        "sum" => sum(point, defaults, found).map(|source| (source, None)),
        "node" => node_reading(point, found).map(|(reading, kind)| (DraftSource::Reading(reading), kind)),
        _ => reading(name, point, defaults, span, found)
            .map(|(reading, kind)| (DraftSource::Reading(reading), Some(kind))),
    };
    let (source, kind) = source?;
    let invalid = match (kind, &point.invalid) {
        (Some(TypeWord::Bool), _) => Vec::new(),
        (Some(kind), Some(words)) => invalid::by_type(kind, &words.span, words, found).unwrap_or_default(),
        (Some(kind), None) => defaults.invalid.get(&kind).cloned().unwrap_or_default(),
        (None, _) => Vec::new(),
    };
    let select = select(point, kind, found);
    check_labels(point, kind, &select, found);
    let number = |formula: &Option<Box<At<Formula>>>, found: &mut Diagnostics| {
        formula.as_ref().and_then(|formula| defaults.parameters.value(formula, found))
    };
    let scale = number(&point.scale, found);
    check_arithmetic(point, kind, scale, found);
    let draft = Draft {
        source,
        kind,
        select,
        invalid,
        scale,
        offset: number(&point.offset, found),
        scale_from: point
            .scale_from
            .as_ref()
            .map(|at| At { value: at.value.0.clone(), span: at.span.clone() }),
        labels: point
            .r#enum
            .iter()
            .flat_map(|labels| &labels.value.0)
            .map(|(number, text)| (*number, text.as_str().into()))
            .collect(),
        unit: point
            .unit
            .as_ref()
            .map(|unit| if unit.value.0 == "percent" { "%" } else { &unit.value.0 }.into()),
        plausible: point.plausible.as_ref().map(|range| Box::new((range.value.0, range.value.1))),
        deadband: point.deadband.as_ref().map(|deadband| deadband.value.0),
        heartbeat: point.heartbeat.as_ref().map(|at| at.0),
        smooth: point.smooth.as_ref().map(|at| at.0 as u16),
        alone: point.alone.as_ref().is_some_and(|flag| flag.0),
        rate: rate_of(point),
        internal: point.internal.as_ref().is_some_and(|flag| flag.0),
        readable: point.access.as_ref().is_none_or(|access| access.value != Access::Write),
        writable: point.access.as_ref().is_some_and(|access| access.value != Access::Read),
        target: None,
        span: span.clone(),
    };
    (found.errors() == before).then_some(draft)
}

impl Draft {
    /// What happens to the raw value, without the place of its scale factor.
    pub fn transform(&self) -> Transform {
        Transform {
            select: self.select.clone(),
            invalid: self.invalid.clone(),
            scale: self.scale,
            offset: self.offset,
            scale_from: None,
            labels: self.labels.clone(),
        }
    }

    /// Can the device be asked for it? `changed` is where the device's own limits are, which are then to blame.
    pub fn check_limits(&self, name: &str, limits: &Limits, changed: Option<&Span>, found: &mut Diagnostics) {
        let DraftSource::Reading(reading) = &self.source else { return };
        let Some(table) = reading.place.table().filter(|_| self.readable) else { return };
        let span = changed.unwrap_or(&self.span);
        let code = table.read_function();
        if limits.functions.as_ref().is_some_and(|functions| !functions.contains(&code)) {
            let message = format!(
                "point '{name}' ({}) needs function code {code}, which 'functions' leaves out",
                table.key()
            );
            found.error(codes::FUNCTION_NOT_ALLOWED, span, message);
        }
        if let Some(stretch) = refused(&reading.place, limits) {
            let message = format!(
                "point '{name}' is at addresses that 'refused' lists: {} {} to {} on the wire",
                table.key(),
                stretch.first,
                stretch.last
            );
            found.error(codes::REFUSED_ADDRESS, span, message).help("remove the point, or correct 'refused'");
        }
        if let Place::Run { count, .. } = reading.place
            && count > limits.max_count(table)
        {
            let max = limits.max_count(table);
            let message = format!("point '{name}' takes {count} registers, and a request may have {max}");
            found.error(codes::VALUE_TOO_WIDE, span, message);
        }
        if let Place::Run { table, address, count } = reading.place
            && let Some(block) = limits.block_at(table, address, count)
            && !block.holds(table, address, count)
        {
            let edges = (block.address, u32::from(block.address) + u32::from(block.count) - 1);
            let message = format!(
                "point '{name}' is partly in the block from {} {} to {}, which is read as a whole",
                table.key(),
                edges.0,
                edges.1
            );
            found.error(codes::FIXED_BLOCK, &self.span, message);
        }
    }
}

/// The refused addresses that a place has a part of.
fn refused<'l>(place: &Place, limits: &'l Limits) -> Option<&'l Stretch> {
    let within = |table, address: u16, count: u16| {
        limits.refused_in(table, u32::from(address), u32::from(address) + u32::from(count))
    };
    match place {
        Place::Run { table, address, count } => within(*table, *address, *count),
        Place::Scattered { table, addresses } => {
            addresses.iter().find_map(|address| within(*table, *address, 1))
        }
        Place::Node(_) => None,
    }
}

fn sum(point: &Point, defaults: &Defaults, found: &mut Diagnostics) -> Option<DraftSource> {
    const NOT_HERE: [&str; 14] = [
        "member", "type", "order", "bit", "bits", "mask", "byte", "invalid", "length", "chars", "alone",
        "write", "format", "zone",
    ];
    forbid(point, &NOT_HERE, "a sum, which reads other points", found);
    let at = point.sum.as_ref()?;
    if at.value.0.is_empty() {
        found
            .error(codes::UNKNOWN_POINT, &at.span, "a sum of no points")
            .help("such as {heat_kwh: 1, heat_mwh: 1000}");
        return None;
    }
    let parts = at.value.0.iter().map(|(name, factor)| {
        let factor = At { value: factor.clone()?, span: name.span.clone() };
        Some((name.clone(), defaults.parameters.value(&factor, found)?))
    });
    Some(DraftSource::Sum(parts.collect::<Option<_>>()?))
}

/// The reading of an OPC UA node, and its type, where the map gives one. The server sends a value with its type: nothing is cut or ordered.
fn node_reading(point: &Point, found: &mut Diagnostics) -> Option<(Reading, Option<TypeWord>)> {
    const OF_REGISTERS: [&str; 7] = ["order", "byte", "length", "chars", "format", "zone", "alone"];
    const NOT_THERE: [TypeWord; 4] = [TypeWord::Float16, TypeWord::Bcd16, TypeWord::Bcd32, TypeWord::Mod10k];
    forbid(point, &OF_REGISTERS, "an OPC UA node", found);
    let id = point.node.as_ref()?;
    let address = id.value.0.as_str().into();
    let member = point.member.as_ref().map(|member| member.value.0.as_str().into());
    let place = Place::Node(Arc::new(NodePlace { address, member }));
    let of = |kind| Decode { kind, order: Order::Abcd, byte: None, chars: Chars::Both };
    let Some(at) = &point.r#type else {
        forbid(point, &["bit", "bits", "mask", "invalid"], "a node without a type", found);
        return Some((Reading { place, decode: of(Kind::Any) }, None));
    };
    if NOT_THERE.contains(&at.value) {
        let message = format!("OPC UA has no type '{}'", at.word());
        found.error(codes::TYPE_MISMATCH, &at.span, message);
        return None;
    }
    if at.value == TypeWord::Bool {
        forbid(point, &["bit", "bits", "mask"], "a bool", found);
    }
    Some((Reading { place, decode: of(at.value.kind()) }, Some(at.value)))
}

/// The reading of a register or bit, and its type.
fn reading(
    name: &At<String>,
    point: &Point,
    defaults: &Defaults,
    span: &Span,
    found: &mut Diagnostics,
) -> Option<(Reading, TypeWord)> {
    forbid(point, &["member"], "a register or a bit: it is for OPC UA nodes", found);
    let spot = spot(point, defaults.address_base, found);
    let table = spot.as_ref().map(Spot::table);
    if table.is_some_and(|table| table.is_bits()) || point.coil.is_some() || point.discrete.is_some() {
        return bit_reading(point, &spot?, span, found);
    }
    let kind = register_type(name, point, found);
    let (spot, kind) = (spot?, kind?);
    let compiled = kind_of(point, kind, found);
    let count = match compiled.registers() {
        Some(count) => {
            forbid(point, &["length", "chars"], &format!("type '{}'", kind.word()), found);
            count
        }
        None => length(name, point, kind, &spot, found)?,
    };
    if !matches!(kind, TypeWord::Int8 | TypeWord::Uint8) {
        forbid(point, &["byte"], &format!("type '{}': it is for int8 and uint8", kind.word()), found);
    }
    let order = order(point, kind, compiled, &spot, defaults, found)?;
    let place = spot.place(count, span, found)?;
    let decode = Decode {
        kind: compiled,
        order,
        byte: point.byte.as_ref().map(|byte| byte.byte()),
        chars: point.chars.as_ref().map_or(Chars::Both, |chars| chars.chars()),
    };
    Some((Reading { place, decode }, kind))
}

fn bit_reading(
    point: &Point,
    spot: &Spot,
    span: &Span,
    found: &mut Diagnostics,
) -> Option<(Reading, TypeWord)> {
    let what = format!("a {}, which is one bit", spot.table().key());
    forbid(
        point,
        &["order", "bit", "bits", "mask", "byte", "length", "chars", "invalid", "format", "zone"],
        &what,
        found,
    );
    if let Some(at) = point.r#type.as_ref().filter(|at| at.value != TypeWord::Bool) {
        let message = format!("type '{}' does not go with {what}", at.word());
        found.error(codes::TYPE_MISMATCH, &at.span, message).help("remove it, or write type: bool");
    }
    let place = spot.place(1, span, found)?;
    let decode = Decode { kind: Kind::Bool, order: Order::Abcd, byte: None, chars: Chars::Both };
    Some((Reading { place, decode }, TypeWord::Bool))
}

/// The type of a register: as written, or uint16 when its bits are named.
fn register_type(name: &At<String>, point: &Point, found: &mut Diagnostics) -> Option<TypeWord> {
    let has_bits = point.bit.is_some() || point.bits.is_some() || point.mask.is_some();
    match &point.r#type {
        Some(at) if at.value == TypeWord::Bool && point.bit.is_none() => {
            let message = "a register is no bool: it has 16 bits";
            found
                .error(codes::TYPE_MISMATCH, &at.span, message)
                .help("say which one (bit: 0), or write type: uint16");
            None
        }
        // A bool by `bit` is cut from the whole register.
        Some(at) if at.value == TypeWord::Bool => Some(TypeWord::Uint16),
        Some(at) => Some(at.value),
        None if has_bits => Some(TypeWord::Uint16),
        None => {
            found
                .error(
                    codes::NO_TYPE,
                    &name.span,
                    format!("point '{}' is a register and has no type", name.value),
                )
                .help("such as type: uint16, int32 or float32; or bit: 3 for one bit");
            None
        }
    }
}

/// The compiled type; a datetime's with its layout.
fn kind_of(point: &Point, kind: TypeWord, found: &mut Diagnostics) -> Kind {
    if kind != TypeWord::Datetime {
        forbid(point, &["format", "zone"], &format!("type '{}': it is for datetime", kind.word()), found);
        return kind.kind();
    }
    let format = point.format.as_ref().map_or(ClockFormat::Unix, |at| at.format());
    let counts_seconds = matches!(format, ClockFormat::Unix | ClockFormat::UnixMs);
    let utc = point.zone.as_ref().map_or(counts_seconds, |zone| zone.value == ZoneWord::Utc);
    Kind::Datetime(Clock { format, utc })
}

/// Most registers of a mod10k: its 16 digits fit a 64-bit number, 20 do not.
const MAX_MOD10K: u16 = 4;

/// Dates in fields, each at its own place: they are no number whose bytes could be swapped.
fn is_calendar(kind: Kind) -> bool {
    matches!(kind, Kind::Datetime(clock) if !matches!(clock.format, ClockFormat::Unix | ClockFormat::UnixMs))
}

/// How many registers a string or a mod10k takes.
fn length(
    name: &At<String>,
    point: &Point,
    kind: TypeWord,
    spot: &Spot,
    found: &mut Diagnostics,
) -> Option<u16> {
    if kind == TypeWord::Mod10k {
        forbid(point, &["chars"], "type 'mod10k'", found);
    }
    match (&point.length, spot) {
        (Some(length), _) if kind == TypeWord::Mod10k && length.0 > i64::from(MAX_MOD10K) => {
            let message = format!("a mod10k has at most {MAX_MOD10K} registers");
            found.error(codes::STRING_LENGTH, &length.span, message);
            None
        }
        (Some(length), _) => Some(length.0 as u16),
        (None, Spot::Each(_, addresses)) => u16::try_from(addresses.len()).ok(),
        (None, Spot::From(..)) => {
            found
                .error(
                    codes::STRING_LENGTH,
                    &name.span,
                    format!("{} '{}' has no length", kind.word(), name.value),
                )
                .help(format!(
                    "add its number of registers, such as length: {}",
                    if kind == TypeWord::Mod10k { 3 } else { 8 }
                ));
            None
        }
    }
}

/// The order of a value's bytes. The profile's is for numbers of two or more registers, read as one run; in a list the
/// registers come in the order that they are listed in.
fn order(
    point: &Point,
    kind: TypeWord,
    compiled: Kind,
    spot: &Spot,
    defaults: &Defaults,
    found: &mut Diagnostics,
) -> Option<Order> {
    let Some(at) = &point.order else {
        let wide = kind == TypeWord::Mod10k || compiled.registers().is_some_and(|count| count > 1);
        let applies = matches!(spot, Spot::From(..)) && wide && !is_calendar(compiled);
        return Some(if applies { defaults.order } else { Order::Abcd });
    };
    order_of(kind, compiled, at, found)
}

/// The order that a point gives, if it goes with the type.
pub fn order_of(
    kind: TypeWord,
    compiled: Kind,
    at: &At<OrderWord>,
    found: &mut Diagnostics,
) -> Option<Order> {
    let registers = compiled.registers();
    let letters = at.value.letters();
    let fits = match registers {
        Some(1) => letters <= 4,
        Some(2) => letters == 4,
        Some(_) => letters >= 4,
        None => letters <= 4,
    };
    if is_calendar(compiled) {
        let message = format!("order {} does not go with this datetime", at.word());
        found
            .error(codes::TYPE_MISMATCH, &at.span, message)
            .help("it is for unix and unix_ms; list the registers one by one, such as holding: [2, 1, 0]");
        return None;
    }
    if !fits || matches!(kind, TypeWord::Int8 | TypeWord::Uint8) {
        let message = format!("order {} does not go with type '{}'", at.word(), kind.word());
        let bytes = registers.map_or(2, |count| 2 * usize::from(count));
        let fitting: Vec<&str> =
            OrderWord::WORDS.iter().map(|(word, _)| *word).filter(|word| word.len() == bytes).collect();
        found.error(codes::TYPE_MISMATCH, &at.span, message).help(format!("one of: {}", fitting.join(", ")));
        return None;
    }
    Some(match (registers, at.order()) {
        // One register has two bytes: only their order counts.
        (Some(1) | None, Order::Abcd | Order::Cdab) => Order::Abcd,
        (Some(1) | None, Order::Badc | Order::Dcba) => Order::Badc,
        (_, order) => order,
    })
}

/// `bit`, `bits` or `mask`, within the value.
fn select(point: &Point, kind: Option<TypeWord>, found: &mut Diagnostics) -> Select {
    let Some(kind) = kind else { return Select::Whole };
    let given: Vec<(&str, &Span)> =
        ["bit", "bits", "mask"].iter().filter_map(|key| Some((*key, point.given(key)?))).collect();
    let Some((key, span)) = given.first() else { return Select::Whole };
    if let Some((second, span)) = given.get(1) {
        found.error(codes::TYPE_MISMATCH, span, format!("'{second}' does not go with '{key}'"));
    }
    let Some(width) = kind.integer_bits() else {
        if kind != TypeWord::Bool {
            let message = format!("'{key}' does not go with type '{}': it is for whole numbers", kind.word());
            found.error(codes::TYPE_MISMATCH, span, message);
        }
        return Select::Whole;
    };
    let mut check = |bit: i64, span: &Span| {
        if bit >= i64::from(width) {
            let message = format!("bit {bit} is out of range: type '{}' has 0 to {}", kind.word(), width - 1);
            found.error(codes::BIT_RANGE, span, message);
        }
        bit as u8
    };
    if let Some(at) = &point.bit {
        return Select::Bit(check(at.0, &at.span));
    }
    if let Some(at) = &point.mask {
        if width < 64 && at.value.0 >> width != 0 {
            let message = format!("mask 0x{:X} is wider than type '{}'", at.value.0, kind.word());
            found.error(codes::BIT_RANGE, &at.span, message);
        }
        return Select::Mask(at.value.0);
    }
    let mut flags: Vec<(Arc<str>, u8)> = Vec::new();
    let mut taken: HashMap<u8, &str> = HashMap::new();
    let mut duplicates = Vec::new();
    for (name, bit) in point.bits.iter().flat_map(|at| &at.value.0) {
        let Some(bit) = bit else { continue };
        let bit = check(bit.0, &name.span);
        if let Some(other) = taken.insert(bit, &name.value) {
            duplicates.push((name, bit, other));
        }
        flags.push((name.value.as_str().into(), bit));
    }
    for (name, bit, other) in duplicates {
        let message = format!("bit {bit} is named twice: '{other}' and '{}'", name.value);
        found.error(codes::DUPLICATE_VALUE, &name.span, message);
    }
    if flags.is_empty() {
        found.error(codes::BIT_RANGE, span, "no bits are named").help("such as {ready: 1, tripped: 3}");
    }
    Select::Flags(flags)
}

/// Can the value have the numbers that have texts?
fn check_labels(point: &Point, kind: Option<TypeWord>, select: &Select, found: &mut Diagnostics) {
    let (Some(at), Some(kind)) = (&point.r#enum, kind) else { return };
    let all = match (kind, select) {
        (TypeWord::Bool, _) | (_, Select::Bit(_)) => 0..=1,
        // 64 bits unsigned go beyond what a text's number can be.
        (_, Select::Mask(mask)) => {
            0..=i64::try_from(mask >> mask.trailing_zeros().min(63)).unwrap_or(i64::MAX)
        }
        (TypeWord::Bcd16, _) => 0..=9_999,
        (TypeWord::Bcd32, _) => 0..=99_999_999,
        (TypeWord::Int8 | TypeWord::Int16 | TypeWord::Int32 | TypeWord::Int64, _) => {
            let unused = 64 - kind.integer_bits().unwrap_or(64);
            i64::MIN >> unused..=i64::MAX >> unused
        }
        (_, _) => 0..=i64::try_from(u64::MAX >> (64 - kind.integer_bits().unwrap_or(64))).unwrap_or(i64::MAX),
    };
    let mut outside = at.value.0.keys().filter(|number| !all.contains(number));
    if let Some(number) = outside.next() {
        let message = format!("the value can't be {number}: it goes from {} to {}", all.start(), all.end());
        let finding = found.error(codes::OUT_OF_RANGE, &at.span, message);
        if *all.start() < 0 {
            finding.help("the numbers of an enum are values, not bit patterns: 0xFFFF of an int16 is -1");
        }
    }
}

/// Do the keys that calculate go with the kind of value?
fn check_arithmetic(point: &Point, kind: Option<TypeWord>, scale: Option<Decimal>, found: &mut Diagnostics) {
    if let Some(at) = point.scale.as_ref().filter(|_| scale.is_some_and(Decimal::is_zero)) {
        found
            .error(codes::ZERO_SCALE, &at.span, "a scale of 0 makes every value 0")
            .help("a decimal comma? Write a point: 0.1");
    }
    const NUMBERS_ONLY: [&str; 6] = ["scale", "offset", "scale_from", "plausible", "deadband", "smooth"];
    if let Some(at) = point.heartbeat.as_ref().filter(|_| point.deadband.is_none()) {
        found
            .error(
                codes::BAD_DEADBAND,
                &at.span,
                "a heartbeat without a deadband: every value is published anyway",
            )
            .help("add a deadband, such as deadband: 0.5, or remove the heartbeat");
    }
    if let Some(at) = point.smooth.as_ref().filter(|_| point.r#enum.is_some()) {
        found.error(codes::TYPE_MISMATCH, &at.span, "'smooth' does not go with 'enum': texts have no mean");
    }
    if kind == Some(TypeWord::Bool) || point.bit.is_some() {
        forbid(point, &NUMBERS_ONLY, "a single bit", found);
    } else if point.bits.is_some() {
        forbid(point, &NUMBERS_ONLY, "named bits", found);
        forbid(point, &["enum"], "named bits", found);
    } else if let Some(text @ (TypeWord::String | TypeWord::Datetime)) = kind {
        let what = format!("a {}", text.word());
        forbid(point, &NUMBERS_ONLY, &what, found);
        forbid(point, &["enum"], &what, found);
    } else if matches!(kind, Some(TypeWord::Float16 | TypeWord::Float32 | TypeWord::Float64)) {
        forbid(point, &["enum"], "a float: its keys are whole numbers", found);
    }
}

/// Reports those of `keys` that the point has.
fn forbid(point: &Point, keys: &[&str], what: &str, found: &mut Diagnostics) {
    for key in keys {
        if let Some(span) = point.given(key) {
            found.error(codes::TYPE_MISMATCH, span, format!("'{key}' does not go with {what}"));
        }
    }
}
