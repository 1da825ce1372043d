//! How long a probe of a unit that is away waits for its answer. Pure.
//!
//! A probe holds up everybody else on its connection, so it waits as long as the unit's answers used to take, with room to
//! spare, and only now and then for the whole response timeout.

use std::time::Duration;

use tokio::time::Instant;

/// An answer may take so many times of what the unit's answers used to take.
const USUAL_TIMES: u32 = 3;

/// However fast it used to be: the frames' time and this.
const SHORTEST: Duration = Duration::from_millis(30);

/// A unit that has never answered gets the frames' time and this: nearly all devices answer within it.
const UNKNOWN: Duration = Duration::from_millis(80);

/// A probe that waits for the whole response timeout is followed by the next one after this many of them: 0.2 %.
const FULL_REST: u32 = 500;

/// What is known of one unit's answers.
#[derive(Debug, Default)]
pub struct Probing {
    /// The longest that an answer took, slowly forgotten.
    usual: Option<Duration>,
    /// While away: when a probe may wait for the whole timeout again.
    full_at: Option<Instant>,
    /// A gateway in front of the unit said that it's away: the gateway itself waits as long as it likes, and whoever is
    /// asked meanwhile is not heard.
    behind_gateway: bool,
}

impl Probing {
    /// An answer came after so long.
    pub fn answered(&mut self, took: Duration) {
        let faded = self.usual.map_or(Duration::ZERO, |usual| usual - usual / 64);
        self.usual = Some(faded.max(took));
        (self.full_at, self.behind_gateway) = (None, false);
    }

    /// A gateway answered in the unit's place.
    pub fn gateway_answered(&mut self) {
        self.behind_gateway = true;
    }

    /// How long a probe at `now` may wait. `frames` is the time that request and answer take on the line, `full` the
    /// response timeout.
    pub fn patience(&mut self, frames: Duration, full: Duration, now: Instant) -> Duration {
        if self.behind_gateway {
            return full;
        }
        let full_at = self.full_at.get_or_insert(now + full * FULL_REST);
        if now >= *full_at {
            *full_at = now + full * FULL_REST;
            return full;
        }
        let short = self.usual.map_or(frames + UNKNOWN, |usual| (usual * USUAL_TIMES).max(frames + SHORTEST));
        short.min(full)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MS: Duration = Duration::from_millis(1);

    #[test]
    fn a_probe_is_as_patient_as_the_unit_was_slow() {
        let now = Instant::now();
        let mut probing = Probing::default();
        assert_eq!(probing.patience(20 * MS, 500 * MS, now), 100 * MS);
        probing.answered(60 * MS);
        assert_eq!(probing.patience(20 * MS, 500 * MS, now), 180 * MS);
        probing.answered(5 * MS);
        assert!(probing.patience(20 * MS, 500 * MS, now) > 170 * MS, "one fast answer is no rule");
        (0..1000).for_each(|_| probing.answered(5 * MS));
        assert_eq!(probing.patience(20 * MS, 500 * MS, now), 50 * MS);
        assert_eq!(probing.patience(20 * MS, 40 * MS, now), 40 * MS);
    }

    #[test]
    fn a_gateway_is_waited_for() {
        let mut probing = Probing::default();
        probing.gateway_answered();
        assert_eq!(probing.patience(MS, 400 * MS, Instant::now()), 400 * MS);
    }

    #[test]
    fn now_and_then_a_probe_waits_for_the_whole_timeout() {
        let start = Instant::now();
        let mut probing = Probing::default();
        let probes = (0..1000).map(|i| probing.patience(MS, 400 * MS, start + 1000 * MS * i));
        assert_eq!(probes.filter(|patience| *patience == 400 * MS).count(), 4);
    }
}
