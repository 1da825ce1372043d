//! Has a reload made things worse? Judged by what was so before it: how many parts had old values, and how many messages were late.

use std::sync::Arc;
use std::time::Duration;

use tokio::time::{Instant, sleep};

use crate::metrics::Current;
use crate::runtime::explain::Explainer;
use crate::runtime::health;

/// New connections and devices may take so long to give their first values.
const GRACE: Duration = Duration::from_secs(10);
/// How often it's looked at.
const EVERY: Duration = Duration::from_secs(1);
/// It has to be worse so many times in a row.
const TIMES: u32 = 3;
/// So many messages have to be late before their share means anything…
const FEWEST_LATE: u64 = 10;
/// …and the share has to be larger by so much.
const LATE_SHARE: f64 = 0.05;

/// What was so before.
pub struct Judge {
    explainer: Arc<Current<Explainer>>,
    stale: usize,
    counts: Counts,
}

/// Messages of all devices.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
struct Counts {
    delivered: u64,
    late: u64,
}

impl Counts {
    fn of(explainer: &Explainer) -> Self {
        let devices = || explainer.connections.iter().flat_map(|connection| &connection.devices);
        Self {
            delivered: devices().map(|device| device.metrics.delivered.get()).sum(),
            late: devices().map(|device| device.metrics.violations_total()).sum(),
        }
    }

    /// Devices that are gone don't count below zero.
    fn since(self, before: Self) -> Self {
        let Self { delivered, late } = before;
        Self { delivered: self.delivered.saturating_sub(delivered), late: self.late.saturating_sub(late) }
    }

    fn late_share(self) -> f64 {
        self.late as f64 / self.delivered.max(self.late).max(1) as f64
    }
}

impl Judge {
    /// Looks at what is so now.
    pub fn new(explainer: Arc<Current<Explainer>>) -> Self {
        let now = explainer.get();
        let stale = stale(&now).len();
        Self { stale, counts: Counts::of(&now), explainer }
    }

    /// What is worse now.
    fn worse(&self) -> Option<String> {
        let now = self.explainer.get();
        let reasons = stale(&now);
        if reasons.len() > self.stale {
            return reasons.into_iter().next();
        }
        let since = Counts::of(&now).since(self.counts);
        let is_worse =
            since.late >= FEWEST_LATE && since.late_share() > self.counts.late_share() + LATE_SHARE;
        is_worse.then(|| format!("{} of {} messages missed their budget", since.late, since.delivered))
    }
}

fn stale(explainer: &Explainer) -> Vec<String> {
    let told = health::ready(explainer, Instant::now()).json;
    let reasons = told["reasons"].as_array().cloned().unwrap_or_default();
    reasons.iter().filter_map(|reason| reason.as_str().map(str::to_owned)).collect()
}

/// Returns when things are worse than before, with what is.
pub async fn worse(judge: Option<Judge>) -> String {
    let Some(judge) = judge else { return std::future::pending().await };
    sleep(GRACE).await;
    let mut times = 0;
    loop {
        match judge.worse() {
            Some(reason) if times + 1 >= TIMES => return reason,
            Some(_) => times += 1,
            None => times = 0,
        }
        sleep(EVERY).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::runtime::explain::tests::explainer;

    #[tokio::test(start_paused = true)]
    async fn what_was_bad_before_is_not_worse_and_what_was_fresh_is() {
        let explainer = explainer();
        let [oven, pump] = [0, 1].map(|i| explainer.connections[0].devices[i].metrics.clone());
        sleep(Duration::from_secs(60)).await;
        oven.values_at.set(Instant::now());
        let judge = Judge::new(Arc::new(Current::new(explainer)));
        assert_eq!((judge.stale, judge.worse()), (1, None));
        let began = Instant::now();
        // The oven goes on for a while; the pump is as dead as before.
        let feeding = async {
            for _ in 0..300 {
                oven.values_at.set(Instant::now());
                sleep(Duration::from_millis(100)).await;
            }
        };
        let (reason, ()) = tokio::join!(worse(Some(judge)), feeding);
        assert!(reason.contains("values are"), "{reason}");
        assert!(began.elapsed() > Duration::from_secs(30));
        drop(pump);
    }

    #[tokio::test(start_paused = true)]
    async fn late_messages_count_by_their_share() {
        let explainer = explainer();
        let oven = explainer.connections[0].devices[0].metrics.clone();
        let late = |count: u64, delivered: u64| {
            oven.delivered.add(delivered);
            oven.violations[0].add(count);
        };
        late(100, 1000);
        let judge = Judge::new(Arc::new(Current::new(explainer)));
        late(100, 1000);
        assert_eq!(judge.worse(), None);
        late(500, 1000);
        assert_eq!(judge.worse().unwrap(), "600 of 2000 messages missed their budget");
    }
}
