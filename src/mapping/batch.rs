//! What a driver sends north: batches of raw readings, and changes of a device's state.

use std::collections::HashMap;
use std::sync::Arc;

use tokio::time::Instant;

use super::compiled::{PointIx, ReadingIx, Source};
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
    /// What the device says of single readings beside their values, by their index in `readings`.
    pub notes: Vec<(usize, Note)>,
}

impl Batch {
    /// What was read.
    pub fn read(&self) -> &Read {
        self.part.as_deref().unwrap_or(&self.plan.reads[self.read])
    }

    /// The notes of published points: of those that are nothing but a reading that has one.
    pub fn point_notes(&self) -> Vec<(PointIx, Note)> {
        if self.notes.is_empty() {
            return Vec::new();
        }
        let read = self.read();
        let by_reading: HashMap<ReadingIx, Note> =
            self.notes.iter().filter_map(|(at, note)| Some((*read.readings.get(*at)?, *note))).collect();
        let note = |ix: &PointIx| match self.plan.device.map.points.get(ix.0 as usize)?.source {
            Source::Reading(reading) => by_reading.get(&reading).copied(),
            Source::Sum(_) => None,
        };
        read.publishes.iter().filter_map(|ix| Some((*ix, note(ix)?))).collect()
    }
}

/// What a device says of a value beside the value itself.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Note {
    /// It is not sure of the value.
    pub uncertain: Option<Status>,
    /// When the value was, by the device's clock.
    pub time: Option<Stamp>,
}

impl Note {
    /// Itself, if it says anything.
    pub fn some(self) -> Option<Self> {
        (self != Self::default()).then_some(self)
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
