//! What a driver sends north: batches of raw readings, and changes of a device's state.

use std::sync::Arc;

use tokio::time::Instant;

use super::device::DevicePlan;
use crate::model::time::Stamp;
use crate::model::value::{Cause, Raw};

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
}

/// What is known of a device.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum DeviceState {
    /// It answers.
    Online,
    /// It doesn't; and why.
    Offline(Cause),
}
