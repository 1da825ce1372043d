//! What travels north: one message per batch, with the deadline that it was given when its request left.

use std::sync::Arc;

use bytes::Bytes;
use tokio::time::Instant;

use crate::budget::OnLate;
use crate::metrics::DeviceMetrics;
use crate::model::clock::Standing;
use crate::model::gaps::GapId;

/// A message for one route, ready to be published.
#[derive(Clone, Debug)]
pub struct Message {
    /// Where it goes.
    pub topic: Arc<str>,
    /// JSON. For `Kind::Data` it ends in `}`, so that marks can be added when it leaves.
    pub payload: Bytes,
    /// Should the broker keep it for later subscribers?
    pub retain: bool,
    /// What it is, and how it's accounted for.
    pub kind: Kind,
}

/// What a message is.
#[derive(Clone, Debug)]
pub enum Kind {
    /// The values of one batch.
    Data(Sampled),
    /// A retained status; only the newest one of a topic matters.
    Status,
    /// A gap record: accounts for messages that will never come. Must arrive.
    Gap(GapId),
}

/// The account of one data message.
#[derive(Clone, Debug)]
pub struct Sampled {
    /// The device it's from: its name, metrics and gap account.
    pub device: Arc<DeviceMetrics>,
    /// The run that it was sampled in.
    pub epoch: u64,
    /// Sequence number within (device, epoch), without holes.
    pub seq: u64,
    /// When the request left.
    pub started: Instant,
    /// When the answer was complete.
    pub received: Instant,
    /// When it was mapped and encoded.
    pub encoded: Instant,
    /// `started` plus the budget.
    pub deadline: Instant,
    /// Where the wall clock stood when its time stamp was made, if that may be wrong.
    pub doubted: Option<Standing>,
    /// What to do when the deadline passes before the PUBACK.
    pub late: OnLate,
}
