//! Making room: the oldest segment goes, and a gap record for each of its messages stays.

use super::*;
use crate::model::gaps::{GapId, Gaps};

impl<D: Disk> Log<D> {
    /// Asks the forwarder to let go of what it has of the oldest segment.
    pub(super) fn ask_to_shed(&mut self, reason: &'static str) {
        // The current one has to stay, and one that is not read through has not told what of it is settled.
        if self.shedding.is_some() || self.ledger.segments().len() < 2 || self.is_recovering() {
            return;
        }
        let Some(next) = self.ledger.segments().get(1) else { return };
        let Some(upto) = next.first.checked_sub(1) else { return };
        self.shedding = Some((upto, reason));
        self.events.push(Event::Shed { upto, reason });
    }

    /// The forwarder has let go.
    pub(super) fn shed(&mut self, upto: u64) {
        let Some((_, reason)) = self.shedding.filter(|(asked, _)| *asked == upto) else { return };
        let oldest = match self.ledger.segments().front() {
            Some(oldest) if oldest.first <= upto && oldest.number != self.number => oldest.number,
            _ => {
                self.shedding = None;
                return;
            }
        };
        // What was told before this counts, written or not: positions that are settled may be part of it.
        for record in self.pending.iter().filter(|record| !matches!(record, Record::Message(_))) {
            self.ledger.note(record, self.number);
        }
        let (gaps, ranges, wanted) = self.unsettled_of(oldest);
        for range in ranges.chunks(MOST_RANGES) {
            let settled = Record::Settled(range.to_vec());
            // At once: they must not be handed out any more.
            self.ledger.note(&settled, oldest);
            self.pending.push_back(settled);
        }
        let gaps: Vec<Gap> = gaps
            .iter()
            .map(|gap| Gap { reason: reason.into(), ..gap })
            .inspect(|gap| self.pending.push_back(Record::GivenUp(None, gap.clone())))
            .collect();
        let messages: u64 = ranges.iter().map(|(from, to)| to - from + 1).sum();
        tracing::warn!(reason, messages, "the oldest messages of the store are given up");
        if !gaps.is_empty() {
            self.events.push(Event::GivenUp { gaps, messages: wanted });
        }
        // `tidy` removes it once that is durable; with no room for even these records, at once.
        if self.failing.is_some() || self.current.is_none() {
            for record in &self.pending {
                self.ledger.note(record, self.number);
            }
            let _ = self.remove_oldest();
            if let Some((_, at)) = &mut self.failing {
                *at = Instant::now();
            }
        }
    }

    /// The sequence numbers and positions of a segment's messages that wait, and how many of them would be read.
    fn unsettled_of(&self, number: u64) -> (Gaps, Vec<(u64, u64)>, usize) {
        let (mut gaps, mut ranges, mut wanted) = (Gaps::default(), Vec::<(u64, u64)>::new(), 0);
        let file = self.disk.open(&format::name(number));
        let Ok(mut reader) = file.and_then(|file| Reader::new(file, number)) else {
            return (gaps, ranges, 0);
        };
        while let Some(found) = reader.next() {
            let Some(Record::Message(stored)) = Record::decode(found.body) else { continue };
            if !self.ledger.is_unsettled(stored.position) {
                continue;
            }
            wanted +=
                usize::from(self.ledger.is_wanted(stored.position) && stored.position >= self.read_from);
            let id = GapId { epoch: stored.epoch, device: stored.device, from: stored.seq, to: stored.seq };
            gaps.add(Gap { id, topic: stored.topic, reason: "store full".into() });
            match ranges.last_mut() {
                Some((_, to)) if *to + 1 == stored.position => *to = stored.position,
                _ => ranges.push((stored.position, stored.position)),
            }
        }
        (gaps, ranges, wanted)
    }
}
