//! Starts, watches and stops tasks: the only module that spawns long-lived ones.

mod clock;
pub mod control;
pub mod explain;
pub mod exposition;
pub mod forecast;
pub mod gateway;
pub mod health;
mod http;
pub mod limits;
mod process;
pub mod state;
mod steps;
pub mod stores;
pub mod supervisor;
