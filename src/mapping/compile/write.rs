//! How a point is written: `access`, `write` and `write_order` → a target.

use super::Defaults;
use super::draft::{Draft, DraftSource, order_of};
use crate::document::codes;
use crate::document::read::At;
use crate::mapping::compiled::{Kind, Order, Reading, Select};
use crate::mapping::device::Limits;
use crate::mapping::inverse::Refusal;
use crate::mapping::profile::{Point, WriteWords};
use crate::mapping::write::{Allowed, Function, Target, is_part};
use crate::model::decimal::Decimal;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::{Place, Table};
use crate::model::value::Value;

/// The most registers that one request writes (Modbus Application Protocol V1.1b3, 6.12).
const MOST_REGISTERS: u16 = 123;

/// What holds for all points of a device.
#[derive(Clone, Copy)]
pub struct Rules<'a> {
    /// The profile's.
    pub defaults: &'a Defaults,
    /// What requests must respect.
    pub limits: &'a Limits,
    /// Where the device's own limits are, which are then to blame.
    pub changed: Option<&'a Span>,
}

/// The target of a point that may be written. `None` is reported.
pub fn target(
    name: &At<String>,
    point: &Point,
    draft: &Draft,
    rules: Rules<'_>,
    found: &mut Diagnostics,
) -> Option<Target> {
    let before = found.errors();
    let access = point.given("access").unwrap_or(&name.span);
    let reading = writable(&name.value, draft, access, found)?;
    let words = point.write.as_ref().map(|at| &at.value);
    let function = function(&name.value, words, draft, reading, rules, access, found)?;
    let target = Target {
        name: name.value.as_str().into(),
        unit: draft.unit.clone(),
        reading: reading.clone(),
        order: order(point, words, draft, reading, rules.defaults, found)?,
        transform: draft.transform(),
        function,
        allowed: allowed(words),
        refresh: words.and_then(|words| words.refresh.as_ref()).map(|refresh| refresh.0),
        readable: draft.readable,
    };
    check_allowed(words, draft, &target, found);
    (found.errors() == before).then_some(target)
}

/// The reading of a point that a single request can write.
fn writable<'d>(name: &str, draft: &'d Draft, access: &Span, found: &mut Diagnostics) -> Option<&'d Reading> {
    let mut refuse = |why: &str, help: &str| {
        let message = format!("point '{name}' cannot be written: {why}");
        found.error(codes::NOT_WRITABLE, access, message).help(help);
        None
    };
    let DraftSource::Reading(reading) = &draft.source else {
        return refuse("it is computed from other points", "write those, or remove access");
    };
    if let Place::Node(_) = reading.place {
        return refuse("this version writes no OPC UA nodes", "remove access");
    }
    let Place::Run { table, count, .. } = reading.place else {
        return refuse("no single request reaches registers that are far apart", "remove access");
    };
    if let Kind::Mod10k | Kind::Datetime(_) = reading.decode.kind {
        return refuse("this version writes neither clocks nor mod10k", "remove access");
    }
    match (&draft.select, table) {
        (_, Table::Input | Table::Discrete) => refuse(
            &format!(
                "{}s can only be read",
                if table == Table::Input { "input register" } else { "discrete input" }
            ),
            "coils and holding registers can be written",
        ),
        (Select::Flags(_), _) => {
            refuse("named bits are written one by one", "give each a point of its own, with bit: N")
        }
        (Select::Mask(mask), _) if registers_of(*mask) > 1 => {
            refuse("its mask reaches over several registers", "mask write changes one")
        }
        _ if count > MOST_REGISTERS => {
            refuse(&format!("a request writes {MOST_REGISTERS} registers at most"), "remove access")
        }
        _ => Some(reading),
    }
}

/// How many registers have bits of a mask. Whatever the order, two neighbouring bytes share a register.
fn registers_of(mask: u64) -> usize {
    (0..4).filter(|register| mask >> (16 * register) & 0xFFFF != 0).count()
}

/// The function code: the one given, or the first of those that fit and that the device has.
fn function(
    name: &str,
    words: Option<&WriteWords>,
    draft: &Draft,
    reading: &Reading,
    rules: Rules<'_>,
    access: &Span,
    found: &mut Diagnostics,
) -> Option<Function> {
    let Place::Run { table, count, .. } = reading.place else { return None };
    let is_part = is_part(reading.decode.kind, &draft.select);
    let fitting = Function::fitting(table, count, is_part);
    let has = |function: &Function| {
        rules.limits.functions.as_ref().is_none_or(|functions| functions.contains(&function.code()))
    };
    let listed = |functions: &[Function]| {
        functions.iter().map(|function| function.code().to_string()).collect::<Vec<_>>().join(" or ")
    };
    let given = words.and_then(|words| words.function.as_ref());
    if let Some(at) = given.filter(|at| !fitting.contains(&at.value.0)) {
        let function = at.value.0;
        let message = format!("function code {} ({function}) does not write point '{name}'", function.code());
        let why = match (table, is_part) {
            (Table::Holding, true) => "a part of a register: only mask write leaves the rest of it alone",
            (Table::Holding, false) if count > 1 => "a value of several registers",
            (Table::Holding, false) => "one whole register",
            _ => "a coil",
        };
        found
            .error(codes::WRITE_FUNCTION, &at.span, message)
            .help(format!("it is {why}: {}", listed(fitting)));
        return None;
    }
    let function = match given {
        Some(at) => Some(at.value.0).filter(has),
        None => fitting.iter().copied().find(has),
    };
    if function.is_none() {
        let wanted = given.map_or(listed(fitting), |at| at.value.0.code().to_string());
        let message =
            format!("writing point '{name}' needs function code {wanted}, which 'functions' leaves out");
        let span = rules.changed.or(given.map(|at| &at.span)).unwrap_or(access);
        found.error(codes::WRITE_FUNCTION, span, message);
    }
    let most = rules.limits.max_count(table);
    if function == Some(Function::Registers) && count > most {
        let message = format!("point '{name}' takes {count} registers, and a request may have {most}");
        found.error(codes::VALUE_TOO_WIDE, rules.changed.unwrap_or(access), message);
        return None;
    }
    function
}

/// The order of what is written: its own, the profile's where the point follows the profile, or as it is read.
fn order(
    point: &Point,
    words: Option<&WriteWords>,
    draft: &Draft,
    reading: &Reading,
    defaults: &Defaults,
    found: &mut Diagnostics,
) -> Option<Order> {
    if let Some(at) = words.and_then(|words| words.order.as_ref()) {
        return match draft.kind {
            Some(kind) if reading.decode.kind != Kind::Bool => order_of(kind, reading.decode.kind, at, found),
            _ => {
                found.error(codes::TYPE_MISMATCH, &at.span, "'order' does not go with a single bit");
                None
            }
        };
    }
    let is_wide = reading.decode.kind.registers().is_some_and(|count| count > 1);
    let follows = point.order.is_none() && is_wide;
    Some(defaults.write_order.filter(|_| follows).unwrap_or(reading.decode.order))
}

fn allowed(words: Option<&WriteWords>) -> Allowed {
    let range = words.and_then(|words| words.range.as_ref()).map(|range| (range.value.0, range.value.1));
    let also = words.and_then(|words| words.also.as_ref());
    Allowed { range, also: also.iter().flat_map(|list| &list.0).map(|number| number.0).collect() }
}

/// Are the limits numbers that the point can have?
fn check_allowed(words: Option<&WriteWords>, draft: &Draft, target: &Target, found: &mut Diagnostics) {
    let Some(words) = words else { return };
    let is_bit =
        matches!(target.transform.select, Select::Bit(_)) || target.reading.decode.kind == Kind::Bool;
    for key in ["range", "also"] {
        if let Some(span) = words.given(key)
            && (is_bit || target.reading.decode.kind == Kind::String)
        {
            let what = if is_bit { "a single bit" } else { "a string" };
            found.error(codes::TYPE_MISMATCH, span, format!("'{key}' does not go with {what}"));
            return;
        }
    }
    // What a value is scaled with is not known before it's read.
    if draft.scale_from.is_some() {
        return;
    }
    let anything = Target { allowed: Allowed::default(), ..target.clone() };
    let refusal = |number: Decimal| anything.setting(&Value::Number(number), None).err();
    for number in words.also.iter().flat_map(|list| &list.value.0) {
        if let Some(refusal) =
            refusal(number.value.0).filter(|refusal| !matches!(refusal, Refusal::NoLabel { .. }))
        {
            let message = format!("point '{}' cannot be written so: {refusal}", target.name);
            found.error(codes::WRITE_RANGE, &number.span, message);
        }
    }
    let Some(at) = &words.range else { return };
    for end in [at.value.0, at.value.1] {
        // The ends need not be values themselves, but values must reach them.
        if let Some(refusal @ Refusal::OutOfType { .. }) = refusal(end) {
            found
                .error(
                    codes::WRITE_RANGE,
                    &at.span,
                    format!("point '{}' cannot be written so: {refusal}", target.name),
                )
                .help("the range is in the point's unit, behind scale and offset");
        }
    }
}
