//! What missed its time and waits to be replayed: oldest first.

use std::collections::BTreeMap;

use super::entry::Entry;

/// Messages by admission, which for each device is the order of its sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: BTreeMap<u64, Entry>,
    bytes: usize,
}

impl Backlog {
    /// Takes a message in; when it leaves, it's marked as replayed.
    pub fn push(&mut self, mut entry: Entry) {
        entry.replayed = true;
        self.bytes += entry.bytes();
        self.entries.insert(entry.id, entry);
    }

    /// The oldest message.
    pub fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.entries.pop_first()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// How many wait.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Bytes that they keep in memory.
    pub fn bytes(&self) -> usize {
        self.bytes
    }
}
