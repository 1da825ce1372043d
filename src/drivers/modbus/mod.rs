//! Modbus TCP, RTU on a serial line, and RTU over TCP.

pub mod config;
