//! Waiting until a moment, finer than the runtime's timer can: that one counts whole milliseconds and rounds up, which is
//! a tenth of an exchange at 115200 baud.

use std::time::Duration;

use rustix::time::{
    Itimerspec, TimerfdClockId, TimerfdFlags, TimerfdTimerFlags, Timespec, timerfd_create, timerfd_settime,
};
use tokio::net::unix::pipe::Receiver;
use tokio::time::{Instant, sleep_until};

/// A way to wait.
#[derive(Debug)]
pub struct Pause(Option<Receiver>);

impl Pause {
    /// By the runtime's timer, which tests can pause.
    pub fn coarse() -> Self {
        Self(None)
    }

    /// By a timer of the kernel (timerfd_create(2)), or by the runtime's where there is none.
    pub fn fine() -> Self {
        let flags = TimerfdFlags::NONBLOCK | TimerfdFlags::CLOEXEC;
        let timer = timerfd_create(TimerfdClockId::Monotonic, flags).ok();
        // What is read from a timer is read as from a pipe; the runtime's general type for descriptors is unsafe to make.
        Self(timer.and_then(|timer| Receiver::from_owned_fd_unchecked(timer).ok()))
    }

    /// Waits until `at`. May be dropped at any moment.
    pub async fn until(&mut self, at: Instant) {
        let wait = at.saturating_duration_since(Instant::now());
        if wait.is_zero() {
            return;
        }
        match &self.0 {
            Some(timer) if timerfd_settime(timer, TimerfdTimerFlags::empty(), &once(wait)).is_ok() => {
                expired(timer).await;
            }
            _ => sleep_until(at).await,
        }
    }
}

async fn expired(timer: &Receiver) {
    // Setting the timer has taken back the expiry of a wait that was dropped: then there is nothing to read yet.
    while timer.readable().await.is_ok() {
        match timer.try_read(&mut [0; 8]) {
            Err(error) if error.kind() == std::io::ErrorKind::WouldBlock => {}
            _ => return,
        }
    }
}

/// One expiry after `wait`, which is not zero: that would disarm the timer.
fn once(wait: Duration) -> Itimerspec {
    let nanos = i64::from(wait.subsec_nanos());
    let value = Timespec { tv_sec: i64::try_from(wait.as_secs()).unwrap_or(i64::MAX), tv_nsec: nanos as _ };
    Itimerspec { it_interval: Timespec { tv_sec: 0, tv_nsec: 0 }, it_value: value }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_fine_pause_is_no_shorter_than_asked_and_can_be_repeated_or_dropped() {
        let mut pause = Pause::fine();
        assert!(pause.0.is_some());
        for micros in [0, 1, 300, 1200] {
            let start = Instant::now();
            pause.until(start + Duration::from_micros(micros)).await;
            assert!(start.elapsed() >= Duration::from_micros(micros));
        }
        let far = Instant::now() + Duration::from_secs(3600);
        tokio::select! {
            () = pause.until(far) => panic!("an hour has passed"),
            () = std::future::ready(()) => {}
        }
        let start = Instant::now();
        pause.until(start + Duration::from_millis(2)).await;
        assert!(start.elapsed() >= Duration::from_millis(2));
    }

    #[tokio::test(start_paused = true)]
    async fn a_coarse_pause_follows_the_runtimes_clock() {
        let start = Instant::now();
        Pause::coarse().until(start + Duration::from_secs(60)).await;
        assert_eq!(start.elapsed(), Duration::from_secs(60));
    }
}
