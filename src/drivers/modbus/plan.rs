//! From the places of a device's values to the fewest requests that fetch them. Pure.
//!
//! - What one point needs (its own reading, its scale factor's, its summands') is an *atom*: it comes from one read.
//! - A block begins and ends at the edge of a value and stays within `max_registers`/`max_bits`.
//! - Between two atoms at most `max_gap` unneeded addresses are read over. Inside an atom any hole is, if the whole fits
//!   one request, because one request is the only consistent read that Modbus has. Refused addresses are never read over.
//! - What lies in one of the device's fixed blocks is read with all of it and nothing else; no other request touches it.
//! - An atom that no request can hold becomes a read of several blocks with the most significant one read again at the end.

use std::collections::BTreeSet;
use std::sync::Arc;

use crate::mapping::compiled::{Decode, DeviceMap, PointIx, ReadingIx, Source};
use crate::mapping::device::{Device, Group, Limits, Read};
use crate::model::place::{Place, Table};

mod fixed;

/// Largest count of a request for registers (Modbus Application Protocol V1.1b3, 6.3 and 6.4).
pub const MOST_REGISTERS: u16 = 125;

/// Largest count of a request for bits (6.1 and 6.2).
pub const MOST_BITS: u16 = 2000;

/// Addresses of one table.
const TABLE_SIZE: u32 = 65_536;

/// One request: consecutive addresses of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Block {
    /// The table.
    pub table: Table,
    /// First address, zero-based, as on the wire.
    pub address: u16,
    /// How many registers or bits.
    pub count: u16,
}

impl Block {
    /// Data bytes of the answer: two per register, eight bits per byte.
    pub fn bytes(self) -> usize {
        let count = usize::from(self.count);
        if self.table.is_bits() { count.div_ceil(8) } else { count * 2 }
    }

    /// The address after the last one.
    pub fn end(self) -> u32 {
        u32::from(self.address) + u32::from(self.count)
    }
}

/// What is exchanged for one read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Exchange {
    /// The requests, in order. Their answers' data, one behind the other, is what the cuts point into.
    pub blocks: Vec<Block>,
    /// Ask for the first block again at the end: what changed meanwhile is torn.
    pub repeat_first: bool,
    /// One per reading of the read, in its order.
    pub cuts: Vec<Cut>,
    /// Where its single block may be divided: sorted by address, each hull once. Empty with several blocks, which all
    /// belong to one atom.
    pub atoms: Vec<Atom>,
}

/// Readings that must come from one answer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Atom {
    /// The request that holds all of them.
    pub hull: Block,
    /// The readings, as indices into [`Exchange::cuts`], ascending.
    pub cuts: Vec<u32>,
}

/// One reading's share of the answers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Cut {
    /// Which bytes.
    pub pick: Pick,
    /// What they mean.
    pub decode: Decode,
}

impl Cut {
    /// The same where the answer begins so many addresses further on.
    pub fn behind(&self, addresses: u32) -> Self {
        let pick = match &self.pick {
            Pick::Words { at, count } => Pick::Words { at: at.saturating_sub(addresses * 2), count: *count },
            Pick::Scattered(all) => {
                Pick::Scattered(all.iter().map(|at| at.saturating_sub(addresses * 2)).collect())
            }
            Pick::Bit(at) => Pick::Bit(at.saturating_sub(addresses)),
        };
        Self { pick, decode: self.decode.clone() }
    }
}

/// Where a reading's bytes are in the answers' data, one answer behind the other.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Pick {
    /// Consecutive registers.
    Words {
        /// Offset of the first byte.
        at: u32,
        /// How many registers.
        count: u16,
    },
    /// Single registers, most significant first: the offset of each one's first byte.
    Scattered(Box<[u32]>),
    /// One bit; the offset counts bits, the lowest of each byte first.
    Bit(u32),
}

/// A point that no request can fetch.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum PlanError {
    /// Its place is of another protocol.
    #[error("point '{point}' has no Modbus address")]
    NotModbus {
        /// The point.
        point: Arc<str>,
    },
    /// It is computed from nothing.
    #[error("point '{point}' has nothing to read")]
    NoReading {
        /// The point.
        point: Arc<str>,
    },
    /// The device does not understand the function code that reads its table.
    #[error("point '{point}': {} registers need function code {function}, which the device does not allow", table.key())]
    FunctionNotAllowed {
        /// The point.
        point: Arc<str>,
        /// Its table.
        table: Table,
        /// The function code that reads it.
        function: u8,
    },
    /// The value alone is larger than a request may be.
    #[error("point '{point}' takes {count} addresses, more than one request may read ({most})")]
    TooLong {
        /// The point.
        point: Arc<str>,
        /// What it takes.
        count: u16,
        /// What is allowed.
        most: u16,
    },
    /// Part of it is in a block that is read as a whole only, and part is not.
    #[error("point '{point}' is partly in a fixed block")]
    AcrossBlock {
        /// The point.
        point: Arc<str>,
    },
    /// It reaches past address 65535, or has no length.
    #[error("point '{point}' does not fit between addresses 0 and 65535")]
    OutsideTable {
        /// The point.
        point: Arc<str>,
    },
}

/// Plans all reads of a device, group by group; within a group by table and address, so that the order of the points
/// in the profile is irrelevant.
pub fn plan(device: &Device) -> Result<Vec<(Read, Exchange)>, PlanError> {
    let mut reads = Vec::new();
    for group in &device.groups {
        let first = reads.len();
        plan_group(&device.map, &device.limits, group, &mut reads)?;
        publish_once(group, &mut reads[first..]);
    }
    Ok(reads)
}

/// Gives each point of a group to the first of its reads that computes it.
fn publish_once(group: &Group, reads: &mut [(Read, Exchange)]) {
    let mut waiting: BTreeSet<PointIx> = group.points.iter().copied().collect();
    for (read, _) in reads {
        read.publishes = read.points.iter().copied().filter(|ix| waiting.remove(ix)).collect();
    }
}

/// What one point needs, and where it is.
struct Draft {
    points: Vec<PointIx>,
    readings: Vec<ReadingIx>,
    /// The request that would hold all of it; `None` when none can.
    hull: Option<Block>,
    /// The block with this address is read first and again at the end when there are several.
    anchor: (Table, u16),
    alone: bool,
}

fn plan_group(
    map: &DeviceMap,
    limits: &Limits,
    group: &Group,
    reads: &mut Vec<(Read, Exchange)>,
) -> Result<(), PlanError> {
    let mut mergeable = Vec::new();
    let mut others = Vec::new();
    for atom in atoms(map, limits, group)? {
        match atom.hull {
            Some(hull) if !atom.alone => mergeable.push((hull, atom)),
            _ => others.push(atom),
        }
    }
    mergeable.sort_by(|(a, x), (b, y)| position(*a).cmp(&position(*b)).then_with(|| x.points.cmp(&y.points)));
    others.sort_by(|x, y| x.anchor.cmp(&y.anchor).then_with(|| x.points.cmp(&y.points)));

    let hulls: Vec<Block> = mergeable.iter().map(|(hull, _)| *hull).collect();
    let mut atoms = mergeable.into_iter().map(|(_, atom)| atom);
    for (block, members) in merge(&hulls, limits) {
        let members: Vec<Draft> = atoms.by_ref().take(members).collect();
        reads.push(build(map, group, vec![block], false, &members));
    }
    for atom in others {
        let (blocks, repeat) = match atom.hull {
            Some(hull) => (vec![hull], false),
            None => (scattered_blocks(map, limits, &atom), true),
        };
        reads.push(build(map, group, blocks, repeat, std::slice::from_ref(&atom)));
    }
    Ok(())
}

/// One atom per point of the group, without those that another one computes anyway.
fn atoms(map: &DeviceMap, limits: &Limits, group: &Group) -> Result<Vec<Draft>, PlanError> {
    let wanted: BTreeSet<PointIx> = group.points.iter().copied().collect();
    let closures: Vec<(PointIx, BTreeSet<PointIx>)> = wanted.iter().map(|ix| (*ix, map.needs(*ix))).collect();
    let by_others: BTreeSet<PointIx> =
        closures.iter().flat_map(|(ix, all)| all.iter().filter(move |dep| *dep != ix)).copied().collect();
    closures
        .into_iter()
        .filter(|(ix, _)| !by_others.contains(ix) || point(map, *ix).alone)
        .map(|(ix, points)| atom(map, limits, ix, points))
        .collect()
}

fn atom(
    map: &DeviceMap,
    limits: &Limits,
    ix: PointIx,
    points: BTreeSet<PointIx>,
) -> Result<Draft, PlanError> {
    let mut readings = BTreeSet::new();
    for &ix in &points {
        if let Source::Reading(reading) = point(map, ix).source {
            check(map, limits, ix, reading)?;
            readings.insert(reading);
        }
    }
    let no_reading = || PlanError::NoReading { point: point(map, ix).name.clone() };
    let readings: Vec<ReadingIx> = readings.into_iter().collect();
    let pieces: Vec<Block> =
        readings.iter().flat_map(|reading| pieces(place(map, *reading), limits)).collect();
    let anchor = anchor(map, ix).ok_or_else(no_reading)?;
    let hull = hull(&pieces).filter(|hull| fixed::may_be_asked(*hull, limits));
    let alone = point(map, ix).alone;
    Ok(Draft { points: points.into_iter().collect(), readings, hull, anchor, alone })
}

/// Can this reading be fetched at all?
fn check(map: &DeviceMap, limits: &Limits, ix: PointIx, reading: ReadingIx) -> Result<(), PlanError> {
    let name = || point(map, ix).name.clone();
    let place = place(map, reading);
    let table = place.table().ok_or_else(|| PlanError::NotModbus { point: name() })?;
    let function = table.read_function();
    if limits.functions.as_ref().is_some_and(|allowed| !allowed.contains(&function)) {
        return Err(PlanError::FunctionNotAllowed { point: name(), table, function });
    }
    match place {
        Place::Run { address, count, .. } => {
            if *count == 0 || u32::from(*address) + u32::from(*count) > TABLE_SIZE {
                return Err(PlanError::OutsideTable { point: name() });
            }
            if *count > most(limits, table) {
                return Err(PlanError::TooLong { point: name(), count: *count, most: most(limits, table) });
            }
        }
        Place::Scattered { addresses, .. } if addresses.is_empty() => {
            return Err(PlanError::OutsideTable { point: name() });
        }
        // What can't be gathered within one answer's size is no value of any type.
        Place::Scattered { addresses, .. } if addresses.len() > usize::from(MOST_REGISTERS) => {
            let count = u16::try_from(addresses.len()).unwrap_or(u16::MAX);
            return Err(PlanError::TooLong { point: name(), count, most: MOST_REGISTERS });
        }
        Place::Scattered { .. } | Place::Node(_) => {}
    }
    fixed::check(place, table, limits, name)
}

/// The address whose change does most harm to the point: the high word of a split value, the scale factor, the summand
/// with the largest weight. It also changes least often, so that reading it twice seldom disagrees.
fn anchor(map: &DeviceMap, ix: PointIx) -> Option<(Table, u16)> {
    let point = point(map, ix);
    match &point.source {
        Source::Reading(reading) => match place(map, *reading) {
            Place::Scattered { table, addresses } => Some((*table, *addresses.first()?)),
            Place::Run { table, address, .. } => match point.transform.scale_from {
                Some(scale) => anchor(map, scale),
                None => Some((*table, *address)),
            },
            Place::Node(_) => None,
        },
        Source::Sum(terms) => {
            let heaviest = terms.iter().rev().max_by_key(|(_, factor)| factor.abs())?;
            anchor(map, heaviest.0)
        }
    }
}

/// The stretches of addresses that must be read for a place; none may be cut.
fn pieces(place: &Place, limits: &Limits) -> Vec<Block> {
    let parts = match place {
        Place::Run { table, address, count } => {
            vec![Block { table: *table, address: *address, count: *count }]
        }
        Place::Scattered { table, addresses } => {
            addresses.iter().map(|address| Block { table: *table, address: *address, count: 1 }).collect()
        }
        Place::Node(_) => Vec::new(),
    };
    parts.into_iter().map(|part| fixed::whole(part, limits)).collect()
}

/// The smallest block around all pieces; `None` over several tables or without a piece.
fn hull(pieces: &[Block]) -> Option<Block> {
    let table = pieces.first()?.table;
    let address = pieces.iter().map(|piece| piece.address).min()?;
    let end = pieces.iter().map(|piece| piece.end()).max()?;
    let count = u16::try_from(end - u32::from(address)).ok()?;
    pieces.iter().all(|piece| piece.table == table).then_some(Block { table, address, count })
}

/// Merges blocks, sorted by [`position`], into the fewest requests: each with the number of blocks that it holds.
///
/// Taking as many as fit, from the lowest address up, is optimal. A block that is refused for its length ends beyond
/// all before it, and one that is refused for its gap begins beyond them; so whatever a better plan would have merged
/// with an earlier block merges as well with the refused one, and each request here reaches at least as far as the
/// same request of any other plan. A fixed block divides what is before it from what is behind it, as two tables are.
fn merge(blocks: &[Block], limits: &Limits) -> Vec<(Block, usize)> {
    let mut requests: Vec<(Block, usize)> = Vec::new();
    for &next in blocks {
        if let Some((open, members)) = requests.last_mut() {
            let end = open.end().max(next.end());
            let near = u32::from(next.address) <= open.end() + u32::from(limits.max_gap);
            let merged = u16::try_from(end - u32::from(open.address)).map(|count| Block { count, ..*open });
            if open.table == next.table
                && near
                && merged.is_ok_and(|merged| fixed::may_be_asked(merged, limits))
            {
                open.count = (end - u32::from(open.address)) as u16;
                *members += 1;
                continue;
            }
        }
        requests.push((next, 1));
    }
    requests
}

/// The blocks of an atom that no single request can hold, the anchor's first.
fn scattered_blocks(map: &DeviceMap, limits: &Limits, atom: &Draft) -> Vec<Block> {
    let mut all: Vec<Block> =
        atom.readings.iter().flat_map(|reading| pieces(place(map, *reading), limits)).collect();
    all.sort_by_key(|piece| position(*piece));
    let mut blocks: Vec<Block> = merge(&all, limits).into_iter().map(|(block, _)| block).collect();
    if let Some(first) =
        blocks.iter().position(|block| offset_in(*block, atom.anchor.0, atom.anchor.1).is_some())
    {
        blocks[..=first].rotate_right(1);
    }
    blocks
}

fn build(
    map: &DeviceMap,
    group: &Group,
    blocks: Vec<Block>,
    repeat_first: bool,
    drafts: &[Draft],
) -> (Read, Exchange) {
    let points: BTreeSet<PointIx> = drafts.iter().flat_map(|draft| draft.points.iter().copied()).collect();
    let readings: BTreeSet<ReadingIx> =
        drafts.iter().flat_map(|draft| draft.readings.iter().copied()).collect();
    let readings: Vec<ReadingIx> = readings.into_iter().collect();
    let cuts = readings
        .iter()
        .map(|reading| Cut {
            pick: pick(&blocks, place(map, *reading)),
            decode: map.readings[reading.0 as usize].decode.clone(),
        })
        .collect();
    let atoms = atoms_of(drafts, &readings);
    let (points, publishes) = (points.into_iter().collect(), Vec::new());
    let read = Read { every: group.every, readings, points, publishes };
    (read, Exchange { blocks, repeat_first, cuts, atoms })
}

/// The atoms of a read's drafts, which are sorted by their hulls; those with the same hull are one.
fn atoms_of(drafts: &[Draft], readings: &[ReadingIx]) -> Vec<Atom> {
    let mut atoms: Vec<Atom> = Vec::new();
    for draft in drafts {
        let Some(hull) = draft.hull else { continue };
        let cuts = draft.readings.iter().filter_map(|ix| readings.binary_search(ix).ok()).map(|at| at as u32);
        match atoms.last_mut() {
            Some(last) if last.hull == hull => last.cuts.extend(cuts),
            _ => atoms.push(Atom { hull, cuts: cuts.collect() }),
        }
    }
    for atom in &mut atoms {
        atom.cuts.sort_unstable();
        atom.cuts.dedup();
    }
    atoms
}

fn pick(blocks: &[Block], place: &Place) -> Pick {
    match place {
        Place::Run { table, address, .. } if table.is_bits() => Pick::Bit(find(blocks, *table, *address)),
        Place::Run { table, address, count } => {
            Pick::Words { at: find(blocks, *table, *address), count: *count }
        }
        Place::Scattered { table, addresses } => {
            Pick::Scattered(addresses.iter().map(|address| find(blocks, *table, *address)).collect())
        }
        // `check` has refused it.
        Place::Node(_) => Pick::Scattered(Box::new([])),
    }
}

/// Where an address is in the answers' data: in bytes for registers, in bits for bits.
fn find(blocks: &[Block], table: Table, address: u16) -> u32 {
    let mut before = 0;
    for block in blocks {
        if let Some(offset) = offset_in(*block, table, address) {
            return if table.is_bits() { before * 8 + offset } else { before + offset * 2 };
        }
        before += block.bytes() as u32;
    }
    // Every place lies in a block that was built around it.
    before
}

fn offset_in(block: Block, table: Table, address: u16) -> Option<u32> {
    let offset = address.checked_sub(block.address)?;
    (block.table == table && offset < block.count).then_some(u32::from(offset))
}

/// The sorting order of blocks.
fn position(block: Block) -> (Table, u16, u16) {
    (block.table, block.address, block.count)
}

/// The largest count of one request to this table.
fn most(limits: &Limits, table: Table) -> u16 {
    limits.max_count(table).clamp(1, if table.is_bits() { MOST_BITS } else { MOST_REGISTERS })
}

fn point(map: &DeviceMap, ix: PointIx) -> &crate::mapping::compiled::Point {
    &map.points[ix.0 as usize]
}

fn place(map: &DeviceMap, ix: ReadingIx) -> &Place {
    &map.readings[ix.0 as usize].place
}

#[cfg(test)]
#[path = "plan_tests.rs"]
mod tests;
