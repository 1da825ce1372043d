//! How long to wait before the next attempt to connect. Pure.

use std::time::Duration;

/// The first wait.
pub const FIRST: Duration = Duration::from_millis(200);

/// The longest wait.
pub const LONGEST: Duration = Duration::from_secs(10);

/// Waits vary by this many percent both ways, so that many gateways don't come back in step.
const JITTER_PERCENT: u64 = 30;

/// A wait that doubles with each failure, up to a bound.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
}

impl Default for Backoff {
    fn default() -> Self {
        Self { next: FIRST }
    }
}

impl Backoff {
    /// The next wait; `random` may be any number.
    pub fn next(&mut self, random: u64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(LONGEST);
        let percent = 100 - JITTER_PERCENT + random % (2 * JITTER_PERCENT + 1);
        wait * u32::try_from(percent).unwrap_or(100) / 100
    }

    /// It worked: the next failure starts small again.
    pub fn reset(&mut self) {
        self.next = FIRST;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(random in prop::collection::vec(any::<u64>(), 12)) {
            let mut backoff = Backoff::default();
            let mut plain = FIRST;
            for random in random {
                let wait = backoff.next(random);
                prop_assert!(wait >= plain * 7 / 10 && wait <= plain * 13 / 10);
                plain = (plain * 2).min(LONGEST);
            }
            backoff.reset();
            prop_assert!(backoff.next(0) == FIRST * 7 / 10);
        }
    }
}
