//! Southbound: the seam between a connection's life and its protocol, and the one list of drivers.

use std::hash::{DefaultHasher, Hasher as _};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use self::bans::Bans;
use self::fit::Fit;
use self::modbus::rehearse::{self, Rehearsed};
use self::modbus::transport::Opener;
use self::modbus::{ModbusDriver, ModbusPlan};
use self::opcua::{Identity, OpcuaDriver, OpcuaPlan};
use self::session::Ended;
use crate::mapping::batch::{Batch, DeviceState, Event};
use crate::mapping::device::{Device, DevicePlan, Read};
use crate::metrics::{ConnectionMetrics, DeviceMetrics};

pub mod backoff;
pub mod bans;
pub mod fit;
pub mod modbus;
pub mod opcua;
pub mod pace;
pub mod pause;
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

    /// The longest wait between two tries to open the link.
    fn longest_wait(&self) -> Duration {
        backoff::LONGEST
    }

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

    /// Goes on with another plan of the same connection, if it can: with the same link, and without a missed poll of devices that have
    /// stayed as they were.
    fn replan(&mut self, _: &Running) -> Replan {
        Replan::Anew
    }
}

/// What became of a plan that a driver was to go on with.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Replan {
    /// It goes on with it.
    Done,
    /// Something is under way. Until the driver is asked again it gives out nothing new.
    Later,
    /// It can't: another driver, with a link of its own, is to run it.
    Anew,
}

/// What a connection runs at present. A reload replaces it.
#[derive(Clone, Debug)]
pub struct Running {
    /// The plan.
    pub plan: Arc<Plan>,
    /// What counts its devices, in the plan's order.
    pub metrics: Vec<Arc<DeviceMetrics>>,
}

/// What one connection runs: the closed set of drivers. Pure data.
#[derive(Clone, Debug, PartialEq)]
pub enum Plan {
    /// Modbus TCP, RTU, RTU over TCP.
    Modbus(ModbusPlan),
    /// OPC UA.
    Opcua(OpcuaPlan),
}

/// What a connection's driver may use that outlives the process.
#[derive(Clone, Debug, Default)]
pub struct Kept {
    /// What was found out about devices earlier.
    pub bans: Bans,
    /// Where certificates are.
    pub state: Option<PathBuf>,
}

impl Plan {
    /// Its devices with their reads, in the order of the site file.
    pub fn devices(&self) -> Vec<(&Device, &[Read])> {
        match self {
            Self::Modbus(plan) => {
                plan.devices.iter().map(|planned| (&planned.device, &*planned.reads)).collect()
            }
            Self::Opcua(plan) => {
                plan.devices.iter().map(|planned| (&planned.device, &*planned.reads)).collect()
            }
        }
    }

    /// What the connection talks through, in words: `tcp 10.0.0.1:502`.
    pub fn link(&self) -> String {
        match self {
            Self::Modbus(plan) => plan.config.link.to_string(),
            Self::Opcua(plan) => plan.config.endpoint.to_string(),
        }
    }

    /// What a read exchanges on the wire, in words: `FC4 unit 1: input 0..9 (10)`.
    pub fn describe(&self, device: usize, read: usize) -> String {
        match self {
            Self::Modbus(plan) => plan.describe(device, read),
            Self::Opcua(plan) => plan.describe(device, read),
        }
    }

    /// Will it fit on the bus?
    pub fn fit(&self) -> Fit {
        match self {
            Self::Modbus(plan) => plan.fit(),
            Self::Opcua(plan) => plan.fit(),
        }
    }

    /// Does every read until nothing is left to find out about it, or until `deadline`; see [`rehearse::rehearse`]. `None`: an OPC UA
    /// server has nothing to find out, each node is read by itself.
    pub async fn rehearse(&self, deadline: Instant) -> Option<(Vec<Vec<Rehearsed>>, Option<LinkLost>)> {
        let Self::Modbus(plan) = self else { return None };
        let opener = Opener::with_rs485(plan.config.rs485);
        Some(rehearse::rehearse(plan.clone(), opener, deadline).await)
    }
}

/// The connection's life; see [`session::run`]. A plan that a driver can't go on with gets another driver.
pub async fn run(
    mut running: watch::Receiver<Running>,
    connection: Arc<ConnectionMetrics>,
    events: mpsc::Sender<Event>,
    stop: CancellationToken,
    kept: Kept,
) {
    loop {
        let Running { plan, metrics } = running.borrow_and_update().clone();
        let (events, stop, connection) = (events.clone(), stop.clone(), connection.clone());
        // Boxed: each takes what it needs, not what the largest one does.
        let ended = match (*plan).clone() {
            Plan::Modbus(plan) => {
                let driver = ModbusDriver::new(&connection.name, plan, metrics, connection.clone())
                    .with_bans(kept.bans.clone());
                Box::pin(session::follow(driver, events, stop, connection, Some(&mut running))).await
            }
            Plan::Opcua(plan) => {
                let identity = Identity::of_this_machine(kept.state.as_deref());
                let driver = OpcuaDriver::new(&connection.name, plan, metrics, identity);
                Box::pin(session::follow(driver, events, stop, connection, Some(&mut running))).await
            }
        };
        match ended {
            Ended::Over => return,
            Ended::Replaced => {}
        }
    }
}

/// The connection's phase: the same at every start, different for each name.
fn seed_of(name: &str) -> u64 {
    let mut hasher = DefaultHasher::new();
    hasher.write(name.as_bytes());
    hasher.finish()
}
