//! Where a point's value is: addresses as written → places on the wire.

use crate::document::codes;
use crate::document::read::At;
use crate::document::types::{Either, Int};
use crate::mapping::profile::{LOCATIONS, Point, Registers};
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::{Place, Table};

/// A location before the type, and so the number of registers, is known.
pub enum Spot {
    /// The first address of a run.
    From(Table, u16),
    /// Each register, most significant first.
    Each(Table, Vec<u16>),
}

impl Spot {
    /// The table.
    pub fn table(&self) -> Table {
        match self {
            Self::From(table, _) | Self::Each(table, _) => *table,
        }
    }

    /// The place of a value of `count` registers (or bits).
    pub fn place(&self, count: u16, span: &Span, found: &mut Diagnostics) -> Option<Place> {
        match self {
            Self::From(table, address) => {
                if u32::from(*address) + u32::from(count) > 65_536 {
                    let message =
                        format!("{count} registers from address {address} reach beyond the last, 65535");
                    found.error(codes::ADDRESS, span, message);
                    return None;
                }
                Some(Place::Run { table: *table, address: *address, count })
            }
            Self::Each(_, addresses) if addresses.len() != usize::from(count) => {
                let message = format!("{} registers are listed, and the type needs {count}", addresses.len());
                found
                    .error(codes::REGISTER_COUNT, span, message)
                    .help("list the most significant register first");
                None
            }
            Self::Each(table, addresses) => {
                let adjacent = addresses.windows(2).all(|pair| u32::from(pair[0]) + 1 == u32::from(pair[1]));
                Some(match addresses.first() {
                    Some(address) if adjacent => Place::Run { table: *table, address: *address, count },
                    _ => Place::Scattered { table: *table, addresses: addresses.as_slice().into() },
                })
            }
        }
    }
}

/// The one key that says where a point's value is.
pub fn location<'p>(
    name: &At<String>,
    point: &'p Point,
    found: &mut Diagnostics,
) -> Option<(&'static str, &'p Span)> {
    let mut given = LOCATIONS.iter().filter_map(|key| point.given(key).map(|span| (*key, span)));
    let Some(first) = given.next() else {
        found
            .error(
                codes::NO_LOCATION,
                &name.span,
                format!("point '{}' does not say where its value is", name.value),
            )
            .help("add one of coil, discrete, input, holding, ref, node, sum");
        return None;
    };
    if let Some((second, span)) = given.next() {
        let message =
            format!("point '{}' says twice where its value is: '{}' and '{second}'", name.value, first.0);
        found.error(codes::TWO_LOCATIONS, span, message).help("keep one of them");
        return None;
    }
    Some(first)
}

/// The spot on the wire; `None` is reported, or is no register (`sum`).
pub fn spot(point: &Point, base: u16, found: &mut Diagnostics) -> Option<Spot> {
    if let Some(at) = &point.r#ref {
        return paper(at, found);
    }
    for (table, at) in [(Table::Coil, &point.coil), (Table::Discrete, &point.discrete)] {
        if let Some(at) = at {
            return Some(Spot::From(table, wire(at.0, base, &at.span, found)?));
        }
    }
    for (table, at) in [(Table::Input, &point.input), (Table::Holding, &point.holding)] {
        if let Some(at) = at {
            return registers(table, at, base, found);
        }
    }
    None
}

fn registers(table: Table, at: &At<Registers>, base: u16, found: &mut Diagnostics) -> Option<Spot> {
    let list = match &at.value {
        Either::Short(address) => return Some(Spot::From(table, wire(address.0, base, &at.span, found)?)),
        Either::Long(list) => &list.0,
    };
    let mut addresses = Vec::with_capacity(list.len());
    for address in list {
        let wire = wire(address.value.0, base, &address.span, found)?;
        if addresses.contains(&wire) {
            found.error(
                codes::DUPLICATE_VALUE,
                &address.span,
                format!("register {} is listed twice", address.value.0),
            );
            return None;
        }
        addresses.push(wire);
        if addresses.len() > usize::from(MAX_LISTED) {
            found.error(
                codes::REGISTER_COUNT,
                &at.span,
                format!("more than {MAX_LISTED} registers are listed"),
            );
            return None;
        }
    }
    Some(Spot::Each(table, addresses))
}

/// The largest number of registers of one request (Modbus Application Protocol V1.1b3, section 6.3).
const MAX_LISTED: u16 = 125;

/// The address on the wire of an address as written.
pub(super) fn wire(address: i64, base: u16, span: &Span, found: &mut Diagnostics) -> Option<u16> {
    let wire = u16::try_from(address - i64::from(base)).ok();
    if wire.is_none() {
        let message =
            format!("address {address} is out of range: {base} to {} is allowed", 65_535 + i64::from(base));
        let diagnostic = found.error(codes::ADDRESS, span, message);
        if base == 1 {
            diagnostic.help("the profile says address_base: 1, so its first address is 1");
        }
    }
    wire
}

/// Paper notation: the first of 5 or 6 digits is the table, the rest counts from 1 (Modicon PI-MBUS-300).
fn paper(at: &At<Int<1, 465_536>>, found: &mut Diagnostics) -> Option<Spot> {
    let (table, number) = match at.value.0 {
        n @ 1..=9_999 => (Table::Coil, n),
        n @ 10_001..=19_999 => (Table::Discrete, n - 10_000),
        n @ 30_001..=39_999 => (Table::Input, n - 30_000),
        n @ 40_001..=49_999 => (Table::Holding, n - 40_000),
        n @ 100_001..=165_536 => (Table::Discrete, n - 100_000),
        n @ 300_001..=365_536 => (Table::Input, n - 300_000),
        n @ 400_001..=465_536 => (Table::Holding, n - 400_000),
        n => {
            found
                .error(
                    codes::PAPER_REFERENCE,
                    &at.span,
                    format!("reference {n} is in none of the four tables"),
                )
                .help(
                    "1…: coils, 10001… or 100001…: discrete inputs, 30001… or 300001…: input registers, \
                       40001… or 400001…: holding registers",
                );
            return None;
        }
    };
    u16::try_from(number - 1).ok().map(|address| Spot::From(table, address))
}
