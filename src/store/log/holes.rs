//! What damage has cost: sequence numbers between messages around a hole. Pure.

use std::collections::HashMap;
use std::sync::Arc;

use crate::model::gaps::{Gap, GapId};
use crate::store::Stored;

/// Holes are told apart up to this many; more of them count as one.
const MOST_HOLES: usize = 4096;

/// Watches messages go by in order, and remembers what is missing between them where there was damage.
#[derive(Debug, Default)]
pub(super) struct Holes {
    last: HashMap<(Arc<str>, u64), (u64, u64)>,
    /// Behind the highest position that went by.
    next: Option<u64>,
    /// Positions that damage may have cost: from the first that is missing to the last.
    holes: Vec<(u64, u64)>,
    suspects: Vec<(u64, u64, Gap)>,
}

impl Holes {
    /// The next message. Positions have no holes but those that damage makes.
    pub fn pass(&mut self, stored: &Stored) {
        let position = stored.position;
        if let Some(next) = self.next
            && position > next
        {
            if self.holes.len() < MOST_HOLES {
                self.holes.push((next, position - 1));
            } else if let Some((_, end)) = self.holes.last_mut() {
                *end = position - 1;
            }
        }
        self.next = self.next.max(Some(position + 1));
        let key = (Arc::clone(&stored.device), stored.epoch);
        let last = self.last.entry(key).or_insert((stored.seq, position));
        let (seq, then) = *last;
        if position < then {
            // A copy: it was to be written again.
            return;
        }
        *last = (stored.seq, position);
        if then < position
            && stored.seq.saturating_sub(seq) > 1
            && self.holes.iter().rev().take_while(|(_, end)| *end > then).any(|(from, _)| *from < position)
        {
            let id = GapId {
                epoch: stored.epoch,
                device: Arc::clone(&stored.device),
                from: seq + 1,
                to: stored.seq - 1,
            };
            let gap = Gap { id, topic: Arc::clone(&stored.topic), reason: "store damaged".into() };
            self.suspects.push((then + 1, position - 1, gap));
        }
    }

    /// Everything went by. What is missing where a hole, from one position to another, is one that costs something.
    pub fn missing(&mut self, costs: impl Fn(u64, u64) -> bool) -> Vec<Gap> {
        let holes = std::mem::take(&mut self.holes);
        let harmful: Vec<_> = holes.into_iter().filter(|(from, to)| costs(*from, *to)).collect();
        let suspects = std::mem::take(&mut self.suspects).into_iter();
        let is_harmed = |(from, to): (u64, u64)| harmful.iter().any(|hole| hole.0 <= to && hole.1 >= from);
        self.last.clear();
        suspects.filter(|(from, to, _)| is_harmed((*from, *to))).map(|(_, _, gap)| gap).collect()
    }
}
