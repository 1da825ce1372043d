//! Starts, watches and stops tasks: the only module that spawns long-lived ones.

mod clock;
pub mod control;
pub mod explain;
pub mod forecast;
pub mod gateway;
pub mod limits;
pub mod state;
pub mod stores;
pub mod supervisor;
