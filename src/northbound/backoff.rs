//! How long to wait before the next attempt to connect: twice as long each time, with jitter, so that gateways which
//! lost the same broker don't come back all at once.

use std::hash::{BuildHasher, Hasher, RandomState};
use std::time::Duration;

/// After the first failure.
const SHORTEST: Duration = Duration::from_millis(200);
/// After many.
const LONGEST: Duration = Duration::from_secs(30);

/// The waits between attempts.
#[derive(Debug)]
pub(super) struct Backoff {
    next: Duration,
}

impl Backoff {
    /// Begins with the shortest wait.
    pub fn new() -> Self {
        Self { next: SHORTEST }
    }

    /// The next wait: the nominal one times 0.5 … 1.5. `random` is 0 … 1.
    pub fn next(&mut self, random: f64) -> Duration {
        let nominal = self.next;
        self.next = (nominal * 2).min(LONGEST);
        nominal.mul_f64(0.5 + random.clamp(0.0, 1.0))
    }

    /// The link held: the next failure is a first one.
    pub fn reset(&mut self) {
        *self = Self::new();
    }
}

/// A number in 0 … 1 that differs between processes and calls; good enough for jitter.
pub(super) fn random() -> f64 {
    // Each `RandomState` has its own keys.
    RandomState::new().build_hasher().finish() as f64 / u64::MAX as f64
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn waits_double_up_to_the_longest() {
        let mut backoff = Backoff::new();
        let waits: Vec<u64> = (0..10).map(|_| backoff.next(0.5).as_millis() as u64).collect();
        assert_eq!(waits, [200, 400, 800, 1600, 3200, 6400, 12_800, 25_600, 30_000, 30_000]);
        backoff.reset();
        assert_eq!(backoff.next(0.0), SHORTEST / 2);
        assert_eq!(backoff.next(1.0), SHORTEST * 3);
    }

    #[test]
    fn jitter_differs() {
        let all: Vec<f64> = (0..20).map(|_| random()).collect();
        assert!(all.iter().all(|r| (0.0..=1.0).contains(r)));
        assert!(all.iter().any(|r| *r < 0.5) && all.iter().any(|r| *r >= 0.5));
    }
}
