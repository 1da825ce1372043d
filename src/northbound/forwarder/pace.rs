//! How fast the backlog is sent: as fast as live messages do not notice. Pure.
//!
//! Replayed messages have a share of the window. It shrinks when a live message takes more than twice as long to be acknowledged as live ones
//! do without, and grows with each one that does not (additive increase, multiplicative decrease, as in RFC 5681); so slowly that one live message of a
//! hundred at most is slow. Where there are none it grows with the replayed ones. A part of the window is never theirs, so a live message that
//! comes leaves at once.

use std::time::Duration;

use tokio::time::Instant;

/// The share that a replay begins with.
const FIRST: f64 = 8.0;
/// What is left of it after live messages were slow.
const CUT: f64 = 0.7;
/// Slower than twice the usual by this much is noticed: what is less is the machine's noise.
const NOISE: Duration = Duration::from_micros(500);
/// What a live message that was not slow adds: a cut takes some ten messages of share, and should follow a hundred live ones.
const GROWTH: f64 = 0.125;
/// Live messages have stopped coming.
const QUIET: Duration = Duration::from_secs(1);

/// The backlog's share of the window.
#[derive(Debug)]
pub(super) struct Pace {
    share: f64,
    /// How long a live message takes to be acknowledged when nothing is replayed.
    usual: Option<Duration>,
    cut: Option<Instant>,
    /// When a live message was acknowledged.
    heard: Option<Instant>,
}

impl Pace {
    pub fn new() -> Self {
        Self { share: FIRST, usual: None, cut: None, heard: None }
    }

    /// How many replayed messages may be in flight in a window of this size.
    pub fn share(&self, window: usize) -> usize {
        (self.share as usize).clamp(1, most(window))
    }

    /// A replayed message was acknowledged.
    pub fn replayed(&mut self, window: usize, now: Instant) {
        if self.heard.is_none_or(|at| now.saturating_duration_since(at) > QUIET) {
            self.grow(1.0 / self.share, window);
        }
    }

    /// A live message was acknowledged so long after it left; meanwhile others were `replaying`, or not.
    pub fn live(&mut self, took: Duration, replaying: bool, window: usize, now: Instant) {
        self.heard = Some(now);
        let usual = match self.usual {
            Some(usual) if replaying => usual.min(took),
            Some(usual) => (usual * 7 + took) / 8,
            None => took,
        };
        self.usual = Some(usual);
        // One slow moment shows in all that were in flight.
        let is_told = self.cut.is_some_and(|cut| now.saturating_duration_since(cut) < took);
        let is_slow = took > usual * 2 + NOISE;
        if replaying && is_slow && !is_told {
            self.share = (self.share * CUT).max(1.0);
            self.cut = Some(now);
        } else if replaying && !is_slow {
            self.grow(GROWTH, window);
        }
    }

    fn grow(&mut self, by: f64, window: usize) {
        self.share = (self.share + by).min(most(window) as f64);
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
            pace.replayed(100, Instant::now());
        }
        assert_eq!((pace.share(100), pace.share(10), pace.share(1)), (75, 8, 1));
    }

    #[test]
    fn beside_live_messages_the_share_grows_by_those_that_are_not_slow() {
        let mut now = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..100 {
            pace.live(2 * MS, true, 100, now);
            for _ in 0..1000 {
                pace.replayed(100, now);
            }
            now += 10 * MS;
        }
        assert_eq!(pace.share(100), 20);
        now += 2000 * MS;
        for _ in 0..5000 {
            pace.replayed(100, now);
        }
        assert_eq!(pace.share(100), 75);
    }

    #[test]
    fn the_share_shrinks_when_live_messages_get_slow_once_per_slow_moment() {
        let start = Instant::now();
        let mut pace = Pace::new();
        pace.live(2 * MS, false, 100, start);
        pace.live(4 * MS, true, 100, start + 10 * MS);
        assert_eq!(pace.share(100), 8, "twice is no harm");
        pace.live(20 * MS, true, 100, start + 20 * MS);
        pace.live(21 * MS, true, 100, start + 21 * MS);
        assert_eq!(pace.share(100), 5);
        for i in 1..50 {
            pace.live(20 * MS, true, 100, start + 100 * MS * i);
        }
        assert_eq!(pace.share(100), 1);
    }

    #[test]
    fn what_is_usual_is_learnt_without_a_replay() {
        let start = Instant::now();
        let mut pace = Pace::new();
        for _ in 0..50 {
            pace.live(20 * MS, false, 100, start);
        }
        pace.live(39 * MS, true, 100, start + 100 * MS);
        assert_eq!(pace.share(100), 8);
    }
}
