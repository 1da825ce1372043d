//! What would make a crowded bus fit: which line to change to what. Pure.

use std::collections::BTreeMap;
use std::time::Duration;

use super::fit::{percent, shown};
use crate::drivers::fit::{Demand, load};
use crate::drivers::modbus::ModbusPlan;
use crate::drivers::modbus::config::Link;
use crate::mapping::device::Every;

/// What a bus should be busy at most: retries and slow answers need room too.
pub const TARGET: f64 = 0.8;

/// The usual speeds of serial lines.
const BAUDS: [u32; 5] = [9_600, 19_200, 38_400, 57_600, 115_200];

/// Longer intervals are no advice any more.
const LONGEST: Duration = Duration::from_secs(3600);

/// Changes of which each alone would do, as sentences; the least one first. `line_of` tells the line of the site file that
/// a device's intervals are on.
pub fn changes(
    plan: &ModbusPlan,
    connection_line: Option<usize>,
    line_of: impl Fn(usize) -> Option<usize>,
) -> Vec<String> {
    let demands: Vec<Demand> = plan.fit().reads.iter().map(|read| read.demand).collect();
    [one_interval(plan, &demands, line_of), baud(plan, connection_line), all_intervals(&demands)]
        .into_iter()
        .flatten()
        .collect()
}

/// A longer interval for the reads that cost most.
fn one_interval(
    plan: &ModbusPlan,
    demands: &[Demand],
    line_of: impl Fn(usize) -> Option<usize>,
) -> Option<String> {
    let mut shares: BTreeMap<(usize, Duration), f64> = BTreeMap::new();
    for demand in demands {
        if let Every::Interval(every) = demand.every {
            *shares.entry((demand.device, every)).or_default() += load(&[*demand]);
        }
    }
    let ((device, every), share) = shares.into_iter().max_by(|(_, a), (_, b)| a.total_cmp(b))?;
    let others = load(demands) - share;
    if others >= TARGET {
        return None;
    }
    let longer = round_up(every.mul_f64(share / (TARGET - others)))?;
    let then = percent(others + share * every.as_secs_f64() / longer.as_secs_f64());
    let line = at_line(line_of(device));
    let name = &plan.devices[device].device.name;
    Some(format!("read {name} every {} instead of {}{line}: {then}", shown(longer), shown(every)))
}

/// The slowest of the usual speeds that would do.
fn baud(plan: &ModbusPlan, line: Option<usize>) -> Option<String> {
    BAUDS.iter().find_map(|baud| {
        let mut faster = plan.clone();
        let line_settings = match &mut faster.config.link {
            Link::Serial { line, .. } | Link::RtuOverTcp { line: Some(line), .. } => line,
            Link::RtuOverTcp { line: None, .. } | Link::Tcp { .. } => return None,
        };
        if *baud <= line_settings.baud {
            return None;
        }
        line_settings.baud = *baud;
        let then = faster.fit().load;
        let at = at_line(line);
        (then <= TARGET).then(|| format!("set baud: {baud}{at}, and the devices with it: {}", percent(then)))
    })
}

/// The same factor for all.
fn all_intervals(demands: &[Demand]) -> Option<String> {
    let tenths = (load(demands) / TARGET * 10.0).ceil();
    (tenths.is_finite() && tenths < 1e6)
        .then(|| format!("make every interval {} times as long", tenths / 10.0))
}

fn at_line(line: Option<usize>) -> String {
    line.map_or(String::new(), |line| format!(" (line {line})"))
}

/// To 1, 2 or 5 times a power of ten milliseconds.
fn round_up(duration: Duration) -> Option<Duration> {
    let steps =
        (0..).flat_map(|power| [1, 2, 5].map(|step| 10u64.saturating_pow(power).saturating_mul(step)));
    let longer = steps.map(Duration::from_millis).find(|step| *step >= duration)?;
    (longer <= LONGEST).then_some(longer)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn intervals_are_rounded_up_to_what_people_write() {
        let ms = Duration::from_millis;
        for (from, to) in [(1, 1), (3, 5), (51, 100), (230, 500), (1001, 2000)] {
            assert_eq!(round_up(ms(from)), Some(ms(to)));
        }
        assert_eq!(round_up(LONGEST * 2), None);
    }
}
