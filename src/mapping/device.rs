//! A device as it runs: its map, its budget, and what is read when.

use std::sync::Arc;
use std::time::Duration;

use super::compiled::{DeviceMap, PointIx, ReadingIx};
use crate::budget::Budget;
use crate::metrics::DeviceMetrics;
use crate::model::place::Table;

/// A device of the site, before a driver has planned its reads.
#[derive(Clone, Debug, PartialEq)]
pub struct Device {
    /// Its name in topics, messages and logs.
    pub name: Arc<str>,
    /// The profile that its map comes from; `None`: its points are in the site file.
    pub profile: Option<Arc<str>>,
    /// Modbus unit id (0 … 255 on TCP, 1 … 247 on a serial line).
    pub unit: u8,
    /// How late its values may be.
    pub budget: Budget,
    /// What it offers.
    pub map: Arc<DeviceMap>,
    /// Which points are read how often; every point that must be read is in exactly one group.
    pub groups: Vec<Group>,
    /// What its requests must respect.
    pub limits: Limits,
    /// How its OPC UA nodes are meant.
    pub nodes: Nodes,
}

/// How the OPC UA nodes of a device are meant, and watched.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Nodes {
    /// URI of the namespace of ids and paths that name none; `None`: the namespace of OPC UA itself.
    pub namespace: Option<Arc<str>>,
    /// Values of a node that the server keeps between two notifications; 0 and 1: the newest.
    pub queue: u32,
    /// What of a node makes a notification.
    pub trigger: Trigger,
    /// Whose time stamps are published beside the values.
    pub times: Option<Times>,
}

/// Whose time stamps (OPC UA Part 4, 7.11).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Times {
    /// Of what the value comes from.
    Source,
    /// Of the server.
    Server,
}

/// What of a node makes a notification (OPC UA Part 4, 7.10, DataChangeTrigger).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Trigger {
    /// Its status.
    Status,
    /// Its status or its value.
    #[default]
    Value,
    /// Its status, its value or its source time stamp.
    Timestamp,
}

/// Points that are read together.
#[derive(Clone, Debug, PartialEq)]
pub struct Group {
    /// When.
    pub every: Every,
    /// The published (or depended-on) points; what they are computed from is read along.
    pub points: Vec<PointIx>,
}

/// How often something is read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Every {
    /// At a fixed phase.
    Interval(Duration),
    /// Once per connection, repeated until it succeeds.
    Once,
    /// When it changes; the server looks at it this often (OPC UA's sampling interval).
    Changes(Duration),
}

/// What a device's requests must respect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Limits {
    /// Largest number of registers of one request (1 … 125).
    pub max_registers: u16,
    /// Largest number of coils or discrete inputs of one request (1 … 2000).
    pub max_bits: u16,
    /// Largest number of unneeded addresses that a request may read over to merge two values.
    pub max_gap: u16,
    /// Rest after the connection came up.
    pub delay_after_connect: Duration,
    /// Rest between an answer and the next request to this device.
    pub delay_between_requests: Duration,
    /// How long to wait for an answer; `None`: the driver's default.
    pub response_timeout: Option<Duration>,
    /// Function codes that the device understands; `None`: all.
    pub functions: Option<Vec<u8>>,
    /// Addresses that are read as a whole only: sorted by table and address, none overlaps another.
    pub blocks: Vec<FixedBlock>,
    /// How often the device renews its values; `None`: not known.
    pub refresh: Option<Duration>,
    /// Addresses that the device answers with exception 2: no request may contain one.
    pub refused: Arc<[Stretch]>,
    /// OPC UA: the largest number of nodes or monitored items of one request; `None`: as the server says.
    pub max_nodes: Option<u32>,
}

/// Consecutive addresses that the device gives as a whole only.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct FixedBlock {
    /// The table.
    pub table: Table,
    /// First address, zero-based, as on the wire.
    pub address: u16,
    /// How many registers or bits.
    pub count: u16,
}

impl FixedBlock {
    /// Is any of these addresses in it?
    pub fn overlaps(self, table: Table, address: u16, count: u16) -> bool {
        let end = |address: u16, count: u16| u32::from(address) + u32::from(count);
        self.table == table
            && u32::from(address) < end(self.address, self.count)
            && u32::from(self.address) < end(address, count)
    }

    /// Are all of these addresses in it?
    pub fn holds(self, table: Table, address: u16, count: u16) -> bool {
        let end = |address: u16, count: u16| u32::from(address) + u32::from(count);
        self.table == table && self.address <= address && end(address, count) <= end(self.address, self.count)
    }
}

/// Consecutive addresses of one table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stretch {
    /// The table.
    pub table: Table,
    /// The first address, zero-based, as on the wire.
    pub first: u16,
    /// The last address.
    pub last: u16,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            max_registers: 125,
            max_bits: 2000,
            max_gap: 0,
            delay_after_connect: Duration::ZERO,
            delay_between_requests: Duration::ZERO,
            response_timeout: None,
            functions: None,
            blocks: Vec::new(),
            refresh: None,
            refused: Arc::new([]),
            max_nodes: None,
        }
    }
}

impl Limits {
    /// The largest count of one request to this table.
    pub fn max_count(&self, table: Table) -> u16 {
        if table.is_bits() { self.max_bits } else { self.max_registers }
    }

    /// A fixed block that has any of these addresses; if several have, the last one.
    pub fn block_at(&self, table: Table, address: u16, count: u16) -> Option<FixedBlock> {
        let end = u32::from(address) + u32::from(count);
        let before =
            self.blocks.partition_point(|block| (block.table, u32::from(block.address)) < (table, end));
        let last = before.checked_sub(1).and_then(|at| self.blocks.get(at).copied());
        last.filter(|block| block.overlaps(table, address, count))
    }

    /// The first of the refused stretches that has an address from `from` up to, not including, `end`.
    pub fn refused_in(&self, table: Table, from: u32, end: u32) -> Option<&Stretch> {
        let meets =
            |of: &&Stretch| of.table == table && u32::from(of.first) < end && from <= u32::from(of.last);
        self.refused.iter().filter(|_| from < end).find(meets)
    }
}

/// A device with its planned reads: what travels with each batch.
#[derive(Debug)]
pub struct DevicePlan {
    /// The device.
    pub device: Device,
    /// The reads, in the driver's order.
    pub reads: Vec<Read>,
    /// Where its numbers are counted.
    pub metrics: Arc<DeviceMetrics>,
}

/// One read as the layers above the driver see it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Read {
    /// When it is due.
    pub every: Every,
    /// The readings that it yields, in the order of [`super::batch::Batch::readings`].
    pub readings: Vec<ReadingIx>,
    /// The points to compute from them, internal ones included, dependencies first.
    pub points: Vec<PointIx>,
    /// Those of them that this read publishes, in the same order. A point that others of several reads are computed
    /// from is computed in each of them and published by one.
    pub publishes: Vec<PointIx>,
}
