//! What became of each position. Pure.
//!
//! A byte per position, by segment: a day of messages is a megabyte.

use std::collections::{BTreeMap, VecDeque};

use super::format::Record;
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
            segment.states = last.states.split_off((first.saturating_sub(last.first)) as usize);
            // What is written again is present again when it's written.
            segment.states.iter_mut().for_each(|state| *state &= !PRESENT);
            last.unsettled =
                last.states.iter().filter(|state| **state & (PRESENT | SETTLED) == PRESENT).count();
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

    /// Bytes of all segments' files.
    pub fn bytes(&self) -> u64 {
        self.segments.iter().map(|segment| segment.bytes).sum()
    }

    /// The oldest segment is gone.
    pub fn forget_oldest(&mut self) -> Option<Segment> {
        let gone = self.segments.pop_front()?;
        self.late = self.late.split_off(&gone.end());
        self.stamps = self.stamps.split_off(&gone.end());
        Some(gone)
    }

    /// Takes note of a record. `number` is that of the segment that it's in.
    pub fn note(&mut self, record: &Record, number: u64) {
        match record {
            Record::Message(stored) => {
                let Some(segment) = self.segment(stored.position).filter(|segment| segment.number == number)
                else {
                    return;
                };
                let index = (stored.position - segment.first) as usize;
                if segment.states.len() <= index {
                    segment.states.resize(index + 1, 0);
                }
                let state = &mut segment.states[index];
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

    /// Did something say that it's delivered or given up?
    pub fn is_settled(&self, position: u64) -> bool {
        self.state(position) & SETTLED != 0
    }

    /// Does this segment decide of it?
    pub fn is_of(&self, position: u64, number: u64) -> bool {
        let index = self.segments.partition_point(|segment| segment.first <= position);
        index.checked_sub(1).and_then(|index| self.segments.get(index)).is_some_and(|s| s.number == number)
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
            Some((segment.first + (skip + index) as u64, segment.number))
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
        let index = self.segments.partition_point(|segment| segment.first <= position);
        let segment = index.checked_sub(1).and_then(|index| self.segments.get(index));
        segment.and_then(|s| s.states.get((position - s.first) as usize)).copied().unwrap_or(0)
    }

    /// The segment that decides of a position.
    fn segment(&mut self, position: u64) -> Option<&mut Segment> {
        let index = self.segments.partition_point(|segment| segment.first <= position);
        self.segments.get_mut(index.checked_sub(1)?)
    }
}

fn drop_range<T>(of: &mut BTreeMap<u64, T>, from: u64, to: u64) {
    if !of.is_empty() {
        let behind = of.split_off(&from);
        of.extend(behind.into_iter().filter(|(position, _)| *position > to));
    }
}
