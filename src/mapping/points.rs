//! Points by name, where one line may declare many: `relay_{0..15}: {coil: 0}` are sixteen points.
//!
//! - The points of a range share the place of its key and are as written, but for the name and the address (or bit), which
//!   goes up from one to the next.
//! - At most [`MAX_RANGE`] points come of a range, and [`MAX_EXPANDED`] of all ranges of a
//!   file.

use std::collections::HashMap;

use serde_json::{Value, json};

use super::node::NUMBER;
use super::profile::{LOCATIONS, Point, Registers};
use super::written::TypeWord;
use crate::document::codes;
use crate::document::read::{At, Entry, MAX_EXPANDED, Read, Reader};
use crate::document::scalar::shortened;
use crate::document::schema::Schemas;
use crate::document::types::{Either, NAME_CHARACTER, Name, Nullable, check_name};
use crate::document::yaml::Node;
use crate::model::diagnostic::Span;

/// Most points of one range.
pub const MAX_RANGE: u32 = 1_000;

/// Points by name, in the order of the file, ranges expanded. `None`: that point was wrong, and reported.
#[derive(Clone, Debug, PartialEq)]
pub struct Points<V>(pub Vec<(At<String>, Option<V>)>);

/// What a range of names may stand for.
pub trait Ranged: Read + Clone {
    /// The point, if it is one.
    fn point(&mut self) -> Option<&mut Point>;
}

impl Ranged for Point {
    fn point(&mut self) -> Option<&mut Point> {
        Some(self)
    }
}

impl Ranged for Nullable<Point> {
    fn point(&mut self) -> Option<&mut Point> {
        self.0.as_mut()
    }
}

impl<V: Ranged> Read for Points<V> {
    fn read(node: &Node, to: &mut Reader<'_>) -> Option<Self> {
        let entries = to.entries(node, "names and what they stand for")?;
        let mut all = Vec::with_capacity(entries.len());
        for entry in &entries {
            if entry.key.contains(['{', '}']) {
                expand(entry, to, &mut all);
            } else if let Some(Name(name)) = check_name(entry.key, entry.at, to) {
                let mut value = V::read(entry.value, to);
                if let Some(step) = value.as_mut().and_then(V::point).and_then(|point| point.step.take()) {
                    to.found
                        .error(codes::NAME_RANGE, &step.span, "'step' without a range in the point's name")
                        .help("such as relay_{0..15}: {coil: 0, step: 2}");
                }
                check_node(value.as_mut().and_then(V::point), to);
                all.push((At { value: name, span: to.span(entry.at) }, value));
            }
        }
        if all.len() > entries.len() {
            check_clashes(&all, to);
        }
        Some(Self(all))
    }

    fn schema(schemas: &mut Schemas) -> Value {
        let value = V::schema(schemas);
        let names = schemas.named("PointName", |_| {
            let range = r"\{[0-9]+\.\.[0-9]+\}";
            let pattern = format!(
                "^({NAME_CHARACTER}{{1,64}}|{NAME_CHARACTER}{{0,63}}{range}{NAME_CHARACTER}{{0,63}})$"
            );
            json!({
                "type": "string", "pattern": pattern, "examples": ["voltage_l1", "relay_{0..15}"],
                "description": "A name; a range in it declares one point for each of its numbers.",
            })
        });
        json!({ "type": "object", "propertyNames": names, "additionalProperties": value })
    }
}

/// Without a range, `{}` is a part of the node id as any other.
fn check_node(point: Option<&mut Point>, to: &mut Reader<'_>) {
    if let Some(node) = point.and_then(|point| point.node.as_ref())
        && let Some(fault) = node.value.fault()
    {
        to.found
            .error(
                codes::NODE_ID,
                &node.span,
                format!("'{}' is no node id: {fault}", shortened(&node.value.0)),
            )
            .help("{} stands for a number where the point's name has a range, such as relay_{0..15}");
    }
}

/// A name with a range: `relay_{01..16}`.
struct NameRange<'k> {
    before: &'k str,
    first: u32,
    last: u32,
    /// Digits that shorter numbers are filled up to with zeros.
    width: usize,
    after: &'k str,
}

impl<'k> NameRange<'k> {
    /// Reads a key that has a brace. What is no range is reported.
    fn of(key: &'k str, at: &Node, to: &mut Reader<'_>) -> Option<Self> {
        const EXAMPLE: &str =
            "a range is two whole numbers and two dots, such as relay_{0..15} or string_{01..16}";
        let shown = shortened(key);
        if key.matches('{').count() > 1 {
            to.error(codes::NAME_RANGE, at, format!("'{shown}' has two ranges"))
                .help("a name has one: write a line for each number of the other");
            return None;
        }
        let Some(range) = Self::parts(key) else {
            to.error(codes::NAME_RANGE, at, format!("'{shown}' has no range between its braces"))
                .help(EXAMPLE);
            return None;
        };
        let Self { first, last, .. } = range;
        if first > last {
            to.error(codes::NAME_RANGE, at, format!("the range from {first} to {last} is empty"))
                .help(format!("write the smaller number first: {{{last}..{first}}}"));
            return None;
        }
        if last - first >= MAX_RANGE {
            let count = u64::from(last - first) + 1;
            to.error(
                codes::NAME_RANGE,
                at,
                format!("a range of {count} points: at most {MAX_RANGE} are allowed"),
            );
            return None;
        }
        // The last name is the longest.
        check_name(&range.name(last), at, to).map(|_| range)
    }

    fn parts(key: &'k str) -> Option<Self> {
        let (before, rest) = key.split_once('{')?;
        let (range, after) = rest.split_once('}')?;
        let (first, last) = range.split_once("..")?;
        let number = |text: &str| {
            let digits = (1..=9).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse().ok()).flatten()
        };
        let width = if first.len() > 1 && first.starts_with('0') { first.len() } else { 1 };
        let whole = !before.contains('}') && !after.contains('}');
        Some(Self { before, first: number(first)?, last: number(last)?, width, after }).filter(|_| whole)
    }

    fn name(&self, number: u32) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.width)
    }
}

/// What goes up from one point of a range to the next.
#[derive(Clone, Copy)]
enum Stride {
    Nothing,
    Bit(i64),
    Address(i64),
    /// The number in a node id.
    Node,
}

/// Appends the points of a range.
fn expand<V: Ranged>(entry: &Entry<'_>, to: &mut Reader<'_>, all: &mut Vec<(At<String>, Option<V>)>) {
    let value: Option<V> = to.at(entry.value).map(|at| at.value);
    let Some(range) = NameRange::of(entry.key, entry.at, to) else { return };
    let count = range.last - range.first + 1;
    to.expanded += count as usize;
    if to.expanded > MAX_EXPANDED {
        let message = format!("the ranges of a file may make {MAX_EXPANDED} points: these are more");
        to.error(codes::NAME_RANGE, entry.at, message);
        return;
    }
    let span = to.span(entry.at);
    let value = value.and_then(|mut value| {
        let stride = match value.point() {
            Some(point) => stride(point, &range, &span, to)?,
            None => Stride::Nothing,
        };
        Some((value, stride))
    });
    for number in range.first..=range.last {
        let value = value.as_ref().map(|(value, stride)| {
            let mut value = value.clone();
            if let Some(point) = value.point() {
                advance(point, *stride, number, i64::from(number - range.first));
            }
            value
        });
        all.push((At { value: range.name(number), span: span.clone() }, value));
    }
}

/// What goes up, and by how much: `step`, or the width of the value. Takes the `step`; `None` is reported.
fn stride(point: &mut Point, range: &NameRange<'_>, key: &Span, to: &mut Reader<'_>) -> Option<Stride> {
    let step = point.step.take();
    let given = step.as_ref().map(|step| step.value.0);
    if point.bit.is_some() {
        return Some(Stride::Bit(given.unwrap_or(1)));
    }
    let Some((location, at)) = LOCATIONS.iter().find_map(|key| Some((*key, point.given(key)?.clone())))
    else {
        if let Some(step) = step {
            to.found.error(
                codes::NAME_RANGE,
                &step.span,
                "'step' without an address or a bit that could go up",
            );
        }
        return Some(Stride::Nothing);
    };
    if let Some(node) = &point.node {
        if node.value.0.contains(NUMBER) && step.is_none() {
            let last = node.value.numbered(range.last);
            let Some(fault) = last.fault() else { return Some(Stride::Node) };
            to.found.error(codes::NODE_ID, &at, format!("'{}' is no node id: {fault}", shortened(&last.0)));
            return None;
        }
        to.found
            .error(codes::NAME_RANGE, &at, "all points of the range would have one node")
            .help("write {} where their numbers are in the node ids, without 'step': ns=2;s=Relay{}");
        return None;
    }
    // A point with errors of its own has been reported, and its type may be one of them.
    let Some(step) = given.or_else(|| width(point, location)).or(point.faulty.then_some(1)) else {
        let (message, help) = match location {
            "sum" => {
                ("a sum has no address that could go up from point to point", "write each of them on its own")
            }
            _ if point.r#type.is_some() => (
                "how far is it from one list of registers to the next?",
                "add step: N, which goes on top of each of its addresses",
            ),
            _ => (
                "how far is it from one point of the range to the next?",
                "add the type, whose width it is, or step: N",
            ),
        };
        to.found.error(codes::NAME_RANGE, if location == "sum" { &at } else { key }, message).help(help);
        return None;
    };
    if let Some(first) = point.r#ref.as_ref().map(|first| first.value.0) {
        let last = first + i64::from(range.last - range.first) * step;
        // The first of 5 or 6 digits is the table.
        let table = |number: i64| if number < 100_000 { number / 10_000 } else { 10 + number / 100_000 };
        if table(first) != table(last) {
            let message =
                format!("the range goes from reference {first} to {last}, which is in another table");
            to.found.error(codes::PAPER_REFERENCE, &at, message);
            return None;
        }
    }
    Some(Stride::Address(step))
}

/// How many addresses a value takes; `None` where that isn't known.
fn width(point: &Point, location: &str) -> Option<i64> {
    let listed =
        |at: &Option<Box<At<Registers>>>| at.as_ref().is_some_and(|at| matches!(at.value, Either::Long(_)));
    if location == "sum" || listed(&point.input) || listed(&point.holding) {
        return None;
    }
    let is_bit = matches!(location, "coil" | "discrete")
        || point.r#ref.as_ref().is_some_and(|number| matches!(number.value.0, ..30_000 | 100_000..300_000));
    let selects = point.bits.is_some() || point.mask.is_some();
    match &point.r#type {
        _ if is_bit => Some(1),
        None => selects.then_some(1),
        Some(kind) if kind.value == TypeWord::Datetime => {
            let layout = point.format.as_ref().map(|format| format.value);
            Some(i64::from(TypeWord::datetime_registers(layout)))
        }
        Some(kind) => match kind.kind().registers() {
            Some(count) => Some(i64::from(count)),
            None => point.length.as_ref().map(|length| length.value.0),
        },
    }
}

/// The point of a number, `count` steps behind the first.
fn advance(point: &mut Point, stride: Stride, number: u32, count: i64) {
    match stride {
        Stride::Nothing => {}
        Stride::Node => {
            point.node.iter_mut().for_each(|at| at.value = at.value.numbered(number));
        }
        Stride::Bit(step) => point.bit.iter_mut().for_each(|at| at.value.0 += count * step),
        Stride::Address(step) => {
            let by = count * step;
            for bit in [&mut point.coil, &mut point.discrete].into_iter().flatten() {
                bit.value.0 += by;
            }
            for registers in [&mut point.input, &mut point.holding].into_iter().flatten() {
                match &mut registers.value {
                    Either::Short(address) => address.0 += by,
                    Either::Long(list) => list.0.iter_mut().for_each(|address| address.value.0 += by),
                }
            }
            point.r#ref.iter_mut().for_each(|number| number.value.0 += by);
        }
    }
}

/// A name that a range makes may be there already: reported once for each key.
fn check_clashes<V>(all: &[(At<String>, Option<V>)], to: &mut Reader<'_>) {
    let mut first: HashMap<&str, &Span> = HashMap::with_capacity(all.len());
    let mut reported: Option<&Span> = None;
    for (name, _) in all {
        let Some(other) = first.insert(&name.value, &name.span) else { continue };
        if reported != Some(&name.span) {
            let message =
                format!("there is a point '{}' already, on line {}", name.value, other.line_column().0);
            to.found.error(codes::NAME_COLLISION, &name.span, message);
            reported = Some(&name.span);
        }
    }
}
