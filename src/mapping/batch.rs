//! What a driver sends north: batches of raw readings, and changes of a device's state.

use std::sync::Arc;

use tokio::time::Instant;

use super::compiled::{Point, PointIx, Source};
use super::device::{DevicePlan, Read};
use crate::model::time::Stamp;
use crate::model::value::{Cause, Raw, Status};

/// What a connection's task tells the pipeline.
#[derive(Debug)]
pub enum Event {
    /// A read was answered, refused, or given up.
    Batch(Batch),
    /// A device came or went.
    State {
        /// The device.
        plan: Arc<DevicePlan>,
        /// What it is now.
        state: DeviceState,
    },
}

/// The answers to one read: one time stamp, one later message.
#[derive(Debug)]
pub struct Batch {
    /// The plan that it was read by, so that a reload can't pair new names with old indices.
    pub plan: Arc<DevicePlan>,
    /// Index into the plan's reads.
    pub read: usize,
    /// When the request left: the budget's clock starts here.
    pub started: Instant,
    /// When the last byte of the answer arrived, or the read was given up.
    pub received: Instant,
    /// Wall-clock time of `received`.
    pub stamp: Stamp,
    /// One entry per reading of the read, in its order; or the one cause that all of them share.
    pub readings: Result<Vec<Result<Raw, Cause>>, Cause>,
    /// What of the read this batch has, where it's not all of it: a notification has what changed.
    pub part: Option<Box<Read>>,
    /// Readings, by their index in `readings`, whose value the device gives and is not sure of.
    pub uncertain: Vec<(usize, Status)>,
}

impl Batch {
    /// What was read.
    pub fn read(&self) -> &Read {
        self.part.as_deref().unwrap_or(&self.plan.reads[self.read])
    }

    /// The points whose values are uncertain: those that are nothing but such a reading.
    pub fn uncertain_points(&self) -> Vec<(PointIx, Status)> {
        let read = self.read();
        let status = |point: &Point| {
            let Source::Reading(ix) = point.source else { return None };
            let of = |(at, _): &&(usize, Status)| read.readings.get(*at) == Some(&ix);
            self.uncertain.iter().find(of).map(|(_, status)| *status)
        };
        let points = &self.plan.device.map.points;
        let found = read.publishes.iter().filter_map(|ix| Some((*ix, status(points.get(ix.0 as usize)?)?)));
        if self.uncertain.is_empty() { Vec::new() } else { found.collect() }
    }
}

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It answers.
    Online,
    /// It doesn't; and why.
    Offline(Cause),
}
