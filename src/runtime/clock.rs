//! Finds out whether the wall clock can be believed, and remembers how late it is at least.
//!
//! It's doubted while it is before this program was made or before the last time that is known of it (`STATE/clock`), and while
//! systemd-timesyncd, which says when it has synchronised it, has not said so and no clock of hardware has set it. Otherwise it's
//! believed, and stays so until the process ends: what loses its time server drifts, by seconds in a week.

use std::path::{Path, PathBuf};
use std::time::Duration;

use tokio::time::{MissedTickBehavior, interval};

use super::state;
use crate::config::plan::Trust;
use crate::model::clock;
use crate::model::time::Stamp;

/// The file's name in the state directory: a time stamp, for people too.
const FILE: &str = "clock";
/// It was later than this when this program was made: 2026-01-01.
const MADE: i64 = 1_767_225_600_000;
/// How often to look whether the clock is right by now, or was set.
const LOOK: Duration = Duration::from_secs(1);
/// Looks between two times that are remembered: an hour.
const REMEMBER: u32 = 3600;
/// A step of the clock that is worth a line in the log.
const STEP: i64 = 1_000;

/// Looks at the clock for the first time. Says which epoch this run has at least, so that each has another.
pub(super) async fn begin(state: Option<&Path>, trust: Trust) -> u64 {
    let file = state.map(|state| state.join(FILE));
    let known = file.as_deref().and_then(known).unwrap_or(MADE).max(MADE);
    let now = Stamp::now().unix_millis();
    let mut least = now;
    if is_right(now, known, trust) {
        clock::believe();
    } else {
        tracing::warn!(
            clock = %Stamp::now(),
            last_known = %Stamp::from_unix_millis(known),
            "the clock is not synchronised; messages say so, and what has not left when it is gets the right time stamp"
        );
        clock::doubt(known);
        least = known.max(now) + 1;
    }
    remember(file, least).await;
    u64::try_from(least).unwrap_or(0)
}

/// Looks again and again, until it's dropped.
pub(super) async fn watch(state: Option<PathBuf>, trust: Trust) {
    let file = state.map(|state| state.join(FILE));
    let known = file.as_deref().and_then(known).unwrap_or(MADE);
    let mut look = interval(LOOK);
    look.set_missed_tick_behavior(MissedTickBehavior::Skip);
    let mut ahead = None;
    for looks in 1_u32.. {
        look.tick().await;
        let now = Stamp::now().unix_millis();
        if clock::doubted().is_some() && is_right(now, known, trust) {
            clock::believe();
            tracing::info!(clock = %Stamp::now(), "the clock is synchronised");
            remember(file.clone(), now).await;
        }
        let stands = now.saturating_sub(clock::uptime_millis());
        let step = stands.saturating_sub(ahead.replace(stands).unwrap_or(stands));
        if step.abs() >= STEP {
            tracing::warn!(by_ms = step, clock = %Stamp::now(), "the clock was set");
        }
        if looks % REMEMBER == 0 && clock::doubted().is_none() {
            remember(file.clone(), now).await;
        }
    }
}

fn is_right(now: i64, known: i64, trust: Trust) -> bool {
    let systemd = Path::new("/run/systemd/timesync");
    match trust {
        Trust::Always => true,
        Trust::WhenSynchronised if systemd.join("synchronized").exists() => true,
        Trust::WhenSynchronised => now >= known && (!systemd.exists() || is_set_by_hardware()),
    }
}

/// Has a clock that runs without power set the system's when it started?
fn is_set_by_hardware() -> bool {
    let Ok(clocks) = std::fs::read_dir("/sys/class/rtc") else { return false };
    let said = |path: PathBuf| std::fs::read_to_string(path).is_ok_and(|text| text.trim() == "1");
    clocks.filter_map(Result::ok).any(|clock| said(clock.path().join("hctosys")))
}

/// The last time that is known.
fn known(file: &Path) -> Option<i64> {
    Stamp::parse(std::fs::read_to_string(file).ok()?.trim()).map(Stamp::unix_millis)
}

async fn remember(file: Option<PathBuf>, now: i64) {
    let Some(file) = file else { return };
    let text = format!("{}\n", Stamp::from_unix_millis(now));
    let path = file.clone();
    let written = tokio::task::spawn_blocking(move || state::replace(&path, &text)).await;
    if let Ok(Err(error)) = written {
        tracing::warn!(path = %file.display(), %error, "the time can't be remembered");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_clock_before_the_last_known_time_is_not_believed_unless_one_says_so() {
        assert!(!is_right(MADE - 1, MADE, Trust::WhenSynchronised));
        assert!(is_right(MADE - 1, MADE, Trust::Always));
    }

    #[tokio::test]
    async fn each_run_has_a_later_epoch_whatever_the_clock_says() {
        let state = std::env::temp_dir().join(format!("taktbus-clock-{}", std::process::id()));
        let far = Stamp::from_unix_millis(Stamp::now().unix_millis() + 1_000_000_000).unix_millis();
        remember(Some(state.join(FILE)), far).await;
        assert_eq!(known(&state.join(FILE)), Some(far));
        // Always: tests of this process share the clock, and it must not be doubted.
        let now = begin(Some(&state), Trust::Always).await;
        assert!(now < u64::try_from(far).unwrap());
        assert!(known(&state.join(FILE)).unwrap() < far, "a clock that is right corrects what was known");
        std::fs::remove_dir_all(state).unwrap();
    }
}
