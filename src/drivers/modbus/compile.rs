//! From a connection's devices to all that is exchanged with them, and whether it fits. Pure.

use std::sync::Arc;

use super::config::{Link, ModbusConfig};
use super::plan::{Block, Exchange, PlanError, plan};
use super::timing;
use crate::drivers::fit::{Demand, Fit, fit};
use crate::mapping::device::{Device, Read};

/// All exchanges of one connection, planned. Pure data: two equal plans run alike.
#[derive(Clone, Debug, PartialEq)]
pub struct ModbusPlan {
    /// The connection.
    pub config: ModbusConfig,
    /// In the order that they were given.
    pub devices: Vec<PlannedDevice>,
}

/// One device of a [`ModbusPlan`].
#[derive(Clone, Debug, PartialEq)]
pub struct PlannedDevice {
    /// The device.
    pub device: Device,
    /// Its reads.
    pub reads: Vec<Read>,
    /// What is exchanged for each read, in the order of `reads`.
    pub exchanges: Vec<Exchange>,
}

/// A device that can't be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("device '{device}': {error}")]
pub struct CompileError {
    /// The device.
    pub device: Arc<str>,
    /// What is wrong.
    pub error: DeviceError,
}

/// Why a device can't be planned.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DeviceError {
    /// One of its points can't be read.
    #[error(transparent)]
    Point(#[from] PlanError),
    /// On a serial line, 0 is the broadcast that nobody answers, and 248 to 255 are reserved (MODBUS over serial line
    /// V1.02, 2.2).
    #[error("unit id {0} is not one of 1 to 247, which a serial line has")]
    Unit(u8),
}

impl ModbusPlan {
    /// Plans the reads of all devices; every device that can't be planned is reported.
    pub fn compile(config: ModbusConfig, devices: Vec<Device>) -> Result<Self, Vec<CompileError>> {
        let mut errors = Vec::new();
        let mut planned = Vec::with_capacity(devices.len());
        for device in devices {
            let name = device.name.clone();
            match plan_device(&config, device) {
                Ok(device) => planned.push(device),
                Err(error) => errors.push(CompileError { device: name, error }),
            }
        }
        if errors.is_empty() { Ok(Self { config, devices: planned }) } else { Err(errors) }
    }

    /// What a read asks for: `unit 1 FC4 input 0–9 (10)`, one part per request.
    pub fn describe(&self, device: usize, read: usize) -> String {
        let planned = &self.devices[device];
        let exchange = &planned.exchanges[read];
        let request = |block: &Block| {
            let Block { table, address, count } = *block;
            let last = u32::from(address) + u32::from(count) - 1;
            format!("FC{} {} {address}–{last} ({count})", table.read_function(), table.key())
        };
        let requests: Vec<_> = exchange.blocks.iter().map(request).collect();
        let again = if exchange.repeat_first { ", first again" } else { "" };
        format!("unit {} {}{again}", planned.device.unit, requests.join(", "))
    }

    /// Will it fit on the bus? See [`timing::exchange_time`] for what each exchange is taken to cost.
    pub fn fit(&self) -> Fit {
        let config = &self.config;
        let mut demands = Vec::new();
        for (device, planned) in self.devices.iter().enumerate() {
            let limits = &planned.device.limits;
            for (read, exchange) in planned.exchanges.iter().enumerate() {
                demands.push(Demand {
                    device,
                    read,
                    unit: planned.device.unit,
                    every: planned.reads[read].every,
                    takes: timing::exchange_time(config, limits, exchange),
                    fails: timing::failure_time(config, limits, exchange, planned.device.budget.within),
                    budget: planned.device.budget.within,
                });
            }
        }
        fit(&demands)
    }
}

fn plan_device(config: &ModbusConfig, device: Device) -> Result<PlannedDevice, DeviceError> {
    let is_network = matches!(config.link, Link::Tcp { .. });
    if !is_network && !(1..=247).contains(&device.unit) {
        return Err(DeviceError::Unit(device.unit));
    }
    let (reads, exchanges) = plan(&device)?.into_iter().unzip();
    Ok(PlannedDevice { device, reads, exchanges })
}
