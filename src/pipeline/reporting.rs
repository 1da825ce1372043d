//! What of a read is news: means of several values, deadbands, heartbeats. Pure.
//!
//! - A mean is over the last good values since the last bad one (or the start): a bad value begins it anew.
//! - A deadband compares with what was published last. With a heartbeat, a value is published before that time is over
//!   since the last one, judged by when the point's next read is due.

use std::collections::{HashMap, VecDeque};
use std::time::Duration;

use tokio::time::Instant;

use crate::mapping::compiled::{DeviceMap, Point, PointIx};
use crate::mapping::device::Every;
use crate::mapping::transform::{Sample, moved};
use crate::model::decimal::Decimal;
use crate::model::value::Value;

/// What is remembered of a device's points.
#[derive(Default)]
pub struct Reporting {
    /// What was last published of the points that have a deadband, and when.
    last: HashMap<PointIx, (Value, Instant)>,
    /// The values that the means are of.
    windows: HashMap<PointIx, VecDeque<Value>>,
}

impl Reporting {
    /// Leaves what is to be published, means in place of single values. `at` is when the values arrived.
    pub fn news(&mut self, map: &DeviceMap, every: Every, at: Instant, samples: &mut Vec<Sample>) {
        samples.retain_mut(|sample| {
            let point = &map.points[sample.0.0 as usize];
            if let Some(size) = point.smooth {
                self.smooth(size, sample);
            }
            self.is_news(point, every, at, sample)
        });
    }

    /// Is nothing remembered for deadbands?
    pub fn is_empty(&self) -> bool {
        self.last.is_empty()
    }

    /// Every value is news again.
    pub fn forget_published(&mut self) {
        self.last.clear();
    }

    fn smooth(&mut self, size: u16, (ix, value): &mut Sample) {
        let Ok(good) = value else {
            self.windows.remove(ix);
            return;
        };
        let window = self.windows.entry(*ix).or_default();
        if window.len() >= usize::from(size) {
            window.pop_front();
        }
        window.push_back(good.clone());
        if let Some(mean) = mean(window) {
            *good = mean;
        }
    }

    fn is_news(&mut self, point: &Point, every: Every, now: Instant, (ix, value): &Sample) -> bool {
        let Some(deadband) = &point.deadband else { return true };
        let Ok(value) = value else {
            self.last.remove(ix);
            return true;
        };
        if let Some((last, at)) = self.last.get(ix) {
            let beats =
                point.heartbeat.is_some_and(|most| now.duration_since(*at) + until_next(every) > most);
            if !beats && !moved(deadband, last, value) {
                return false;
            }
        }
        self.last.insert(*ix, (value.clone(), now));
        true
    }
}

fn until_next(every: Every) -> Duration {
    match every {
        Every::Interval(interval) => interval,
        Every::Once | Every::Changes(_) => Duration::ZERO,
    }
}

/// Decimals that a mean has more than its values: a third of the last one is still seen.
const MEAN_DECIMALS: u8 = 2;

/// The mean, of exact numbers in exact arithmetic and rounded once; of floats as a float. `None`: these have none.
fn mean(values: &VecDeque<Value>) -> Option<Value> {
    let mut exact = Some(Decimal::ZERO);
    let mut float = 0.0;
    for value in values {
        float += value.as_f64()?;
        exact = match value {
            Value::Number(number) => exact.and_then(|sum| sum.checked_add(*number)),
            _ => None,
        };
    }
    let count = u32::try_from(values.len()).ok()?;
    match exact.and_then(|sum| sum.divided(count, MEAN_DECIMALS)) {
        Some(mean) => Some(Value::Number(mean)),
        None => Some(Value::Float64(float / f64::from(count))).filter(|_| float.is_finite()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::mapping::compiled::{Deadband, ReadingIx, Source, Transform};
    use crate::model::value::Cause;

    fn map(deadband: Option<&str>, heartbeat: Option<u64>, smooth: Option<u16>) -> DeviceMap {
        let point = Point {
            name: "level".into(),
            unit: None,
            source: Source::Reading(ReadingIx(0)),
            transform: Transform::default(),
            published: true,
            plausible: None,
            deadband: deadband.map(|text| Deadband::Absolute(text.parse().unwrap())),
            heartbeat: heartbeat.map(Duration::from_secs),
            smooth,
            alone: false,
            rate: "default".into(),
        };
        DeviceMap { points: vec![point], ..DeviceMap::default() }
    }

    /// What becomes of values that are read once a second; `-` for those that are not published.
    fn published(map: &DeviceMap, values: &[&str]) -> Vec<String> {
        let start = Instant::now();
        let mut reporting = Reporting::default();
        let news = |(second, text): (usize, &&str)| {
            let value = text.parse().map(Value::Number).map_err(|_| Cause::Timeout);
            let mut samples = vec![(PointIx(0), value)];
            let now = start + Duration::from_secs(second as u64);
            reporting.news(map, Every::Interval(Duration::from_secs(1)), now, &mut samples);
            match samples.pop() {
                None => "-".into(),
                Some((_, Ok(Value::Number(number)))) => number.to_string(),
                Some((_, other)) => format!("{other:?}"),
            }
        };
        values.iter().enumerate().map(news).collect()
    }

    #[test]
    fn a_heartbeat_publishes_before_its_time_is_over() {
        let still = ["5"; 8];
        assert_eq!(
            published(&map(Some("1"), Some(3), None), &still),
            ["5", "-", "-", "5", "-", "-", "5", "-"]
        );
        assert_eq!(published(&map(Some("1"), None, None), &still)[1..], ["-"; 7]);
    }

    #[test]
    fn a_mean_is_exact_and_begins_anew_after_a_bad_value() {
        let values = ["1", "2", "4", "4", "x", "10", "10.5"];
        assert_eq!(
            published(&map(None, None, Some(3)), &values),
            ["1", "1.5", "2.33", "3.33", "Err(Timeout)", "10", "10.25"]
        );
    }

    #[test]
    fn a_deadband_looks_at_the_mean() {
        assert_eq!(published(&map(Some("1"), None, Some(2)), &["0", "1", "1", "5"]), ["0", "-", "1", "3"]);
    }
}
