//! What can still be sent in its time, or is sent late: most urgent first.

use std::collections::VecDeque;

use tokio::time::Instant;

use super::entry::Entry;
use crate::budget::DeadlineQueue;

/// Bytes of live messages in memory. Beyond it the least urgent leave for the backlog. It's reached when the link is
/// up and slower than what comes in for seconds: 8 MiB are about 6,000 messages of 1 KiB.
pub(super) const LIVE_BYTES: usize = 8 << 20;

/// Messages before their deadline, and those after it that are sent nevertheless.
#[derive(Debug, Default)]
pub(super) struct Live {
    timely: DeadlineQueue<Entry>,
    /// In order of deadline, since that's the order in which they become late. More urgent than all of `timely`.
    late: VecDeque<Entry>,
    bytes: usize,
}

impl Live {
    /// Admits a message.
    pub fn push(&mut self, deadline: Instant, entry: Entry) {
        self.bytes += entry.bytes();
        self.timely.push(deadline, entry);
    }

    /// Keeps a message that's to be sent late.
    pub fn push_late(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.late.push_back(entry);
    }

    /// The most urgent message.
    pub fn pop(&mut self) -> Option<Entry> {
        let entry = self.late.pop_front().or_else(|| self.timely.pop().map(|(_, entry)| entry));
        self.leave(entry)
    }

    /// A message whose deadline passes.
    pub fn pop_expired(&mut self, now: Instant) -> Option<Entry> {
        let entry = self.timely.pop_expired(now).map(|(_, entry)| entry);
        self.leave(entry)
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
        let entry = self.timely.pop_least_urgent().map(|(_, entry)| entry).or_else(|| self.late.pop_back());
        self.leave(entry)
    }

    /// The next deadline of a message that has not missed it.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.timely.next_deadline()
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.timely.len() + self.late.len()
    }

    fn leave(&mut self, entry: Option<Entry>) -> Option<Entry> {
        if let Some(entry) = &entry {
            self.bytes -= entry.bytes();
        }
        entry
    }
}
