//! From a connection's devices to what is read of them together. Pure.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use super::config::OpcuaConfig;
use crate::drivers::fit::{Demand, Fit, FitRead};
use crate::mapping::compiled::{DeviceMap, PointIx, ReadingIx, Source};
use crate::mapping::device::{Device, Every, Group, Read};

/// Points of one read, and so of one message: about 20 KiB of JSON.
const MOST_POINTS: usize = 500;

/// All reads of one connection. Pure data: two equal plans run alike.
#[derive(Clone, Debug, PartialEq)]
pub struct OpcuaPlan {
    /// The connection.
    pub config: OpcuaConfig,
    /// In the order that they were given.
    pub devices: Vec<PlannedDevice>,
}

/// One device of an [`OpcuaPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDevice {
    /// The device.
    pub device: Device,
    /// Its reads.
    pub reads: Vec<Read>,
}

impl OpcuaPlan {
    /// Plans the reads of all devices: what is due at the same times is read together.
    pub fn compile(config: OpcuaConfig, devices: Vec<Device>) -> Self {
        let reads = |device: &Device| {
            let of_group = |group: &Group| {
                let parts: Vec<_> = group.points.chunks(MOST_POINTS).collect();
                let every = group.every;
                parts.into_iter().map(move |points| read(&device.map, every, points)).collect::<Vec<_>>()
            };
            device.groups.iter().flat_map(of_group).chain(heartbeats(device)).collect()
        };
        let planned = |device: Device| PlannedDevice { reads: reads(&device), device };
        Self { config, devices: devices.into_iter().map(planned).collect() }
    }

    /// What a read asks for: `Read of 12 nodes`, `subscription of 12 nodes`.
    pub fn describe(&self, device: usize, read: usize) -> String {
        let read = &self.devices[device].reads[read];
        let service = if matches!(read.every, Every::Changes(_)) { "subscription of" } else { "Read of" };
        let nodes = read.readings.len();
        format!("{service} {nodes} node{}", if nodes == 1 { "" } else { "s" })
    }

    /// A network's load is the server's business; what is read is there within the response timeout, or late. What is watched is
    /// looked at by the server once in a sampling interval and sent once in a publishing interval, which are the same.
    pub fn fit(&self) -> Fit {
        let mut reads = Vec::new();
        for (device, planned) in self.devices.iter().enumerate() {
            for (read, Read { every, .. }) in planned.reads.iter().enumerate() {
                let budget = planned.device.budget.within;
                let (takes, fails) = (Duration::ZERO, self.config.timeout);
                let demand =
                    Demand { device, read, unit: planned.device.unit, every: *every, takes, fails, budget };
                let worst_age = Some(match every {
                    Every::Changes(sampling) => 2 * *sampling,
                    Every::Interval(_) | Every::Once => self.config.timeout.min(budget),
                });
                reads.push(FitRead { demand, worst_age, worst_age_with_a_dead_unit: worst_age });
            }
        }
        Fit { load: 0.0, load_with_a_dead_unit: 0.0, fits: true, reads }
    }
}

/// What is watched comes when it changes; what has a heartbeat is read besides, as often as that: a value that stands still is then known to
/// stand still, and is published.
fn heartbeats(device: &Device) -> Vec<Read> {
    let mut beating: BTreeMap<Duration, Vec<PointIx>> = BTreeMap::new();
    let watched = device.groups.iter().filter(|group| matches!(group.every, Every::Changes(_)));
    for ix in watched.flat_map(|group| &group.points) {
        let heartbeat = device.map.points[ix.0 as usize].heartbeat;
        heartbeat.into_iter().for_each(|every| beating.entry(every).or_default().push(*ix));
    }
    let mut reads = Vec::new();
    for (every, points) in beating {
        let parts = points.chunks(MOST_POINTS);
        reads.extend(parts.map(|points| read(&device.map, Every::Interval(every), points)));
    }
    reads
}

/// One read of these points: with all that they are computed from.
fn read(map: &DeviceMap, every: Every, publishes: &[PointIx]) -> Read {
    let points: BTreeSet<PointIx> = publishes.iter().flat_map(|ix| map.needs(*ix)).collect();
    let mut readings: Vec<ReadingIx> = Vec::new();
    let mut known = BTreeSet::new();
    for ix in &points {
        if let Source::Reading(reading) = map.points[ix.0 as usize].source
            && known.insert(reading)
        {
            readings.push(reading);
        }
    }
    let mut publishes = publishes.to_vec();
    publishes.sort_unstable();
    Read { every, readings, points: points.into_iter().collect(), publishes }
}
