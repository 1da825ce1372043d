//! The last exchanges of each read as bytes, for people.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};
use std::time::Duration;

use tokio::time::Instant;

/// The last exchanges of a device, by read. As many as the plan has reads, each as long as its answers; buffers are used again.
#[derive(Debug, Default)]
pub struct Wire(Mutex<BTreeMap<usize, Exchanges>>);

/// What one read asked and was answered.
#[derive(Clone, Debug, Default)]
pub struct Exchanges {
    /// When the first request left, and how long it took; `None` before.
    pub when: Option<(Instant, Duration)>,
    bytes: Vec<u8>,
    lengths: Vec<(usize, usize)>,
}

impl Exchanges {
    /// One request and what it got; the answer in two parts, both empty if there was none.
    pub fn add(&mut self, request: &[u8], answer: [&[u8]; 2]) {
        self.bytes.extend_from_slice(request);
        answer.iter().for_each(|part| self.bytes.extend_from_slice(part));
        self.lengths.push((request.len(), answer.iter().map(|part| part.len()).sum()));
    }

    /// Requests and answers, in order.
    pub fn iter(&self) -> impl Iterator<Item = (&[u8], &[u8])> {
        let mut rest = &self.bytes[..];
        self.lengths.iter().map_while(move |(request, answer)| {
            let (pair, after) = rest.split_at_checked(request + answer)?;
            rest = after;
            pair.split_at_checked(*request)
        })
    }
}

impl Wire {
    /// Remembers a read's exchanges in place of its last ones.
    pub fn record(&self, read: usize, started: Instant, took: Duration, fill: impl FnOnce(&mut Exchanges)) {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let exchanges = all.entry(read).or_default();
        exchanges.when = Some((started, took));
        exchanges.bytes.clear();
        exchanges.lengths.clear();
        fill(exchanges);
    }

    /// The last exchanges of a read.
    pub fn of(&self, read: usize) -> Option<Exchanges> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).get(&read).cloned()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_exchanges_of_a_read_replace_those_before() {
        let wire = Wire::default();
        for request in [[1, 2], [3, 4]] {
            wire.record(7, Instant::now(), Duration::ZERO, |all| {
                all.add(&request, [&[5], &[6, 7]]);
                all.add(&request, [&[], &[]]);
            });
        }
        let known = wire.of(7).unwrap();
        let known: Vec<_> = known.iter().map(|(a, b)| (a.to_vec(), b.to_vec())).collect();
        assert_eq!(known, [(vec![3, 4], vec![5, 6, 7]), (vec![3, 4], vec![])]);
        assert!(wire.of(6).is_none());
    }
}
