//! OPC UA: one session with one server, whose nodes make one or several devices.
//!
//! [`link`] has a session for as long as it lasts, [`services`] the requests, [`nodes`] what the addresses of a site mean to this session,
//! [`subscription`] what is watched, [`drift`] whether the server still is what the map was written for, [`client`] writes and calls, [`driver`] what becomes of all that.

pub mod address;
pub mod browse;
pub mod client;
pub mod config;
mod drift;
mod driver;
mod gather;
mod limited;
mod link;
mod nodes;
mod plan;
pub mod security;
mod services;
mod subscription;
mod types;
mod values;
mod write;

pub use driver::OpcuaDriver;
pub use link::Identity;
pub use plan::OpcuaPlan;
