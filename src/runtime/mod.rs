//! Starts, watches and stops tasks: the only module that spawns long-lived ones.

mod apart;
mod clock;
pub mod control;
mod counting;
pub mod events;
pub mod explain;
pub mod exposition;
pub mod forecast;
pub mod gateway;
pub mod health;
mod http;
pub mod last_good;
pub mod limits;
pub mod notify;
pub mod otlp;
mod process;
pub mod reload;
mod sessions;
pub mod state;
mod steps;
pub mod stores;
pub mod supervisor;
pub mod telemetry;
#[cfg(test)]
mod whole_path_tests;
