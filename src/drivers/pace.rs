//! Does the bus keep the pace that was planned? Exchanges are compared in windows, and a change is told once. Pure.

use std::time::Duration;

/// Exchanges per comparison: a single slow answer is no deviation.
const WINDOW: u32 = 64;

/// Slower than planned by this factor is worth a word.
const SLOWER: u32 = 2;

/// What short exchanges take longer than planned is the network's and the scheduler's, not the device's.
const SPARED: Duration = Duration::from_millis(2);

/// The exchanges of one device.
#[derive(Debug, Default)]
pub struct Pace {
    count: u32,
    planned: Duration,
    measured: Duration,
    is_slow: bool,
}

/// A change of pace, with the means over the window that showed it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Change {
    /// Is the device slower than planned?
    pub is_slow: bool,
    /// What an exchange was planned to take.
    pub planned: Duration,
    /// What it takes.
    pub measured: Duration,
}

impl Pace {
    /// Notes an answered exchange; tells when the pace has changed.
    pub fn note(&mut self, planned: Duration, measured: Duration) -> Option<Change> {
        self.count += 1;
        self.planned += planned;
        self.measured += measured;
        if self.count < WINDOW {
            return None;
        }
        let (planned, measured) = (self.planned / self.count, self.measured / self.count);
        let is_slow = measured > planned * SLOWER && measured > planned + SPARED;
        let was_slow = self.is_slow;
        *self = Self { is_slow, ..Self::default() };
        (is_slow != was_slow).then_some(Change { is_slow, planned, measured })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_of_pace_is_told_once() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let mut told = |measured, times| (0..times).filter_map(|_| pace.note(ms(10), ms(measured))).collect();
        let nothing: Vec<Change> = Vec::new();
        assert_eq!(told(12, 640), nothing);
        let slow: Vec<Change> = told(45, 640);
        assert_eq!(slow, [Change { is_slow: true, planned: ms(10), measured: ms(45) }]);
        let well: Vec<Change> = told(12, 640);
        assert_eq!(well, [Change { is_slow: false, planned: ms(10), measured: ms(12) }]);
    }

    #[test]
    fn one_slow_answer_is_no_deviation() {
        let ms = Duration::from_millis;
        let mut pace = Pace::default();
        let slow_first = |i| if i == 0 { ms(500) } else { ms(10) };
        assert!((0..640).filter_map(|i| pace.note(ms(10), slow_first(i))).next().is_none());
    }
}
