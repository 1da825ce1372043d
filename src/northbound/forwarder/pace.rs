//! How fast the backlog is sent: as fast as live messages do not notice. Pure.
//!
//! Replayed messages have a share of the window. It grows with each one that is acknowledged, and shrinks when live messages take
//! more than twice as long to be acknowledged as they do without (additive increase, multiplicative decrease, as
//! in RFC 5681). A part of the window is never theirs, so a live message that comes leaves at once.

use std::time::Duration;

use tokio::time::Instant;

/// The share that a replay begins with.
const FIRST: f64 = 8.0;
/// What is left of it after live messages were slow.
const CUT: f64 = 0.7;
/// Slower than twice the usual by this much is noticed: what is less is the machine's noise.
const NOISE: Duration = Duration::from_millis(1);

/// The backlog's share of the window.
#[derive(Debug)]
pub(super) struct Pace {
    share: f64,
    /// How long a live message takes to be acknowledged when nothing is replayed.
    usual: Option<Duration>,
    cut: Option<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        Self { share: FIRST, usual: None, cut: None }
    }

    /// How many replayed messages may be in flight in a window of this size.
    pub fn share(&self, window: usize) -> usize {
        (self.share as usize).clamp(1, most(window))
    }

    /// A replayed message was acknowledged.
    pub fn replayed(&mut self, window: usize) {
        self.share = (self.share + 1.0 / self.share).min(most(window) as f64);
    }

    /// A live message was acknowledged so long after it left; meanwhile others were `replaying`, or not.
    pub fn live(&mut self, took: Duration, replaying: bool, now: Instant) {
        let usual = match self.usual {
            Some(usual) if replaying => usual.min(took),
            Some(usual) => (usual * 7 + took) / 8,
            None => took,
        };
        self.usual = Some(usual);
        // One slow moment shows in all that were in flight.
        let is_told = self.cut.is_some_and(|cut| now.saturating_duration_since(cut) < took);
        if replaying && took > usual * 2 + NOISE && !is_told {
            self.share = (self.share * CUT).max(1.0);
            self.cut = Some(now);
        }
    }
}

/// A quarter of the window is left for live messages.
fn most(window: usize) -> usize {
    (window - window / 4).max(1)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn the_share_grows_while_nobody_suffers_and_leaves_room_for_live_messages() {
        let mut pace = Pace::new();
        assert_eq!(pace.share(100), 8);
        for _ in 0..5000 {
            pace.replayed(100);
        }
        assert_eq!((pace.share(100), pace.share(10), pace.share(1)), (75, 8, 1));
    }

    #[test]
    fn the_share_shrinks_when_live_messages_get_slow_once_per_slow_moment() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.live(2 * MS, false, start);
        pace.live(4 * MS, true, start + 10 * MS);
        assert_eq!(pace.share(100), 8, "twice is no harm");
        pace.live(20 * MS, true, start + 20 * MS);
        pace.live(21 * MS, true, start + 21 * MS);
        assert_eq!(pace.share(100), 5);
        for i in 1..50 {
            pace.live(20 * MS, true, start + 100 * MS * i);
        }
        assert_eq!(pace.share(100), 1);
    }

    #[test]
    fn what_is_usual_is_learnt_without_a_replay() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..50 {
            pace.live(20 * MS, false, start);
        }
        pace.live(39 * MS, true, start + 100 * MS);
        assert_eq!(pace.share(100), 8);
    }
}
