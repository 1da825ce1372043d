//! What is found at the start.

use super::*;
use crate::store::ledger::Segment;

/// A segment that is being read through at the start.
pub(super) struct Through<F> {
    reader: Reader<F>,
    /// Records of unknown kinds.
    unknown: u32,
    /// Behind the last record that says something.
    end: u64,
}

impl<D: Disk> Log<D> {
    /// A segment that is there. Says the epoch that it was begun in.
    pub(super) fn found(&mut self, number: u64) -> Result<Option<u64>, StoreError> {
        let name = format::name(number);
        let file = self.disk.open(&name)?;
        let size = file.size()?;
        let (first, epoch) = match header(&file) {
            Ok(Ok(header)) if header.number == number => (Some(header.first), Some(header.epoch)),
            Ok(Err(NoHeader::Version(version))) => return Err(StoreError::Version { file: name, version }),
            _ => {
                tracing::warn!(file = name, "the header of a segment is damaged");
                (None, None)
            }
        };
        // Records carry their position: without a header the first one tells.
        let first = first.or_else(|| first_position(file, number)).unwrap_or(self.next).max(self.next);
        self.next = first;
        self.ledger.begin(number, first, size);
        self.unread.push_back(number);
        Ok(epoch)
    }

    /// Above the highest position: it's in the last segment that has any, or in one before it some of which was to be written again.
    pub(super) fn highest(&self) -> u64 {
        let mut next = 0;
        let mut first = u64::MAX;
        for segment in self.ledger.segments().iter().rev() {
            let end = self.end_of(segment);
            if end.is_some_and(|end| end <= first) && next > 0 {
                break;
            }
            next = next.max(end.unwrap_or(0));
            first = first.min(segment.first);
        }
        next
    }

    /// Above the highest position that a segment has, or may have where the disk does not yield it.
    fn end_of(&self, segment: &Segment) -> Option<u64> {
        let most = segment.first.saturating_add(MOST_POSITIONS);
        let file = self.disk.open(&format::name(segment.number));
        let Ok(mut reader) = file.and_then(|file| Reader::new(file, segment.number)) else {
            return Some(most);
        };
        let mut highest = None;
        while let Some(found) = reader.next() {
            highest = highest.max(peek_position(found.body));
        }
        if reader.unreadable() > 0 { Some(most) } else { highest.map(|highest| highest.saturating_add(1)) }
    }

    /// Is there more to read before [`Event::Recovered`]?
    pub fn is_recovering(&self) -> bool {
        !self.unread.is_empty()
    }

    /// There is nothing from before.
    pub fn nothing_to_recover(&mut self) {
        self.events.push(Event::Recovered { messages: 0, gaps: Vec::new() });
    }

    /// Reads the next segment through, or what is left of it where the disk has refused to yield it.
    pub fn recover_one(&mut self, now: Instant) {
        let Some(number) = self.unread.front().copied() else { return };
        while let Err(error) = self.read_through(number) {
            if self.is_read_again(&error, now) {
                return;
            }
            match &mut self.through {
                Some(through) => through.reader.skip_block(),
                None => {
                    tracing::warn!(segment = number, %error, "a segment can't be opened");
                    break;
                }
            }
        }
        self.through = None;
        self.unread.pop_front();
        if self.unread.is_empty() {
            self.recovered();
        }
    }

    fn read_through(&mut self, number: u64) -> io::Result<()> {
        let mut through = match self.through.take() {
            Some(through) => through,
            None => {
                let file = self.disk.open(&format::name(number))?;
                Through { reader: Reader::new(file, number)?, unknown: 0, end: 0 }
            }
        };
        loop {
            let found = match through.reader.try_next() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(error) => {
                    self.through = Some(through);
                    return Err(error);
                }
            };
            self.was_read();
            let Some(record) = Record::decode(found.body) else {
                through.unknown += 1;
                continue;
            };
            if let Record::Message(stored) = &record {
                self.holes.pass(stored);
            }
            self.ledger.note(&record, number);
            through.end = through.reader.offset();
        }
        let Through { reader, unknown, end } = through;
        let unreadable = reader.unreadable();
        if unknown == 0 && unreadable == 0 {
            self.cut_off(number, end);
        }
        if unknown > 0 || unreadable > 0 {
            tracing::warn!(segment = number, unknown, unreadable, "parts of the store can't be read");
        }
        Ok(())
    }

    /// A run's last segment is mostly empty: a gateway that starts again and again in an outage would fill the store with such.
    fn cut_off(&mut self, number: u64, end: u64) {
        let bytes = end.max(1).next_multiple_of(BLOCK as u64);
        let is_longer =
            self.ledger.segments().iter().any(|segment| segment.number == number && segment.bytes > bytes);
        if is_longer && self.disk.truncate(&format::name(number), bytes).is_ok() {
            self.ledger.resized(number, bytes);
        }
    }

    fn recovered(&mut self) {
        let ledger = &self.ledger;
        // What is known from elsewhere is no loss. The search ends at the first position that is not.
        let costs = |from, to| (from..=to).any(|position| !ledger.is_known(position));
        let missing = self.holes.missing(costs);
        if !missing.is_empty() {
            tracing::warn!(gaps = missing.len(), "the store was damaged; what it lost is reported as gaps");
        }
        missing.into_iter().for_each(|gap| self.ledger.gaps.add(gap));
        let gaps: Vec<Gap> = self.ledger.gaps.iter().collect();
        // This run's segment was begun before they were known. Older segments go only once they are synced in it.
        self.pending.extend(gaps.iter().map(|gap| Record::GivenUp(Vec::new(), gap.clone())));
        let messages = self.ledger.want_all(self.run);
        self.events.push(Event::Recovered { messages, gaps });
    }
}

fn first_position<F: DiskFile>(file: F, number: u64) -> Option<u64> {
    let mut reader = Reader::new(file, number).ok()?;
    while let Some(found) = reader.next() {
        if let Some(position) = peek_position(found.body) {
            return Some(position);
        }
    }
    None
}

/// A message's position, without reading the rest of it.
pub(super) fn peek_position(body: &[u8]) -> Option<u64> {
    let (kind, rest) = body.split_first()?;
    match kind {
        1 => format::position_of(&mut &*rest),
        7 => format::position_of(&mut rest.get(16..)?),
        _ => None,
    }
}
