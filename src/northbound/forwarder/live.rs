//! What can still be sent in its time, or is sent late: most urgent first.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::entry::Entry;
use crate::budget::{DeadlineQueue, OnLate, expired};

/// Bytes of live messages in memory. Beyond it the least urgent leave for the backlog. It's reached when the link is
/// up and slower than what comes in for seconds: 8 MiB are about 6,000 messages of 1 KiB.
pub const LIVE_BYTES: usize = 8 << 20;

/// Messages before their deadline, and those after it that are sent nevertheless.
#[derive(Debug, Default)]
pub(super) struct Live {
    timely: DeadlineQueue<Entry>,
    /// Those of them that must not be sent late: they wait while the far side stalls, and the others don't.
    drops: DeadlineQueue<Entry>,
    /// In order of deadline, since that's the order in which they become late. More urgent than all others.
    late: VecDeque<Entry>,
    bytes: usize,
}

impl Live {
    /// Admits a message.
    pub fn push(&mut self, deadline: Instant, entry: Entry) {
        self.bytes += entry.bytes();
        let drops = entry.sampled().is_some_and(|sampled| sampled.late == OnLate::Drop);
        let queue = if drops { &mut self.drops } else { &mut self.timely };
        queue.push(deadline, entry);
    }

    /// Keeps a message that's to be sent late.
    pub fn push_late(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.late.push_back(entry);
    }

    /// The most urgent message. One that must not be late stays where its deadline comes before `acked_by`: the
    /// earliest moment at which the far side, as it answers at present, would have acknowledged it.
    pub fn pop(&mut self, acked_by: Instant) -> Option<Entry> {
        let urgency = |(deadline, entry): (Instant, &Entry)| (deadline, entry.id);
        let drop = self.drops.peek().filter(|(deadline, _)| !expired(*deadline, acked_by)).map(urgency);
        let drop_first = match (drop, self.timely.peek().map(urgency)) {
            (Some(drop), Some(timely)) => drop < timely,
            (drop, _) => drop.is_some(),
        };
        let queue = if drop_first { &mut self.drops } else { &mut self.timely };
        let entry = self.late.pop_front().or_else(|| queue.pop().map(|(_, entry)| entry));
        self.leave(entry)
    }

    /// A message whose deadline passes.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Entry> {
        let entry = self.timely.pop_expired(now).or_else(|| self.drops.pop_expired(now));
        self.leave(entry.map(|(_, entry)| entry))
    }

    /// A message that's late already.
    pub fn pop_late(&mut self) -> Option<Entry> {
        let entry = self.late.pop_front();
        self.leave(entry)
    }

    /// The least urgent message, while there are more than fit.
    pub fn pop_surplus(&mut self) -> Option<Entry> {
        if self.bytes <= LIVE_BYTES {
            return None;
        }
        // First what can wait in the backlog.
        let least = self.timely.pop_least_urgent().or_else(|| self.drops.pop_least_urgent());
        let entry = least.map(|(_, entry)| entry).or_else(|| self.late.pop_back());
        self.leave(entry)
    }

    /// The next deadline of a message that has not missed it.
    pub fn next_deadline(&self) -> Option<Instant> {
        [self.timely.next_deadline(), self.drops.next_deadline()].into_iter().flatten().min()
    }

    /// All of them, in no order.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.timely.iter().chain(self.drops.iter()).chain(&self.late)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.timely.len() + self.drops.len() + self.late.len()
    }

    fn leave(&mut self, entry: Option<Entry>) -> Option<Entry> {
        if let Some(entry) = &entry {
            self.bytes -= entry.bytes();
        }
        entry
    }
}
