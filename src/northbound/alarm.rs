//! One timer for a deadline that moves all the time.
//!
//! Each acknowledged message moves the next deadline a little further. Re-arming the runtime's timer each time would
//! cost more than the message, so a timer that's armed too early is left alone: it wakes, finds that it's too early,
//! and is armed again.

use std::future::pending;
use std::pin::Pin;

use tokio::time::{Instant, Sleep, sleep_until};

/// A re-usable timer.
#[derive(Debug)]
pub(crate) struct Alarm {
    sleep: Pin<Box<Sleep>>,
    armed: Option<Instant>,
}

impl Alarm {
    /// A timer that isn't armed.
    pub(crate) fn new() -> Self {
        Self { sleep: Box::pin(sleep_until(Instant::now())), armed: None }
    }

    /// Waits until `now >= deadline`; for ever without one. May be dropped at any moment.
    pub(crate) async fn reached(&mut self, deadline: Option<Instant>) {
        let Some(deadline) = deadline else { return pending().await };
        while Instant::now() < deadline {
            if self.armed.is_none_or(|armed| deadline < armed) {
                self.sleep.as_mut().reset(deadline);
                self.armed = Some(deadline);
            }
            self.sleep.as_mut().await;
            self.armed = None;
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn a_deadline_that_moves_is_met_exactly() {
        let start = Instant::now();
        let mut alarm = Alarm::new();
        for (deadline, patience) in [(100, 10), (500, 200), (50, 1000)] {
            let at = start + Duration::from_millis(deadline);
            let _ = tokio::time::timeout(Duration::from_millis(patience), alarm.reached(Some(at))).await;
        }
        assert_eq!(start.elapsed(), Duration::from_millis(210));
        alarm.reached(Some(start + Duration::from_millis(300))).await;
        assert_eq!(start.elapsed(), Duration::from_millis(300));
    }

    #[tokio::test(start_paused = true)]
    async fn without_a_deadline_it_never_wakes() {
        let mut alarm = Alarm::new();
        let waited = tokio::time::timeout(Duration::from_secs(3600), alarm.reached(None)).await;
        assert!(waited.is_err());
    }
}
