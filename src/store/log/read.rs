//! Handing out what waits.

use super::recover::peek_position;
use super::*;
use crate::store::{Marks, PENDING_OVERHEAD, Stored};

impl<D: Disk> Log<D> {
    /// Hands out what is next. If that's nothing because it's to be written again first, or because the disk does not yield it, it's
    /// handed out then.
    pub(super) fn answer(&mut self, most: usize, now: Instant) {
        let (messages, end) = self.read(most, now);
        if messages.is_empty() && (self.failing.is_some() || !self.may_read(now)) {
            self.to_read = Some(most);
        } else {
            self.events.push(Event::Block { messages, end });
        }
    }

    /// About `most` bytes of what is to be read, in order.
    fn read(&mut self, most: usize, now: Instant) -> (Vec<(Stored, Marks)>, u64) {
        let mut messages = Vec::new();
        let mut bytes = 0;
        if let Some((_, reader)) = &mut self.reading {
            // Since the last time there may have been written into what it has buffered.
            reader.forget();
        }
        while bytes < most
            && let Some((position, number)) = self.ledger.next_wanted(self.read_from)
        {
            let stored = match self.read_one(number) {
                Ok(stored) => stored,
                Err(error) if self.is_read_again(&error, now) => break,
                Err(_) => match &mut self.reading {
                    Some((_, reader)) => {
                        reader.skip_block();
                        continue;
                    }
                    None => None,
                },
            };
            let end = stored.as_ref().map_or(u64::MAX, |stored| stored.position);
            if end > position {
                self.lost(position, end, number);
                if self.ledger.next_wanted(self.read_from).is_some_and(|(position, _)| position < end) {
                    // Another segment has it.
                    self.reading = None;
                    continue;
                }
            }
            match stored {
                Some(stored) => {
                    self.was_read();
                    self.read_from = stored.position + 1;
                    bytes += stored.payload.len() + PENDING_OVERHEAD;
                    let marks = self.ledger.marks(stored.position);
                    messages.push((stored, marks));
                }
                None => self.reading = None,
            }
        }
        (messages, self.read_from)
    }

    /// The next message of a segment that is to be read.
    fn read_one(&mut self, number: u64) -> io::Result<Option<Stored>> {
        if self.reading.as_ref().is_none_or(|(reading, _)| *reading != number) {
            self.reading = None;
            let file = self.disk.open(&format::name(number))?;
            self.reading = Some((number, Reader::new(file, number)?));
        }
        let Some((_, reader)) = &mut self.reading else { return Ok(None) };
        // What is behind the end by now was not there when the end was met.
        let end = self.current.as_ref().filter(|_| number == self.number).map(|current| current.offset);
        while end.is_none_or(|end| reader.offset() < end)
            && let Some(found) = reader.try_next()?
        {
            let wanted = peek_position(found.body)
                .is_some_and(|position| position >= self.read_from && self.ledger.is_wanted(position));
            if wanted && let Some(Record::Message(stored)) = Record::decode(found.body) {
                return Ok(Some(stored));
            }
        }
        Ok(None)
    }

    /// A segment no longer has what it had from here to there: what of it is still wanted is given up.
    fn lost(&mut self, from: u64, end: u64, number: u64) {
        let mut lost = Vec::new();
        let mut at = from;
        while let Some((position, _)) =
            self.ledger.next_wanted(at).filter(|(position, other)| *other == number && *position < end)
        {
            lost.push(position);
            at = position + 1;
        }
        let gaps = self.give_up_unread(number, &lost);
        self.read_from = self.read_from.max(at);
        self.events.push(Event::GivenUp { gaps, messages: lost.len() });
    }

    /// The disk no longer yields these positions of a segment.
    pub(super) fn give_up_unread(&mut self, number: u64, lost: &[u64]) -> Vec<Gap> {
        tracing::error!(segment = number, messages = lost.len(), "the disk does not yield what was written");
        for position in lost {
            // In memory only: should the gap records not become durable, the hole tells of them again at the next start.
            self.ledger.note(&Record::Settled(vec![(*position, *position)]), number);
        }
        let gaps = self.around(number, lost);
        for gap in &gaps {
            self.pending.push_back(Record::GivenUp(Vec::new(), gap.clone()));
        }
        gaps
    }

    /// The sequence numbers of lost positions, as far as the messages around them tell.
    fn around(&self, number: u64, lost: &[u64]) -> Vec<Gap> {
        let mut holes = Holes::default();
        let place = self.ledger.segments().iter().position(|segment| segment.number == number).unwrap_or(0);
        let around = self.ledger.segments().iter().skip(place.saturating_sub(1)).take(3);
        for segment in around {
            let file = self.disk.open(&format::name(segment.number));
            let Ok(mut reader) = file.and_then(|file| Reader::new(file, segment.number)) else { continue };
            while let Some(found) = reader.next() {
                if let Some(Record::Message(stored)) = Record::decode(found.body) {
                    holes.pass(&stored);
                }
            }
        }
        holes.missing(|from, to| {
            let first = lost.partition_point(|position| *position < from);
            lost.get(first).is_some_and(|position| *position <= to)
        })
    }
}
