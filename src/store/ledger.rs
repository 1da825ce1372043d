//! What became of each position. Pure.
//!
//! A byte per position, by segment: a day of messages is a megabyte.

use std::collections::{BTreeMap, VecDeque};

use super::format::{MOST_POSITIONS, Record};
use super::{Marks, Restamp};
use crate::model::clock::Standing;
use crate::model::gaps::Gaps;

/// It's in the store.
const PRESENT: u8 = 1;
/// It's delivered, or given up.
const SETTLED: u8 = 2;
/// It's sent as replayed.
const REPLAYED: u8 = 4;
/// The forwarder does not hold it: it's to be read.
const WANTED: u8 = 8;

/// Which segments there are, and what became of their messages.
#[derive(Debug, Default)]
pub(super) struct Ledger {
    segments: VecDeque<Segment>,
    late: BTreeMap<u64, u64>,
    /// Messages whose copy is not in the segment that decides of them, and the number of that which it's in: a later one was
    /// begun after an fdatasync had failed, and did not come to have them.
    strays: BTreeMap<u64, u64>,
    stamps: BTreeMap<u64, Restamp>,
    /// Gaps whose records were not acknowledged.
    pub gaps: Gaps,
}

/// One segment.
#[derive(Debug)]
pub(super) struct Segment {
    /// Its number.
    pub number: u64,
    /// The first position that it decides of.
    pub first: u64,
    /// Bytes of its file.
    pub bytes: u64,
    /// When its newest message was admitted.
    pub newest: Option<i64>,
    /// The same of its newest one of a clock that may have been wrong, and where that stood.
    pub newest_doubted: Option<(i64, Standing)>,
    /// How many of its messages are present and not settled.
    pub unsettled: usize,
    states: Vec<u8>,
}

impl Segment {
    /// The position behind its last.
    pub fn end(&self) -> u64 {
        self.first + self.states.len() as u64
    }
}

impl Ledger {
    /// A segment is begun in a file of so many bytes: it decides of everything from `first` on.
    pub fn begin(&mut self, number: u64, first: u64, bytes: u64) {
        let mut segment = Segment {
            number,
            first,
            bytes,
            newest: None,
            newest_doubted: None,
            unsettled: 0,
            states: Vec::new(),
        };
        if let Some(last) = self.segments.back_mut()
            && last.end() > first
        {
            // None of it is present: what is written again is when it's written.
            segment.states = last.states.split_off((first.saturating_sub(last.first)) as usize);
        }
        self.segments.push_back(segment);
    }

    /// The segments, oldest first.
    pub fn segments(&self) -> &VecDeque<Segment> {
        &self.segments
    }

    /// A segment's file was cut off.
    pub fn resized(&mut self, number: u64, bytes: u64) {
        self.segments
            .iter_mut()
            .filter(|segment| segment.number == number)
            .for_each(|segment| segment.bytes = bytes);
    }

    /// The positions of messages that a segment has, and that are not settled.
    pub fn unsettled_in(&self, number: u64) -> impl Iterator<Item = u64> {
        let segment = self.segments.iter().filter(move |segment| segment.number == number);
        let positions = segment.flat_map(|segment| (segment.first..).zip(&segment.states));
        let unsettled = positions.filter(|(_, state)| **state & (PRESENT | SETTLED) == PRESENT);
        unsettled.map(|(position, _)| position).filter(move |position| self.has_copy(number, *position))
    }

    /// Bytes of all segments' files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest segment is gone.
    pub fn forget_oldest(&mut self) -> Option<Segment> {
        let gone = self.segments.pop_front()?;
        self.late = self.late.split_off(&gone.end());
        self.strays.retain(|_, number| *number != gone.number);
        self.stamps = self.stamps.split_off(&gone.end());
        Some(gone)
    }

    /// Takes note of a record. `number` is that of the segment that it's in.
    pub fn note(&mut self, record: &Record, number: u64) {
        match record {
            Record::Message(stored) => {
                let position = stored.position;
                let Some(segment) = self.index_of(position).and_then(|index| self.segments.get_mut(index))
                else {
                    return;
                };
                let index = (position - segment.first) as usize;
                if position - segment.first >= MOST_POSITIONS {
                    return;
                }
                if segment.states.len() <= index {
                    segment.states.resize(index + 1, 0);
                }
                let state = &mut segment.states[index];
                // A copy of the same counts, where the later one is missing.
                if segment.number == number {
                    self.strays.remove(&position);
                } else if *state & (PRESENT | SETTLED) == 0 {
                    self.strays.insert(position, number);
                }
                if *state & (PRESENT | SETTLED) == 0 {
                    segment.unsettled += 1;
                }
                *state |= PRESENT;
                match stored.doubted {
                    None => segment.newest = segment.newest.max(Some(stored.at)),
                    Some(standing) => segment.newest_doubted = Some((stored.at, standing)),
                }
            }
            Record::Settled(ranges) => ranges.iter().for_each(|(from, to)| self.settle(*from, *to)),
            Record::Replayed(ranges) => ranges.iter().for_each(|(from, to)| self.set(*from, *to, REPLAYED)),
            Record::Late(position, millis) => {
                if self.state(*position) & (PRESENT | SETTLED) == PRESENT {
                    self.late.insert(*position, *millis);
                }
            }
            Record::GivenUp(positions, gap) => {
                self.gaps.add(gap.clone());
                positions.iter().for_each(|(from, to)| self.settle(*from, *to));
            }
            Record::GapPublished(id) => self.gaps.remove(id),
            Record::Restamped(stamp, ranges) => {
                let mut unsettled = Vec::new();
                for (from, to) in ranges {
                    self.for_each(*from, *to, |segment, range| {
                        let there = |index: &usize| segment.states[*index] & (PRESENT | SETTLED) == PRESENT;
                        unsettled.extend(range.filter(there).map(|index| segment.first + index as u64));
                    });
                }
                self.stamps.extend(unsettled.into_iter().map(|position| (position, *stamp)));
            }
        }
    }

    /// The forwarder has let go of a position.
    pub fn release(&mut self, position: u64) {
        self.set(position, position, REPLAYED | WANTED);
    }

    /// Everything that is there and not settled is to be read: nobody holds it. Says how much that is.
    pub fn want_all(&mut self, before: u64) -> usize {
        let mut wanted = 0;
        for segment in &mut self.segments {
            let count = (before.saturating_sub(segment.first) as usize).min(segment.states.len());
            for state in &mut segment.states[..count] {
                if *state & (PRESENT | SETTLED) == PRESENT {
                    *state |= WANTED;
                    wanted += 1;
                }
            }
        }
        wanted
    }

    /// Is it to be read?
    pub fn is_wanted(&self, position: u64) -> bool {
        self.state(position) & (PRESENT | SETTLED | WANTED) == PRESENT | WANTED
    }

    /// Is it there, and not settled?
    pub fn is_unsettled(&self, position: u64) -> bool {
        self.state(position) & (PRESENT | SETTLED) == PRESENT
    }

    /// Is it there, or did something say that it's delivered or given up?
    pub fn is_known(&self, position: u64) -> bool {
        self.state(position) & (PRESENT | SETTLED) != 0
    }

    /// Is this the segment whose copy counts?
    pub fn has_copy(&self, number: u64, position: u64) -> bool {
        let decides = || self.deciding(position).map(|segment| segment.number);
        self.strays.get(&position).copied().or_else(decides) == Some(number)
    }

    /// Has this segment copies of which others decide?
    pub fn has_strays(&self, number: u64) -> bool {
        self.strays.values().any(|has| *has == number)
    }

    /// So many of the oldest segments can only be given up together: one decides of what another has.
    pub fn oldest_together(&self) -> usize {
        let mut count = 1;
        while let Some(next) = self.segments.get(count)
            && self.strays.iter().any(|(position, number)| *position >= next.first && *number < next.number)
        {
            count += 1;
        }
        count
    }

    /// A message may not be on the disk after all: it's to be written again.
    pub fn unwritten(&mut self, position: u64) {
        let Some(segment) = self.index_of(position).and_then(|index| self.segments.get_mut(index)) else {
            return;
        };
        let Some(state) = segment.states.get_mut((position - segment.first) as usize) else { return };
        segment.unsettled -= usize::from(*state & (PRESENT | SETTLED) == PRESENT);
        *state &= !PRESENT;
    }

    /// How it is sent.
    pub fn marks(&self, position: u64) -> Marks {
        let replayed = self.state(position) & REPLAYED != 0;
        let late_ms = self.late.get(&position).copied().filter(|_| !replayed);
        Marks { replayed, late_ms, stamp: self.stamps.get(&position).copied() }
    }

    /// The first position from `position` on that is to be read, and its segment's number.
    pub fn next_wanted(&self, position: u64) -> Option<(u64, u64)> {
        let from = self.segments.partition_point(|segment| segment.end() <= position);
        self.segments.range(from..).find_map(|segment| {
            let skip = position.saturating_sub(segment.first) as usize;
            let states = segment.states.get(skip..)?;
            let wanted = |state: &u8| *state & (PRESENT | SETTLED | WANTED) == PRESENT | WANTED;
            let index = states.iter().position(wanted)?;
            let position = segment.first + (skip + index) as u64;
            Some((position, self.strays.get(&position).copied().unwrap_or(segment.number)))
        })
    }

    /// Messages that are there and not settled.
    pub fn unsettled(&self) -> usize {
        self.segments.iter().map(|segment| segment.unsettled).sum()
    }

    fn settle(&mut self, from: u64, to: u64) {
        self.for_each(from, to, |segment, range| {
            let mut settled = 0;
            for state in &mut segment.states[range] {
                settled += usize::from(*state & (PRESENT | SETTLED) == PRESENT);
                *state |= SETTLED;
            }
            segment.unsettled -= settled;
        });
        drop_range(&mut self.late, from, to);
        drop_range(&mut self.stamps, from, to);
        drop_range(&mut self.strays, from, to);
    }

    fn set(&mut self, from: u64, to: u64, bits: u8) {
        self.for_each(from, to, |segment, range| {
            segment.states[range].iter_mut().for_each(|state| *state |= bits)
        });
    }

    /// Runs over the known part of a range of positions.
    fn for_each(&mut self, from: u64, to: u64, mut act: impl FnMut(&mut Segment, std::ops::Range<usize>)) {
        let first = self.segments.partition_point(|segment| segment.end() <= from);
        for segment in self.segments.range_mut(first..).take_while(|segment| segment.first <= to) {
            let start = from.saturating_sub(segment.first) as usize;
            let end = (to.saturating_sub(segment.first) as usize).saturating_add(1).min(segment.states.len());
            if start < end {
                act(segment, start..end);
            }
        }
    }

    fn state(&self, position: u64) -> u8 {
        let state = |segment: &Segment| segment.states.get((position - segment.first) as usize).copied();
        self.deciding(position).and_then(state).unwrap_or(0)
    }

    /// The segment that decides of a position.
    fn deciding(&self, position: u64) -> Option<&Segment> {
        self.segments.get(self.index_of(position)?)
    }

    fn index_of(&self, position: u64) -> Option<usize> {
        self.segments.partition_point(|segment| segment.first <= position).checked_sub(1)
    }
}

fn drop_range<T>(of: &mut BTreeMap<u64, T>, from: u64, to: u64) {
    if !of.is_empty() {
        let behind = of.split_off(&from);
        of.extend(behind.into_iter().filter(|(position, _)| *position > to));
    }
}
