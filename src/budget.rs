//! Latency budgets: how late a value may be, what happens then, and the queue that sends the most urgent first.
//!
//! A budget is the longest time between the request leaving for a device and the broker's PUBACK for the message
//! that carries its values. Expired means `now >= deadline`, everywhere. Pure: every function takes `now`.

use std::collections::BTreeMap;
use std::fmt;
use std::time::Duration;

use tokio::time::Instant;

/// The budget of a device that declares none.
pub const DEFAULT_BUDGET: Duration = Duration::from_secs(1);

/// A device's declared budget.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Budget {
    /// From the request on the wire to the PUBACK.
    pub within: Duration,
    /// What happens to a value that misses it.
    pub late: OnLate,
}

impl Default for Budget {
    fn default() -> Self {
        Self { within: DEFAULT_BUDGET, late: OnLate::Deliver }
    }
}

/// What happens to a message whose deadline has passed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum OnLate {
    /// It is sent, marked with `late_ms`.
    #[default]
    Deliver,
    /// It is never sent late; a gap record accounts for it.
    Drop,
    /// It joins the backlog, so that fresh data overtakes it.
    Store,
}

/// Where a message's time went.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Stage {
    /// From the request to the last byte of the answer.
    Bus,
    /// Mapping and encoding.
    Map,
    /// Waiting for the link, or for room in the window.
    Queue,
    /// From the publish to the PUBACK.
    Broker,
}

impl Stage {
    /// All stages, in the order that a value passes them.
    pub const ALL: [Self; 4] = [Self::Bus, Self::Map, Self::Queue, Self::Broker];

    /// The stage's name in metrics and messages.
    pub fn name(self) -> &'static str {
        match self {
            Self::Bus => "bus",
            Self::Map => "map",
            Self::Queue => "queue",
            Self::Broker => "broker",
        }
    }
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

/// The time that each stage took, in the order of [`Stage::ALL`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Spent(pub [Duration; 4]);

impl Spent {
    /// The stage that took the longest: the one to blame for a violation.
    pub fn culprit(&self) -> Stage {
        let longest = (0..4).max_by_key(|i| (self.0[*i], std::cmp::Reverse(*i))).unwrap_or(0);
        Stage::ALL[longest]
    }

    /// All stages together.
    pub fn total(&self) -> Duration {
        self.0.iter().sum()
    }
}

/// Has the deadline passed?
pub fn expired(deadline: Instant, now: Instant) -> bool {
    now >= deadline
}

/// A queue that gives the item with the earliest deadline first; equal deadlines in order of arrival.
#[derive(Debug)]
pub struct DeadlineQueue<T> {
    items: BTreeMap<(Instant, u64), T>,
    arrivals: u64,
}

impl<T> Default for DeadlineQueue<T> {
    fn default() -> Self {
        Self { items: BTreeMap::new(), arrivals: 0 }
    }
}

impl<T> DeadlineQueue<T> {
    /// Admits an item.
    pub fn push(&mut self, deadline: Instant, item: T) {
        self.items.insert((deadline, self.arrivals), item);
        self.arrivals += 1;
    }

    /// Takes the most urgent item.
    pub fn pop(&mut self) -> Option<(Instant, T)> {
        self.items.pop_first().map(|((deadline, _), item)| (deadline, item))
    }

    /// Looks at the most urgent item.
    pub fn peek(&self) -> Option<(Instant, &T)> {
        self.items.first_key_value().map(|((deadline, _), item)| (*deadline, item))
    }

    /// Takes the most urgent item if its deadline has passed.
    pub fn pop_expired(&mut self, now: Instant) -> Option<(Instant, T)> {
        self.next_deadline().filter(|deadline| expired(*deadline, now))?;
        self.pop()
    }

    /// Takes the least urgent item: what is given up first under pressure.
    pub fn pop_least_urgent(&mut self) -> Option<(Instant, T)> {
        self.items.pop_last().map(|((deadline, _), item)| (deadline, item))
    }

    /// The earliest deadline.
    pub fn next_deadline(&self) -> Option<Instant> {
        self.items.first_key_value().map(|((deadline, _), _)| *deadline)
    }

    /// All of them, the most urgent first.
    pub fn iter(&self) -> impl Iterator<Item = &T> {
        self.items.values()
    }

    /// How many items wait.
    pub fn len(&self) -> usize {
        self.items.len()
    }

    /// Does none wait?
    pub fn is_empty(&self) -> bool {
        self.items.is_empty()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn the_longest_stage_is_to_blame() {
        let ms = Duration::from_millis;
        assert_eq!(Spent([ms(5), ms(1), ms(30), ms(2)]).culprit(), Stage::Queue);
        assert_eq!(Spent([ms(5), ms(0), ms(5), ms(2)]).culprit(), Stage::Bus);
    }

    proptest! {
        #[test]
        fn items_leave_by_deadline_and_then_by_arrival(deadlines in prop::collection::vec(0u64..20, 0..100)) {
            let start = Instant::now();
            let mut queue = DeadlineQueue::default();
            for (arrival, ms) in deadlines.iter().enumerate() {
                queue.push(start + Duration::from_millis(*ms), arrival);
            }
            let mut expected: Vec<_> = deadlines.iter().copied().enumerate().map(|(i, ms)| (ms, i)).collect();
            expected.sort_unstable();
            let left: Vec<_> = std::iter::from_fn(|| queue.pop()).map(|(_, i)| (deadlines[i], i)).collect();
            prop_assert_eq!(left, expected);
        }

        #[test]
        fn only_what_is_expired_is_popped_as_expired(deadlines in prop::collection::vec(0u64..20, 0..50), now in 0u64..20) {
            let start = Instant::now();
            let mut queue = DeadlineQueue::default();
            for ms in &deadlines {
                queue.push(start + Duration::from_millis(*ms), *ms);
            }
            let now_at = start + Duration::from_millis(now);
            let popped = std::iter::from_fn(|| queue.pop_expired(now_at)).count();
            prop_assert_eq!(popped, deadlines.iter().filter(|ms| **ms <= now).count());
            prop_assert_eq!(queue.len(), deadlines.len() - popped);
        }
    }
}
