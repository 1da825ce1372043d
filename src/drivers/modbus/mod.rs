//! Modbus TCP, RTU on a serial line, and RTU over TCP.

pub mod config;
pub mod decode;
pub mod driver;
pub mod exchange;
pub mod framing;
pub mod plan;
pub mod timing;
pub mod transport;

pub use driver::{CompileError, DeviceError, ModbusDriver, ModbusPlan};
