//! Making room: the oldest segment goes, and a gap record for each of its messages stays.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::*;
use crate::model::gaps::GapId;
use crate::store::Stored;
use crate::store::ledger::Segment;

/// Ranges of positions, ascending.
type Ranges = Vec<(u64, u64)>;

/// What waits of a segment.
struct Unsettled {
    /// As gaps, with the positions that they settle.
    named: Vec<(Ranges, Gap)>,
    /// How many messages of that would be read.
    wanted: usize,
    /// Positions that the disk no longer yields.
    unread: Vec<u64>,
}

impl<D: Disk> Log<D> {
    /// Asks the forwarder to let go of what it has of the oldest segment.
    pub(super) fn ask_to_shed(&mut self, reason: &'static str) {
        // The current one has to stay, and one that is not read through has not told what of it is settled.
        if self.shedding.is_some() || self.ledger.segments().len() < 2 || self.is_recovering() {
            return;
        }
        let Some(next) = self.ledger.segments().get(self.ledger.oldest_together()) else { return };
        let Some(upto) = next.first.checked_sub(1) else { return };
        self.shedding = Some((upto, reason));
        self.events.push(Event::Shed { upto, reason });
    }

    /// The forwarder has let go.
    pub(super) fn shed(&mut self, upto: u64) {
        let Some((_, reason)) = self.shedding.filter(|(asked, _)| *asked == upto) else { return };
        let oldest = self.ledger.segments().iter().filter(|segment| segment.first <= upto);
        let oldest: Vec<u64> =
            oldest.map(|segment| segment.number).filter(|number| *number != self.number).collect();
        if oldest.is_empty() {
            self.shedding = None;
            return;
        }
        let (mut given_up, mut wanted) = (Vec::new(), 0);
        let (mut gaps, mut messages) = (Vec::new(), 0);
        for number in &oldest {
            let unsettled = match self.unsettled_of(*number, false) {
                // Which messages they are can't be told now. `tidy` asks again.
                Err(error) if self.is_read_again(&error, Instant::now()) => {
                    self.shedding = None;
                    return;
                }
                Err(_) => self.unsettled_of(*number, true),
                unsettled => unsettled,
            };
            let Ok(Unsettled { named, wanted: read, unread }) = unsettled else { continue };
            given_up.extend(named);
            wanted += read;
            if !unread.is_empty() {
                gaps.extend(self.give_up_unread(*number, &unread));
            }
        }
        // They must not be handed out any more. That they are settled counts once it's written, as ever: the segment goes by it.
        self.read_from = self.read_from.max(upto + 1);
        for (positions, gap) in given_up {
            let gap = Gap { reason: reason.into(), ..gap };
            messages += gap.id.to - gap.id.from + 1;
            gaps.push(gap.clone());
            self.pending.push_back(Record::GivenUp(positions, gap));
        }
        tracing::warn!(reason, messages, "the oldest messages of the store are given up");
        if !gaps.is_empty() {
            self.events.push(Event::GivenUp { gaps, messages: wanted });
        }
        // `tidy` removes them once that is durable; if a disk is so full that not even these records have room, at once.
        if self.failing.is_some() || self.current.is_none() {
            self.is_overdrawn = true;
            let written = self.write().and_then(|()| self.sync());
            self.is_overdrawn = false;
            if let Err(error) = written {
                self.seal();
                if error.kind() == io::ErrorKind::StorageFull {
                    let given_up = self.pending.iter().filter(|record| position(record).is_none());
                    given_up.for_each(|record| self.ledger.note(record, self.number));
                    oldest.iter().for_each(|_| drop(self.remove_oldest()));
                }
            }
            if let Some((_, at)) = &mut self.failing {
                *at = Instant::now();
            }
        }
    }

    /// What waits of a segment. Fails where the disk does not yield it, or passes that over.
    fn unsettled_of(&self, number: u64, passes_over: bool) -> io::Result<Unsettled> {
        let (mut done, mut wanted) = (Vec::new(), 0);
        let mut open: HashMap<(Arc<str>, u64), (Ranges, Gap)> = HashMap::new();
        let mut reader = Reader::new(self.disk.open(&format::name(number))?, number)?;
        let mut unread: BTreeSet<u64> = self.ledger.unsettled_in(number).collect();
        // What was told before this counts, written or not.
        let told = self.settled_by_pending();
        loop {
            let found = match reader.try_next() {
                Ok(Some(found)) => found,
                Ok(None) => break,
                Err(_) if passes_over => {
                    reader.skip_block();
                    continue;
                }
                Err(error) => return Err(error),
            };
            let Some(Record::Message(stored)) = Record::decode(found.body) else { continue };
            let Stored { position, epoch, seq, device, topic, .. } = stored;
            unread.remove(&position);
            let is_copy = !self.ledger.has_copy(number, position);
            if is_copy || told.contains(&position) || !self.ledger.is_unsettled(position) {
                continue;
            }
            wanted += usize::from(self.ledger.is_wanted(position) && position >= self.read_from);
            let key = (Arc::clone(&device), epoch);
            if let Some((positions, gap)) = open.get_mut(&key)
                && gap.id.to + 1 == seq
                && positions.len() < MOST_RANGES
            {
                gap.id.to = seq;
                match positions.last_mut() {
                    Some((_, to)) if *to + 1 == position => *to = position,
                    _ => positions.push((position, position)),
                }
                continue;
            }
            let id = GapId { epoch, device, from: seq, to: seq };
            let gap = Gap { id, topic, reason: "store full".into() };
            done.extend(open.insert(key, (vec![(position, position)], gap)));
        }
        done.extend(open.into_values());
        // A map has no order of its own.
        done.sort_by(|(a, _), (b, _)| a.cmp(b));
        unread.retain(|position| !told.contains(position));
        Ok(Unsettled { named: done, wanted, unread: unread.into_iter().collect() })
    }

    fn settled_by_pending(&self) -> HashSet<u64> {
        let ranges = self.pending.iter().flat_map(|record| match record {
            Record::Settled(ranges) | Record::GivenUp(ranges, _) => &ranges[..],
            _ => &[],
        });
        ranges.flat_map(|(from, to)| *from..=*to).collect()
    }
}

/// For how many milliseconds the newest message of a segment has been there, as far as that can be told: a clock that is wrong, or was
/// in an earlier boot, does not tell.
pub(super) fn age(segment: &Segment) -> Option<i64> {
    let known = segment.newest.filter(|_| clock::believed().is_some());
    let by_clock = known.map(|at| clock::steady_millis().saturating_sub(at));
    let of_this_boot = segment.newest_doubted.filter(|(_, standing)| standing.boot == clock::boot());
    let by_uptime = of_this_boot
        .map(|(at, standing)| clock::uptime_millis().saturating_sub(at.saturating_sub(standing.ahead)));
    by_clock.into_iter().chain(by_uptime).min()
}
