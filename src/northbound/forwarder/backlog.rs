//! What missed its time and waits in memory to be replayed: oldest first.

use std::collections::BTreeMap;

use super::entry::{Entry, Place};

/// Messages by their place, which for each device is the order of its sequence numbers.
#[derive(Debug, Default)]
pub(super) struct Backlog {
    entries: BTreeMap<Place, Entry>,
    bytes: usize,
}

impl Backlog {
    /// Takes a message in.
    pub fn push(&mut self, entry: Entry) {
        self.bytes += entry.bytes();
        self.entries.insert(entry.place, entry);
    }

    /// The oldest message.
    pub fn pop(&mut self) -> Option<Entry> {
        let (_, entry) = self.entries.pop_first()?;
        self.bytes -= entry.bytes();
        Some(entry)
    }

    /// The oldest message's place.
    pub fn first(&self) -> Option<Place> {
        self.entries.first_key_value().map(|(place, _)| *place)
    }

    /// Takes messages out that lie in a range of positions and of which this is true.
    pub fn take(
        &mut self,
        positions: std::ops::Range<u64>,
        mut goes: impl FnMut(&Entry) -> bool,
    ) -> Vec<Entry> {
        let range = self.entries.range(Place::before(positions.start)..Place::before(positions.end));
        let places: Vec<Place> = range.filter(|(_, entry)| goes(entry)).map(|(place, _)| *place).collect();
        let taken: Vec<Entry> = places.iter().filter_map(|place| self.entries.remove(place)).collect();
        self.bytes -= taken.iter().map(Entry::bytes).sum::<usize>();
        taken
    }

    /// All of them, oldest first.
    pub fn iter(&self) -> impl Iterator<Item = &Entry> {
        self.entries.values()
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
