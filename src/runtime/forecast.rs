//! What a site will store: how long an outage fits, and what the disk has to bear. Pure.

use std::time::Duration;

use crate::config::plan::{Route, SinkConfig};
use crate::mapping::compiled::PointIx;
use crate::mapping::device::{Device, Every, Read};
use crate::mapping::transform::Sample;
use crate::model::clock;
use crate::model::time::Stamp;
use crate::model::value::Value;
use crate::northbound::forwarder::Durability;
use crate::pipeline::{encode, topic};
use crate::store::Settings;
use crate::store::format::message_bytes;

/// What is expected of a route's store.
#[derive(Clone, Debug, PartialEq)]
pub struct Forecast {
    /// The route.
    pub route: String,
    /// Which messages are stored.
    pub durability: Durability,
    /// Messages per second, at most: deadbands and values that don't change make it fewer.
    pub messages_per_second: f64,
    /// Bytes of their records per second.
    pub bytes_per_second: f64,
    /// The outage that fits into the store; `None`: any, since nothing is sampled again and again.
    pub fits: Option<Duration>,
}

impl Forecast {
    /// What a day of a route writes to the disk while its broker is there.
    pub fn bytes_per_day(&self) -> f64 {
        match self.durability {
            Durability::Always => self.bytes_per_second * 86_400.0,
            Durability::OnOutage | Durability::Off => 0.0,
        }
    }
}

/// What a route's store has to take, when these devices are read as planned.
pub fn forecast<'d>(
    site: &str,
    devices: impl Iterator<Item = (&'d Device, &'d [Read])>,
    route: &Route,
    store: &Settings,
) -> Forecast {
    let (mut messages, mut bytes) = (0.0, 0.0);
    for (device, reads) in devices {
        for read in reads {
            let (Every::Interval(every) | Every::Changes(every)) = read.every else { continue };
            if let Some(size) = size(site, device, read, route) {
                messages += 1.0 / every.as_secs_f64();
                bytes += size as f64 / every.as_secs_f64();
            }
        }
    }
    let longest = Duration::from_secs(100 * 365 * 86_400);
    let fits = (bytes > 0.0).then(|| {
        let fits = Duration::from_secs_f64((store.size as f64 / bytes).min(longest.as_secs_f64()));
        fits.min(store.age.unwrap_or(longest))
    });
    Forecast {
        route: route.name.clone(),
        durability: route.durability,
        messages_per_second: messages,
        bytes_per_second: bytes,
        fits,
    }
}

/// Bytes of the record of a message with this read's points, if the route carries any: with values of usual length.
fn size(site: &str, device: &Device, read: &Read, route: &Route) -> Option<u64> {
    let pass = route.passes.of(&device.name);
    let points = &device.map.points;
    let name = |ix: &PointIx| &*points[ix.0 as usize].name;
    let passing = read.publishes.iter().filter(|ix| pass.lets(name(ix)));
    let samples: Vec<Sample> = passing.map(|ix| (*ix, Ok(Value::Float64(12_345.67)))).collect();
    if samples.is_empty() {
        return None;
    }
    let prefix = encode::prefix(site, &device.name);
    let stamp = Stamp::from_unix_millis(clock::steady_millis());
    let heading = encode::Heading { prefix: &prefix, stamp, epoch: 1_763_812_800_000, seq: 100_000 };
    let mut payload = Vec::new();
    encode::data(&heading, points, samples.iter(), &[], &mut payload);
    let template = match &route.sink {
        SinkConfig::Mqtt(config) => &*config.topic,
        SinkConfig::Http(_) => "{device}",
    };
    Some(message_bytes(&device.name, &topic(template, site, &device.name), payload.len()))
}
