//! Southbound: the seam between a connection's life and its protocol, and the one list of drivers.

use std::sync::Arc;

use crate::mapping::batch::{Batch, DeviceState};
use crate::mapping::device::DevicePlan;

pub mod backoff;
pub mod fit;
pub mod modbus;
pub mod schedule;
pub mod session;

/// The link is gone: everything about it starts anew. "The device refused" is not this.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct LinkLost(pub String);

/// One connection as its session sees it. One task owns it.
pub trait Driver {
    /// Which device's read is due, as [`Driver::due`] tells and [`Driver::read`] takes.
    type Due;

    /// The devices behind this connection.
    fn devices(&self) -> &[Arc<DevicePlan>];

    /// Opens the link. May take long; may be dropped at any moment.
    fn connect(&mut self) -> impl Future<Output = Result<(), LinkLost>>;

    /// Waits until something is due. Touches no wire; may be dropped at any moment.
    fn due(&mut self) -> impl Future<Output = Self::Due>;

    /// One read: never dropped half way. A device that fails yields a bad batch; `None` when there is nothing to tell.
    fn read(&mut self, due: Self::Due) -> impl Future<Output = Result<Option<Batch>, LinkLost>>;

    /// Takes the next change of a device's state (by its index) that [`Driver::read`] has found; `None` when there is none.
    fn state_change(&mut self) -> Option<(usize, DeviceState)>;

    /// Closes the link.
    fn disconnect(&mut self);
}
