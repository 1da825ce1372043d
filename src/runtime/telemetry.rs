//! Sends the metrics to an OpenTelemetry receiver, again and again (OTLP/HTTP, `POST …/v1/metrics`, JSON).
//!
//! - It has a thread and a runtime of its own: neither making a request nor a slow receiver holds up a poll.
//! - One request at a time, each within its timeout; one that fails is not repeated: the next has the same counts and more.
//! - A failure is logged when its reason changes, and its end.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use tokio::time::{Instant, MissedTickBehavior, interval_at};

use super::apart::{Apart, apart};
use super::explain::Explainer;
use super::otlp::{self, Times};
use crate::config::plan::Telemetry;
use crate::metrics::Current;
use crate::model::time::Stamp;
use crate::northbound::http::Poster;

/// The clock has been set when the start, reckoned back from now, moves by more.
const CLOCK_SET: Duration = Duration::from_secs(2);

/// Sends as it's told, until it's dropped.
pub fn start(telemetry: Telemetry, explainer: Arc<Current<Explainer>>) -> Apart {
    apart("otlp", move || send(telemetry, explainer))
}

async fn send(telemetry: Telemetry, explainer: Arc<Current<Explainer>>) {
    let place = telemetry.http.place().to_owned();
    let mut poster = Poster::new(telemetry.http, explainer.get().site.clone());
    // The first when there is something to tell.
    let mut ticks = interval_at(Instant::now() + telemetry.every, telemetry.every);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut begin = 0;
    let mut told: Option<String> = None;
    loop {
        ticks.tick().await;
        let explainer = explainer.get();
        let at = times(begin, unix_nanos(), explainer.started.elapsed());
        begin = at.start;
        let sent = poster.post(Bytes::from(otlp::request(&explainer, at))).await;
        match (&sent, &told) {
            (Ok(()), Some(_)) => tracing::info!(url = place, "telemetry is taken again"),
            (Err(reason), told) if told.as_ref() != Some(reason) => {
                tracing::warn!(url = place, %reason, "telemetry is not taken");
            }
            _ => {}
        }
        told = sent.err();
    }
}

fn unix_nanos() -> u64 {
    u64::try_from(Stamp::now().unix_millis()).unwrap_or(0).saturating_mul(1_000_000)
}

/// The start stays what it was, unless the clock was set meanwhile: another one means to receivers that counters began anew.
fn times(start: u64, now: u64, up: Duration) -> Times {
    let nanos = |duration: Duration| u64::try_from(duration.as_nanos()).unwrap_or(u64::MAX);
    let reckoned = now.saturating_sub(nanos(up));
    let start = if start.abs_diff(reckoned) > nanos(CLOCK_SET) { reckoned } else { start };
    Times { start, now }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_start_stays_unless_the_clock_was_set() {
        const SECOND: u64 = 1_000_000_000;
        let first = times(0, 1_000 * SECOND, Duration::from_secs(10));
        assert_eq!((first.start, first.now), (990 * SECOND, 1_000 * SECOND));
        let jitter = times(first.start, 1_030 * SECOND + 5_000, Duration::from_secs(40));
        assert_eq!(jitter.start, first.start);
        let set = times(first.start, 9_060 * SECOND, Duration::from_secs(70));
        assert_eq!(set.start, 8_990 * SECOND);
    }
}
