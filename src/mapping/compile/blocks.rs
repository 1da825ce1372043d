//! Fixed blocks as written → stretches of addresses that are read as a whole only.

use super::place::wire;
use crate::document::codes;
use crate::document::read::At;
use crate::mapping::device::{FixedBlock, Limits};
use crate::mapping::profile::{BlockWords, Profile};
use crate::model::diagnostic::{Diagnostics, Span};
use crate::model::place::Table;

/// The tables by their keys.
const TABLES: [Table; 4] = [Table::Coil, Table::Discrete, Table::Input, Table::Holding];

/// Addresses of one table.
const TABLE_SIZE: u32 = 65_536;

/// A profile's blocks, sorted; of two that overlap the second is reported and left out.
pub fn of(profile: &Profile, base: u16, found: &mut Diagnostics) -> Vec<At<FixedBlock>> {
    let written = profile.blocks.iter().flat_map(|at| &at.value.0).filter(|words| !words.faulty);
    let mut all: Vec<At<FixedBlock>> = written.filter_map(|words| block(words, base, found)).collect();
    all.sort_by_key(|block| (block.table, block.address));
    let mut blocks: Vec<At<FixedBlock>> = Vec::with_capacity(all.len());
    for block in all {
        match blocks.last() {
            Some(last) if last.overlaps(block.table, block.address, block.count) => {
                let message = format!("this block overlaps the one on line {}", last.span.line_column().0);
                found
                    .error(codes::FIXED_BLOCK, &block.span, message)
                    .help("an address is part of one block only");
            }
            _ => blocks.push(block),
        }
    }
    blocks
}

fn block(words: &At<BlockWords>, base: u16, found: &mut Diagnostics) -> Option<At<FixedBlock>> {
    let mut given = TABLES.into_iter().filter_map(|table| Some((table, words.address(table)?)));
    let Some((table, address)) = given.next() else {
        found
            .error(codes::NO_LOCATION, &words.span, "this block does not say where it begins")
            .help("such as {holding: 0, count: 20}; or input, coil, discrete");
        return None;
    };
    if let Some((second, at)) = given.next() {
        let message = format!("a block is in one table: '{}' or '{}'", table.key(), second.key());
        found.error(codes::TWO_LOCATIONS, &at.span, message).help("keep one of them, or write two blocks");
        return None;
    }
    let address = wire(address.0, base, &address.span, found)?;
    let count = words.count.as_ref().and_then(|count| u16::try_from(count.0).ok())?;
    if u32::from(address) + u32::from(count) > TABLE_SIZE {
        let message = format!("{count} addresses from {address} reach beyond the last, {}", TABLE_SIZE - 1);
        found.error(codes::ADDRESS, &words.span, message);
        return None;
    }
    Some(At { value: FixedBlock { table, address, count }, span: words.span.clone() })
}

/// Reports blocks that no request can hold. `changed`: where the device changes the limits.
pub fn check(blocks: &[At<FixedBlock>], limits: &Limits, changed: Option<&Span>, found: &mut Diagnostics) {
    for block in blocks {
        let most = limits.max_count(block.table);
        if block.count > most {
            let FixedBlock { table, address, count } = block.value;
            let message = format!(
                "the block of {count} from {} {address} is longer than a request may be: {most}",
                table.key()
            );
            let key = if table.is_bits() { "max_bits" } else { "max_registers" };
            found
                .error(codes::FIXED_BLOCK, changed.unwrap_or(&block.span), message)
                .help(format!("raise {key}, or divide the block where the device allows it"));
        }
    }
}
