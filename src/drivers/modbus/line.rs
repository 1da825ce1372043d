//! What an RTU line remembers, since its frames carry no transaction ids: when it may be talked on, and who may still
//! answer late. Pure.
//!
//! - After a timeout the whole line rests until [`QUIET_HALVES`] half response timeouts have passed since the request (but
//!   not after a probe: nobody has reason to expect an answer).
//! - The unit that timed out is asked again only when its late answer has come, or can't come any more.

use std::time::Duration;

use tokio::time::Instant;

use super::framing::{Request, holds_answer};

/// After a timeout the whole line rests until this many halves of the response timeout have passed since the request:
/// healthy units wait half a timeout at most, and an answer up to 1.5 × the timeout late collides with no request.
pub const QUIET_HALVES: u32 = 3;

/// Where no late window is given, the unit that timed out is not asked again before this many response timeouts have
/// passed since the request: the field's slow devices answer up to three timeouts late (QUIRKS 14).
pub const SUSPECT_TIMEOUTS: u32 = 3;

/// The memory of one line.
#[derive(Debug)]
pub struct Line {
    /// What separates two frames (t3.5).
    silence: Duration,
    late_window: Option<Duration>,
    quiet_until: Instant,
    /// Units whose late answer may still come, and until when. At most one entry per unit id.
    suspects: Vec<(Request, Instant)>,
}

impl Line {
    /// A line on which somebody may have talked until `now`. `silence` separates frames; an answer may come so long
    /// after its request as `late_window` says, or else [`SUSPECT_TIMEOUTS`] response timeouts.
    pub fn new(silence: Duration, late_window: Option<Duration>, now: Instant) -> Self {
        Self { silence, late_window, quiet_until: now + silence, suspects: Vec::new() }
    }

    /// When the line is at rest again.
    pub fn quiet_until(&self) -> Instant {
        self.quiet_until
    }

    /// When this unit may be asked again; `None`: as soon as the line is at rest.
    pub fn free_at(&self, unit: u8) -> Option<Instant> {
        self.suspects.iter().find(|(request, _)| request.unit == unit).map(|(_, until)| *until)
    }

    /// When this unit may be asked.
    pub fn may_ask_at(&self, unit: u8) -> Instant {
        self.free_at(unit).map_or(self.quiet_until, |free| free.max(self.quiet_until))
    }

    /// When no answer to anything that was asked can come any more.
    pub fn settled_at(&self) -> Instant {
        self.suspects.iter().map(|(_, until)| *until).fold(self.quiet_until, Instant::max)
    }

    /// Asks nobody before.
    pub fn rest_until(&mut self, until: Instant) {
        self.quiet_until = self.quiet_until.max(until);
    }

    /// A frame has ended at `now`, or whoever was asked is done talking.
    pub fn frame_ended(&mut self, now: Instant) {
        self.quiet_until = now + self.silence;
    }

    /// Nobody had answered a request that left at `started` when its exchange ended at `now`. The whole line rests until
    /// `rest` after the request, or until no answer can come any more.
    pub fn unanswered(
        &mut self,
        request: Request,
        started: Instant,
        now: Instant,
        timeout: Duration,
        rest: Duration,
    ) {
        let window = self.late_window.unwrap_or(timeout * SUSPECT_TIMEOUTS);
        let rest = rest.min(window);
        self.quiet_until = (now + self.silence).max(started + rest + self.silence);
        self.suspects.retain(|(other, until)| other.unit != request.unit && *until > now);
        self.suspects.push((request, started + window));
    }

    /// These bytes came while nobody was asked, the last of them at `now`. Are they the late answer that frees its unit
    /// and the line?
    pub fn heard(&mut self, bytes: &[u8], now: Instant) -> bool {
        let settled = self.suspects.iter().position(|(request, _)| holds_answer(*request, bytes));
        if let Some(suspect) = settled {
            self.suspects.swap_remove(suspect);
            self.quiet_until = now + self.silence;
        } else {
            self.quiet_until = self.quiet_until.max(now + self.silence);
        }
        settled.is_some()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::drivers::modbus::framing::crc;
    use crate::drivers::modbus::plan::Block;
    use crate::model::place::Table;

    const MS: Duration = Duration::from_millis(1);

    fn request(unit: u8) -> Request {
        Request { unit, block: Block { table: Table::Holding, address: 0, count: 1 } }
    }

    #[test]
    fn a_unit_that_timed_out_is_held_longer_than_the_line() {
        let start = Instant::now();
        let mut line = Line::new(4 * MS, None, start);
        line.unanswered(request(1), start, start + 200 * MS, 200 * MS, 300 * MS);
        assert_eq!(line.may_ask_at(2), start + 304 * MS);
        assert_eq!(line.may_ask_at(1), start + 600 * MS);
        assert_eq!(line.settled_at(), start + 600 * MS);
    }

    #[test]
    fn the_late_window_is_configurable() {
        let start = Instant::now();
        for (window, others, own) in [(250, 254, 254), (2000, 304, 2000)] {
            let mut line = Line::new(4 * MS, Some(window * MS), start);
            line.unanswered(request(1), start, start + 200 * MS, 200 * MS, 300 * MS);
            assert_eq!(line.may_ask_at(2), start + others * MS);
            assert_eq!(line.may_ask_at(1), start + own * MS);
        }
    }

    #[test]
    fn only_the_answer_that_was_owed_frees_its_unit() {
        let start = Instant::now();
        let mut line = Line::new(4 * MS, None, start);
        line.unanswered(request(1), start, start + 200 * MS, 200 * MS, 300 * MS);
        let answer = |unit: u8| {
            let body = [unit, 3, 2, 0xAB, 0xCD];
            [&body[..], &crc(&body).to_le_bytes()].concat()
        };
        assert!(!line.heard(&answer(2), start + 250 * MS));
        assert!(line.free_at(1).is_some());
        assert!(line.heard(&answer(1), start + 260 * MS));
        assert_eq!(line.may_ask_at(1), start + 264 * MS);
    }
}
