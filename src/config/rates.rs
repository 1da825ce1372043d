//! Rates: profiles name them, sites give them a time.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::time::Duration;

use super::written::Device;
use crate::document::codes;
use crate::document::duration::{Interval, show_duration};
use crate::document::read::At;
use crate::document::suggest::did_you_mean;
use crate::document::types::{Either, Names};
use crate::mapping::compiled::{DeviceMap, PointIx};
use crate::mapping::device::{Every, Group};
use crate::model::diagnostic::{Diagnostics, Span};

/// The built-in rate: once per connection.
const ONCE: &str = "once";

/// The rate of points that name none, and the interval of rates that the site does not name.
const DEFAULT: &str = "default";

/// How many points a message names.
const MAX_NAMED: usize = 4;

/// Which points are read how often. `None` is reported. `refresh` is how often the device renews its values.
pub fn groups(
    name: &At<String>,
    device: &Device,
    map: &DeviceMap,
    refresh: Option<Duration>,
    found: &mut Diagnostics,
) -> Option<Vec<Group>> {
    let before = found.errors();
    let mut groups: BTreeMap<Every, Vec<PointIx>> = BTreeMap::new();
    let mut without: BTreeMap<&str, Vec<&str>> = BTreeMap::new();
    let times = Times::of(device, found);
    for (at, point) in map.points.iter().enumerate().filter(|(_, point)| point.published) {
        match times.get(&point.rate) {
            Some(every) => groups.entry(every).or_default().push(PointIx(at as u32)),
            None => without.entry(&point.rate).or_default().push(&point.name),
        }
    }
    let span = device.every.as_ref().map_or(&name.span, |at| &at.span);
    for (rate, points) in without {
        let mut named = points[..points.len().min(MAX_NAMED)].join(", ");
        if points.len() > MAX_NAMED {
            named += &format!(" and {} more", points.len() - MAX_NAMED);
        }
        let message = match rate {
            DEFAULT => format!("device '{}' has no interval for {named}", name.value),
            rate => format!("device '{}' has no interval for rate '{rate}' of {named}", name.value),
        };
        let help = if rate == DEFAULT {
            "add every: 5s"
        } else {
            "add it, or default, such as every: {fast: 1s, default: 5s}"
        };
        found.error(codes::NO_INTERVAL, span, message).help(help);
    }
    check_names(device, map, found);
    check_refresh(device, map, refresh, found);
    let groups = groups.into_iter().map(|(every, points)| Group { every, points }).collect();
    (found.errors() == before).then_some(groups)
}

/// The site's times.
struct Times<'d> {
    by_rate: HashMap<&'d str, Every>,
    /// For all other rates.
    default: Option<Every>,
}

impl<'d> Times<'d> {
    /// From `every` and `subscribe`; a rate that is in both is reported.
    fn of(device: &'d Device, found: &mut Diagnostics) -> Self {
        let mut times = Self { by_rate: HashMap::new(), default: None };
        times.add(device.every.as_deref(), Every::Interval, found);
        times.add(device.subscribe.as_deref(), Every::Changes, found);
        times
    }

    fn add(
        &mut self,
        written: Option<&'d At<Either<Interval, Names<Interval>>>>,
        every: fn(Duration) -> Every,
        found: &mut Diagnostics,
    ) {
        let Some(at) = written else { return };
        match &at.value {
            Either::Short(interval) => self.set(DEFAULT, every(interval.0), &at.span, found),
            Either::Long(rates) => {
                for (name, interval) in &rates.0 {
                    if let Some(interval) = interval {
                        self.set(&name.value, every(interval.0), &name.span, found);
                    }
                }
            }
        }
    }

    fn set(&mut self, rate: &'d str, every: Every, span: &Span, found: &mut Diagnostics) {
        let earlier = match rate {
            DEFAULT => self.default.replace(every),
            rate => self.by_rate.insert(rate, every),
        };
        if earlier.is_some() {
            let what =
                if rate == DEFAULT { "all other points have".into() } else { format!("rate '{rate}' has") };
            found
                .error(codes::READ_TWICE, span, format!("{what} an interval already, by 'every'"))
                .help("'every' polls, 'subscribe' waits for changes: give each rate to one of them");
        }
    }

    fn get(&self, rate: &str) -> Option<Every> {
        if rate == ONCE {
            return Some(Every::Once);
        }
        self.by_rate.get(rate).copied().or(self.default)
    }
}

/// Intervals that are shorter than the device's own.
fn check_refresh(device: &Device, map: &DeviceMap, refresh: Option<Duration>, found: &mut Diagnostics) {
    let (Some(refresh), Some(at)) = (refresh, &device.every) else { return };
    let mut check = |interval: Duration, span: &Span| {
        if interval < refresh {
            let (often, seldom) = (show_duration(interval), show_duration(refresh));
            let message = format!("read every {often}, and the device renews its values every {seldom}");
            found
                .warning(codes::FASTER_THAN_DEVICE, span, message)
                .help("the profile says so by limits: {refresh: …}; the same values come again, and the bus is busy");
        }
    };
    match &at.value {
        Either::Short(interval) => check(interval.0, &at.span),
        Either::Long(rates) => {
            let used: BTreeSet<&str> =
                map.points.iter().filter(|point| point.published).map(|point| &*point.rate).collect();
            let is_used = |name: &str| name == DEFAULT || used.contains(name);
            for (name, interval) in rates.0.iter().filter(|(name, _)| is_used(&name.value)) {
                if let Some(interval) = interval {
                    check(interval.0, &name.span);
                }
            }
        }
    }
}

/// Rates of the site that no point has are probably misspelt.
fn check_names(device: &Device, map: &DeviceMap, found: &mut Diagnostics) {
    let known: BTreeSet<&str> = map.points.iter().map(|point| &*point.rate).collect();
    let given = [device.every.as_deref(), device.subscribe.as_deref()].into_iter().flatten();
    let rates = given.filter_map(|at| match &at.value {
        Either::Long(rates) => Some(&rates.0),
        Either::Short(_) => None,
    });
    for (name, _) in rates.flatten() {
        if name.value == ONCE {
            found
                .error(codes::BUILT_IN_RATE, &name.span, "'once' is built in: once per connection")
                .help("remove it, or give the points another rate");
        } else if name.value != DEFAULT && !known.contains(name.value.as_str()) {
            let near = did_you_mean(found, &name.value, known.iter().copied());
            found.warning(
                codes::UNUSED_RATE,
                &name.span,
                format!("no point has the rate '{}'{near}", name.value),
            );
        }
    }
}
