//! How long to wait before the next attempt to connect. Pure.

use std::time::Duration;

/// The first wait.
pub const FIRST: Duration = Duration::from_millis(200);

/// The longest wait on a network, whose far side may have many clients.
pub const LONGEST: Duration = Duration::from_secs(10);

/// The longest wait for a port of this machine: looking costs nobody anything, and people wait for a replugged adapter.
pub const LONGEST_FOR_A_PORT: Duration = Duration::from_secs(1);

/// Waits vary by this many percent both ways, so that many gateways don't come back in step.
const JITTER_PERCENT: u64 = 30;

/// A wait that doubles with each failure, up to a bound.
#[derive(Debug)]
pub struct Backoff {
    next: Duration,
    longest: Duration,
}

impl Backoff {
    /// Waits up to `longest`, jitter apart.
    pub fn up_to(longest: Duration) -> Self {
        Self { next: FIRST.min(longest), longest }
    }

    /// The next wait; `random` may be any number.
    pub fn next(&mut self, random: u64) -> Duration {
        let wait = self.next;
        self.next = (wait * 2).min(self.longest);
        let percent = 100 - JITTER_PERCENT + random % (2 * JITTER_PERCENT + 1);
        wait * u32::try_from(percent).unwrap_or(100) / 100
    }

    /// It worked: the next failure starts small again.
    pub fn reset(&mut self) {
        self.next = FIRST.min(self.longest);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn waits_double_within_their_bounds(
            random in prop::collection::vec(any::<u64>(), 12),
            longest in prop::sample::select(vec![LONGEST, LONGEST_FOR_A_PORT]),
        ) {
            let mut backoff = Backoff::up_to(longest);
            let mut plain = FIRST;
            for random in random {
                let wait = backoff.next(random);
                prop_assert!(wait >= plain * 7 / 10 && wait <= plain * 13 / 10);
                plain = (plain * 2).min(longest);
            }
            backoff.reset();
            prop_assert!(backoff.next(0) == FIRST * 7 / 10);
        }
    }
}
