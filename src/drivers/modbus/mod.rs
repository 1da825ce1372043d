//! Modbus TCP, RTU on a serial line, and RTU over TCP.

pub mod client;
pub mod compile;
pub mod config;
mod datetime;
pub mod decode;
pub mod driver;
pub mod encode;
pub mod exchange;
mod fetch;
pub mod framing;
pub mod identify;
pub mod inbox;
pub mod line;
pub mod plan;
pub mod port;
pub mod probing;
pub mod proof;
pub mod quarantine;
pub mod rehearse;
pub mod timing;
pub mod transport;
pub mod window;
pub mod write;

pub use compile::{CompileError, DeviceError, ModbusPlan};
pub use driver::ModbusDriver;
