//! Will the site fit on its buses? Checked before anything is started, and reported where the file says so.

use std::collections::HashMap;
use std::time::Duration;

use super::advice::{self, TARGET};
use super::plan::{Protocol, Site};
use super::written;
use crate::document::codes;
use crate::drivers::fit::FitRead;
use crate::drivers::modbus::ModbusPlan;
use crate::mapping::device::{Every, Read};
use crate::model::diagnostic::{Diagnostics, Span};

/// How many reads an overload names.
const NAMED_READS: usize = 3;
/// How many points of a read are named.
const NAMED_POINTS: usize = 2;

/// Reports devices that can't be planned, and buses that can't carry what is asked of them.
pub fn check(written: &written::Site, site: &Site, found: &mut Diagnostics) {
    let spans = spans(written);
    for connection in &site.connections {
        let Protocol::Modbus(config) = &connection.protocol else { continue };
        match ModbusPlan::compile(config.clone(), connection.devices.clone()) {
            Ok(plan) => fits(&connection.name, &plan, &spans, found),
            Err(errors) => {
                for error in errors {
                    if let Some(span) = spans.devices.get(&*error.device) {
                        found.error(codes::CANNOT_BE_PLANNED, span, error.to_string());
                    }
                }
            }
        }
    }
}

/// Where things are written, by name.
struct Spans<'w> {
    connections: HashMap<&'w str, &'w Span>,
    devices: HashMap<&'w str, &'w Span>,
    /// The devices' intervals.
    intervals: HashMap<&'w str, &'w Span>,
}

fn spans(written: &written::Site) -> Spans<'_> {
    let connections = written.connections.iter().flat_map(|at| &at.value.0);
    let devices = || written.devices.iter().flat_map(|at| &at.value.0);
    let intervals = devices().filter_map(|(name, device)| {
        let every = device.as_ref()?.every.as_ref()?;
        Some((name.value.as_str(), &every.span))
    });
    Spans {
        connections: connections.map(|(name, _)| (name.value.as_str(), &name.span)).collect(),
        devices: devices().map(|(name, _)| (name.value.as_str(), &name.span)).collect(),
        intervals: intervals.collect(),
    }
}

fn fits(name: &str, plan: &ModbusPlan, spans: &Spans<'_>, found: &mut Diagnostics) {
    let fit = plan.fit();
    let load = percent(fit.load);
    if let Some(span) = spans.connections.get(name) {
        let line_of = |device: usize| {
            let name = &*plan.devices[device].device.name;
            spans.intervals.get(name).map(|span| span.line_column().0)
        };
        let changes = || advice::changes(plan, Some(span.line_column().0), line_of).join("; or ");
        if !fit.fits {
            let message = format!("bus {name} would be {load} busy: its devices cannot keep their intervals");
            found.error(codes::OVERLOADED_BUS, span, message).help(format!(
                "{}; or choose points (`only`), or let requests merge (`max_gap`); most of the time goes to {}",
                changes(),
                heaviest(plan, &fit.reads)
            ));
        } else if fit.load > TARGET {
            let message = format!("bus {name} is {load} busy: a slow or lost answer makes others late");
            found.warning(codes::BUSY_BUS, span, message).help(changes());
        }
    }
    // One finding per device: its reads wait for the same bus.
    for (index, planned) in plan.devices.iter().enumerate().filter(|_| fit.fits) {
        let reads = fit.reads.iter().filter(|read| read.demand.device == index && !read.within_budget());
        let worst = reads.max_by_key(|read| read.worst_age.unwrap_or(Duration::MAX));
        if let (Some(worst), Some(span)) = (worst, spans.devices.get(&*planned.device.name)) {
            let age = worst.worst_age.map_or("of any age".into(), |age| format!("{age:.1?} old"));
            let message = format!(
                "{} may be {age} when the bus is busy, budget {:?}",
                named(plan, worst),
                worst.demand.budget
            );
            let help =
                worst.worst_age.map(|age| format!("a budget of {} would hold", shown(rounded_up(age))));
            found.warning(codes::OLD_VALUES, span, message).help(help.unwrap_or_default());
        }
    }
}

/// The reads that cost the most bus time, with their shares.
fn heaviest(plan: &ModbusPlan, reads: &[FitRead]) -> String {
    let share = |read: &FitRead| match read.demand.every {
        Every::Interval(every) => read.demand.takes.as_secs_f64() / every.as_secs_f64(),
        Every::Once | Every::Changes(_) => 0.0,
    };
    let mut reads: Vec<_> = reads.iter().map(|read| (share(read), read)).collect();
    reads.sort_by(|a, b| b.0.total_cmp(&a.0));
    let texts = reads
        .iter()
        .take(NAMED_READS)
        .map(|(share, read)| format!("{} ({})", named(plan, read), percent(*share)));
    texts.collect::<Vec<_>>().join(", ")
}

/// `oven1.voltage, current, … (4 points)`
fn named(plan: &ModbusPlan, read: &FitRead) -> String {
    let planned = &plan.devices[read.demand.device];
    let Read { publishes, .. } = &planned.reads[read.demand.read];
    let name = |ix: &crate::mapping::compiled::PointIx| &*planned.device.map.points[ix.0 as usize].name;
    let names: Vec<_> = publishes.iter().take(NAMED_POINTS).map(name).collect();
    let rest = if publishes.len() > NAMED_POINTS {
        format!(", … {} points", publishes.len())
    } else {
        String::new()
    };
    format!("{}.{}{rest}", planned.device.name, names.join(", "))
}

/// To whole milliseconds, or to tenths of a second.
fn rounded_up(age: Duration) -> Duration {
    let step = if age < Duration::from_secs(1) { 1 } else { 100 };
    let millis = u64::try_from(age.as_micros().div_ceil(1000)).unwrap_or(u64::MAX);
    Duration::from_millis(millis.div_ceil(step).saturating_mul(step))
}

/// As a site file writes it: `200ms`, `1.5s`.
pub(super) fn shown(duration: Duration) -> String {
    format!("{duration:?}")
}

pub(super) fn percent(share: f64) -> String {
    if share >= 0.1 { format!("{:.0} %", share * 100.0) } else { format!("{:.1} %", share * 100.0) }
}
