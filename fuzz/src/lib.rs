//! What the fuzz targets share: reading an input as a script, and what Modbus says, written down a second time.

pub mod far;
pub mod site;
pub mod spec;

use taktbus::drivers::modbus::framing::Request;
use taktbus::drivers::modbus::plan::Block;
use taktbus::model::place::Table;

/// An input, read from its front; behind its end there are zeros.
pub struct Input<'i>(&'i [u8]);

impl<'i> Input<'i> {
    /// The whole input.
    pub fn new(bytes: &'i [u8]) -> Self {
        Self(bytes)
    }

    /// Has it ended?
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The next byte.
    pub fn byte(&mut self) -> u8 {
        self.take(1).first().copied().unwrap_or(0)
    }

    /// The next two bytes.
    pub fn word(&mut self) -> u16 {
        u16::from_be_bytes([self.byte(), self.byte()])
    }

    /// The next bytes, as many as there are.
    pub fn take(&mut self, count: usize) -> &'i [u8] {
        let (front, rest) = self.0.split_at(count.min(self.0.len()));
        self.0 = rest;
        front
    }

    /// All bytes that are left.
    pub fn rest(&mut self) -> &'i [u8] {
        self.take(usize::MAX)
    }

    /// A read as the planner may ask for it: 1 to 125 registers, 1 to 2000 bits.
    pub fn request(&mut self) -> Request {
        let table =
            [Table::Coil, Table::Discrete, Table::Input, Table::Holding][usize::from(self.byte() % 4)];
        let (unit, address, count) = (self.byte(), self.word(), self.word());
        let most = if table.is_bits() { 2000 } else { 125 };
        Request { unit, block: Block { table, address, count: 1 + count % most } }
    }
}
