//! What is legal, and probably not meant: warnings about the points of a map that has no errors.

use std::collections::{HashMap, HashSet};

use super::Written;
use super::draft::{Draft, DraftSource};
use crate::document::codes;
use crate::mapping::compiled::{Byte, Kind, Reading, Select, Transform};
use crate::mapping::transform;
use crate::mapping::written::TypeWord;
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::{Place, Table};
use crate::model::value::{Raw, Value};

/// How many warnings of a kind a map gets; the last one counts the others. More of them are one mistake, many times.
const MOST_OF_A_KIND: usize = 20;

/// A lone address of the other parity means something only among at least this many others.
const FEWEST_OTHERS: usize = 4;

/// How many 32-bit values, one behind the other, are a row.
const ROW: i32 = 3;

/// Warns of what is suspicious.
pub fn check(points: &[Written], drafts: &[Option<Draft>], found: &mut Diagnostics) {
    let all: Vec<Point<'_>> = points
        .iter()
        .zip(drafts)
        .filter_map(|((name, _), draft)| {
            let draft = draft.as_ref()?;
            match &draft.source {
                DraftSource::Reading(reading) => Some(Point { name: &name.value, draft, reading }),
                DraftSource::Sum(_) => None,
            }
        })
        .collect();
    report(codes::SAME_VALUE, same_values(&all), found);
    report(codes::OVERLAP, overlaps(&all), found);
    report(codes::LONE_PARITY, lone_parities(&all), found);
    report(codes::INEXACT_SCALE, inexact_scales(&all), found);
}

/// A point that is read.
struct Point<'d> {
    name: &'d str,
    draft: &'d Draft,
    reading: &'d Reading,
}

impl Point<'_> {
    fn type_word(&self) -> &'static str {
        self.draft.kind.map_or("", TypeWord::word)
    }

    fn is_plain_register(&self) -> bool {
        self.draft.readable && !self.draft.alone && self.draft.select == Select::Whole
    }

    fn is_published(&self) -> bool {
        self.draft.readable && !self.draft.internal
    }
}

/// A warning: where, what, and what to do.
struct Suspicion<'d> {
    span: &'d Span,
    message: String,
    help: &'static str,
}

fn report(code: &'static str, mut all: Vec<Suspicion<'_>>, found: &mut Diagnostics) {
    all.sort_by_key(|suspicion| suspicion.span.range.start);
    let more = all.len().saturating_sub(MOST_OF_A_KIND);
    all.truncate(MOST_OF_A_KIND);
    let last = all.len().saturating_sub(1);
    for (at, suspicion) in all.into_iter().enumerate() {
        let mut message = suspicion.message;
        if at == last && more > 0 {
            message += &format!(" (and {more} more like it)");
        }
        found.warning(code, suspicion.span, message).help(suspicion.help);
    }
}

/// Two published points that are the same value: mostly a line that was copied, and not changed everywhere.
fn same_values<'d>(all: &[Point<'d>]) -> Vec<Suspicion<'d>> {
    let mut first: HashMap<&Reading, Vec<&Point<'d>>> = HashMap::new();
    let mut suspicions = Vec::new();
    for point in all.iter().filter(|point| point.is_published()) {
        let others = first.entry(point.reading).or_default();
        match others.iter().find(|other| treated_alike(other.draft, point.draft)) {
            Some(other) => suspicions.push(Suspicion {
                span: &point.draft.span,
                message: format!("'{}' is the same as '{}'", point.name, other.name),
                help: "the same place, read in the same way: is the address right?",
            }),
            None => others.push(point),
        }
    }
    suspicions
}

fn treated_alike(a: &Draft, b: &Draft) -> bool {
    let scale_from = |draft: &Draft| draft.scale_from.as_ref().map(|at| at.value.clone());
    a.select == b.select
        && a.scale == b.scale
        && a.offset == b.offset
        && a.alone == b.alone
        && a.labels == b.labels
        && scale_from(a) == scale_from(b)
}

/// Registers that are part of two values of different types or extents. Bits, masks and halves share registers by nature,
/// and what is read `alone` may mean something else then (EM340: register 11 read alone is the type code).
fn overlaps<'d>(all: &[Point<'d>]) -> Vec<Suspicion<'d>> {
    let mut runs: Vec<(Table, u32, u32, &Point<'d>)> = Vec::new();
    for point in all.iter().filter(|point| point.is_plain_register()) {
        // Registers that are listed one by one are meant: the low half of a wide value is a value of its own on some devices.
        if let Place::Run { table, address, count } = point.reading.place {
            let address = u32::from(address);
            runs.push((table, address, address + u32::from(count), point));
        }
    }
    runs.sort_by_key(|(table, from, end, _)| (*table, *from, *end));
    let mut suspicions = Vec::new();
    let mut widest: Option<(Table, u32, &Point<'d>)> = None;
    for (table, from, end, point) in runs {
        if let Some((_, _, other)) = widest.filter(|(of, to, _)| *of == table && from < *to)
            && other.reading != point.reading
            && !are_halves(other.reading, point.reading)
        {
            suspicions.push(Suspicion {
                span: &point.draft.span,
                message: format!(
                    "'{}' ({}) has registers of '{}' ({})",
                    point.name,
                    point.type_word(),
                    other.name,
                    other.type_word()
                ),
                help: "is one of the addresses or types wrong?",
            });
        }
        if widest.is_none_or(|(of, to, _)| of != table || end > to) {
            widest = Some((table, end, point));
        }
    }
    suspicions
}

/// The two bytes of one register.
fn are_halves(a: &Reading, b: &Reading) -> bool {
    let half = |reading: &Reading| {
        matches!(reading.decode.kind, Kind::Int8 | Kind::Uint8)
            .then(|| reading.decode.byte.unwrap_or(Byte::Low))
    };
    match (half(a), half(b)) {
        (Some(a), Some(b)) => a != b,
        _ => false,
    }
}

/// The one 32-bit number of a table whose address is odd, where all others are even, or the other way round.
fn lone_parities<'d>(all: &[Point<'d>]) -> Vec<Suspicion<'d>> {
    let mut suspicions = Vec::new();
    for table in [Table::Input, Table::Holding] {
        let mut by_parity: [Vec<&Point<'d>>; 2] = [Vec::new(), Vec::new()];
        for point in all {
            let is_wide = matches!(point.reading.decode.kind, Kind::Int32 | Kind::Uint32 | Kind::Float32);
            if let Place::Run { table: of, address, .. } = point.reading.place
                && of == table
                && is_wide
            {
                by_parity[usize::from(address % 2)].push(point);
            }
        }
        let [even, odd] = &by_parity;
        for (few, many, is, are) in [(even, odd, "even", "odd"), (odd, even, "odd", "even")] {
            if let [lone] = few[..]
                && many.len() >= FEWEST_OTHERS
                && is_off_by_one(lone, many)
            {
                suspicions.push(Suspicion {
                    span: &lone.draft.span,
                    message: format!(
                        "'{}' is at an {is} address on the wire; the other {} 32-bit values are at {are} ones",
                        lone.name,
                        many.len()
                    ),
                    help: "is the address off by one?",
                });
            }
        }
    }
    suspicions
}

/// Is it one register away from where a row of values without gaps goes on? A lone value elsewhere has its own reasons.
fn is_off_by_one(lone: &Point<'_>, others: &[&Point<'_>]) -> bool {
    let address_of = |point: &Point<'_>| match point.reading.place {
        Place::Run { address, .. } => Some(i32::from(address)),
        _ => None,
    };
    let Some(at) = address_of(lone) else { return false };
    let taken: HashSet<i32> = others.iter().filter_map(|point| address_of(point)).collect();
    [-1, 1].iter().any(|side| (0..ROW).all(|step| taken.contains(&(at + side * (3 + 2 * step)))))
}

/// Scales that leave the exact decimals: the register's last digits are rounded away.
fn inexact_scales<'d>(all: &[Point<'d>]) -> Vec<Suspicion<'d>> {
    let is_inexact = |point: &&Point<'d>| {
        let Some(bits) = point.draft.kind.and_then(TypeWord::integer_bits) else { return false };
        let transform =
            Transform { labels: Default::default(), invalid: Vec::new(), ..point.draft.transform() };
        let largest = match point.reading.decode.kind {
            Kind::Int8 | Kind::Int16 | Kind::Int32 | Kind::Int64 => Raw::Int(i64::MIN >> (64 - bits)),
            _ => Raw::Uint(u64::MAX >> (64 - bits)),
        };
        let scales = point.draft.scale.is_some() || point.draft.offset.is_some();
        scales
            && !matches!(transform::apply(&largest, &transform, None), Ok(Value::Number(_) | Value::Bool(_)))
    };
    all.iter()
        .filter(is_inexact)
        .map(|point| Suspicion {
            span: &point.draft.span,
            message: format!(
                "'{}': large values of this {} have more digits than an exact number holds, and are rounded",
                point.name,
                point.type_word()
            ),
            help: "give scale and offset fewer digits",
        })
        .collect()
}
