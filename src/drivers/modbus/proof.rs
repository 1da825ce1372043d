//! Does a device answer a request over a hole with the right values? One request over the hole is compared with requests
//! around it, before and after. Pure.
//!
//! - Some devices leave a hole out of their answer, without an error: everything behind it is moved up.
//! - Measurements move meanwhile: only an address that held the same before and after says something.
//! - An address says that nothing was moved only if a moved answer would have held something else there.

use std::ops::Range;

use super::plan::Block;

/// What the addresses of a block held, where it is known.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Image {
    block: Block,
    words: Vec<Option<u16>>,
}

impl Image {
    /// Nothing is known.
    pub fn new(block: Block) -> Self {
        Self { block, words: vec![None; usize::from(block.count)] }
    }

    /// Notes the answer to a request within the block.
    pub fn note(&mut self, of: Block, data: &[u8]) {
        let from = usize::from(of.address.saturating_sub(self.block.address));
        for (i, word) in self.words.iter_mut().skip(from).take(usize::from(of.count)).enumerate() {
            *word = match of.table.is_bits() {
                true => data.get(i / 8).map(|byte| u16::from(byte >> (i % 8) & 1)),
                false => data.get(i * 2..i * 2 + 2).map(|pair| u16::from_be_bytes([pair[0], pair[1]])),
            };
        }
    }
}

/// An address whose value was another one in the request over the hole.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mismatch {
    /// The address.
    pub address: u16,
    /// What it held by itself, before and after.
    pub alone: u16,
    /// What it held in the request over the hole.
    pub merged: u16,
}

/// What a comparison says of one piece of the block.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// It's where it should be.
    Right,
    /// It's not.
    Wrong(Mismatch),
    /// Too little stood still, or nothing by which a moved answer could be told.
    Open,
}

/// So many points exclude that an answer was moved by a certain distance.
const ENOUGH: u32 = 4;

/// Compares the pieces of a block, given as ranges of offsets, ascending, with holes between them.
pub fn compare(before: &Image, merged: &Image, after: &Image, pieces: &[Range<usize>]) -> Vec<Verdict> {
    let mut hole = 0;
    let mut end = pieces.first().map_or(0, |piece| piece.start);
    let mut verdicts = Vec::with_capacity(pieces.len());
    for piece in pieces {
        hole += piece.start.saturating_sub(end);
        end = end.max(piece.end);
        verdicts.push(verdict(before, merged, after, piece.clone(), hole));
    }
    verdicts
}

fn verdict(before: &Image, merged: &Image, after: &Image, piece: Range<usize>, hole: usize) -> Verdict {
    let still = |at: usize| {
        let known = before.words.get(at).copied().flatten()?;
        (after.words.get(at).copied().flatten() == Some(known)).then_some(known)
    };
    let mut points = vec![0; hole];
    for at in piece {
        let Some(alone) = still(at) else { continue };
        let Some(got) = merged.words.get(at).copied().flatten() else { continue };
        if got != alone {
            let address = before.block.address + at as u16;
            return Verdict::Wrong(Mismatch { address, alone, merged: got });
        }
        for (by, points) in points.iter_mut().enumerate() {
            *points += match still(at + by + 1) {
                // Moved by so much, this address would have held something else.
                Some(other) if other != alone => ENOUGH,
                Some(_) => 0,
                None => surprise(alone, before.block),
            };
        }
    }
    // In front of the first hole nothing can be moved.
    if points.iter().all(|points| *points >= ENOUGH) { Verdict::Right } else { Verdict::Open }
}

/// How unlikely it is, in points, that an address of which nothing is known holds the same value.
fn surprise(value: u16, block: Block) -> u32 {
    match value {
        1 if block.table.is_bits() => 1,
        // Empty, all ones, and what many devices give for "not available".
        0 | 1 | 0xFFFF | 0x8000 | 0x7FFF => 0,
        _ => ENOUGH,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::model::place::Table;
    use proptest::prelude::*;

    fn image(words: &[u16]) -> Image {
        let block = Block { table: Table::Holding, address: 100, count: words.len() as u16 };
        Image { block, words: words.iter().copied().map(Some).collect() }
    }

    fn around(words: &[u16], hole: Range<usize>) -> Image {
        let mut image = image(words);
        image.words[hole].fill(None);
        image
    }

    #[test]
    fn a_hole_that_is_left_out_is_seen() {
        let alone = around(&[11, 12, 0, 0, 13, 14], 2..4);
        let merged = image(&[11, 12, 13, 14, 15, 16]);
        let verdicts = compare(&alone, &merged, &alone, &[0..2, 4..6]);
        assert_eq!(verdicts[0], Verdict::Right);
        assert_eq!(verdicts[1], Verdict::Wrong(Mismatch { address: 104, alone: 13, merged: 15 }));
    }

    #[test]
    fn what_moves_says_nothing_and_zeros_exclude_nothing() {
        let (before, after) = (around(&[11, 0, 2300], 1..2), around(&[11, 0, 2301], 1..2));
        assert_eq!(compare(&before, &image(&[11, 0, 2305]), &after, &[0..1, 2..3])[1], Verdict::Open);
        let zeros = around(&[0, 0, 0], 1..2);
        assert_eq!(compare(&zeros, &image(&[0, 0, 0]), &zeros, &[0..1, 2..3])[1], Verdict::Open);
        let same = around(&[11, 0, 2300, 2300], 1..2);
        assert_eq!(
            compare(&same, &image(&[11, 0, 2300, 2300]), &same, &[0..1, 2..4])[1],
            Verdict::Right,
            "the last one would have held what follows"
        );
    }

    proptest! {
        /// Whatever is in the memory: an answer that leaves the hole out is never called right.
        #[test]
        fn a_moved_answer_is_never_right(
            values in prop::collection::vec(prop_oneof![Just(0u16), Just(7u16), 0u16..4, any::<u16>()], 12),
            hole in 1usize..4, first in 1usize..4, second in 1usize..4,
        ) {
            let length = first + hole + second;
            let alone = around(&values[..length], first..first + hole);
            let moved: Vec<u16> = values[..first].iter().chain(&values[first + hole..][..second + hole]).copied().collect();
            // Where the moved answer holds the same, nobody can tell, and nothing is wrong.
            prop_assume!((0..second).any(|i| values[first + hole + i] != moved[first + hole + i]));
            let verdicts = compare(&alone, &image(&moved), &alone, &[0..first, first + hole..length]);
            prop_assert!(verdicts[1] != Verdict::Right, "{:?}", verdicts);
        }
    }
}
