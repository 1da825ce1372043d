//! Blocks that a device gives as a whole only: which requests they allow.

use std::sync::Arc;

use super::{Block, PlanError, most};
use crate::mapping::device::{FixedBlock, Limits};
use crate::model::place::{Place, Table};

/// The fixed block that has any address of this one; if several have, one of them.
fn fixed_at(block: Block, limits: &Limits) -> Option<Block> {
    let FixedBlock { table, address, count } = limits.block_at(block.table, block.address, block.count)?;
    Some(Block { table, address, count })
}

/// What must be asked for to read these addresses: the fixed block around them, or just them.
pub(super) fn whole(part: Block, limits: &Limits) -> Block {
    fixed_at(part, limits).unwrap_or(part)
}

/// Is it short enough for a request, without an address that is refused, and either a fixed block or without any address
/// of one?
pub(super) fn may_be_asked(block: Block, limits: &Limits) -> bool {
    block.count <= most(limits, block.table)
        && limits.refused_in(block.table, u32::from(block.address), block.end()).is_none()
        && fixed_at(block, limits).is_none_or(|fixed| fixed == block)
}

/// Is each part of the place in a fixed block that one request can hold, or outside of all?
pub(super) fn check(
    place: &Place,
    table: Table,
    limits: &Limits,
    name: impl Fn() -> Arc<str>,
) -> Result<(), PlanError> {
    let check = |address: u16, count: u16| {
        let Some(block) = limits.block_at(table, address, count) else { return Ok(()) };
        let most = most(limits, table);
        if !block.holds(table, address, count) {
            Err(PlanError::AcrossBlock { point: name() })
        } else if block.count > most {
            Err(PlanError::TooLong { point: name(), count: block.count, most })
        } else {
            Ok(())
        }
    };
    match place {
        Place::Run { address, count, .. } => check(*address, *count),
        Place::Scattered { addresses, .. } => addresses.iter().try_for_each(|address| check(*address, 1)),
        Place::Node(_) => Ok(()),
    }
}
